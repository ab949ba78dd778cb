//! Whether a pull would change nothing.

use super::PullError;
use super::find::Found;
use crate::ids::{Digest, ImageId, LayerId};
use crate::layout::Layout;
use crate::metadata::big_data_file;
use crate::overlay::Ancestry;
use crate::read::Snapshot;
use crate::txn::{ImageSpec, Inspection, TxnError, inspect};

/// Whether the store has every image under its name, with these very documents, over sealed layers.
pub(super) fn all_there(layout: &Layout, snapshot: &Snapshot, found: &[Found]) -> Result<bool, PullError> {
    for one in found {
        let Some(image) = snapshot.image(&one.id) else { return Ok(false) };
        let named = one.spec.names.iter().all(|name| snapshot.image_by_name(name).is_some_and(|holder| holder.id() == Some(&one.id)));
        if !named || !documents_there(layout, &one.id, &one.spec)? {
            return Ok(false);
        }
        let (mut parent, mut ancestry) = (None::<LayerId>, Ancestry::default());
        for diff_id in &one.spec.diff_ids {
            let id = LayerId::chain(parent.as_ref(), diff_id);
            let record = snapshot.layer(&id);
            // Only a sealed layer: everything else needs a transaction that verifies and syncs.
            if record.is_none() || !sealed(layout, snapshot, &id, diff_id, &ancestry, &mut parent)? {
                return Ok(false);
            }
            if let Some(link) = link_of(layout, &id)? {
                ancestry = ancestry.child_of(id, link);
            }
        }
        if image.layer_text() != parent.as_ref().map_or("", LayerId::as_str) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn link_of(layout: &Layout, id: &LayerId) -> Result<Option<crate::ids::LinkId>, PullError> {
    let read = || crate::overlay::read_link_id(&layout.overlay.dir(id.as_str())?);
    read().map_err(|error| TxnError::from(error).into())
}

fn sealed(
    layout: &Layout,
    snapshot: &Snapshot,
    id: &LayerId,
    diff_id: &Digest,
    ancestry: &Ancestry,
    parent: &mut Option<LayerId>,
) -> Result<bool, PullError> {
    *parent = Some(id.clone());
    let facts = crate::overlay::Facts::read(&layout.overlay, &layout.links, id).map_err(TxnError::from)?;
    if facts.seal.is_none_or(|seal| seal.diff_id != *diff_id) {
        return Ok(false);
    }
    Ok(matches!(inspect(layout, snapshot.tables(), id, diff_id, ancestry)?, Inspection::Sealed { .. }))
}

fn documents_there(layout: &Layout, id: &ImageId, spec: &ImageSpec) -> Result<bool, PullError> {
    let mut want = vec![(Digest::of(&spec.config).to_string(), &spec.config), ("manifest".to_owned(), &spec.manifest)];
    want.push((format!("manifest-{}", Digest::of(&spec.manifest)), &spec.manifest));
    if let Some(index) = &spec.index {
        want.push((format!("manifest-{}", Digest::of(index)), index));
    }
    let disk = |error: crate::fsio::Error| PullError::from(TxnError::from(error));
    let Some(dir) = crate::fsio::optional(layout.images.dir(id.as_str())).map_err(disk)? else { return Ok(false) };
    for (key, bytes) in want {
        let file = big_data_file(&key).map_err(TxnError::from)?;
        match crate::fsio::optional(dir.read(&file, 64 << 20)).map_err(disk)? {
            Some(seen) if seen == *bytes => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}
