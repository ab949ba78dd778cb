//! The second stage: everything on the medium, the plan made under the locks, the intent durable.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{LayerId, TxnId};
use crate::layout::{Tables, User};
use crate::lock::StoreLocks;
use crate::plan::{self, Built, Change, Holder, Inputs, PlanError, WantedImage, WantedLayer};
use crate::podman_db;
use crate::recovery;

use super::commit::Journaled;
use super::edit::PreparedEdit;
use super::sight::Sight;
use super::{Receipt, SyncMode, TxnError, WriteTxn};

/// How often a plan may be overtaken by other processes.
const TRIES: usize = 8;
/// How long a podman that writes its database is waited for, only to learn a name.
const DATABASE_WAIT: Duration = Duration::from_millis(500);

/// A transaction that is decided and whose intent is durable, holding the store's locks: commit it soon.
#[must_use = "a prepared transaction holds the store's locks until it is committed or dropped"]
pub struct PreparedTxn {
    pub(super) id: TxnId,
    pub(super) kind: PreparedKind,
}

/// What kind of transaction it is.
pub(super) enum PreparedKind {
    /// With a segment in the journal.
    Journaled(Box<Journaled>),
    /// One edit of one table, atomic by its rename.
    Edit(Box<PreparedEdit>),
}

impl std::fmt::Debug for PreparedTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedTxn").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What [`WriteTxn::prepare`] came to.
#[derive(Debug)]
pub enum Prepared {
    /// Ready to commit.
    Ready(Box<PreparedTxn>),
    /// The store already says all of this.
    Nothing,
    /// Layers that were to be reused are gone: stage them, and prepare again.
    NeedLayers(Box<WriteTxn>, BTreeSet<LayerId>),
}

/// What is known before the locks are taken.
pub(super) enum Before {
    /// All of this is on the medium.
    Synced(Vec<WantedLayer>, Vec<WantedImage>),
    /// These layers were to be reused and are damaged: to be staged.
    Damaged(BTreeSet<LayerId>),
}

/// Why nothing is prepared yet.
pub(super) enum Unprepared {
    /// These layers must be staged first.
    Need(BTreeSet<LayerId>),
    /// It cannot go on.
    Error(TxnError),
}

impl<E: Into<TxnError>> From<E> for Unprepared {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// What one attempt under the locks came to.
enum Attempt {
    Prepared(Prepared),
    /// Taken at its word, or overtaken: once more, these layers being verified again.
    Again(BTreeSet<LayerId>),
    /// Layers must be staged.
    Need(BTreeSet<LayerId>),
}

impl WriteTxn {
    /// Syncs what is staged, takes the locks, ends dead transactions, decides, and makes the intent durable.
    ///
    /// # Errors
    ///
    /// Whatever keeps the transaction from being visible; nothing of it is then.
    pub fn prepare(mut self) -> Result<Prepared, TxnError> {
        match self.try_prepare() {
            Ok(Some(prepared)) => Ok(prepared),
            Ok(None) => Err(TxnError::Overtaken { tries: TRIES }),
            Err(Unprepared::Need(layers)) => Ok(Prepared::NeedLayers(Box::new(self), layers)),
            // The locks are released: nobody waits while podman's database is asked.
            Err(Unprepared::Error(error)) => Err(self.with_podmans_name(error)),
        }
    }

    /// A container is called what podman calls it: names in the store's tables are of its making, and it may have another by now.
    fn with_podmans_name(&self, mut error: TxnError) -> TxnError {
        if let TxnError::Plan(PlanError::ImageInUse { holder, .. } | PlanError::LayerInUse { holder, .. }) = &mut error
            && let Holder::User(User::Container { id, name }) = holder
        {
            let names = podman_db::container_names(self.layout.root.path(), &self.layout.runroot, &[id.as_str()], DATABASE_WAIT);
            for why in names.unasked() {
                tracing::debug!(error = why as &dyn std::error::Error, "podman's name of a container is not known");
            }
            if let Some(known) = names.get(id) {
                known.clone_into(name);
            }
        }
        error
    }

    fn try_prepare(&mut self) -> Result<Option<Prepared>, Unprepared> {
        if !self.is_staged()
            && let Some(prepared) = self.prepare_edit()?
        {
            return Ok(Some(prepared));
        }
        let mut again = BTreeSet::new();
        let mut recovered = false;
        for _ in 0..TRIES {
            let (layers, images) = match self.before_the_locks(&std::mem::take(&mut again)) {
                Ok(Before::Synced(layers, images)) => (layers, images),
                Ok(Before::Damaged(damaged)) => return Err(Unprepared::Need(damaged)),
                Err(error) if !self.staging()?.route.is_exposed() || self.staging()?.route.is_intact()? => {
                    return Err(error.into());
                }
                // Another program took the staging away meanwhile.
                Err(_) => {
                    self.stage_lost()?;
                    continue;
                }
            };
            match self.under_the_locks(&layers, &images, &mut recovered)? {
                Attempt::Prepared(prepared) => return Ok(Some(prepared)),
                Attempt::Again(layers) => again = layers,
                Attempt::Need(layers) => return Err(Unprepared::Need(layers)),
            }
        }
        Ok(None)
    }

