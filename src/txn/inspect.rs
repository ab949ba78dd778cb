//! Whether a layer in the store may be reused: complete, and on the medium.

use crate::extract::{self, Depth};
use crate::fsio::optional;
use crate::ids::{Digest, LayerId, LinkId};
use crate::layout::{Layout, Tables, split_name};
use crate::overlay::{Ancestry, Facts};

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
    /// The contents are damaged: to be fetched and exchanged.
    Damaged {
        /// Its LINKID.
        link: LinkId,
        /// What is wrong.
        why: String,
    },
    /// The structure around the contents is damaged.
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
    let Some(record) = tables.layers.get(id) else { return Ok(Inspection::Absent) };
    if record.incomplete() {
        return Ok(Inspection::Absent);
    }
    let broken = |why: &str| Ok(Inspection::Broken { why: why.to_owned() });
    let facts = Facts::read(&layout.overlay, &layout.links, id)?;
    if record.has_id_maps() || facts.rotated {
        return broken("its files are shifted by an id mapping");
    }
    let Some(link) = facts.link.clone() else { return broken("its link file is missing or unreadable") };
    if !facts.linked {
        return broken("its entry in overlay/l is missing or wrong");
    }
    if !facts.agrees(ancestry) {
        return broken("its lower file does not name its parents");
    }
    let Some(tree) = facts.tree else { return broken("its diff directory is missing") };
    let damaged = |why: String| Ok(Inspection::Damaged { link: link.clone(), why });
    let Some(split) = optional(layout.layers.file(split_name(id)))? else {
        return damaged("its tar-split is missing".to_owned());
    };
    let sealed = facts.seal.is_some_and(|seal| seal.holds(diff_id, &link, &tree));
    let layer = layout.overlay.dir(id.as_str())?;
    let depth = if sealed { Depth::Structure } else { Depth::Contents };
    match extract::verify(&layer.dir("diff")?, &split, diff_id, depth)? {
        None if sealed => Ok(Inspection::Sealed { link }),
        None => Ok(Inspection::Verified { link }),
        Some(why) => damaged(why),
    }
}
