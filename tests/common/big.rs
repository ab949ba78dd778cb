//! The tables of a big store: what podman would have written after pulling thousands of images.
//!
//! Every image brings three layers. Ten images are a family: the first has a base layer and two on it, the others
//! stand on its second. So a family has 30 layers, chains four or five long, and one layer with ten children.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Layers that every image brings.
pub const LAYERS_PER_IMAGE: usize = 3;
const FAMILY: usize = 10;

/// 64 hex digits for a thing of this kind and number, the same at every run.
fn hex(kind: u64, n: usize) -> String {
    let mut state = (kind << 56) ^ n as u64;
    let mut text = String::with_capacity(64);
    for _ in 0..4 {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        write!(text, "{:016x}", word ^ (word >> 31)).unwrap();
    }
    text
}

/// The id of layer `n`; image `k` has the layers 3k to 3k+2 and 3k+2 on top.
pub fn layer_id(n: usize) -> String {
    hex(1, n)
}

/// The id of image `n`.
pub fn image_id(n: usize) -> String {
    hex(2, n)
}

/// The name that image `n` was pulled by.
pub fn image_name(n: usize) -> String {
    format!("registry.example.com/team-{}/service-{n:05}:v1.{}", n / FAMILY, n % FAMILY)
}

/// The parent of layer `n`.
pub fn parent(n: usize) -> Option<usize> {
    let (image, own) = (n / LAYERS_PER_IMAGE, n % LAYERS_PER_IMAGE);
    let first = image - image % FAMILY;
    match own {
        0 if image == first => None,
        0 => Some(first * LAYERS_PER_IMAGE + 1),
        _ => Some(n - 1),
    }
}

fn layer(n: usize) -> String {
    let id = layer_id(n);
    let (parent, diff) = match parent(n) {
        // The DiffID of a base layer is its id.
        None => (String::new(), id.clone()),
        Some(parent) => (format!("\"parent\":\"{}\",", layer_id(parent)), hex(3, n)),
    };
    let (ids, groups) = if n % 3 == 1 { ("[0,33,42,101]", "[0,4,42,999]") } else { ("[0]", "[0]") };
    format!(
        "{{\"id\":\"{id}\",{parent}\"created\":\"2026-11-24T02:32:{:02}.{:08}{}Z\",\"compressed-diff-digest\":\"sha256:{}\",\
         \"compressed-size\":{},\"diff-digest\":\"sha256:{diff}\",\"diff-size\":{},\"compression\":2,\"uidset\":{ids},\"gidset\":{groups}}}",
        n % 60,
        86_806_292 + n,
        // Go writes no zero at the end.
        1 + n % 9,
        hex(4, n),
        35_125 + 1000 * n,
        (68 + n) * 2560,
    )
}

fn image(n: usize) -> String {
    let (id, index, manifest) = (image_id(n), format!("sha256:{}", hex(5, n)), format!("sha256:{}", hex(6, n)));
    let config = format!("sha256:{id}");
    let items =
        [(config.clone(), 7131, &config), (format!("manifest-{index}"), 1609, &index), (format!("manifest-{manifest}"), 956, &manifest)];
    let items: Vec<_> = items.into_iter().chain([("manifest".to_owned(), 956, &manifest)]).collect();
    let sorted: BTreeMap<_, _> = items.iter().map(|(key, size, digest)| (key, (size, digest))).collect();
    let list = |items: Vec<String>| items.join(",");
    // Every fifth image was tagged once more.
    let (tag, history) = if n.is_multiple_of(5) {
        let tag = format!("localhost/stable-{n}:latest");
        (format!("\"{tag}\","), format!("\"names-history\":[\"{}\",\"{tag}\"],", image_name(n)))
    } else {
        (String::new(), String::new())
    };
    format!(
        "{{\"id\":\"{id}\",\"digest\":\"{index}\",\"names\":[{tag}\"{}\"],{history}\"layer\":\"{}\",\"metadata\":\"{{}}\",\
         \"big-data-names\":[{}],\"big-data-sizes\":{{{}}},\"big-data-digests\":{{{}}},\"created\":\"2026-11-24T01:56:09.39603492{}Z\"}}",
        image_name(n),
        layer_id(n * LAYERS_PER_IMAGE + LAYERS_PER_IMAGE - 1),
        list(items.iter().map(|(key, _, _)| format!("\"{key}\"")).collect()),
        list(sorted.iter().map(|(key, (size, _))| format!("\"{key}\":{size}")).collect()),
        list(sorted.iter().map(|(key, (_, digest))| format!("\"{key}\":\"{digest}\"")).collect()),
        1 + n % 9,
    )
}

fn table(count: usize, record: impl Fn(usize) -> String) -> String {
    format!("[{}]", (0..count).map(record).collect::<Vec<_>>().join(","))
}

/// layers.json of a store with so many images.
pub fn layers_json(images: usize) -> String {
    table(images * LAYERS_PER_IMAGE, layer)
}

/// images.json of a store with so many images.
pub fn images_json(images: usize) -> String {
    table(images, image)
}
