//! Tier power(k, image): the log of a transaction on a model disk, and what a power cut leaves of it at every point.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use cstor_rs::journal::{self, Kind, State};
use cstor_rs::overlay::{Seal, TreeId};
use cstor_rs::plan::{self, ImageChange, Step};
use cstor_rs::store::Store;
use cstor_rs::txn::SyncMode;

use crate::disk::{Change, Cut, Disk, Log};
use crate::steps;
use crate::stop::{check_after, reopen};
use crate::work::{Expected, Work, options, shared_layer, temp};

/// A run of a workload: the disk before, the log, and from where on Ok has been decided.
struct Run {
    before: Disk,
    log: Vec<Change>,
    /// The number of changes after which the transaction is durable: its Done is.
    decided: usize,
    /// The number of changes before the first that is not staging.
    journaled: usize,
}

impl Run {
    fn of(work: &Work) -> Self {
        Self::with(work, SyncMode::Filesystem)
    }

    fn with(work: &Work, sync: SyncMode) -> Self {
        let temp = temp();
        work.setup(temp.path());
        let before = Disk::of(temp.path());
        let log = Log::of(temp.path());
        work.run_with(temp.path(), Some(log.clone()), sync).unwrap();
        let log = log.take();
        // Without a journal: once the directory of the table is synced behind its rename.
        let syncs_table = |change: &Change| matches!(change, Change::SyncDir(path) if path.ends_with("overlay-images"));
        let decided = 1 + log.iter().rposition(syncs_segment).or_else(|| log.iter().rposition(syncs_table)).unwrap();
        let journaled = log.iter().position(|c| matches!(c, Change::SyncFs)).unwrap_or(0);
        Self { before, log, decided, journaled }
    }
}

/// The number of changes that only stage.
pub fn staged(work: &Work) -> usize {
    Run::of(work).journaled
}

fn syncs_segment(change: &Change) -> bool {
    matches!(change, Change::SyncFile(path) if path.extension().is_some_and(|e| e == "wal"))
}

/// The number of changes before the intent is on the medium.
pub fn intended(work: &Work) -> usize {
    Run::of(work).log.iter().position(syncs_segment).unwrap_or(0)
}

/// The number of changes.
pub fn changes(work: &Work) -> usize {
    Run::of(work).log.len()
}

/// What lies in staging and trash: its single losses tell nothing, all of it goes by the name of the transaction.
fn staging(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/cstor-rs/stage/") || text.contains("/cstor-rs/trash/") || text.contains("/.cstor-rs-")
}

/// Makes a disk in a directory; seals and intents follow the directories they name.
pub fn write(disk: &Disk, top: &Path) {
    let identities = disk.write(top);
    let moved = |tree: TreeId| match identities.get(&(tree.inode, tree.birth)) {
        Some((inode, birth)) => TreeId { inode: *inode, birth: *birth },
        // A tree that is not there any more must not be taken for one that is.
        None => TreeId { inode: u64::MAX, birth: None },
    };
    let mut queue = vec![top.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() && name != "diff" {
                queue.push(path);
            } else if name.ends_with(".seal") {
                if let Ok(seal) = Seal::parse(&std::fs::read(&path).unwrap()) {
                    let tree = moved(seal.tree);
                    std::fs::write(&path, Seal { tree, ..seal }.encode().unwrap()).unwrap();
                }
            } else if let Some(txn) = name.strip_suffix(".wal") {
                rewrite_intent(&path, txn, moved);
            }
        }
    }
}

fn rewrite_intent(path: &Path, txn: &str, moved: impl Fn(TreeId) -> TreeId) {
    let bytes = std::fs::read(path).unwrap();
    let txn = txn.parse().unwrap();
    let State::Intent(payload) = journal::scan(&bytes, &txn) else { return };
    let mut intent = plan::decode(&payload).unwrap();
    let mut changed = false;
    for step in &mut intent.steps {
        if let Step::Heal { tree, .. } = step {
            *tree = moved(*tree);
            changed = true;
        }
    }
    for change in &mut intent.images {
        if let ImageChange::Remove { tree: Some(tree), .. } = change {
            *tree = moved(*tree);
            changed = true;
        }
    }
    if changed {
        let header = journal::parse_header(&bytes).unwrap();
        let mut new = journal::header(&header);
        new.extend(journal::Chain::new(&txn).record(Kind::Intent, &plan::encode(&intent).unwrap()));
        std::fs::write(path, new).unwrap();
    }
}

thread_local! {
    /// Whether a panic in this thread is caught and told by whoever catches it.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics quiet that are a result here: in a control run there are many.
pub fn hush_caught_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !CAUGHT.get() {
            loud(info);
        }
    }));
}

/// What is wrong, a panic being an answer as well.
pub fn caught<T>(check: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    CAUGHT.set(true);
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    CAUGHT.set(false);
    checked.unwrap_or_else(|panic| match panic.downcast::<String>() {
        Ok(text) => Err(*text),
        Err(_) => Err("panicked".to_owned()),
    })
}

