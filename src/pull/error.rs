//! Why nothing was pulled, grouped by what a caller can do.

use crate::extract::ExtractError;
use crate::layout::TablesError;
use crate::lock::LockError;
use crate::recovery::RecoveryError;
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
    #[error("{reference}: the image is for {seen}, not for {wanted}; choose a tag or digest that is, or ask for no platform")]
    OtherPlatform { reference: String, seen: String, wanted: String },
    #[error(
        "{name} is the name of two images, from {first} and from {second}, and one transaction can give it to one only; pull them one by one"
    )]
    NameTwice { name: String, first: String, second: String },
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

    /// Whether it ended because the caller wanted no more of it; nothing was changed then.
    pub fn is_cancelled(&self) -> bool {
        let lock = |error: &LockError| matches!(error, LockError::Cancelled { .. });
        match self {
            Self::Cancelled | Self::Txn(TxnError::Cancelled) => true,
            Self::Source { source, .. } => matches!(**source, RegistryError::Cancelled),
            // A blob's reader ends with it in the middle of a layer.
            Self::Txn(TxnError::Extract { source: ExtractError::Source(error), .. }) => {
                matches!(RegistryError::within(error), Some(RegistryError::Cancelled))
            }
            Self::Txn(
                TxnError::Lock(error) | TxnError::Tables(TablesError::Lock(error)) | TxnError::Recovery(RecoveryError::Lock(error)),
            ) => lock(error),
            Self::Store(error) => error.is_cancelled(),
            _ => false,
        }
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
