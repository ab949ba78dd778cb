//! Pins: kept by name, made and ended at once or not at all, and durable when the call returns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::fixture;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::{Digest, ImageId, Owner};
use cstor_rs::lock::{StoreLocks, Wait};
use cstor_rs::pins::PinError;
use cstor_rs::store::{Store, StoreError, StoreOptions};
use rustix::fs::{CWD, FileType, mknodat};

/// A store with one image.
struct Place {
    temp: tempfile::TempDir,
    image: ImageId,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let image = fixture::image("localhost/one:1", vec![fixture::app("one")]);
        let place = Self { temp, image: ImageId::of_config(&Digest::of(&image.config)) };
        fixture::pull(&place.open(), &[image]).unwrap().unwrap();
        place
    }

    fn options(&self) -> StoreOptions {
        StoreOptions::new(self.root(), self.temp.path().join("run")).wait(Duration::ZERO)
    }

    fn open(&self) -> Store {
        Store::open(self.options()).unwrap()
    }

    fn hooked(&self, hook: &Arc<Changes>) -> Store {
        Store::open(self.options().hook(hook.clone())).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn dir(&self) -> PathBuf {
        self.root().join("cstor-rs/pins")
    }

    fn put(&self, name: impl AsRef<OsStr>) {
        fs::create_dir_all(self.dir()).unwrap();
        fs::write(self.dir().join(name.as_ref()), "").unwrap();
    }

    fn in_dir(&self) -> Vec<OsString> {
        let mut names: Vec<OsString> = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    /// Who pins the image, after the store was opened again.
    fn owners(&self) -> Vec<String> {
        let pins = self.open().pins().unwrap();
        assert!(pins.keys().all(|image| *image == self.image), "{pins:?}");
        pins.into_values().flatten().map(|owner| owner.to_string()).collect()
    }
}

/// Notes the changes, and fails them all from one on.
#[derive(Default)]
struct Changes {
    left: Option<usize>,
    log: Mutex<Vec<(&'static str, PathBuf)>>,
}

impl Changes {
    fn stop(at: usize) -> Arc<Self> {
        Arc::new(Self { left: Some(at), ..Self::default() })
    }

    fn log(&self) -> Vec<(&'static str, PathBuf)> {
        self.log.lock().unwrap().clone()
    }

    fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.log().into_iter().for_each(|(verb, _)| *counts.entry(verb).or_default() += 1);
        counts
    }
}

impl Hook for Changes {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let mut log = self.log.lock().unwrap();
        if self.left == Some(log.len()) {
            return Err(io::Error::other("stopped"));
        }
        log.push(match op {
            Op::Mkdir(at, _) => ("mkdir", at.path()),
            Op::Create(at, _) => ("create", at.path()),
            Op::Unlink(at) => ("unlink", at.path()),
            Op::SyncDir(at) => ("fsync", at.path()),
            other => panic!("a pin needs no {other:?}"),
        });
        Ok(())
    }
}

fn owner(name: &str) -> Owner {
    name.parse().unwrap()
}

/// An image that no store has.
fn nobody(number: usize) -> ImageId {
    format!("{number:064x}").parse().unwrap()
}

/// Everything under a directory, with what the files hold.
fn whole(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(whole(&path));
        }
        found.insert(path.clone(), fs::symlink_metadata(&path).unwrap().is_file().then(|| fs::read(&path).unwrap()));
    }
    found
}

