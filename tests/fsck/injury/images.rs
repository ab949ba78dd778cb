//! Injuries of an image's documents.

use std::path::PathBuf;

use super::target::{Result, Target, cut, empty, flip, nul, remove, table, text};
use super::{Fetch, Injury};
use crate::oracle::data_file;

const COPY: &str = "manifest or manifest-<digest> missing while the other is there";
const LOST: &str = "both manifests or config missing or garbled";

pub const ALL: &[Injury] = &[
    Injury::quick(COPY, "manifest-missing", &["image-manifest-missing"], |t| remove(&manifest(t))),
    Injury::quick(COPY, "manifest-instance-missing", &["image-manifest-missing"], |t| remove(&instance(t)?)),
    Injury::quick(COPY, "manifest-garbled", &["image-manifest-wrong"], |t| flip(&manifest(t))),
    Injury::quick(COPY, "manifest-empty", &["image-manifest-wrong"], |t| empty(&manifest(t))),
    Injury::quick(COPY, "manifest-instance-nul", &["image-manifest-wrong"], |t| nul(&instance(t)?)),
    lost("manifests-missing", &["image-manifest-missing"], Fetch::Manifest, |t| {
        remove(&manifest(t))?;
        remove(&instance(t)?)
    }),
    lost("manifests-garbled", &["image-manifest-wrong"], Fetch::Manifest, |t| {
        flip(&manifest(t))?;
        cut(&instance(t)?)
    }),
    lost("manifests-missing-and-garbled", &["image-manifest-missing", "image-manifest-wrong"], Fetch::Manifest, |t| {
        flip(&manifest(t))?;
        remove(&instance(t)?)
    }),
    lost("config-missing", &["image-config-missing"], Fetch::Config, |t| remove(&config(t)?)),
    lost("config-garbled", &["image-config-wrong"], Fetch::Config, |t| flip(&config(t)?)),
    lost("config-nul", &["image-config-wrong"], Fetch::Config, |t| nul(&config(t)?)),
    lost("config-empty", &["image-config-wrong"], Fetch::Config, |t| empty(&config(t)?)),
];

const fn lost(name: &'static str, codes: &'static [&'static str], what: Fetch, hurt: super::Hurt) -> Injury {
    Injury::quick(LOST, name, codes, hurt).refetch(what)
}

fn data(t: &Target, key: &str) -> PathBuf {
    t.root.join("overlay-images").join(&t.image).join(data_file(key))
}

fn manifest(t: &Target) -> PathBuf {
    data(t, "manifest")
}

fn key(t: &Target, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let images = table(&t.images_json())?;
    let image = images.iter().find(|image| text(image, "id") == t.image).ok_or("the image has no record")?;
    let keys = image["big-data-names"].as_array().into_iter().flatten().filter_map(|key| key.as_str());
    Ok(data(t, keys.into_iter().find(|key| wanted(key)).ok_or("the image has no such item")?))
}

/// Under the digest of the manifest that `manifest` has too; an index lies beside it.
fn instance(t: &Target) -> Result<PathBuf> {
    let digest = crate::oracle::sha256(&super::target::at(&manifest(t), std::fs::read(manifest(t))).unwrap_or_default());
    key(t, |key| key == format!("manifest-sha256:{digest}")).or_else(|_| key(t, |key| key.starts_with("manifest-sha256:")))
}

fn config(t: &Target) -> Result<PathBuf> {
    key(t, |key| key == format!("sha256:{}", t.image))
}
