//! The third stage: the steps, Done, and tidying up.

use crate::ids::{ImageId, LayerId, TxnId};
use crate::journal::Kind;
use crate::layout::{IMAGES_JSON, LAYERS_JSON, marker_name};
use crate::plan::{Step, StepError, Table, World};

use super::begin::best_effort;
use super::{PreparedTxn, TxnError};

/// What a committed transaction did.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The transaction.
    pub txn: TxnId,
    /// Layers that are new in the store.
    pub layers: Vec<LayerId>,
    /// Images that are new or were united with what was there.
    pub images: Vec<ImageId>,
}

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
        &self.txn.id
    }

    /// Does it. After `Ok` everything is durable.
    ///
    /// # Errors
    ///
    /// [`CommitError`] says whether the store is as before or the next open decides.
    pub fn commit(mut self) -> Result<Receipt, CommitError> {
        let txn = self.txn.id.clone();
        let done = self.apply().and_then(|()| self.end(Kind::Done));
        let pivoted = self.past_pivot();
        if let Err(error) = done {
            return Err(self.give_up(error, pivoted));
        }
        let receipt = Receipt {
            layers: self.intent.layers.iter().map(|put| put.id.clone()).collect(),
            images: self.intent.images.iter().map(|put| put.id.clone()).collect(),
            txn,
        };
        drop(self.locks.take());
        // From here on nothing can change the outcome: what stays is swept by the next open.
        best_effort("tidy up after a commit", self.txn.clean_up());
        Ok(receipt)
    }

    fn world(&mut self) -> Result<World<'_>, StepError> {
        let gone = || StepError::Gone { name: "the store's locks".to_owned() };
        let locks = self.locks.as_mut().ok_or_else(gone)?;
        let mut world = World::open(&self.txn.layout, &self.txn.route, &self.txn.id, &self.intent, locks)?;
        world.fresh = true;
        Ok(world)
    }

    fn apply(&mut self) -> Result<(), StepError> {
        self.world()?.forward()
    }

    /// Done or Abort, durable.
    fn end(&mut self, kind: Kind) -> Result<(), StepError> {
        if let Some(segment) = self.txn.segment.as_mut() {
            segment.append(kind, &[]).map_err(StepError::from)?;
            segment.sync().map_err(StepError::from)?;
            self.txn.intent_open = None;
        }
        Ok(())
    }

    /// Whether the first table rename has happened. Unsure counts as yes.
    fn past_pivot(&self) -> bool {
        let pivot = self.intent.steps.iter().find_map(|step| match step {
            Step::Switch(table) => Some(*table),
            _ => None,
        });
        let layout = &self.txn.layout;
        let waits = match pivot {
            Some(Table::Layers) => layout.layers.meta(marker_name(LAYERS_JSON, &self.txn.id)),
            Some(Table::Images) => layout.images.meta(marker_name(IMAGES_JSON, &self.txn.id)),
            None => return true,
        };
        !matches!(waits, Ok(Some(_)))
    }

    fn give_up(mut self, error: StepError, pivoted: bool) -> CommitError {
        let txn = self.txn.id.clone();
        let back = if pivoted || self.txn.layout.root.seam().poisoned() { None } else { Some(self.take_back()) };
        match back {
            Some(Ok(())) => {
                drop(self.locks.take());
                best_effort("tidy up after a rollback", self.txn.clean_up());
                CommitError::RolledBack { txn, source: error.into() }
            }
            failed => {
                if let Some(Err(second)) = failed {
                    tracing::error!(txn = %txn, error = &second as &dyn std::error::Error, "the rollback failed too");
                }
                // The segment is released before the store locks: whoever gets those may then end the transaction.
                drop(self.txn.segment.take());
                drop(self.locks.take());
                CommitError::InDoubt { txn, source: error.into() }
            }
        }
    }

    fn take_back(&mut self) -> Result<(), StepError> {
        self.world()?.back()?;
        self.end(Kind::Abort)
    }

    /// Takes everything back instead of committing.
    ///
    /// # Errors
    ///
    /// [`CommitError::InDoubt`] where not even that could be made durable.
    pub fn rollback(mut self) -> Result<(), CommitError> {
        let ended = self.end_undone();
        drop(self.locks.take());
        best_effort("tidy up after a rollback", self.txn.clean_up());
        ended.map_err(|error| CommitError::InDoubt { txn: self.txn.id.clone(), source: error.into() })
    }

    /// Abort for an intent that nothing was done of; where it cannot be written the segment is released, before the locks.
    fn end_undone(&mut self) -> Result<(), TxnError> {
        let ended = self.txn.abort();
        if self.txn.intent_open.is_none() {
            return ended;
        }
        drop(self.txn.segment.take());
        ended.and(Err(TxnError::Poisoned))
    }
}

impl Drop for PreparedTxn {
    fn drop(&mut self) {
        // After a commit or a rollback there are no locks any more, and nothing to do.
        if self.locks.is_some() {
            best_effort("end a prepared transaction that was dropped", self.end_undone());
            // What is staged goes with the transaction, after the locks.
            drop(self.locks.take());
        }
    }
}
