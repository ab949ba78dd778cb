//! The pass over the journal.

use std::collections::BTreeSet;

use rustix::io::Errno;
use tracing::{info, warn};

use super::decide::{Decision, decide};
use super::report::{Outcome, Report};
use super::signs::read_signs;
use super::sweep::{SweepError, sweep, tidy_tempdirs};
use crate::fsio::{self, Dir, optional};
use crate::ids::TxnId;
use crate::journal::{self, JournalError, Kind, Opened, Segment, SegmentName, State};
use crate::layout::{EDITED_IMAGES, EDITED_LAYERS, JOURNAL, Layout, LayoutError, Route};
use crate::lock::{LockError, StoreLocks, StoreWriteGuard, Wait};
use crate::plan::{self, Intent, StepError, World};

/// Why the pass stopped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RecoveryError {
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error("transaction {txn} has a durable intent and its owner lives without the store locks: it failed half-way; end that process")]
    Poisoned { txn: TxnId },
    #[error(
        "the segment of transaction {txn} has format {version}, this program knows 1; recover it with the newer cstor-rs that wrote it"
    )]
    Newer { txn: TxnId, version: u16 },
    #[error("the intent of transaction {txn} cannot be read")]
    Intent { txn: TxnId, source: Box<plan::CodecError> },
}

