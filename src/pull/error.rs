//! Why nothing was pulled, grouped by what a caller can do.

use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::txn::{CommitError, TxnError};

/// Why nothing was pulled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum PullError {
    #[error("{reference}")]
    Source { reference: String, source: Box<RegistryError> },
    #[error("{reference}: the config names no diff_ids for its {layers} layers, so that nothing vouches for their contents; refused")]
    NoDiffIds { reference: String, layers: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Txn(#[from] TxnError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("layers vanished from the store {rounds} times while images were built on them; stop what removes them and pull again")]
    Vanishing { rounds: usize },
    #[error("cancelled")]
    Cancelled,
}

impl PullError {
    /// Whether the commit may or may not have happened.
    pub fn in_doubt(&self) -> bool {
        matches!(self, Self::Commit(CommitError::InDoubt { .. }) | Self::Txn(TxnError::InDoubt { .. }))
    }

    /// Whether something was held by somebody else.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Txn(error) => error.is_busy(),
            Self::Store(error) => error.is_busy(),
            _ => false,
        }
    }
}
