//! Settling through the library: what is sealed, what is not, and what is synced for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::fixture::{self, Image, app, base, image};
use common::once::Once;
use cstor_rs::clean::CleanPoint;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::{Digest, ImageId, LayerId};
use cstor_rs::lock::{StoreLocks, Wait};
use cstor_rs::metadata::ImageRef;
use cstor_rs::overlay::{Facts, Seal};
use cstor_rs::plan::SeveralNames;
use cstor_rs::settle::{BATCH, Outcome, SettleError, SettleOptions, Settled, Skip, settle};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{SyncMode, TxnOptions};
use serde_json::Value;

/// A store whose layers are as podman leaves them: unsealed.
struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn with(images: &[Image]) -> Self {
        let place = Self { temp: tempfile::tempdir().unwrap() };
        place.add(images);
        place
    }

    fn add(&self, images: &[Image]) {
        let unsealed = TxnOptions { sync: SyncMode::None, ..TxnOptions::default() };
        fixture::pull_with(&self.store(), images, unsealed).unwrap().unwrap();
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn options(&self) -> StoreOptions {
        StoreOptions::new(self.root(), self.temp.path().join("run"))
    }

    fn store(&self) -> Store {
        Store::open(self.options()).unwrap()
    }

    fn layer(&self, id: &LayerId) -> PathBuf {
        self.root().join("overlay").join(id.as_str())
    }

    fn settle(&self) -> Settled {
        settle(&self.store(), &[], &SettleOptions::default()).unwrap()
    }

    fn edit(&self, table: &str, change: impl Fn(&mut Vec<Value>)) {
        let path = self.root().join(table);
        let mut list: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut list);
        fs::write(&path, serde_json::to_vec(&list).unwrap()).unwrap();
    }

    fn clean(&self) -> CleanPoint {
        CleanPoint::load(&self.store().layout().unwrap().unwrap()).unwrap().unwrap()
    }

    /// The layers in the clean point.
    fn noted(&self) -> Vec<LayerId> {
        self.clean().layers().map(|(id, _)| id.clone()).collect()
    }

    fn seal_holds(&self, id: &LayerId) -> bool {
        let layout = self.store().layout().unwrap().unwrap();
        let facts = Facts::read(&layout.overlay, &layout.links, id).unwrap();
        let diff_id = layout.load_layers().unwrap().get(id).unwrap().diff_digest().unwrap().known().unwrap().clone();
        facts.seal.is_some_and(|seal| seal.holds(&diff_id, &facts.link.unwrap(), &facts.tree.unwrap()))
    }
}

fn chain(image: &Image) -> Vec<LayerId> {
    let mut list: Vec<LayerId> = Vec::new();
    for layer in &image.layers {
        list.push(LayerId::chain(list.last(), &layer.diff_id));
    }
    list
}

fn sorted(mut list: Vec<LayerId>) -> Vec<LayerId> {
    list.sort();
    list
}

fn one() -> Image {
    image("localhost/one:1", vec![base(), app("one")])
}

fn two() -> Image {
    image("localhost/two:1", vec![base(), app("two")])
}

fn outcomes(settled: &Settled) -> BTreeMap<LayerId, Outcome> {
    settled.layers.iter().map(|layer| (layer.id.clone(), layer.outcome.clone())).collect()
}

