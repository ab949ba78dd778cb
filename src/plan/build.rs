//! Pure: no I/O. Decides, from the tables and what stands on disk, every step of a transaction and their order.
//!
//! Invariants:
//! - P1: no image is switched on before every layer of its chain is in layers.json, placed and synced.
//! - P2: no name is taken that the caller was not told of; what each name is taken from is in the intent.
//! - P3: a layer that nobody vouches for is never built on: the caller verifies it and plans again.
//! - P4: nothing goes that an image, a layer, a container or a mount needs; records go before what they stand for.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use super::holder::Holder;
use super::layers::{Chains, place_layers};
use super::names::renamed;
use super::removal::removals;
use super::resolve::{Resolved, resolve};
use super::{Change, ImageChange, Intent, LayerRemoval, Place, Renamed, StagedData, Step, Table, WantedImage, WantedLayer};
use crate::ids::{Digest, ImageId, LayerId};
use crate::layout::{Tables, Users};
use crate::metadata::{EditError, Images, Layer, Layers, LookupError, ParseError};
use crate::overlay::{Ancestry, Facts, TreeId};

/// What a plan is made from: the tables as they are under the locks, and the disk.
pub struct Inputs<'a> {
    /// All tables.
    pub tables: &'a Tables,
    /// What stands on disk under the wanted ids, and under those that an earlier try wanted to know of.
    pub disk: &'a DiskFacts,
    /// 1 + the highest sequence number of the pending segments.
    pub seq: u64,
    /// The wanted layers, parents before children, each once.
    pub wanted_layers: &'a [WantedLayer],
    /// The wanted images, each once.
    pub wanted_images: &'a [WantedImage],
    /// The changes in their order.
    pub changes: &'a [Change],
}

/// What stands on disk.
#[derive(Debug, Default)]
pub struct DiskFacts {
    /// Under `overlay/`.
    pub layers: HashMap<LayerId, Facts>,
    /// Under `overlay-images/`.
    pub images: HashMap<ImageId, ImageFacts>,
    /// Who uses layers and images, once a plan wanted to know of any.
    pub users: Option<Users>,
    /// The images that are pinned, for a prune.
    pub pinned: BTreeSet<ImageId>,
}

/// What stands in an image's data directory.
#[derive(Debug, Default)]
pub struct ImageFacts {
    /// The directory's identity, if there is one.
    pub tree: Option<TreeId>,
    /// When a name in it changed last.
    pub changed: Option<SystemTime>,
    /// The digests of those of its files that the transaction would write.
    pub files: HashMap<String, Digest>,
}

/// A plan, or what must be done before there can be one.
pub enum Built {
    /// Ready to be journaled.
    Ready(Box<Ready>),
    /// What stands on disk under these ids must be known, and who uses the store: read it under the same locks, and plan
    /// again.
    Look(BTreeSet<LayerId>, BTreeSet<ImageId>),
    /// These layers appeared since they were looked at: verify them, sync, plan again.
    Verify(BTreeSet<LayerId>),
    /// These layers were to be reused and are gone: fetch them, plan again.
    Need(BTreeSet<LayerId>),
}

