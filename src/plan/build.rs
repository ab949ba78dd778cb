//! Pure: no I/O. Decides, from the tables and what stands on disk, every step of a transaction and their order.
//!
//! Invariants:
//! - P1: no image is switched on before every layer of its chain is in layers.json, placed and synced.
//! - P2: no name is taken that the caller was not told of; what each name is taken from is in the intent.
//! - P3: a layer that nobody vouches for is never built on: the caller verifies it and plans again.

use std::collections::{BTreeSet, HashMap};

use super::{ImagePut, Intent, LayerPut, NameClaim, Place, Source, StagedData, Step, Table, WantedImage, WantedLayer};
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::metadata::{EditError, Image, Images, Layer, Layers, ParseError};
use crate::overlay::{Ancestry, Facts};

/// What a plan is made from: the tables as they are under the locks, and the disk.
pub struct Inputs<'a> {
    /// layers.json
    pub layers: &'a Layers,
    /// images.json
    pub images: &'a Images,
    /// What stands on disk under the wanted ids.
    pub disk: &'a DiskFacts,
    /// 1 + the highest sequence number of the pending segments.
    pub seq: u64,
    /// The wanted layers, parents before children, each once.
    pub wanted_layers: &'a [WantedLayer],
    /// The wanted images.
    pub wanted_images: &'a [WantedImage],
}

/// What stands on disk.
#[derive(Debug, Default)]
pub struct DiskFacts {
    /// Under `overlay/`.
    pub layers: HashMap<LayerId, Facts>,
    /// Under `overlay-images/`.
    pub images: HashMap<ImageId, ImageFacts>,
}

/// What stands in an image's data directory.
#[derive(Debug, Default)]
pub struct ImageFacts {
    /// Whether there is one.
    pub exists: bool,
    /// The digests of those of its files that the transaction would write.
    pub files: HashMap<String, Digest>,
}

/// A plan, or what must be done before there can be one.
pub enum Built {
    /// Ready to be journaled.
    Ready(Box<Ready>),
    /// These layers appeared since they were looked at: verify them, sync, plan again.
    Verify(BTreeSet<LayerId>),
    /// These layers were to be reused and are gone: fetch them, plan again.
    Need(BTreeSet<LayerId>),
}