/// Counts syncs and other changes.
#[derive(Default)]
struct Count(Mutex<BTreeMap<&'static str, usize>>);

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

fn counted(place: &Place, sync: SyncMode) -> (Settled, BTreeMap<&'static str, usize>) {
    let count = Arc::new(Count::default());
    let store = Store::open(place.options().hook(count.clone())).unwrap();
    count.0.lock().unwrap().clear();
    let settled = settle(&store, &[], &SettleOptions { sync, jobs: 3 }).unwrap();
    let count = count.0.lock().unwrap().clone();
    (settled, count)
}

#[test]
fn what_is_settled_is_sealed_and_noted() {
    let place = Place::with(&[one(), two()]);
    let layers: Vec<LayerId> = [chain(&one()), chain(&two())[1..].to_vec()].concat();
    assert!(!layers.iter().any(|id| place.layer(id).join("cstor-rs.seal").exists()));
    let settled = place.settle();
    assert_eq!(settled.layers.iter().map(|layer| layer.id.clone()).collect::<Vec<_>>(), layers, "parents first, each once");
    assert!(settled.layers.iter().all(|layer| layer.outcome == Outcome::Sealed), "{settled:?}");
    assert!(layers.iter().all(|id| place.seal_holds(id)));
    assert_eq!((settled.images.len(), settled.synced, settled.noted), (2, true, true));
    assert_eq!(place.noted(), sorted(layers.clone()));
    let (point, again) = (place.clean(), place.settle());
    assert!(again.layers.iter().all(|layer| layer.outcome == Outcome::AlreadySealed), "{again:?}");
    assert_eq!((again.synced, again.noted, place.clean()), (false, true, point));
}

#[test]
fn only_the_named_images_are_settled() {
    let place = Place::with(&[one(), two()]);
    let named = |name: &str| ImageRef::Name(name.to_owned());
    let refs = [named("localhost/two:1"), named("localhost/none:1"), named("localhost/two:1")];
    let settled = settle(&place.store(), &refs, &SettleOptions::default()).unwrap();
    assert_eq!(settled.layers.iter().map(|layer| layer.id.clone()).collect::<Vec<_>>(), chain(&two()));
    assert_eq!(settled.images, [ImageId::of_config(&Digest::of(&two().config))]);
    assert_eq!(settled.unknown.len(), 1);
    assert!(settled.unknown[0].to_string().contains("localhost/none:1"), "{}", settled.unknown[0]);
    assert!(!place.seal_holds(&chain(&one())[1]));
    assert_eq!(place.noted(), sorted(chain(&two())));
    // The others later: what was noted stays.
    place.settle();
    assert_eq!(place.noted(), sorted([chain(&one()), chain(&two())[1..].to_vec()].concat()));
}

#[test]
fn s5_syncs_are_one_for_the_filesystem_and_two_for_each_seal() {
    let place = Place::with(&[one(), two()]);
    let (settled, count) = counted(&place, SyncMode::Filesystem);
    assert!(settled.layers.iter().all(|layer| layer.outcome == Outcome::Sealed));
    // Of each of three seals and of the clean point: the file, and its directory. Each is created, written and renamed.
    assert_eq!(count, BTreeMap::from([("syncfs", 1), ("file", 4), ("directory", 4), ("change", 12)]));
    for sync in [SyncMode::Filesystem, SyncMode::Files] {
        assert_eq!(counted(&place, sync).1, BTreeMap::new(), "{sync:?}: nobody has written since");
    }
    // A name alone: nothing to verify, but its table and documents are to be brought there.
    let txn = place.store().begin(TxnOptions::default()).unwrap();
    txn.tag(ImageRef::Name("localhost/one:1".into()), "localhost/other:1").unwrap();
    fixture::commit(txn).unwrap();
    assert_eq!(counted(&place, SyncMode::Filesystem).1, BTreeMap::from([("syncfs", 1), ("file", 1), ("directory", 1), ("change", 3)]));
    assert_eq!(counted(&place, SyncMode::Filesystem).1, BTreeMap::new());
}

#[test]
fn without_syncfs_every_file_is_synced_by_itself() {
    let place = Place::with(&[one()]);
    let (settled, count) = counted(&place, SyncMode::Files);
    assert!(settled.layers.iter().all(|layer| layer.outcome == Outcome::Sealed));
    // Regular files: three in the base (a hard link makes a fourth name), one above; `link` twice, `lower`, `lower-layers`;
    // two tar-splits; both tables, a config, two manifests; two seals, the clean point.
    // Directories: `diff`, `etc`, `bin`; `diff`, `app`, `etc`; two layers; overlay, l, overlay-layers; overlay-layers,
    // the image, overlay-images; the root; two layers again and `cstor-rs`.
    assert_eq!(count, BTreeMap::from([("file", 19), ("directory", 18), ("change", 9)]));
    assert_eq!(counted(&place, SyncMode::Files).1, BTreeMap::new());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn each_filesystem_is_synced_once() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut mounts = Vec::new();
    for part in ["overlay", "overlay-layers", "overlay-images"] {
        let dir = temp.path().join("root").join(part);
        fs::create_dir_all(&dir).unwrap();
        if part != "overlay" {
            assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir).status().unwrap().success());
            mounts.push(Unmount(dir));
        }
    }
    let place = Place { temp };
    place.add(&[one()]);
    assert_eq!(counted(&place, SyncMode::Filesystem).1, BTreeMap::from([("syncfs", 3), ("file", 3), ("directory", 3), ("change", 9)]));
}