/// A plan with the tables as they will be.
#[derive(Default)]
pub struct Ready {
    /// What goes into the journal.
    pub intent: Intent,
    /// layers.json with the new layers, if there are any.
    pub layers_json: Option<Vec<u8>>,
    /// The new images.json, if it changes.
    pub images_json: Option<Vec<u8>>,
    /// The same, to be looked at.
    pub images: Images,
    /// layers.json without the layers that go, if any do.
    pub remaining_json: Option<Vec<u8>>,
    /// Staged layers whose parents got another LINKID than assumed.
    pub rewrites: Vec<(LayerId, Ancestry)>,
    /// The names that images get and lose.
    pub renamed: Vec<Renamed>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum PlanError {
    #[error("layer {id} is in the store with contents {seen}, the image wants {want}; run fsck on the store")]
    OtherDiff { id: LayerId, seen: String, want: Digest },
    #[error("image {id} is in the store with top layer {seen}, the new one has {want}; remove the image there first")]
    OtherTop { id: ImageId, seen: String, want: String },
    #[error("layer {id} is needed by an image of the transaction but not part of it; this is a bug in cstor-rs")]
    Unplanned { id: LayerId },
    #[error("image {id} is in use by {holder}; remove that first")]
    ImageInUse { id: ImageId, holder: Holder },
    #[error("layer {id} is in use by {holder}; remove that first")]
    LayerInUse { id: LayerId, holder: Holder },
    #[error("{what} is both made and removed by this transaction; leave one of them out")]
    Contradiction { what: String },
    #[error("layer {id} is not known; `layers` lists those there are")]
    UnknownLayer { id: LayerId },
    #[error("image {id} has several names ({}); name one of them, or force its removal", names.join(", "))]
    SeveralNames { id: ImageId, names: Vec<String> },
    #[error("image {id} is not called {name}")]
    NotNamed { id: ImageId, name: String },
    #[error("image {id} has no big data {key:?}")]
    NoData { id: ImageId, key: String },
    #[error("big data {key:?} of image {id} is needed by every program that uses the image; remove the image instead")]
    NeededData { id: ImageId, key: String },
    #[error("the metadata for image {id} is not JSON, and podman could list no image any more")]
    Metadata { id: ImageId, source: serde_json::Error },
    #[error("image {id} is to be made and was not staged; this is a bug in cstor-rs")]
    Unstaged { id: ImageId },
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("a record of the transaction is not valid")]
    Record(#[from] ParseError),
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// Decides everything.
///
/// # Errors
///
/// [`PlanError`] where the store holds something that contradicts the transaction.
pub fn build(inputs: &Inputs<'_>) -> Result<Built, PlanError> {
    let chains = match place_layers(inputs)? {
        Ok(placed) => placed,
        Err(again) => return Ok(again),
    };
    let tables = inputs.tables;
    let Resolved { images, changes, unseen } = resolve(inputs, &chains.links)?;
    let (layers_json, with_new) = match insert(&tables.layers, &chains)? {
        Some(layers) => (Some(layers.encode()), Cow::Owned(layers)),
        None => (None, Cow::Borrowed(&tables.layers)),
    };
    let removals = removals(inputs, &changes, &with_new, &images)?;
    if !(removals.unseen.is_empty() && unseen.is_empty()) {
        return Ok(Built::Look(removals.unseen, unseen));
    }
    let removals = removals.list;
    let remaining_json = (!removals.is_empty()).then(|| {
        let mut layers = with_new.into_owned();
        removals.iter().for_each(|gone| drop(layers.remove(&gone.id)));
        layers.encode()
    });
    let renamed = renamed(&tables.images, &images, &changes);
    let images_json = images.encode();
    let images_json = (images_json != tables.images.encode()).then_some(images_json);
    let steps = steps(inputs, &chains, &changes, &removals, images_json.is_some());
    if !steps.iter().any(|step| !matches!(step, Step::Sync(_))) {
        // Nothing to do: not even a barrier.
        return Ok(Built::Ready(Box::default()));
    }
    let intent = Intent { seq: inputs.seq, layers: chains.inserts, images: changes, removals, steps };
    Ok(Built::Ready(Box::new(Ready { intent, layers_json, images_json, images, remaining_json, rewrites: chains.rewrites, renamed })))
}

/// layers.json with the new layers, if there are any.
fn insert(layers: &Layers, chains: &Chains) -> Result<Option<Layers>, PlanError> {
    if chains.inserts.is_empty() {
        return Ok(None);
    }
    let mut layers = layers.clone();
    for put in &chains.inserts {
        layers.remove(&put.id);
        layers.insert(Layer::from_json(&put.record)?)?;
    }
    Ok(Some(layers))
}

/// All steps in their order: barriers C to E2.
fn steps(inputs: &Inputs<'_>, chains: &Chains, changes: &[ImageChange], removals: &[LayerRemoval], images_change: bool) -> Vec<Step> {
    let mut data = DataSteps::default();
    changes.iter().for_each(|change| data.of(inputs, change));
    let mut steps = chains.displace.clone();
    steps.append(&mut data.displace);
    steps.extend(chains.place.iter().cloned());
    steps.append(&mut data.place);
    let with_barrier = |steps: &mut Vec<Step>, mut more: Vec<Step>| {
        if !more.is_empty() {
            let barrier = Step::barrier(&more);
            steps.append(&mut more);
            steps.push(barrier);
        }
    };
    if !steps.is_empty() {
        steps.push(Step::barrier(&steps));
    }
    if !chains.inserts.is_empty() {
        with_barrier(&mut steps, vec![Step::Switch(Table::Layers)]);
    }
    if images_change {
        with_barrier(&mut steps, vec![Step::Switch(Table::Images)]);
    }
    // The record or the documents of an image may be somebody else's, who syncs no directory.
    let there = inputs.wanted_images.iter().filter(|wanted| inputs.tables.images.get(&wanted.id).is_some());
    let places: Vec<Place> = there.map(|wanted| Place::Image(wanted.id.clone())).collect();
    if !places.is_empty() {
        steps.push(Step::Sync(places.into_iter().chain([Place::Images]).collect()));
    }
    with_barrier(&mut steps, data.exchange);
    if !removals.is_empty() {
        with_barrier(&mut steps, vec![Step::Switch(Table::RemainingLayers)]);
    }
    let mut dead = data.bury;
    dead.extend(removals.iter().map(|gone| Step::BuryLayer { id: gone.id.clone(), link: gone.link.clone() }));
    with_barrier(&mut steps, dead);
    let mends = inputs.changes.iter().filter_map(|change| match change {
        Change::Mend(mend) => Some(Step::Mend(mend.clone())),
        _ => None,
    });
    with_barrier(&mut steps, mends.collect());
    steps
}

/// The steps for the documents of images.
#[derive(Default)]
struct DataSteps {
    displace: Vec<Step>,
    place: Vec<Step>,
    exchange: Vec<Step>,
    bury: Vec<Step>,
    /// Images whose whole staged directory is placed.
    whole: HashSet<ImageId>,
}

impl DataSteps {
    fn of(&mut self, inputs: &Inputs<'_>, change: &ImageChange) {
        let none = ImageFacts::default();
        let facts = inputs.disk.images.get(change.id()).unwrap_or(&none);
        let id = || change.id().clone();
        match change {
            ImageChange::Names { .. } | ImageChange::Metadata { .. } => {}
            ImageChange::Put(put) => {
                if inputs.tables.images.get(&put.id).is_none() || facts.tree.is_none() {
                    if facts.tree.is_some() {
                        self.displace.push(Step::DisplaceImage { id: id() });
                    }
                    self.place.push(Step::PlaceImage { id: id() });
                    self.whole.insert(id());
                    return;
                }
                put.data.iter().for_each(|item| self.item(change.id(), item, facts));
            }
            ImageChange::Data { items, .. } => items.iter().for_each(|put| self.item(change.id(), &put.item, facts)),
            ImageChange::DropData { key, .. } => {
                if let Ok(file) = crate::metadata::big_data_file(key) {
                    self.bury.push(Step::BuryData { image: id(), file });
                }
            }
            ImageChange::Remove { .. } => self.bury.push(Step::BuryImage { id: id() }),
        }
    }

    fn item(&mut self, image: &ImageId, StagedData { key, file, digest, .. }: &StagedData, facts: &ImageFacts) {
        if self.whole.contains(image) {
            return;
        }
        match facts.files.get(file) {
            Some(seen) if seen == digest => {}
            Some(old) => self.exchange.push(Step::ExchangeData {
                image: image.clone(),
                key: key.clone(),
                file: file.clone(),
                old: old.clone(),
                new: digest.clone(),
            }),
            None => self.place.push(Step::PlaceData { image: image.clone(), file: file.clone() }),
        }
    }
}
