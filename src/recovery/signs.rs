//! What there is of a dead transaction, read from the disk.

use super::RecoveryError;
use super::decide::Signs;
use crate::fsio::{self, Dir, optional};
use crate::ids::Digest;
use crate::layout::{IMAGES_JSON, LAYERS_JSON, marker_name, side_stage_name};
use crate::overlay::read_link_id;
use crate::plan::{ImagePut, StagedData, Step, World};

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
        layers_marker: world.layout.layers.meta(marker_name(LAYERS_JSON, world.txn))?.is_some(),
        images_marker: world.layout.images.meta(marker_name(IMAGES_JSON, world.txn))?.is_some(),
        chains_complete: true,
        data_present: true,
    };
    if !signs.images_marker || signs.layers_marker {
        // Only an intent between its two renames asks what is still there.
        return Ok(signs);
    }
    let side = optional(world.layout.images.dir(side_stage_name(world.txn)))?;
    for put in &intent.images {
        for (id, link) in &put.chain {
            let live = world.layers()?.get(id).is_some_and(|record| !record.incomplete());
            let same = match world.layer_dir(id)? {
                Some(dir) => read_link_id(&dir)?.as_ref() == Some(link),
                None => false,
            };
            signs.chains_complete &= live && same;
        }
        signs.data_present &= data_present(world, put, side.as_ref())?;
    }
    Ok(signs)
}

/// Whether every document that the image's record will name stands in its place, or in staging with a step that takes
/// it there. Asked of the bytes: podman may have removed the image since, or pulled it again by another manifest.
fn data_present(world: &World<'_>, put: &ImagePut, side: Option<&Dir>) -> Result<bool, RecoveryError> {
    let staged = match side {
        Some(side) => optional(side.dir(put.id.as_str()))?,
        None => None,
    };
    let placed = optional(world.layout.images.dir(put.id.as_str()))?;
    let Some(placed) = placed else {
        // The whole directory is still to be placed, or somebody removed what was there.
        let whole = world.intent.steps.contains(&Step::PlaceImage { id: put.id.clone() });
        return Ok(whole && all(put, |item| Ok(digest(staged.as_ref(), &item.file)?.as_ref() == Some(&item.digest)))?);
    };
    all(put, |item| {
        let seen = digest(Some(&placed), &item.file)?;
        if seen.as_ref() == Some(&item.digest) {
            return Ok(true);
        }
        let comes = world.intent.steps.iter().any(|step| match step {
            Step::PlaceData { image, file } => *image == put.id && *file == item.file && seen.is_none(),
            Step::ExchangeData { image, file, old, .. } => *image == put.id && *file == item.file && seen.as_ref() == Some(old),
            _ => false,
        });
        Ok(comes && digest(staged.as_ref(), &item.file)?.as_ref() == Some(&item.digest))
    })
}

fn all(put: &ImagePut, test: impl Fn(&StagedData) -> Result<bool, RecoveryError>) -> Result<bool, RecoveryError> {
    for item in &put.data {
        if !test(item)? {
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
