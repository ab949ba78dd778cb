//! The workloads: what the store is before, and the transaction that is interrupted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cstor_rs::fsio::Hook;
use cstor_rs::ids::LayerId;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{Receipt, SyncMode, TxnOptions};
use serde_json::Value;

use crate::fixture::{self, Failure, Image, app, base, image};
use crate::oracle::{self, Said};

/// A workload by name.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub name: &'static str,
    setup: fn(&Path),
    images: fn() -> Vec<Image>,
}

pub const ALL: &[Work] = &[
    Work { name: "one", setup: |_| {}, images: || vec![new_image()] },
    Work { name: "three", setup: with_foreign, images: three },
    Work { name: "shared", setup: with_old, images: || vec![new_image()] },
    Work { name: "verified", setup: with_unsealed, images: || vec![new_image()] },
    Work { name: "healed", setup: with_damaged, images: || vec![old_image()] },
    Work { name: "healed_under", setup: with_damaged, images: || vec![new_image()] },
    Work { name: "lost", setup: with_lost_directory, images: || vec![old_image()] },
    Work { name: "above", setup: with_old, images: || vec![old_image(), above()] },
    Work { name: "mended", setup: with_broken_structure, images: || vec![old_image()] },
    Work { name: "united", setup: with_other_manifest, images: || vec![old_image()] },
    Work { name: "displaced", setup: with_orphans, images: || vec![new_image()] },
];

fn new_image() -> Image {
    image("localhost/app:latest", vec![base(), app("new")])
}

fn old_image() -> Image {
    image("localhost/app:latest", vec![base(), app("old")])
}

/// An image that is built on the old one.
fn above() -> Image {
    image("localhost/above:1", vec![base(), app("old"), app("above")])
}

fn three() -> Vec<Image> {
    let on_base = |name: &str| image(&format!("localhost/{name}:1"), vec![base(), app(name)]);
    vec![on_base("a"), on_base("b"), image("localhost/app:latest", vec![app("c")])]
}

/// One image of ours, whose name the new one takes.
fn with_old(root: &Path) {
    fixture::pull(&open(root, None), &[old_image()]).unwrap();
}

fn edit(path: &Path, change: impl Fn(&mut Vec<Value>)) {
    let mut table: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut table);
    std::fs::write(path, serde_json::to_vec(&table).unwrap()).unwrap();
}

/// The same with fields that no version of podman has yet.
fn with_foreign(root: &Path) {
    with_old(root);
    edit(&root.join("root/overlay-images/images.json"), |table| table[0]["from-the-future"] = serde_json::json!({"a": [1.50, null]}));
    edit(&root.join("root/overlay-layers/layers.json"), |table| table[0]["from-the-future"] = serde_json::json!(12345678901234567890u64));
}

/// The same as podman would have left it: nothing is sealed.
fn with_unsealed(root: &Path) {
    with_old(root);
    for layer in old_layers() {
        std::fs::remove_file(root.join("root/overlay").join(layer.as_str()).join("cstor-rs.seal")).unwrap();
    }
}

/// The layer that the old image and the new one have in common.
pub fn shared_layer() -> LayerId {
    old_layers().remove(0)
}

fn old_layers() -> Vec<LayerId> {
    let mut list: Vec<LayerId> = Vec::new();
    for layer in old_image().layers {
        list.push(LayerId::chain(list.last(), &layer.diff_id));
    }
    list
}

/// The same after a power cut: files of the base layer are empty.
fn with_damaged(root: &Path) {
    with_unsealed(root);
    let dir = root.join("root/overlay").join(old_layers()[0].as_str());
    std::fs::File::options().write(true).truncate(true).open(dir.join("diff/bin/tool")).unwrap();
}