/// A plan with the tables as they will be.
pub struct Ready {
    /// What goes into the journal.
    pub intent: Intent,
    /// The new layers.json, if it changes.
    pub layers_json: Option<Vec<u8>>,
    /// The new images.json, if it changes.
    pub images_json: Option<Vec<u8>>,
    /// Staged layers whose parents got another LINKID than assumed.
    pub rewrites: Vec<(LayerId, Ancestry)>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PlanError {
    #[error("layer {id} is in the store with contents {seen}, the image wants {want}; run fsck on the store")]
    OtherDiff { id: LayerId, seen: String, want: Digest },
    #[error("image {id} is in the store with top layer {seen}, the pulled one has {want}; remove the image there first")]
    OtherTop { id: ImageId, seen: String, want: String },
    #[error("layer {id} is needed by an image of the transaction but not part of it; this is a bug in cstor-rs")]
    Unplanned { id: LayerId },
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
    let mut steps = Vec::new();
    let mut puts = Vec::new();
    let mut layers = None;
    let mut images = inputs.images.clone();
    steps.extend(chains.displace);
    let mut exchanges = Vec::new();
    let mut placements = Vec::new();
    for wanted in inputs.wanted_images {
        puts.push(image_put(inputs, wanted, &chains.links)?);
        data_steps(inputs, wanted, &mut steps, &mut placements, &mut exchanges);
    }
    steps.extend(chains.place);
    steps.extend(placements);
    put_images(&mut images, &puts)?;
    let images_json = images.encode();
    let images_json = (images_json != inputs.images.encode()).then_some(images_json);
    if steps.is_empty() && exchanges.is_empty() && chains.inserts.is_empty() && images_json.is_none() {
        // Nothing to do: not even a barrier.
        let intent = Intent { seq: inputs.seq, layers: vec![], images: vec![], steps: vec![] };
        return Ok(Built::Ready(Box::new(Ready { intent, layers_json: None, images_json: None, rewrites: vec![] })));
    }
    if !steps.is_empty() {
        steps.push(Step::barrier(&steps));
    }
    if !chains.inserts.is_empty() {
        let mut table = inputs.layers.clone();
        for put in &chains.inserts {
            table.remove(&put.id);
            table.insert(Layer::from_json(&put.record)?)?;
        }
        layers = Some(table.encode());
        steps.push(Step::Switch(Table::Layers));
        steps.push(Step::barrier(&[Step::Switch(Table::Layers)]));
    }
    if images_json.is_some() {
        steps.push(Step::Switch(Table::Images));
        steps.push(Step::barrier(&[Step::Switch(Table::Images)]));
    }
    // The record or the documents of an image may be somebody else's, who syncs no directory.
    let there = inputs.wanted_images.iter().filter(|wanted| inputs.images.get(&wanted.id).is_some());
    let places: Vec<Place> = there.map(|wanted| Place::Image(wanted.id.clone())).collect();
    if !places.is_empty() {
        steps.push(Step::Sync(places.into_iter().chain([Place::Images]).collect()));
    }
    if !exchanges.is_empty() {
        let barrier = Step::barrier(&exchanges);
        steps.extend(exchanges);
        steps.push(barrier);
    }
    let intent = Intent { seq: inputs.seq, layers: chains.inserts, images: puts, steps };
    Ok(Built::Ready(Box::new(Ready { intent, layers_json: layers, images_json, rewrites: chains.rewrites })))
}

/// What becomes of the layers.
#[derive(Default)]
struct Chains {
    links: HashMap<LayerId, LinkId>,
    inserts: Vec<LayerPut>,
    displace: Vec<Step>,
    place: Vec<Step>,
    rewrites: Vec<(LayerId, Ancestry)>,
}

fn place_layers(inputs: &Inputs<'_>) -> Result<Result<Chains, Built>, PlanError> {
    let none = Facts::default();
    let mut chains = Chains::default();
    let mut ancestries: HashMap<LayerId, Ancestry> = HashMap::new();
    let (mut verify, mut need) = (BTreeSet::new(), BTreeSet::new());
    for wanted in inputs.wanted_layers {
        let id = &wanted.id;
        let facts = inputs.disk.layers.get(id).unwrap_or(&none);
        let record = inputs.layers.get(id);
        if let Some(seen) = record.and_then(|r| r.diff_digest())
            && seen.known() != Some(&wanted.diff_id)
        {
            return Err(PlanError::OtherDiff { id: id.clone(), seen: seen.to_string(), want: wanted.diff_id.clone() });
        }
        let live = record.is_some_and(|r| !r.incomplete());
        let ancestry = match &wanted.parent {
            None => Ancestry::default(),
            Some(parent) => match (ancestries.get(parent), chains.links.get(parent)) {
                (Some(above), Some(link)) => above.child_of(parent.clone(), link.clone()),
                _ if verify.is_empty() && need.is_empty() => return Err(PlanError::Unplanned { id: parent.clone() }),
                _ => Ancestry::default(),
            },
        };
        let link = match &wanted.source {
            Source::Staged { .. } if live => {
                verify.insert(id.clone());
                continue;
            }
            Source::Staged { link, record, assumed, .. } => {
                if facts.exists {
                    chains.displace.push(Step::Displace { id: id.clone(), link: facts.link.clone() });
                }
                if *assumed != ancestry {
                    chains.rewrites.push((id.clone(), ancestry.clone()));
                }
                chains.inserts.push(LayerPut { id: id.clone(), link: link.clone(), record: record.clone() });
                chains.place.push(Step::PlaceLayer { id: id.clone(), link: link.clone() });
                chains.place.push(Step::Link { id: id.clone(), link: link.clone() });
                chains.place.push(Step::PlaceSplit { id: id.clone() });
                link
            }
            Source::Reused { link, .. } if !live || facts.link.as_ref() != Some(link) => {
                if live {
                    verify.insert(id.clone())
                } else {
                    need.insert(id.clone())
                };
                continue;
            }
            // Of a damaged layer `link` may be unreadable; another LINKID is another layer.
            Source::Heal { link, .. } if !live || facts.link.as_ref().is_some_and(|seen| seen != link) => {
                if live {
                    verify.insert(id.clone())
                } else {
                    need.insert(id.clone())
                };
                continue;
            }
            Source::Reused { link, sealing } => {
                if *sealing {
                    chains.place.push(Step::Seal { id: id.clone(), link: link.clone() });
                }
                link
            }
            Source::Heal { link, tree, assumed } => {
                if *assumed != ancestry {
                    chains.rewrites.push((id.clone(), ancestry.clone()));
                }
                if facts.exists {
                    chains.place.push(Step::Heal { id: id.clone(), link: link.clone(), tree: *tree });
                } else {
                    // A power cut may take the whole directory of a layer whose record is on the medium.
                    chains.place.push(Step::Restore { id: id.clone(), link: link.clone() });
                }
                if !facts.linked {
                    chains.place.push(Step::Link { id: id.clone(), link: link.clone() });
                }
                link
            }
        };
        chains.links.insert(id.clone(), link.clone());
        ancestries.insert(id.clone(), ancestry);
    }
    Ok(if !need.is_empty() {
        Err(Built::Need(need))
    } else if !verify.is_empty() {
        Err(Built::Verify(verify))
    } else {
        Ok(chains)
    })
}

fn image_put(inputs: &Inputs<'_>, wanted: &WantedImage, links: &HashMap<LayerId, LinkId>) -> Result<ImagePut, PlanError> {
    let image = Image::from_json(&wanted.record)?;
    if let Some(there) = inputs.images.get(&wanted.id)
        && there.layer_text() != image.layer_text()
    {
        let (seen, want) = (there.layer_text().to_owned(), image.layer_text().to_owned());
        return Err(PlanError::OtherTop { id: wanted.id.clone(), seen, want });
    }
    let names =
        image.names().iter().map(|name| NameClaim { from: inputs.images.by_name(name).and_then(|i| i.id().cloned()), name: name.clone() });
    let mut chain = Vec::with_capacity(wanted.chain.len());
    for id in &wanted.chain {
        let link = links.get(id).ok_or_else(|| PlanError::Unplanned { id: id.clone() })?;
        chain.push((id.clone(), link.clone()));
    }
    Ok(ImagePut { id: wanted.id.clone(), record: wanted.record.clone(), names: names.collect(), chain, data: wanted.data.clone() })
}

fn data_steps(inputs: &Inputs<'_>, wanted: &WantedImage, displace: &mut Vec<Step>, place: &mut Vec<Step>, exchange: &mut Vec<Step>) {
    let none = ImageFacts::default();
    let facts = inputs.disk.images.get(&wanted.id).unwrap_or(&none);
    let id = || wanted.id.clone();
    if inputs.images.get(&wanted.id).is_none() || !facts.exists {
        if facts.exists {
            displace.push(Step::DisplaceImage { id: id() });
        }
        place.push(Step::PlaceImage { id: id() });
        return;
    }
    for StagedData { key, file, digest, .. } in &wanted.data {
        match facts.files.get(file) {
            Some(seen) if seen == digest => {}
            Some(old) => {
                exchange.push(Step::ExchangeData {
                    image: id(),
                    key: key.clone(),
                    file: file.clone(),
                    old: old.clone(),
                    new: digest.clone(),
                });
            }
            None => place.push(Step::PlaceData { image: id(), file: file.clone() }),
        }
    }
}

/// Puts images into a table: inserted, or united with the record of the same id. By a commit over the table it was
/// planned on, by recovery over whatever the table is by then; a name is taken only from where the plan saw it.
///
/// # Errors
///
/// A record that does not parse.
pub fn put_images(images: &mut Images, puts: &[ImagePut]) -> Result<(), PlanError> {
    for put in puts {
        let record = Image::from_json(&put.record)?;
        let names: Vec<String> = put
            .names
            .iter()
            .filter(|claim| {
                let holder = images.by_name(&claim.name).and_then(|i| i.id().cloned());
                holder == claim.from || holder.as_ref() == Some(&put.id)
            })
            .map(|claim| claim.name.clone())
            .collect();
        match images.get(&put.id) {
            // Somebody made another image of this id since: it stays as it is.
            Some(there) if there.layer_text() != record.layer_text() => continue,
            _ => images.unite(&record.nameless()?)?,
        }
        if !names.is_empty() {
            images.add_names(&put.id, &names)?;
        }
    }
    Ok(())
}
