//! What removals leave: moved out of the way once no record names it.
//!
//! Invariant B1: what got a record again, or another LINKID, is somebody else's and is not touched.

use super::run::{StepError, World};
use crate::fsio::{self, Dir, Kind, optional};
use crate::ids::{ImageId, LayerId, LinkId};
use crate::layout::split_name;
use crate::overlay::{link_target, read_link_id};

/// Moves a name into a directory of this transaction, under a name that is free there.
fn move_away(from: &Dir, name: &str, to: &Dir) -> fsio::Result<()> {
    if from.meta(name)?.is_none() {
        return Ok(());
    }
    let mut free = format!("{name}.dead");
    while to.meta(&free)?.is_some() {
        free.push('+');
    }
    from.rename_new(name, to, &free)
}

pub(super) fn bury_layer(w: &mut World<'_>, id: &LayerId, link: Option<&LinkId>) -> Result<(), StepError> {
    // A commit has just taken the record out, under these locks.
    if !w.fresh && w.has_layer(id)? {
        return Ok(());
    }
    let stands = w.route.overlay.meta(id.as_str())?;
    if let Some(meta) = &stands {
        let seen = if meta.kind == Kind::Dir { read_link_id(&w.route.overlay.dir(id.as_str())?)? } else { None };
        // Half deleted by a GC, `link` may be gone.
        if seen.is_some() && seen.as_ref() != link {
            return Ok(());
        }
    }
    if let Some(link) = link
        && w.route.links.read_link(link.as_str()).is_ok_and(|text| text == link_target(id))
    {
        w.route.links.unlink(link.as_str())?;
    }
    if stands.is_some() {
        w.to_trash(&w.route.overlay.clone(), id.as_str())?;
    }
    let side = w.ensure_layer_side()?;
    move_away(&w.layout.layers, &split_name(id), &side)?;
    Ok(move_away(&w.layout.layers, id.as_str(), &side)?)
}

pub(super) fn bury_image(w: &mut World<'_>, id: &ImageId) -> Result<(), StepError> {
    if !w.fresh && w.has_image(id)? {
        return Ok(());
    }
    let side = w.ensure_image_side()?;
    Ok(move_away(&w.layout.images, id.as_str(), &side)?)
}

pub(super) fn bury_data(w: &mut World<'_>, image: &ImageId, file: &str) -> Result<(), StepError> {
    if !w.fresh && w.lists_data(image, file)? {
        return Ok(());
    }
    if let Some(dir) = optional(w.layout.images.dir(image.as_str()))?
        && dir.meta(file)?.is_some()
    {
        dir.unlink(file)?;
    }
    Ok(())
}
