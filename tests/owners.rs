//! A transaction whose owner lives, and another program's recovery beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::fixture::{self, Failure, app, base, image};
use common::once::Once;
use cstor_rs::fsio::{Dir, Op, Seam};
use cstor_rs::journal::{Kind, Segment};
use cstor_rs::plan::{self, Intent};
use cstor_rs::recovery::RecoveryError;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::TxnError;

const TXN: &str = "00112233445566778899aabbccddeeff";
const DEAD: &str = "ffffffffffffffffffffffffffffffff";

fn options(top: &Path) -> StoreOptions {
    StoreOptions::new(top.join("root"), top.join("run"))
}

/// A store with one image.
fn store() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fixture::pull(&Store::open(options(temp.path())).unwrap(), &[image("localhost/zero:1", vec![app("zero")])]).unwrap();
    temp
}

/// What makes a pass run: staging that nobody owns.
fn dead_staging(top: &Path) -> PathBuf {
    let stage = top.join("root/cstor-rs/stage").join(DEAD);
    fs::create_dir_all(&stage).unwrap();
    stage
}

fn journal(top: &Path) -> Dir {
    Dir::open(&top.join("root/cstor-rs/journal"), Seam::default()).unwrap()
}

#[test]
fn what_a_living_transaction_stages_is_left_alone() {
    let temp = store();
    let top = temp.path().to_owned();
    let recover = move || {
        let stage = dead_staging(&top);
        let store = Store::open(options(&top)).unwrap();
        assert_eq!(store.recovered().alive.len(), 1, "{:?}", store.recovered());
        assert!(!stage.exists(), "the dead beside it is removed");
    };
    let when = |op: &Op<'_>| matches!(op, Op::SyncFs(_));
    let hook = Arc::new(Once { when, what: recover, done: AtomicUsize::new(0) });
    let store = Store::open(options(temp.path()).hook(hook.clone())).unwrap();
    fixture::pull(&store, &[image("localhost/one:1", vec![base()])]).unwrap().unwrap();
    assert_ne!(hook.done.load(Ordering::SeqCst), 0);
    assert_eq!(store.read().unwrap().unwrap().images().count(), 2);
}

/// An owner that failed half-way and could not even release its segment: its intent is nobody else's to end.
#[test]
fn an_intent_whose_owner_lives_without_the_locks_stops_every_commit_and_is_named() {
    let temp = store();
    let journal = journal(temp.path());
    let mut segment = Segment::create(&journal, &TXN.parse().unwrap()).unwrap();
    segment.append(Kind::Intent, &plan::encode(&Intent { seq: 1, ..Intent::default() }).unwrap()).unwrap();
    let store = Store::open(options(temp.path())).unwrap();
    let refused = fixture::pull(&store, &[image("localhost/one:1", vec![base()])]);
    let Err(Failure::Txn(TxnError::Recovery(RecoveryError::Poisoned { txn }))) = &refused else { panic!("{refused:?}") };
    assert_eq!(txn.as_str(), TXN);
    drop(segment);
    fixture::pull(&store, &[image("localhost/one:1", vec![base()])]).unwrap().unwrap();
}

#[test]
fn a_segment_that_is_just_being_born_is_left_to_its_owner() {
    let temp = store();
    let journal = journal(temp.path());
    let name = format!(".{TXN}.new");
    let file = journal.create(&name, 0o600).unwrap();
    assert!(file.try_lock(true).unwrap());
    dead_staging(temp.path());
    Store::open(options(temp.path())).unwrap();
    assert!(journal.meta(&name).unwrap().is_some(), "its owner lives");
    // Closing alone releases it only once nobody looks at it in /proc either.
    file.unlock().unwrap();
    dead_staging(temp.path());
    Store::open(options(temp.path())).unwrap();
    assert!(journal.meta(&name).unwrap().is_none(), "its owner is dead");
}
