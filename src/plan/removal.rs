//! Pure: no I/O. Which layers go.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::holder::{Holder, Needs, chains_of};
use super::{Change, ImageChange, Inputs, LayerRemoval, PlanError};
use crate::ids::LayerId;
use crate::layout::{User, Users};
use crate::metadata::{Images, Layer, Layers};

/// The layers that go.
pub(super) struct Removals {
    /// Children before parents.
    pub list: Vec<LayerRemoval>,
    /// Of these it must be known first what stands on disk; and, if that is not known yet, who uses the store.
    pub unseen: BTreeSet<LayerId>,
}

/// Those that were called by their ids; of the images that go those that nothing else needs; for a prune all that nothing
/// needs. `layers` and `images` are the tables as they will be.
///
/// # Errors
///
/// A layer that was called by its id and is needed, one of an image that is mounted.
pub(super) fn removals(inputs: &Inputs<'_>, changes: &[ImageChange], layers: &Layers, images: &Images) -> Result<Removals, PlanError> {
    let tables = inputs.tables;
    let removed = changes.iter().filter_map(|change| match change {
        ImageChange::Remove { id, .. } => tables.images.get(id),
        _ => None,
    });
    let mut candidates = chains_of(&tables.layers, removed);
    let (mut explicit, mut prunes) = (HashSet::new(), false);
    for change in inputs.changes {
        match change {
            Change::RemoveLayer(id) if layers.get(id).is_none() => return Err(PlanError::UnknownLayer { id: id.clone() }),
            Change::RemoveLayer(id) => {
                explicit.insert(id);
                candidates.push(id.clone());
            }
            Change::Prune(prune) => {
                prunes = true;
                // A layer with a name is somebody's; an incomplete one is podman's to remove.
                let loose = |layer: &&Layer| layer.names().is_empty() && !layer.incomplete();
                let old = |layer: &&Layer| layer.created_at().is_some_and(|time| prune.is_over(time, prune.layer_age));
                candidates.extend(layers.iter().filter(loose).filter(old).filter_map(|layer| layer.id().cloned()));
            }
            _ => {}
        }
    }
    if candidates.is_empty() {
        return Ok(Removals { list: Vec::new(), unseen: BTreeSet::new() });
    }
    // Until the users are known nobody uses anything: everything that goes is looked at first, and then they are.
    let nobody = Users::default();
    let needs = Needs::of(layers, images, tables, inputs.disk.users.as_ref().unwrap_or(&nobody))
        .wanting(inputs.wanted_layers.iter().map(|wanted| &wanted.id));
    let (gone, kept) = needs.sift(layers, &candidates);
    refuse(kept, &explicit, prunes)?;
    let is_known = |id: &&LayerId| inputs.disk.users.is_some() && inputs.disk.layers.contains_key(*id);
    let unseen: BTreeSet<LayerId> = gone.iter().filter(|id| !is_known(id)).cloned().collect();
    let link = |id: &LayerId| inputs.disk.layers.get(id).and_then(|facts| facts.link.clone());
    Ok(Removals { list: gone.into_iter().map(|id| LayerRemoval { link: link(&id), id }).collect(), unseen })
}

/// What an image leaves behind because others need it stays without a word; what is mounted would go if nobody looked.
fn refuse(kept: HashMap<LayerId, Holder>, explicit: &HashSet<&LayerId>, prunes: bool) -> Result<(), PlanError> {
    for (id, holder) in kept {
        if explicit.contains(&id) && holder == Holder::Transaction {
            return Err(PlanError::Contradiction { what: format!("layer {id}") });
        }
        if explicit.contains(&id) || (!prunes && matches!(holder, Holder::User(User::Mount { .. }))) {
            return Err(PlanError::LayerInUse { id, holder });
        }
    }
    Ok(())
}
