//! Stores with 10,000 images and 30,000 layers.
//!
//! That the work on their tables is linear is held where it can be counted: `cargo test --lib linear users`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/big.rs"]
mod big;
mod common;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex};

use common::fixture::{self, app, base, image};
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::{Digest, ImageId, LayerId};
use cstor_rs::metadata::{BigData, Images, Layers, Loose, NewImage, NewLayer};
use cstor_rs::store::{Store, StoreOptions};

const IMAGES: usize = 10_000;

fn layer_id(n: usize) -> LayerId {
    big::layer_id(n).parse().unwrap()
}

fn image_id(n: usize) -> ImageId {
    big::image_id(n).parse().unwrap()
}

/// The records of podman have the form that `NewLayer` and `NewImage` give theirs, which other tests hold.
#[test]
fn the_tables_are_of_podmans_form() {
    let known = |digest: Option<&Loose<Digest>>| digest.map(|d| d.known().unwrap().clone());
    let layers = Layers::parse(big::layers_json(20).as_bytes()).unwrap();
    for (n, layer) in layers.iter().enumerate() {
        let created: jiff::Timestamp = layer.created().parse().unwrap();
        let mut new = NewLayer::new(layer_id(n), big::parent(n).map(layer_id), created.into());
        new.compressed_diff_digest = known(layer.compressed_diff_digest());
        new.compressed_size = layer.compressed_size().try_into().unwrap();
        new.diff_digest = known(layer.diff_digest());
        new.diff_size = layer.diff_size();
        new.compression = layer.compression();
        new.uidset = layer.uidset().to_vec();
        new.gidset = layer.gidset().to_vec();
        assert_eq!(new.build().unwrap().json(), layer.json());
    }
    let images = Images::parse(big::images_json(20).as_bytes()).unwrap();
    for (n, image) in images.iter().enumerate() {
        let mut new = NewImage::new(image_id(n), Some(layer_id(3 * n + 2)));
        new.digest = known(image.digest());
        new.names = image.names().to_vec();
        new.names_history = image.names_history().to_vec();
        new.metadata = "{}".into();
        new.created = Some(image.created().to_owned());
        let item = |key: &String| BigData {
            key: key.clone(),
            size: image.big_data_sizes()[key],
            digest: image.big_data_digests().get(key).cloned(),
        };
        new.big_data = image.big_data_names().iter().map(item).collect();
        assert_eq!(new.build().unwrap().json(), image.json());
    }
}

#[test]
fn ten_thousand_images_and_thirty_thousand_layers_load_edit_and_save() {
    let (layers_json, images_json) = (big::layers_json(IMAGES), big::images_json(IMAGES));
    let mut layers = Layers::parse(layers_json.as_bytes()).unwrap();
    let mut images = Images::parse(images_json.as_bytes()).unwrap();
    assert_eq!((layers.len(), images.len()), (3 * IMAGES, IMAGES));
    assert!(layers.encode() == layers_json.as_bytes() && images.encode() == images_json.as_bytes());

    // A name moves from one image to another: two records change, no byte of the others.
    images.add_names(&image_id(7_001), &[big::image_name(4_242)]).unwrap();
    let changed = |edited: &Images| {
        let before = Images::parse(images_json.as_bytes()).unwrap();
        let pairs = before.iter().zip(edited.iter()).enumerate();
        pairs.filter(|(_, (old, new))| old.json() != new.json()).map(|(n, _)| n).collect::<Vec<_>>()
    };
    assert_eq!(changed(&images), [4_242, 7_001]);
    let tags: Vec<usize> = (0..100).map(|n| n * 97).collect();
    tags.iter().for_each(|n| images.add_names(&image_id(*n), &[format!("localhost/tag:{n}")]).unwrap());
    let want: HashSet<usize> = tags.iter().copied().chain([4_242, 7_001]).collect();
    assert_eq!(changed(&images).into_iter().collect::<HashSet<_>>(), want);

    // From the youngest to the oldest nobody needs what goes.
    for n in (0..IMAGES).rev() {
        let image = images.remove(&image_id(n)).unwrap();
        let mut next = image.layer().and_then(Loose::known).cloned();
        while let Some(id) = next.filter(|id| images.by_layer(id).next().is_none() && layers.children(id).next().is_none()) {
            next = layers.remove(&id).unwrap().parent().and_then(Loose::known).cloned();
        }
    }
    assert_eq!((images.encode(), layers.encode()), (b"[]".to_vec(), b"[]".to_vec()));
}

/// The changes of the disk in their order: the kind of each, and the table that a rename puts in place.
#[derive(Default)]
struct Changes(Mutex<Vec<String>>);

impl Hook for Changes {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let kind = format!("{op:?}").split('(').next().unwrap().to_owned();
        let table = match op {
            Op::Rename(_, to) => to.name.to_str().filter(|name| name.ends_with(".json")).unwrap_or_default(),
            _ => "",
        };
        self.0.lock().unwrap().push(format!("{kind} {table}"));
        Ok(())
    }
}

/// What a pull of one small image changes in a store with so many images.
fn changes(images: usize) -> Vec<String> {
    let temp = tempfile::tempdir().unwrap();
    let (root, hook) = (temp.path().join("root"), Arc::new(Changes::default()));
    let store = Store::open(StoreOptions::new(&root, temp.path().join("run")).hook(hook.clone())).unwrap();
    fixture::pull(&store, &[image("localhost/first:latest", vec![base()])]).unwrap().unwrap();
    let tables = ["overlay-layers/layers.json", "overlay-images/images.json"].map(|table| root.join(table));
    fs::write(&tables[0], big::layers_json(images)).unwrap();
    fs::write(&tables[1], big::images_json(images)).unwrap();
    hook.0.lock().unwrap().clear();
    fixture::pull(&store, &[image("localhost/small:latest", vec![app("small")])]).unwrap().unwrap();
    let [layers, names] = tables.map(|table| fs::read(table).unwrap());
    // Nothing but one record more behind those that were there.
    for (after, before) in [(&layers, big::layers_json(images)), (&names, big::images_json(images))] {
        let before = before.strip_suffix(']').unwrap();
        assert!(after.starts_with(before.as_bytes()) && after[before.len()..].starts_with(b",{"), "{images}");
    }
    assert_eq!((Layers::parse(&layers).unwrap().len(), Images::parse(&names).unwrap().len()), (3 * images + 1, images + 1));
    std::mem::take(&mut *hook.0.lock().unwrap())
}

#[test]
fn a_pull_changes_the_disk_of_a_big_store_as_that_of_a_small_one() {
    let (small, large) = (changes(10), changes(IMAGES));
    assert_eq!(small, large);
    for table in ["layers.json", "images.json"] {
        assert_eq!(large.iter().filter(|change| **change == format!("Rename {table}")).count(), 1, "{table}");
    }
}
