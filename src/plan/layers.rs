//! Pure: no I/O. What becomes of the layers that a transaction wants.

use std::collections::{BTreeSet, HashMap};

use super::{Built, Inputs, LayerPut, PlanError, Source, Step};
use crate::ids::{LayerId, LinkId};
use crate::overlay::{Ancestry, Facts};

/// What becomes of the layers.
#[derive(Default)]
pub(super) struct Chains {
    pub links: HashMap<LayerId, LinkId>,
    pub inserts: Vec<LayerPut>,
    pub displace: Vec<Step>,
    pub place: Vec<Step>,
    pub rewrites: Vec<(LayerId, Ancestry)>,
}

/// Where each wanted layer comes from, and the steps that make it one of the store.
pub(super) fn place_layers(inputs: &Inputs<'_>) -> Result<Result<Chains, Built>, PlanError> {
    let none = Facts::default();
    let mut chains = Chains::default();
    let mut ancestries: HashMap<LayerId, Ancestry> = HashMap::new();
    let (mut verify, mut need) = (BTreeSet::new(), BTreeSet::new());
    for wanted in inputs.wanted_layers {
        let id = &wanted.id;
        let facts = inputs.disk.layers.get(id).unwrap_or(&none);
        let record = inputs.tables.layers.get(id);
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
            Source::Heal { link, even_incomplete, .. }
                if !(live || *even_incomplete && record.is_some()) || facts.link.as_ref().is_some_and(|seen| seen != link) =>
            {
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
            Source::Heal { link, tree, assumed, .. } => {
                if *assumed != ancestry {
                    chains.rewrites.push((id.clone(), ancestry.clone()));
                }
                if facts.exists && !facts.directory {
                    // Whatever it is, it is no layer, and nothing in it is followed.
                    chains.displace.push(Step::Displace { id: id.clone(), link: None });
                }
                if facts.directory {
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
