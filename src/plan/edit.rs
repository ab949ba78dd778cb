//! Pure: no I/O. Changes of images.json: what a caller wants becomes a change with all that it was based on; such a change
//! becomes an edit, of the table it was planned on by a commit, of whatever the table is by then by recovery.
//!
//! Invariants:
//! - E1: over the table it was planned on, a change does what was planned; over another one it touches nothing that
//!   somebody else changed since.
//! - E2: a commit and recovery edit by the same code.

use super::holder::Holder;
use super::{Change, DataPut, DiskFacts, ImageChange, ImagePut, NameClaim, PlanError, SeveralNames, StagedData};
use crate::ids::ImageId;
use crate::metadata::{BigData, FoundImage, Image, Images};
use crate::overlay::TreeId;

/// What an edit needs to know of the world outside images.json.
pub trait Around {
    /// Whether a container was made from the image.
    fn is_used(&self, id: &ImageId) -> bool;
    /// Whether the image's data directory is this very tree.
    fn is_tree(&self, id: &ImageId, tree: Option<&TreeId>) -> bool;
}

/// The world as the plan saw it.
pub struct AsPlanned;

impl Around for AsPlanned {
    fn is_used(&self, _: &ImageId) -> bool {
        false
    }

    fn is_tree(&self, _: &ImageId, _: Option<&TreeId>) -> bool {
        true
    }
}

/// Edits a table.
///
/// # Errors
///
/// A record that does not parse.
pub fn edit(images: &mut Images, changes: &[ImageChange], around: &impl Around) -> Result<(), PlanError> {
    changes.iter().try_for_each(|change| edit_one(images, change, around))
}

fn edit_one(images: &mut Images, change: &ImageChange, around: &impl Around) -> Result<(), PlanError> {
    if let ImageChange::Put(put) = change {
        return put_image(images, put);
    }
    // Removed since: there is nothing to change.
    let Some(image) = images.get(change.id()) else { return Ok(()) };
    match change {
        ImageChange::Put(_) => {}
        ImageChange::Names { id, take, drop } => {
            let mut names = free_claims(images, id, take);
            names.extend(image.names().iter().filter(|name| !drop.contains(name)).cloned());
            let (seen, mut set) = (image.names().to_vec(), std::collections::HashSet::new());
            names.retain(|name| set.insert(name.clone()));
            if names != seen || !take.is_empty() {
                images.set_names(id, &names)?;
            }
        }
        ImageChange::Data { id, items } => {
            let current = |key: &str| image.big_data_digests().get(key).map(ToString::to_string);
            let still = items.iter().filter(|put| current(&put.item.key) == put.seen);
            let puts: Vec<BigData> = still.map(|put| BigData::new(&put.item.key, put.item.size, &put.item.digest)).collect();
            for put in puts {
                images.set_big_data(id, put)?;
            }
        }
        ImageChange::DropData { id, key, seen } => {
            if image.big_data_digests().get(key).map(ToString::to_string) == *seen {
                images.drop_big_data(id, key)?;
            }
        }
        ImageChange::Metadata { id, seen, text } => {
            if image.metadata() == seen {
                images.set_metadata(id, text)?;
            }
        }
        ImageChange::Remove { id, names, tree } => {
            let as_seen = image.names().iter().all(|name| names.contains(name));
            if as_seen && !around.is_used(id) && around.is_tree(id, tree.as_ref()) {
                images.remove(id);
            } else if around.is_tree(id, tree.as_ref()) && image.names().iter().any(|name| names.contains(name)) {
                images.remove_names(id, names)?;
            }
        }
    }
    Ok(())
}

/// The claimed names that are still where the plan saw them.
fn free_claims(images: &Images, id: &ImageId, claims: &[NameClaim]) -> Vec<String> {
    let free = |claim: &&NameClaim| {
        let holder = images.by_name(&claim.name).and_then(|image| image.id().cloned());
        holder == claim.from || holder.as_ref() == Some(id)
    };
    claims.iter().filter(free).map(|claim| claim.name.clone()).collect()
}

fn put_image(images: &mut Images, put: &ImagePut) -> Result<(), PlanError> {
    let record = Image::from_json(&put.record)?;
    let names = free_claims(images, &put.id, &put.names);
    let there = images.get(&put.id);
    // Somebody made another image of this id since: it stays as it is.
    if there.is_some_and(|there| there.layer_text() != record.layer_text()) {
        return Ok(());
    }
    let theirs = there.map(|there| there.metadata().to_owned()).filter(|now| put.seen.as_ref().is_some_and(|seen| seen != now));
    images.unite(&record.nameless()?)?;
    if let Some(theirs) = theirs {
        images.set_metadata(&put.id, &theirs)?;
    }
    if !names.is_empty() {
        images.add_names(&put.id, &names)?;
    }
    Ok(())
}

