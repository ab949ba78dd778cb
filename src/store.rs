//! A store: opened (and recovered), read, changed by transactions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::fsio::{Hook, NoHook, Seam};
use crate::ids::{ImageId, Owner};
use crate::layout::{Layout, LayoutError, Tables, TablesError};
use crate::lock::{LockError, Wait};
use crate::pins::{self, PinError, Pinned};
use crate::read::Snapshot;
use crate::recovery::{self, RecoveryError, Report};
use crate::txn::{TxnError, TxnOptions, WriteTxn};

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    graphroot: PathBuf,
    runroot: PathBuf,
    hook: Arc<dyn Hook>,
    wait: Duration,
    interrupt: Option<Arc<AtomicBool>>,
}

impl StoreOptions {
    /// A store at this graph root, with this run root.
    pub fn new(graphroot: impl Into<PathBuf>, runroot: impl Into<PathBuf>) -> Self {
        Self {
            graphroot: graphroot.into(),
            runroot: runroot.into(),
            hook: Arc::new(NoHook),
            wait: Duration::from_secs(60),
            interrupt: None,
        }
    }

    /// Puts a hook before every change of the disk: for tests and for counting.
    #[must_use]
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.hook = hook;
        self
    }

    /// Ends waiting for a lock, in whatever is done with the store, soon after this is true.
    #[must_use]
    pub fn interrupt(mut self, interrupt: Arc<AtomicBool>) -> Self {
        self.interrupt = Some(interrupt);
        self
    }

    /// The opened directories of a store that may be damaged.
    ///
    /// # Errors
    ///
    /// As [`Layout::open_for_check`].
    pub(crate) fn layout_for_check(&self) -> Result<Layout, LayoutError> {
        Layout::open_for_check(&self.graphroot, &self.runroot, &Seam::new(self.hook.clone()))
    }

    fn waiting(&self) -> Wait<'_> {
        Wait::new(self.wait, self.interrupt.as_deref())
    }

    /// How long to wait for a lock that another process holds; 60 s unless told.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions").field("graphroot", &self.graphroot).field("runroot", &self.runroot).finish_non_exhaustive()
    }
}

/// Why a store cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum StoreError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("a sync failed earlier; what was written since may be lost, open the store again")]
    Poisoned,
}

/// A store of the overlay driver.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    seam: Seam,
    report: Report,
}

impl StoreError {
    /// The lock that could not be had.
    fn lock(&self) -> Option<&LockError> {
        match self {
            Self::Tables(TablesError::Lock(error)) | Self::Recovery(RecoveryError::Lock(error)) | Self::Pin(PinError::Lock(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// Whether waiting and trying again may help: something was held by somebody else.
    pub fn is_busy(&self) -> bool {
        matches!(self.lock(), Some(LockError::Busy { .. })) || matches!(self, Self::Recovery(RecoveryError::Poisoned { .. }))
    }

    /// Whether waiting for a lock was given up because the caller wanted no more of it.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.lock(), Some(LockError::Cancelled { .. }))
    }
}

impl Store {
    /// Opens a store for reading and writing, and ends what a crash left half done. A store that does not exist is
    /// made by its first transaction.
    ///
    /// # Errors
    ///
    /// A store of another driver or owner, a recovery that could not run.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let seam = Seam::new(options.hook.clone());
        let opened = match Layout::open(&options.graphroot, &options.runroot, &seam) {
            // As podman does: where there are no containers, nothing is lost with their directory.
            Err(LayoutError::NoContainers { .. }) => Layout::create(&options.graphroot, &options.runroot, &seam),
            other => other,
        };
        let report = match opened {
            Ok(layout) => recovery::run(&layout, &options.waiting())?,
            Err(LayoutError::NoStore { .. }) => Report::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { options, seam, report })
    }

    /// Opens a store for reading only: nothing is recovered, nothing written.
    ///
    /// # Errors
    ///
    /// A store of another driver or owner.
    pub fn open_read_only(options: StoreOptions) -> Result<Self, StoreError> {
        let seam = Seam::new(options.hook.clone());
        match Layout::open(&options.graphroot, &options.runroot, &seam) {
            Ok(_) | Err(LayoutError::NoStore { .. }) => Ok(Self { options, seam, report: Report::default() }),
            Err(error) => Err(error.into()),
        }
    }

    /// How long to wait for locks here.
    pub(crate) fn waiting(&self) -> Wait<'_> {
        self.options.waiting()
    }

    /// Whether whoever opened the store wants no more of it.
    pub(crate) fn interrupted(&self) -> bool {
        self.options.interrupt.as_ref().is_some_and(|interrupt| interrupt.load(Ordering::Acquire))
    }

    /// What opening the store has recovered.
    pub fn recovered(&self) -> &Report {
        &self.report
    }

    /// The graph root.
    pub fn graphroot(&self) -> &Path {
        &self.options.graphroot
    }

    /// The run root.
    pub fn runroot(&self) -> &Path {
        &self.options.runroot
    }

    /// The opened directories; `None` where there is no store yet.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn layout(&self) -> Result<Option<Layout>, StoreError> {
        match Layout::open(&self.options.graphroot, &self.options.runroot, &self.seam) {
            Ok(layout) => Ok(Some(layout)),
            Err(LayoutError::NoStore { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The store as it is now; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// A lock held too long, an unreadable table.
    pub fn read(&self) -> Result<Option<Snapshot>, StoreError> {
        match self.layout()? {
            Some(layout) => Ok(Some(Snapshot::new(Tables::read(&layout, &self.options.waiting())?))),
            None => Ok(None),
        }
    }

    /// Keeps an image from being pruned by us until [`Store::unpin`] with the same owner; durable when it returns.
    ///
    /// # Errors
    ///
    /// As [`pins::pin`]; a poisoned handle.
    pub fn pin(&self, image: &ImageId, owner: &Owner) -> Result<(), StoreError> {
        let missing = || PinError::NoImage { image: image.clone(), path: self.options.graphroot.clone() };
        let layout = self.layout_to_change()?.ok_or_else(missing)?;
        Ok(pins::pin(&layout, &self.options.waiting(), image, owner)?)
    }

    /// Ends a pin; says whether there was one.
    ///
    /// # Errors
    ///
    /// As [`pins::unpin`]; a poisoned handle.
    pub fn unpin(&self, image: &ImageId, owner: &Owner) -> Result<bool, StoreError> {
        match self.layout_to_change()? {
            Some(layout) => Ok(pins::unpin(&layout, &self.options.waiting(), image, owner)?),
            None => Ok(false),
        }
    }

    /// The pinned images with all who pin them.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn pins(&self) -> Result<Pinned, StoreError> {
        match self.layout()? {
            Some(layout) => Ok(pins::pinned(&layout).map_err(PinError::Disk)?),
            None => Ok(Pinned::new()),
        }
    }

    pub(crate) fn layout_to_change(&self) -> Result<Option<Layout>, StoreError> {
        if self.seam.poisoned() { Err(StoreError::Poisoned) } else { self.layout() }
    }

    /// Begins a transaction, making the store if there is none.
    ///
    /// # Errors
    ///
    /// As [`WriteTxn::begin`]; a poisoned handle.
    pub fn begin(&self, options: TxnOptions) -> Result<WriteTxn, TxnError> {
        if self.seam.poisoned() {
            return Err(TxnError::Poisoned);
        }
        let layout = Layout::create(&self.options.graphroot, &self.options.runroot, &self.seam)?;
        WriteTxn::begin(&layout, TxnOptions { wait: self.options.wait, interrupt: self.options.interrupt.clone(), ..options })
    }
}
