//! Transactions through the library, without a network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/skip.rs"]
mod skip;

use common::fixture::{self, app, base, image};
use common::once::Once;
use cstor_rs::store::{Store, StoreOptions};

#[test]
fn a_pull_is_there_and_a_second_one_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let store = Store::open(options()).unwrap();
    let one = image("localhost/one:latest", vec![base(), app("one")]);
    let receipt = fixture::pull(&store, std::slice::from_ref(&one)).unwrap().unwrap();
    assert_eq!(receipt.layers.len(), 2);
    let snapshot = store.read().unwrap().unwrap();
    assert_eq!(snapshot.images().count(), 1);
    assert_eq!(snapshot.image_by_name("localhost/one:latest").unwrap().id(), Some(&receipt.images[0]));
    let before = std::fs::read(temp.path().join("root/overlay-images/images.json")).unwrap();
    assert!(fixture::pull(&store, std::slice::from_ref(&one)).unwrap().is_none());
    assert_eq!(std::fs::read(temp.path().join("root/overlay-images/images.json")).unwrap(), before);
    for dir in ["journal", "stage", "trash"] {
        assert_eq!(std::fs::read_dir(temp.path().join("root/cstor-rs").join(dir)).unwrap().count(), 0, "{dir}");
    }
}

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::fixture::Image;
use cstor_rs::fsio::{Hook, Op};
use registry::Registry;

fn bind(overlay: &Path) {
    assert!(Command::new("mount").arg("--bind").args([overlay, overlay]).status().unwrap().success());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

/// What it is called, and the change before which it is.
type Moment = (&'static str, fn(&Op<'_>) -> bool);

/// Podman mounts `overlay/` on itself whenever it starts: a rename by path from `cstor-rs/` then fails with EXDEV.
#[test]
fn a_bind_mount_over_overlay_in_mid_transaction_does_no_harm() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return;
    }
    let moments: [Moment; 4] = [
        ("when the journal is made", |op| matches!(op, Op::Create(at, _) if at.dir.ends_with("journal"))),
        ("while a layer is staged", |op| matches!(op, Op::Create(at, _) if at.name == Path::new("tool"))),
        ("before the intent", |op| matches!(op, Op::Write(at, ..) if at.name.to_string_lossy().ends_with(".wal"))),
        ("before the first rename", |op| matches!(op, Op::Rename(_, to) if to.dir.ends_with("overlay"))),
    ];
    for (what, when) in moments {
        let temp = tempfile::tempdir().unwrap();
        let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
        fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![app("zero")])]).unwrap();
        let overlay = temp.path().join("root/overlay");
        let guard = Unmount(overlay.clone());
        let hook = Arc::new(Once { when, what: move || bind(&overlay), done: AtomicUsize::new(0) });
        let store = Store::open(options().hook(hook.clone())).unwrap();
        let done = fixture::pull(&store, &[image("localhost/one:1", vec![base(), app("one")])]);
        assert!(hook.done.load(Ordering::SeqCst) > 0, "{what}: the moment never came");
        assert_eq!(done.unwrap_or_else(|why| panic!("{what}: {why:?}")).unwrap().layers.len(), 2, "{what}");
        // And a store that is mounted before anything begins.
        let done = fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/two:1", vec![base(), app("two")])]);
        assert_eq!(done.unwrap_or_else(|why| panic!("{what}, mounted before: {why:?}")).unwrap().layers.len(), 1, "{what}");
        drop(guard);
        let again = Store::open(options()).unwrap();
        assert_eq!(again.read().unwrap().unwrap().images().count(), 3, "{what}");
    }
}

