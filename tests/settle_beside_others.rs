//! Settling while others work on the store, hold its locks, or want no more of it; and when syncs fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/unsealed.rs"]
mod unsealed;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::fixture::{self, app, image};
use common::once::Once;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::{Digest, LayerId};
use cstor_rs::lock::{StoreLocks, Wait};
use cstor_rs::metadata::ImageRef;
use cstor_rs::plan::SeveralNames;
use cstor_rs::settle::{BATCH, Outcome, SettleError, SettleOptions, Settled, settle};
use cstor_rs::store::Store;
use cstor_rs::txn::{SyncMode, TxnOptions};
use unsealed::{Count, Place, chain, counted, one, outcomes, sorted, two};

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
        assert_eq!(place.noted(), chain(&one())[..1], "{what}");
    }
    // Another one that settles was faster.
    let place = Arc::new(Place::with(&[one()]));
    let theirs = place.clone();
    let found = outcomes(&between(&place, move || assert!(theirs.settle().layers.iter().all(|layer| layer.outcome == Outcome::Sealed))));
    assert!(found.values().all(|outcome| *outcome == Outcome::AlreadySealed), "{found:?}");
}

/// The sync must cover what was verified: it comes after. What is written over while it runs was read before.
#[test]
fn s1_the_sync_begins_when_everything_is_verified() {
    let place = Arc::new(Place::with(&[one(), two()]));
    let theirs = place.clone();
    let what = move || {
        for id in [chain(&one()), chain(&two())].concat() {
            for file in ["bin/tool", "app/one", "app/two"] {
                let path = theirs.layer(&id).join("diff").join(file);
                if path.exists() {
                    fs::write(path, b"").unwrap();
                }
            }
        }
    };
    assert_eq!(outcomes(&between(&place, what)).into_values().collect::<Vec<_>>(), vec![Outcome::Sealed; 3]);
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
