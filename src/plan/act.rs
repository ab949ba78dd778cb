//! What single steps do to the disk.

use super::run::{StepError, World};
use crate::fsio::{self, Dir, optional};
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::split_name;
use crate::overlay::{self, is_foreign, link_target, read_link_id};

/// Renames a staged name to its place; missing in staging means done.
pub(super) fn place(from: Option<&Dir>, name: &str, to: &Dir, to_name: &str) -> fsio::Result<()> {
    match from {
        Some(from) if from.meta(name)?.is_some() => from.rename_new(name, to, to_name),
        _ => Ok(()),
    }
}

/// Renames a staged tar-split to its place, over whatever has its name.
pub(super) fn place_split(w: &World<'_>, id: &LayerId) -> fsio::Result<()> {
    let name = split_name(id);
    match &w.layer_side {
        Some(side) => replace_file(side, &name, &w.layout.layers, &name),
        None => Ok(()),
    }
}

/// A staged file takes the place of what has its name, if it is still in staging; a directory that stands there goes to
/// staging.
pub(super) fn replace_file(staged: &Dir, name: &str, dir: &Dir, to: &str) -> fsio::Result<()> {
    if staged.meta(name)?.is_none() {
        return Ok(());
    }
    if dir.meta(to)?.is_some_and(|meta| meta.kind == fsio::Kind::Dir) {
        dir.rename_new(to, staged, format!("{name}.damaged"))?;
    }
    staged.rename(name, dir, to)
}

pub(super) fn displace(w: &mut World<'_>, id: &LayerId, link: Option<&LinkId>) -> fsio::Result<()> {
    // Done already, or ours stands there: only the tree that plan saw may go.
    let staged = match &w.stage {
        Some(stage) => stage.meta(id.as_str())?.is_some(),
        None => false,
    };
    if !staged {
        return Ok(());
    }
    if let Some(link) = link
        && w.route.links.read_link(link.as_str()).is_ok_and(|text| text == link_target(id))
    {
        w.route.links.unlink(link.as_str())?;
    }
    if w.route.overlay.meta(id.as_str())?.is_some() {
        w.to_trash(&w.route.overlay.clone(), id.as_str())?;
    }
    Ok(())
}

pub(super) fn displace_image(w: &mut World<'_>, id: &ImageId) -> fsio::Result<()> {
    if let Some(side) = &w.image_side
        && side.meta(id.as_str())?.is_some()
        && w.layout.images.meta(id.as_str())?.is_some()
    {
        w.layout.images.rename_new(id.as_str(), side, format!("{id}.old"))?;
    }
    Ok(())
}

pub(super) fn make_link(w: &mut World<'_>, id: &LayerId, link: &LinkId) -> fsio::Result<()> {
    if own_layer(w, id, link)?.is_none() {
        return Ok(());
    }
    if w.route.links.meta(link.as_str())?.is_some() {
        if w.route.links.read_link(link.as_str()).is_ok_and(|text| text == link_target(id)) {
            return Ok(());
        }
        // A LINKID is the layer's own: what has its name and leads elsewhere is damage, unless it leads to another layer that
        // has the same LINKID. That one was there first, and this layer is found damaged again.
        if is_foreign(&w.route.overlay, &w.route.links, id, link) {
            return Ok(());
        }
        if w.route.links.meta(link.as_str())?.is_some_and(|meta| meta.kind == fsio::Kind::Dir) {
            w.to_trash(&w.route.links.clone(), link.as_str())?;
        } else {
            w.route.links.unlink(link.as_str())?;
        }
    }
    w.route.links.symlink(link_target(id), link.as_str())
}

/// The directory of a layer, if it still is the one with this LINKID.
pub(super) fn own_layer(w: &World<'_>, id: &LayerId, link: &LinkId) -> fsio::Result<Option<Dir>> {
    let Some(dir) = w.layer_dir(id)? else { return Ok(None) };
    Ok((read_link_id(&dir)?.as_ref() == Some(link)).then_some(dir))
}

/// The name of a seal in staging that waits for a layer of somebody else.
pub fn seal_stage(id: &LayerId) -> String {
    format!("{id}.seal")
}

pub(super) fn seal(w: &mut World<'_>, id: &LayerId, link: &LinkId) -> fsio::Result<()> {
    match (own_layer(w, id, link)?, &w.stage) {
        (Some(dir), Some(stage)) => replace_file(stage, &seal_stage(id), &dir, overlay::SEAL),
        _ => Ok(()),
    }
}

pub(super) fn exchange_data(
    w: &mut World<'_>,
    image: &ImageId,
    key: &str,
    file: &str,
    old: &Digest,
    new: &Digest,
) -> Result<(), StepError> {
    // The record must still be the one our images.json gave: podman may have pulled again since.
    if w.data_digest(image, key)?.as_deref() != Some(new.as_str()) {
        return Ok(());
    }
    let (Some(dir), Some(side)) = (optional(w.layout.images.dir(image.as_str()))?, w.image_stage(image)?) else { return Ok(()) };
    let is = |dir: &Dir, want: &Digest| -> fsio::Result<bool> {
        Ok(optional(dir.read(file, 64 << 20))?.is_some_and(|b| Digest::of(&b) == *want))
    };
    if is(&dir, old)? && is(&side, new)? {
        side.exchange(file, &dir, file)?;
    }
    Ok(())
}