#[test]
fn a_child_inherits_no_descriptor_of_the_store() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let when = |op: &Op<'_>| matches!(op, Op::Write(at, ..) if at.name.to_string_lossy().ends_with(".wal"));
    let what = move || {
        let output = Command::new("ls").arg("-l").arg("/proc/self/fd").output().unwrap();
        list.lock().unwrap().push(String::from_utf8(output.stdout).unwrap());
    };
    let temp = tempfile::tempdir().unwrap();
    // Shown to be able to fail: a descriptor that is inherited is seen.
    let open = std::fs::File::create(temp.path().join("inherited")).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let hook = Arc::new(Once { when, what, done: AtomicUsize::new(0) });
    let store = Store::open(StoreOptions::new(temp.path().join("root"), temp.path().join("run")).hook(hook)).unwrap();
    fixture::pull(&store, &[image("localhost/one:1", vec![base(), app("one")])]).unwrap();
    let text = seen.lock().unwrap().concat();
    assert!(text.contains(&format!(" {} -> ", open.as_raw_fd())) && text.contains("/inherited"), "{text}");
    let root = temp.path().join("root").display().to_string();
    let leaked: Vec<&str> = text.lines().filter(|line| line.contains(&root)).collect();
    assert_eq!(leaked, Vec::<&str>::new());
}

/// Counts the syncs.
#[derive(Default)]
struct Count(Mutex<BTreeMap<&'static str, usize>>);

impl Hook for Count {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let kind = match op {
            Op::SyncFs(_) => "syncfs",
            Op::SyncData(_) | Op::SyncFile(_) => "file",
            Op::SyncDir(_) => "directory",
            _ => return Ok(()),
        };
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
        Ok(())
    }
}

fn syncs(before: &[Image], pulled: &[Image]) -> BTreeMap<&'static str, usize> {
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    fixture::pull(&Store::open(options()).unwrap(), before).unwrap();
    let count = Arc::new(Count::default());
    fixture::pull(&Store::open(options().hook(count.clone())).unwrap(), pulled).unwrap();
    count.0.lock().unwrap().clone()
}

#[test]
fn the_syncs_of_a_commit_do_not_depend_on_what_it_holds() {
    let zero = [image("localhost/zero:1", vec![app("zero")])];
    let one = syncs(&zero, &[image("localhost/one:1", vec![base()])]);
    // Segment's header, both markers, history, intent, Done. journal/ twice, both tables' directories in B; overlay, l/, both
    // tables' directories, three staging directories in C; one each in D and E; three that staging leaves.
    assert_eq!(one, BTreeMap::from([("syncfs", 1), ("file", 6), ("directory", 16)]));
    let images: Vec<Image> = (0..20).map(|n| image(&format!("localhost/i{n}:1"), vec![base(), app(&format!("t{n}"))])).collect();
    assert_eq!(syncs(&zero, &images), one, "twenty images with twenty-one layers");
}

/// What is there already was perhaps renamed by podman, which does not sync directories: Ok promises more.
#[test]
fn a_pull_with_nothing_to_do_syncs_the_tables_and_documents_and_nothing_else() {
    let registry = Registry::start();
    let layer = registry::tar(&[("a", b"a")]);
    registry.add_image("one", "latest", &registry::ImageSpec::new().layer(layer, registry::Compression::Gzip));
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let get = |store: &Store| {
        let mut options = cstor_rs::pull::PullOptions::default();
        options.registry.tls_verify = Some(false);
        let place = registry.reference("one:latest").parse().unwrap();
        cstor_rs::pull::pull(store, &[place], &options, &(), &std::sync::atomic::AtomicBool::new(false)).unwrap()
    };
    get(&Store::open(options()).unwrap());
    let count = Arc::new(Count::default());
    let again = get(&Store::open(options().hook(count.clone())).unwrap());
    assert_eq!(again[0].txn, None);
    // layers.json, images.json, config and two manifests; their three directories.
    assert_eq!(*count.0.lock().unwrap(), BTreeMap::from([("file", 5), ("directory", 3)]));
}