#[test]
fn s3_a_rotten_layer_is_found_and_the_others_are_sealed() {
    let place = Place::with(&[one(), two()]);
    let rotten = chain(&one())[1].clone();
    let file = place.layer(&rotten).join("diff/app/one");
    let mut bytes = fs::read(&file).unwrap();
    bytes[3] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let settled = place.settle();
    let found = outcomes(&settled);
    assert!(matches!(&found[&rotten], Outcome::Damaged { why } if why.contains("app/one")), "{found:?}");
    for id in [chain(&two()), chain(&one())[..1].to_vec()].concat() {
        assert_eq!((&found[&id], place.seal_holds(&id)), (&Outcome::Sealed, true));
    }
    assert!(!place.layer(&rotten).join("cstor-rs.seal").exists());
    assert_eq!(place.noted(), sorted(chain(&two())));
    // Mended, it is settled like any other.
    bytes[3] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(outcomes(&place.settle())[&rotten], Outcome::Sealed);
}

/// What the file in the place of a seal is, and what becomes of it.
#[test]
fn a_seal_that_does_not_hold_is_replaced() {
    type Make = fn(&Path, &Seal);
    let makes: &[(&str, Make)] = &[
        ("garbage", |path, _| fs::write(path, b"{").unwrap()),
        ("of another layer", |path, seal| fs::write(path, Seal { diff_id: Digest::of(b"x"), ..seal.clone() }.encode().unwrap()).unwrap()),
        ("of another LINKID", |path, seal| {
            fs::write(path, Seal { link: "A".repeat(26).parse().unwrap(), ..seal.clone() }.encode().unwrap()).unwrap()
        }),
        ("of another tree", |path, seal| {
            let tree = cstor_rs::overlay::TreeId { inode: seal.tree.inode + 1, ..seal.tree };
            fs::write(path, Seal { tree, ..seal.clone() }.encode().unwrap()).unwrap();
        }),
        ("of another version", |path, seal| fs::write(path, Seal { version: 2, ..seal.clone() }.encode().unwrap()).unwrap()),
        ("a link", |path, _| std::os::unix::fs::symlink("diff", path).unwrap()),
        ("a fifo", |path, _| {
            use rustix::fs::{CWD, FileType, Mode};
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }),
    ];
    let place = Place::with(&[one()]);
    place.settle();
    let id = &chain(&one())[0];
    let path = place.layer(id).join("cstor-rs.seal");
    let good = Seal::parse(&fs::read(&path).unwrap()).unwrap();
    for (what, make) in makes {
        fs::remove_file(&path).unwrap();
        make(&path, &good);
        // One that a crash left half written.
        fs::write(place.layer(id).join("cstor-rs.seal.new"), b"{").unwrap();
        assert!(!place.seal_holds(id), "{what}");
        assert_eq!(outcomes(&place.settle())[id], Outcome::Sealed, "{what}");
        assert_eq!(Seal::parse(&fs::read(&path).unwrap()).unwrap(), good, "{what}");
        assert!(!place.layer(id).join("cstor-rs.seal.new").exists(), "{what}");
    }
    // Nothing that settling may remove.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::remove_file(place.layer(&chain(&one())[1]).join("cstor-rs.seal")).unwrap();
    let found = outcomes(&place.settle());
    assert!(matches!(&found[id], Outcome::Failed { why } if why.contains("cstor-rs.seal")), "{found:?}");
    assert_eq!(found[&chain(&one())[1]], Outcome::Sealed);
    assert!(!place.layer(id).join("cstor-rs.seal.new").exists());
    assert_eq!(place.noted(), chain(&one())[1..]);
}

