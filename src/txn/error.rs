//! Why a transaction cannot go on. Nothing of it is visible then.

use std::path::PathBuf;

use crate::extract::ExtractError;
use crate::fsio;
use crate::ids::{Digest, ImageId, LayerId, TxnId};
use crate::journal::JournalError;
use crate::layout::{LayoutError, TablesError};
use crate::lock::LockError;
use crate::metadata::{BigDataKeyError, ParseError};
use crate::plan::{CodecError, PlanError};
use crate::recovery::RecoveryError;

/// Why a transaction cannot go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum TxnError {
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the image's new record would not be valid")]
    Record(#[from] ParseError),
    #[error(transparent)]
    Key(#[from] BigDataKeyError),
    #[error("the seal of a layer cannot be written")]
    Seal(#[from] crate::overlay::SealError),
    #[error(transparent)]
    Edit(#[from] crate::metadata::EditError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("layer {diff_id} cannot be unpacked")]
    Extract { diff_id: Digest, source: ExtractError },
    #[error(
        "the blob of layer {diff_id} has digest {seen}, the manifest says {want}; the registry or the way to it is damaged, pull again"
    )]
    BlobDigest { diff_id: Digest, want: Digest, seen: Digest },
    #[error("the blob {blob} unpacks to {seen}, the image's config says {want}; the image is inconsistent, tell its publisher")]
    DiffId { blob: Digest, want: Digest, seen: Digest },
    #[error("layer {id} is in the store but damaged ({why}) and in use by {user}; stop that and try again")]
    InUse { id: LayerId, why: String, user: String },
    #[error("layer {id} is in the store but cannot be used: {why}; remove the images on it with podman and pull again")]
    Broken { id: LayerId, why: String },
    #[error("layer {id} was not declared for this transaction")]
    Undeclared { id: LayerId },
    #[error("layer {id} was declared but not staged")]
    NotStaged { id: LayerId },
    #[error("{count} layers, more than the 500 that overlay can stack")]
    TooManyLayers { count: usize },
    #[error("other processes kept changing the layers this transaction builds on; {tries} plans were overtaken, try again")]
    Overtaken { tries: usize },
    #[error("{what} is part of an earlier transaction that could not be ended yet ({why}); mend that and run recover")]
    Pending { what: String, why: String },
    #[error(
        "another program removed {} while layers were unpacked there: overlay/ lies on another filesystem than the store, and \
         older podmans clean up what they do not know; stop them and pull again",
        path.display()
    )]
    StagingLost { path: PathBuf },
    #[error("a sync failed earlier; what was written since may be lost, open the store again")]
    Poisoned,
    #[error("transaction {txn} is in doubt; the next cstor-rs to open the store finishes it or takes it back")]
    InDoubt { txn: TxnId, source: Box<TxnError> },
    #[error("{name:?} is not a normalised name; {normal:?} is")]
    NotNormal { name: String, normal: String },
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    #[error("image {id} is made by this transaction; stage it with its documents")]
    StagedImage { id: ImageId },
    #[error("a signed manifest of schema 1 cannot be stored for image {id}: its digest is not that of its bytes")]
    SignedManifest { id: ImageId },
    #[error("the big data of image {id} must be staged; use set_big_data")]
    Unstaged { id: ImageId },
    #[error("the new layer cannot be unpacked")]
    NewLayer { source: ExtractError },
    #[error("layer {id} is not known; `layers` lists those there are")]
    UnknownParent { id: LayerId },
    #[error("the config of the new image is not JSON with rootfs.diff_ids")]
    Config { source: serde_json::Error },
    #[error("the config of the new image names other layers in rootfs.diff_ids ({config}) than it is made of ({layers})")]
    DiffIds { config: usize, layers: usize },
    #[error(transparent)]
    Commit(#[from] Box<super::CommitError>),
    #[error("cancelled")]
    Cancelled,
}

impl TxnError {
    /// Whether waiting and trying again may help: something was held by somebody else.
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::InUse { .. }
                | Self::Pending { .. }
                | Self::Plan(PlanError::ImageInUse { .. } | PlanError::LayerInUse { .. })
                | Self::Lock(LockError::Busy { .. })
                | Self::Tables(TablesError::Lock(LockError::Busy { .. }))
                | Self::Recovery(RecoveryError::Lock(LockError::Busy { .. }) | RecoveryError::Poisoned { .. })
        )
    }
}