/// Between the last look without locks and the locks another process pulls the same image, and syncs no directory.
#[test]
fn what_another_process_made_meanwhile_is_synced_before_ok() {
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let one = image("localhost/one:1", vec![base()]);
    fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![base()])]).unwrap();
    let synced = Arc::new(Mutex::new(None::<Vec<PathBuf>>));
    struct Meanwhile<F>(F, Arc<Mutex<Option<Vec<PathBuf>>>>);
    impl<F: Fn() + Send + Sync> Hook for Meanwhile<F> {
        fn before(&self, op: &Op<'_>) -> io::Result<()> {
            let first = self.1.lock().unwrap().is_none();
            match op {
                Op::SyncFs(_) if first => (self.0)(),
                _ => {}
            }
            Ok(())
        }
        fn done(&self, op: &Op<'_>) {
            let mut list = self.1.lock().unwrap();
            match (op, &mut *list) {
                (Op::SyncFs(_), None) => *list = Some(vec![]),
                (Op::SyncDir(at) | Op::SyncData(at) | Op::SyncFile(at), Some(list)) => list.push(at.path()),
                _ => {}
            }
        }
    }
    let (root, run) = (temp.path().join("root"), temp.path().join("run"));
    let image_one = one.clone();
    let meanwhile = move || {
        let store = Store::open(StoreOptions::new(&root, &run)).unwrap();
        fixture::pull(&store, std::slice::from_ref(&image_one)).unwrap().unwrap();
    };
    let store = Store::open(options().hook(Arc::new(Meanwhile(meanwhile, synced.clone())))).unwrap();
    assert!(fixture::pull(&store, std::slice::from_ref(&one)).unwrap().is_none(), "the other process has done all of it");
    let list = synced.lock().unwrap().clone().unwrap();
    let id = cstor_rs::ids::ImageId::of_config(&cstor_rs::ids::Digest::of(&one.config));
    for name in ["overlay-layers", "overlay-images", "overlay-images/images.json", &format!("overlay-images/{id}")] {
        assert!(list.contains(&temp.path().join("root").join(name)), "{name} is not among {list:?}");
    }
}

/// A layer that was sound when it was looked at is another one by the time of the locks, and damaged.
#[test]
fn a_reused_layer_that_is_found_damaged_under_another_linkid_is_fetched_and_healed() {
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let receipt = fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![base()])]).unwrap().unwrap();
    let overlay = temp.path().join("root/overlay");
    let layer = receipt.layers[0].to_string();
    let (dir, links) = (overlay.join(&layer), overlay.join("l"));
    let again = {
        let (dir, links, layer) = (dir.clone(), links.clone(), layer.clone());
        move || {
            let old = std::fs::read_to_string(dir.join("link")).unwrap();
            std::fs::remove_file(links.join(old)).unwrap();
            std::fs::write(dir.join("link"), "ABCDEFGHIJKLMNOPQRSTUVWXYZ").unwrap();
            std::os::unix::fs::symlink(format!("../{layer}/diff"), links.join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")).unwrap();
            std::fs::remove_file(dir.join("cstor-rs.seal")).unwrap();
            std::fs::write(dir.join("diff/etc/passwd"), "").unwrap();
        }
    };
    let hook = Arc::new(Once { when: |op: &Op<'_>| matches!(op, Op::SyncFs(_)), what: again, done: AtomicUsize::new(0) });
    let store = Store::open(options().hook(hook)).unwrap();
    fixture::pull(&store, &[image("localhost/one:1", vec![base(), app("one")])]).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(dir.join("link")).unwrap(), "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "the LINKID stays");
    assert_eq!(std::fs::read_to_string(dir.join("diff/etc/passwd")).unwrap(), "root:x:0:0::/:/bin/sh\n");
    assert!(dir.join("cstor-rs.seal").exists());
}

/// What an edit of the one record in layers.json is called, the edit, and what the error says.
type Spoilt = (&'static str, fn(&mut serde_json::Value), &'static str);

#[test]
fn a_layer_whose_record_contradicts_its_image_is_not_built_on() {
    let spoilt: [Spoilt; 2] = [
        ("no diff-digest", |record| drop(record.as_object_mut().unwrap().remove("diff-digest")), "names no diff-digest"),
        ("another parent", |record| record["parent"] = serde_json::json!("f".repeat(64)), "names another parent"),
    ];
    for (what, spoil, words) in spoilt {
        let temp = tempfile::tempdir().unwrap();
        let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
        fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![base()])]).unwrap();
        let path = temp.path().join("root/overlay-layers/layers.json");
        let mut table: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        spoil(&mut table[0]);
        std::fs::write(&path, serde_json::to_vec(&table).unwrap()).unwrap();
        let images = std::fs::read(temp.path().join("root/overlay-images/images.json")).unwrap();
        let error = fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/one:1", vec![base(), app("one")])]).unwrap_err();
        let fixture::Failure::Txn(error) = error else { panic!("{what}: {error:?}") };
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert_eq!(std::fs::read(temp.path().join("root/overlay-images/images.json")).unwrap(), images, "{what}");
    }
}

