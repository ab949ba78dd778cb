//! Removing and syncing whole trees, without ever leaving them.

use std::ffi::OsStr;

use super::walk::{Purpose, Step, Walk};
use super::{Dir, Kind, Result, optional};

impl Dir {
    /// Removes a name with everything below it. Missing is done.
    ///
    /// A mount point inside stops it with EXDEV or EBUSY and what is mounted there is not touched: renaming a
    /// layer succeeds while its `merged` is mounted, and a careless recursive delete would empty a container.
    ///
    /// # Errors
    ///
    /// Those of openat2(2), unlinkat(2) and getdents64(2).
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        match self.meta(name)? {
            None => return Ok(()),
            Some(meta) if meta.kind != Kind::Dir => return self.unlink(name),
            Some(_) => {}
        }
        let mut walk = Walk::new(self, name, Purpose::Empty)?;
        while let Some(step) = walk.next()? {
            optional(match step {
                Step::Leaf { dir, name, .. } => dir.unlink(&name),
                Step::Leave { place: Some((parent, name)), .. } => parent.rmdir(&name),
                Step::Leave { place: None, .. } | Step::Enter { .. } => Ok(()),
            })?;
        }
        Ok(())
    }

    /// fsync of every regular file and every directory of this tree, each directory after what is in it.
    ///
    /// # Errors
    ///
    /// Those of openat2(2), fsync(2) and getdents64(2); a failed sync poisons the seam.
    pub fn sync_tree(&self) -> Result<()> {
        let mut walk = Walk::of(self, Purpose::Keep)?;
        while let Some(step) = walk.next()? {
            match step {
                // fsync and not fdatasync: owner, mode and times of the files are part of a layer.
                Step::Leaf { dir, name, kind: Kind::File } => dir.file(&name)?.sync_all()?,
                Step::Leave { dir, .. } => dir.sync()?,
                Step::Leaf { .. } | Step::Enter { .. } => {}
            }
        }
        Ok(())
    }

    /// The number of names in this tree, whatever they stand for.
    ///
    /// # Errors
    ///
    /// Those of openat2(2) and getdents64(2).
    pub fn count_tree(&self) -> Result<u64> {
        let mut walk = Walk::of(self, Purpose::Keep)?;
        let mut count = 0;
        while let Some(step) = walk.next()? {
            match step {
                Step::Leaf { .. } | Step::Enter { .. } => count += 1,
                Step::Leave { .. } => {}
            }
        }
        Ok(count)
    }
}
