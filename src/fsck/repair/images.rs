//! images.json: records made anew from documents and the history, names that two images have.

use std::collections::HashSet;

use serde::Deserialize;

use crate::fsck::survey::{Documents, Survey, config_key, directory, document, remembered};
use crate::fsio::{Dir, Kind};
use crate::ids::{Digest, ImageId};
use crate::layout::{IMAGES_JSON, Layout};
use crate::metadata::{BigData, Image, Images, Layers, Loose, MAX_TABLE_BYTES, NewImage, big_data_key, salvage};
use crate::txn::TxnError;

/// images.json as it should be, if it is another one, and the images that come back without names.
pub(super) fn mend(layout: &Layout, survey: &Survey, layers: &Layers) -> Result<(Option<Images>, Vec<ImageId>), TxnError> {
    // What a transaction is to make is the journal's: it comes or goes with that.
    let held = crate::fsck::check::held(layout);
    let whole = survey.images.is_err();
    let base = match &survey.images {
        Ok(images) => images.clone(),
        Err(_) => left_over(layout)?,
    };
    let mut changed: Vec<Image> = Vec::new();
    for image in base.iter() {
        if let Some(top) = image.id().and_then(|id| survey.documents.get(id)).and_then(|documents| documents.chain.last())
            && image.layer_text() != top.as_str()
            && layers.get(top).is_some()
        {
            changed.push(image.with_layer(top)?);
        }
    }
    let mut table = if changed.is_empty() { base } else { base.replaced(&changed)? };
    let shadowed = table.shadowed_names().next().is_some();
    if shadowed {
        table = table.without_shadowed_names()?;
    }
    let history = layout.history()?;
    let mut restored: Vec<Image> = Vec::new();
    let mut taken: HashSet<String> = table.iter().flat_map(|image| image.names().to_vec()).collect();
    let mut nameless = Vec::new();
    for (id, documents) in survey.documents.iter().filter(|(id, _)| table.get(id).is_none() && !held.images.contains(*id)) {
        let has_layers = documents.chain.is_empty() || documents.chain.iter().any(|layer| layers.get(layer).is_some());
        let Some(dir) = directory(&layout.images, id.as_str())? else { continue };
        let on_disk = items(&dir)?;
        if !has_layers || !on_disk.iter().any(|(item, _)| item.key.starts_with("manifest")) {
            continue;
        }
        let donor = remembered(&history, id);
        let image = match donor.filter(|donor| donor.layer_text() == documents.chain.last().map_or("", |top| top.as_str())) {
            Some(donor) => known_again(&donor, &on_disk)?,
            None => {
                nameless.push(id.clone());
                made_anew(id, documents, &on_disk)?
            }
        };
        // What podman did since goes before what the history says.
        let names: Vec<String> = image.names().iter().filter(|name| taken.insert((*name).clone())).cloned().collect();
        restored.push(if names.len() == image.names().len() { image } else { image.only_named(&names)? });
    }
    for (name, kind) in layout.images.entries()? {
        // Its config is lost: the record says what it was, and it is fetched by its digest.
        let Some(id) = name.to_str().filter(|_| kind == Kind::Dir).and_then(|name| name.parse::<ImageId>().ok()) else { continue };
        let known = table.get(&id).is_some() || survey.documents.contains_key(&id) || held.images.contains(&id);
        let Some(donor) = (!known).then(|| remembered(&history, &id)).flatten() else { continue };
        if donor.layer().and_then(Loose::known).is_some_and(|top| layers.get(top).is_some()) {
            let names: Vec<String> = donor.names().iter().filter(|name| taken.insert((*name).clone())).cloned().collect();
            restored.push(donor.only_named(&names)?);
        }
    }
    if restored.is_empty() && changed.is_empty() && !shadowed && !whole {
        return Ok((None, nameless));
    }
    Ok((Some(table.extended(&restored)?), nameless))
}