#[test]
fn what_cannot_be_verified_is_said() {
    let place = Place::with(&[one()]);
    let (low, top) = (chain(&one())[0].clone(), chain(&one())[1].clone());
    let table = "overlay-layers/layers.json";
    let good = fs::read(place.root().join(table)).unwrap();
    let set = |id: &LayerId, key: &'static str, value: Value| {
        let id = id.to_string();
        place.edit(table, |layers| layers.iter_mut().find(|layer| layer["id"] == *id).unwrap()[key] = value.clone());
    };
    let again = || fs::write(place.root().join(table), &good).unwrap();
    set(&top, "flags", serde_json::json!({"incomplete": true}));
    assert_eq!(outcomes(&place.settle())[&top], Outcome::Skipped { why: Skip::Incomplete });
    again();
    set(&top, "uidmap", serde_json::json!([{"container_id": 0, "host_id": 100000, "size": 65536}]));
    assert_eq!(outcomes(&place.settle())[&top], Outcome::Skipped { why: Skip::IdMapped });
    again();
    fs::create_dir(place.layer(&top).join("diff1")).unwrap();
    assert_eq!(outcomes(&place.settle())[&top], Outcome::Skipped { why: Skip::IdMapped });
    fs::remove_dir(place.layer(&top).join("diff1")).unwrap();
    // The base was sound all the time.
    assert!(place.seal_holds(&low));

    let split = place.root().join(format!("overlay-layers/{top}.tar-split.gz"));
    let bytes = fs::read(&split).unwrap();
    fs::remove_file(&split).unwrap();
    assert!(matches!(&outcomes(&place.settle())[&top], Outcome::Damaged { why } if why.contains("tar-split")));
    place.edit(table, |layers| drop(layers[1].as_object_mut().unwrap().remove("diff-digest")));
    assert_eq!(outcomes(&place.settle())[&top], Outcome::Skipped { why: Skip::NoTarSplit });
    fs::write(&split, &bytes).unwrap();
    assert!(matches!(&outcomes(&place.settle())[&top], Outcome::Damaged { why } if why.contains("diff-digest")));
    again();
    let link = fs::read(place.layer(&low).join("link")).unwrap();
    fs::write(place.layer(&low).join("link"), b"").unwrap();
    let found = outcomes(&place.settle());
    assert!(matches!(found[&low], Outcome::Damaged { .. }), "{found:?}");
    assert_eq!(found[&top], Outcome::Skipped { why: Skip::Parent { parent: low.clone() } });
    fs::write(place.layer(&low).join("link"), link).unwrap();
    let found = outcomes(&place.settle());
    assert_eq!((&found[&low], &found[&top]), (&Outcome::AlreadySealed, &Outcome::Sealed));
    assert_eq!(place.noted(), sorted(vec![low, top]));
}

#[test]
fn chains_that_are_none_are_damage_of_their_image() {
    let place = Place::with(&[one(), two()]);
    let (first, base) = (chain(&one())[1].clone(), chain(&one())[0].clone());
    let table = "overlay-layers/layers.json";
    let good = fs::read(place.root().join(table)).unwrap();
    type Break = fn(&mut Vec<Value>, &str, &str);
    let breaks: &[(Break, &str)] = &[
        (|layers, top, _| layers.retain(|layer| layer["id"] != top), "is not in layers.json"),
        (
            |layers, top, _| layers.iter_mut().filter(|layer| layer["id"] == top).for_each(|layer| layer["parent"] = "x".into()),
            "an id that is none",
        ),
        (
            |layers, top, _| layers.iter_mut().filter(|layer| layer["id"] == top).for_each(|layer| layer["parent"] = top.into()),
            "more than 500 layers",
        ),
    ];
    for (damage, why) in breaks {
        place.edit(table, |layers| damage(layers, first.as_str(), base.as_str()));
        let settled = place.settle();
        assert_eq!(settled.broken.len(), 1, "{why}: {settled:?}");
        assert!(settled.broken[0].why.contains(why), "{}", settled.broken[0].why);
        assert_eq!(settled.broken[0].id, ImageId::of_config(&Digest::of(&one().config)).as_str());
        assert_eq!(settled.layers.iter().map(|layer| layer.id.clone()).collect::<Vec<_>>(), chain(&two()), "{why}");
        fs::write(place.root().join(table), &good).unwrap();
    }
    assert_eq!(outcomes(&place.settle())[&first], Outcome::Sealed);
}

