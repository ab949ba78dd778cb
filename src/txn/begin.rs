//! The first stage: a transaction that collects what is to change, with no store lock.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::ids::{LayerId, LinkId, TxnId};
use crate::layout::{Layout, Tables};
use crate::lock::Wait;
use crate::overlay::Ancestry;
use crate::plan::{Change, WantedImage, WantedLayer};

use super::TxnError;
use super::staging::Staging;

/// How contents reach the medium before the intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// One syncfs per filesystem; on Linux before 5.8 and on filesystems that are not known to tell of write errors by
    /// syncfs the same as [`SyncMode::Files`].
    #[default]
    Filesystem,
    /// fdatasync of each file and fsync of each directory.
    Files,
    /// Nothing: the one stated exception to durability. Never seals.
    None,
}

/// Options of a transaction.
#[derive(Debug, Clone)]
pub struct TxnOptions {
    /// How contents reach the medium.
    pub sync: SyncMode,
    /// How long to wait for a lock that somebody else holds.
    pub wait: Duration,
    /// The largest uncompressed layer that is accepted, in bytes.
    pub max_layer_bytes: u64,
    /// Once true, waiting for a lock ends soon.
    pub interrupt: Option<Arc<AtomicBool>>,
}

impl Default for TxnOptions {
    fn default() -> Self {
        Self { sync: SyncMode::default(), wait: Duration::from_secs(60), max_layer_bytes: 1 << 40, interrupt: None }
    }
}

/// A layer as the transaction knows it.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub link: LinkId,
    pub ancestry: Ancestry,
    pub parent: Option<LayerId>,
    /// Whether a sound tree is to be exchanged for a damaged one.
    pub heal: bool,
    /// Whether that is done under a record that says incomplete, too.
    pub even_incomplete: bool,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub declared: HashMap<LayerId, Declared>,
    /// In declaration order: parents before children.
    pub order: Vec<LayerId>,
    pub layers: HashMap<LayerId, WantedLayer>,
    pub images: Vec<WantedImage>,
    /// In the order in which they were said.
    pub changes: Vec<Change>,
    /// Of staged layers that other programs may remove: the number of names in their `diff/`.
    pub counts: HashMap<LayerId, u64>,
    /// Staged layers whose tar has an entry for `/`: it gave `diff/` its mode and owner.
    pub own_roots: HashSet<LayerId>,
}

/// A transaction that collects what is to change. Nothing of it is visible; dropping it removes all of it.
///
/// It is `Send` and `Sync`: layers may be staged by several threads at once. Nothing is written to the store before something
/// is staged.
/// ```
/// use cstor_rs::metadata::ImageRef;
/// use cstor_rs::store::{Store, StoreOptions};
/// use cstor_rs::txn::{NewImage, Prepared, TxnOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let temp = tempfile::tempdir()?;
/// # let (root, runroot) = (temp.path().join("root"), temp.path().join("run"));
/// let store = Store::open(StoreOptions::new(root, runroot))?;
/// let txn = store.begin(TxnOptions::default())?;
/// let layer = txn.stage_empty_layer(None)?;
/// // The DiffID of an empty tar.
/// let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":
///     ["sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"]}}"#;
/// let new = NewImage { config: config.to_vec(), top: Some(layer), names: vec!["localhost/empty:1".into()], manifest: None };
/// let image = txn.stage_new_image(&new)?;
/// txn.tag(ImageRef::Id(image), "localhost/empty:latest")?;
/// let Prepared::Ready(prepared) = txn.prepare()? else { panic!("it is new") };
/// let receipt = prepared.commit()?;
/// assert_eq!(receipt.layers.len(), 1);
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction does nothing until it is prepared and committed"]
pub struct WriteTxn {
    pub(super) layout: Layout,
    pub(super) options: TxnOptions,
    pub(super) id: TxnId,
    /// Made with the first thing that is staged: what only changes names needs none.
    staging: OnceLock<Staging>,
    pub(super) making: Mutex<()>,
    pub(super) contents: Mutex<Contents>,
    pub(super) cancelled: AtomicBool,
    /// How many layers without a known id were begun.
    pub(super) made: AtomicU64,
}

impl std::fmt::Debug for WriteTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTxn").field("id", &self.id).finish_non_exhaustive()
    }
}

impl WriteTxn {
    /// Begins.
    ///
    /// # Errors
    ///
    /// Those of the system's source of random bytes.
    pub fn begin(layout: &Layout, options: TxnOptions) -> Result<Self, TxnError> {
        Ok(Self {
            layout: layout.clone(),
            options,
            id: TxnId::random().map_err(super::stage::random_failed)?,
            staging: OnceLock::new(),
            making: Mutex::default(),
            contents: Mutex::default(),
            cancelled: AtomicBool::new(false),
            made: AtomicU64::new(0),
        })
    }

    /// The transaction's place on the disk, made if it has none yet.
    pub(super) fn staging(&self) -> Result<&Staging, TxnError> {
        if let Some(staging) = self.staging.get() {
            return Ok(staging);
        }
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staging) = self.staging.get() {
            return Ok(staging);
        }
        let made = Staging::begin(&self.layout, &self.options, &self.id)?;
        Ok(self.staging.get_or_init(|| made))
    }

    /// The same, to be changed.
    pub(super) fn staging_mut(&mut self) -> Result<&mut Staging, TxnError> {
        self.staging()?;
        self.staging.get_mut().ok_or(TxnError::Cancelled)
    }

    /// Whether anything was staged.
    pub(super) fn is_staged(&self) -> bool {
        self.staging.get().is_some()
    }

    /// Takes the place on the disk out: what holds it now ends the transaction.
    pub(super) fn take_staging(&mut self) -> Option<Staging> {
        self.staging.take()
    }

    /// The transaction's id.
    pub fn id(&self) -> &TxnId {
        &self.id
    }

    /// Makes every running `stage_layer` of this transaction end soon, with [`TxnError::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The tables as they are now.
    ///
    /// # Errors
    ///
    /// A lock held too long, an unreadable table.
    pub fn tables(&self) -> Result<Tables, TxnError> {
        Ok(Tables::read(&self.layout, &self.wait())?)
    }

    pub(super) fn wait(&self) -> Wait<'_> {
        Wait::new(self.options.wait, self.options.interrupt.as_deref())
    }

    pub(super) fn contents(&self) -> MutexGuard<'_, Contents> {
        // A panic while holding it cannot leave it inconsistent: every change is one insert.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes everything back.
    ///
    /// # Errors
    ///
    /// What could not be removed; the next open removes it.
    pub fn rollback(mut self) -> Result<(), TxnError> {
        self.take_staging().map_or(Ok(()), |mut staging| staging.clean_up())
    }
}

/// Logs a failure that changes nothing about the outcome.
pub(super) fn best_effort<E: std::error::Error + 'static>(what: &'static str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "could not {what}; the next open does it");
    }
}
