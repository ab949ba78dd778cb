//! Regular files: written through the hook, read plainly.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, FallocateFlags};

use super::hook::{At, Op};
use super::{Error, Result, Seam};

/// An open regular file of the store.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    dir: Arc<Path>,
    name: PathBuf,
    seam: Seam,
    offset: u64,
}

impl File {
    pub(super) fn new(fd: OwnedFd, dir: Arc<Path>, name: &Path, seam: Seam) -> Self {
        Self { fd, dir, name: name.to_owned(), seam, offset: 0 }
    }

    fn at(&self) -> At<'_> {
        At { dir: &self.dir, name: &self.name }
    }

    /// Where the file was opened.
    pub fn path(&self) -> PathBuf {
        self.at().path()
    }

    /// Takes note of the name that the file got in its directory: what the hook and errors show from now on.
    pub fn renamed(&mut self, name: impl AsRef<Path>) {
        name.as_ref().clone_into(&mut self.name);
    }

    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// That of fstat(2).
    pub fn len(&self) -> Result<u64> {
        let stat = sys::fstat(&self.fd).map_err(|e| Error::new("fstat", self.at(), e))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// That of fstat(2).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The number of names the inode has, and the inode number.
    ///
    /// # Errors
    ///
    /// That of fstat(2).
    pub fn links_and_inode(&self) -> Result<(u64, u64)> {
        let stat = sys::fstat(&self.fd).map_err(|e| Error::new("fstat", self.at(), e))?;
        Ok((stat.st_nlink, stat.st_ino))
    }

    /// Reads at an offset until `buf` is full or the file ends; returns the count.
    ///
    /// # Errors
    ///
    /// That of pread(2).
    pub fn read_at(&self, mut offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let got = rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut *rest, offset))
                .map_err(|e| Error::new("pread", self.at(), e))?;
            if got == 0 {
                break;
            }
            done += got;
            offset += got as u64;
        }
        Ok(done)
    }

    /// Reads the whole file, refusing one longer than `limit` bytes.
    ///
    /// # Errors
    ///
    /// That of read(2), or `InvalidData` for a file over the limit.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        let len = self.len()?;
        if len > limit {
            let why = io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, more than the limit of {limit}"));
            return Err(Error::new("read", self.at(), why));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        std::fs::File::from(self.fd.try_clone().map_err(|e| Error::new("dup", self.at(), e))?)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| Error::new("read", self.at(), e))?;
        Ok(bytes)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// That of pwrite(2).
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_op(Op::Write(self.at(), offset, bytes), offset, bytes)
    }

    /// Writes the LastWrite token of a lock file; see [`Op::Token`].
    ///
    /// # Errors
    ///
    /// That of pwrite(2).
    pub fn write_token(&self, token: &[u8; 64]) -> Result<()> {
        self.write_op(Op::Token(self.at(), token), 0, token)
    }

    fn write_op(&self, op: Op<'_>, mut offset: u64, bytes: &[u8]) -> Result<()> {
        self.seam.hook.before(&op).map_err(|e| Error::new("pwrite", self.at(), e))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let put =
                rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.fd, rest, offset)).map_err(|e| Error::new("pwrite", self.at(), e))?;
            offset += put as u64;
            rest = rest.get(put..).unwrap_or_default();
        }
        self.seam.hook.done(&op);
        Ok(())
    }

    /// Writes all of `bytes` behind what this handle wrote last (a new handle starts at 0).
    ///
    /// # Errors
    ///
    /// That of pwrite(2).
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Sets where [`File::append`] goes on.
    pub fn seek_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Sets the length.
    ///
    /// # Errors
    ///
    /// That of ftruncate(2).
    pub fn truncate(&self, len: u64) -> Result<()> {
        self.seam.change("ftruncate", self.at(), Op::Truncate(self.at(), len), || sys::ftruncate(&self.fd, len))
    }

    /// Reserves the blocks of `offset..offset + len` without changing the length.
    ///
    /// # Errors
    ///
    /// That of fallocate(2); ENOTSUP and the like where the filesystem cannot.
    pub fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.seam.change("fallocate", self.at(), Op::Allocate(self.at(), offset + len), || {
            sys::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, len)
        })
    }

    /// fdatasync.
    ///
    /// # Errors
    ///
    /// That of fdatasync(2); it poisons the seam.
    pub fn sync_data(&self) -> Result<()> {
        self.seam.sync("fdatasync", self.at(), Op::SyncData(self.at()), || sys::fdatasync(&self.fd))
    }

    /// fsync, attributes included.
    ///
    /// # Errors
    ///
    /// That of fsync(2); it poisons the seam.
    pub fn sync_all(&self) -> Result<()> {
        self.seam.sync("fsync", self.at(), Op::SyncFile(self.at()), || sys::fsync(&self.fd))
    }

    /// Sets the permission bits, setuid, setgid and sticky included.
    ///
    /// # Errors
    ///
    /// That of fchmod(2).
    pub fn chmod(&self, mode: u32) -> Result<()> {
        self.seam.change("fchmod", self.at(), Op::Chmod(self.at(), mode), || sys::fchmod(&self.fd, super::dir::mode(mode)))
    }

    /// Sets owner and group.
    ///
    /// # Errors
    ///
    /// That of fchown(2).
    pub fn chown(&self, uid: u32, gid: u32) -> Result<()> {
        let (user, group) = super::dir::ids(uid, gid);
        self.seam.change("fchown", self.at(), Op::Chown(self.at(), uid, gid), || sys::fchown(&self.fd, user, group))
    }

    /// Sets access and modification time.
    ///
    /// # Errors
    ///
    /// That of utimensat(2).
    pub fn set_times(&self, times: &sys::Timestamps) -> Result<()> {
        self.seam.change("futimens", self.at(), Op::Times(self.at()), || sys::futimens(&self.fd, times))
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    ///
    /// That of fsetxattr(2).
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.seam.change("fsetxattr", self.at(), Op::SetXattr(self.at(), name, value), || {
            sys::fsetxattr(&self.fd, name, value, sys::XattrFlags::empty())
        })
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl io::Write for File {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.append(buf).map_err(|e| io::Error::new(e.kind(), e))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for &File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buf))?)
    }
}
