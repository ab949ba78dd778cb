//! Pure: no I/O. What a transaction would do, for those who want to see it first.

use std::collections::{BTreeSet, HashMap};

use super::names::renamed;
use super::removal::removals;
use super::resolve::{Resolved, resolve};
use super::{ImageChange, Inputs, PlanError, Renamed};
use crate::ids::{ImageId, LayerId};

/// What a transaction would do to the images and layers that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// Images that it makes or unites with what is there.
    pub images: Vec<ImageId>,
    /// Names that images get and lose.
    pub renamed: Vec<Renamed>,
    /// Images that it removes.
    pub removed_images: Vec<ImageId>,
    /// Layers that it removes, children before parents.
    pub removed_layers: Vec<LayerId>,
}

/// A preview, or what must be known first.
pub enum Previewed {
    /// It.
    Ready(Preview),
    /// What stands on disk under these ids must be known.
    Look(BTreeSet<LayerId>, BTreeSet<ImageId>),
}

/// Decides as [`super::build`] does, but for where layers come from: those that are wanted need not be staged, and the wanted
/// images come without their chains.
///
/// # Errors
///
/// As [`super::build`].
pub fn preview(inputs: &Inputs<'_>) -> Result<Previewed, PlanError> {
    let Resolved { images, changes, unseen } = resolve(inputs, &HashMap::new())?;
    let removals = removals(inputs, &changes, &inputs.tables.layers, &images)?;
    if !(removals.unseen.is_empty() && unseen.is_empty()) {
        return Ok(Previewed::Look(removals.unseen, unseen));
    }
    let mut preview = Preview { renamed: renamed(&inputs.tables.images, &images, &changes), ..Preview::default() };
    for change in changes {
        match change {
            ImageChange::Put(put) => preview.images.push(put.id),
            ImageChange::Remove { id, .. } => preview.removed_images.push(id),
            _ => {}
        }
    }
    preview.removed_layers = removals.list.into_iter().map(|gone| gone.id).collect();
    Ok(Previewed::Ready(preview))
}
