//! What a transaction did, for those who asked for it.

use crate::ids::{ImageId, LayerId, TxnId};
use crate::plan::{ImageChange, Ready, Renamed};

/// What a committed transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction.
    pub txn: TxnId,
    /// Layers that are new in the store.
    pub layers: Vec<LayerId>,
    /// Images that are new or were united with what was there.
    pub images: Vec<ImageId>,
    /// Names that images got and lost.
    pub renamed: Vec<Renamed>,
    /// Images that were removed.
    pub removed_images: Vec<ImageId>,
    /// Layers that were removed, children before parents.
    pub removed_layers: Vec<LayerId>,
}

impl Receipt {
    /// What a plan does.
    pub(super) fn of(txn: &TxnId, ready: &Ready) -> Self {
        let removed = ready.intent.images.iter().filter_map(|change| match change {
            ImageChange::Remove { id, .. } => Some(id.clone()),
            _ => None,
        });
        Self {
            txn: txn.clone(),
            layers: ready.intent.layers.iter().map(|put| put.id.clone()).collect(),
            images: ready.intent.puts().map(|put| put.id.clone()).collect(),
            renamed: ready.renamed.clone(),
            removed_images: removed.collect(),
            removed_layers: ready.intent.removals.iter().map(|gone| gone.id.clone()).collect(),
        }
    }
}
