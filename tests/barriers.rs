//! Barriers that no state of the model disk misses: of what others made, and of what is given up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::fixture::{self, Image, app, base, image};
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::{Digest, ImageId};
use cstor_rs::recovery::Outcome;
use cstor_rs::store::{Store, StoreOptions};

fn options(top: &Path) -> StoreOptions {
    StoreOptions::new(top.join("root"), top.join("run"))
}

fn id_of(image: &Image) -> ImageId {
    ImageId::of_config(&Digest::of(&image.config))
}

/// What was done, in order; before the first syncfs something else is.
struct Log<F> {
    meanwhile: F,
    /// The table whose rename fails, if one is to.
    fails: Option<&'static str>,
    done: Mutex<Vec<(&'static str, PathBuf)>>,
    synced: AtomicBool,
}

impl<F> Log<F> {
    fn new(meanwhile: F) -> Arc<Self> {
        Self::failing(meanwhile, None)
    }

    fn failing(meanwhile: F, fails: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self { meanwhile, fails, done: Mutex::default(), synced: AtomicBool::new(false) })
    }

    fn done(&self) -> Vec<(&'static str, PathBuf)> {
        self.done.lock().unwrap().clone()
    }
}

impl<F: Fn() + Send + Sync> Hook for Log<F> {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if matches!(op, Op::SyncFs(_)) && !self.synced.swap(true, Ordering::SeqCst) {
            (self.meanwhile)();
        }
        match op {
            Op::Rename(_, to) if self.fails.is_some_and(|name| to.name.as_os_str() == name) => Err(io::Error::other("it fails")),
            _ => Ok(()),
        }
    }

    fn done(&self, op: &Op<'_>) {
        let entry = match op {
            Op::SyncFs(at) => ("syncfs", at.path()),
            Op::SyncDir(at) | Op::SyncData(at) => ("sync", at.path()),
            Op::Unlink(at) => ("unlink", at.path()),
            Op::Rename(from, _) => ("rename", from.path()),
            Op::Write(at, ..) => ("write", at.path()),
            _ => return,
        };
        self.done.lock().unwrap().push(entry);
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "wal")
}

/// Another process pulls one of two images between the syncfs and the locks, and syncs no directory.
#[test]
fn the_documents_of_an_image_that_came_meanwhile_are_synced_before_done() {
    let temp = tempfile::tempdir().unwrap();
    let (one, two) = (image("localhost/one:1", vec![base()]), image("localhost/two:1", vec![base(), app("two")]));
    fixture::pull(&Store::open(options(temp.path())).unwrap(), &[image("localhost/zero:1", vec![base()])]).unwrap();
    let (top, theirs) = (temp.path().to_owned(), one.clone());
    let log = Log::new(move || {
        fixture::pull(&Store::open(options(&top)).unwrap(), std::slice::from_ref(&theirs)).unwrap().unwrap();
    });
    let store = Store::open(options(temp.path()).hook(log.clone())).unwrap();
    fixture::pull(&store, &[one.clone(), two]).unwrap().unwrap();
    let done = log.done();
    let syncfs = done.iter().position(|(what, _)| *what == "syncfs").unwrap();
    let end = done.iter().rposition(|(what, path)| *what == "write" && is_segment(path)).unwrap();
    let wanted = temp.path().join("root/overlay-images").join(id_of(&one).as_str());
    assert!(done[syncfs..end].contains(&("sync", wanted)), "{done:#?}");
}

/// Fails everything from the rename of images.json on, as if the process were gone.
#[derive(Default)]
struct DiesBehindThePivot(AtomicBool);

impl Hook for DiesBehindThePivot {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if matches!(op, Op::Rename(_, to) if to.name.as_os_str() == "images.json" && to.dir.ends_with("overlay-images")) {
            self.0.store(true, Ordering::SeqCst);
        }
        if self.0.load(Ordering::SeqCst) { Err(io::Error::other(format!("gone before {op:?}"))) } else { Ok(()) }
    }
}

/// Somebody removed a layer of an image that is not listed yet: what was placed of the image goes, durably, before Abort says so.
#[test]
fn what_is_given_up_is_synced_before_abort() {
    let temp = tempfile::tempdir().unwrap();
    fixture::pull(&Store::open(options(temp.path())).unwrap(), &[image("localhost/zero:1", vec![app("zero")])]).unwrap();
    let new = image("localhost/one:1", vec![base(), app("one")]);
    let store = Store::open(options(temp.path()).hook(Arc::new(DiesBehindThePivot::default()))).unwrap();
    fixture::pull(&store, std::slice::from_ref(&new)).unwrap_err();
    drop(store);
    let table = temp.path().join("root/overlay-layers/layers.json");
    let mut layers: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
    assert_eq!(layers.len(), 3, "it died behind the pivot");
    layers.pop();
    fs::write(&table, serde_json::to_vec(&layers).unwrap()).unwrap();
    let log = Log::new(|| {});
    let store = Store::open(options(temp.path()).hook(log.clone())).unwrap();
    assert_eq!(store.recovered().ended.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>(), [Outcome::Abandoned]);
    let done = log.done();
    let images = temp.path().join("root/overlay-images");
    let gone = done.iter().position(|(what, path)| *what == "rename" && *path == images.join(id_of(&new).as_str())).unwrap();
    let abort = done.iter().position(|(what, path)| *what == "write" && is_segment(path)).unwrap();
    assert!(done[gone..abort].contains(&("sync", images.clone())), "{done:#?}");
    assert!(!images.join(id_of(&new).as_str()).exists());
}

/// A transaction that takes itself back may be killed while it tidies up: an intent without markers reads as "all was done".
#[test]
fn a_rollback_says_abort_durably_before_the_markers_go() {
    let temp = tempfile::tempdir().unwrap();
    let log = Log::failing(|| {}, Some("layers.json"));
    fixture::pull(&Store::open(options(temp.path())).unwrap(), &[image("localhost/zero:1", vec![app("zero")])]).unwrap();
    let store = Store::open(options(temp.path()).hook(log.clone())).unwrap();
    fixture::pull(&store, &[image("localhost/one:1", vec![base()])]).unwrap_err();
    let done = log.done();
    let marker = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-"));
    let gone = done.iter().position(|(what, path)| *what == "unlink" && marker(path)).unwrap();
    let abort = done[..gone].iter().rposition(|(what, path)| *what == "write" && is_segment(path)).unwrap();
    let intent = done.iter().position(|(what, path)| *what == "write" && is_segment(path)).unwrap();
    assert_ne!(abort, intent, "nothing but the intent is written: {done:#?}");
    assert!(done[abort..gone].iter().any(|(what, path)| *what == "sync" && is_segment(path)), "{done:#?}");
}
