//! A store as podman leaves it: unsealed, and what settling makes of it.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cstor_rs::clean::CleanPoint;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::LayerId;
use cstor_rs::overlay::Facts;
use cstor_rs::settle::{Outcome, SettleOptions, Settled, settle};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{SyncMode, TxnOptions};
use serde_json::Value;

use crate::common::fixture::{self, Image, app, base, image};

/// A store whose layers are as podman leaves them: unsealed.
pub struct Place {
    pub temp: tempfile::TempDir,
}

impl Place {
    pub fn with(images: &[Image]) -> Self {
        let place = Self { temp: tempfile::tempdir().unwrap() };
        place.add(images);
        place
    }

    pub fn add(&self, images: &[Image]) {
        let unsealed = TxnOptions { sync: SyncMode::None, ..TxnOptions::default() };
        fixture::pull_with(&self.store(), images, unsealed).unwrap().unwrap();
    }

    pub fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions::new(self.root(), self.temp.path().join("run"))
    }

    pub fn store(&self) -> Store {
        Store::open(self.options()).unwrap()
    }

    pub fn layer(&self, id: &LayerId) -> PathBuf {
        self.root().join("overlay").join(id.as_str())
    }

    pub fn settle(&self) -> Settled {
        settle(&self.store(), &[], &SettleOptions::default()).unwrap()
    }

    pub fn edit(&self, table: &str, change: impl Fn(&mut Vec<Value>)) {
        let path = self.root().join(table);
        let mut list: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut list);
        fs::write(&path, serde_json::to_vec(&list).unwrap()).unwrap();
    }

    pub fn clean(&self) -> CleanPoint {
        CleanPoint::load(&self.store().layout().unwrap().unwrap()).unwrap().unwrap()
    }

    /// The layers in the clean point.
    pub fn noted(&self) -> Vec<LayerId> {
        self.clean().layers().map(|(id, _)| id.clone()).collect()
    }

    pub fn seal_holds(&self, id: &LayerId) -> bool {
        let layout = self.store().layout().unwrap().unwrap();
        let facts = Facts::read(&layout.overlay, &layout.links, id).unwrap();
        let diff_id = layout.load_layers().unwrap().get(id).unwrap().diff_digest().unwrap().known().unwrap().clone();
        facts.seal.is_some_and(|seal| seal.holds(&diff_id, &facts.link.unwrap(), &facts.tree.unwrap()))
    }
}

pub fn chain(image: &Image) -> Vec<LayerId> {
    let mut list: Vec<LayerId> = Vec::new();
    for layer in &image.layers {
        list.push(LayerId::chain(list.last(), &layer.diff_id));
    }
    list
}

pub fn sorted(mut list: Vec<LayerId>) -> Vec<LayerId> {
    list.sort();
    list
}

pub fn one() -> Image {
    image("localhost/one:1", vec![base(), app("one")])
}

pub fn two() -> Image {
    image("localhost/two:1", vec![base(), app("two")])
}

pub fn outcomes(settled: &Settled) -> BTreeMap<LayerId, Outcome> {
    settled.layers.iter().map(|layer| (layer.id.clone(), layer.outcome.clone())).collect()
}

/// Counts syncs and other changes.
#[derive(Default)]
pub struct Count(pub Mutex<BTreeMap<&'static str, usize>>);

impl Hook for Count {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let kind = match op {
            Op::SyncFs(_) => "syncfs",
            Op::SyncData(_) | Op::SyncFile(_) => "file",
            Op::SyncDir(_) => "directory",
            _ => "change",
        };
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
        Ok(())
    }
}

pub fn counted(place: &Place, sync: SyncMode) -> (Settled, BTreeMap<&'static str, usize>) {
    let count = Arc::new(Count::default());
    let store = Store::open(place.options().hook(count.clone())).unwrap();
    count.0.lock().unwrap().clear();
    let settled = settle(&store, &[], &SettleOptions { sync, jobs: 3 }).unwrap();
    let count = count.0.lock().unwrap().clone();
    (settled, count)
}
