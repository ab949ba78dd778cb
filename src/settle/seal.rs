//! Sealing what was verified and synced, under layers.lock, and noting it in the clean point.

use std::time::SystemTime;

use super::look::{Look, Verified};
use super::{BATCH, Outcome, SettleError, SettledLayer};
use crate::causes::in_one_line;
use crate::clean::{CleanPoint, Seen};
use crate::fsio::{self, optional};
use crate::ids::{LayerId, TxnId};
use crate::layout::Layout;
use crate::lock::{LockError, StoreLocks};
use crate::metadata::Layers;
use crate::overlay::{Facts, NEW_SEAL, SEAL, Seal};
use crate::store::Store;

/// What a layer is that was made anew while it was verified.
pub(super) fn replaced() -> Outcome {
    Outcome::Busy { who: "another program made it anew while it was verified; settle again".to_owned() }
}

/// Seals what is to be sealed. Where the lock cannot be had, the rest stays as it is.
pub(super) fn all(store: &Store, layout: &Layout, mut looks: Vec<Look>) -> Result<Vec<SettledLayer>, SettleError> {
    let mut waiting: Vec<&mut Look> = looks.iter_mut().filter(|look| look.verified.is_some()).collect();
    let mut held = None;
    for batch in waiting.chunks_mut(BATCH) {
        if let Some(outcome) = &held {
            batch.iter_mut().for_each(|look| look.outcome = Outcome::clone(outcome));
            continue;
        }
        match StoreLocks::write_layers(&layout.layers, &store.waiting()) {
            Ok(locked) => {
                let layers = layout.load_layers()?;
                for look in batch {
                    look.outcome = one(layout, &layers, look)?;
                }
                drop(locked);
            }
            Err(LockError::Busy { path, holder, .. }) => {
                let outcome = Outcome::Busy { who: format!("{} is held by {holder}", path.display()) };
                batch.iter_mut().for_each(|look| look.outcome = outcome.clone());
                held = Some(outcome);
            }
            Err(LockError::Cancelled { .. }) => {
                batch.iter_mut().for_each(|look| look.outcome = Outcome::Stopped);
                held = Some(Outcome::Stopped);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(looks.into_iter().map(|Look { id, link, outcome, .. }| SettledLayer { id, link, outcome }).collect())
}

/// Seals a layer if it still is the one that was verified. A failed sync ends everything, anything else this layer.
fn one(layout: &Layout, layers: &Layers, look: &Look) -> Result<Outcome, SettleError> {
    let Some(verified) = &look.verified else { return Ok(look.outcome.clone()) };
    match again(layout, layers, &look.id, verified) {
        Ok(None) => {}
        Ok(Some(outcome)) => return Ok(outcome),
        Err(error) => return Ok(Outcome::Failed { why: in_one_line(&error) }),
    }
    let seal = Seal::new(verified.diff_id.clone(), verified.link.clone(), verified.tree).encode()?;
    let written = layout.overlay.dir(look.id.as_str()).and_then(|dir| {
        let written = dir.replace(NEW_SEAL, SEAL, &seal, 0o600);
        if written.is_err()
            && !dir.seam().poisoned()
            && let Err(error) = optional(dir.unlink(NEW_SEAL))
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a seal that could not be written stays; the next settle replaces it"
            );
        }
        written
    });
    match written {
        Ok(()) => Ok(Outcome::Sealed),
        Err(error) if layout.root.seam().poisoned() => Err(error.into()),
        Err(error) => Ok(Outcome::Failed { why: in_one_line(&error) }),
    }
}

/// What has become of a layer since it was verified, if anything (S1).
fn again(layout: &Layout, layers: &Layers, id: &LayerId, verified: &Verified) -> Result<Option<Outcome>, crate::fsio::Error> {
    let Some(record) = layers.get(id) else { return Ok(Some(Outcome::Gone)) };
    let facts = Facts::read(&layout.overlay, &layout.links, id)?;
    let same_record = !record.incomplete()
        && !record.has_id_maps()
        && record.diff_digest().and_then(|digest| digest.known()) == Some(&verified.diff_id)
        && record.parent_text() == verified.parent;
    let same_tree = facts.link.as_ref() == Some(&verified.link) && facts.tree == Some(verified.tree) && facts.linked && !facts.rotated;
    if !same_record || !same_tree {
        return Ok(Some(replaced()));
    }
    let sealed = facts.seal.is_some_and(|seal| seal.holds(&verified.diff_id, &verified.link, &verified.tree));
    Ok(sealed.then_some(Outcome::AlreadySealed))
}

/// Writes the clean point, if it says anything new: what it said of other layers stays. `false`: its lock could not be had.
pub(super) fn note(
    store: &Store,
    layout: &Layout,
    there: &Layers,
    tables: Option<&Seen>,
    layers: &[SettledLayer],
) -> Result<bool, SettleError> {
    let now = SystemTime::now();
    let renewed = || -> Result<_, SettleError> {
        let old = CleanPoint::load(layout)?;
        let mut point = old.clone().unwrap_or_else(|| CleanPoint::new(now));
        point.keep(there);
        for layer in layers {
            match &layer.link {
                Some(link) if layer.outcome.is_sound() => point.insert(layer.id.clone(), link.clone()),
                // Not looked at: what was known of it is.
                _ if layer.outcome == Outcome::Stopped => {}
                _ => point.remove(&layer.id),
            }
        }
        if tables.is_some() {
            point.tables = tables.cloned();
        }
        Ok((!old.is_some_and(|old| old.says_as(&point)), point))
    };
    if !renewed()?.0 {
        return Ok(true);
    }
    let locked = match StoreLocks::write_layers(&layout.layers, &store.waiting()) {
        Ok(locked) => locked,
        Err(LockError::Busy { .. } | LockError::Cancelled { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // Once more under the lock: another settle may have noted its own.
    let (new, mut point) = renewed()?;
    if new {
        point.time = now;
        point.store(layout, &locked)?;
    }
    Ok(true)
}

/// Adds to the history what other programs made since it was last written: podman keeps no second copy of an image's names. `false`:
/// its lock could not be had.
pub(super) fn remember(store: &Store, layout: &Layout) -> Result<bool, SettleError> {
    let locked = match StoreLocks::write_images(&layout.images, &store.waiting()) {
        Ok(locked) => locked,
        Err(LockError::Busy { .. } | LockError::Cancelled { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let images = layout.load_images()?;
    let txn = TxnId::random().map_err(|source| fsio::Error { call: "getrandom", path: "/dev/urandom".into(), source })?;
    layout.note_history(&txn, &images)?;
    drop(locked);
    Ok(true)
}
