//! Pulling images: sources and one transaction. A batch of images is the same path as one.

mod error;
mod event;
mod fetch;
mod find;
mod there;

pub use error::PullError;
pub use event::{Event, Progress};

use std::sync::atomic::{AtomicBool, Ordering};

use crate::ids::{Digest, ImageId, TxnId};
use crate::registry::{self, Place, Platform};
use crate::store::Store;
use crate::txn::{Prepared, SyncMode, TxnError, TxnOptions};
use fetch::fetch_layers;
use find::{Found, resolve};
use there::all_there;

/// How often layers that vanish before the commit are fetched again.
const ROUNDS: usize = 4;

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// How to talk to registries.
    pub registry: registry::Options,
    /// Which image of an index is wanted.
    pub platform: Platform,
    /// How many layers are fetched and unpacked at once.
    pub jobs: usize,
    /// The transaction's options.
    pub txn: TxnOptions,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { registry: registry::Options::default(), platform: Platform::host(), jobs: 2, txn: TxnOptions::default() }
    }
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its id.
    pub id: ImageId,
    /// Its name, if it got one.
    pub name: Option<String>,
    /// The digest its reference stands for: the index's, else the manifest's.
    pub digest: Digest,
    /// The transaction that made it; `None` where the store had all of it.
    pub txn: Option<TxnId>,
    /// How many layers were fetched for the whole batch.
    pub fetched: usize,
}

/// Pulls images in one transaction: all of them or none.
///
/// `cancelled` is looked at all the time; once it is true the transaction is taken back.
///
/// # Errors
///
/// [`PullError`]; only [`PullError::in_doubt`] may have changed anything.
pub fn pull(
    store: &Store,
    places: &[Place],
    options: &PullOptions,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Vec<Pulled>, PullError> {
    let mut found = Vec::with_capacity(places.len());
    for place in places {
        if cancelled.load(Ordering::Acquire) {
            return Err(PullError::Cancelled);
        }
        match resolve(place, options, progress) {
            Ok(one) => found.push(one),
            // What fails because it was cancelled is no error of the registry.
            Err(_) if cancelled.load(Ordering::Acquire) => return Err(PullError::Cancelled),
            Err(error) => return Err(error),
        }
    }
    if let (Some(layout), Some(snapshot)) = (store.layout()?, store.read()?)
        && all_there(&layout, &snapshot, &found)?
    {
        // The layers are on the medium, or they would not be sealed; of the tables and documents nobody says so.
        if options.txn.sync != SyncMode::None {
            layout.settle(found.iter().map(|one| &one.id)).map_err(TxnError::from)?;
        }
        for descriptor in found.iter().flat_map(|f| &f.layers) {
            progress.event(Event::Present { blob: &descriptor.digest });
        }
        return Ok(pulled(&found, None, 0));
    }
    let mut txn = store.begin(options.txn.clone())?;
    let mut fetched = 0;
    for _ in 0..ROUNDS {
        fetched += fetch_layers(&txn, &found, options, progress, cancelled)?;
        for one in &found {
            txn.stage_image(&one.spec)?;
        }
        progress.event(Event::Committing);
        if cancelled.load(Ordering::Acquire) {
            return Err(PullError::Cancelled);
        }
        match txn.prepare()? {
            Prepared::Nothing => return Ok(pulled(&found, None, fetched)),
            Prepared::Ready(prepared) => {
                let receipt = prepared.commit()?;
                return Ok(pulled(&found, Some(&receipt.txn), fetched));
            }
            Prepared::NeedLayers(again, _) => txn = *again,
        }
    }
    Err(PullError::Vanishing { rounds: ROUNDS })
}

fn pulled(found: &[Found], txn: Option<&TxnId>, fetched: usize) -> Vec<Pulled> {
    let one =
        |f: &Found| Pulled { id: f.id.clone(), name: f.spec.names.first().cloned(), digest: f.digest.clone(), txn: txn.cloned(), fetched };
    found.iter().map(one).collect()
}
