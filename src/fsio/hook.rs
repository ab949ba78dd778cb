//! The fault seam: every verb that changes the disk announces itself here first.
//!
//! Tests count, fail, kill or record at this point. Because no verb can bypass it, the list of crash points
//! is complete by construction: a new durable step is a new test case without touching the tests.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A name inside a directory, joined only when somebody asks for the path.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The directory as it was opened.
    pub dir: &'a Path,
    /// The name in it; empty for the directory itself.
    pub name: &'a Path,
}

impl At<'_> {
    /// The whole path.
    pub fn path(&self) -> PathBuf {
        if self.name.as_os_str().is_empty() { self.dir.to_owned() } else { self.dir.join(self.name) }
    }
}

impl fmt::Debug for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.path())
    }
}

/// One change of the disk, or one barrier.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Op<'a> {
    /// mkdir with exactly this mode, whatever the umask.
    Mkdir(At<'a>, u32),
    /// A new empty regular file.
    Create(At<'a>, u32),
    /// Bytes written at an offset.
    Write(At<'a>, u64, &'a [u8]),
    /// The file's length is set.
    Truncate(At<'a>, u64),
    /// Blocks are reserved up to this length, the length itself is kept.
    Allocate(At<'a>, u64),
    /// fdatasync of a file.
    SyncData(At<'a>),
    /// fsync of a file.
    SyncFile(At<'a>),
    /// fsync of a directory.
    SyncDir(At<'a>),
    /// syncfs of the filesystem that holds the path.
    SyncFs(At<'a>),
    /// rename, replacing what is there.
    Rename(At<'a>, At<'a>),
    /// Two names exchange what they stand for.
    Exchange(At<'a>, At<'a>),
    /// A second name for an inode: existing, then new.
    Link(At<'a>, At<'a>),
    /// A symbolic link and its text.
    Symlink(At<'a>, &'a Path),
    /// A device or fifo: mode with its type bits, and the device number.
    Mknod(At<'a>, u32, u64),
    /// unlink of anything but a directory.
    Unlink(At<'a>),
    /// rmdir.
    Rmdir(At<'a>),
    /// The permission bits.
    Chmod(At<'a>, u32),
    /// Owner and group.
    Chown(At<'a>, u32, u32),
    /// Access and modification time.
    Times(At<'a>),
    /// An extended attribute: name, value.
    SetXattr(At<'a>, &'a [u8], &'a [u8]),
    /// An extended attribute is removed: name.
    RemoveXattr(At<'a>, &'a [u8]),
    /// The LastWrite token in a lock file: never synced, by design.
    Token(At<'a>, &'a [u8]),
}

/// What stands between the store and the disk in a test.
pub trait Hook: Send + Sync {
    /// Called before the change; an error is returned to the caller and the change is not made.
    ///
    /// # Errors
    ///
    /// Whatever the test wants to see returned.
    fn before(&self, op: &Op<'_>) -> io::Result<()>;

    /// Called after a change that succeeded.
    fn done(&self, _op: &Op<'_>) {}
}

/// Does nothing: what production uses.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoHook;

impl Hook for NoHook {
    fn before(&self, _: &Op<'_>) -> io::Result<()> {
        Ok(())
    }
}