/// The whole records at the start of a damaged table, whose documents are there.
fn left_over(layout: &Layout) -> Result<Images, TxnError> {
    let Ok(bytes) = layout.images.read(IMAGES_JSON, MAX_TABLE_BYTES) else { return Ok(Images::default()) };
    let mut seen = HashSet::new();
    let there = |image: &Image| {
        image.id().is_some_and(|id| seen.insert(id.clone()) && directory(&layout.images, id.as_str()).is_ok_and(|dir| dir.is_some()))
    };
    let mut there = there;
    let kept: Vec<Image> = salvage::<Image>(&bytes).into_iter().filter(|image| there(image)).collect();
    Ok(Images::default().extended(&kept)?)
}

/// The items of big data on disk, with what tells an index from a manifest.
fn items(dir: &Dir) -> Result<Vec<(BigData, bool)>, TxnError> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Option<serde::de::IgnoredAny>,
    }
    let mut list = Vec::new();
    for (name, kind) in dir.entries()? {
        let Some(key) = name.to_str().filter(|name| kind == Kind::File && !name.starts_with(".tmp-")).and_then(big_data_key) else {
            continue;
        };
        let Some(bytes) = document(dir, name.to_str().unwrap_or_default())? else { continue };
        let is_index = key.starts_with("manifest") && serde_json::from_slice::<Index>(&bytes).is_ok_and(|index| index.manifests.is_some());
        list.push((BigData::new(key, bytes.len() as u64, &Digest::of(&bytes)), is_index));
    }
    Ok(list)
}

fn digest_of(item: &BigData) -> Option<&Digest> {
    item.digest.as_ref().and_then(Loose::known)
}

/// Whether an item is what its key says it is, where the key says so.
fn is_itself(item: &BigData) -> bool {
    match item.key.strip_prefix("manifest-") {
        Some(digest) => digest_of(item).is_some_and(|seen| seen.as_str() == digest),
        None => true,
    }
}

/// A record of the history, with what was stored since.
fn known_again(donor: &Image, on_disk: &[(BigData, bool)]) -> Result<Image, TxnError> {
    let proved = |digest: &Digest| on_disk.iter().any(|(item, _)| item.key == format!("manifest-{digest}") && is_itself(item));
    let newer: Vec<BigData> = on_disk
        .iter()
        .map(|(item, _)| item)
        .filter(|item| {
            let said = donor.big_data_digests().get(&item.key).and_then(Loose::known);
            let listed = donor.big_data_names().contains(&item.key);
            match digest_of(item) {
                Some(seen) if said == Some(seen) => false,
                // A manifest that nobody knows is damage; one that has its own file beside it came later.
                Some(seen) if item.key == "manifest" => proved(seen),
                Some(_) if item.key.starts_with("sha256:") => !listed && digest_of(item).is_some_and(|d| d.as_str() == item.key),
                _ => is_itself(item) && !listed,
            }
        })
        .cloned()
        .collect();
    Ok(if newer.is_empty() { donor.clone() } else { donor.with_documents(&newer)? })
}

/// A record from nothing but the documents.
fn made_anew(id: &ImageId, documents: &Documents, on_disk: &[(BigData, bool)]) -> Result<Image, TxnError> {
    let config = config_key(id);
    let sound = |item: &&(BigData, bool)| is_itself(&item.0);
    // In the order in which programs write them.
    let rank = |(item, is_index): &(BigData, bool)| match () {
        () if item.key == config => 0,
        () if item.key.starts_with("manifest-") && *is_index => 1,
        () if item.key.starts_with("manifest-") => 2,
        () if item.key == "manifest" => 3,
        () => 4,
    };
    let mut items: Vec<&(BigData, bool)> = on_disk.iter().filter(sound).collect();
    items.sort_by_key(|item| (rank(item), item.0.key.clone()));
    let first = items.iter().find(|(item, _)| item.key.starts_with("manifest"));
    let mut new = NewImage::new(id.clone(), documents.chain.last().cloned());
    new.digest = first.and_then(|(item, _)| digest_of(item)).cloned();
    new.metadata = "{}".to_owned();
    new.created = documents.created.clone();
    new.big_data = items.iter().map(|(item, _)| item.clone()).collect();
    Ok(new.build()?)
}