/// Settles, and lets `what` be done when everything is verified and nothing is sealed.
fn between(place: &Place, what: impl Fn() + Send + Sync + 'static) -> Settled {
    let hook = Arc::new(Once { when: |op: &Op<'_>| matches!(op, Op::SyncFs(_)), what, done: AtomicUsize::new(0) });
    let settled = settle(&Store::open(place.options().hook(hook.clone())).unwrap(), &[], &SettleOptions::default()).unwrap();
    assert_eq!(hook.done.load(Ordering::SeqCst), 1);
    settled
}

#[test]
fn s1_what_changes_between_verifying_and_sealing_is_not_sealed() {
    let remove = |store: &Store| {
        let txn = store.begin(TxnOptions::default()).unwrap();
        txn.remove_image(ImageRef::Name("localhost/one:1".into()), SeveralNames::Remove).unwrap();
        fixture::commit(txn).unwrap();
    };
    let (low, top) = (chain(&one())[0].clone(), chain(&one())[1].clone());
    let unsealed = || TxnOptions { sync: SyncMode::None, ..TxnOptions::default() };
    let busy = |outcome: &Outcome| matches!(outcome, Outcome::Busy { who } if who.contains("anew"));

    // Removed.
    let place = Place::with(&[one(), two()]);
    let options = place.options();
    let found = outcomes(&between(&place, move || remove(&Store::open(options.clone()).unwrap())));
    assert_eq!((&found[&low], &found[&top], &found[&chain(&two())[1]]), (&Outcome::Sealed, &Outcome::Gone, &Outcome::Sealed));
    assert!(!place.layer(&top).exists());
    assert_eq!(place.noted(), sorted(chain(&two())));

    // Removed and pulled again: the same id, another layer.
    let place = Place::with(&[one(), two()]);
    let options = place.options();
    let settled = between(&place, move || {
        let store = Store::open(options.clone()).unwrap();
        remove(&store);
        fixture::pull_with(&store, &[one()], unsealed()).unwrap().unwrap();
    });
    let found = outcomes(&settled);
    assert!(busy(&found[&top]) && found[&low] == Outcome::Sealed, "{found:?}");
    assert!(!place.layer(&top).join("cstor-rs.seal").exists());
    assert_eq!(place.noted(), sorted(chain(&two())));
    assert_eq!(outcomes(&place.settle())[&top], Outcome::Sealed);

    // Its tree alone is another, or its record, or its entry in l/.
    type Act = fn(&Place, &LayerId);
    let acts: &[(&str, Act)] = &[
        ("the tree", |place, id| {
            let dir = place.layer(id);
            assert!(Command::new("cp").arg("-a").arg(dir.join("diff")).arg(dir.join("new")).status().unwrap().success());
            fs::rename(dir.join("diff"), dir.join("old")).unwrap();
            fs::rename(dir.join("new"), dir.join("diff")).unwrap();
        }),
        ("the diff-digest", |place, _| {
            place.edit("overlay-layers/layers.json", |list| list[1]["diff-digest"] = Digest::of(b"x").as_str().into())
        }),
        ("the incomplete flag", |place, _| {
            place.edit("overlay-layers/layers.json", |list| list[1]["flags"] = serde_json::json!({"incomplete": true}))
        }),
        ("the parent", |place, _| place.edit("overlay-layers/layers.json", |list| drop(list[1].as_object_mut().unwrap().remove("parent")))),
        ("an id map", |place, _| {
            place.edit("overlay-layers/layers.json", |list| {
                list[1]["uidmap"] = serde_json::json!([{"container_id": 0, "host_id": 1, "size": 2}])
            })
        }),
        ("older contents below", |place, id| fs::create_dir(place.layer(id).join("diff1")).unwrap()),
        ("the link", |place, id| {
            let link = fs::read_to_string(place.layer(id).join("link")).unwrap();
            fs::remove_file(place.root().join("overlay/l").join(link)).unwrap();
        }),
        ("the LINKID", |place, id| fs::write(place.layer(id).join("link"), "A".repeat(26)).unwrap()),
    ];
    for (what, act) in acts {
        let place = Arc::new(Place::with(&[one()]));
        let (theirs, id) = (place.clone(), top.clone());
        let found = outcomes(&between(&place, move || act(&theirs, &id)));
        assert!(busy(&found[&top]), "{what}: {found:?}");
        assert!(!place.layer(&top).join("cstor-rs.seal").exists(), "{what}");
        assert_eq!(found[&low], Outcome::Sealed, "{what}");
        assert_eq!(place.noted(), [low.clone()], "{what}");
    }
    // Another one that settles was faster.
    let place = Arc::new(Place::with(&[one()]));
    let theirs = place.clone();
    let found = outcomes(&between(&place, move || assert!(theirs.settle().layers.iter().all(|layer| layer.outcome == Outcome::Sealed))));
    assert!(found.values().all(|outcome| *outcome == Outcome::AlreadySealed), "{found:?}");
}

#[test]
fn a_lock_that_is_held_leaves_the_rest_unsealed() {
    let place = Arc::new(Place::with(&[one()]));
    let theirs = place.clone();
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let what = move || {
        let layout = theirs.store().layout().unwrap().unwrap();
        *keep.lock().unwrap() = Some(StoreLocks::write_layers(&layout.layers, &Wait::limit(std::time::Duration::ZERO)).unwrap());
    };
    let hook = Arc::new(Once { when: |op: &Op<'_>| matches!(op, Op::SyncFs(_)), what, done: AtomicUsize::new(0) });
    let options = || place.options().wait(std::time::Duration::ZERO);
    let settled = settle(&Store::open(options().hook(hook)).unwrap(), &[], &SettleOptions::default()).unwrap();
    assert!(
        outcomes(&settled).values().all(|outcome| matches!(outcome, Outcome::Busy { who } if who.contains("layers.lock"))),
        "{settled:?}"
    );
    assert!(!settled.noted && settled.synced);
    // From the beginning.
    let store = Store::open(options()).unwrap();
    let error = settle(&store, &[], &SettleOptions::default()).unwrap_err();
    assert!(error.is_busy() && !error.is_cancelled(), "{error:?}");
    drop(kept.lock().unwrap().take());
    assert!(outcomes(&settle(&store, &[], &SettleOptions::default()).unwrap()).values().all(|outcome| *outcome == Outcome::Sealed));
}

#[test]
fn s6_stopped_it_goes_on_the_next_time() {
    let place = Place::with(&[one()]);
    let interrupt = Arc::new(AtomicBool::new(true));
    let count = Arc::new(Count::default());
    let store = Store::open(place.options().interrupt(interrupt.clone()).hook(count.clone())).unwrap();
    let settled = settle(&store, &[], &SettleOptions::default()).unwrap();
    assert!(outcomes(&settled).values().all(|outcome| *outcome == Outcome::Stopped), "{settled:?}");
    assert!(!settled.synced);
    assert_eq!(count.0.lock().unwrap().get("syncfs"), None);
    assert!(place.noted().is_empty() && place.clean().tables.is_none());
    interrupt.store(false, Ordering::SeqCst);
    assert!(outcomes(&settle(&store, &[], &SettleOptions::default()).unwrap()).values().all(|outcome| *outcome == Outcome::Sealed));
}

#[test]
fn many_layers_are_sealed_in_batches() {
    let layers = (0..2 * BATCH + 3).map(|n| app(&format!("l{n}"))).collect();
    let place = Place::with(&[image("localhost/deep:1", layers)]);
    let (settled, count) = counted(&place, SyncMode::Filesystem);
    assert!(settled.layers.iter().all(|layer| layer.outcome == Outcome::Sealed && place.seal_holds(&layer.id)));
    let seals = 2 * BATCH + 3;
    assert_eq!(settled.layers.len(), seals);
    assert_eq!(count, BTreeMap::from([("syncfs", 1), ("file", seals + 1), ("directory", seals + 1), ("change", 3 * (seals + 1))]));
}

#[test]
fn a_failed_sync_seals_nothing() {
    struct Fails;
    impl Hook for Fails {
        fn before(&self, op: &Op<'_>) -> io::Result<()> {
            if matches!(op, Op::SyncFs(_)) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        }
    }
    let place = Place::with(&[one()]);
    let store = Store::open(place.options().hook(Arc::new(Fails))).unwrap();
    assert!(matches!(settle(&store, &[], &SettleOptions::default()).unwrap_err(), SettleError::Disk(_)));
    assert!(!chain(&one()).iter().any(|id| place.layer(id).join("cstor-rs.seal").exists()));
    // The handle takes no more for granted.
    assert!(matches!(settle(&store, &[], &SettleOptions::default()).unwrap_err(), SettleError::Store(_)));
    assert_eq!(place.settle().layers.len(), 2);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::new(temp.path().join("root"), temp.path().join("run"))).unwrap();
    assert!(matches!(settle(&store, &[], &SettleOptions::default()).unwrap_err(), SettleError::NoStore { .. }));
    let never = SettleOptions { sync: SyncMode::None, ..SettleOptions::default() };
    assert!(matches!(settle(&store, &[], &never).unwrap_err(), SettleError::NoSync));
    assert!(!temp.path().join("root").exists());
}

/// C3: whatever stands in its place, the next one is whole.
#[test]
fn a_clean_point_that_cannot_be_read_is_replaced() {
    let place = Place::with(&[one()]);
    place.settle();
    let path = place.root().join("cstor-rs/clean");
    let good = place.clean();
    for bytes in [&b""[..], b"{\"version\":2}", &[0; 4096]] {
        fs::write(&path, bytes).unwrap();
        let settled = place.settle();
        assert!(settled.synced && settled.layers.iter().all(|layer| layer.outcome == Outcome::AlreadySealed));
        assert!(place.clean().says_as(&good));
    }
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    place.settle();
    assert!(place.clean().says_as(&good) && fs::symlink_metadata(&path).unwrap().is_file());
}