    /// Makes the staging anew; layers that must be staged again end the attempt.
    fn stage_lost(&mut self) -> Result<(), Unprepared> {
        let lost = self.stage_anew()?;
        if lost.is_empty() { Ok(()) } else { Err(Unprepared::Need(lost)) }
    }

    /// Everything that is decided, under all store locks.
    fn under_the_locks(&mut self, layers: &[WantedLayer], images: &[WantedImage], recovered: &mut bool) -> Result<Attempt, Unprepared> {
        let wait = self.wait();
        let mut locks = StoreLocks::write(&self.layout.layers, &self.layout.images, &self.layout.containers, &wait)?;
        let route = self.staging()?.route.clone();
        let pass = recovery::run_locked(&self.layout, &route, &mut locks, Some(&self.id))?;
        if pass.has_leftovers() && !*recovered {
            // Somebody else's trees, of any size: nobody waits for the locks while they go.
            drop(locks);
            pass.clean_up(&self.layout, &route);
            *recovered = true;
            return Ok(Attempt::Again(BTreeSet::new()));
        }
        if !self.staging_is_whole()? {
            drop(locks);
            self.stage_lost()?;
            return Ok(Attempt::Again(BTreeSet::new()));
        }
        let report = pass.report;
        let tables = Tables::load(&self.layout)?;
        match self.decide(&tables, layers, images, report.pins.seq + 1)? {
            Built::Ready(ready) if ready.intent.steps.is_empty() => {
                // All of it may be somebody else's doing, who syncs no directory.
                if self.staging()?.sync != SyncMode::None {
                    self.layout.settle(images.iter().map(|image| &image.id))?;
                }
                drop(locks);
                if let Some(mut staging) = self.take_staging() {
                    staging.clean_up()?;
                }
                Ok(Attempt::Prepared(Prepared::Nothing))
            }
            Built::Ready(ready) => {
                if let Some(what) = report.pins.conflict(&ready.intent) {
                    let why = report.pending.into_iter().map(|(txn, why)| format!("{txn}: {why}")).collect::<Vec<_>>().join("; ");
                    return Err(TxnError::Pending { what, why }.into());
                }
                // Between declaring and locking somebody may have mounted what is to be healed.
                self.refuse_healing_in_use(&tables, layers)?;
                let receipt = Receipt::of(&self.id, &ready);
                let intent = match self.write_intent(*ready) {
                    Ok(intent) => intent,
                    Err(error) => return Err(self.take_intent_back(error).into()),
                };
                let staging = self.take_staging().ok_or(TxnError::Cancelled)?;
                let journaled = Journaled { layout: self.layout.clone(), staging, locks: Some(locks), intent, receipt };
                let kind = PreparedKind::Journaled(Box::new(journaled));
                Ok(Attempt::Prepared(Prepared::Ready(Box::new(PreparedTxn { id: self.id.clone(), kind }))))
            }
            Built::Verify(ids) => Ok(Attempt::Again(ids)),
            Built::Need(ids) => {
                drop(locks);
                self.forget(&ids)?;
                Ok(Attempt::Need(ids))
            }
            Built::Look(..) => Err(TxnError::Overtaken { tries: TRIES }.into()),
        }
    }

    /// The plan, and before it what it wants to know of the disk.
    fn decide(&self, tables: &Tables, layers: &[WantedLayer], images: &[WantedImage], seq: u64) -> Result<Built, TxnError> {
        let changes = self.contents().changes.clone();
        let mut sight = Sight::new(&self.layout, &changes, images);
        layers.iter().try_for_each(|wanted| sight.layer(&wanted.id))?;
        images.iter().try_for_each(|wanted| sight.image(&wanted.id))?;
        if changes.iter().any(|change| matches!(change, Change::Prune(_))) {
            sight.pins()?;
        }
        loop {
            let inputs = Inputs { tables, disk: &sight.facts, seq, wanted_layers: layers, wanted_images: images, changes: &changes };
            match plan::build(&inputs)? {
                Built::Look(layers, images) => sight.look(tables, &layers, &images)?,
                built => return Ok(built),
            }
        }
    }
}
