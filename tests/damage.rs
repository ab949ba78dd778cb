//! What stands around and in a sealed layer may be damaged in any way: the next pull heals it or refuses, and breaks nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use common::fixture::{self, Failure, Image, Member, app, base, image};
use cstor_rs::store::{Store, StoreOptions};
use serde_json::{Value, json};

struct Place {
    temp: tempfile::TempDir,
    /// The layers of `good`, base first.
    layers: Vec<String>,
}

fn upper() -> fixture::Layer {
    fixture::layer(&[
        Member::Dir("up", 0o755),
        Member::Dir("up/empty", 0o700),
        Member::File("up/data", 0o644, b"some data\n"),
        Member::File("up/nothing", 0o600, b""),
        Member::HardLink("up/same", "up/data"),
        Member::Symlink("up/link", "data"),
        Member::Fifo("up/pipe"),
        Member::File("etc/.wh.empty", 0, b""),
    ])
}

fn good() -> [Image; 1] {
    [image("localhost/good:1", vec![base(), upper(), app("top")])]
}

impl Place {
    /// Two images over one base.
    fn new() -> Self {
        let mut place = Self { temp: tempfile::tempdir().unwrap(), layers: vec![] };
        let other = image("localhost/other:1", vec![base(), app("other")]);
        fixture::pull(&place.open(), &[good()[0].clone(), other]).unwrap();
        let mut id: Option<cstor_rs::ids::LayerId> = None;
        for layer in &good()[0].layers {
            let next = cstor_rs::ids::LayerId::chain(id.as_ref(), &layer.diff_id);
            place.layers.push(next.to_string());
            id = Some(next);
        }
        place
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn open(&self) -> Store {
        Store::open(StoreOptions::new(self.root(), self.temp.path().join("run"))).unwrap()
    }

    /// `overlay/<id>` of the middle layer.
    fn dir(&self) -> PathBuf {
        self.root().join("overlay").join(&self.layers[1])
    }

    fn split(&self) -> PathBuf {
        self.root().join("overlay-layers").join(format!("{}.tar-split.gz", self.layers[1]))
    }
}

fn empty_dir_in_place_of(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
    fs::write(path.join("something"), "").unwrap();
}

/// A tar-split that ends early, between two lines.
fn cut(split: &Path, lines: usize) {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(fs::File::open(split).unwrap()).read_to_string(&mut text).unwrap();
    let kept: String = text.lines().take(lines).map(|line| format!("{line}\n")).collect();
    assert!(kept.len() < text.len());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(kept.as_bytes()).unwrap();
    fs::write(split, gzip.finish().unwrap()).unwrap();
}

type Injury = (&'static str, fn(&Place));

const HEALED: &[Injury] = &[
    ("link names another layer's LINKID", |place| {
        let other = fs::read(place.root().join("overlay").join(&place.layers[0]).join("link")).unwrap();
        fs::write(place.dir().join("link"), other).unwrap();
    }),
    ("link is a directory", |place| empty_dir_in_place_of(&place.dir().join("link"))),
    ("link is a link", |place| {
        fs::remove_file(place.dir().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", place.dir().join("link")).unwrap();
    }),
    ("lower is a directory", |place| empty_dir_in_place_of(&place.dir().join("lower"))),
    ("lower-layers is a directory", |place| empty_dir_in_place_of(&place.dir().join("lower-layers"))),
    ("the seal is a directory", |place| empty_dir_in_place_of(&place.dir().join("cstor-rs.seal"))),
    ("the tar-split is a directory", |place| empty_dir_in_place_of(&place.split())),
    ("the tar-split is cut short", |place| cut(&place.split(), 3)),
    ("the tar-split says nothing", |place| cut(&place.split(), 0)),
    ("diff is a link", |place| {
        fs::rename(place.dir().join("diff"), place.temp.path().join("diff")).unwrap();
        std::os::unix::fs::symlink(place.temp.path().join("diff"), place.dir().join("diff")).unwrap();
    }),
    ("the l/ entry is a directory", |place| {
        let link = fs::read_to_string(place.dir().join("link")).unwrap();
        empty_dir_in_place_of(&place.root().join("overlay/l").join(link));
    }),
    ("an empty file is gone", |place| fs::remove_file(place.dir().join("diff/up/nothing")).unwrap()),
    ("a link is gone", |place| fs::remove_file(place.dir().join("diff/up/link")).unwrap()),
    ("a fifo is gone", |place| fs::remove_file(place.dir().join("diff/up/pipe")).unwrap()),
    ("a hard link is gone", |place| fs::remove_file(place.dir().join("diff/up/same")).unwrap()),
    ("an empty directory is gone", |place| fs::remove_dir(place.dir().join("diff/up/empty")).unwrap()),
    ("a whiteout is gone", |place| fs::remove_file(place.dir().join("diff/etc/empty")).unwrap()),
];

#[test]
fn a_damaged_layer_is_healed_and_nothing_else_is_touched() {
    let expected = oracle::read(&Place::new().root()).unwrap();
    for (what, injure) in HEALED {
        if !rustix::process::geteuid().is_root() && what.contains("whiteout") {
            continue;
        }
        let place = Place::new();
        injure(&place);
        fixture::pull(&place.open(), &good()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let seen = oracle::read(&place.root()).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(seen, expected, "{what}");
        let left = oracle::leftovers(&place.root(), &std::collections::BTreeSet::new());
        assert_eq!(left, Vec::<PathBuf>::new(), "{what}");
        assert!(fixture::pull(&place.open(), &good()).unwrap().is_none(), "{what}: there is nothing left to heal");
    }
}

/// What podman wrote and nobody has verified yet.
const UNSEALED: &[Injury] = &[
    ("a file more", |place| fs::write(place.dir().join("diff/up/more"), "x").unwrap()),
    ("a directory more", |place| fs::create_dir(place.dir().join("diff/more")).unwrap()),
    ("a link more", |place| std::os::unix::fs::symlink("data", place.dir().join("diff/up/more")).unwrap()),
];

#[test]
fn what_is_not_of_the_layer_is_found_before_it_is_sealed() {
    let expected = oracle::read(&Place::new().root()).unwrap();
    for (what, injure) in UNSEALED {
        let place = Place::new();
        fs::remove_file(place.dir().join("cstor-rs.seal")).unwrap();
        injure(&place);
        fixture::pull(&place.open(), &good()).unwrap_or_else(|error| panic!("{what}: {error:?}")).expect("there is something to heal");
        assert_eq!(oracle::read(&place.root()).unwrap(), expected, "{what}");
    }
}

type Spoilt = (&'static str, fn(&mut Value), &'static str);

const REFUSED: &[Spoilt] = &[
    ("another diff-digest", |record| record["diff-digest"] = json!(format!("sha256:{}", "a".repeat(64))), "says it is sha256:aaa"),
    ("a diff-digest that is none", |record| record["diff-digest"] = json!("garbage"), "says it is garbage"),
    ("a size that nobody knows", |record| record["diff-size"] = json!(-1), "names no size"),
];

#[test]
fn a_record_that_says_something_else_is_refused_and_nothing_changes() {
    for (what, spoil, words) in REFUSED {
        let place = Place::new();
        let path = place.root().join("overlay-layers/layers.json");
        let mut table: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        spoil(table.iter_mut().find(|record| record["id"] == json!(place.layers[1])).unwrap());
        fs::write(&path, serde_json::to_vec(&table).unwrap()).unwrap();
        let before = oracle::listing(&place.root()).unwrap();
        let error = fixture::pull(&place.open(), &good()).unwrap_err();
        let Failure::Txn(error) = error else { panic!("{what}: {error:?}") };
        assert!(error.to_string().contains(words), "{what}: {error}");
        let plain = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !line.starts_with("./cstor-rs") && !line.contains(".lock ")).collect()
        };
        assert_eq!(plain(oracle::listing(&place.root()).unwrap()), plain(before), "{what}");
    }
}

/// The header explains and never decides: a durable intent is acted on whatever became of it.
#[test]
fn a_rotten_header_does_not_hide_an_intent() {
    use cstor_rs::fsio::{Hook, Op};
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Dies(AtomicUsize);
    impl Hook for Dies {
        fn before(&self, op: &Op<'_>) -> std::io::Result<()> {
            // Behind the intent, in the middle of placing layers.
            if matches!(op, Op::Symlink(..)) && self.0.fetch_add(1, Ordering::SeqCst) > 0 || self.0.load(Ordering::SeqCst) > 1 {
                self.0.store(9, Ordering::SeqCst);
                return Err(std::io::Error::other("gone"));
            }
            Ok(())
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let options = || StoreOptions::new(temp.path().join("root"), temp.path().join("run"));
    fixture::pull(&Store::open(options()).unwrap(), &[image("localhost/zero:1", vec![app("zero")])]).unwrap();
    let before = oracle::read(&temp.path().join("root")).unwrap();
    let two = [image("localhost/two:1", vec![fixture::layer(&[Member::File("plain", 0o644, b"x")]), app("two")])];
    fixture::pull(&Store::open(options().hook(std::sync::Arc::new(Dies(AtomicUsize::new(0))))).unwrap(), &two).unwrap_err();
    let journal = temp.path().join("root/cstor-rs/journal");
    let segment = fs::read_dir(&journal).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20] ^= 0xff;
    fs::write(&segment, bytes).unwrap();
    let store = Store::open(options()).unwrap();
    let outcomes: Vec<_> = store.recovered().ended.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [cstor_rs::recovery::Outcome::RolledBack]);
    assert_eq!(oracle::read(&temp.path().join("root")).unwrap(), before);
    assert_eq!(oracle::leftovers(&temp.path().join("root"), &std::collections::BTreeSet::new()), Vec::<PathBuf>::new());
}