/// N1: each name that came or went was followed by a sync of its directory.
fn assert_durable(log: &[(&'static str, PathBuf)], what: &str) {
    for (at, (verb, path)) in log.iter().enumerate().filter(|(_, (verb, _))| *verb != "fsync") {
        let synced = log[at..].iter().any(|(later, dir)| *later == "fsync" && Some(dir.as_path()) == path.parent());
        assert!(synced, "{what}: {verb} {} is not synced in {log:?}", path.display());
    }
}

#[test]
fn pins_survive_until_their_owner_ends_them() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(place.owners(), Vec::<String>::new());
    for name in ["bootc", "a.b", "bootc"] {
        store.pin(&place.image, &owner(name)).unwrap();
    }
    assert_eq!(place.owners(), ["a.b", "bootc"]);
    assert_eq!(place.in_dir(), [OsString::from(format!("{}.a.b", place.image)), OsString::from(format!("{}.bootc", place.image))]);
    assert!(store.unpin(&place.image, &owner("bootc")).unwrap());
    assert!(!store.unpin(&place.image, &owner("bootc")).unwrap());
    assert_eq!(place.owners(), ["a.b"]);
}

#[test]
fn n1_n2_a_pin_is_there_or_not_wherever_it_is_stopped_and_durable_when_it_is_done() {
    let mut stops = 0;
    // With and without the directories, and with pins to be cleaned up.
    for case in ["first", "no directory at all", "second", "stale"] {
        for at in 0.. {
            let place = Place::new();
            match case {
                "no directory at all" => fs::remove_dir_all(place.root().join("cstor-rs")).unwrap(),
                "second" => place.open().pin(&place.image, &owner("other")).unwrap(),
                "stale" => (0..3).for_each(|n| place.put(format!("{}.x", nobody(n)))),
                _ => {}
            }
            let others: Vec<String> = if case == "second" { vec!["other".into()] } else { vec![] };
            let with: Vec<String> = ["me".into()].into_iter().chain(others.clone()).collect();
            let seen = || place.open().pins().unwrap().remove(&place.image).unwrap_or_default().iter().map(Owner::to_string).collect();

            let stopping = Changes::stop(at);
            let store = place.hooked(&stopping);
            let result = store.pin(&place.image, &owner("me"));
            let now: Vec<String> = seen();
            if result.is_ok() {
                assert_eq!(now, with, "{case} {at}");
                assert_durable(&stopping.log(), &format!("{case} {at}"));
                break;
            }
            stops += 1;
            assert!(now == with || now == others, "{case} {at}: {now:?}");
            drop(store);

            let again = Arc::new(Changes::default());
            place.hooked(&again).pin(&place.image, &owner("me")).unwrap();
            assert_eq!(seen(), with, "{case} {at}");
            let log = [stopping.log(), again.log()].concat();
            assert_durable(&log, &format!("{case} {at}, again"));
        }
    }
    // What one pin changes in each case.
    assert_eq!(stops, 6 + 8 + 2 + 5);
}

#[test]
fn n1_a_pin_that_is_ended_is_gone_or_not_wherever_it_is_stopped() {
    for at in 0.. {
        let place = Place::new();
        place.open().pin(&place.image, &owner("me")).unwrap();
        place.put(format!("{}.x", nobody(1)));
        let stopping = Changes::stop(at);
        let store = place.hooked(&stopping);
        match store.unpin(&place.image, &owner("me")) {
            Ok(there) => {
                assert!(there);
                assert_durable(&stopping.log(), "unpin");
                assert_eq!((place.in_dir(), at), (vec![], 3));
                break;
            }
            // Before its own unlink, before that of the other, before the sync.
            Err(_) => assert_eq!(place.in_dir().len(), 2 - at),
        }
        let again = Arc::new(Changes::default());
        assert_eq!(place.hooked(&again).unpin(&place.image, &owner("me")).unwrap(), at == 0);
        assert_durable(&[stopping.log(), again.log()].concat(), &format!("unpin {at}, again"));
        assert_eq!(place.in_dir(), Vec::<OsString>::new());
    }
}

#[test]
fn a_second_pin_costs_one_sync() {
    let place = Place::new();
    let counted = |run: &dyn Fn(&Store)| {
        let changes = Arc::new(Changes::default());
        run(&place.hooked(&changes));
        changes.counts()
    };
    let pin = |name: &'static str| {
        let image = place.image.clone();
        move |store: &Store| store.pin(&image, &owner(name)).unwrap()
    };
    assert_eq!(counted(&pin("one")), BTreeMap::from([("mkdir", 1), ("create", 1), ("fsync", 4)]));
    assert_eq!(counted(&pin("two")), BTreeMap::from([("create", 1), ("fsync", 1)]));
    // Tried, and found to be there.
    assert_eq!(counted(&pin("two")), BTreeMap::from([("create", 1), ("fsync", 1)]));
    let unpin = |store: &Store| assert!(store.unpin(&place.image, &owner("two")).unwrap());
    assert_eq!(counted(&unpin), BTreeMap::from([("unlink", 1), ("fsync", 1)]));
}

#[test]
fn a_handle_whose_sync_failed_pins_no_more() {
    let place = Place::new();
    let store = place.hooked(&Changes::stop(1));
    store.pin(&place.image, &owner("me")).unwrap_err();
    assert!(matches!(store.pin(&place.image, &owner("me")), Err(StoreError::Poisoned)));
    assert!(matches!(store.unpin(&place.image, &owner("me")), Err(StoreError::Poisoned)));
}

