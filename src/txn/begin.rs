//! The first stage: a transaction that stages, with no store lock.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fsio::Dir;
use crate::ids::{LayerId, LinkId, TxnId};
use crate::journal::{Kind, Segment};
use crate::layout::{JOURNAL, Layout, LayoutError, Route, Tables, side_stage_name};
use crate::lock::{StoreLocks, Wait};
use crate::overlay::Ancestry;
use crate::plan::{WantedImage, WantedLayer};
use crate::recovery;

use super::TxnError;

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
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub declared: HashMap<LayerId, Declared>,
    /// In declaration order: parents before children.
    pub order: Vec<LayerId>,
    pub layers: HashMap<LayerId, WantedLayer>,
    pub images: Vec<WantedImage>,
    /// Of staged layers that other programs may remove: the number of names in their `diff/`.
    pub counts: HashMap<LayerId, u64>,
    /// Staged layers whose tar has an entry for `/`: it gave `diff/` its mode and owner.
    pub own_roots: HashSet<LayerId>,
}

/// A transaction that stages. Nothing of it is visible; dropping it removes all of it.
#[must_use = "a transaction does nothing until it is prepared and committed"]
pub struct WriteTxn {
    pub(super) layout: Layout,
    pub(super) options: TxnOptions,
    pub(super) id: TxnId,
    pub(super) segment: Option<Segment>,
    pub(super) route: Route,
    pub(super) stage: Dir,
    pub(super) layer_side: Dir,
    pub(super) image_side: Dir,
    /// One directory per filesystem, open since before the first write.
    pub(super) filesystems: Vec<Dir>,
    pub(super) contents: Mutex<Contents>,
    pub(super) cancelled: AtomicBool,
    /// Whether an intent is in the segment that neither Done nor Abort follows, and if so, whether it has a pivot.
    pub(super) intent_open: Option<bool>,
}

impl std::fmt::Debug for WriteTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTxn").field("id", &self.id).finish_non_exhaustive()
    }
}

impl WriteTxn {
    /// Begins: makes and locks the journal segment, proves the rename route, makes the staging directories.
    ///
    /// # Errors
    ///
    /// Those of the disk, of the layout, and a layers.lock held too long.
    pub fn begin(layout: &Layout, options: TxnOptions) -> Result<Self, TxnError> {
        let id = TxnId::random().map_err(|source| crate::fsio::Error { call: "getrandom", path: "/dev/urandom".into(), source })?;
        let journal = layout.ensure_own(JOURNAL)?;
        let mut route = Route::open(layout)?;
        let segment = Segment::create(&journal, &id)?;
        match Self::stage_dirs(layout, &options, &id, &mut route) {
            Ok((stage, layer_side, image_side)) => {
                let filesystems = filesystems(&[&stage, &layer_side, &image_side])?;
                let sync = reliable(options.sync, &filesystems)?;
                Ok(Self {
                    layout: layout.clone(),
                    options: TxnOptions { sync, ..options },
                    id,
                    segment: Some(segment),
                    route,
                    stage,
                    layer_side,
                    image_side,
                    filesystems,
                    contents: Mutex::default(),
                    cancelled: AtomicBool::new(false),
                    intent_open: None,
                })
            }
            Err(error) => {
                if recovery::sweep(layout, &route, &id).is_ok() {
                    best_effort("remove the segment", segment.remove(&journal));
                }
                recovery::tidy_tempdirs(layout, &route);
                Err(error)
            }
        }
    }

    fn stage_dirs(layout: &Layout, options: &TxnOptions, id: &TxnId, route: &mut Route) -> Result<(Dir, Dir, Dir), TxnError> {
        let wait = Wait::new(options.wait, options.interrupt.as_deref());
        let locks = StoreLocks::write_layers(&layout.layers, &wait)?;
        let proved = route.prove(id);
        drop(locks);
        proved?;
        let stage = route.begin(id)?;
        copy_label(route, &stage)?;
        let side = side_stage_name(id);
        Ok((stage, layout.layers.mkdir(&side, 0o700)?, layout.images.mkdir(&side, 0o700)?))
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

    pub(super) fn contents(&self) -> std::sync::MutexGuard<'_, Contents> {
        // A panic while holding it cannot leave it inconsistent: every change is one insert.
        self.contents.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes everything back.
    ///
    /// # Errors
    ///
    /// What could not be removed; the next open removes it.
    pub fn rollback(mut self) -> Result<(), TxnError> {
        self.clean_up()
    }

    pub(super) fn clean_up(&mut self) -> Result<(), TxnError> {
        self.abort()?;
        let Some(segment) = self.segment.take() else { return Ok(()) };
        if self.intent_open.is_some() {
            return Ok(());
        }
        recovery::sweep(&self.layout, &self.route, &self.id).map_err(recovery::RecoveryError::from)?;
        if let Some(journal) = self.layout.own(JOURNAL)? {
            segment.remove(&journal)?;
        }
        recovery::tidy_tempdirs(&self.layout, &self.route);
        Ok(())
    }
}

impl WriteTxn {
    /// Ends an intent that nothing has been done of. Durable before the markers go: an intent without markers reads as
    /// "every rename was done". On a poisoned handle neither Abort nor Done can be made durable: the intent stays open, and
    /// everything stays for the next open, which decides.
    pub(super) fn abort(&mut self) -> Result<(), TxnError> {
        if self.intent_open.is_none() || self.layout.root.seam().poisoned() {
            return Ok(());
        }
        if let Some(segment) = &mut self.segment {
            segment.append(Kind::Abort, &[])?;
            segment.sync()?;
        }
        self.intent_open = None;
        Ok(())
    }
}

impl Drop for WriteTxn {
    fn drop(&mut self) {
        best_effort("take a dropped transaction back", self.clean_up());
    }
}

/// One directory for each filesystem among these.
fn filesystems(dirs: &[&Dir]) -> Result<Vec<Dir>, TxnError> {
    let mut seen = Vec::new();
    let mut list = Vec::new();
    for dir in dirs {
        let device = dir.own_meta()?.device;
        if !seen.contains(&device) {
            seen.push(device);
            list.push((*dir).clone());
        }
    }
    Ok(list)
}

/// One syncfs where it is known to do what it says, else every file by itself.
fn reliable(wanted: SyncMode, filesystems: &[Dir]) -> Result<SyncMode, TxnError> {
    if wanted != SyncMode::Filesystem {
        return Ok(wanted);
    }
    for dir in filesystems {
        if !dir.syncfs_is_enough()? {
            tracing::info!(path = %dir.path().display(), "syncfs is not relied on here: contents are synced file by file");
            return Ok(SyncMode::Files);
        }
    }
    Ok(wanted)
}

/// Gives the staging directory the SELinux label of `overlay/`: files take the type of the directory they are made
/// in and keep it on rename.
fn copy_label(route: &Route, stage: &Dir) -> Result<(), LayoutError> {
    const KEY: &[u8] = b"security.selinux";
    if let Some(label) = route.overlay.xattr("l", KEY)? {
        stage.set_xattr_self(KEY, &label)?;
    }
    Ok(())
}

/// Logs a failure that changes nothing about the outcome.
pub(super) fn best_effort<E: std::error::Error + 'static>(what: &'static str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "could not {what}; the next open does it");
    }
}
