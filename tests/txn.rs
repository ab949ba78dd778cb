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
