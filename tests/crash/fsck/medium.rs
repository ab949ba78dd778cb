//! The tiers on the model disk: what a power cut leaves of a repair, and every sync taken away.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Expected, Hurt, repair, stride};
use crate::disk::{Change, Disk, Log};
use crate::injury::Case;
use crate::power;
use crate::steps;
use crate::work::temp;

/// A run on the model disk.
struct Run {
    hurt: Hurt,
    before: Disk,
    log: Vec<Change>,
}

impl Run {
    fn of(case: &Case) -> Self {
        let expected = Expected::of(case);
        let temp = temp();
        let hurt = expected.hurt(case, temp.path());
        let (before, log) = (Disk::of(temp.path()), Log::of(temp.path()));
        repair(case, temp.path(), Some(log.clone())).unwrap();
        Self { hurt, before, log: log.take() }
    }

    /// What is wrong with the first state of this log that is wrong, if any is; how many states there are.
    fn judge(&self, log: &[Change], from: usize, stride: usize) -> (Option<String>, usize) {
        let (mut disk, mut states, mut turn) = (self.before.clone(), 0, 0);
        let mut seen = BTreeSet::new();
        for k in 0..=log.len() {
            if k > 0 {
                disk.play(&log[k - 1]);
            }
            if k < from {
                continue;
            }
            let done = k == log.len();
            for cut in disk.cuts(staged) {
                let left = disk.after(&cut);
                if !seen.insert((left.fingerprint(), done)) {
                    continue;
                }
                turn += 1;
                if turn % stride != 0 && !done {
                    continue;
                }
                states += 1;
                if let Err(why) = self.judge_one(&left, done) {
                    let last = k.checked_sub(1).map(|k| &log[k]);
                    return (Some(format!("power lost after change {k} ({last:?}), {cut:?}: {why}")), states);
                }
            }
        }
        (None, states)
    }

    fn judge_one(&self, left: &Disk, done: bool) -> Result<(), String> {
        let temp = temp();
        power::write(left, temp.path());
        power::caught(|| self.hurt.judge(temp.path(), done, true))
    }
}

/// Single losses inside of a layer in staging or in the trash tell nothing: all of it goes by the name of the transaction.
fn staged(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/cstor-rs/stage/") && text.contains("/diff") || text.contains("/cstor-rs/trash/")
}

pub fn power_lost_everywhere(case: &Case) {
    let run = Run::of(case);
    (0..run.log.len()).for_each(|k| steps::hit_by_power(&format!("fsck {}", case.name), &run.log, k));
    let (wrong, states) = run.judge(&run.log, 0, stride(5));
    assert_eq!(wrong, None, "{}", case.name);
    println!("{}: {} changes, {states} states", case.name, run.log.len());
    assert!(states > 4, "{states} states are too few to be true");
}

/// The log of a run in which the syncfs of a transaction does nothing for the copies of what it takes away: where contents are
/// synced file by file there is none.
fn without_syncfs_of_copies(run: &Run) -> Vec<Change> {
    let copies = Path::new("root/cstor-rs/lost+found");
    let mut log = run.log.clone();
    for change in log.iter_mut().filter(|change| matches!(change, Change::SyncFs)) {
        *change = Change::SyncFsBut(copies.to_owned());
    }
    assert_eq!(run.judge(&log, 0, stride(5)).0, None, "{}, without a syncfs of lost+found", run.hurt.case.name);
    log
}

/// Takes each sync away, and where its rename has another one, both: a state goes wrong, or the sync is a needless one.
pub fn every_sync_counts(case: &Case) {
    let run = Run::of(case);
    let log = without_syncfs_of_copies(&run);
    let caught = |without: &[usize]| {
        let mut log = log.clone();
        without.iter().for_each(|index| log[*index] = Change::Nothing);
        run.judge(&log, without[0] + 1, 1).0
    };
    let mut intents = BTreeSet::new();
    let mut role = |change: &Change| {
        let role = power::role(change)?;
        let Change::SyncFile(path) = change else { return Some(role) };
        // The first is the intent.
        Some(if role.ends_with(".wal") && !intents.insert(path.clone()) { format!("{role}, again") } else { role })
    };
    let syncs: Vec<(usize, String)> = log.iter().enumerate().filter_map(|(index, change)| Some((index, role(change)?))).collect();
    let (mut alone, mut paired, mut needless) = (0, 0, BTreeSet::new());
    for (index, role) in syncs.iter().step_by(stride(3)) {
        if let Some(why) = caught(&[*index]) {
            alone += 1;
            println!("{}: without {role}: {}", case.name, why.chars().take(200).collect::<String>());
            continue;
        }
        let mut twins = syncs.iter().filter(|(other, name)| other != index && power::is_pair(role, name)).map(|(other, _)| *other);
        if twins.any(|other| caught(&[*index.min(&other), *index.max(&other)]).is_some()) {
            paired += 1;
        } else {
            needless.insert(role.clone());
        }
    }
    println!("{}: {alone} syncs are needed, {paired} as one of two, needless: {needless:?}", case.name);
    let known = |role: &String| NEEDLESS.iter().any(|(cases, name, _)| name == role && (cases.is_empty() || cases.contains(&case.name)));
    needless.retain(|role| !known(role));
    assert_eq!(needless, BTreeSet::new(), "{}: nothing notices the loss of these syncs", case.name);
}

/// Syncs that no power cut on the model misses, in all cases or in these, and why they are there.
const NEEDLESS: &[(&[&str], &str, &str)] = &[
    (&[], "cstor-rs/journal/.TXN.new", "a header that is lost reads as a segment without an intent"),
    (&[], "cstor-rs/journal/TXN.wal, again", "Done: to do all of it once more changes nothing while nobody else came"),
    (&[], "cstor-rs/journal", "a segment that comes back says Done"),
    (&[], "cstor-rs/stage", "behind Done: an empty directory that comes back is dead by its name"),
    (
        &["twin", "attributes", "contents", "split", "unsealed"],
        "cstor-rs/journal/TXN.wal",
        "one change of names: with it the layer is healed, without it the layer is as it was",
    ),
    (&["orphans"], "cstor-rs/trash", "the same"),
    (&["structure", "short_names"], "cstor-rs/stage/TXN/ID.mend", "an empty directory: only the entry in `l/` is missing"),
    (&["documents"], "cstor-rs/stage/TXN", "an empty directory: documents are staged elsewhere"),
    (&["short_names"], "overlay/ID", "nothing comes in there"),
    (&["split_and_more"], "cstor-rs/lost+found/ID-TXN", "synced when `etc` was made in it, and again with the whole tree"),
    (&["directory", "orphans", "split_and_more"], "cstor-rs", "the clean point: one that is lost says that less is clean"),
    (&["directory", "split_and_more"], "cstor-rs/.clean.new", "the same: one without its bytes is none"),
    (&["dropped"], "overlay", "the layer that goes was lost before"),
    (&["dropped"], "overlay/l", "the same"),
];
