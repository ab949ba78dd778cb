//! The pass over the journal.

use std::collections::HashSet;

use tracing::{info, warn};

use super::decide::{Decision, Signs, decide};
use super::sweep::{SweepError, sweep};
use crate::fsio::{self, Dir, optional};
use crate::ids::{ImageId, LayerId, TxnId};
use crate::journal::{self, JournalError, Kind, Opened, Segment, SegmentName, State};
use crate::layout::{IMAGES_JSON, JOURNAL, LAYERS_JSON, Layout, LayoutError, Route, marker_name, side_stage_name};
use crate::lock::{LockError, StoreLocks, StoreWriteGuard, Wait};
use crate::overlay::read_link_id;
use crate::plan::{self, Intent, NameClaim, Step, StepError, World};

/// What the pass did.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Each dead transaction with its end, in the order of recovery.
    pub ended: Vec<(TxnId, Outcome)>,
    /// Dead transactions that could not be ended now, with the reason; they are tried again at the next open.
    pub pending: Vec<(TxnId, String)>,
    /// Transactions that have ended but whose leftovers could not be removed now, with the reason.
    pub left: Vec<(TxnId, String)>,
    /// Segments whose owner lives.
    pub alive: Vec<TxnId>,
    /// What the pending transactions still need as it is.
    pub pins: Pins,
}

/// The objects that pending transactions hold on to: no plan may touch them, so that pending intents are disjoint.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pins {
    /// Layers: new, reused, and every parent in their chains.
    pub layers: HashSet<LayerId>,
    /// Images.
    pub images: HashSet<ImageId>,
    /// Names, and the images they are taken from.
    pub names: HashSet<String>,
    /// The highest sequence number among them.
    pub seq: u64,
    /// An intent that this program cannot read: it may hold on to anything.
    pub everything: bool,
}

impl Pins {
    fn add(&mut self, intent: Option<&Intent>) {
        let Some(intent) = intent else {
            self.everything = true;
            return;
        };
        self.seq = self.seq.max(intent.seq);
        self.layers.extend(intent.layers.iter().map(|put| put.id.clone()));
        for put in &intent.images {
            self.images.insert(put.id.clone());
            self.layers.extend(put.chain.iter().map(|(id, _)| id.clone()));
            for claim in &put.names {
                self.names.insert(claim.name.clone());
                self.images.extend(claim.from.clone());
            }
        }
    }

    /// What of an intent is held on to, in words.
    pub fn conflict(&self, intent: &Intent) -> Option<String> {
        if self.everything {
            return Some("an intent that this program cannot read".to_owned());
        }
        // A chain that is only built on may be shared; what it is made of may not change.
        let healed = intent.steps.iter().filter_map(|step| match step {
            Step::Heal { id, .. } | Step::Displace { id, .. } => Some(id),
            _ => None,
        });
        if let Some(id) = intent.layers.iter().map(|put| &put.id).chain(healed).find(|id| self.layers.contains(*id)) {
            return Some(format!("layer {id}"));
        }
        for put in &intent.images {
            if self.images.contains(&put.id) {
                return Some(format!("image {}", put.id));
            }
            let taken =
                |claim: &&NameClaim| self.names.contains(&claim.name) || claim.from.as_ref().is_some_and(|from| self.images.contains(from));
            if let Some(claim) = put.names.iter().find(taken) {
                return Some(format!("the name {}", claim.name));
            }
        }
        None
    }
}

