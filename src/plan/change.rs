//! Pure: no I/O. What a transaction wants, and what its intent record holds.

use serde::{Deserialize, Serialize};

use super::Step;
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::overlay::{Ancestry, TreeId};

/// A layer that an image of the transaction needs.
#[derive(Debug, Clone)]
pub struct WantedLayer {
    /// Its chain id.
    pub id: LayerId,
    /// The layer below.
    pub parent: Option<LayerId>,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Where it comes from.
    pub source: Source,
}

/// Where a wanted layer comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Staged by this transaction.
    Staged {
        /// The LINKID its directory was made with.
        link: LinkId,
        /// The identity of the staged `diff/`.
        tree: TreeId,
        /// The new record, as JSON.
        record: String,
        /// The ancestors that `lower` of the staged directory names.
        assumed: Ancestry,
    },
    /// In the store, complete and on the medium.
    Reused {
        /// Its LINKID when it was looked at.
        link: LinkId,
        /// Whether a new seal waits in staging: it was verified by this transaction.
        sealing: bool,
    },
    /// In the store but damaged; a sound tree is staged and will be exchanged for it.
    Heal {
        /// Its LINKID, which stays.
        link: LinkId,
        /// The identity of the staged `diff/`.
        tree: TreeId,
        /// The ancestors that `lower` of the staged directory names.
        assumed: Ancestry,
    },
}

/// An image that the transaction makes.
#[derive(Debug, Clone)]
pub struct WantedImage {
    /// Its id.
    pub id: ImageId,
    /// The complete new record, as JSON, names included.
    pub record: String,
    /// Its layers, base first.
    pub chain: Vec<LayerId>,
    /// Its big data, staged.
    pub data: Vec<StagedData>,
}

/// One item of big data in staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedData {
    /// The key.
    pub key: String,
    /// The file's name, made from the key.
    pub file: String,
    /// Length in bytes.
    pub size: u64,
    /// sha256 of the bytes.
    pub digest: Digest,
}

/// What the intent record holds: all that recovery needs, should this process die now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// 1 + the highest of the segments there were: dead transactions are recovered in this order.
    pub seq: u64,
    /// Layers that get a new record.
    pub layers: Vec<LayerPut>,
    /// Images that get a record, or whose record is united with a new one.
    pub images: Vec<ImagePut>,
    /// What to do, in this order.
    pub steps: Vec<Step>,
}

/// A new layer record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPut {
    /// Its id.
    pub id: LayerId,
    /// Its LINKID.
    pub link: LinkId,
    /// The record, as JSON: bincode is not self-describing.
    pub record: String,
}

/// An image to insert or unite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePut {
    /// Its id.
    pub id: ImageId,
    /// The record, as JSON.
    pub record: String,
    /// Its names, and the image each is taken from.
    pub names: Vec<NameClaim>,
    /// Every layer of it, base first, with the LINKID it must have for the image to be complete.
    pub chain: Vec<(LayerId, LinkId)>,
    /// Its big data.
    pub data: Vec<StagedData>,
}

/// A name that an image takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameClaim {
    /// The name.
    pub name: String,
    /// The image that had it when the plan was made, or nobody. Recovery takes it only from there.
    pub from: Option<ImageId>,
}

impl Intent {
    /// The index of the pivot: the first table rename. Before it a transaction goes back, from it on forward.
    /// `None`: a plan without one is forward once the intent is durable.
    pub fn pivot(&self) -> Option<usize> {
        self.steps.iter().position(|step| matches!(step, Step::Switch(_)))
    }
}