/// What is wrong with a state that a power cut left, if anything.
fn judge(expected: &Expected, disk: &Disk, decided: bool, what: &str) -> Result<(), String> {
    let temp = temp();
    write(disk, temp.path());
    let root = temp.path().join("root");
    // What podman would see, were it the next to open the store.
    let visible = expected.readable(&root).map_err(|why| format!("unrecovered: {why}"))?;
    if decided && !visible {
        return Err("unrecovered: Ok was returned, and the store is as before".to_owned());
    }
    // The checks panic, which a control run catches here.
    let (temp, what) = (temp.path().to_owned(), what.to_owned());
    caught(move || {
        reopen(&temp, &what);
        Ok(check_after(expected, &temp, decided, &what))
    })
    .and_then(|after| if after || !visible { Ok(()) } else { Err("was visible, and was taken back".to_owned()) })
}

/// Every state of one log; calls `bad` with what is wrong until it says stop.
fn every_cut(run: &Run, log: &[Change], expected: &Expected, from: usize, mut bad: impl FnMut(usize, &Cut, String) -> bool) -> usize {
    let mut disk = run.before.clone();
    let mut seen = HashSet::new();
    for k in 0..=log.len() {
        if k > 0 {
            disk.play(&log[k - 1]);
        }
        if k < from {
            continue;
        }
        let decided = k >= run.decided;
        for cut in disk.cuts(|path| k < run.journaled && staging(path)) {
            let left = disk.after(&cut);
            if seen.insert((left.fingerprint(), decided))
                && let Err(why) = judge(expected, &left, decided, &format!("power lost after change {k}, {cut:?}"))
                && bad(k, &cut, why)
            {
                return seen.len();
            }
        }
    }
    seen.len()
}

pub fn everywhere(work: &Work) {
    let (expected, run) = (Expected::of(work), Run::of(work));
    let states = every_cut(&run, &run.log, &expected, 0, |k, cut, why| {
        let (name, before) = (work.name, k.checked_sub(1).map(|k| &run.log[k]));
        panic!("{name}: power lost after change {k} ({before:?}), {cut:?}: {why}")
    });
    (0..run.log.len()).for_each(|k| steps::hit_by_power(work.name, &run.log, k));
    println!("{}: {} changes, {states} states", work.name, run.log.len());
    assert!(states > work.least(100), "{states} states are too few to be true");
}

/// What podman wrote is in the page cache only, until a transaction that builds on it brings it to the medium: after Ok it
/// is there, whichever way contents are synced.
pub fn foreign_contents_are_synced(work: &Work) {
    let expected = Expected::of(work);
    for sync in [SyncMode::Filesystem, SyncMode::Files] {
        let mut run = Run::with(work, sync);
        run.before.forget_layer(shared_layer().as_str());
        let states = every_cut(&run, &run.log, &expected, run.decided, |k, cut, why| {
            panic!("{}, {sync:?}: power lost after change {k}, {cut:?}: {why}", work.name)
        });
        println!("{}, {sync:?}: {states} states", work.name);
        // Shown to be able to fail: without the syncs of contents the first state is wrong.
        let mut log = run.log.clone();
        let contents = |change: &Change| match change {
            Change::SyncFs => true,
            Change::SyncFile(path) => path.to_string_lossy().contains(shared_layer().as_str()),
            _ => false,
        };
        log.iter_mut().filter(|change| contents(change)).for_each(|change| *change = Change::Nothing);
        let mut caught = false;
        every_cut(&run, &log, &expected, run.decided, |_, _, _| {
            caught = true;
            true
        });
        assert!(caught, "{sync:?}: nothing notices that contents are not synced");
    }
}

/// The power goes again while recovery runs, at its every change, from what a first power cut left behind the intent.
pub fn recovery_everywhere(work: &Work) {
    let (expected, run) = (Expected::of(work), Run::of(work));
    let intent = run.log.iter().position(syncs_segment).unwrap_or(0);
    let (mut disk, mut seen, mut states) = (run.before.clone(), HashSet::new(), 0);
    let stride = work.stride();
    for (k, change) in run.log.iter().enumerate() {
        disk.play(change);
        if k % stride != 0 {
            continue;
        }
        for cut in [Cut::Synced, Cut::Everything] {
            let left = disk.after(&cut);
            // Before the intent all goes by the name of the transaction: one workload is enough.
            let early = work.name == "one" && cut == Cut::Everything;
            if (k < intent && !early) || !seen.insert(left.fingerprint()) {
                continue;
            }
            let temp = temp();
            write(&left, temp.path());
            let (before, log) = (Disk::of(temp.path()), Log::of(temp.path()));
            Store::open(options(temp.path(), Some(log.clone()))).unwrap();
            let again = Run { before, log: log.take(), decided: usize::MAX, journaled: 0 };
            (0..again.log.len()).for_each(|j| steps::hit_by_power("recovery", &again.log, j));
            states += every_cut(&again, &again.log, &expected, 0, |j, second, why| {
                panic!("{}: power lost after change {k}, {cut:?}, and after change {j} of the recovery, {second:?}: {why}", work.name)
            });
        }
    }
    println!("{}: {} first states, {states} second ones", work.name, seen.len());
    assert!(states > work.least(100), "{states} states are too few to be true");
}

