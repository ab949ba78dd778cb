//! Settling through the library: what is sealed, what is not, and what is synced for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/unsealed.rs"]
mod unsealed;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::fixture;
use cstor_rs::ids::{Digest, ImageId, LayerId};
use cstor_rs::metadata::ImageRef;
use cstor_rs::overlay::Seal;
use cstor_rs::settle::{Outcome, SettleError, SettleOptions, Skip, settle};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{SyncMode, TxnOptions};
use serde_json::Value;
use unsealed::{Place, chain, counted, one, outcomes, sorted, two};

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

#[test]
fn documents_that_are_not_as_described_are_damage_of_their_image() {
    let place = Place::with(&[one(), two()]);
    let id = ImageId::of_config(&Digest::of(&one().config));
    let dir = place.root().join("overlay-images").join(id.as_str());
    let key = format!("sha256:{id}");
    let config = dir.join(cstor_rs::metadata::big_data_file(&key).unwrap());
    let manifest = dir.join("manifest");
    let table = fs::read(place.root().join("overlay-images/images.json")).unwrap();
    type Break = fn(&Path, &Path);
    let breaks: &[(Break, &str)] = &[
        (|_, manifest| fs::remove_file(manifest).unwrap(), "manifest is missing"),
        (|_, manifest| fs::write(manifest, b"").unwrap(), "manifest is not the one"),
        (|config, _| fs::write(config, vec![b'x'; fs::metadata(config).unwrap().len() as usize]).unwrap(), "is not the one"),
        (|config, _| fs::remove_dir_all(config.parent().unwrap()).unwrap(), "is missing"),
    ];
    for (damage, why) in breaks {
        damage(&config, &manifest);
        let settled = place.settle();
        assert_eq!(settled.broken.len(), 1, "{why}: {settled:?}");
        assert_eq!(settled.broken[0].id, id.as_str());
        assert!(settled.broken[0].why.contains(why), "{}", settled.broken[0].why);
        assert!(settled.layers.iter().all(|layer| layer.outcome.is_sound()), "its layers are sound: {settled:?}");
        fs::create_dir_all(&dir).unwrap();
        fs::write(&manifest, &one().manifest).unwrap();
        fs::write(
            dir.join(cstor_rs::metadata::big_data_file(&format!("manifest-{}", Digest::of(&one().manifest))).unwrap()),
            &one().manifest,
        )
        .unwrap();
        fs::write(&config, &one().config).unwrap();
    }
    assert!(place.settle().broken.is_empty());
    // A manifest of schema 1 may be signed in itself: its digest is not that of its bytes. Nothing else may.
    for (signed, faults) in [(br#"{"schemaVersion":1}"#, 0), (br#"{"schemaVersion":2}"#, 1)] {
        fs::write(&manifest, signed).unwrap();
        place.edit("overlay-images/images.json", |images| {
            images
                .iter_mut()
                .filter(|image| image["id"] == id.as_str())
                .for_each(|image| image["big-data-sizes"]["manifest"] = signed.len().into());
        });
        assert_eq!(place.settle().broken.len(), faults);
    }
    fs::write(&manifest, &one().manifest).unwrap();
    fs::write(place.root().join("overlay-images/images.json"), table).unwrap();
    assert!(place.settle().broken.is_empty());
}