#[test]
fn n3_what_is_no_pin_is_neither_believed_nor_touched() {
    let place = Place::new();
    let id = &place.image;
    let names = ["x", id.as_str(), &format!("{id}."), &format!("{id}..a"), &format!("{id}.a b"), &format!("{}.a", &id.as_str()[1..])];
    let long = format!("{id}.{}", "o".repeat(101));
    let upper = format!("{}.a", "A".repeat(64));
    names.iter().chain([&long.as_str(), &upper.as_str()]).for_each(|name| place.put(name));
    place.put(OsStr::from_bytes(&[id.as_str().as_bytes(), b".\xff"].concat()));
    let path = |end: &str| place.dir().join(format!("{id}.{end}"));
    fs::create_dir(path("dir")).unwrap();
    symlink("/etc/passwd", path("link")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    mknodat(CWD, path("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
    let before = place.in_dir();
    assert_eq!(before.len(), 13);

    let store = place.open();
    for name in ["dir", "link", "dangling", "fifo"] {
        assert!(!store.unpin(id, &owner(name)).unwrap(), "{name}");
        let error = store.pin(id, &owner(name)).unwrap_err();
        assert!(matches!(&error, StoreError::Pin(PinError::InTheWay { path: at }) if *at == path(name)), "{error:?}");
    }
    assert_eq!((place.owners(), place.in_dir()), (vec![], before));
    store.pin(id, &owner("me")).unwrap();
    assert_eq!((place.owners(), place.in_dir().len()), (vec!["me".to_owned()], 14));
}

#[test]
fn a_link_in_the_place_of_the_directory_is_an_error() {
    let place = Place::new();
    let elsewhere = place.temp.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, place.dir()).unwrap();
    let store = place.open();
    store.pin(&place.image, &owner("me")).unwrap_err();
    store.unpin(&place.image, &owner("me")).unwrap_err();
    store.pins().unwrap_err();
    assert_eq!(whole(&elsewhere), BTreeMap::new());
}

#[test]
fn an_image_that_is_not_there_is_named_and_nothing_changes() {
    let place = Place::new();
    let before = whole(&place.root());
    let error = place.open().pin(&nobody(7), &owner("me")).unwrap_err();
    let text = format!("image {} is not in the store at {}; pull it, then pin it", nobody(7), place.root().display());
    assert_eq!(error.to_string(), text);
    assert!(!place.open().unpin(&nobody(7), &owner("me")).unwrap());
    assert_eq!(whole(&place.root()), before);

    let root = place.temp.path().join("none");
    let store = Store::open(StoreOptions::new(&root, place.temp.path().join("run"))).unwrap();
    let error = store.pin(&place.image, &owner("me")).unwrap_err();
    assert!(matches!(error, StoreError::Pin(PinError::NoImage { .. })), "{error:?}");
    assert_eq!((store.unpin(&place.image, &owner("me")).unwrap(), store.pins().unwrap().len(), root.exists()), (false, 0, false));
}

#[test]
fn n4_pins_of_images_that_are_gone_are_removed_and_no_others() {
    let place = Place::new();
    let store = place.open();
    store.pin(&place.image, &owner("kept")).unwrap();
    (0..150).for_each(|number| place.put(format!("{}.gone", nobody(number))));
    store.pin(&place.image, &owner("me")).unwrap();
    // So many at once and no more: the lock is held meanwhile.
    assert_eq!(place.in_dir().len(), 2 + 50);
    assert!(store.unpin(&nobody(149), &owner("gone")).unwrap());
    assert_eq!((place.owners(), place.in_dir().len()), (vec!["kept".to_owned(), "me".to_owned()], 2));
}

#[test]
fn a_pin_waits_for_images_lock_and_for_no_other() {
    let place = Place::new();
    let store = place.open();
    let layout = store.layout().unwrap().unwrap();
    let wait = Wait::limit(Duration::ZERO);
    let layers = StoreLocks::write_layers(&layout.layers, &wait).unwrap();
    store.pin(&place.image, &owner("me")).unwrap();
    drop(layers);

    let images = StoreLocks::write_images(&layout.images, &wait).unwrap();
    let busy = [store.pin(&place.image, &owner("you")).unwrap_err(), store.unpin(&place.image, &owner("me")).unwrap_err()];
    assert_eq!(busy.map(|error| (error.is_busy(), error.is_cancelled())), [(true, false); 2]);
    drop(images);
    assert_eq!(place.owners(), ["me"]);
}

#[test]
fn a_table_that_cannot_be_read_stops_a_pin_and_no_unpin() {
    let place = Place::new();
    place.open().pin(&place.image, &owner("me")).unwrap();
    let stale = format!("{}.gone", nobody(1));
    place.put(&stale);
    let table = place.root().join("overlay-images/images.json");
    for text in ["[{", ""] {
        fs::write(&table, text).unwrap();
        let error = place.open().pin(&place.image, &owner("you")).unwrap_err();
        assert!(matches!(error, StoreError::Pin(PinError::Load(_))), "{error:?}");
        assert_eq!(place.in_dir().len(), if text.is_empty() { 1 } else { 2 });
        assert_eq!(place.open().unpin(&place.image, &owner("me")).unwrap(), !text.is_empty());
    }
    // Nobody knows now whose it is.
    assert_eq!(place.in_dir(), [OsString::from(stale)]);
}
