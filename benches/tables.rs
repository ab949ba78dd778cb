//! The tables of big stores: `cargo bench --bench tables`.
//!
//! The argument is the number of images; there are three times as many layers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../tests/common/big.rs"]
mod big;

use cstor_rs::ids::{ImageId, LayerId};
use cstor_rs::layout::{Mounted, Tables, Users};
use cstor_rs::metadata::{Containers, Images, Layers, Mountpoints};
use divan::Bencher;

const SIZES: [usize; 2] = [1_000, 10_000];
/// Where a step costs nanoseconds, the smallest table fits into the processor's cache and the others do not: their
/// ratio is that of the work.
const WIDE: [usize; 3] = [1_000, 10_000, 30_000];

fn main() {
    divan::main();
}

fn images(n: usize) -> Images {
    Images::parse(big::images_json(n).as_bytes()).unwrap()
}

fn layers(n: usize) -> Layers {
    Layers::parse(big::layers_json(n).as_bytes()).unwrap()
}

fn id(n: usize) -> ImageId {
    big::image_id(n).parse().unwrap()
}

fn layer(n: usize) -> LayerId {
    big::layer_id(n).parse().unwrap()
}

#[divan::bench(args = SIZES)]
fn parse_images(bencher: Bencher<'_, '_>, n: usize) {
    let json = big::images_json(n);
    bencher.bench(|| Images::parse(json.as_bytes()).unwrap());
}

#[divan::bench(args = SIZES)]
fn parse_layers(bencher: Bencher<'_, '_>, n: usize) {
    let json = big::layers_json(n);
    bencher.bench(|| Layers::parse(json.as_bytes()).unwrap());
}

#[divan::bench(args = SIZES)]
fn encode_images(bencher: Bencher<'_, '_>, n: usize) {
    let table = images(n);
    bencher.bench(|| table.encode());
}

#[divan::bench(args = SIZES)]
fn encode_layers(bencher: Bencher<'_, '_>, n: usize) {
    let table = layers(n);
    bencher.bench(|| table.encode());
}

/// A name goes from one image to another and back: two edits of two records each.
#[divan::bench(args = SIZES)]
fn move_one_tag_there_and_back(bencher: Bencher<'_, '_>, n: usize) {
    let mut table = images(n);
    let name = [big::image_name(1)];
    bencher.bench_local(|| {
        table.add_names(&id(2), &name).unwrap();
        table.add_names(&id(1), &name).unwrap();
    });
}

/// The table grows by nothing: the hundred new names are taken away again.
#[divan::bench(args = SIZES)]
fn tag_100_images_and_untag_them(bencher: Bencher<'_, '_>, n: usize) {
    let mut table = images(n);
    let tags: Vec<(ImageId, [String; 1])> = (0..100).map(|tag| (id(tag * n / 100), [format!("localhost/tag:{tag}")])).collect();
    bencher.bench_local(|| {
        for (id, name) in &tags {
            table.add_names(id, name).unwrap();
        }
        for (id, name) in &tags {
            table.remove_names(id, name).unwrap();
        }
    });
}

#[divan::bench(args = SIZES)]
fn remove_all_images_and_layers(bencher: Bencher<'_, '_>, n: usize) {
    let tables = (images(n), layers(n));
    bencher.with_inputs(|| tables.clone()).bench_local_values(|(mut images, mut layers)| {
        for n in (0..n).rev() {
            images.remove(&id(n)).unwrap();
            for n in (n * big::LAYERS_PER_IMAGE..(n + 1) * big::LAYERS_PER_IMAGE).rev() {
                assert!(images.by_layer(&layer(n)).next().is_none() && layers.children(&layer(n)).next().is_none());
                layers.remove(&layer(n)).unwrap();
            }
        }
    });
}

/// Every hundredth image runs as a container whose layer is mounted.
fn tables(n: usize) -> (Tables, Vec<Mounted>) {
    let (mut records, mut mounted) = (Vec::new(), Vec::new());
    for run in 0..n / 100 {
        let (image, layer) = (big::image_id(run * 100), big::layer_id(run * 300 + 2));
        records.push(format!("{{\"id\":\"c{run}\",\"names\":[\"run-{run}\"],\"image\":\"{image}\",\"layer\":\"{layer}\"}}"));
        mounted.push(Mounted { path: format!("/store/overlay/{layer}/merged"), layer });
    }
    let tables = Tables {
        layers: layers(n),
        volatile: Layers::default(),
        images: images(n),
        containers: Containers::parse(format!("[{}]", records.join(",")).as_bytes()).unwrap(),
        volatile_containers: Containers::default(),
        mounts: Mountpoints::default(),
    };
    (tables, mounted)
}

#[divan::bench(args = WIDE)]
fn gather_users(bencher: Bencher<'_, '_>, n: usize) {
    let (tables, mounted) = tables(n);
    bencher.bench(|| Users::new(&tables, mounted.clone()));
}

#[divan::bench(args = WIDE)]
fn ask_for_the_user_of_every_layer(bencher: Bencher<'_, '_>, n: usize) {
    let (tables, mounted) = tables(n);
    let users = Users::new(&tables, mounted);
    bencher.bench(|| tables.layers.iter().filter(|layer| layer.id().is_some_and(|id| users.of_family(id).is_some())).count());
}
