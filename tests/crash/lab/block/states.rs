//! What a power cut may leave of a log: everything up to the last flush, and some of what came after it.

use std::collections::HashSet;

use super::medium::{Event, Mark, Medium, Stamped};
use crate::rng::Rng;

/// What is left of the writes behind the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    /// All of them: a prefix of the log.
    All,
    /// Each with the chance of one half, in its place in the order.
    Some,
    /// The same, and of each write that is there each unit again with that chance.
    Torn,
    /// All, and of the last one only its first units.
    LastTorn,
}

pub const CUTS: &[Cut] = &[Cut::Nothing, Cut::All, Cut::Some, Cut::Torn, Cut::LastTorn];

/// One state of a disk.
pub struct State {
    pub medium: Medium,
    /// The number of events that had come.
    pub at: usize,
    pub cut: Cut,
    /// How many operations had been acknowledged, and begun.
    pub acknowledged: usize,
    pub begun: usize,
}

/// Draws states of one log.
pub struct States<'a> {
    log: &'a [Stamped],
    unit: usize,
    /// At every so many events: what is on the medium for certain, and where the last flush was.
    checkpoints: Vec<(Medium, usize)>,
    seen: HashSet<u64>,
}

const EVERY: usize = 256;

impl<'a> States<'a> {
    pub fn of(start: &Medium, log: &'a [Stamped], unit: usize) -> Self {
        let mut checkpoints = Vec::new();
        let (mut durable, mut flushed) = (start.clone(), 0);
        for at in 0..=log.len() {
            if at % EVERY == 0 {
                checkpoints.push((durable.clone(), flushed));
            }
            if matches!(log.get(at).map(|stamped| &stamped.event), Some(Event::Flush)) {
                log[flushed..at].iter().for_each(|stamped| durable.apply(&stamped.event));
                flushed = at + 1;
            }
        }
        Self { log, unit, checkpoints, seen: HashSet::new() }
    }

    /// The number of writes, discards and flushes.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// What is certain when so many events have come, and where the last flush was.
    fn durable(&self, at: usize) -> (Medium, usize) {
        let (mut durable, flushed) = self.checkpoints[at / EVERY].clone();
        let since = &self.log[flushed..at];
        let flushes = since.iter().rposition(|stamped| matches!(stamped.event, Event::Flush)).map_or(0, |last| last + 1);
        since[..flushes].iter().for_each(|stamped| durable.apply(&stamped.event));
        (durable, flushed + flushes)
    }

    /// One state when so many events have come; nothing where it was drawn before.
    pub fn draw(&mut self, at: usize, cut: Cut, rng: &mut Rng) -> Option<State> {
        let (state, fingerprint) = self.state(at, cut, rng);
        self.seen.insert(fingerprint).then_some(state)
    }

    /// One state when so many events have come, and a number for it.
    pub fn state(&self, at: usize, cut: Cut, rng: &mut Rng) -> (State, u64) {
        let (mut medium, flushed) = self.durable(at);
        let pending: Vec<&Event> = self.log[flushed..at].iter().map(|stamped| &stamped.event).filter(|event| event.changes()).collect();
        for (index, event) in pending.iter().enumerate() {
            let last = index + 1 == pending.len();
            match cut {
                Cut::Nothing => {}
                Cut::All => medium.apply(event),
                Cut::LastTorn if !last => medium.apply(event),
                Cut::Some => {
                    if rng.once_in(2) {
                        medium.apply(event);
                    }
                }
                Cut::Torn => {
                    if rng.once_in(2) {
                        torn(&mut medium, event, self.unit, |_| rng.once_in(2));
                    }
                }
                Cut::LastTorn => {
                    let end = rng.below(units(event, self.unit).max(1));
                    torn(&mut medium, event, self.unit, |unit| unit < end);
                }
            }
        }
        let blocks: Vec<u64> = {
            let mut blocks: Vec<u64> = pending.iter().flat_map(|event| event.blocks().take(1 << 16)).collect();
            blocks.sort_unstable();
            blocks.dedup();
            blocks
        };
        let (acknowledged, begun) = self.marks(at);
        let mark = (flushed as u64) << 20 | (acknowledged as u64) << 10 | begun as u64;
        let fingerprint = medium.fingerprint(&blocks) ^ mark.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (State { medium, at, cut, acknowledged, begun }, fingerprint)
    }

    fn marks(&self, at: usize) -> (usize, usize) {
        let count = |wanted: fn(&Mark) -> bool| {
            self.log[..at].iter().filter(|stamped| matches!(&stamped.event, Event::Mark(mark) if wanted(mark))).count()
        };
        (count(|mark| matches!(mark, Mark::Acknowledged(_))), count(|mark| matches!(mark, Mark::Begun(_))))
    }

    /// The positions right behind such an event, from this one on.
    pub fn positions(&self, from: usize, wanted: fn(&Event) -> bool) -> Vec<usize> {
        (from.saturating_sub(1)..self.log.len()).filter(|at| wanted(&self.log[*at].event)).map(|at| at + 1).collect()
    }
}

fn units(event: &Event, unit: usize) -> usize {
    match event {
        Event::Write(_, bytes) => bytes.len().div_ceil(unit),
        _ => 1,
    }
}

/// Of a write only these units; of a discard all.
fn torn(medium: &mut Medium, event: &Event, unit: usize, mut wanted: impl FnMut(usize) -> bool) {
    let Event::Write(offset, bytes) = event else { return medium.apply(event) };
    for (index, part) in bytes.chunks(unit).enumerate() {
        if wanted(index) {
            medium.write(offset + (index * unit) as u64, part);
        }
    }
}
