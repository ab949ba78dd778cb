//! Errors of the disk while an operation is under way, and then a power cut: who said that it is done has it.

use super::device::{Bench, Fault, Plan};
use super::judge::{Allowed, Judge, unmountable};
use super::medium::{Event, Mark};
use super::record::Recording;
use super::states::{Cut, States};
use super::work::Ground;
use crate::rng::Rng;

/// What became of the operations that met an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// With an error that reached the disk, and judged.
    pub faults: usize,
    /// Said that they failed.
    pub refused: usize,
    /// Said that they are done.
    pub done: usize,
    /// The file system itself does not mount after it.
    pub unmountable: usize,
}

const FAULTS: &[Fault] = &[Fault::Io, Fault::NoSpace, Fault::Short];

/// So many operations, each with one error at a drawn write or flush, once or from then on.
pub fn run(bench: &Bench, ground: &Ground, recording: &Recording, seed: u64, wanted: usize) -> Result<Met, String> {
    let (judge, mut rng, mut met) = (Judge { bench, ground, recording }, Rng::new(seed), Met::default());
    let states = States::of(&recording.start, &recording.log, recording.fs.unit);
    let operations = recording.work.operations.len();
    let mut changes = vec![None; operations];
    for _ in 0..wanted * 4 {
        if met.faults == wanted {
            break;
        }
        let index = rng.below(operations);
        let begun = |stamped: &super::medium::Stamped| matches!(stamped.event, Event::Mark(Mark::Begun(at)) if at == index);
        let at = 1 + recording.log.iter().position(begun).ok_or("an operation without a beginning")?;
        let (before, _) = states.state(at, Cut::All, &mut rng);
        let one = One { judge: &judge, index, before: &before.medium };
        let count = match changes[index] {
            Some(count) => count,
            None => *changes[index].insert(one.changes()?),
        };
        let plan = Plan { fault: FAULTS[rng.below(FAULTS.len())], after: rng.below(count.max(1)), stays: rng.once_in(2) };
        one.with(plan, &mut rng, &mut met).map_err(|why| {
            let operation = &recording.work.operations[index];
            format!("seed {seed}: {}, `{operation}`, {plan:?} of {count}: {why}", recording.fs.name)
        })?;
    }
    Ok(met)
}

struct One<'a> {
    judge: &'a Judge<'a>,
    index: usize,
    before: &'a super::medium::Medium,
}

impl One<'_> {
    /// How many changes and flushes it makes.
    fn changes(&self) -> Result<usize, String> {
        let (device, mounted) = self.judge.mount(self.before)?;
        let runroot = tempfile::tempdir().unwrap();
        device.break_with(Some(Plan { fault: Fault::Io, after: usize::MAX, stays: false }));
        self.judge.recording.work.operations[self.index].done(self.judge.ground, &mounted.root(), runroot.path())?;
        Ok(device.seen().0)
    }

    fn with(&self, plan: Plan, rng: &mut Rng, met: &mut Met) -> Result<(), String> {
        let recording = self.judge.recording;
        let (device, mounted) = self.judge.mount(self.before)?;
        let runroot = tempfile::tempdir().unwrap();
        let start = device.begin();
        device.break_with(Some(plan));
        let output = recording.work.operations[self.index].run(self.judge.ground, &mounted.root(), runroot.path())?;
        let (_, struck) = device.seen();
        let log = device.end();
        device.break_with(None);
        drop(mounted);
        if struck == 0 {
            return Ok(());
        }
        let done = output.status.success();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code().is_none() || said.contains("panicked") {
            return Err(format!("it ended with {}: {said}", output.status));
        }
        met.faults += 1;
        *(if done { &mut met.done } else { &mut met.refused }) += 1;
        let after = States::of(&start, &log, recording.fs.unit);
        for cut in [Cut::All, Cut::Nothing, Cut::Torn] {
            let (state, _) = after.state(log.len(), cut, rng);
            let least = if done { self.index + 1 } else { self.index };
            let allowed = Allowed { least, most: self.index + 1, recording };
            let judged = self.judge.whole(&state.medium, &allowed, rng, 0).or_else(unmountable);
            met.unmountable += judged.map_err(|why| format!("it said {}, {said:?}; then with {cut:?}: {why}", output.status))?.unmountable;
        }
        Ok(())
    }
}
