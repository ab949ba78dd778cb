//! What fsck may believe of earlier runs and of lost tables, and what it must ask again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::fixture::{self, Image, app, base, image};
use cstor_rs::clean::CleanPoint;
use cstor_rs::fsck::{Level, Options, Summary, run};
use cstor_rs::fsio::{Dir, File, Hook, Op, Seam};
use cstor_rs::store::{Store, StoreOptions};
use serde_json::{Value, json};

struct Place(tempfile::TempDir);

impl Place {
    /// With two images that share a layer, all of it sealed.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fixture::pull(&Store::open(place.options()).unwrap(), &[one(), two()]).unwrap().unwrap();
        place
    }

    fn options(&self) -> StoreOptions {
        StoreOptions::new(self.0.path().join("root"), self.0.path().join("run"))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join("root").join(below)
    }

    fn table(&self, below: &str) -> Vec<Value> {
        serde_json::from_slice(&fs::read(self.path(below)).unwrap()).unwrap()
    }

    fn layers(&self) -> Vec<String> {
        self.table("overlay-layers/layers.json").iter().map(|layer| layer["id"].as_str().unwrap().to_owned()).collect()
    }

    /// The images with their names.
    fn names(&self) -> BTreeMap<String, Vec<Value>> {
        let images = self.table(IMAGES);
        images
            .iter()
            .map(|image| (image["id"].as_str().unwrap().to_owned(), image["names"].as_array().cloned().unwrap_or_default()))
            .collect()
    }

    fn seal(&self, layer: &str) -> PathBuf {
        self.path(&format!("overlay/{layer}/cstor-rs.seal"))
    }

    fn fsck(&self, repair: bool) -> Summary {
        let how = Options { level: Level::Full, repair, jobs: NonZeroUsize::MIN, ..Options::default() };
        run(&self.options(), &how, None, &mut |_| {}).unwrap()
    }
}

const IMAGES: &str = "overlay-images/images.json";

fn one() -> Image {
    image("localhost/one:1", vec![base(), app("one")])
}

fn two() -> Image {
    image("localhost/two:1", vec![base(), app("two")])
}

fn id_of(image: &Image) -> String {
    cstor_rs::ids::ImageId::of_config(&cstor_rs::ids::Digest::of(&image.config)).to_string()
}

#[test]
fn a_layer_that_is_not_sealed_is_not_in_the_clean_point() {
    let place = Place::new();
    let layers = place.layers();
    fs::remove_file(place.seal(&layers[1])).unwrap();
    let summary = place.fsck(true);
    assert_eq!((summary.damaged, summary.layers), (0, layers.len() as u64));
    let point = CleanPoint::parse(&fs::read(place.path("cstor-rs/clean")).unwrap()).unwrap();
    let mut sealed: Vec<&String> = layers.iter().filter(|id| **id != layers[1]).collect();
    sealed.sort();
    assert_eq!(point.layers().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), sealed.into_iter().cloned().collect::<Vec<_>>());
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// A check that was stopped goes on behind what it has read; contents that took the place of those are read.
#[test]
fn a_layer_that_was_read_is_read_again_when_its_contents_are_others() {
    let place = Place::new();
    let layers = place.layers();
    // A seal has the names of the contents as the state has them.
    let seals = layers.iter().map(|id| (id.clone(), serde_json::from_slice::<Value>(&fs::read(place.seal(id)).unwrap()).unwrap()));
    let done: BTreeMap<String, Value> = seals.map(|(id, seal)| (id, json!([seal["link"], seal["tree"]]))).collect();
    let state = json!({"version": 1, "done": done, "damaged": []}).to_string();
    let resumed = || {
        fs::write(place.path("cstor-rs/fsck-state"), &state).unwrap();
        let summary = place.fsck(false);
        (summary.layers, summary.damaged > 0)
    };
    assert_eq!(resumed(), (0, false), "nothing is left to be read");
    let dir = place.path(&format!("overlay/{}", layers[0]));
    copy(&dir.join("diff"), &dir.join("other"));
    fs::remove_dir_all(dir.join("diff")).unwrap();
    fs::write(dir.join("other/etc/passwd"), "another").unwrap();
    fs::rename(dir.join("other"), dir.join("diff")).unwrap();
    assert_eq!(resumed(), (1, true));
}

