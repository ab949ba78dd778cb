//! Transactions through the library, without a network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use common::fixture::{self, app, base, image};
use cstor_rs::store::{Store, StoreOptions};

#[test]
fn a_pull_is_there_and_a_second_one_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let store = Store::open(options()).unwrap();
    let one = image("localhost/one:latest", vec![base(), app("one")]);
    let receipt = fixture::pull(&store, std::slice::from_ref(&one)).unwrap().unwrap();
    assert_eq!(receipt.layers.len(), 2);
    let snapshot = store.read().unwrap().unwrap();
    assert_eq!(snapshot.images().count(), 1);
    assert_eq!(snapshot.image_by_name("localhost/one:latest").unwrap().id(), Some(&receipt.images[0]));
    let before = std::fs::read(temp.path().join("root/overlay-images/images.json")).unwrap();
    assert!(fixture::pull(&store, std::slice::from_ref(&one)).unwrap().is_none());
    assert_eq!(std::fs::read(temp.path().join("root/overlay-images/images.json")).unwrap(), before);
    for dir in ["journal", "stage", "trash"] {
        assert_eq!(std::fs::read_dir(temp.path().join("root/cstor-rs").join(dir)).unwrap().count(), 0, "{dir}");
    }
}

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cstor_rs::fsio::{Hook, Op};

struct StopAt(AtomicUsize, usize);

impl Hook for StopAt {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        if n >= self.1 {
            return Err(io::Error::other(format!("stopped before {op:?}")));
        }
        Ok(())
    }
}

fn state(root: &Path) -> (usize, usize, Vec<String>) {
    let store = Store::open_read_only(StoreOptions::new(root.join("root"), root.join("run"))).unwrap();
    let Some(snapshot) = store.read().unwrap() else { return (0, 0, vec![]) };
    let mut left = Vec::new();
    for dir in ["cstor-rs/journal", "cstor-rs/stage", "cstor-rs/trash", "overlay-layers", "overlay-images", "overlay", "overlay/l"] {
        if let Ok(list) = std::fs::read_dir(root.join("root").join(dir)) {
            for e in list.flatten() {
                left.push(format!("{dir}/{}", e.file_name().to_string_lossy().chars().take(8).collect::<String>()));
            }
        }
    }
    left.sort();
    (snapshot.images().count(), snapshot.layers().count(), left)
}

#[test]
fn stop_anywhere() {
    let one = image("localhost/one:latest", vec![base(), app("one")]);
    let mut k = 0;
    let mut seen = std::collections::BTreeMap::new();
    loop {
        let temp = tempfile::tempdir().unwrap();
        let hook = Arc::new(StopAt(AtomicUsize::new(0), k));
        let plain = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
        let result = Store::open(plain().hook(hook)).map(|store| fixture::pull(&store, std::slice::from_ref(&one)));
        if matches!(result, Ok(Ok(_))) {
            println!("{k} steps");
            break;
        }
        let reopened = Store::open(plain()).unwrap();
        let outcome = reopened.recovered().ended.first().map(|e| format!("{:?}", e.1));
        let (images, layers, left) = state(temp.path());
        assert!(matches!((images, layers), (0, 0) | (1, 2)), "{k}: {images} {layers} {outcome:?} {result:?}");
        assert!(!left.iter().any(|l| l.contains(".tmp-") || l.starts_with("cstor-rs/")), "{k} {left:?} {outcome:?}");
        *seen.entry((outcome, images, layers)).or_insert(0) += 1;
        k += 1;
    }
    println!("{seen:?}");
}
