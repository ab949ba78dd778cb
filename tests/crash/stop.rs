//! Tier stop(k): the program stops before its k-th change; the store is opened again.

use std::path::{Path, PathBuf};

use cstor_rs::store::Store;

use crate::fixture::Failure;
use crate::hooks::{Once, Stop};
use crate::oracle;
use crate::power;
use crate::work::{Expected, Work, options, temp};
use cstor_rs::txn::{CommitError, TxnError};

/// What must hold whatever was stopped where.
pub fn check_after(expected: &Expected, root: &Path, committed: bool, what: &str) -> bool {
    let seen = oracle::read(&root.join("root"));
    let place = expected.place(&seen);
    let Some(after) = place else { panic!("{what}: the store is neither as before nor as after: {seen:#?}") };
    assert!(after || !committed, "{what}: Ok was returned, and the store is as before");
    if let Ok(said) = &seen {
        oracle::data_agrees(said).unwrap_or_else(|why| panic!("{what}: {why}"));
    }
    if committed {
        let history = std::fs::read(root.join("root/cstor-rs/history")).unwrap_or_default();
        let table = std::fs::read_to_string(root.join("root/overlay-images/images.json")).unwrap();
        for record in serde_json::from_str::<Vec<&serde_json::value::RawValue>>(&table).unwrap() {
            let whole = record.get().as_bytes();
            // An edit without a journal does not sync it: what was there before is there.
            let id = record.get().split('"').nth(3).unwrap().as_bytes();
            let wanted = if expected.small { id } else { whole };
            let found = history.windows(wanted.len()).any(|bytes| bytes == wanted);
            assert!(found, "{what}: the history does not know {}", record.get());
        }
    }
    let left = oracle::leftovers(&root.join("root"), &expected.known);
    assert_eq!(left, Vec::<PathBuf>::new(), "{what}: left behind");
    after
}

/// Opens, and opens again: the second time there is nothing to do.
pub fn reopen(root: &Path, what: &str) -> Vec<String> {
    let store = Store::open(options(root, None)).unwrap_or_else(|error| panic!("{what}: the store does not open: {error:?}"));
    let report = store.recovered();
    assert!(report.pending.is_empty(), "{what}: {report:?}");
    let outcomes = report.ended.iter().map(|(_, outcome)| format!("{outcome:?}")).collect();
    let before = oracle::listing(root).unwrap();
    let again = Store::open(options(root, None)).unwrap();
    assert!(again.recovered().ended.is_empty(), "{what}: a second recovery finds {:?}", again.recovered());
    assert_eq!(oracle::listing(root).unwrap(), before, "{what}: a second recovery changes the store");
    outcomes
}

/// The bytes of each table, and of its lock file.
pub type Tokens = [(Option<Vec<u8>>, Option<Vec<u8>>); 2];

/// The tokens of both tables: who has read a table under one token must see another once the table has changed.
pub fn tokens(root: &Path) -> Tokens {
    ["overlay-layers/layers", "overlay-images/images"].map(|name| {
        let read = |suffix: &str| std::fs::read(root.join("root").join(format!("{name}.{suffix}"))).ok();
        (read("json"), read("lock"))
    })
}

pub fn check_tokens(root: &Path, before: &Tokens, what: &str) {
    for (then, now) in before.iter().zip(tokens(root)) {
        let empty = |bytes: &Option<Vec<u8>>| bytes.as_deref().is_none_or(|bytes| bytes == b"[]");
        if then.0 != now.0 && !(empty(&then.0) && empty(&now.0)) {
            assert!(now.1.is_some() && then.1 != now.1, "{what}: a table changed and its token did not");
        }
    }
}

/// Runs the transaction until it is stopped before change `k`; `None` where it has no such change.
pub fn run_to(work: &Work, root: &Path, k: usize) -> Option<Result<(), Failure>> {
    work.setup(root);
    let tokens = tokens(root);
    let stop = Stop::of(work.name, k);
    let hook = stop.clone();
    // Stopped in open: the same as stopped before anything.
    let result = match Store::open(options(root, Some(hook.clone()))) {
        Ok(_) => work.run(root, Some(hook)).map(|_| ()),
        Err(_) => Ok(()),
    };
    check_tokens(root, &tokens, &format!("{} stopped before change {k}", work.name));
    stop.stopped().then_some(result)
}

