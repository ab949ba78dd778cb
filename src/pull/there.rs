//! Whether a pull would change nothing.

use super::PullError;
use super::find::Found;
use crate::ids::{Digest, ImageId, LayerId};
use crate::layout::Layout;
use crate::metadata::{Images, big_data_file};
use crate::overlay::Ancestry;
use crate::plan::{AsPlanned, ImageChange, ImagePut, NameClaim, PlanError, edit};
use crate::read::Snapshot;
use crate::txn::{ImageSpec, Inspection, TxnError, inspect};

/// Whether the store has every image under its name, with these very records and documents, over sealed layers.
pub(super) fn all_there(layout: &Layout, snapshot: &Snapshot, found: &[Found]) -> Result<bool, PullError> {
    if !records_there(&snapshot.tables().images, found)? {
        return Ok(false);
    }
    for one in found {
        let Some(image) = snapshot.image(&one.id) else { return Ok(false) };
        if !documents_there(layout, &one.id, &one.spec)? {
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

/// Whether images.json would stay as it is, byte for byte, if the transaction put its records into it.
fn records_there(images: &Images, found: &[Found]) -> Result<bool, PullError> {
    let mut wanted = Images::default();
    for one in found {
        wanted.unite(&one.spec.record()?).map_err(TxnError::from)?;
    }
    let claim = |name: &String| NameClaim { from: images.by_name(name).and_then(|holder| holder.id().cloned()), name: name.clone() };
    let puts: Vec<ImageChange> = wanted
        .iter()
        .filter_map(|image| {
            let names = image.names().iter().map(claim).collect();
            Some(ImageChange::Put(ImagePut {
                id: image.id()?.clone(),
                record: image.json().to_owned(),
                names,
                chain: vec![],
                data: vec![],
                seen: None,
            }))
        })
        .collect();
    let mut after = images.clone();
    match edit(&mut after, &puts, &AsPlanned) {
        Ok(()) => Ok(after.encode() == images.encode()),
        // A record that cannot be edited is for the transaction to judge.
        Err(PlanError::Edit(_)) => Ok(false),
        Err(error) => Err(TxnError::from(error).into()),
    }
}

fn documents_there(layout: &Layout, id: &ImageId, spec: &ImageSpec) -> Result<bool, PullError> {
    let disk = |error: crate::fsio::Error| PullError::from(TxnError::from(error));
    let Some(dir) = crate::fsio::optional(layout.images.dir(id.as_str())).map_err(disk)? else { return Ok(false) };
    for (key, bytes) in spec.documents() {
        let file = big_data_file(&key).map_err(TxnError::from)?;
        match crate::fsio::optional(dir.read(&file, 64 << 20)).map_err(disk)? {
            Some(seen) if seen == bytes => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}
