//! Whole transactions in big stores: `cargo bench --bench txn`. The store lies in the temporary directory.
//!
//! The argument is the number of images in the store; there are three times as many layers. Their records are there,
//! their directories are not: no transaction looks at what it has nothing to do with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../tests/common/big.rs"]
mod big;
#[allow(dead_code)]
#[path = "../tests/common/fixture.rs"]
mod fixture;

use std::fs;

use cstor_rs::metadata::ImageRef;
use cstor_rs::plan::SeveralNames;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{TxnOptions, WriteTxn};
use divan::Bencher;
use tempfile::TempDir;

const SIZES: [usize; 3] = [0, 1_000, 10_000];

fn main() {
    divan::main();
}

/// A store with so many images, made by cstor-rs itself, its tables exchanged for big ones.
fn store(images: usize) -> (TempDir, Store) {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    let store = Store::open(StoreOptions::new(&root, temp.path().join("run"))).unwrap();
    fixture::pull(&store, &[small(usize::MAX)]).unwrap().unwrap();
    if images > 0 {
        fs::write(root.join("overlay-layers/layers.json"), big::layers_json(images)).unwrap();
        fs::write(root.join("overlay-images/images.json"), big::images_json(images)).unwrap();
    }
    (temp, store)
}

/// An image of one small layer that no other image has.
fn small(n: usize) -> fixture::Image {
    fixture::image(&format!("localhost/small:{n}"), vec![fixture::app(&format!("small-{n}"))])
}

/// begin, declare, stage, prepare, commit of one image with one layer.
#[divan::bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn add_one_image(bencher: Bencher<'_, '_>, n: usize) {
    let (_temp, store) = store(n);
    let mut next = 0;
    bencher
        .with_inputs(|| {
            next += 1;
            small(next)
        })
        .bench_local_values(|image| fixture::pull(&store, &[image]).unwrap().unwrap());
}

/// One name of one image, there and back: two transactions without a journal.
#[divan::bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn tag_and_untag(bencher: Bencher<'_, '_>, n: usize) {
    let (_temp, store) = store(n);
    fixture::pull(&store, &[small(0)]).unwrap().unwrap();
    let image = || ImageRef::Name("localhost/small:0".to_owned());
    bencher.bench_local(|| {
        change(&store, |txn| txn.tag(image(), "localhost/bench:1").unwrap());
        change(&store, |txn| txn.untag(image(), &["localhost/bench:1".to_owned()]).unwrap());
    });
}

/// An image with one layer of its own, which is there again for each round.
#[divan::bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn remove_one_image(bencher: Bencher<'_, '_>, n: usize) {
    let (_temp, store) = store(n);
    let image = small(0);
    bencher.with_inputs(|| fixture::pull(&store, std::slice::from_ref(&image)).unwrap().unwrap()).bench_local_values(|_| {
        change(&store, |txn| txn.remove_image(ImageRef::Name(image.name.clone()), SeveralNames::Keep).unwrap());
    });
}

fn change(store: &Store, changes: impl Fn(&WriteTxn)) {
    let txn = store.begin(TxnOptions::default()).unwrap();
    changes(&txn);
    fixture::commit(txn).unwrap().unwrap();
}

/// All tables under shared locks.
#[divan::bench(args = SIZES)]
fn read_the_tables(bencher: Bencher<'_, '_>, n: usize) {
    let (_temp, store) = store(n);
    bencher.bench_local(|| store.read().unwrap().unwrap());
}
