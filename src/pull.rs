//! Pulling images: sources and one transaction. A batch of images is the same path as one.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ids::{Digest, ImageId, LayerId, TxnId};
use crate::metadata::big_data_file;
use crate::registry::{self, Descriptor, ImageSource, Place, Platform, RegistryError, config};
use crate::store::{Store, StoreError};
use crate::txn::{CommitError, ImageSpec, Inspection, LayerSpec, Prepared, SyncMode, TxnError, TxnOptions, WriteTxn, inspect};
use crate::{layout::Layout, overlay::Ancestry, read::Snapshot};

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

/// What happens during a pull.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An image's manifest and config are here.
    Resolved {
        /// The image's name.
        name: &'a str,
        /// The number of its layers.
        layers: usize,
    },
    /// A layer is in the store already.
    Present {
        /// The layer's blob.
        blob: &'a Digest,
    },
    /// A layer is about to be fetched.
    Started {
        /// The layer's blob.
        blob: &'a Digest,
        /// Its length in bytes.
        bytes: u64,
    },
    /// More bytes of a layer have been unpacked.
    Progress {
        /// The layer's blob.
        blob: &'a Digest,
        /// Compressed bytes so far.
        bytes: u64,
    },
    /// A layer is staged.
    Finished {
        /// The layer's blob.
        blob: &'a Digest,
    },
    /// Everything is staged; the rest takes milliseconds and the sync.
    Committing,
}

/// Who is told of a pull's progress; called from several threads.
pub trait Progress: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

impl Progress for () {
    fn event(&self, _: Event<'_>) {}
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

/// Why nothing was pulled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum PullError {
    #[error("{reference}")]
    Source { reference: String, source: Box<RegistryError> },
    #[error("{reference}: the config names no diff_ids for its {layers} layers, so that nothing vouches for their contents; refused")]
    NoDiffIds { reference: String, layers: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Txn(#[from] TxnError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("layers vanished from the store {rounds} times while images were built on them; stop what removes them and pull again")]
    Vanishing { rounds: usize },
    #[error("cancelled")]
    Cancelled,
}

impl PullError {
    /// Whether the commit may or may not have happened.
    pub fn in_doubt(&self) -> bool {
        matches!(self, Self::Commit(CommitError::InDoubt { .. }) | Self::Txn(TxnError::InDoubt { .. }))
    }

    /// Whether something was held by somebody else.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Txn(error) => error.is_busy(),
            Self::Store(error) => error.is_busy(),
            _ => false,
        }
    }
}

/// One image, found and not yet fetched.
struct Found {
    reference: String,
    source: Box<dyn ImageSource>,
    layers: Vec<Descriptor>,
    digest: Digest,
    spec: ImageSpec,
    id: ImageId,
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

fn resolve(place: &Place, options: &PullOptions, progress: &dyn Progress) -> Result<Found, PullError> {
    let reference = place.to_string();
    let wrap = |source| PullError::Source { reference: reference.clone(), source: Box::new(source) };
    let opened = place.open(&options.registry).map_err(wrap)?;
    let resolved = opened.source.manifest(&options.platform).map_err(wrap)?;
    let bytes = opened.source.config(&resolved.image.config).map_err(wrap)?;
    let count = resolved.image.layers.len();
    let parsed = config::parse(&bytes, count)
        .map_err(|source| wrap(RegistryError::Content { what: format!("config {}", resolved.image.config.digest), source }))?;
    if parsed.diff_ids.len() != count {
        return Err(PullError::NoDiffIds { reference, layers: count });
    }
    progress.event(Event::Resolved { name: &reference, layers: count });
    let id = ImageId::of_config(&Digest::of(&bytes));
    let digest = resolved.digest().clone();
    let spec = ImageSpec {
        config: bytes,
        manifest: resolved.image.raw,
        index: resolved.index.map(|index| index.raw),
        diff_ids: parsed.diff_ids,
        names: opened.name.into_iter().collect(),
        created: parsed.created,
    };
    Ok(Found { reference, source: opened.source, layers: resolved.image.layers, digest, spec, id })
}

/// Whether the store has every image under its name, with these very documents, over sealed layers.
fn all_there(layout: &Layout, snapshot: &Snapshot, found: &[Found]) -> Result<bool, PullError> {
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

/// A layer to be fetched.
struct Job<'a> {
    image: &'a Found,
    descriptor: &'a Descriptor,
    spec: LayerSpec,
}

/// Declares every image and stages the layers the store lacks, several at once. Returns how many.
fn fetch_layers(
    txn: &WriteTxn,
    found: &[Found],
    options: &PullOptions,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<usize, PullError> {
    let tables = txn.tables()?;
    let mut jobs = VecDeque::new();
    let mut seen = HashSet::new();
    for image in found {
        let states = txn.declare(&tables, &image.spec.diff_ids)?;
        for (state, descriptor) in states.into_iter().zip(&image.layers) {
            if !state.needed {
                progress.event(Event::Present { blob: &descriptor.digest });
            } else if seen.insert(state.id.clone()) {
                let spec = LayerSpec {
                    id: state.id,
                    diff_id: state.diff_id,
                    blob: Some(descriptor.digest.clone()),
                    blob_bytes: Some(descriptor.size),
                };
                jobs.push_back(Job { image, descriptor, spec });
            }
        }
    }
    let count = jobs.len();
    let jobs = Mutex::new(jobs);
    let failed: Mutex<Option<PullError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while let Some(job) = next(&jobs) {
                    if cancelled.load(Ordering::Acquire) || txn.is_cancelled() {
                        return;
                    }
                    if let Err(error) = fetch_one(txn, &job, progress, cancelled) {
                        // The first error is the cause; the others are its echo.
                        txn.cancel();
                        lock(&failed).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    if cancelled.load(Ordering::Acquire) {
        return Err(PullError::Cancelled);
    }
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(count),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn next<'a>(jobs: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    lock(jobs).pop_front()
}

fn fetch_one(txn: &WriteTxn, job: &Job<'_>, progress: &dyn Progress, cancelled: &AtomicBool) -> Result<(), PullError> {
    let blob = &job.descriptor.digest;
    progress.event(Event::Started { blob, bytes: job.descriptor.size });
    let wrap = |source| PullError::Source { reference: job.image.reference.clone(), source: Box::new(source) };
    let reader = job.image.source.blob(job.descriptor).map_err(wrap)?;
    let reader = Cancellable { reader, cancelled };
    txn.stage_layer(&job.spec, reader, &|bytes| progress.event(Event::Progress { blob, bytes }))?;
    progress.event(Event::Finished { blob });
    Ok(())
}

/// Ends a stream as soon as the pull is cancelled.
struct Cancellable<'a> {
    reader: Box<dyn Read + Send>,
    cancelled: &'a AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(std::io::Error::other("cancelled"));
        }
        self.reader.read(buf)
    }
}
