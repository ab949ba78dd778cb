//! Stores whose `overlay/` cannot be reached by a rename from the graph root: staging lies among Go's temporary
//! directories then, where podman may remove it at any moment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::fixture::{self, Failure, Image, app, base, image};
use common::once::Once;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::recovery::Outcome;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::TxnError;

/// A store with one image, `overlay/` on a filesystem of its own.
struct Place {
    temp: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.path("overlay")).status().unwrap();
    }
}

impl Place {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip::skipped("mounts need the root user");
            return None;
        }
        let place = Self { temp: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.path("overlay")).unwrap();
        for part in ["overlay-layers", "overlay-images", "overlay-containers"] {
            fs::create_dir(place.path(part)).unwrap();
        }
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "mode=700", "none"]).arg(place.path("overlay")).status().unwrap();
        assert!(mounted.success());
        fs::create_dir(place.path("overlay/l")).unwrap();
        fixture::pull(&place.open(), &[image("localhost/zero:1", vec![base(), app("zero")])]).unwrap();
        Some(place)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.temp.path().join("root").join(below)
    }

    fn options(&self) -> StoreOptions {
        StoreOptions::new(self.temp.path().join("root"), self.temp.path().join("run"))
    }

    fn open(&self) -> Store {
        Store::open(self.options()).unwrap()
    }

    /// Whole, with so many images, and with nothing left over.
    fn check(&self, images: usize, what: &str) {
        let said = oracle::read(&self.path("")).unwrap_or_else(|why| panic!("{what}: {why}"));
        oracle::data_agrees(&said).unwrap();
        assert_eq!(said.images.len(), images, "{what}");
        let known = BTreeSet::from([PathBuf::from("overlay/tempdirs")]);
        assert_eq!(oracle::leftovers(&self.path(""), &known), Vec::<PathBuf>::new(), "{what}");
        assert_eq!(self.tempdirs().unwrap_or_default(), Vec::<String>::new(), "{what}");
    }

    /// What is in `overlay/tempdirs/`; `None` where there is none.
    fn tempdirs(&self) -> Option<Vec<String>> {
        let list = fs::read_dir(self.path("overlay/tempdirs")).ok()?;
        Some(list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }
}

fn one() -> [Image; 1] {
    [image("localhost/one:1", vec![base(), app("one"), app("two")])]
}

/// Fails every change from number `at` on.
struct Stop {
    at: usize,
    seen: AtomicUsize,
}

impl Hook for Stop {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if self.seen.fetch_add(1, Ordering::SeqCst) >= self.at {
            return Err(io::Error::other(format!("stopped before {op:?}")));
        }
        Ok(())
    }
}

/// What podman has in `tempdirs/` itself does not matter, and stays.
#[test]
fn a_pull_stages_among_the_temporary_directories_and_leaves_none() {
    let Some(place) = Place::new() else { return };
    assert_eq!(place.tempdirs(), None, "what a transaction made it removes");
    let made = Arc::new(AtomicUsize::new(0));
    let seen = made.clone();
    let staged = place.path("overlay/tempdirs");
    let hook = Once {
        when: |op: &Op<'_>| matches!(op, Op::SyncFs(_)),
        what: move || {
            let names: Vec<String> = fs::read_dir(&staged).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            assert_eq!(names.len(), 2, "a directory and its lock: {names:?}");
            seen.fetch_add(1, Ordering::SeqCst);
        },
        done: AtomicUsize::new(0),
    };
    fixture::pull(&Store::open(place.options().hook(Arc::new(hook))).unwrap(), &one()).unwrap().unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
    place.check(2, "pulled");
    assert_eq!(place.tempdirs(), None);

    fs::create_dir(place.path("overlay/tempdirs")).unwrap();
    let other = [image("localhost/other:1", vec![app("other")])];
    fixture::pull(&place.open(), &other).unwrap().unwrap();
    assert_eq!(place.tempdirs(), Some(vec![]), "it was there before");
}