/// podman has given the name to another image since the record was lost: that goes before what the history says.
#[test]
fn a_record_that_comes_back_takes_no_name_that_another_image_has() {
    let place = Place::new();
    let (one, two) = (id_of(&one()), id_of(&two()));
    let mut images = place.table(IMAGES);
    images.retain(|image| image["id"] == two.as_str());
    images[0]["names"] = json!(["localhost/two:1", "localhost/one:1"]);
    fs::write(place.path(IMAGES), json!(images).to_string()).unwrap();
    assert_eq!(place.fsck(true).remaining(), 0);
    assert_eq!(place.names(), BTreeMap::from([(one, vec![]), (two, vec![json!("localhost/two:1"), json!("localhost/one:1")])]));
}

/// Fails everything from the rename of layers.json on, as if the process were gone.
#[derive(Default)]
struct DiesAtThePivot(AtomicBool);

impl Hook for DiesAtThePivot {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if matches!(op, Op::Rename(_, to) if to.name.as_os_str() == "layers.json") {
            self.0.store(true, Ordering::SeqCst);
        }
        if self.0.load(Ordering::SeqCst) { Err(io::Error::other(format!("gone before {op:?}"))) } else { Ok(()) }
    }
}

/// What a dead transaction has placed, and is to be taken back, gets no record from a rebuilt images.json.
#[test]
fn an_image_that_the_journal_takes_back_is_not_rebuilt() {
    let place = Place::new();
    let store = Store::open(place.options().hook(Arc::new(DiesAtThePivot::default()))).unwrap();
    fixture::pull(&store, &[image("localhost/new:1", vec![base(), app("new")])]).unwrap_err();
    fs::write(place.path(IMAGES), "[{\"id\": garbled").unwrap();
    let before = fs::read_dir(place.path("overlay-images")).unwrap().count();
    place.fsck(true);
    let known: Vec<String> = place.names().into_keys().collect();
    let mut wanted = vec![id_of(&one()), id_of(&two())];
    wanted.sort();
    assert_eq!(known, wanted, "{before} names in overlay-images before");
    assert_eq!(Store::open(place.options()).unwrap().recovered().pending, []);
}

/// Takes locks once the intent of a repair is on the medium.
struct Locks(Vec<PathBuf>, Mutex<Vec<File>>);

impl Hook for Locks {
    fn before(&self, _: &Op<'_>) -> io::Result<()> {
        Ok(())
    }

    fn done(&self, op: &Op<'_>) {
        let mut held = self.1.lock().unwrap();
        if matches!(op, Op::SyncData(at) if at.name.to_string_lossy().ends_with(".wal")) && held.is_empty() {
            for path in &self.0 {
                let dir = Dir::open(path.parent().unwrap(), Seam::default()).unwrap();
                let lock = dir.file_rw(path.file_name().unwrap()).unwrap();
                assert!(lock.try_lock(true).unwrap());
                held.push(lock);
            }
        }
    }
}

/// What was dead when fsck looked has an owner by the time of the repair.
#[test]
fn a_temporary_directory_that_gets_an_owner_meanwhile_stays() {
    let place = Place::new();
    let dirs = ["overlay/tempdirs/temp-dir-1", "overlay/staging/1"].map(|dir| place.path(dir));
    let locks = ["overlay/tempdirs/lock-1", "overlay/staging/1/staging.lock"].map(|lock| place.path(lock));
    dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    locks.iter().for_each(|lock| fs::write(lock, "").unwrap());
    let owner = Arc::new(Locks(locks.to_vec(), Mutex::default()));
    let how = Options { repair: true, ..Options::default() };
    run(&place.options().hook(owner.clone()), &how, None, &mut |_| {}).unwrap();
    assert_eq!(owner.1.lock().unwrap().len(), 2, "it was repaired");
    assert!(dirs.iter().all(|dir| dir.is_dir()), "{dirs:?}");
    owner.1.lock().unwrap().iter().for_each(|lock| lock.unlock().unwrap());
    run(&place.options(), &how, None, &mut |_| {}).unwrap();
    assert!(!dirs.iter().any(|dir| dir.exists()), "{dirs:?}");
}
