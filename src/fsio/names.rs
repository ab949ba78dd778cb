//! The verbs on names in a directory: rename, link, make, remove.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, FileType, RenameFlags};

use super::dir::mode;
use super::hook::Op;
use super::{Dir, Mode, Result};

impl Dir {
    /// Renames over whatever has the new name. Both directories must be synced by the caller.
    ///
    /// # Errors
    ///
    /// That of renameat(2).
    pub fn rename(&self, from: impl AsRef<OsStr>, to_dir: &Dir, to: impl AsRef<OsStr>) -> Result<()> {
        let ((from, at), (to, to_at)) = (self.name(&from)?, to_dir.name(&to)?);
        self.seam.change("rename", to_at, Op::Rename(at, to_at), || sys::renameat(&*self.fd, from, &*to_dir.fd, to))
    }

    /// Renames to a name that nothing has.
    ///
    /// # Errors
    ///
    /// That of renameat2(2); EEXIST if the new name is taken.
    pub fn rename_new(&self, from: impl AsRef<OsStr>, to_dir: &Dir, to: impl AsRef<OsStr>) -> Result<()> {
        let ((from, at), (to, to_at)) = (self.name(&from)?, to_dir.name(&to)?);
        self.seam
            .change("rename", to_at, Op::Rename(at, to_at), || sys::renameat_with(&*self.fd, from, &*to_dir.fd, to, RenameFlags::NOREPLACE))
    }

    /// Two names exchange what they stand for.
    ///
    /// # Errors
    ///
    /// That of renameat2(2).
    pub fn exchange(&self, name: impl AsRef<OsStr>, other_dir: &Dir, other: impl AsRef<OsStr>) -> Result<()> {
        let ((name, at), (other, other_at)) = (self.name(&name)?, other_dir.name(&other)?);
        self.seam.change("exchange", at, Op::Exchange(at, other_at), || {
            sys::renameat_with(&*self.fd, name, &*other_dir.fd, other, RenameFlags::EXCHANGE)
        })
    }

    /// Gives a file a second name; a link is not followed.
    ///
    /// # Errors
    ///
    /// That of linkat(2).
    pub fn link(&self, from: impl AsRef<OsStr>, to_dir: &Dir, to: impl AsRef<OsStr>) -> Result<()> {
        let ((from, at), (to, to_at)) = (self.name(&from)?, to_dir.name(&to)?);
        self.seam.change("link", to_at, Op::Link(at, to_at), || sys::linkat(&*self.fd, from, &*to_dir.fd, to, AtFlags::empty()))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    ///
    /// That of symlinkat(2).
    pub fn symlink(&self, text: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<()> {
        let (name, at) = self.name(&name)?;
        let text = text.as_ref();
        self.seam.change("symlink", at, Op::Symlink(at, text), || sys::symlinkat(text, &*self.fd, name))
    }

    /// Makes a device, fifo or socket. The mode is subject to the umask; set it with [`Dir::chmod`].
    ///
    /// # Errors
    ///
    /// That of mknodat(2).
    pub fn mknod(&self, name: impl AsRef<OsStr>, kind: FileType, bits: Mode, (major, minor): (u32, u32)) -> Result<()> {
        let (name, at) = self.name(&name)?;
        let dev = sys::makedev(major, minor);
        let op = Op::Mknod(at, kind.as_raw_mode() | bits, dev);
        self.seam.change("mknod", at, op, || sys::mknodat(&*self.fd, name, kind, mode(bits), dev))
    }

    /// Removes a name that is no directory.
    ///
    /// # Errors
    ///
    /// That of unlinkat(2).
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let (name, at) = self.name(&name)?;
        self.seam.change("unlink", at, Op::Unlink(at), || sys::unlinkat(&*self.fd, name, AtFlags::empty()))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// That of unlinkat(2).
    pub fn rmdir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let (name, at) = self.name(&name)?;
        self.seam.change("rmdir", at, Op::Rmdir(at), || sys::unlinkat(&*self.fd, name, AtFlags::REMOVEDIR))
    }
}