/// The segments whose owner is dead, as far as can be told without the store locks, and the dead leftovers
/// without a segment. Cheap: usually three empty directories.
///
/// # Errors
///
/// Those of the disk.
pub fn candidates(layout: &Layout) -> Result<bool, RecoveryError> {
    // Staging first: a segment is born before its staging, so a stage without one is dead for certain.
    if !dead_among(layout, layout.residents()?)?.is_empty() {
        return Ok(true);
    }
    if layout.images.meta(EDITED_IMAGES)?.is_some() || layout.layers.meta(EDITED_LAYERS)?.is_some() {
        return Ok(true);
    }
    let Some(journal) = layout.own(JOURNAL)? else { return Ok(false) };
    let listing = journal::list(&journal)?;
    for name in listing.segments.iter().chain(&listing.unborn) {
        match journal::is_held(&journal, name) {
            Err(error) if is_rot(&error) => return Ok(true),
            held => {
                if !held? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Those of these transactions that have no segment.
pub(super) fn dead_among(layout: &Layout, residents: BTreeSet<TxnId>) -> Result<Vec<TxnId>, RecoveryError> {
    if residents.is_empty() {
        return Ok(Vec::new());
    }
    // By the names in the directory: a segment that cannot even be looked at is there.
    let owners: BTreeSet<TxnId> = match layout.own(JOURNAL)? {
        Some(journal) => journal::list(&journal)?.segments.iter().map(|name| name.txn().clone()).collect(),
        None => BTreeSet::new(),
    };
    Ok(residents.into_iter().filter(|txn| !owners.contains(txn)).collect())
}

/// Looks for dead transactions and ends them: decided and done under all store locks, cleaned up without them.
///
/// # Errors
///
/// Where the pass could not run; single transactions that cannot be ended now are in the report.
pub fn run(layout: &Layout, wait: &Wait<'_>) -> Result<Report, RecoveryError> {
    if !candidates(layout)? {
        return Ok(Report::default());
    }
    let route = Route::open(layout)?;
    let mut locks = StoreLocks::write(&layout.layers, &layout.images, &layout.containers, wait)?;
    let pass = run_locked(layout, &route, &mut locks, None)?;
    drop(locks);
    Ok(pass.clean_up(layout, &route))
}

/// What a pass has done under the locks, and what of the ended transactions is still to be removed: trees of any size,
/// which nobody should wait for. Dropped, it leaves that to the next open.
#[must_use = "what ended transactions left is removed by clean_up"]
#[derive(Debug)]
pub struct Pass {
    /// What it did.
    pub report: Report,
    over: Vec<Over>,
}

/// A transaction that has ended.
#[derive(Debug)]
struct Over {
    name: SegmentName,
    /// Held: to everybody else its owner lives. `None` where it cannot be read, and is only set aside.
    segment: Option<Segment>,
    /// Whether the segment is damaged: it is kept under another name.
    damaged: bool,
    /// The way its trees went, where it was ended now.
    route: Option<Route>,
}

impl Pass {
    /// Whether anything is to be cleaned up.
    pub fn has_leftovers(&self) -> bool {
        !self.over.is_empty()
    }

    /// Removes what the ended transactions left, and staging whose segment is gone; the store locks are not needed.
    pub fn clean_up(self, layout: &Layout, route: &Route) -> Report {
        let Self { mut report, over } = self;
        for one in over {
            let txn = one.name.txn().clone();
            if let Err(error) = one.clean_up(layout, route) {
                report.leave_over(txn, &error);
            }
        }
        let strays = route.residents().map_err(RecoveryError::from).and_then(|all| dead_among(layout, all));
        match strays {
            Ok(strays) => {
                for txn in strays {
                    match sweep(layout, route, &txn) {
                        Ok(()) => report.ended.push((txn, Outcome::CleanedUp)),
                        Err(error) => report.leave_over(txn, &error.into()),
                    }
                }
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "the staging of dead transactions cannot be listed"),
        }
        report
    }
}

impl Over {
    fn clean_up(self, layout: &Layout, route: &Route) -> Result<(), RecoveryError> {
        let route = self.route.as_ref().unwrap_or(route);
        sweep(layout, route, self.name.txn())?;
        tidy_tempdirs(layout, route);
        let Some(journal) = layout.own(JOURNAL)? else { return Ok(()) };
        match self.segment {
            Some(segment) if !self.damaged => segment.remove(&journal)?,
            _ => journal::set_aside(&journal, &self.name)?,
        }
        Ok(())
    }
}

/// The pass, the store locks being held. `own` is the caller's live transaction.
///
/// # Errors
///
/// As [`run`].
pub fn run_locked(layout: &Layout, route: &Route, locks: &mut StoreWriteGuard, own: Option<&TxnId>) -> Result<Pass, RecoveryError> {
    let mut pass = Pass { report: Report::default(), over: Vec::new() };
    // Of an edit that was killed before its rename; who edits holds one of our locks.
    for (dir, name) in [(&layout.images, EDITED_IMAGES), (&layout.layers, EDITED_LAYERS)] {
        if dir.meta(name)?.is_some() {
            optional(dir.unlink(name))?;
        }
    }
    let Some(journal) = layout.own(JOURNAL)? else { return Ok(pass) };
    let listing = journal::list(&journal)?;
    for name in &listing.unborn {
        // Never renamed into place: nothing else of it exists.
        match journal::is_held(&journal, name) {
            Err(error) if is_rot(&error) => warn!(error = &error as &dyn std::error::Error, "an unborn segment cannot be read, and stays"),
            held => {
                if !held? {
                    optional(journal.unlink(name.file()))?;
                }
            }
        }
    }
    let mut dead = Vec::new();
    for name in listing.segments {
        if own != Some(name.txn()) {
            pass.open(&journal, name, &mut dead)?;
        }
    }
    // Several only after a full disk: then in the order in which they were planned.
    dead.sort_by_key(|dead| dead.intent.as_ref().map_or(0, |intent| intent.seq));
    if dead.iter().any(|dead| dead.intent.is_some()) {
        sync_all(layout, route)?;
    }
    for one in dead {
        let (name, intent) = (one.name.clone(), one.intent.clone());
        match one.end(layout, route, locks) {
            Ok(ended) => {
                info!(txn = %name.txn(), outcome = ?ended.outcome, "recovered");
                pass.end(name, Some(ended.segment), ended.route, ended.outcome);
            }
            Err(error) if layout.root.seam().poisoned() => return Err(error),
            Err(error) => pass.report.leave(name.txn().clone(), intent.as_ref(), &error),
        }
    }
    Ok(pass)
}

/// Invariant R3, on each filesystem of the store.
fn sync_all(layout: &Layout, route: &Route) -> Result<(), RecoveryError> {
    let mut seen = Vec::new();
    for dir in [&layout.layers, &layout.images, &route.overlay] {
        let device = dir.own_meta()?.device;
        if !seen.contains(&device) {
            dir.sync_filesystem()?;
            seen.push(device);
        }
    }
    Ok(())
}

impl Pass {
    fn end(&mut self, name: SegmentName, segment: Option<Segment>, route: Option<Route>, outcome: Outcome) {
        self.report.ended.push((name.txn().clone(), outcome));
        self.over.push(Over { name, segment, damaged: outcome == Outcome::SetAside, route });
    }

    /// Takes up one segment: dead, alive, or not to be read.
    fn open(&mut self, journal: &Dir, name: SegmentName, dead: &mut Vec<Dead>) -> Result<(), RecoveryError> {
        let opened = match Segment::open(journal, &name) {
            // A block that cannot be read, or no segment at all: set aside, where it blocks nothing. Whatever it was
            // in the middle of is a prefix of its steps, a state that every reader accepts.
            Err(JournalError::Disk(error)) if is_rot(&error) => {
                warn!(txn = %name.txn(), error = &error as &dyn std::error::Error, "a segment cannot be read, and is set aside");
                self.end(name, None, None, Outcome::SetAside);
                return Ok(());
            }
            other => other?,
        };
        match opened {
            Opened::Gone => {}
            Opened::Held(scan) => match scan.state {
                // Every commit holds the locks that we hold: whoever has an intent and not the locks has failed.
                State::Intent(_) => return Err(RecoveryError::Poisoned { txn: name.txn().clone() }),
                _ => self.report.alive.push(name.txn().clone()),
            },
            Opened::Ours(segment, scan) => match scan.state {
                State::Newer { version } => {
                    let error = RecoveryError::Newer { txn: name.txn().clone(), version };
                    self.report.leave(name.txn().clone(), None, &error);
                }
                State::Intent(payload) => match plan::decode(&payload) {
                    Ok(intent) => dead.push(Dead { name, segment, state: State::Intent(payload), intent: Some(intent) }),
                    Err(source @ plan::CodecError::Version { .. }) => {
                        let error = RecoveryError::Intent { txn: name.txn().clone(), source: Box::new(source) };
                        self.report.leave(name.txn().clone(), None, &error);
                    }
                    Err(error) => {
                        warn!(txn = %name.txn(), error = &error as &dyn std::error::Error, "an intent makes no sense, and is set aside");
                        // Released under the locks: held without them, an intent tells others that its owner failed half-way.
                        drop(segment);
                        self.end(name, None, None, Outcome::SetAside);
                    }
                },
                state => dead.push(Dead { name, segment, state, intent: None }),
            },
        }
        Ok(())
    }
}

/// Errors that will come again, however often the segment is opened.
pub(super) fn is_rot(error: &fsio::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
        || [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::LOOP, Errno::ISDIR, Errno::NXIO].iter().any(|e| error.is(*e))
}

struct Dead {
    name: SegmentName,
    segment: Segment,
    state: State,
    intent: Option<Intent>,
}

/// A dead transaction that has ended; what it left is still to be removed.
struct Ended {
    outcome: Outcome,
    segment: Segment,
    route: Option<Route>,
}

impl Dead {
    fn end(mut self, layout: &Layout, route: &Route, locks: &mut StoreWriteGuard) -> Result<Ended, RecoveryError> {
        let mut way = None;
        let outcome = match &self.state {
            State::Done | State::Aborted => {
                // Read from the page cache: durable before the markers go.
                self.segment.sync()?;
                Outcome::CleanedUp
            }
            State::Corrupt => Outcome::SetAside,
            State::Intent(_) => {
                let own = route.for_dead(self.name.txn())?;
                let outcome = self.replay(layout, &own, locks)?;
                way = Some(own);
                outcome
            }
            State::Empty | State::Torn | State::Newer { .. } => Outcome::Dropped,
        };
        Ok(Ended { outcome, segment: self.segment, route: way })
    }

    fn replay(&mut self, layout: &Layout, route: &Route, locks: &mut StoreWriteGuard) -> Result<Outcome, RecoveryError> {
        let Some(intent) = &self.intent else { return Ok(Outcome::Dropped) };
        let mut world = World::open(layout, route, self.name.txn(), intent, locks)?;
        let signs = read_signs(&mut world)?;
        let (kind, outcome) = match decide(intent, signs) {
            Decision::Back => {
                world.back()?;
                (Kind::Abort, Outcome::RolledBack)
            }
            Decision::Forward => {
                world.forward()?;
                (Kind::Done, Outcome::RolledForward)
            }
            Decision::Abandon => {
                world.abandon_images()?;
                (Kind::Abort, Outcome::Abandoned)
            }
        };
        // Durable before any marker goes: an intent without markers would be read as "all renames done".
        self.segment.append(kind, &[])?;
        self.segment.sync()?;
        Ok(outcome)
    }
}
