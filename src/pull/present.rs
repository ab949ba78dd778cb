//! Whether the store has an image already, by name and without asking anybody.

use super::find::shown;
use super::{PullError, PullOptions, Pulled};
use crate::extract::Depth;
use crate::fsio::optional;
use crate::ids::{Digest, ImageId, LayerId};
use crate::layout::{Layout, Tables};
use crate::metadata::{Image, big_data_file};
use crate::overlay::Ancestry;
use crate::registry::{Place, Platform, config};
use crate::store::Store;
use crate::txn::{Inspection, SyncMode, TxnError, inspect_to};

/// The most bytes of a document that are read.
const DOCUMENT_MAX: u64 = 64 << 20;
/// The deepest stack of layers that is walked; a loop in a hostile table must end.
const CHAIN_MAX: usize = 500;

/// What the store has under some names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// All of them.
    Complete(Vec<Pulled>),
    /// One of them is not there, or not all of it, or it is for another platform.
    Missing {
        /// The reference.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Looks for the images of these references in the store: the name, every document, every layer and all files of it with their
/// sizes. Contents are not read: of layers that another program wrote only [`super::pull`] verifies them.
///
/// What is called complete is on the medium, unless the options say [`SyncMode::None`].
///
/// # Errors
///
/// A store that cannot be read or synced.
pub fn present(store: &Store, places: &[Place], options: &PullOptions) -> Result<Presence, PullError> {
    let missing = |place: &Place, why: String| Presence::Missing { reference: place.to_string(), why };
    let mut list = Vec::with_capacity(places.len());
    let (Some(layout), Some(snapshot)) = (store.layout()?, store.read()?) else {
        return Ok(places.first().map_or(Presence::Complete(list), |place| missing(place, "there is no store yet".to_owned())));
    };
    let mut unsealed = Vec::new();
    for place in places {
        let Place::Registry(reference) = place else {
            return Ok(missing(place, "only the names of registries are looked for in the store".to_owned()));
        };
        let name = reference.stored_name();
        let Some(image) = snapshot.image_by_name(&name) else { return Ok(missing(place, "it is not in the store".to_owned())) };
        match look(&layout, snapshot.tables(), image, options.platform.as_ref())? {
            Ok(seen) => {
                unsealed.extend(seen.unsealed);
                list.push(Pulled { id: seen.id, name: Some(name), digest: seen.digest, txn: None, fetched: 0 });
            }
            Err(why) => return Ok(missing(place, format!("it is in the store, but {why}"))),
        }
    }
    if options.txn.sync != SyncMode::None {
        settle(&layout, &list, &unsealed, options.txn.sync).map_err(TxnError::from)?;
    }
    Ok(Presence::Complete(list))
}

fn settle(layout: &Layout, list: &[Pulled], unsealed: &[LayerId], sync: SyncMode) -> crate::fsio::Result<()> {
    // Unsealed: written by a program that syncs nothing.
    if sync == SyncMode::Files || !layout.overlay.syncfs_is_enough()? || !layout.layers.syncfs_is_enough()? {
        layout.sync_layers(&layout.overlay, unsealed)?;
    } else if !unsealed.is_empty() {
        layout.overlay.sync_filesystem()?;
        if layout.layers.own_meta()?.device != layout.overlay.own_meta()?.device {
            layout.layers.sync_filesystem()?;
        }
    }
    layout.settle(list.iter().map(|one| &one.id))
}

/// A complete image.
struct Seen {
    id: ImageId,
    digest: Digest,
    /// The layers of which nobody says that they are on the medium.
    unsealed: Vec<LayerId>,
}

/// An image that is there, or what is wrong with it.
type Look<T> = Result<T, String>;

fn look(layout: &Layout, tables: &Tables, image: &Image, wanted: Option<&Platform>) -> Result<Look<Seen>, PullError> {
    let Some(id) = image.id().cloned() else { return Ok(Err("its id is not one".to_owned())) };
    let Some(digest) = image.digest().and_then(|digest| digest.known()).cloned() else {
        return Ok(Err("its record has no digest".to_owned()));
    };
    if !image.metadata().is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(image.metadata()).is_err() {
        return Ok(Err("its metadata is not JSON".to_owned()));
    }
    let config = match documents(layout, image, &id)? {
        Ok(config) => config,
        Err(why) => return Ok(Err(why)),
    };
    let chain = match chain(tables, image) {
        Ok(chain) => chain,
        Err(why) => return Ok(Err(why)),
    };
    let parsed = match config::parse(&config, chain.len()) {
        Ok(parsed) if parsed.diff_ids.len() == chain.len() => parsed,
        Ok(_) => return Ok(Err("its config names no diff_ids".to_owned())),
        Err(error) => return Ok(Err(format!("its config cannot be used: {error}"))),
    };
    if let Some(wanted) = wanted
        && parsed.platform().is_none_or(|seen| wanted.rank(&seen).is_none())
    {
        let seen = parsed.platform().map_or_else(|| "a platform that it does not name".to_owned(), |seen| shown(&seen));
        return Ok(Err(format!("it is for {seen}, not for {wanted}")));
    }
    Ok(layers(layout, tables, &chain, &parsed.diff_ids)?.map(|unsealed| Seen { id, digest, unsealed }))
}

/// The config, if every document is there as the record says.
fn documents(layout: &Layout, image: &Image, id: &ImageId) -> Result<Look<Vec<u8>>, PullError> {
    let disk = |error: crate::fsio::Error| PullError::from(TxnError::from(error));
    let Some(dir) = optional(layout.images.dir(id.as_str())).map_err(disk)? else { return Ok(Err("its documents are missing".to_owned())) };
    let names = image.big_data_names();
    let config_key = format!("sha256:{id}");
    if let Some(key) = [config_key.as_str(), "manifest"].into_iter().find(|key| !names.iter().any(|name| name == key)) {
        let what = if key == config_key { "config" } else { key };
        return Ok(Err(format!("its record names no {what}")));
    }
    let mut config = Vec::new();
    for key in names {
        let what = if *key == config_key { "config" } else { key };
        let file = big_data_file(key).map_err(TxnError::from)?;
        let Some(bytes) = optional(dir.read(&file, DOCUMENT_MAX)).map_err(disk)? else { return Ok(Err(format!("its {what} is missing"))) };
        let digest = Digest::of(&bytes);
        let said = image.big_data_digests().get(key).and_then(|digest| digest.known());
        let sized = image.big_data_sizes().get(key).copied() == i64::try_from(bytes.len()).ok();
        if !sized || said.is_some_and(|said| *said != digest) || (*key == config_key && digest.hex() != id.as_str()) {
            return Ok(Err(format!("its {what} is not the one that its record describes")));
        }
        if *key == config_key {
            config = bytes;
        }
    }
    Ok(Ok(config))
}

/// The layers, base first.
fn chain(tables: &Tables, image: &Image) -> Look<Vec<LayerId>> {
    let mut chain = Vec::new();
    let mut next = image.layer().cloned();
    while let Some(loose) = next {
        let id = loose.known().ok_or("a layer of it has an id that is none")?;
        let record = tables.layers.get(id).ok_or_else(|| format!("its layer {id} is not in layers.json"))?;
        if record.incomplete() {
            return Err(format!("its layer {id} is flagged incomplete"));
        }
        if chain.len() == CHAIN_MAX {
            return Err(format!("it has more than {CHAIN_MAX} layers"));
        }
        chain.push(id.clone());
        next = record.parent().cloned();
    }
    chain.reverse();
    Ok(chain)
}

/// The layers that are not sealed, if each of them is complete.
fn layers(layout: &Layout, tables: &Tables, chain: &[LayerId], diff_ids: &[Digest]) -> Result<Look<Vec<LayerId>>, PullError> {
    let mut unsealed = Vec::new();
    let mut ancestry = Ancestry::default();
    for (id, diff_id) in chain.iter().zip(diff_ids) {
        let link = match inspect_to(layout, tables, id, diff_id, &ancestry, Depth::Structure)? {
            Inspection::Sealed { link } => link,
            Inspection::Verified { link } => {
                unsealed.push(id.clone());
                link
            }
            Inspection::Absent => return Ok(Err(format!("its layer {id} is gone"))),
            Inspection::Damaged { why, .. } | Inspection::Broken { why } => return Ok(Err(format!("its layer {id} is damaged: {why}"))),
        };
        ancestry = ancestry.child_of(id.clone(), link);
    }
    Ok(Ok(unsealed))
}
