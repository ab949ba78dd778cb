//! Pure: no I/O. What a transaction wants, and what its intent record holds.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Mend, Step};
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::metadata::ImageRef;
use crate::overlay::{Ancestry, TreeId};

/// One thing that a caller wants changed. Recorded as it is said; what it means is decided under the locks, each change
/// seeing what those before it have done.
#[derive(Debug, Clone)]
pub enum Change {
    /// An image, staged as a [`WantedImage`], is inserted or united with what is there, and gets names.
    Put {
        /// The image.
        id: ImageId,
        /// The names, normalised.
        names: Vec<String>,
    },
    /// An image gets more names; whoever had them loses them.
    Tag {
        /// The image.
        image: ImageRef,
        /// The names, normalised.
        names: Vec<String>,
    },
    /// An image loses names.
    Untag {
        /// The image.
        image: ImageRef,
        /// The names, normalised; none means all it has.
        names: Vec<String>,
    },
    /// An image has these names from now on, and no others.
    SetNames {
        /// The image.
        image: ImageRef,
        /// The names, normalised.
        names: Vec<String>,
    },
    /// Items of big data, staged, are added or replaced.
    SetData {
        /// The image.
        image: ImageId,
        /// The items.
        items: Vec<StagedData>,
    },
    /// An item of big data is removed.
    DropData {
        /// The image.
        image: ImageId,
        /// Its key.
        key: String,
    },
    /// The metadata is replaced.
    SetMetadata {
        /// The image.
        image: ImageRef,
        /// JSON text, or nothing.
        text: String,
    },
    /// An image is removed, with the layers that nothing else needs.
    RemoveImage {
        /// The image.
        image: ImageRef,
        /// What becomes of an image with several names.
        names: SeveralNames,
    },
    /// A layer is removed that nothing needs.
    RemoveLayer(LayerId),
    /// All images and layers are removed that nobody wants.
    Prune(Prune),
    /// A repair.
    Mend(Mend),
}

/// What a prune removes. Never what a container, a mount or a pin holds, and never what another program may just be making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// Images with names too; else only those without.
    pub named: bool,
    /// Images whose documents changed less than this long ago stay: podman names an image last.
    pub image_age: Duration,
    /// Layers that no image needs, and that are younger than this, stay: podman makes an image after its layers.
    pub layer_age: Duration,
    /// What both are reckoned from.
    pub now: SystemTime,
}

impl Prune {
    /// Images without a name whose documents are a minute old, and unneeded layers of a day, as `podman system check` reckons.
    pub fn new() -> Self {
        let (image_age, layer_age) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
        Self { named: false, image_age, layer_age, now: SystemTime::now() }
    }

    /// Whether something of this time is older than `age`. Of a time in the future nobody knows.
    pub(super) fn is_over(&self, time: SystemTime, age: Duration) -> bool {
        self.now.duration_since(time).is_ok_and(|passed| passed >= age)
    }
}

impl Default for Prune {
    fn default() -> Self {
        Self::new()
    }
}

/// What `remove_image` does with an image that has several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeveralNames {
    /// As `podman rmi`: called by one of its names, it only loses that name; called by its id, it is refused.
    #[default]
    Keep,
    /// As `podman rmi --force`: called by one of its names, it only loses that name; called by its id, it is removed.
    Untag,
    /// It is removed, however it is called.
    Remove,
}

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
        /// Whether a record that says incomplete will do: what says so is mended next.
        even_incomplete: bool,
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Intent {
    /// 1 + the highest of the segments there were: dead transactions are recovered in this order.
    pub seq: u64,
    /// Layers that get a new record.
    pub layers: Vec<LayerPut>,
    /// Changes of images.json, in this order.
    pub images: Vec<ImageChange>,
    /// Layers whose record goes, children before parents.
    pub removals: Vec<LayerRemoval>,
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

/// A layer that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRemoval {
    /// Its id.
    pub id: LayerId,
    /// Its LINKID, where `link` was readable. With another one it is another layer, and stays.
    pub link: Option<LinkId>,
}

/// A change of images.json with everything it was based on, so that recovery can tell whether that still holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageChange {
    /// An image is inserted, or united with the record of its id.
    Put(ImagePut),
    /// An image gets names in front of those it has, and loses others.
    Names {
        /// The image.
        id: ImageId,
        /// The names it gets, and the image each is taken from.
        take: Vec<NameClaim>,
        /// The names it loses.
        drop: Vec<String>,
    },
    /// Items of big data are recorded.
    Data {
        /// The image.
        id: ImageId,
        /// The items.
        items: Vec<DataPut>,
    },
    /// An item of big data is recorded no more.
    DropData {
        /// The image.
        id: ImageId,
        /// Its key.
        key: String,
        /// The digest the record had for it.
        seen: Option<String>,
    },
    /// The metadata is replaced.
    Metadata {
        /// The image.
        id: ImageId,
        /// What it was.
        seen: String,
        /// What it will be.
        text: String,
    },
    /// An image is removed.
    Remove {
        /// The image.
        id: ImageId,
        /// Its names. With another one it stays, and loses only these.
        names: Vec<String>,
        /// The identity of its data directory, if it had one. With another one somebody made it anew, and it stays.
        tree: Option<TreeId>,
    },
}

/// An item of big data to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPut {
    /// The item.
    pub item: StagedData,
    /// The digest the record had for its key.
    pub seen: Option<String>,
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
    /// The metadata of the record it is united with, if there was one. Metadata that is another one by then stays.
    pub seen: Option<String>,
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

    /// The images that are inserted or united.
    pub fn puts(&self) -> impl Iterator<Item = &ImagePut> {
        self.images.iter().filter_map(|change| match change {
            ImageChange::Put(put) => Some(put),
            _ => None,
        })
    }
}

impl ImageChange {
    /// The image that is changed.
    pub fn id(&self) -> &ImageId {
        match self {
            Self::Put(put) => &put.id,
            Self::Names { id, .. }
            | Self::Data { id, .. }
            | Self::DropData { id, .. }
            | Self::Metadata { id, .. }
            | Self::Remove { id, .. } => id,
        }
    }

    /// The names it takes.
    pub fn claims(&self) -> &[NameClaim] {
        match self {
            Self::Put(put) => &put.names,
            Self::Names { take, .. } => take,
            _ => &[],
        }
    }

    /// The items of big data that its image's record names from then on.
    pub fn data(&self) -> Vec<&StagedData> {
        match self {
            Self::Put(put) => put.data.iter().collect(),
            Self::Data { items, .. } => items.iter().map(|put| &put.item).collect(),
            _ => vec![],
        }
    }
}
