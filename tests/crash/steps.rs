//! Which durable steps the tiers stop, kill and power hit, of which operation: a step that one of them does not reach fails the
//! suite, and so does one that is not in steps.txt or is there and no more in the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use cstor_rs::fsio::{At, Op};

use crate::disk::Change;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    Stop,
    Kill,
    Power,
}

/// What is asked for in any case, and mostly finds nothing: no change then, and nothing that a power cut could come behind.
const VAIN: &[&str] = &["remove overlay/.cstor-rs-TXN"];

const TIERS: [Tier; 3] = [Tier::Stop, Tier::Kill, Tier::Power];

/// Operation, step, tier: how often.
static HITS: Mutex<BTreeMap<(String, String, Tier), usize>> = Mutex::new(BTreeMap::new());

/// What a killed child says before.
pub const WORD: &str = "killed before: ";

pub fn hit(tier: Tier, operation: &str, step: String) {
    *HITS.lock().unwrap().entry((operation.to_owned(), step, tier)).or_insert(0) += 1;
}

/// The step that a child was killed before, out of what it printed.
pub fn hit_by_child(operation: &str, stdout: &[u8]) {
    let text = String::from_utf8_lossy(stdout);
    if let Some(step) = text.lines().find_map(|line| line.split_once(WORD)).map(|(_, step)| step) {
        hit(Tier::Kill, operation, step.to_owned());
    }
}

/// A path by what it is: ids, transactions and LINKIDs out of it, and what is in a layer as one.
fn place(path: &Path) -> String {
    let text = path.to_string_lossy();
    let below = match text.split_once("/root/").map(|(_, below)| below).or_else(|| text.strip_prefix("root/")) {
        Some(below) => below,
        None if text == "root" || text.ends_with("/root") => "",
        None if text == "run" || text.contains("/run") || text.starts_with("run/") => "run",
        // What the store's directory lies in.
        None => "..",
    };
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    let link = |part: &str| part.len() == 26 && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let mut place = String::new();
    for part in below.split_inclusive(['/', '.', '-']) {
        let bare = part.trim_end_matches(['/', '.', '-', '+']);
        let word = match bare {
            _ if hex(bare, 64) => "ID",
            _ if hex(bare, 32) => "TXN",
            _ if link(bare) => "LINK",
            // A key of big data, by its file's name.
            _ if bare.starts_with('=') => "=KEY",
            // The number of a spilled file, of a try.
            _ if !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit()) => "N",
            _ => bare,
        };
        place.push_str(&part.replace(bare, word));
    }
    match place.split_once("/diff/") {
        Some((layer, _)) => format!("{layer}/diff/*"),
        None if place.is_empty() => ".".to_owned(),
        None => place,
    }
}

/// The step that a change is; nothing where it leaves nothing.
pub fn of_op(op: &Op<'_>) -> Option<String> {
    let one = |verb: &str, at: &At<'_>| Some(format!("{verb} {}", place(&at.path())));
    let two = |verb: &str, from: &At<'_>, to: &At<'_>| Some(format!("{verb} {} -> {}", place(&from.path()), place(&to.path())));
    match op {
        Op::Mkdir(at, _) | Op::Create(at, _) | Op::Symlink(at, _) | Op::Mknod(at, ..) => one("make", at),
        Op::Write(at, ..) | Op::Token(at, _) => one("write", at),
        Op::Truncate(at, _) => one("truncate", at),
        Op::SyncData(at) | Op::SyncFile(at) => one("sync", at),
        Op::SyncDir(at) => one("sync-dir", at),
        Op::SyncFs(_) => Some("syncfs".to_owned()),
        Op::Rename(from, to) => two("rename", from, to),
        Op::Exchange(from, to) => two("exchange", from, to),
        Op::Link(from, to) => two("link", from, to),
        Op::Unlink(at) | Op::Rmdir(at) => one("remove", at),
        Op::Chmod(at, _) | Op::Chown(at, ..) | Op::Times(at) | Op::SetXattr(at, ..) | Op::RemoveXattr(at, ..) => one("attributes", at),
        _ => None,
    }
}

/// The same of a log.
pub fn of_change(change: &Change) -> Option<String> {
    let one = |verb: &str, path: &Path| Some(format!("{verb} {}", place(path)));
    let two = |verb: &str, from: &Path, to: &Path| Some(format!("{verb} {} -> {}", place(from), place(to)));
    match change {
        Change::Make(path, ..) => one("make", path),
        Change::Write(path, ..) => one("write", path),
        Change::Truncate(path, _) => one("truncate", path),
        Change::Attrs(path, _) => one("attributes", path),
        Change::Link(from, to) => two("link", from, to),
        Change::Rename(from, to) => two("rename", from, to),
        Change::Exchange(from, to) => two("exchange", from, to),
        Change::Remove(path) => one("remove", path),
        Change::SyncFile(path) => one("sync", path),
        Change::SyncDir(path) => one("sync-dir", path),
        Change::SyncFs | Change::SyncFsBut(_) => Some("syncfs".to_owned()),
        Change::Nothing => None,
    }
}

/// The power went right before this change of the log, which is none where it went after the last.
pub fn hit_by_power(operation: &str, log: &[Change], k: usize) {
    if let Some(step) = log.get(k).and_then(of_change) {
        hit(Tier::Power, operation, step);
    }
}

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/steps.txt");

/// Prints the list, and says whether every step of every operation was hit by every tier, if all trials ran.
pub fn all_reached(all: bool) -> bool {
    let hits = std::mem::take(&mut *HITS.lock().unwrap());
    let mut steps: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut operations: BTreeMap<&str, BTreeMap<&str, BTreeSet<Tier>>> = BTreeMap::new();
    for ((operation, step, tier), count) in &hits {
        steps.entry(step).or_default()[*tier as usize] += count;
        operations.entry(operation).or_default().entry(step).or_default().insert(*tier);
    }
    println!("\ndurable steps, and how often the tiers cut right before them: stop, kill, power");
    for (step, [stop, kill, power]) in &steps {
        println!("{stop:7} {kill:7} {power:7}  {step}");
    }
    let mut wrong = Vec::new();
    for (operation, steps) in &operations {
        for (step, tiers) in steps {
            let vain = |tier: &Tier| *tier == Tier::Power && VAIN.contains(step);
            let missing = TIERS.iter().filter(|tier| !tiers.contains(tier) && !vain(tier));
            wrong.extend(missing.map(|tier| format!("{operation}: {tier:?} does not reach: {step}")));
        }
    }
    let seen: String = steps.keys().map(|step| format!("{step}\n")).collect();
    let list = std::fs::read_to_string(LIST).unwrap_or_default();
    let known: BTreeSet<&str> = list.lines().collect();
    wrong.extend(known.iter().filter(|step| !steps.contains_key(**step)).map(|step| format!("no tier reaches: {step}")));
    wrong.extend(steps.keys().filter(|step| !known.contains(**step)).map(|step| format!("not in tests/crash/steps.txt: {step}")));
    if !all {
        // Of a part of the trials: what they reach is added to the list.
        let both: BTreeSet<&str> = list.lines().chain(seen.lines()).collect();
        std::fs::write(LIST, both.iter().map(|step| format!("{step}\n")).collect::<String>()).unwrap();
    }
    println!("{} operations, {} steps; {} not reached", operations.len(), steps.len(), wrong.len());
    wrong.iter().for_each(|line| println!("{line}"));
    wrong.is_empty() || !all
}
