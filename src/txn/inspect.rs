//! Whether a layer in the store may be reused: complete, and on the medium.

use rustix::io::Errno;

use crate::extract::{self, Depth};
use crate::ids::{Digest, LayerId, LinkId};
use crate::layout::{Layout, Tables, split_name};
use crate::overlay::{Ancestry, Facts, link_target};

use super::TxnError;

/// What was found under a chain id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// No record, or one that says incomplete: to be fetched.
    Absent,
    /// Sealed, and every file is there with its size.
    Sealed {
        /// Its LINKID.
        link: LinkId,
    },
    /// Unsealed (podman wrote it, perhaps before a power cut), and every byte and attribute verified.
    Verified {
        /// Its LINKID.
        link: LinkId,
    },
    /// Its contents, its tar-split or the files around them are damaged: to be fetched and exchanged.
    Damaged {
        /// Its LINKID.
        link: LinkId,
        /// What is wrong.
        why: String,
    },
    /// It can neither be reused nor mended.
    Broken {
        /// What is wrong.
        why: String,
    },
}

/// Looks at the layer with this chain id. Without a lock: the caller has the LINKID looked at again under it.
///
/// # Errors
///
/// Those of the disk; damage is a result, not an error.
pub fn inspect(layout: &Layout, tables: &Tables, id: &LayerId, diff_id: &Digest, ancestry: &Ancestry) -> Result<Inspection, TxnError> {
    inspect_to(layout, tables, id, diff_id, ancestry, Depth::Contents)
}

/// As [`inspect`], with an unsealed layer verified to this depth only.
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_to(
    layout: &Layout,
    tables: &Tables,
    id: &LayerId,
    diff_id: &Digest,
    ancestry: &Ancestry,
    unsealed: Depth,
) -> Result<Inspection, TxnError> {
    let found = look(layout, tables, id, diff_id, ancestry, unsealed);
    if is_gone(layout, id, &found)? { Ok(Inspection::Absent) } else { found }
}

/// Whether something failed because the layer was removed since the tables were read: it is then to be fetched, and the plan
/// sees by the tables of its time what there is.
pub(super) fn is_gone<T>(layout: &Layout, id: &LayerId, found: &Result<T, TxnError>) -> Result<bool, TxnError> {
    match found {
        Err(TxnError::Disk(error)) if error.not_found() => Ok(layout.overlay.meta(id.as_str())?.is_none()),
        _ => Ok(false),
    }
}

fn look(
    layout: &Layout,
    tables: &Tables,
    id: &LayerId,
    diff_id: &Digest,
    ancestry: &Ancestry,
    unsealed: Depth,
) -> Result<Inspection, TxnError> {
    let Some(record) = tables.layers.get(id) else { return Ok(Inspection::Absent) };
    if record.incomplete() {
        return Ok(Inspection::Absent);
    }
    let broken = |why: &str| Ok(Inspection::Broken { why: why.to_owned() });
    let facts = Facts::read(&layout.overlay, &layout.links, id)?;
    if facts.exists && !facts.directory {
        return broken("something that is no directory stands in its place");
    }
    // Go's programs refuse to list a store with such a record, and build on its parent and not on ours.
    match record.diff_digest() {
        None => return broken("its record in layers.json names no diff-digest"),
        Some(seen) if seen.known() != Some(diff_id) => return broken(&format!("its record in layers.json says it is {seen}")),
        Some(_) => {}
    }
    if record.diff_size() < 0 {
        return broken("its record in layers.json names no size");
    }
    if record.parent_text() != ancestry.parent().map_or("", LayerId::as_str) {
        return broken("its record in layers.json names another parent");
    }
    if record.has_id_maps() || facts.rotated {
        return broken("its files are shifted by an id mapping");
    }
    let Some(link) = facts.link.clone() else {
        let link = match find_link(layout, tables, id)? {
            Some(link) => link,
            None => LinkId::random().map_err(super::stage::random_failed)?,
        };
        return Ok(Inspection::Damaged { link, why: "its link file is missing or unreadable".to_owned() });
    };
    let damaged = |why: &str| Ok(Inspection::Damaged { link: link.clone(), why: why.to_owned() });
    if !facts.linked {
        return damaged("its entry in overlay/l is missing or wrong");
    }
    if !facts.agrees(ancestry) {
        return damaged("its lower file does not name its parents");
    }
    let Some(tree) = facts.tree else { return damaged("its diff directory is missing") };
    let split = match layout.layers.file(split_name(id)) {
        Err(error) if error.not_found() => return damaged("its tar-split is missing"),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP) => {
            return damaged("its tar-split is no file");
        }
        split => split?,
    };
    let sealed = facts.seal.is_some_and(|seal| seal.holds(diff_id, &link, &tree));
    let layer = layout.overlay.dir(id.as_str())?;
    let depth = if sealed { Depth::Structure } else { unsealed };
    let diff = layer.dir("diff")?;
    match extract::verify(&diff, &split, diff_id, depth, u64::try_from(record.diff_size()).ok())? {
        None if sealed => Ok(Inspection::Sealed { link }),
        None => Ok(Inspection::Verified { link }),
        Some(why) => damaged(&why),
    }
}

/// The LINKID of a layer by its entry in `overlay/l`, else by what its children call it: those are mounted by it.
fn find_link(layout: &Layout, tables: &Tables, id: &LayerId) -> Result<Option<LinkId>, TxnError> {
    for name in layout.links.names()? {
        let Some(link) = name.to_str().and_then(|text| text.parse::<LinkId>().ok()) else { continue };
        if layout.links.read_link(link.as_str()).is_ok_and(|text| text == link_target(id)) {
            return Ok(Some(link));
        }
    }
    for child in tables.layers.iter().chain(tables.volatile.iter()).filter(|layer| layer.parent_text() == id.as_str()) {
        let Some(child) = child.id() else { continue };
        let lower = Facts::read(&layout.overlay, &layout.links, child)?.lower.unwrap_or_default();
        // Nearest first: the parent's own.
        let first = lower.split(':').next().and_then(|first| first.strip_prefix("l/"));
        if let Some(link) = first.and_then(|text| text.parse::<LinkId>().ok())
            && layout.links.meta(link.as_str())?.is_none()
        {
            return Ok(Some(link));
        }
    }
    Ok(None)
}