#[test]
fn a_store_that_lost_a_part_is_not_taken_for_an_empty_one() {
    for part in ["overlay", "overlay-layers", "overlay-images", "overlay/l", "overlay-containers"] {
        let temp = tempfile::tempdir().unwrap();
        let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
        fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![base()])]).unwrap();
        std::fs::remove_dir_all(temp.path().join("root").join(part)).unwrap();
        let error = Store::open_read_only(options()).unwrap_err().to_string();
        assert!(error.contains(&format!("{part}/ of the store")) || error.contains(&format!("{part} of the store")), "{part}: {error}");
        let pulled = Store::open(options()).map(|store| fixture::pull(&store, &[image("localhost/one:1", vec![base()])]));
        if part == "overlay-containers" {
            assert!(pulled.unwrap().unwrap().is_some(), "as podman does, a pull makes it");
            continue;
        }
        assert!(pulled.is_err(), "{part}: {pulled:?}");
        assert!(!temp.path().join("root").join(part).exists(), "{part}: made anew");
    }
}

#[test]
fn where_syncfs_is_not_relied_on_every_file_is_synced() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for dir in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(at(dir)).unwrap();
    }
    let layers = format!("lowerdir={},upperdir={},workdir={}", at("lower").display(), at("upper").display(), at("work").display());
    let mounted = Command::new("mount").args(["-t", "overlay", "none", "-o", &layers]).arg(at("merged")).output().unwrap();
    if !mounted.status.success() {
        skip::skipped(&format!("no overlay on this filesystem: {}", String::from_utf8_lossy(&mounted.stderr)));
        return;
    }
    let _guard = Unmount(at("merged"));
    let options = || StoreOptions::new(at("merged/root"), at("run"));
    let count = Arc::new(Count::default());
    fixture::pull(&Store::open(options().hook(count.clone())).unwrap(), &[image("localhost/one:1", vec![base()])]).unwrap();
    let syncs = count.0.lock().unwrap().clone();
    assert_eq!(syncs.get("syncfs"), None, "{syncs:?}");
    assert!(syncs["file"] > 12 && syncs["directory"] > 20, "{syncs:?}");
}

/// Another image's layer is mounted by the LINKID that its parent had: a parent that is made again must get that one.
#[test]
fn a_lost_layer_is_restored_under_the_linkid_that_its_children_know() {
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let (x, y) = (image("localhost/x:1", vec![base(), app("x")]), image("localhost/y:1", vec![base(), app("y")]));
    let receipt = fixture::pull(&Store::open(options()).unwrap(), &[x.clone(), y]).unwrap().unwrap();
    let overlay = temp.path().join("root/overlay");
    let lost = overlay.join(receipt.layers[0].as_str());
    let link = std::fs::read_to_string(lost.join("link")).unwrap();
    std::fs::remove_file(overlay.join("l").join(&link)).unwrap();
    std::fs::remove_dir_all(&lost).unwrap();
    fixture::pull(&Store::open(options()).unwrap(), &[x]).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(lost.join("link")).unwrap(), link);
    for layer in &receipt.layers[1..] {
        let lower = std::fs::read_to_string(overlay.join(layer.as_str()).join("lower")).unwrap();
        assert_eq!(lower, format!("l/{link}"));
        assert!(overlay.join(lower).join("etc").is_dir());
    }
}

