//! Pure: no I/O. What the changes of a transaction mean for the tables as they are, one after the other.

use std::collections::{BTreeSet, HashMap};

use super::edit::{AsPlanned, claims, edit, resolve_heavy, resolve_light};
use super::{Change, ImageChange, ImagePut, Inputs, PlanError, Prune, WantedImage};
use crate::ids::{ImageId, LayerId, LinkId};
use crate::metadata::{Image, Images};

/// What the changes of images mean.
pub(super) struct Resolved {
    /// images.json as it will be.
    pub images: Images,
    /// The changes, in their order.
    pub changes: Vec<ImageChange>,
    /// Of these it must be known first what stands on disk.
    pub unseen: BTreeSet<ImageId>,
}

/// What each change means, and the table as it will be.
///
/// # Errors
///
/// An image that is not known, in use, or not as the change wants it.
pub(super) fn resolve(inputs: &Inputs<'_>, links: &HashMap<LayerId, LinkId>) -> Result<Resolved, PlanError> {
    let mut all = Resolved { images: inputs.tables.images.clone(), changes: Vec::new(), unseen: BTreeSet::new() };
    for change in inputs.changes {
        let images = &all.images;
        let meant = match change {
            Change::RemoveLayer(_) | Change::Mend(_) => vec![],
            Change::Prune(prune) => unwanted(inputs, images, prune),
            // Once put, it only gets more names.
            Change::Put { id, names } if all.changes.iter().any(|change| matches!(change, ImageChange::Put(put) if put.id == *id)) => {
                vec![ImageChange::Names { id: id.clone(), take: claims(images, names), drop: vec![] }]
            }
            Change::Put { id, names } => match inputs.wanted_images.iter().find(|wanted| wanted.id == *id) {
                Some(wanted) => vec![ImageChange::Put(image_put(images, wanted, names, links)?)],
                None => return Err(PlanError::Unstaged { id: id.clone() }),
            },
            other => match resolve_light(images, other)? {
                Some(light) => vec![light],
                None => resolve_heavy(inputs.disk, images, other)?.into_iter().collect(),
            },
        };
        for change in meant {
            all.add(inputs, change)?;
        }
    }
    Ok(all)
}

impl Resolved {
    fn add(&mut self, inputs: &Inputs<'_>, change: ImageChange) -> Result<(), PlanError> {
        let id = change.id();
        if matches!(change, ImageChange::Remove { .. }) && inputs.wanted_images.iter().any(|wanted| wanted.id == *id) {
            return Err(PlanError::Contradiction { what: format!("image {id}") });
        }
        let looks = matches!(change, ImageChange::Remove { .. } | ImageChange::Data { .. } | ImageChange::DropData { .. });
        if looks && !(inputs.disk.users.is_some() && inputs.disk.images.contains_key(id)) {
            self.unseen.insert(id.clone());
        }
        edit(&mut self.images, std::slice::from_ref(&change), &AsPlanned)?;
        self.changes.push(change);
        Ok(())
    }
}

/// The images that a prune removes.
fn unwanted(inputs: &Inputs<'_>, images: &Images, prune: &Prune) -> Vec<ImageChange> {
    let mut list = Vec::new();
    for image in images.iter().filter(|image| prune.named || image.names().is_empty()) {
        let Some(id) = image.id() else { continue };
        let made_here = inputs.wanted_images.iter().any(|wanted| wanted.id == *id);
        let used = inputs.disk.users.as_ref().is_some_and(|users| users.of_image(id).next().is_some());
        if made_here || used || inputs.disk.pinned.contains(id) {
            continue;
        }
        let facts = inputs.disk.images.get(id);
        // Of one that was not looked at yet the next try knows.
        let young = facts.and_then(|facts| facts.changed).is_some_and(|time| !prune.is_over(time, prune.image_age));
        if !young {
            let tree = facts.and_then(|facts| facts.tree);
            list.push(ImageChange::Remove { id: id.clone(), names: image.names().to_vec(), tree });
        }
    }
    list
}

fn image_put(images: &Images, wanted: &WantedImage, names: &[String], links: &HashMap<LayerId, LinkId>) -> Result<ImagePut, PlanError> {
    let image = Image::from_json(&wanted.record)?;
    if let Some(there) = images.get(&wanted.id)
        && there.layer_text() != image.layer_text()
    {
        let (seen, want) = (there.layer_text().to_owned(), image.layer_text().to_owned());
        return Err(PlanError::OtherTop { id: wanted.id.clone(), seen, want });
    }
    let mut chain = Vec::with_capacity(wanted.chain.len());
    for id in &wanted.chain {
        let link = links.get(id).ok_or_else(|| PlanError::Unplanned { id: id.clone() })?;
        chain.push((id.clone(), link.clone()));
    }
    let names = claims(images, names);
    let seen = images.get(&wanted.id).map(|there| there.metadata().to_owned());
    Ok(ImagePut { id: wanted.id.clone(), record: wanted.record.clone(), names, chain, data: wanted.data.clone(), seen })
}