/// A sync by what it is for: transaction and ids out of its path.
pub fn role(change: &Change) -> Option<String> {
    let path = match change {
        Change::SyncFs | Change::SyncFsBut(_) => return Some("syncfs".to_owned()),
        Change::SyncFile(path) | Change::SyncDir(path) => path,
        _ => return None,
    };
    let text = path.strip_prefix("root").unwrap_or(path).to_string_lossy().into_owned();
    let hex = |text: &str| text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut role = String::new();
    for part in text.split_inclusive(['/', '.', '-']) {
        let bare = part.trim_end_matches(['/', '.', '-']);
        role.push_str(&if hex(bare) { part.replace(bare, if bare.len() == 32 { "TXN" } else { "ID" }) } else { part.to_owned() });
    }
    Some(role)
}

/// A rename is on the medium after an fsync of either directory: one of each pair may go, not both.
const PAIRS: &[(&str, &str)] = &[
    ("overlay-images/ID", "overlay-images/.cstor-rs-TXN/ID"),
    ("overlay", "cstor-rs/stage/TXN"),
    ("overlay", "cstor-rs/trash/TXN"),
    ("overlay-layers", "overlay-layers/.cstor-rs-TXN"),
    ("overlay-images", "overlay-images/.cstor-rs-TXN"),
    ("overlay-images/ID", "overlay-images/.cstor-rs-TXN/ID"),
    ("overlay/ID", "cstor-rs/stage/TXN/ID"),
    ("overlay/ID", "cstor-rs/stage/TXN"),
    // The marker's name: before the intent, and again with what is placed. The table behind it is renamed after both.
    ("overlay-images", "overlay-images"),
    ("overlay-layers", "overlay-layers"),
];

/// Whether two syncs do the same for one rename.
pub fn is_pair(one: &str, other: &str) -> bool {
    PAIRS.iter().any(|(a, b)| (one == *a && other == *b) || (one == *b && other == *a))
}

/// Syncs that no power cut on the model misses, and why they are there.
const NEEDLESS: &[(&str, &str)] = &[
    ("cstor-rs/journal/.TXN.new", "a header that is lost reads as a segment without an intent; with it, the segment says whose it is"),
    ("cstor-rs/journal/TXN.wal", "Done: the markers say it too; it keeps recovery from looking at what podman made since"),
    ("cstor-rs/stage", "an empty directory that comes back is dead by its name"),
    ("cstor-rs/trash", "an empty directory that comes back is dead by its name"),
    ("cstor-rs/journal", "a segment that comes back says Done"),
    ("overlay/ID", "a seal that is lost costs a verification"),
    ("cstor-rs/stage/TXN", "the other end of such a seal"),
    ("overlay-images/ID", "documents that podman may have made between the syncfs and the locks: tests/txn.rs shows it"),
    ("", "a new store: the syncfs comes after; before it, the last of these covers the others"),
    ("cstor-rs", "a new store: the same"),
];

/// Takes each sync away, and where its rename has another one, both: a state goes wrong, or the sync is a needless one.
pub fn every_sync_counts(work: &Work) {
    let (expected, run) = (Expected::of(work), Run::of(work));
    let caught = |without: &[usize]| {
        let mut log = run.log.clone();
        without.iter().for_each(|index| log[*index] = Change::Nothing);
        let mut caught = None;
        every_cut(&run, &log, &expected, without[0], |k, cut, why| {
            let why: String = why.chars().take(160).collect();
            caught = Some(format!("after change {k}, {cut:?}: {why}"));
            true
        });
        caught
    };
    let syncs: Vec<(usize, String)> = run.log.iter().enumerate().filter_map(|(index, change)| Some((index, role(change)?))).collect();
    let mut needless = BTreeMap::new();
    let (mut alone, mut paired) = (0, 0);
    for (index, role) in &syncs {
        if caught(&[*index]).is_some() {
            alone += 1;
            continue;
        }
        let mut both = syncs.iter().filter(|(other, name)| other != index && is_pair(role, name)).map(|(other, _)| *other);
        let mut pair = |other: usize| caught(&[*index.min(&other), *index.max(&other)]).is_some();
        if both.any(&mut pair) {
            paired += 1;
        } else {
            *needless.entry(role.as_str()).or_insert(0) += 1;
        }
    }
    println!("{}: {alone} syncs are needed, {paired} as one of two, needless: {needless:?}", work.name);
    let known = |role: &&str| NEEDLESS.iter().any(|(name, _)| name == role);
    let unknown: Vec<&&str> = needless.keys().filter(|role| !known(role)).collect();
    assert_eq!(unknown, Vec::<&&str>::new(), "{}: nothing notices the loss of these syncs", work.name);
}
