//! Whether a state that a power cut left is one that we promise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::device::Bench;
use super::filesystem::Mounted;
use super::medium::Medium;
use super::record::{Recording, logged};
use super::states::{CUTS, State, States};
use super::work::{Ground, run};
use crate::oracle::{self, Said};
use crate::rng::Rng;

pub struct Judge<'a> {
    pub bench: &'a Bench,
    pub ground: &'a Ground,
    pub recording: &'a Recording,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub states: usize,
    /// States that a second power cut left while the first was recovered from.
    pub second: usize,
    /// States that the file system itself cannot be mounted in: nothing is said about the store.
    pub unmountable: usize,
    /// Of the first: in the middle of an operation, and with a transaction to recover.
    pub within: usize,
    pub recovered: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.second += other.second;
        self.unmountable += other.unmountable;
        self.within += other.within;
        self.recovered += other.recovered;
    }
}

/// What one state may have become: the store before or after the operation that was under way.
pub struct Allowed<'a> {
    pub least: usize,
    pub most: usize,
    pub recording: &'a Recording,
}

impl Allowed<'_> {
    fn index(&self, said: &Said) -> Option<usize> {
        // The later one first: an operation that changes nothing is done.
        (self.least..=self.most).rev().find(|index| self.recording.said[*index] == *said)
    }

    fn words(&self) -> String {
        let name = |index: usize| match index.checked_sub(1) {
            Some(last) => format!("as it was after `{}`", self.recording.work.operations[last]),
            None => "as it was in the beginning".to_owned(),
        };
        if self.least == self.most { name(self.least) } else { format!("{}, or {}", name(self.least), name(self.most)) }
    }
}

impl Judge<'_> {
    /// Looks at a state, and with `second` at what power cuts during its recovery leave.
    pub fn judge(&self, state: &State, rng: &mut Rng, second: usize) -> Result<Counts, String> {
        self.look(state, rng, second).or_else(unmountable).map_err(|why| {
            let (fs, work) = (self.recording.fs, &self.recording.work);
            format!(
                "{}, {}: power lost after event {} with {:?} of what was not flushed; {} of {} operations acknowledged; {why}; the disk is kept in {}",
                fs.name,
                work.name,
                state.at,
                state.cut,
                state.acknowledged,
                work.operations.len(),
                keep(&state.medium, fs.size()),
            )
        })
    }

    /// The same for a state that may well be wrong.
    pub fn look(&self, state: &State, rng: &mut Rng, second: usize) -> Result<Counts, String> {
        let allowed = Allowed { least: state.acknowledged, most: state.begun, recording: self.recording };
        if self.recording.work.repairs { self.repaired(state, &allowed) } else { self.whole(&state.medium, &allowed, rng, second) }
    }

    /// A disk with this on it, mounted.
    pub fn mount(&self, medium: &Medium) -> Result<(std::sync::Arc<super::device::Device>, Mounted<'_>), String> {
        let device = self.recording.fs.disk(medium.clone());
        let mounted = self.recording.fs.mount(self.bench, &device).map_err(|why| format!("{UNMOUNTABLE}: {why}"))?;
        Ok((device, mounted))
    }

    /// A store that is whole at every moment.
    pub fn whole(&self, medium: &Medium, allowed: &Allowed<'_>, rng: &mut Rng, second: usize) -> Result<Counts, String> {
        let mut counts = Counts { states: 1, within: usize::from(allowed.least != allowed.most), ..Counts::default() };
        let (device, mounted) = self.mount(medium)?;
        let root = mounted.root();
        let seen = oracle::read(&root).map_err(|why| format!("before recovery: {why}"))?;
        let visible = allowed.index(&seen);
        if allowed.least == allowed.most && visible.is_none() {
            return Err(format!(
                "before recovery the store is not {}: {}",
                allowed.words(),
                differs(&self.recording.said[allowed.least], &seen)
            ));
        }
        let waiting = waits(&root);
        counts.recovered = usize::from(waiting);
        let (start, log, recovered) = logged(&device, &mounted, recover);
        recovered?;
        let least = visible.filter(|index| *index == allowed.most).unwrap_or(allowed.least);
        let after = Allowed { least, ..*allowed };
        let became = self.settled(&root, &after)?;
        if rng.once_in(8) {
            self.goes_on(&root, became)?;
        }
        drop(mounted);
        if waiting {
            let mut states = States::of(&start, &log, self.recording.fs.unit);
            for _ in 0..second {
                let (at, cut) = (rng.below(states.len() + 1), CUTS[rng.below(CUTS.len())]);
                if let Some(state) = states.draw(at, cut, rng) {
                    let again = self
                        .whole(&state.medium, &after, rng, 0)
                        .or_else(unmountable)
                        .map_err(|why| format!("and again after event {at} of the recovery, {cut:?}: {why}"))?;
                    counts.second += again.states;
                    counts.unmountable += again.unmountable;
                }
            }
        }
        Ok(counts)
    }

    /// After recovery: which of the allowed stores it is.
    fn settled(&self, root: &Path, allowed: &Allowed<'_>) -> Result<usize, String> {
        let said = oracle::read(root).map_err(|why| format!("after recovery: {why}"))?;
        oracle::data_agrees(&said).map_err(|why| format!("after recovery: {why}"))?;
        let index = allowed.index(&said).ok_or_else(|| {
            format!("after recovery the store is not {}: {}", allowed.words(), differs(&self.recording.said[allowed.least], &said))
        })?;
        // Notes that podman makes about the file system.
        let known = ["overlay/.has-mount-program", "overlay/backingFsBlockDev"].map(PathBuf::from);
        let left = oracle::leftovers(root, &BTreeSet::from(known));
        if left.is_empty() { Ok(index) } else { Err(format!("left over after recovery: {left:?}")) }
    }

    /// The operation that is next makes of it what it made then.
    fn goes_on(&self, root: &Path, index: usize) -> Result<(), String> {
        let Some(operation) = self.recording.work.operations.get(index) else { return Ok(()) };
        let runroot = tempfile::tempdir().unwrap();
        operation.done(self.ground, root, runroot.path()).map_err(|why| format!("it does not go on: {why}"))?;
        let said = oracle::read(root).map_err(|why| format!("after `{operation}` again: {why}"))?;
        let wanted = &self.recording.said[index + 1];
        if said == *wanted { Ok(()) } else { Err(format!("`{operation}` again made another store: {}", differs(wanted, &said))) }
    }

    /// A store that was damaged before: what was repaired stays so, and what was not is repaired by the next run.
    fn repaired(&self, state: &State, allowed: &Allowed<'_>) -> Result<Counts, String> {
        let (_device, mounted) = self.mount(&state.medium)?;
        let root = mounted.root();
        let waiting = waits(&root);
        recover(&root)?;
        if state.acknowledged == 0 {
            let runroot = tempfile::tempdir().unwrap();
            self.recording.work.operations[0].done(self.ground, &root, runroot.path()).map_err(|why| format!("the next repair: {why}"))?;
        }
        self.settled(
            &root,
            &Allowed { least: self.recording.work.operations.len(), most: self.recording.work.operations.len(), ..*allowed },
        )?;
        let output = run(&root, &["fsck", "--level", "full", "-q"]);
        if !output.status.success() {
            return Err(format!("fsck says {}: {}", output.status, String::from_utf8_lossy(&output.stdout)));
        }
        let within = usize::from(state.begun != state.acknowledged);
        Ok(Counts { states: 1, within, recovered: usize::from(waiting), ..Counts::default() })
    }
}

