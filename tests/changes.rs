//! Deletes, names, documents, layers and batches: what each does, whom it refuses for, and that podman of three generations
//! works on the store after every kind of transaction.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/peers.rs"]
mod peers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::{Digest, ImageId, LayerId};
use cstor_rs::metadata::ImageRef;
use cstor_rs::plan::{Prune, SeveralNames};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{CommitError, NewImage, Prepared, Receipt, TxnError, TxnOptions, WriteTxn};
use fixture::{Failure, Image, Member, image, layer};
use peers::{Peer, between_peers, run_text, skip};
use serde_json::Value;

struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn runroot(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    fn store(&self) -> Store {
        Store::open(StoreOptions::new(self.root(), self.runroot())).unwrap()
    }

    /// One transaction without pulls.
    fn change(&self, changes: impl Fn(&WriteTxn) -> Result<(), TxnError>) -> Result<Option<Receipt>, Failure> {
        let txn = self.store().begin(TxnOptions::default())?;
        changes(&txn)?;
        fixture::commit(txn)
    }

    fn refused(&self, changes: impl Fn(&WriteTxn) -> Result<(), TxnError>) -> String {
        let before = listing(&self.root());
        let error = match self.change(changes) {
            Err(Failure::Txn(error)) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!(listing(&self.root()), before, "{error}");
        error
    }

    /// Podman as if it had never seen the store: its database is of another version, perhaps.
    fn podman(&self, peer: &Peer, args: &[&str]) -> String {
        between_peers(&self.root());
        self.same_podman(peer, args)
    }

    fn same_podman(&self, peer: &Peer, args: &[&str]) -> String {
        let mut command = peer.command("podman", &self.root(), &self.runroot());
        run_text(command.args(args))
    }

    fn images(&self) -> Vec<Value> {
        table(&self.root().join("overlay-images/images.json"))
    }

    fn names(&self, id: &ImageId) -> Vec<String> {
        let images = self.images();
        let Some(image) = images.iter().find(|image| image["id"] == id.as_str()) else { return vec![] };
        image["names"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    fn layers(&self) -> BTreeSet<String> {
        let layers = table(&self.root().join("overlay-layers/layers.json"));
        layers.iter().map(|layer| layer["id"].as_str().unwrap().to_owned()).collect()
    }

    fn sound(&self, known: &BTreeSet<PathBuf>) {
        oracle::data_agrees(&oracle::read(&self.root()).unwrap()).unwrap();
        assert_eq!(oracle::leftovers(&self.root(), known), Vec::<PathBuf>::new());
    }
}

fn table(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Without our own directory, and without the tokens in lock files.
fn listing(root: &Path) -> Vec<String> {
    let lines = oracle::listing(root).unwrap();
    lines.into_iter().filter(|line| !line.starts_with("./cstor-rs") && !line.contains(".lock ") && !line.starts_with(". ")).collect()
}

/// Layers that list every directory they use: podman's check calls others damaged.
fn base() -> fixture::Layer {
    layer(&[Member::Dir("bin", 0o755), Member::File("bin/true", 0o755, b"\x7fELF"), Member::Dir("etc", 0o755)])
}

fn top(tag: &str) -> fixture::Layer {
    layer(&[Member::Dir("app", 0o755), Member::File(&format!("app/{tag}"), 0o644, tag.as_bytes())])
}

fn on_base(name: &str) -> Image {
    image(&format!("localhost/{name}:1"), vec![base(), top(name)])
}

fn id_of(image: &Image) -> ImageId {
    ImageId::of_config(&Digest::of(&image.config))
}

fn chain(image: &Image) -> Vec<LayerId> {
    let mut list: Vec<LayerId> = Vec::new();
    for layer in &image.layers {
        list.push(LayerId::chain(list.last(), &layer.diff_id));
    }
    list
}

fn named(name: &str) -> ImageRef {
    ImageRef::Name(format!("localhost/{name}:1"))
}

/// Every kind of transaction, one after the other; `look` is called after each.
fn every_kind(place: &Place, look: &dyn Fn(&str)) {
    let (a, b) = (on_base("a"), on_base("b"));
    fixture::pull(&place.store(), &[a.clone(), b.clone()]).unwrap();
    look("pull");
    place.change(|txn| txn.tag(named("a"), "localhost/stable:1")).unwrap();
    look("tag");
    place.change(|txn| txn.tag(named("b"), "localhost/stable:1")).unwrap();
    look("a name that moves");
    place.change(|txn| txn.untag(named("b"), &["localhost/stable:1".to_owned()])).unwrap();
    look("untag");
    place.change(|txn| txn.set_names(id_of(&a), &["localhost/x:1".to_owned(), "localhost/a:1".to_owned()])).unwrap();
    look("set names");
    place.change(|txn| txn.set_big_data(&id_of(&a), "signatures", b"signed")).unwrap();
    look("big data");
    place.change(|txn| txn.remove_big_data(&id_of(&a), "signatures")).unwrap();
    look("big data removed");
    place.change(|txn| txn.set_metadata(named("a"), "{\"signatures-sizes\":{}}")).unwrap();
    look("metadata");
    let txn = place.store().begin(TxnOptions::default()).unwrap();
    let made = txn.stage_new_layer(Some(&chain(&a)[1]), top("made").blob.as_slice(), &|_| {}).unwrap();
    fixture::commit(txn).unwrap();
    look("a layer on a parent");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [a.layers[0].diff_id, a.layers[1].diff_id, top("made").diff_id]},
    });
    let new = NewImage {
        config: serde_json::to_vec(&config).unwrap(),
        top: Some(made.clone()),
        names: vec!["localhost/made:1".to_owned()],
        ..NewImage::default()
    };
    let txn = place.store().begin(TxnOptions::default()).unwrap();
    txn.stage_new_image(&new).unwrap();
    fixture::commit(txn).unwrap();
    look("an image of layers that are there");
    let txn = place.store().begin(TxnOptions::default()).unwrap();
    let loose = txn.stage_empty_layer(None).unwrap();
    fixture::commit(txn).unwrap();
    look("an empty layer");
    place.change(|txn| txn.remove_layer(&loose)).unwrap();
    look("a layer removed");
    place.change(|txn| txn.remove_image(named("made"), SeveralNames::Keep)).unwrap();
    assert!(!place.layers().contains(made.as_str()), "its own layer goes with an image");
    look("an image removed");
    fixture::change_with(
        &place.store(),
        &[on_base("c"), on_base("d")],
        |txn| {
            txn.tag(named("c"), "localhost/stable:1")?;
            Ok(txn.remove_image(named("b"), SeveralNames::Keep)?)
        },
        TxnOptions::default(),
    )
    .unwrap();
    look("a batch");
    place.change(|txn| txn.untag(named("d"), &[])).unwrap();
    place
        .change(|txn| {
            let zero = std::time::Duration::ZERO;
            txn.prune(Prune { image_age: zero, layer_age: zero, ..Prune::new() });
            Ok(())
        })
        .unwrap();
    assert_eq!(place.names(&id_of(&on_base("d"))), Vec::<String>::new());
    assert_eq!(place.images().len(), 2);
    look("a prune");
}

#[test]
fn podman_works_on_the_store_after_every_kind_of_transaction() {
    let peers = Peer::all();
    if peers.is_empty() {
        return skip("changes", "no podman works here");
    }
    for peer in peers {
        let place = Place::new();
        every_kind(&place, &|what| {
            place.sound(&podmans_own());
            let listed = place.podman(&peer, &["images", "--all", "--quiet", "--no-trunc"]);
            let listed: BTreeSet<&str> = listed.lines().map(|line| line.trim_start_matches("sha256:")).collect();
            let images = place.images();
            let there: BTreeSet<&str> = images.iter().map(|image| image["id"].as_str().unwrap()).collect();
            assert_eq!(listed, there, "{}, after {what}", peer.name);
            for id in &there {
                place.podman(&peer, &["image", "inspect", id]);
            }
            if peer.major() >= 5 {
                place.podman(&peer, &["system", "check"]);
            }
        });
        place.podman(&peer, &["rmi", "--all"]);
        assert_eq!((place.images(), place.layers()), (vec![], BTreeSet::new()), "{}", peer.name);
    }
}

/// What podman itself leaves beside the tables.
fn podmans_own() -> BTreeSet<PathBuf> {
    ["overlay/.has-mount-program", "overlay/tempdirs", "overlay/staging", "overlay-layers/volatile-layers.json", "overlay-layers/tmp"]
        .iter()
        .map(PathBuf::from)
        .chain(["overlay/compat", "overlay/metacopy"].map(PathBuf::from))
        .collect()
}

#[test]
fn an_image_that_a_container_uses_stays_and_podmans_name_of_the_container_is_told() {
    let peers = Peer::all();
    if peers.is_empty() {
        return skip("changes", "no podman works here");
    }
    for peer in peers {
        let place = Place::new();
        fixture::pull(&place.store(), &[on_base("a")]).unwrap();
        place.same_podman(&peer, &["create", "--name", "keeper", "localhost/a:1", "/bin/true"]);
        let error = place.refused(|txn| txn.remove_image(named("a"), SeveralNames::Remove));
        assert!(error.contains("in use by container keeper"), "{}: {error}", peer.name);
        if peer.major() >= 5 {
            place.same_podman(&peer, &["rename", "keeper", "warden"]);
            let error = place.refused(|txn| txn.remove_image(named("a"), SeveralNames::Remove));
            assert!(error.contains("in use by container warden"), "{}: {error}", peer.name);
        }
        // A prune leaves it alone without a word.
        let pruned = place.change(|txn| {
            txn.prune(Prune { named: true, image_age: std::time::Duration::ZERO, ..Prune::new() });
            Ok(())
        });
        assert!(matches!(pruned, Ok(None)), "{}: {pruned:?}", peer.name);
        place.same_podman(&peer, &["rm", "--all"]);
        let receipt = place.change(|txn| txn.remove_image(named("a"), SeveralNames::Keep)).unwrap().unwrap();
        assert_eq!(receipt.removed_images, [id_of(&on_base("a"))], "{}", peer.name);
        assert_eq!(receipt.removed_layers, chain(&on_base("a")).into_iter().rev().collect::<Vec<_>>(), "{}", peer.name);
    }
}

#[test]
fn whoever_needs_a_layer_or_an_image_is_named_and_nothing_changes() {
    let place = Place::new();
    let (a, b) = (on_base("a"), on_base("b"));
    let above = image("localhost/above:1", vec![base(), top("a"), top("above")]);
    fixture::pull(&place.store(), &[a.clone(), b.clone(), above.clone()]).unwrap();
    place.change(|txn| txn.tag(named("b"), "localhost/second:1")).unwrap();
    let layers = chain(&a);
    let missing: ImageId = "0".repeat(64).parse().unwrap();
    let several = place.refused(|txn| txn.remove_image(id_of(&b), SeveralNames::Keep));
    assert!(several.contains("several names") && several.contains("localhost/second:1"), "{several}");
    let cases: Vec<(&str, String)> = vec![
        ("which is built on it", place.refused(|txn| txn.remove_layer(&layers[0]))),
        ("in use by image", place.refused(|txn| txn.remove_layer(&chain(&above)[2]))),
        ("is not known", place.refused(|txn| txn.remove_layer(&"1".repeat(64).parse().unwrap()))),
        ("is not known", place.refused(|txn| txn.remove_image(missing.clone(), SeveralNames::Keep))),
        ("is not called", place.refused(|txn| txn.untag(named("a"), &["localhost/other:1".to_owned()]))),
        ("not JSON", place.refused(|txn| txn.set_metadata(named("a"), "{"))),
        ("needed by every program", place.refused(|txn| txn.remove_big_data(&id_of(&a), "manifest"))),
        ("no big data", place.refused(|txn| txn.remove_big_data(&id_of(&a), "other"))),
        ("is not a normalised name", place.refused(|txn| txn.tag(named("a"), "docker.io/a:1"))),
        // One that cannot be done, and none of the others is.
        (
            "is not known",
            place.refused(|txn| {
                txn.tag(named("a"), "localhost/new:1")?;
                txn.remove_image(id_of(&b), SeveralNames::Remove)?;
                txn.untag(ImageRef::Name("localhost/nobody:1".into()), &[])
            }),
        ),
    ];
    for (want, seen) in cases {
        assert!(seen.contains(want), "{want}: {seen}");
    }
    // A volatile container of a transient store, and a mount: both only in the run root.
    let run = place.runroot();
    std::fs::create_dir_all(run.join("overlay-containers")).unwrap();
    let container = serde_json::json!([{"id": "c".repeat(64), "names": ["passing"], "image": id_of(&b), "layer": "d".repeat(64), "created": "2026-01-02T03:04:05Z"}]);
    std::fs::write(run.join("overlay-containers/volatile-containers.json"), container.to_string()).unwrap();
    let held = place.refused(|txn| txn.remove_image(id_of(&b), SeveralNames::Remove));
    assert!(held.contains("container passing"), "{held}");
    std::fs::remove_dir_all(run.join("overlay-containers")).unwrap();
    std::fs::create_dir_all(run.join("overlay-layers")).unwrap();
    let mount = serde_json::json!([{"id": chain(&b)[1], "path": "/mnt/there", "count": 1}]);
    std::fs::write(run.join("overlay-layers/mountpoints.json"), mount.to_string()).unwrap();
    let held = place.refused(|txn| txn.remove_image(id_of(&b), SeveralNames::Remove));
    assert!(held.contains("the mount at /mnt/there"), "{held}");
    std::fs::remove_dir_all(run.join("overlay-layers")).unwrap();
    // What another image is built on stays when its own image goes.
    let receipt = place.change(|txn| txn.remove_image(named("a"), SeveralNames::Keep)).unwrap().unwrap();
    assert_eq!((receipt.removed_images, receipt.removed_layers), (vec![id_of(&a)], vec![]));
    // Called by one of its names, an image with several loses only that.
    place.change(|txn| txn.remove_image(ImageRef::Name("localhost/second:1".into()), SeveralNames::Keep)).unwrap();
    assert_eq!(place.names(&id_of(&b)), ["localhost/b:1"]);
    place.sound(&BTreeSet::new());
}

/// One transaction staged by many threads, and many transactions by one handle: nothing is lost, nothing is there twice.
#[test]
fn threads_share_a_transaction_and_a_handle() {
    let place = Place::new();
    let store = place.store();
    let txn = store.begin(TxnOptions::default()).unwrap();
    let made: Vec<LayerId> = std::thread::scope(|scope| {
        // Each layer by two of them.
        let stage = |n: usize| txn.stage_new_layer(None, top(&format!("t{}", n / 2)).blob.as_slice(), &|_| {}).unwrap();
        let threads: Vec<_> = (0..16).map(|n| scope.spawn(move || stage(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let receipt = fixture::commit(txn).unwrap().unwrap();
    let ids: BTreeSet<LayerId> = made.into_iter().collect();
    assert_eq!((ids.len(), receipt.layers.into_iter().collect::<BTreeSet<_>>()), (8, ids));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                fixture::pull(store, &[on_base(&format!("h{n}"))]).unwrap();
                let txn = store.begin(TxnOptions::default()).unwrap();
                txn.tag(named(&format!("h{n}")), &format!("localhost/of{n}:1")).unwrap();
                fixture::commit(txn).unwrap();
            });
        }
    });
    for n in 0..8 {
        assert_eq!(place.names(&id_of(&on_base(&format!("h{n}")))), [format!("localhost/of{n}:1"), format!("localhost/h{n}:1")]);
    }
    place.sound(&BTreeSet::new());
}

/// A transaction that is dropped at any stage leaves nothing.
#[test]
fn what_is_dropped_leaves_nothing() {
    let place = Place::new();
    fixture::pull(&place.store(), &[on_base("a")]).unwrap();
    let before = listing(&place.root());
    let begin = || place.store().begin(TxnOptions::default()).unwrap();
    let changes: [fn(&WriteTxn); 2] = [
        |txn| txn.tag(named("a"), "localhost/new:1").unwrap(),
        |txn| {
            txn.stage_empty_layer(None).unwrap();
            txn.remove_image(named("a"), SeveralNames::Keep).unwrap();
        },
    ];
    for change in changes {
        let txn = begin();
        change(&txn);
        drop(txn);
        let txn = begin();
        change(&txn);
        drop(txn.prepare().unwrap());
        let txn = begin();
        change(&txn);
        let Prepared::Ready(prepared) = txn.prepare().unwrap() else { panic!("something changes") };
        prepared.rollback().unwrap();
        assert_eq!(listing(&place.root()), before);
        place.sound(&BTreeSet::new());
    }
}

#[test]
fn an_image_must_be_what_its_config_says() {
    let place = Place::new();
    let a = on_base("a");
    fixture::pull(&place.store(), std::slice::from_ref(&a)).unwrap();
    let top = chain(&a).pop();
    let config = |diff_ids: &[&Digest]| serde_json::json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string().into_bytes();
    let (low, high) = (&a.layers[0].diff_id, &a.layers[1].diff_id);
    let cases = [
        ("one layer too few", config(&[low]), top.clone(), "names other layers"),
        ("another order", config(&[high, low]), top.clone(), "names other layers"),
        ("layers, and none are named", config(&[]), top.clone(), "names other layers"),
        ("no layers, and some are named", config(&[low]), None, "names other layers"),
        ("no JSON", b"{".to_vec(), top.clone(), "not JSON"),
        ("an unknown layer", config(&[low]), Some("9".repeat(64).parse().unwrap()), "is not known"),
    ];
    for (what, config, top, words) in cases {
        let seen = place
            .refused(|txn| txn.stage_new_image(&NewImage { config: config.clone(), top: top.clone(), ..NewImage::default() }).map(drop));
        assert!(seen.contains(words), "{what}: {seen}");
    }
}

#[test]
fn a_layer_that_a_batch_makes_stays_though_its_image_goes() {
    let place = Place::new();
    let a = on_base("a");
    fixture::pull(&place.store(), std::slice::from_ref(&a)).unwrap();
    let layers = chain(&a);
    let stage = |txn: &WriteTxn| {
        let below = txn.stage_new_layer(None, a.layers[0].blob.as_slice(), &|_| {})?;
        txn.stage_new_layer(Some(&below), a.layers[1].blob.as_slice(), &|_| {})
    };
    let made_and_removed = place.refused(|txn| {
        let top = stage(txn)?;
        txn.remove_layer(&top)
    });
    assert!(made_and_removed.contains("both made and removed"), "{made_and_removed}");
    let receipt = place
        .change(|txn| {
            assert_eq!(stage(txn)?, layers[1]);
            txn.remove_image(named("a"), SeveralNames::Keep)
        })
        .unwrap()
        .unwrap();
    assert_eq!((receipt.removed_images, receipt.removed_layers), (vec![id_of(&a)], vec![]));
    assert_eq!(place.layers(), layers.iter().map(ToString::to_string).collect());
    place.sound(&BTreeSet::new());
}

/// Fails every change from the first table rename on, as if the program had died there.
struct DiesAtRename;

impl Hook for DiesAtRename {
    fn before(&self, op: &Op<'_>) -> std::io::Result<()> {
        static DEAD: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        if matches!(op, Op::Rename(_, to) if to.name == Path::new("images.json")) {
            DEAD.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        if DEAD.load(std::sync::atomic::Ordering::SeqCst) { Err(std::io::Error::other("dead")) } else { Ok(()) }
    }
}

#[test]
fn an_edit_without_a_journal_first_ends_what_died_before_it() {
    let place = Place::new();
    fixture::pull(&place.store(), &[on_base("a")]).unwrap();
    let lives = place.store();
    let dies = Store::open(StoreOptions::new(place.root(), place.runroot()).hook(Arc::new(DiesAtRename))).unwrap();
    let died = fixture::pull(&dies, &[on_base("b")]);
    assert!(matches!(died, Err(Failure::Commit(CommitError::InDoubt { .. }))), "{died:?}");
    let segments = || std::fs::read_dir(place.root().join("cstor-rs/journal")).unwrap().count();
    assert_eq!(segments(), 1);
    let txn = lives.begin(TxnOptions::default()).unwrap();
    txn.tag(named("a"), "localhost/new:1").unwrap();
    fixture::commit(txn).unwrap();
    assert_eq!(segments(), 0);
    // Its layers had their records: it went forward.
    assert_eq!(place.names(&id_of(&on_base("b"))), ["localhost/b:1"]);
    assert_eq!(place.names(&id_of(&on_base("a"))), ["localhost/new:1", "localhost/a:1"]);
    place.sound(&BTreeSet::new());
}

/// Counts syncs and table renames by kind.
#[derive(Default)]
struct Count(Mutex<[usize; 3]>);

impl Hook for Count {
    fn before(&self, op: &Op<'_>) -> std::io::Result<()> {
        let mut counts = self.0.lock().unwrap();
        match op {
            Op::SyncFs(_) => counts[0] += 1,
            Op::SyncData(_) | Op::SyncFile(_) | Op::SyncDir(_) => counts[1] += 1,
            Op::Rename(_, to) if ["layers.json", "images.json"].iter().any(|name| to.name == Path::new(name)) => counts[2] += 1,
            _ => {}
        }
        Ok(())
    }
}

/// syncfs, other syncs, table renames of one transaction.
fn counted(place: &Place, images: &[Image], changes: impl Fn(&WriteTxn) -> Result<(), TxnError>) -> [usize; 3] {
    let hook = Arc::new(Count::default());
    let store = Store::open(StoreOptions::new(place.root(), place.runroot()).hook(hook.clone())).unwrap();
    *hook.0.lock().unwrap() = [0; 3];
    fixture::change_with(&store, images, |txn| Ok(changes(txn)?), TxnOptions::default()).unwrap().expect("something changes");
    *hook.0.lock().unwrap()
}

/// The table in `docs/performance.md`.
#[test]
fn what_each_operation_syncs_does_not_depend_on_how_much_it_changes() {
    let place = Place::new();
    let many: Vec<Image> = (0..100).map(|n| on_base(&format!("n{n}"))).collect();
    fixture::pull(&place.store(), &many).unwrap();
    let tag = |count: usize, to: &'static str| {
        move |txn: &WriteTxn| (0..count).try_for_each(|n| txn.tag(named(&format!("n{n}")), &format!("localhost/{to}{n}:1")))
    };
    assert_eq!(counted(&place, &[], tag(1, "one")), [0, 2, 1], "a tag");
    assert_eq!(counted(&place, &[], tag(100, "hundred")), [0, 2, 1], "100 tags");
    let remove = |from: usize, to: usize| {
        move |txn: &WriteTxn| (from..to).try_for_each(|n| txn.remove_image(named(&format!("n{n}")), SeveralNames::Remove))
    };
    let one = counted(&place, &[], remove(0, 1));
    assert_eq!((one[0], one[2]), (0, 2), "a removal: {one:?}");
    assert_eq!(counted(&place, &[], remove(1, 50)), one, "49 removals");
    let pull = |count: usize, name: &str| (0..count).map(|n| on_base(&format!("{name}{n}"))).collect::<Vec<_>>();
    let pulled = counted(&place, &pull(1, "p"), |_| Ok(()));
    assert_eq!((pulled[0], pulled[2]), (1, 2), "a pull: {pulled:?}");
    assert_eq!(counted(&place, &pull(20, "q"), |_| Ok(())), pulled, "20 pulls");
    let mixed = counted(&place, &pull(1, "r"), remove(50, 51));
    assert_eq!((mixed[0], mixed[2]), (1, 3), "a batch that adds and removes: {mixed:?}");
    assert_eq!(counted(&place, &pull(20, "s"), remove(51, 80)), mixed, "a larger one");
    println!("a tag [0, 2, 1], a removal {one:?}, a pull {pulled:?}, a batch of both {mixed:?}");
    place.sound(&BTreeSet::new());
}
