//! Settling: what podman pulled, and synced nothing of, is verified, brought to the medium and sealed.
//!
//! The order, which is what makes a seal true:
//!
//! 1. the filesystems' handles are opened: write errors are told to a handle that was open when they happened;
//! 2. the tables are read, under shared locks, which are released;
//! 3. the unsealed layers are verified, byte for byte, under no lock;
//! 4. one syncfs of each filesystem (or every file by itself): it covers what was verified, and the tables and documents;
//! 5. under layers.lock each verified layer is looked at again, and sealed if it is still that one: temporary file, fdatasync,
//!    rename, fsync;
//! 6. the clean point is written.
//!
//! Invariants:
//! - S1: a layer is sealed only if its record, LINKID and `diff/` are those that were verified, and a sync that began after
//!   they were verified covers them. Other programs replace layers, they do not change them: another tree has another LINKID,
//!   inode number or birth time.
//! - S2: when [`settle`] returns Ok, all of every image whose layers are [`Outcome::Sealed`] or [`Outcome::AlreadySealed`]
//!   survives a power cut: contents, tar-splits, records, documents, names.
//! - S3: what is damaged, held, or not to be verified keeps nothing else from being settled.
//! - S4: no store lock is held while anything is verified or synced by syncfs; under it at most [`BATCH`] layers are sealed at
//!   a time.
//! - S5: a store in which nobody has written since is not written to, and not synced, either.
//! - S6: stopped at any point it has sealed nothing that is not true, and the next settle goes on from there.

mod documents;
mod look;
mod medium;
mod seal;

use crate::clean::{CleanPoint, Seen};
use crate::fsio;
use crate::ids::{ImageId, LayerId, LinkId};
use crate::layout::{Layout, Tables, TablesError};
use crate::lock::{LockError, StoreLocks};
use crate::metadata::{Image, ImageRef, LoadError, LookupError};
use crate::overlay::SealError;
use crate::store::{Store, StoreError};
use crate::txn::SyncMode;

use look::Wanted;
use medium::Medium;

/// How many layers are sealed before the lock is given to others.
pub const BATCH: usize = 16;
/// The most layers that are verified at once.
const MAX_JOBS: usize = 64;

/// How to settle.
#[derive(Debug, Clone)]
pub struct SettleOptions {
    /// How many layers are verified at once; 64 at most.
    pub jobs: usize,
    /// How contents reach the medium; not [`SyncMode::None`].
    pub sync: SyncMode,
}

impl Default for SettleOptions {
    fn default() -> Self {
        Self { jobs: 2, sync: SyncMode::default() }
    }
}

/// Why a layer was not verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Its record says that it was never finished.
    #[error("it is flagged incomplete; pull its image again")]
    Incomplete,
    /// Its files have other owners than its tar says.
    #[error("its files are shifted by an id mapping, so that they cannot be verified")]
    IdMapped,
    /// It was never a tar: a container's.
    #[error("it has neither a digest nor a tar-split, so that it cannot be verified")]
    NoTarSplit,
    /// A layer that it is built on has no readable LINKID.
    #[error("layer {parent}, which it is built on, has no readable link file; pull the image again")]
    Parent {
        /// That layer.
        parent: LayerId,
    },
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its seal holds: verified and on the medium before.
    AlreadySealed,
    /// Verified, on the medium, sealed.
    Sealed,
    /// It is not what its tar-split, record and parents say.
    Damaged {
        /// What is wrong.
        why: String,
    },
    /// Somebody held or changed it.
    Busy {
        /// Who, or what they did.
        who: String,
    },
    /// It cannot be verified. It is on the medium, but for [`Skip::Incomplete`] and [`Skip::Parent`].
    Skipped {
        /// Why not.
        why: Skip,
    },
    /// It could not be read or sealed.
    Failed {
        /// Why not.
        why: String,
    },
    /// It was removed since the tables were read: nothing is left to settle.
    Gone,
    /// It was not come to before the settling was stopped.
    Stopped,
}

impl Outcome {
    /// Whether the layer is verified and on the medium.
    pub fn is_sound(&self) -> bool {
        matches!(self, Self::AlreadySealed | Self::Sealed)
    }
}

/// A layer that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledLayer {
    /// Its id.
    pub id: LayerId,
    /// Its LINKID, where it is known.
    pub link: Option<LinkId>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What is wrong with an image itself: its chain of layers is not one, or its documents are not what its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenImage {
    /// Its id, as its record has it.
    pub id: String,
    /// What is wrong.
    pub why: String,
}