/// The same after a power cut that lost the names of the upper layer's directory and of its link: its record is there.
fn with_lost_directory(root: &Path) {
    with_unsealed(root);
    let overlay = root.join("root/overlay");
    let dir = overlay.join(old_layers()[1].as_str());
    std::fs::remove_file(overlay.join("l").join(std::fs::read_to_string(dir.join("link")).unwrap())).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

/// The same after a power cut that left the small files empty, as ext4, XFS and btrfs do.
fn with_broken_structure(root: &Path) {
    with_unsealed(root);
    let overlay = root.join("root/overlay");
    let layers = old_layers();
    let (lower, upper) = (overlay.join(layers[0].as_str()), overlay.join(layers[1].as_str()));
    std::fs::remove_file(overlay.join("l").join(std::fs::read_to_string(upper.join("link")).unwrap())).unwrap();
    for file in [lower.join("link"), upper.join("lower"), upper.join("lower-layers")] {
        std::fs::File::options().write(true).truncate(true).open(file).unwrap();
    }
    std::fs::remove_dir_all(upper.join("diff")).unwrap();
    std::fs::remove_dir(lower.join("empty")).unwrap();
}

/// The same image, pulled through another manifest.
fn with_other_manifest(root: &Path) {
    let mut old = old_image();
    old.manifest.push(b'\n');
    old.name = "localhost/other:latest".to_owned();
    fixture::pull(&open(root, None), &[old]).unwrap();
}

/// A store in which a crash of podman left directories without records, under ids that the pull needs.
fn with_orphans(root: &Path) {
    fixture::pull(&open(root, None), &[image("localhost/kept:1", vec![app("kept")])]).unwrap();
    let root = root.join("root");
    let new = new_image();
    let id = LayerId::chain(None, &new.layers[0].diff_id);
    let (dir, link) = (root.join("overlay").join(id.as_str()), "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    std::fs::create_dir_all(dir.join("diff/half")).unwrap();
    std::fs::write(dir.join("link"), link).unwrap();
    std::os::unix::fs::symlink(format!("../{id}/diff"), root.join("overlay/l").join(link)).unwrap();
    std::fs::write(root.join(format!("overlay-layers/{id}.tar-split.gz")), b"half").unwrap();
    let image = cstor_rs::ids::ImageId::of_config(&cstor_rs::ids::Digest::of(&new.config));
    std::fs::create_dir(root.join("overlay-images").join(image.as_str())).unwrap();
    std::fs::write(root.join("overlay-images").join(image.as_str()).join("manifest"), b"").unwrap();
}

/// The store of a workload's directory, with a hook or without.
pub fn options(root: &Path, hook: Option<Arc<dyn Hook>>) -> StoreOptions {
    let options = StoreOptions::new(root.join("root"), root.join("run"));
    match hook {
        Some(hook) => options.hook(hook),
        None => options,
    }
}

fn open(root: &Path, hook: Option<Arc<dyn Hook>>) -> Store {
    Store::open(options(root, hook)).unwrap()
}

impl Work {
    pub fn named(name: &str) -> Self {
        *ALL.iter().find(|work| work.name == name).unwrap()
    }

    /// Makes the store as it is before.
    pub fn setup(&self, root: &Path) {
        (self.setup)(root);
    }

    /// Runs the transaction.
    pub fn run(&self, root: &Path, hook: Option<Arc<dyn Hook>>) -> Result<Option<Receipt>, Failure> {
        self.run_with(root, hook, SyncMode::default())
    }

    /// The same, with contents synced in this way.
    pub fn run_with(&self, root: &Path, hook: Option<Arc<dyn Hook>>, sync: SyncMode) -> Result<Option<Receipt>, Failure> {
        fixture::pull_with(&open(root, hook), &(self.images)(), TxnOptions { sync, ..TxnOptions::default() })
    }
}

/// What there is before and after, from a run that nothing interrupts.
pub struct Expected {
    pub before: Result<Said, String>,
    /// Of a store that is damaged before: what it is once the damage is healed. Going back may leave it so.
    pub healed: Option<Said>,
    pub after: Said,
    /// What stands in the store without a record before, and may go on standing there.
    pub known: BTreeSet<PathBuf>,
}

impl Expected {
    pub fn of(work: &Work) -> Self {
        let temp = temp();
        work.setup(temp.path());
        let root = temp.path().join("root");
        let before = oracle::read(&root);
        let healed = before.is_err().then(|| {
            let temp = self::temp();
            work.setup(temp.path());
            fixture::pull(&open(temp.path(), None), &[old_image()]).unwrap();
            oracle::read(&temp.path().join("root")).unwrap()
        });
        let known = oracle::leftovers(&root, &BTreeSet::new()).into_iter().collect();
        work.run(temp.path(), None).unwrap().expect("the workload changes the store");
        let after = oracle::read(&root).unwrap();
        oracle::data_agrees(&after).unwrap();
        assert_eq!(oracle::leftovers(&root, &BTreeSet::new()), Vec::<PathBuf>::new(), "{}", work.name);
        if let Ok(before) = &before {
            assert_ne!(before, &after, "{}", work.name);
        }
        Self { before, healed, after, known }
    }

    /// Whether the store is as before, `Some(true)` as after.
    pub fn place(&self, seen: &Result<Said, String>) -> Option<bool> {
        if seen.as_ref() == Ok(&self.after) {
            return Some(true);
        }
        if seen.as_ref().ok().is_some_and(|seen| Some(seen) == self.healed.as_ref()) {
            return Some(false);
        }
        match (seen, &self.before) {
            (Ok(seen), Ok(before)) => (seen == before).then_some(false),
            // A damaged store is damaged in the same way.
            (Err(seen), Err(before)) => (strip(seen) == strip(before)).then_some(false),
            _ => None,
        }
    }

    /// Whether every image that a reader sees is whole, and the images are those of before or after.
    pub fn readable(&self, root: &Path) -> Result<bool, String> {
        let seen = oracle::read(root);
        // What was damaged may be half mended.
        if seen.is_err() && self.before.is_err() {
            return Ok(false);
        }
        let seen = seen?;
        if seen.images == self.after.images {
            return Ok(true);
        }
        let Ok(before) = &self.before else { return Ok(false) };
        let names = |said: &Said| -> Vec<Value> { said.images.values().map(|(record, _)| record.clone()).collect() };
        // While replaced items of big data are exchanged, records are after and items are before.
        if names(&seen) == names(&self.after) {
            return Ok(true);
        }
        if seen.images != before.images {
            return Err(format!("images are neither before nor after: {:?}", names(&seen)));
        }
        Ok(false)
    }
}

/// An error without the directory it happened in, and without LINKIDs.
fn strip(text: &str) -> String {
    let plain = |word: &str| {
        let word = word.rsplit("/root/").next().unwrap_or_default().trim_end_matches(':').to_owned();
        match word.strip_prefix("overlay/l/") {
            Some(_) => "overlay/l/LINKID".to_owned(),
            None => word,
        }
    };
    text.split(' ').map(plain).collect::<Vec<_>>().join(" ")
}

/// A directory in memory, where there is one: nothing here depends on what the medium does.
pub fn temp() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("cstor-crash-").tempdir_in(base).unwrap()
}
