//! A directory of a transaction inside `overlay/tempdirs/`, by Go's own protocol (store-layout 7.5): where staging in
//! `cstor-rs/` cannot be renamed into `overlay/`.
//!
//! Programs of storage 1.59 and newer remove what has no locked `lock-<n>` beside it, at every start, and may be killed
//! half-way; those of 1.45 to 1.58 do not know the locks and remove `tempdirs/` whole, under layers.lock. So staging may go
//! at any moment: [`GoTemp::is_intact`] is asked under layers.lock, before anything of it is used.

use std::sync::atomic::AtomicBool;

use crate::fsio::{self, Dir, File, optional};
use crate::ids::TxnId;

use super::{LayoutError, TEMPDIRS, TRASH, temp_dir_name, temp_lock_name};

/// How often the making is begun again that others undid.
const TRIES: usize = 32;
/// The staged layers, in the temporary directory.
const STAGE: &str = "stage";

/// The directory and its lock, held.
#[derive(Debug)]
pub(super) struct GoTemp {
    tempdirs: Dir,
    dir: Dir,
    lock: File,
    /// Where this transaction stages, if it lives; what a dead one staged is not looked at.
    pub(super) stage: Option<Dir>,
    /// Whether `tempdirs/` was made for this.
    pub(super) made: AtomicBool,
}

impl Drop for GoTemp {
    fn drop(&mut self) {
        // Unlock, then close: after close alone a forked child still holds it.
        if let Err(error) = self.lock.unlock() {
            tracing::error!(error = &error as &dyn std::error::Error, "the lock of a temporary directory could not be released");
        }
    }
}

impl GoTemp {
    /// Makes the directory of a transaction that begins, with room to stage in.
    ///
    /// # Errors
    ///
    /// Those of the disk; [`LayoutError::NoTemp`] where others remove it again and again.
    pub(super) fn create(overlay: &Dir, txn: &TxnId) -> Result<Self, LayoutError> {
        let mut temp = Self::take(overlay, txn)?;
        temp.stage = Some(temp.dir.mkdir(STAGE, 0o700)?);
        Ok(temp)
    }

    /// Takes up the directory of a dead transaction, or makes it anew where others have removed it: only to throw into.
    ///
    /// # Errors
    ///
    /// As [`GoTemp::create`].
    pub(super) fn take(overlay: &Dir, txn: &TxnId) -> Result<Self, LayoutError> {
        let mut made = false;
        for _ in 0..TRIES {
            if let Some(temp) = Self::try_take(overlay, txn, &mut made)? {
                return Ok(temp);
            }
            // Somebody removes the directory this very moment.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(LayoutError::NoTemp { path: overlay.path().join(TEMPDIRS).join(temp_lock_name(txn)) })
    }

    fn try_take(overlay: &Dir, txn: &TxnId, made: &mut bool) -> Result<Option<Self>, LayoutError> {
        let tempdirs = match optional(overlay.dir(TEMPDIRS))? {
            Some(there) => there,
            None => match overlay.mkdir(TEMPDIRS, 0o700) {
                Ok(dir) => {
                    *made = true;
                    dir
                }
                Err(error) if error.is(rustix::io::Errno::EXIST) || error.not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        let name = temp_lock_name(txn);
        let Some(lock) = optional(tempdirs.file_or_create(&name, 0o600))? else { return Ok(None) };
        if !lock.try_lock(true)? {
            return Ok(None);
        }
        let held = Held { lock: Some(lock) };
        // Taken for dead between its making and its lock, it may be gone again.
        if !held.is_at(&tempdirs, &name)? {
            return Ok(None);
        }
        let Some(dir) = optional(tempdirs.ensure_dir(temp_dir_name(txn), 0o700))? else { return Ok(None) };
        Ok(held.keep().map(|lock| Self { tempdirs, dir, lock, stage: None, made: AtomicBool::new(*made) }))
    }

    /// Whether the directory and its lock still are what was made; to be asked under layers.lock.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(super) fn is_intact(&self, overlay: &Dir, txn: &TxnId) -> fsio::Result<bool> {
        let Some(tempdirs) = optional(overlay.dir(TEMPDIRS))? else { return Ok(false) };
        let same_dir = tempdirs.meta(temp_dir_name(txn))?.map(|meta| meta.inode) == Some(self.dir.own_meta()?.inode);
        let (links, inode) = self.lock.links_and_inode()?;
        let same_lock = tempdirs.meta(temp_lock_name(txn))?.map(|meta| meta.inode) == Some(inode);
        let same_stage = match &self.stage {
            Some(stage) => self.dir.meta(STAGE)?.map(|meta| meta.inode) == Some(stage.own_meta()?.inode),
            None => true,
        };
        Ok(links > 0 && same_dir && same_lock && same_stage)
    }

    /// `trash/` in it, if it exists.
    pub(super) fn trash(&self) -> fsio::Result<Option<Dir>> {
        optional(self.dir.dir(TRASH))
    }

    /// `trash/` in it, made if missing.
    pub(super) fn ensure_trash(&self) -> fsio::Result<Dir> {
        self.dir.ensure_dir(TRASH, 0o700)
    }

    /// Removes the directory, then the lock, as Go does.
    ///
    /// # Errors
    ///
    /// Those of the disk; what others have removed is no error.
    pub(super) fn remove(&self, txn: &TxnId) -> fsio::Result<()> {
        self.tempdirs.remove_tree(temp_dir_name(txn))?;
        optional(self.tempdirs.unlink(temp_lock_name(txn)))?;
        Ok(())
    }
}

/// A lock that is released unless it is kept.
struct Held {
    lock: Option<File>,
}

impl Held {
    fn is_at(&self, dir: &Dir, name: &str) -> fsio::Result<bool> {
        let Some(lock) = &self.lock else { return Ok(false) };
        let (links, inode) = lock.links_and_inode()?;
        Ok(links > 0 && dir.meta(name)?.is_some_and(|meta| meta.inode == inode))
    }

    fn keep(mut self) -> Option<File> {
        self.lock.take()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the lock of a temporary directory could not be released");
        }
    }
}