/// What settling came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// The images.
    pub images: Vec<ImageId>,
    /// Their layers, parents before children, each once.
    pub layers: Vec<SettledLayer>,
    /// What is wrong with images themselves.
    pub broken: Vec<BrokenImage>,
    /// What was asked for and is not in the store.
    pub unknown: Vec<LookupError>,
    /// Whether anything had to be synced.
    pub synced: bool,
    /// Whether the clean point says all of this. Not where its lock could not be had.
    pub noted: bool,
}

/// Why nothing more was settled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum SettleError {
    #[error("there is no store at {}; the first pull makes one", path.display())]
    NoStore { path: std::path::PathBuf },
    #[error("settling is syncing; settle with the sync mode fs or files")]
    NoSync,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the seal of a layer cannot be written")]
    Seal(#[from] SealError),
    #[error(transparent)]
    Disk(#[from] fsio::Error),
}

impl SettleError {
    fn lock(&self) -> Option<&LockError> {
        match self {
            Self::Lock(error) | Self::Tables(TablesError::Lock(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether waiting and trying again may help: something was held by somebody else.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Store(error) => error.is_busy(),
            _ => matches!(self.lock(), Some(LockError::Busy { .. })),
        }
    }

    /// Whether waiting for a lock was given up because the caller wanted no more of it.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Store(error) => error.is_cancelled(),
            _ => matches!(self.lock(), Some(LockError::Cancelled { .. })),
        }
    }
}

/// What the store was when settling began.
struct Moment {
    tables: Tables,
    seen: Option<Seen>,
}

impl Moment {
    fn see(layout: &Layout, store: &Store) -> Result<Self, SettleError> {
        let locked = StoreLocks::read(&layout.layers, &layout.images, &layout.containers, &store.waiting())?;
        Ok(Self { tables: Tables::load(layout)?, seen: Seen::of(layout, &locked)? })
    }
}

/// Verifies these images' layers, or those of all images, brings everything to the medium, and seals what is sound.
///
/// An interrupt of the store's options ends the verifying between two layers; what was verified by then is sealed.
///
/// # Errors
///
/// A store that cannot be read or synced. What is wrong with a single image or layer is told in [`Settled`].
pub fn settle(store: &Store, refs: &[ImageRef], options: &SettleOptions) -> Result<Settled, SettleError> {
    if options.sync == SyncMode::None {
        return Err(SettleError::NoSync);
    }
    let layout = store.layout_to_change()?.ok_or_else(|| SettleError::NoStore { path: store.graphroot().to_owned() })?;
    // Before anything is read: of a write that fails from now on, the sync tells.
    let medium = Medium::open(&layout, options.sync)?;
    let moment = Moment::see(&layout, store)?;
    let before = CleanPoint::load(&layout)?;

    let (images, unknown) = find(&moment.tables, refs);
    let wanted = Wanted::of(&layout, &moment.tables, &images)?;
    let looks = look::all(store, &layout, &moment.tables, &wanted, options.jobs.clamp(1, MAX_JOBS));

    let verified = looks.iter().any(|look| look.verified.is_some());
    let known = moment.seen.is_some() && before.and_then(|point| point.tables) == moment.seen;
    // Whoever wants no more waits for a sync only for the sake of what was verified.
    let synced = verified || !known && !store.interrupted();
    if synced {
        medium.sync(&layout, &moment.tables, &looks)?;
    }
    let images = images.iter().filter_map(|image| image.id().cloned()).collect();
    let layers = seal::all(store, &layout, looks)?;
    let told = if synced { seal::remember(store, &layout)? } else { true };
    let tables = if told && (synced || known) { moment.seen } else { None };
    let noted = seal::note(store, &layout, &moment.tables.layers, tables.as_ref(), &layers)?;
    Ok(Settled { images, layers, broken: wanted.broken, unknown, synced, noted: noted && told })
}

/// The images that are meant, each once, and what is not in the store.
fn find<'a>(tables: &'a Tables, refs: &[ImageRef]) -> (Vec<&'a Image>, Vec<LookupError>) {
    if refs.is_empty() {
        return (tables.images.iter().collect(), Vec::new());
    }
    let (mut images, mut unknown): (Vec<&Image>, _) = (Vec::new(), Vec::new());
    for wanted in refs {
        match tables.images.find(wanted) {
            Ok(found) => images.extend(tables.images.get(&found.id).filter(|image| !images.iter().any(|seen| seen.id() == image.id()))),
            Err(error) => unknown.push(error),
        }
    }
    (images, unknown)
}