/// How a dead transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had not begun to change the store: its staging was removed.
    Dropped,
    /// It had begun, and was taken back.
    RolledBack,
    /// It was finished.
    RolledForward,
    /// Its layers stay, its images were given up.
    Abandoned,
    /// It had ended; what it left behind was removed.
    CleanedUp,
    /// Its segment is damaged and was set aside as `<txn>.bad`.
    SetAside,
}

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
    for name in ["stage", "trash"] {
        if let Some(dir) = layout.own(name)?
            && !dead_names(layout, &dir)?.is_empty()
        {
            return Ok(true);
        }
    }
    let Some(journal) = layout.own(JOURNAL)? else { return Ok(false) };
    let listing = journal::list(&journal)?;
    for name in listing.segments.iter().chain(&listing.unborn) {
        if !journal::is_held(&journal, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The transactions with something in `dir` but no segment.
pub(super) fn dead_names(layout: &Layout, dir: &Dir) -> Result<Vec<TxnId>, RecoveryError> {
    let mut dead = Vec::new();
    for name in dir.names()? {
        let Some(text) = name.to_str() else { continue };
        let Ok(txn) = text.strip_suffix(".probe").unwrap_or(text).parse::<TxnId>() else { continue };
        let there = match layout.own(JOURNAL)? {
            Some(journal) => journal.meta(SegmentName::of(&txn).file())?.is_some(),
            None => false,
        };
        if !there {
            dead.push(txn);
        }
    }
    Ok(dead)
}

/// Looks for dead transactions and ends them, under all store locks.
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
    run_locked(layout, &route, &mut locks, None)
}

/// The pass, the store locks being held. `own` is the caller's live transaction.
///
/// # Errors
///
/// As [`run`].
pub fn run_locked(layout: &Layout, route: &Route, locks: &mut StoreWriteGuard, own: Option<&TxnId>) -> Result<Report, RecoveryError> {
    let mut report = Report::default();
    let Some(journal) = layout.own(JOURNAL)? else { return Ok(report) };
    let listing = journal::list(&journal)?;
    for name in &listing.unborn {
        // Never renamed into place: nothing else of it exists.
        if !journal::is_held(&journal, name)? {
            optional(journal.unlink(name.file()))?;
        }
    }
    let mut dead = Vec::new();
    for name in &listing.segments {
        if own == Some(name.txn()) {
            continue;
        }
        match Segment::open(&journal, name)? {
            Opened::Gone => {}
            Opened::Held(scan) => match scan.state {
                // Every commit holds the locks that we hold: whoever has an intent and not the locks has failed.
                State::Intent(_) => return Err(RecoveryError::Poisoned { txn: name.txn().clone() }),
                _ => report.alive.push(name.txn().clone()),
            },
            Opened::Ours(segment, scan) => match Dead::new(name.txn().clone(), segment, scan.state) {
                Ok(one) => dead.push(one),
                Err(error) => report.leave(name.txn().clone(), None, &error),
            },
        }
    }
    // Several only after a full disk: then in the order in which they were planned.
    dead.sort_by_key(|dead| dead.intent.as_ref().map_or(0, |intent| intent.seq));
    if !dead.is_empty() {
        layout.layers.sync_filesystem()?;
        if layout.images.own_meta()?.device != layout.layers.own_meta()?.device {
            layout.images.sync_filesystem()?;
        }
        if route.overlay.own_meta()?.device != layout.layers.own_meta()?.device {
            route.overlay.sync_filesystem()?;
        }
    }
    for one in dead {
        let (txn, intent) = (one.txn.clone(), one.intent.clone());
        match one.end(layout, route, &journal, locks) {
            Ok(outcome) => {
                info!(txn = %txn, ?outcome, "recovered");
                report.ended.push((txn, outcome));
            }
            Err(error) if layout.root.seam().poisoned() => return Err(error),
            Err(error) => {
                // Without an intent only staging is left over, which nobody can meet.
                match &intent {
                    Some(_) => report.leave(txn, intent.as_ref(), &error),
                    None => report.left.push((txn, error_chain(&error))),
                }
            }
        }
    }
    for dir in [&route.stage, &route.trash] {
        for txn in dead_names(layout, dir)? {
            sweep(layout, route, &txn)?;
            report.ended.push((txn, Outcome::CleanedUp));
        }
    }
    Ok(report)
}

impl Report {
    fn leave(&mut self, txn: TxnId, intent: Option<&Intent>, error: &RecoveryError) {
        warn!(txn = %txn, error = error as &dyn std::error::Error, "left for the next open");
        self.pins.add(intent);
        self.pending.push((txn, error_chain(error)));
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

struct Dead {
    txn: TxnId,
    segment: Segment,
    state: State,
    intent: Option<Intent>,
}

impl Dead {
    fn new(txn: TxnId, segment: Segment, state: State) -> Result<Self, RecoveryError> {
        let intent = match &state {
            State::Intent(payload) => {
                Some(plan::decode(payload).map_err(|source| RecoveryError::Intent { txn: txn.clone(), source: Box::new(source) })?)
            }
            _ => None,
        };
        Ok(Self { txn, segment, state, intent })
    }

    fn end(mut self, layout: &Layout, route: &Route, journal: &Dir, locks: &mut StoreWriteGuard) -> Result<Outcome, RecoveryError> {
        let outcome = match &self.state {
            State::Empty | State::Torn => Outcome::Dropped,
            State::Done | State::Aborted => Outcome::CleanedUp,
            State::Corrupt => {
                sweep(layout, route, &self.txn)?;
                self.segment.quarantine(journal)?;
                return Ok(Outcome::SetAside);
            }
            State::Intent(_) => self.replay(layout, route, locks)?,
        };
        sweep(layout, route, &self.txn)?;
        self.segment.remove(journal)?;
        Ok(outcome)
    }

    fn replay(&mut self, layout: &Layout, route: &Route, locks: &mut StoreWriteGuard) -> Result<Outcome, RecoveryError> {
        let Some(intent) = &self.intent else { return Ok(Outcome::Dropped) };
        let mut world = World::open(layout, route, &self.txn, intent, locks)?;
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

fn read_signs(world: &mut World<'_>) -> Result<Signs, RecoveryError> {
    let intent = world.intent;
    let mut signs = Signs {
        layers_marker: world.layout.layers.meta(marker_name(LAYERS_JSON, world.txn))?.is_some(),
        images_marker: world.layout.images.meta(marker_name(IMAGES_JSON, world.txn))?.is_some(),
        chains_complete: true,
        data_present: true,
    };
    if !signs.images_marker || signs.layers_marker {
        // Only an intent between its two renames asks what is still there.
        return Ok(signs);
    }
    let side = optional(world.layout.images.dir(side_stage_name(world.txn)))?;
    for put in &intent.images {
        for (id, link) in &put.chain {
            let live = world.layers()?.get(id).is_some_and(|record| !record.incomplete());
            let same = match optional(world.route.overlay.dir(id.as_str()))? {
                Some(dir) => read_link_id(&dir)?.as_ref() == Some(link),
                None => false,
            };
            signs.chains_complete &= live && same;
        }
        let staged = match &side {
            Some(side) => side.meta(put.id.as_str())?.is_some(),
            None => false,
        };
        signs.data_present &= staged || world.layout.images.meta(put.id.as_str())?.is_some();
    }
    Ok(signs)
}