const UNMOUNTABLE: &str = "the file system does not mount";

/// Counts what is the loss of the file system, and no more than that.
pub fn unmountable(why: String) -> Result<Counts, String> {
    if why.starts_with(UNMOUNTABLE) { Ok(Counts { unmountable: 1, ..Counts::default() }) } else { Err(why) }
}

/// Whether a transaction is there to be recovered.
pub fn waits(root: &Path) -> bool {
    std::fs::read_dir(root.join("cstor-rs/journal")).is_ok_and(|mut list| list.next().is_some())
}

/// Finishes or takes back what the power cut left half done.
pub fn recover(root: &Path) -> Result<(), String> {
    if !root.exists() {
        return Ok(());
    }
    let output = run(root, &["recover"]);
    if output.status.success() {
        return Ok(());
    }
    let journal = run(root, &["journal", "--json"]);
    let (said, journal) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&journal.stdout));
    Err(format!("recovery says {}: {said}; the journal: {journal}", output.status))
}

/// The first thing that differs, in words.
pub fn differs(wanted: &Said, seen: &Said) -> String {
    for (id, (record, data)) in &wanted.images {
        match seen.images.get(id) {
            None => return format!("image {id} is not there"),
            Some(other) if other != &(record.clone(), data.clone()) => return format!("image {id}: {} instead of {record}", other.0),
            Some(_) => {}
        }
    }
    for (id, (record, lines)) in &wanted.layers {
        match seen.layers.get(id) {
            None => return format!("layer {id} is not there"),
            Some(other) if other.0 != *record => return format!("layer {id}: {} instead of {record}", other.0),
            Some(other) => {
                if let Some(line) = lines.iter().find(|line| !other.1.contains(line)) {
                    return format!("layer {id}: without {line}");
                }
            }
        }
    }
    let more = seen.images.keys().find(|id| !wanted.images.contains_key(*id));
    let more = more.or_else(|| seen.layers.keys().find(|id| !wanted.layers.contains_key(*id)));
    more.map_or_else(|| "something more in a layer".to_owned(), |id| format!("{id} is there"))
}

/// Writes a disk to a file, and says where it is.
fn keep(medium: &Medium, size: u64) -> String {
    use std::os::unix::fs::FileExt;
    let write = || -> std::io::Result<String> {
        let (file, path) = tempfile::Builder::new().prefix("cstor-rs-lab-").suffix(".img").tempfile()?.keep()?;
        file.set_len(size)?;
        for (offset, bytes) in medium.blocks() {
            file.write_all_at(bytes, offset)?;
        }
        Ok(path.display().to_string())
    };
    write().unwrap_or_else(|error| format!("no file: {error}"))
}

/// Draws where the power goes: right behind an acknowledgement, right behind a flush, or anywhere.
pub fn draw(states: &mut States<'_>, from: usize, rng: &mut Rng) -> Option<State> {
    use super::medium::{Event, Mark};
    let wanted: fn(&Event) -> bool = match rng.below(4) {
        0 => |event| matches!(event, Event::Mark(Mark::Acknowledged(_))),
        1 => |event| matches!(event, Event::Flush),
        _ => |_| true,
    };
    let positions = states.positions(from, wanted);
    if positions.is_empty() {
        return None;
    }
    let at = positions[rng.below(positions.len())];
    states.draw(at, CUTS[rng.below(CUTS.len())], rng)
}
