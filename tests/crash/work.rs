//! The workloads: what the store is before, and the transaction that is interrupted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cstor_rs::fsio::Hook;
use cstor_rs::ids::{Digest, ImageId, LayerId};
use cstor_rs::metadata::ImageRef;
use cstor_rs::plan::{Prune, SeveralNames};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{Receipt, SyncMode, TxnOptions, WriteTxn};
use serde_json::Value;

use crate::fixture::{self, Failure, Image, Member, app, base, image, layer};
use crate::oracle::{self, Said};

/// A workload by name.
#[derive(Clone, Copy)]
pub struct Work {
    pub name: &'static str,
    setup: fn(&Path),
    images: fn() -> Vec<Image>,
    /// What else the transaction changes; asked again, it finds nothing to do.
    changes: fn(&WriteTxn) -> Result<(), Failure>,
    /// Whether it is one edit of one table: few changes, and no journal.
    pub small: bool,
    /// Whether it removes images or layers.
    pub removes: bool,
}

const fn pulling(name: &'static str, setup: fn(&Path), images: fn() -> Vec<Image>) -> Work {
    Work { name, setup, images, changes: |_| Ok(()), small: false, removes: false }
}

const fn changing(name: &'static str, setup: fn(&Path), changes: fn(&WriteTxn) -> Result<(), Failure>) -> Work {
    Work { name, setup, images: Vec::new, changes, small: false, removes: true }
}

const fn editing(name: &'static str, setup: fn(&Path), changes: fn(&WriteTxn) -> Result<(), Failure>) -> Work {
    Work { name, setup, images: Vec::new, changes, small: true, removes: false }
}

pub const ALL: &[Work] = &[
    pulling("one", |_| {}, || vec![new_image()]),
    pulling("three", with_foreign, three),
    pulling("shared", with_old, || vec![new_image()]),
    pulling("verified", with_unsealed, || vec![new_image()]),
    pulling("healed", with_damaged, || vec![old_image()]),
    pulling("healed_under", with_damaged, || vec![new_image()]),
    pulling("lost", with_lost_directory, || vec![old_image()]),
    pulling("above", with_old, || vec![old_image(), above()]),
    pulling("mended", with_broken_structure, || vec![old_image()]),
    pulling("united", with_other_manifest, || vec![old_image()]),
    pulling("displaced", with_orphans, || vec![new_image()]),
    changing("delete", with_two, |txn| remove(txn, "localhost/kept:1")),
    changing("delete_shared", with_several, |txn| remove(txn, "localhost/app:latest")),
    changing("delete_below", with_above, |txn| remove(txn, "localhost/app:latest")),
    changing("delete_layer", with_loose_layer, |txn| {
        let loose = loose_layer();
        if txn.tables()?.layers.get(&loose).is_some() {
            txn.remove_layer(&loose)?;
        }
        Ok(())
    }),
    editing("retag", with_several, |txn| Ok(txn.tag(ImageRef::Name("localhost/second:1".into()), "localhost/app:latest")?)),
    editing("rename", with_several, |txn| {
        let second = ImageRef::Id(id_of(&second_image()));
        txn.set_metadata(second.clone(), "{\"a\":1}")?;
        Ok(txn.set_names(second, &["localhost/third:3".to_owned()])?)
    }),
    changing("documents", with_several, documents),
    changing("prune", with_unwanted, |txn| {
        let zero = std::time::Duration::ZERO;
        txn.prune(Prune { image_age: zero, layer_age: zero, ..Prune::new() });
        Ok(())
    }),
    Work {
        name: "mixed_documents",
        setup: with_several,
        images: || vec![new_image()],
        changes: documents_of_two,
        small: false,
        removes: true,
    },
    Work { name: "mixed", setup: with_several, images: || vec![new_image()], changes: mixed, small: false, removes: true },
    Work { name: "apply", setup: with_several, images: small_three, changes: apply, small: false, removes: true },
];

/// Removes the image of this name, if there is one, and whatever names it has.
fn remove(txn: &WriteTxn, name: &str) -> Result<(), Failure> {
    if txn.tables()?.images.by_name(name).is_some() {
        txn.remove_image(ImageRef::Name(name.into()), SeveralNames::Remove)?;
    }
    Ok(())
}

/// The name that new_image takes belongs to an image that goes; another one goes with a layer that the new one is not built on.
fn mixed(txn: &WriteTxn) -> Result<(), Failure> {
    let old = id_of(&old_image());
    if txn.tables()?.images.get(&old).is_some() {
        txn.remove_image(old, SeveralNames::Remove)?;
    }
    txn.tag(ImageRef::Name("localhost/app:latest".into()), "localhost/second:1")?;
    let second = id_of(&second_image());
    if txn.tables()?.images.get(&second).is_some() {
        txn.remove_image(second, SeveralNames::Untag)?;
    }
    Ok(())
}

/// Pull three, move a name, remove two.
fn apply(txn: &WriteTxn) -> Result<(), Failure> {
    txn.tag(ImageRef::Name("localhost/a:1".into()), "localhost/stable:1")?;
    for image in [old_image(), second_image()] {
        let id = id_of(&image);
        if txn.tables()?.images.get(&id).is_some() {
            txn.remove_image(id, SeveralNames::Remove)?;
        }
    }
    Ok(())
}