/// Where each of these names is taken from.
pub(super) fn claims(images: &Images, names: &[String]) -> Vec<NameClaim> {
    let claim = |name: &String| NameClaim { from: images.by_name(name).and_then(|image| image.id().cloned()), name: name.clone() };
    names.iter().map(claim).collect()
}

/// What a change of names or metadata means for this table. `None` for one that needs more than images.json.
///
/// # Errors
///
/// An image that is not known, a name it does not have, metadata that is no JSON.
pub fn resolve_light(images: &Images, change: &Change) -> Result<Option<ImageChange>, PlanError> {
    Ok(Some(match change {
        Change::Put { .. }
        | Change::SetData { .. }
        | Change::DropData { .. }
        | Change::RemoveLayer(_)
        | Change::Prune(_)
        | Change::Mend(_) => {
            return Ok(None);
        }
        Change::Tag { image, names } => ImageChange::Names { id: images.find(image)?.id, take: claims(images, names), drop: vec![] },
        Change::Untag { image, names } => {
            let id = images.find(image)?.id;
            let has = images.get(&id).map(Image::names).unwrap_or_default();
            if let Some(name) = names.iter().find(|name| !has.contains(name)) {
                return Err(PlanError::NotNamed { id, name: name.clone() });
            }
            ImageChange::Names { take: vec![], drop: if names.is_empty() { has.to_vec() } else { names.clone() }, id }
        }
        Change::SetNames { image, names } => {
            let id = images.find(image)?.id;
            let has = images.get(&id).map(Image::names).unwrap_or_default();
            let drop = has.iter().filter(|name| !names.contains(name)).cloned().collect();
            ImageChange::Names { take: claims(images, names), drop, id }
        }
        Change::SetMetadata { image, text } => {
            let id = images.find(image)?.id;
            // Text that is no JSON keeps podman from listing any image.
            if !text.is_empty()
                && let Err(source) = serde_json::from_str::<serde::de::IgnoredAny>(text)
            {
                return Err(PlanError::Metadata { id, source });
            }
            let seen = images.get(&id).map(|image| image.metadata().to_owned()).unwrap_or_default();
            ImageChange::Metadata { id, seen, text: text.clone() }
        }
        Change::RemoveImage { image, names } => {
            let FoundImage { id, name } = images.find(image)?;
            let has = images.get(&id).map(Image::names).unwrap_or_default();
            match (has.len(), name, names) {
                (0 | 1, ..) | (_, _, SeveralNames::Remove) | (_, None, SeveralNames::Untag) => return Ok(None),
                (_, Some(name), _) => ImageChange::Names { id, take: vec![], drop: vec![name] },
                (_, None, SeveralNames::Keep) => return Err(PlanError::SeveralNames { names: has.to_vec(), id }),
            }
        }
    }))
}

/// What the other changes of images mean.
///
/// # Errors
///
/// An image that is not known or in use, a document that every image needs.
pub(super) fn resolve_heavy(disk: &DiskFacts, images: &Images, change: &Change) -> Result<Option<ImageChange>, PlanError> {
    let known = |id: &ImageId| images.get(id).ok_or_else(|| PlanError::Edit(unknown(id)));
    let seen = |image: &Image, key: &str| image.big_data_digests().get(key).map(ToString::to_string);
    Ok(Some(match change {
        Change::SetData { image, items } => {
            let record = known(image)?;
            let put = |item: &StagedData| DataPut { seen: seen(record, &item.key), item: item.clone() };
            ImageChange::Data { id: image.clone(), items: items.iter().map(put).collect() }
        }
        Change::DropData { image, key } => {
            let record = known(image)?;
            if !record.big_data_names().contains(key) {
                return Err(PlanError::NoData { id: image.clone(), key: key.clone() });
            }
            if key == "manifest" || key.strip_prefix("sha256:") == Some(image.as_str()) {
                return Err(PlanError::NeededData { id: image.clone(), key: key.clone() });
            }
            ImageChange::DropData { id: image.clone(), key: key.clone(), seen: seen(record, key) }
        }
        Change::RemoveImage { image, .. } => {
            let id = images.find(image)?.id;
            if let Some(user) = disk.users.as_ref().and_then(|users| users.of_image(&id).next()) {
                return Err(PlanError::ImageInUse { holder: Holder::User(user.clone()), id });
            }
            let names = known(&id)?.names().to_vec();
            let tree = disk.images.get(&id).and_then(|facts| facts.tree);
            ImageChange::Remove { id, names, tree }
        }
        _ => return Ok(None),
    }))
}

fn unknown(id: &ImageId) -> crate::metadata::EditError {
    crate::metadata::EditError::Unknown { what: "image", id: id.to_string() }
}