type Deed = (&'static str, fn(&Path));

/// What podmans of different age do to what they do not know.
const CLEAN_UPS: &[Deed] = &[
    ("removes all temporary directories", |overlay| fs::remove_dir_all(overlay.join("tempdirs")).unwrap()),
    ("removes the directory and the lock", |overlay| {
        for entry in fs::read_dir(overlay.join("tempdirs")).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                fs::remove_dir_all(entry.path()).unwrap();
            } else {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }),
    ("is killed half-way", |overlay| {
        let temp = fs::read_dir(overlay.join("tempdirs")).unwrap().map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap();
        let layer = fs::read_dir(temp.join("stage")).unwrap().map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap();
        let app = fs::read_dir(layer.join("diff/app")).unwrap().next().unwrap().unwrap();
        fs::remove_file(app.path()).unwrap();
    }),
];

#[test]
fn staging_that_podman_removed_is_staged_again() {
    for (what, deed) in CLEAN_UPS {
        let Some(place) = Place::new() else { return };
        let overlay = place.path("overlay");
        let hook =
            Arc::new(Once { when: |op: &Op<'_>| matches!(op, Op::SyncFs(_)), what: move || deed(&overlay), done: AtomicUsize::new(0) });
        fixture::pull(&Store::open(place.options().hook(hook.clone())).unwrap(), &one()).unwrap().unwrap();
        assert!(hook.done.load(Ordering::SeqCst) > 1, "{what}: contents were synced once only");
        place.check(2, what);
    }
}

#[test]
fn staging_that_goes_while_a_layer_is_unpacked_is_named_and_nothing_changes() {
    let Some(place) = Place::new() else { return };
    let overlay = place.path("overlay");
    let hook = Arc::new(Once {
        when: |op: &Op<'_>| matches!(op, Op::Mkdir(at, _) if at.name == Path::new("app")),
        what: move || fs::remove_dir_all(overlay.join("tempdirs")).unwrap(),
        done: AtomicUsize::new(0),
    });
    let error = fixture::pull(&Store::open(place.options().hook(hook)).unwrap(), &one()).unwrap_err();
    assert!(matches!(error, Failure::Txn(TxnError::StagingLost { .. })), "{error:?}");
    place.check(1, "lost");
}

/// Counted is what is made and not what is there: names that go while a layer is unpacked are missed too.
#[test]
fn names_that_go_while_a_layer_is_unpacked_are_missed() {
    let Some(place) = Place::new() else { return };
    let overlay = place.path("overlay");
    let remove = move || {
        let temp = fs::read_dir(overlay.join("tempdirs")).unwrap().map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap();
        for layer in fs::read_dir(temp.join("stage")).unwrap().map(|e| e.unwrap().path()).filter(|path| path.join("diff/d").exists()) {
            fs::remove_dir_all(layer.join("diff/d")).unwrap();
        }
    };
    let many = fixture::layer(&[
        fixture::Member::Dir("d", 0o755),
        fixture::Member::File("d/first", 0o644, b""),
        fixture::Member::Dir("e", 0o755),
        fixture::Member::File("e/last", 0o644, b""),
    ]);
    let when = |op: &Op<'_>| matches!(op, Op::Create(at, _) if at.name == Path::new("last"));
    let hook = Arc::new(Once { when, what: remove, done: AtomicUsize::new(0) });
    let image = [image("localhost/many:1", vec![many])];
    fixture::pull(&Store::open(place.options().hook(hook.clone())).unwrap(), &image).unwrap().unwrap();
    assert_eq!(hook.done.load(Ordering::SeqCst), 2, "it was unpacked twice");
    place.check(2, "staged again");
    let said = oracle::read(&place.path("")).unwrap();
    assert!(said.layers.values().any(|(_, files)| files.iter().any(|file| file.contains("d/first"))), "{said:?}");
}

/// Counts the changes until the first sync of a filesystem: those that only stage.
#[derive(Default)]
struct Staging {
    seen: AtomicUsize,
    staged: AtomicUsize,
}

impl Hook for Staging {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        if matches!(op, Op::SyncFs(_)) {
            self.staged.fetch_max(seen, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Stopped before its every change (of those that only stage every seventh), with podman cleaning up in between and without.
#[test]
fn a_crash_anywhere_is_recovered_whatever_podman_removes() {
    let clean: &[Deed] = &[
        ("does nothing", |_| {}),
        ("removes all temporary directories", |overlay| {
            let dir = overlay.join("tempdirs");
            if dir.exists() {
                fs::remove_dir_all(dir).unwrap();
            }
        }),
    ];
    let count = Arc::new(Staging::default());
    {
        let Some(place) = Place::new() else { return };
        fixture::pull(&Store::open(place.options().hook(count.clone())).unwrap(), &one()).unwrap();
    }
    let staged = count.staged.load(Ordering::SeqCst);
    assert!(staged > 40, "{staged} changes are too few to be true");
    for (what, deed) in clean {
        let mut ends = BTreeSet::new();
        for k in (0..staged).step_by(7).chain(staged..) {
            let Some(place) = Place::new() else { return };
            let stop = Arc::new(Stop { at: k, seen: AtomicUsize::new(0) });
            let result = Store::open(place.options().hook(stop.clone())).map(|store| fixture::pull(&store, &one()));
            if stop.seen.load(Ordering::SeqCst) <= k {
                assert!(matches!(result, Ok(Ok(Some(_)))));
                assert!(k > 60, "{k} changes are too few to be true");
                break;
            }
            let what = format!("stopped before change {k}, podman {what}");
            deed(&place.path("overlay"));
            let store = Store::open(place.options()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let report = store.recovered();
            assert!(report.pending.is_empty() && report.left.is_empty(), "{what}: {report:?}");
            ends.extend(report.ended.iter().map(|(_, outcome)| format!("{outcome:?}")));
            let after = store.read().unwrap().unwrap().image_by_name("localhost/one:1").is_some();
            place.check(if after { 2 } else { 1 }, &what);
            assert!(after || !matches!(result, Ok(Ok(_))), "{what}: Ok was returned");
            fixture::pull(&store, &one()).unwrap_or_else(|error| panic!("{what}, again: {error:?}"));
            place.check(2, &what);
        }
        let want = [Outcome::CleanedUp, Outcome::Dropped, Outcome::RolledBack, Outcome::RolledForward].map(|o| format!("{o:?}"));
        assert_eq!(ends, BTreeSet::from(want), "{what}");
    }
}

/// One filesystem and one mount, and still EXDEV: only a rename tells.
#[test]
fn a_nested_subvolume_is_found_out_by_a_rename() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return;
    }
    if Command::new("mkfs.btrfs").arg("--version").output().is_err() || Command::new("btrfs").arg("--version").output().is_err() {
        skip::skipped("btrfs-progs are not installed");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (disk, at) = (temp.path().join("disk"), temp.path().join("at"));
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    fs::create_dir(&at).unwrap();
    assert!(Command::new("mkfs.btrfs").arg("-q").arg(&disk).status().unwrap().success());
    let mounted = Command::new("mount").args(["-o", "loop"]).args([&disk, &at]).output().unwrap();
    if !mounted.status.success() {
        skip::skipped(&format!("btrfs cannot be mounted here: {}", String::from_utf8_lossy(&mounted.stderr)));
        return;
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
        }
    }
    let _guard = Unmount(at.clone());
    fs::create_dir(at.join("root")).unwrap();
    assert!(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(at.join("root/overlay")).status().unwrap().success());
    let options = || StoreOptions::new(at.join("root"), at.join("run"));
    fixture::pull(&Store::open(options()).unwrap(), &one()).unwrap().unwrap();
    let said = oracle::read(&at.join("root")).unwrap();
    assert_eq!((said.images.len(), said.layers.len()), (1, 3));
    assert!(!at.join("root/overlay/tempdirs").exists());
    assert!(Store::open(options()).unwrap().recovered().ended.is_empty());
}
