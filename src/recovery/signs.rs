//! What there is of a dead transaction, read from the disk.

use super::RecoveryError;
use super::decide::Signs;
use crate::fsio::{self, Dir, optional};
use crate::ids::{Digest, ImageId};
use crate::layout::side_stage_name;
use crate::overlay::read_link_id;
use crate::plan::{ImageChange, StagedData, Step, Table, World};

/// The largest item of big data that is read, in bytes.
const DATA_LIMIT: u64 = 64 << 20;

/// Reads the markers; between the two tables also what the images need.
///
/// # Errors
///
/// Those of the disk; an unreadable table.
pub(super) fn read_signs(world: &mut World<'_>) -> Result<Signs, RecoveryError> {
    let intent = world.intent;
    let mut signs = Signs {
        layers_marker: Table::Layers.waits(world.layout, world.txn)?,
        images_marker: Table::Images.waits(world.layout, world.txn)?,
        remaining_marker: Table::RemainingLayers.waits(world.layout, world.txn)?,
        chains_complete: true,
        data_present: true,
    };
    if !signs.images_marker || signs.layers_marker {
        // Only an intent between its two renames asks what is still there.
        return Ok(signs);
    }
    let side = optional(world.layout.images.dir(side_stage_name(world.txn)))?;
    for put in intent.puts() {
        for (id, link) in &put.chain {
            let live = world.layers()?.get(id).is_some_and(|record| !record.incomplete());
            let same = match world.layer_dir(id)? {
                Some(dir) => read_link_id(&dir)?.as_ref() == Some(link),
                None => false,
            };
            signs.chains_complete &= live && same;
        }
    }
    for change in &intent.images {
        // An image that is gone gets no documents.
        let comes = matches!(change, ImageChange::Put(_)) || world.images()?.get(change.id()).is_some();
        if comes && !change.data().is_empty() {
            signs.data_present &= data_present(world, change.id(), &change.data(), side.as_ref())?;
        }
    }
    Ok(signs)
}

/// Whether every document that the image's record will name stands in its place, or in staging with a step that takes
/// it there. Asked of the bytes: podman may have removed the image since, or pulled it again by another manifest.
fn data_present(world: &World<'_>, image: &ImageId, data: &[&StagedData], side: Option<&Dir>) -> Result<bool, RecoveryError> {
    let staged = match side {
        Some(side) => optional(side.dir(image.as_str()))?,
        None => None,
    };
    let placed = optional(world.layout.images.dir(image.as_str()))?;
    for item in data {
        let waiting = || Ok::<_, RecoveryError>(digest(staged.as_ref(), &item.file)?.as_ref() == Some(&item.digest));
        let there = match &placed {
            // The whole directory is still to be placed, or somebody removed what was there.
            None => world.intent.steps.contains(&Step::PlaceImage { id: image.clone() }) && waiting()?,
            Some(placed) => {
                let seen = digest(Some(placed), &item.file)?;
                let comes = world.intent.steps.iter().any(|step| match step {
                    Step::PlaceData { image: of, file } => of == image && *file == item.file && seen.is_none(),
                    Step::ExchangeData { image: of, file, old, .. } => of == image && *file == item.file && seen.as_ref() == Some(old),
                    _ => false,
                });
                seen.as_ref() == Some(&item.digest) || (comes && waiting()?)
            }
        };
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The digest of a file; `None` where there is no regular file of a believable length.
fn digest(dir: Option<&Dir>, file: &str) -> fsio::Result<Option<Digest>> {
    let Some(dir) = dir else { return Ok(None) };
    match dir.read(file, DATA_LIMIT) {
        Ok(bytes) => Ok(Some(Digest::of(&bytes))),
        Err(error) if error.not_found() || error.kind() == std::io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}
