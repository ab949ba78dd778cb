//! Injuries of layers.json and images.json as files.

use std::fs;

use super::target::{Target, at, cut, empty, nul, remove, rot};
use super::{IMAGES, Injury, LAYERS};

const LAYERS_ROW: &str = "layers.json empty, truncated, NUL, garbled";
const IMAGES_ROW: &str = "images.json empty, truncated, lacks an image";

pub const ALL: &[Injury] = &[
    layers("layers-table-empty", &["layers-table-unreadable"], |t| empty(&t.layers_json())),
    layers("layers-table-truncated", &["layers-table-unreadable"], |t| cut(&t.layers_json())),
    layers("layers-table-nul", &["layers-table-unreadable"], |t| nul(&t.layers_json())),
    layers("layers-table-nul-tail", &["layers-table-unreadable"], |t| {
        rot(&t.layers_json(), |bytes| {
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
        })
    }),
    layers("layers-table-garbled", &["layers-table-unreadable"], |t| rot(&t.layers_json(), |bytes| bytes[0] = b'{')),
    layers("layers-table-no-array", &["layers-table-unreadable"], |t| rot(&t.layers_json(), |bytes| *bytes = br#"{"id":"x"}"#.to_vec())),
    layers("layers-table-missing", &["layers-table-missing"], |t| remove(&t.layers_json())),
    layers("layers-table-no-records", &["layer-record-missing"], |t| at(&t.layers_json(), fs::write(t.layers_json(), "[]"))),
    images("images-table-empty", &["images-table-unreadable"], |t| empty(&t.images_json())),
    images("images-table-truncated", &["images-table-unreadable"], |t| cut(&t.images_json())),
    images("images-table-nul", &["images-table-unreadable"], |t| nul(&t.images_json())),
    images("images-table-garbled", &["images-table-unreadable"], |t| rot(&t.images_json(), |bytes| bytes[0] = b'{')),
    images("images-table-missing", &["images-table-missing"], |t| remove(&t.images_json())),
    images("images-table-no-records", &["image-record-missing"], |t| at(&t.images_json(), fs::write(t.images_json(), "[]"))),
    images("images-record-missing", &["image-record-missing"], |t| Target::forget(&t.images_json(), &t.image)),
];

const fn layers(name: &'static str, codes: &'static [&'static str], hurt: super::Hurt) -> Injury {
    Injury::quick(LAYERS_ROW, name, codes, hurt).exempt(LAYERS)
}

const fn images(name: &'static str, codes: &'static [&'static str], hurt: super::Hurt) -> Injury {
    Injury::quick(IMAGES_ROW, name, codes, hurt).exempt(IMAGES)
}