/// One item of big data is new, one replaced, one removed.
fn documents(txn: &WriteTxn) -> Result<(), Failure> {
    let image = id_of(&old_image());
    txn.set_big_data(&image, "new", b"new one")?;
    txn.set_big_data(&image, "signatures", b"replaced")?;
    if txn.tables()?.images.get(&image).is_some_and(|image| image.big_data_names().iter().any(|key| key == "obsolete")) {
        txn.remove_big_data(&image, "obsolete")?;
    }
    Ok(())
}

/// A new item and one that goes, and metadata of another image, beside a pull: recovery finds them between two table renames.
fn documents_of_two(txn: &WriteTxn) -> Result<(), Failure> {
    let old = id_of(&old_image());
    txn.set_big_data(&old, "new", b"new one")?;
    if txn.tables()?.images.get(&old).is_some_and(|image| image.big_data_names().iter().any(|key| key == "obsolete")) {
        txn.remove_big_data(&old, "obsolete")?;
    }
    Ok(txn.set_metadata(ImageRef::Id(id_of(&second_image())), "{\"a\":1}")?)
}

/// The id of an image.
pub fn id_of(image: &Image) -> ImageId {
    ImageId::of_config(&Digest::of(&image.config))
}

fn second_image() -> Image {
    image("localhost/second:1", vec![base(), app("second")])
}

/// Two images with nothing in common.
fn with_two(root: &Path) {
    with_old(root);
    fixture::pull(&open(root, None), &[image("localhost/kept:1", vec![app("kept"), app("upper")])]).unwrap();
}

/// Two images on one base, the first with more big data than most.
fn with_several(root: &Path) {
    let store = open(root, None);
    fixture::pull(&store, &[old_image(), second_image()]).unwrap();
    let txn = store.begin(TxnOptions::default()).unwrap();
    for (key, bytes) in [("signatures", b"first"), ("obsolete", b"gone!")] {
        txn.set_big_data(&id_of(&old_image()), key, bytes).unwrap();
    }
    fixture::commit(txn).unwrap();
}

/// An image, and one that is built on it.
fn with_above(root: &Path) {
    fixture::pull(&open(root, None), &[old_image(), above()]).unwrap();
}

/// A layer that no image needs, on one that an image needs.
fn with_loose_layer(root: &Path) {
    let store = open(root, None);
    fixture::pull(&store, &[old_image(), second_image()]).unwrap();
    // As after `podman rmi` was killed: the image's record is gone, its layer is there.
    let images = root.join("root/overlay-images");
    edit(&images.join("images.json"), |table| table.retain(|image| image["id"] != id_of(&second_image()).as_str()));
    std::fs::remove_dir_all(images.join(id_of(&second_image()).as_str())).unwrap();
}

/// The same, and an image without a name.
fn with_unwanted(root: &Path) {
    with_loose_layer(root);
    let store = open(root, None);
    fixture::pull(&store, &[image("localhost/nameless:1", vec![base(), app("nameless"), app("top")])]).unwrap();
    let txn = store.begin(TxnOptions::default()).unwrap();
    txn.untag(ImageRef::Name("localhost/nameless:1".into()), &[]).unwrap();
    fixture::commit(txn).unwrap();
}

fn loose_layer() -> LayerId {
    chain_of(&second_image()).remove(1)
}

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

/// Of one file for each layer: what is staged counts for little here.
fn small_three() -> Vec<Image> {
    let file = |name: &str| layer(&[Member::File(name, 0o644, name.as_bytes())]);
    let on = |name: &str| image(&format!("localhost/{name}:1"), vec![file("low"), file(name)]);
    vec![on("a"), on("b"), image("localhost/app:latest", vec![file("c")])]
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
    chain_of(&old_image())
}

fn chain_of(image: &Image) -> Vec<LayerId> {
    let mut list: Vec<LayerId> = Vec::new();
    for layer in &image.layers {
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

    /// A count below which a test has not done what it says.
    pub fn least(&self, usual: usize) -> usize {
        if self.small { 4 } else { usual }
    }

    /// Every how many crash points are followed by every crash point of the recovery, and by every act of podman: all of them
    /// where `CSTOR_CRASH_ALL` is set, as `scripts/test` does; in plain `cargo test` a sample of the workloads that remove.
    pub fn stride(&self) -> usize {
        if !self.removes || std::env::var_os("CSTOR_CRASH_ALL").is_some() {
            return 1;
        }
        println!("{}: a sample of the pairs; CSTOR_CRASH_ALL=1 takes all", self.name);
        4
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
        fixture::change_with(&open(root, hook), &(self.images)(), self.changes, TxnOptions { sync, ..TxnOptions::default() })
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
    /// Whether the workload is one edit without a journal.
    pub small: bool,
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
        Self { before, healed, after, known, small: work.small }
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
        if let Ok(before) = &self.before
            && before.images == self.after.images
        {
            // Only the layers tell.
            return if seen == *before || seen == self.after {
                Ok(seen == self.after)
            } else {
                Err(format!("neither before nor after: {seen:?}"))
            };
        }
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