pub fn everywhere(work: &Work) {
    let expected = Expected::of(work);
    let mut ends = std::collections::BTreeMap::new();
    for k in 0.. {
        let temp = temp();
        let Some(result) = run_to(work, temp.path(), k) else {
            println!("{}: {k} changes, {ends:?}", work.name);
            assert!(k > work.least(40), "{k} changes are too few to be true");
            break;
        };
        let what = format!("{} stopped before change {k}", work.name);
        let switched = expected.readable(&temp.path().join("root")).unwrap_or_else(|why| panic!("{what}, unrecovered: {why}"));
        let rolled_back = match &result {
            Ok(()) | Err(Failure::Commit(CommitError::InDoubt { .. }) | Failure::Txn(TxnError::InDoubt { .. })) => false,
            Err(_) => true,
        };
        assert!(!(switched && rolled_back), "{what}: said to be rolled back, and is visible");
        let outcomes = reopen(temp.path(), &what);
        let after = check_after(&expected, temp.path(), result.is_ok(), &what);
        assert!(!(after && rolled_back), "{what}: said to be rolled back, and became visible");
        assert!(after || !switched, "{what}: was visible, and was taken back");
        *ends.entry((outcomes, after)).or_insert(0) += 1;
        assert!(work.run(temp.path(), None).is_ok(), "{what}: the transaction cannot be run again");
        check_after(&expected, temp.path(), true, &what);
    }
}

/// One change fails, and the disk goes on: the program cleans up after itself, and says truly what became of it.
pub fn one_error_everywhere(work: &Work) {
    use rustix::io::Errno;
    let expected = Expected::of(work);
    for error in [Errno::NOSPC, Errno::IO, Errno::DQUOT, Errno::MFILE, Errno::INTR] {
        let mut ends = std::collections::BTreeMap::new();
        for k in 0.. {
            let temp = temp();
            work.setup(temp.path());
            let before = tokens(temp.path());
            let what = format!("{}, {error:?} at change {k}", work.name);
            let hook = Once::at(k, error);
            let result = match Store::open(options(temp.path(), Some(hook.clone()))) {
                Ok(_) => work.run(temp.path(), Some(hook.clone())).map(|_| ()),
                Err(_) => Ok(()),
            };
            if !hook.failed() {
                println!("{}, {error:?}: {ends:?}", work.name);
                break;
            }
            check_tokens(temp.path(), &before, &what);
            let (in_doubt, failed) = match &result {
                Ok(()) => (false, false),
                Err(Failure::Commit(CommitError::InDoubt { .. }) | Failure::Txn(TxnError::InDoubt { .. })) => (true, true),
                Err(_) => (false, true),
            };
            expected.readable(&temp.path().join("root")).unwrap_or_else(|why| panic!("{what}, unrecovered: {why}"));
            let outcomes = reopen(temp.path(), &what);
            let after = check_after(&expected, temp.path(), result.is_ok(), &what);
            assert!(!after || in_doubt || !failed, "{what}: said to have failed, and is visible: {result:?}");
            *ends.entry((outcomes, in_doubt, after)).or_insert(0) += 1;
            assert!(work.run(temp.path(), None).is_ok(), "{what}: the transaction cannot be run again");
            check_after(&expected, temp.path(), true, &what);
        }
    }
}

/// Recovery stopped before its every change j, from a store stopped at every k; then recovered. While layers are staged the
/// next k only adds one more file to the tree that recovery removes: there every seventh is enough.
pub fn recovery_everywhere(work: &Work) {
    let (expected, staged) = (Expected::of(work), power::staged(work));
    let mut pairs = 0;
    for k in (0..staged).step_by(7).chain((staged..).step_by(work.stride())) {
        for j in 0.. {
            let temp = temp();
            if run_to(work, temp.path(), k).is_none() {
                println!("{}: {pairs} pairs", work.name);
                assert!(pairs > work.least(40) / 2);
                return;
            }
            let what = format!("{} stopped before change {k}, its recovery before change {j}", work.name);
            let stop = Stop::of("recovery", j);
            let opened = Store::open(options(temp.path(), Some(stop.clone())));
            drop(opened);
            if !stop.stopped() {
                break;
            }
            expected.readable(&temp.path().join("root")).unwrap_or_else(|why| panic!("{what}, unrecovered: {why}"));
            reopen(temp.path(), &what);
            check_after(&expected, temp.path(), false, &what);
            pairs += 1;
        }
    }
}
