//! A directory of a transaction inside `overlay/tempdirs/`, by Go's own protocol (store-layout 7.5): where staging in
//! `cstor-rs/` cannot be renamed into `overlay/`.
//!
//! Programs of storage 1.59 and newer remove what has no locked `lock-<n>` beside it, at every start, and may be killed
//! half-way; those of 1.45 to 1.58 do not know the locks and remove `tempdirs/` whole, under layers.lock. So staging may go
//! at any moment: [`GoTemp::is_intact`] is asked under layers.lock, before anything of it is used. Names are never used
//! again: Go does not look whether a lock that it has opened still has its name.

use crate::fsio::{self, Dir, File, optional};
use crate::ids::TxnId;

use super::{LayoutError, TEMPDIRS, TRASH, TempName};

/// How often the making is begun again that others undid.
const TRIES: usize = 32;
/// The staged layers, in the temporary directory.
const STAGE: &str = "stage";

/// The directory and its lock, held.
#[derive(Debug)]
pub(super) struct GoTemp {
    tempdirs: Dir,
    dir: Dir,
    lock: Lock,
    pub(super) name: TempName,
    /// Where this transaction stages, if it lives; what a dead one staged is not looked at.
    pub(super) stage: Option<Dir>,
    /// Whether `tempdirs/` was made for this.
    pub(super) made: bool,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Unlock, then close: after close alone a forked child still holds it.
        if let Err(error) = self.0.unlock() {
            tracing::error!(error = &error as &dyn std::error::Error, "the lock of a temporary directory could not be released");
        }
    }
}

impl Lock {
    /// `None` where somebody else has it, or it has lost its name.
    fn take(file: File, dir: &Dir, name: &str) -> fsio::Result<Option<Self>> {
        if !file.try_lock(true)? {
            return Ok(None);
        }
        let lock = Self(file);
        // Taken for dead between its making and its lock, it may be gone again.
        Ok(lock.is_at(dir, name)?.then_some(lock))
    }

    fn is_at(&self, dir: &Dir, name: &str) -> fsio::Result<bool> {
        let (links, inode) = self.0.links_and_inode()?;
        Ok(links > 0 && dir.meta(name)?.is_some_and(|meta| meta.inode == inode))
    }
}

impl GoTemp {
    /// Makes a directory for a transaction, with room to throw into.
    ///
    /// # Errors
    ///
    /// Those of the disk; [`LayoutError::NoTemp`] where others remove it again and again.
    pub(super) fn create(overlay: &Dir, txn: &TxnId, made: bool) -> Result<Self, LayoutError> {
        let mut made = made;
        for _ in 0..TRIES {
            if let Some(temp) = Self::try_create(overlay, TempName::new(txn)?, &mut made)? {
                return Ok(temp);
            }
        }
        Err(LayoutError::NoTemp { path: overlay.path().join(TEMPDIRS) })
    }

    /// The same, with room to stage in.
    ///
    /// # Errors
    ///
    /// As [`GoTemp::create`].
    pub(super) fn create_stage(overlay: &Dir, txn: &TxnId, made: bool) -> Result<(Self, Dir), LayoutError> {
        let mut temp = Self::create(overlay, txn, made)?;
        let stage = temp.dir.mkdir(STAGE, 0o700)?;
        temp.stage = Some(stage.clone());
        Ok((temp, stage))
    }

    /// `None` where somebody removes all of it this very moment.
    fn try_create(overlay: &Dir, name: TempName, made: &mut bool) -> Result<Option<Self>, LayoutError> {
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
        let Some(file) = optional(tempdirs.create(name.lock(), 0o600))? else { return Ok(None) };
        let Some(lock) = Lock::take(file, &tempdirs, &name.lock())? else { return Ok(None) };
        let Some(dir) = optional(tempdirs.mkdir(name.dir(), 0o700))? else { return Ok(None) };
        Ok(Some(Self { tempdirs, dir, lock, name, stage: None, made: *made }))
    }

    /// Whether the directory and its lock still are what was made; to be asked under layers.lock.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(super) fn is_intact(&self, overlay: &Dir) -> fsio::Result<bool> {
        let Some(tempdirs) = optional(overlay.dir(TEMPDIRS))? else { return Ok(false) };
        let inode = |dir: &Dir, name: &str| -> fsio::Result<Option<u64>> { Ok(dir.meta(name)?.map(|meta| meta.inode)) };
        let same_dir = inode(&tempdirs, &self.name.dir())? == Some(self.dir.own_meta()?.inode);
        let same_stage = match &self.stage {
            Some(stage) => inode(&self.dir, STAGE)? == Some(stage.own_meta()?.inode),
            None => true,
        };
        Ok(same_dir && same_stage && self.lock.is_at(&tempdirs, &self.name.lock())?)
    }

    /// Brings its names to the medium, from `overlay/` on.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(super) fn sync_name(&self, overlay: &Dir) -> fsio::Result<()> {
        self.dir.sync()?;
        self.tempdirs.sync()?;
        overlay.sync()
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
    pub(super) fn remove(&self) -> fsio::Result<()> {
        remove(&self.tempdirs, &self.name)
    }
}

fn remove(tempdirs: &Dir, name: &TempName) -> fsio::Result<()> {
    tempdirs.remove_tree(name.dir())?;
    optional(tempdirs.unlink(name.lock()))?;
    Ok(())
}

/// Removes the directory of a dead transaction, under its lock. Where somebody else has that, it is being removed already.
///
/// # Errors
///
/// Those of the disk.
pub(super) fn remove_dead(tempdirs: &Dir, name: &TempName) -> fsio::Result<()> {
    let Some(file) = optional(tempdirs.file_or_create(name.lock(), 0o600))? else { return Ok(()) };
    match Lock::take(file, tempdirs, &name.lock())? {
        Some(_held) => remove(tempdirs, name),
        None => Ok(()),
    }
}
