//! Pulling images: sources and one transaction. A batch of images is the same path as one.

mod error;
mod event;
mod fetch;
mod find;
mod nonblocking;
mod planned;
mod present;
mod refetch;
mod there;

pub use error::PullError;
pub use event::{Event, Progress};
pub use nonblocking::pull_async;
pub use planned::{Planned, PlannedPull, plan_apply};
pub use present::{Presence, present};
pub use refetch::Refetch;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::ids::{Digest, ImageId, TxnId};
use crate::partial;
use crate::plan::Change;
use crate::registry::{self, Place, Platform};
use crate::store::Store;
use crate::txn::{Prepared, Receipt, SyncMode, TxnError, TxnOptions, WriteTxn};
use find::{Found, check_names, resolve};
use there::all_there;

/// How often layers that vanish before the commit are fetched again.
const ROUNDS: usize = 4;

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// How to talk to registries.
    pub registry: registry::Options,
    /// The platform that is asked for: an image of another one is refused. `None`: the one of this machine is
    /// preferred, and an image of another one taken with a warning ([`Event::OtherPlatform`]).
    pub platform: Option<Platform>,
    /// How many layers are fetched and unpacked at once.
    pub jobs: usize,
    /// What is kept of downloads when a pull does not come to its end.
    pub partial: partial::Limits,
    /// The transaction's options.
    pub txn: TxnOptions,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            registry: registry::Options::default(),
            platform: None,
            jobs: 2,
            partial: partial::Limits::default(),
            txn: TxnOptions::default(),
        }
    }
}

impl PullOptions {
    fn wanted_platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
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
    let items: Vec<Item> = places.iter().cloned().map(Item::Pull).collect();
    Ok(apply(store, &items, options, progress, cancelled)?.pulled)
}

/// One thing to be done by [`apply`].
#[derive(Debug, Clone)]
pub enum Item {
    /// An image is pulled.
    Pull(Place),
    /// Something that is there is changed, or that an item before it brings.
    Change(Change),
}

/// What [`apply`] did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The images that were pulled, in the order of the items.
    pub pulled: Vec<Pulled>,
    /// What was changed; `None` where the store said all of it already.
    pub receipt: Option<Receipt>,
}

/// Pulls images and changes others in one transaction: everything, in the order of the items, or nothing.
///
/// # Errors
///
/// As [`pull`].
pub fn apply(
    store: &Store,
    items: &[Item],
    options: &PullOptions,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Applied, PullError> {
    // Of this pull only: what fails in it ends its own downloads, not those of the caller's next one.
    let network = options.registry.cancel.child_token();
    let registry = registry::Options { cancel: network.clone(), ..options.registry.clone() };
    let options = PullOptions { registry, ..options.clone() };
    match (Pull { store, options: &options, network: &network, progress, cancelled }).run(items) {
        Err(error) if error.is_cancelled() => Err(PullError::Cancelled),
        result => result,
    }
}

/// What a pull works with.
struct Pull<'a> {
    store: &'a Store,
    options: &'a PullOptions,
    network: &'a CancellationToken,
    progress: &'a dyn Progress,
    cancelled: &'a AtomicBool,
}

impl Pull<'_> {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn run(&self, items: &[Item]) -> Result<Applied, PullError> {
        let found = self.resolve(planned::places(items))?;
        if found.len() == items.len() && (found.is_empty() || self.is_there(&found)?) {
            return Ok(Applied { pulled: pulled(&found, None, 0), receipt: None });
        }
        if found.len() < items.len() {
            // What cannot be done is known before anything is fetched, and before a store is made.
            planned::foresee(self.store, items, &found, self.options)?;
        }
        let mut txn = self.store.begin(self.options.txn.clone())?;
        let cache = self.cache(&found);
        let mut fetched = 0;
        for round in 0..ROUNDS {
            if !found.is_empty() {
                fetched += self.fetch_layers(&txn, cache.as_ref(), &found)?;
            }
            // All layers are staged. Later the sync of the filesystem would bring their blobs to the medium, too, only to be
            // removed.
            cache.iter().for_each(partial::Cache::discard);
            if round == 0 {
                say(&txn, items, &found)?;
            }
            self.progress.event(Event::Committing);
            if self.is_cancelled() {
                return Err(PullError::Cancelled);
            }
            match txn.prepare()? {
                Prepared::Nothing => return Ok(Applied { pulled: pulled(&found, None, fetched), receipt: None }),
                Prepared::Ready(prepared) => {
                    let receipt = prepared.commit()?;
                    return Ok(Applied { pulled: pulled(&found, Some(&receipt.txn), fetched), receipt: Some(receipt) });
                }
                Prepared::NeedLayers(again, _) => txn = *again,
            }
        }
        Err(PullError::Vanishing { rounds: ROUNDS })
    }

    fn resolve<'a>(&self, places: impl Iterator<Item = &'a Place>) -> Result<Vec<Found>, PullError> {
        let mut found = Vec::new();
        for place in places {
            if self.is_cancelled() {
                return Err(PullError::Cancelled);
            }
            match resolve(place, self.options, self.progress) {
                Ok(one) => found.push(one),
                // What fails because it was cancelled is no error of the registry.
                Err(_) if self.is_cancelled() => return Err(PullError::Cancelled),
                Err(error) => return Err(error),
            }
        }
        check_names(&found)?;
        Ok(found)
    }

    /// Where downloads are kept, if anything comes from far away.
    fn cache(&self, found: &[Found]) -> Option<partial::Cache> {
        if !found.iter().any(|one| one.source.is_remote()) {
            return None;
        }
        let mut limits = self.options.partial;
        if found.len() > 1 {
            // One image of many that fails is no reason to fetch the others again.
            limits.regardless = u64::MAX;
        }
        match self.store.layout() {
            Ok(layout) => layout.and_then(|layout| partial::Cache::open(&layout, &limits)),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no cache of downloads");
                None
            }
        }
    }

    /// Whether the store has all of it; then it is on the medium, too.
    fn is_there(&self, found: &[Found]) -> Result<bool, PullError> {
        let (Some(layout), Some(snapshot)) = (self.store.layout()?, self.store.read()?) else { return Ok(false) };
        if !all_there(&layout, &snapshot, found)? {
            return Ok(false);
        }
        // The layers are on the medium, or they would not be sealed; of the tables and documents nobody says so.
        if self.options.txn.sync != SyncMode::None {
            layout.settle(found.iter().map(|one| &one.id)).map_err(TxnError::from)?;
        }
        for descriptor in found.iter().flat_map(|f| &f.layers) {
            self.progress.event(Event::Present { blob: &descriptor.digest });
        }
        Ok(true)
    }
}

/// Says what is to be changed, in the order of the items. What was said once stays said, however often layers are staged.
fn say(txn: &WriteTxn, items: &[Item], found: &[Found]) -> Result<(), PullError> {
    let mut images = found.iter();
    for item in items {
        match item {
            Item::Pull(_) => images.next().map_or(Ok(()), |one| txn.stage_image(&one.spec).map(drop))?,
            Item::Change(change) => txn.add(change.clone())?,
        }
    }
    Ok(())
}

fn pulled(found: &[Found], txn: Option<&TxnId>, fetched: usize) -> Vec<Pulled> {
    let one =
        |f: &Found| Pulled { id: f.id.clone(), name: f.spec.names.first().cloned(), digest: f.digest.clone(), txn: txn.cloned(), fetched };
    found.iter().map(one).collect()
}