/// A container's root filesystem may be mounted below a layer's directory: it is not part of the layer.
#[test]
fn a_mount_below_a_layer_does_not_hinder_syncing_it_file_by_file() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let receipt = fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![base()])]).unwrap().unwrap();
    let dir = temp.path().join("root/overlay").join(receipt.layers[0].as_str());
    std::fs::remove_file(dir.join("cstor-rs.seal")).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.join("merged")).status().unwrap().success());
    let _guard = Unmount(dir.join("merged"));
    let txn = cstor_rs::txn::TxnOptions { sync: cstor_rs::txn::SyncMode::Files, ..Default::default() };
    fixture::pull_with(&Store::open(options()).unwrap(), &[image("localhost/one:1", vec![base(), app("one")])], txn).unwrap().unwrap();
    assert!(dir.join("cstor-rs.seal").exists());
}

/// A container may be started between the look at a damaged layer and the locks.
#[test]
fn contents_are_not_exchanged_under_a_container_that_came_meanwhile() {
    use std::os::unix::fs::MetadataExt;
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    let zero = [image("localhost/zero:1", vec![base()])];
    let receipt = fixture::pull(&Store::open(options()).unwrap(), &zero).unwrap().unwrap();
    let root = temp.path().join("root");
    let dir = root.join("overlay").join(receipt.layers[0].as_str());
    std::fs::remove_file(dir.join("cstor-rs.seal")).unwrap();
    std::fs::write(dir.join("diff/etc/passwd"), "").unwrap();
    let before = std::fs::metadata(dir.join("diff")).unwrap().ino();
    let start = {
        let (root, image, layer) = (root.clone(), receipt.images[0].to_string(), receipt.layers[0].to_string());
        move || {
            let (own, created) = ("c".repeat(64), "2026-01-02T03:04:05Z");
            let layers = serde_json::json!([{"id": own, "parent": layer, "created": created}]);
            std::fs::write(root.join("overlay-layers/volatile-layers.json"), layers.to_string()).unwrap();
            let containers =
                serde_json::json!([{"id": "d".repeat(64), "names": ["keeper"], "image": image, "layer": own, "created": created}]);
            std::fs::write(root.join("overlay-containers/volatile-containers.json"), containers.to_string()).unwrap();
        }
    };
    let hook = Arc::new(Once { when: |op: &Op<'_>| matches!(op, Op::SyncFs(_)), what: start, done: AtomicUsize::new(0) });
    let error = fixture::pull(&Store::open(options().hook(hook)).unwrap(), &zero).unwrap_err();
    let fixture::Failure::Txn(error) = error else { panic!("{error:?}") };
    assert!(error.is_busy() && error.to_string().contains("container keeper"), "{error}");
    assert_eq!(std::fs::metadata(dir.join("diff")).unwrap().ino(), before);
}

#[test]
fn the_declared_length_of_a_blob_is_held_to() {
    use cstor_rs::ids::Digest;
    use cstor_rs::txn::{LayerSpec, TxnOptions};
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::new(temp.path().join("root"), temp.path().join("run"))).unwrap();
    let layer = base();
    for (bytes, words) in [(layer.blob.len() - 1, "longer than"), (layer.blob.len() + 1, "the blob ends after")] {
        let txn = store.begin(TxnOptions::default()).unwrap();
        let states = txn.declare(&txn.tables().unwrap(), std::slice::from_ref(&layer.diff_id)).unwrap();
        let spec = LayerSpec {
            id: states[0].id.clone(),
            diff_id: layer.diff_id.clone(),
            blob: Some(Digest::of(&layer.blob)),
            blob_bytes: Some(bytes as u64),
        };
        let error = txn.stage_layer(&spec, layer.blob.as_slice(), &|_| {}).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(words), "{bytes}: {cause}");
    }
}
