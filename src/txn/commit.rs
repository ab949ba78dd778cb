//! The third stage: the steps, Done, and tidying up.

use crate::ids::TxnId;
use crate::journal::Kind;
use crate::layout::Layout;
use crate::lock::StoreWriteGuard;
use crate::plan::{Intent, Step, StepError, World};

use super::begin::best_effort;
use super::prepare::PreparedKind;
use super::staging::Staging;
use super::{PreparedTxn, Receipt, TxnError};

/// Why a commit failed, and what that means for the store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CommitError {
    /// The store is as it was before.
    #[error("transaction {txn} was rolled back")]
    RolledBack { txn: TxnId, source: Box<dyn std::error::Error + Send + Sync> },
    /// The commit may or may not be durable: the next open decides.
    #[error("transaction {txn} is in doubt; the next cstor-rs to open the store finishes it or takes it back")]
    InDoubt { txn: TxnId, source: Box<dyn std::error::Error + Send + Sync> },
}

impl PreparedTxn {
    /// The transaction's id.
    pub fn id(&self) -> &TxnId {
        &self.id
    }

    /// Does it. After `Ok` everything is durable.
    ///
    /// # Errors
    ///
    /// [`CommitError`] says whether the store is as before or the next open decides.
    pub fn commit(self) -> Result<Receipt, CommitError> {
        match self.kind {
            PreparedKind::Journaled(journaled) => journaled.commit(),
            PreparedKind::Edit(edit) => edit.commit(),
        }
    }

    /// Takes everything back instead of committing.
    ///
    /// # Errors
    ///
    /// [`CommitError::InDoubt`] where not even that could be made durable.
    pub fn rollback(self) -> Result<(), CommitError> {
        match self.kind {
            PreparedKind::Journaled(journaled) => journaled.rollback(),
            // Its temporary table goes with it.
            PreparedKind::Edit(edit) => {
                drop(edit);
                Ok(())
            }
        }
    }
}

/// A transaction with an intent in its segment.
pub(super) struct Journaled {
    pub layout: Layout,
    pub staging: Staging,
    /// `None` once it is committed or taken back.
    pub locks: Option<StoreWriteGuard>,
    pub intent: Intent,
    pub receipt: Receipt,
}

impl Journaled {
    fn commit(mut self: Box<Self>) -> Result<Receipt, CommitError> {
        let done = self.apply().and_then(|()| self.end(Kind::Done));
        let pivoted = self.past_pivot();
        if let Err(error) = done {
            return Err(self.give_up(error, pivoted));
        }
        drop(self.locks.take());
        // From here on nothing can change the outcome: what stays is swept by the next open.
        best_effort("tidy up after a commit", self.staging.clean_up());
        Ok(self.receipt.clone())
    }

    fn world(&mut self) -> Result<World<'_>, StepError> {
        let gone = || StepError::Gone { name: "the store's locks".to_owned() };
        let locks = self.locks.as_mut().ok_or_else(gone)?;
        let mut world = World::open(&self.layout, &self.staging.route, &self.receipt.txn, &self.intent, locks)?;
        world.fresh = true;
        Ok(world)
    }

    fn apply(&mut self) -> Result<(), StepError> {
        self.world()?.forward()
    }

    /// Done or Abort, durable.
    fn end(&mut self, kind: Kind) -> Result<(), StepError> {
        if let Some(segment) = self.staging.segment.as_mut() {
            segment.append(kind, &[]).map_err(StepError::from)?;
            segment.sync().map_err(StepError::from)?;
            self.staging.intent_open = None;
        }
        Ok(())
    }

    /// Whether the first table rename has happened. Unsure counts as yes.
    fn past_pivot(&self) -> bool {
        let pivot = self.intent.steps.iter().find_map(|step| match step {
            Step::Switch(table) => Some(*table),
            _ => None,
        });
        pivot.is_none_or(|table| !matches!(table.waits(&self.layout, &self.receipt.txn), Ok(true)))
    }

    fn give_up(mut self: Box<Self>, error: StepError, pivoted: bool) -> CommitError {
        let txn = self.receipt.txn.clone();
        let back = if pivoted || self.layout.root.seam().poisoned() { None } else { Some(self.take_back()) };
        match back {
            Some(Ok(())) => {
                drop(self.locks.take());
                best_effort("tidy up after a rollback", self.staging.clean_up());
                CommitError::RolledBack { txn, source: error.into() }
            }
            failed => {
                if let Some(Err(second)) = failed {
                    tracing::error!(txn = %txn, error = &second as &dyn std::error::Error, "the rollback failed too");
                }
                // The segment is released before the store locks: whoever gets those may then end the transaction.
                drop(self.staging.segment.take());
                drop(self.locks.take());
                CommitError::InDoubt { txn, source: error.into() }
            }
        }
    }

    fn take_back(&mut self) -> Result<(), StepError> {
        self.world()?.back()?;
        self.end(Kind::Abort)
    }

    fn rollback(mut self: Box<Self>) -> Result<(), CommitError> {
        let ended = self.end_undone();
        drop(self.locks.take());
        best_effort("tidy up after a rollback", self.staging.clean_up());
        ended.map_err(|error| CommitError::InDoubt { txn: self.receipt.txn.clone(), source: error.into() })
    }

    /// Abort for an intent that nothing was done of; where it cannot be written the segment is released, before the locks.
    fn end_undone(&mut self) -> Result<(), TxnError> {
        let ended = self.staging.abort();
        if self.staging.intent_open.is_none() {
            return ended;
        }
        drop(self.staging.segment.take());
        ended.and(Err(TxnError::Poisoned))
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        // After a commit or a rollback there are no locks any more, and nothing to do.
        if self.locks.is_some() {
            best_effort("end a prepared transaction that was dropped", self.end_undone());
            // What is staged goes with the transaction, after the locks.
            drop(self.locks.take());
        }
    }
}
