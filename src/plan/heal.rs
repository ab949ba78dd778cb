//! Healing: the damaged contents of a layer are exchanged for sound ones; its record, LINKID and children stay.
//!
//! Invariants:
//! - H1: contents that a container or a mount may be reading are never exchanged, by no commit and no recovery.
//! - H2: sound contents are never exchanged back: going back ends with the layer either untouched or healed whole.

use super::act::{own_layer, place, place_split, replace_file};
use super::run::{StepError, World};
use crate::fsio::{self, Dir};
use crate::ids::{LayerId, LinkId};
use crate::overlay::{self, TreeId, is_foreign, read_link_id};

fn tree_of(dir: &Dir) -> fsio::Result<Option<TreeId>> {
    Ok(dir.meta("diff")?.map(|meta| TreeId { inode: meta.inode, birth: meta.birth }))
}

/// The directory of a layer that is to be healed: its `link` may be unreadable, another LINKID is another layer.
pub(super) fn damaged_layer(w: &World<'_>, id: &LayerId, link: &LinkId) -> fsio::Result<Option<Dir>> {
    let Some(dir) = w.layer_dir(id)? else { return Ok(None) };
    let ours = |seen: LinkId| seen == *link || is_foreign(&w.route.overlay, &w.route.links, id, &seen);
    Ok(read_link_id(&dir)?.is_none_or(ours).then_some(dir))
}

/// Exchanges the contents, if that is still to be done and may be done, and finishes what belongs to it.
pub(super) fn heal(w: &mut World<'_>, id: &LayerId, link: &LinkId, tree: &TreeId) -> Result<(), StepError> {
    if let Some(dir) = damaged_layer(w, id, link)?
        && let Some(staged) = w.staged_layer(id)?
        && tree_of(&dir)? != Some(*tree)
        && tree_of(&staged)? == Some(*tree)
    {
        if let Some(user) = w.user_of(id)? {
            tracing::warn!(layer = %id, user, "stays damaged: it is in use; stop that and try again");
            return Ok(());
        }
        match dir.meta("diff")? {
            Some(_) => staged.exchange("diff", &dir, "diff")?,
            None => staged.rename_new("diff", &dir, "diff")?,
        }
    }
    Ok(finish_healing(w, id, link, tree)?)
}

/// Gives a layer whose record outlived its directory the staged one, if it still has its record and nothing stands there.
pub(super) fn restore(w: &mut World<'_>, id: &LayerId, link: &LinkId) -> Result<(), StepError> {
    if w.has_layer(id)? && w.route.overlay.meta(id.as_str())?.is_none() {
        place(w.stage.as_ref(), id.as_str(), &w.route.overlay, id.as_str())?;
    }
    finish_restoring(w, id, link)
}

/// The tar-split of a restored layer.
pub(super) fn finish_restoring(w: &mut World<'_>, id: &LayerId, link: &LinkId) -> Result<(), StepError> {
    if w.has_layer(id)? && own_layer(w, id, link)?.is_some() {
        place_split(w, id)?;
    }
    Ok(())
}

/// What follows the contents: the tar-split, what stands around the contents, the seal. Nothing, where the contents
/// were not exchanged. The old seal need not go first: a seal names the tree it vouches for, and holds for no other.
pub(super) fn finish_healing(w: &World<'_>, id: &LayerId, link: &LinkId, tree: &TreeId) -> fsio::Result<()> {
    let Some(dir) = damaged_layer(w, id, link)? else { return Ok(()) };
    if tree_of(&dir)? != Some(*tree) {
        return Ok(());
    }
    place_split(w, id)?;
    let Some(staged) = w.staged_layer(id)? else { return Ok(()) };
    mend_structure(&staged, &dir)?;
    replace_file(&staged, overlay::SEAL, &dir, overlay::SEAL)
}

/// What stands around the contents follows from the layer's place in its chain.
fn mend_structure(staged: &Dir, dir: &Dir) -> fsio::Result<()> {
    for name in ["lower", "lower-layers", "link"] {
        replace_file(staged, name, dir, name)?;
    }
    for name in ["work", "merged", "empty"] {
        if staged.meta(name)?.is_some() && dir.meta(name)?.is_none() {
            staged.rename_new(name, dir, name)?;
        }
    }
    Ok(())
}
