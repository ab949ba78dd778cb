//! The verbs on attributes: mode, owner, times, extended attributes.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::{self as sys, AtFlags};

use super::dir::{ids, mode};
use super::hook::Op;
use super::{Dir, Error, Mode, Result};

impl Dir {
    /// Sets the permission bits of a name. It must not be a link: fchmodat follows links.
    ///
    /// # Errors
    ///
    /// That of fchmodat(2).
    pub fn chmod(&self, name: impl AsRef<OsStr>, bits: Mode) -> Result<()> {
        let (name, at) = self.name(&name)?;
        self.seam.change("fchmodat", at, Op::Chmod(at, bits), || sys::chmodat(&*self.fd, name, mode(bits), AtFlags::empty()))
    }

    /// Sets the permission bits of this directory.
    ///
    /// # Errors
    ///
    /// That of fchmod(2).
    pub fn chmod_self(&self, bits: Mode) -> Result<()> {
        self.seam.change("fchmod", self.here(), Op::Chmod(self.here(), bits), || sys::fchmod(&*self.fd, mode(bits)))
    }

    /// Sets owner and group of a name; a link is not followed.
    ///
    /// # Errors
    ///
    /// That of fchownat(2).
    pub fn chown(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<()> {
        let (name, at) = self.name(&name)?;
        let (user, group) = ids(uid, gid);
        self.seam.change("fchownat", at, Op::Chown(at, uid, gid), || sys::chownat(&*self.fd, name, user, group, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Sets owner and group of this directory.
    ///
    /// # Errors
    ///
    /// That of fchown(2).
    pub fn chown_self(&self, uid: u32, gid: u32) -> Result<()> {
        let (user, group) = ids(uid, gid);
        self.seam.change("fchown", self.here(), Op::Chown(self.here(), uid, gid), || sys::fchown(&*self.fd, user, group))
    }

    /// Sets access and modification time of a name; a link is not followed.
    ///
    /// # Errors
    ///
    /// That of utimensat(2).
    pub fn set_times(&self, name: impl AsRef<OsStr>, times: &sys::Timestamps) -> Result<()> {
        let (name, at) = self.name(&name)?;
        self.seam.change("utimensat", at, Op::Times(at), || sys::utimensat(&*self.fd, name, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Sets access and modification time of this directory.
    ///
    /// # Errors
    ///
    /// That of futimens(3).
    pub fn set_times_self(&self, times: &sys::Timestamps) -> Result<()> {
        self.seam.change("futimens", self.here(), Op::Times(self.here()), || sys::futimens(&*self.fd, times))
    }

    /// Sets an extended attribute of this directory.
    ///
    /// # Errors
    ///
    /// That of fsetxattr(2).
    pub fn set_xattr_self(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.seam.change("fsetxattr", self.here(), Op::SetXattr(self.here(), name, value), || {
            sys::fsetxattr(&*self.fd, name, value, sys::XattrFlags::empty())
        })
    }

    /// Sets an extended attribute of a name; a link is not followed.
    ///
    /// There is no `setxattrat` before Linux 6.13, so the way leads through `/proc/self/fd`.
    ///
    /// # Errors
    ///
    /// That of lsetxattr(2).
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, key: &[u8], value: &[u8]) -> Result<()> {
        let (name, at) = self.name(&name)?;
        let path = self.proc_path(name);
        self.seam.change("lsetxattr", at, Op::SetXattr(at, key, value), || sys::lsetxattr(&path, key, value, sys::XattrFlags::empty()))
    }

    /// Removes an extended attribute of a name; a link is not followed.
    ///
    /// # Errors
    ///
    /// That of lremovexattr(2); ENODATA if it has none of this name.
    pub fn remove_xattr(&self, name: impl AsRef<OsStr>, key: &[u8]) -> Result<()> {
        let (name, at) = self.name(&name)?;
        let path = self.proc_path(name);
        self.seam.change("lremovexattr", at, Op::RemoveXattr(at, key), || sys::lremovexattr(&path, key))
    }

    /// An extended attribute of a name, or `None` where it has none of this name; a link is not followed.
    ///
    /// # Errors
    ///
    /// That of lgetxattr(2), but none where the filesystem keeps no such attributes.
    pub fn xattr(&self, name: impl AsRef<OsStr>, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.kept_xattr(name, key) {
            Err(error) if error.is(rustix::io::Errno::OPNOTSUPP) => Ok(None),
            other => other,
        }
    }

    /// As [`Dir::xattr`], and EOPNOTSUPP where the kernel or the filesystem keeps no attributes of this kind.
    ///
    /// # Errors
    ///
    /// That of lgetxattr(2).
    pub fn kept_xattr(&self, name: impl AsRef<OsStr>, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let (name, at) = self.name(&name)?;
        let mut value = vec![0u8; 65536];
        match sys::lgetxattr(self.proc_path(name), key, value.as_mut_slice()) {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            Err(rustix::io::Errno::NODATA) => Ok(None),
            Err(error) => Err(Error::new("lgetxattr", at, error)),
        }
    }

    /// An extended attribute of this directory, or `None` where it has none of this name.
    ///
    /// # Errors
    ///
    /// That of fgetxattr(2).
    pub fn xattr_self(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0u8; 65536];
        match sys::fgetxattr(&*self.fd, key, value.as_mut_slice()) {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(self.error("fgetxattr", error)),
        }
    }

    /// The names of a name's extended attributes, as the kernel lists them; a link is not followed. None where the
    /// filesystem keeps none.
    ///
    /// # Errors
    ///
    /// That of llistxattr(2).
    pub fn xattr_names(&self, name: impl AsRef<OsStr>) -> Result<Vec<Vec<u8>>> {
        let (name, at) = self.name(&name)?;
        let path = self.proc_path(name);
        listed(|list| sys::llistxattr(&path, list)).map_err(|e| Error::new("llistxattr", at, e))
    }

    fn proc_path(&self, name: &OsStr) -> PathBuf {
        use std::os::fd::AsRawFd;
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        path.push(name);
        path
    }
}

/// The names that `list` writes into the buffer it is given. Most files have none or few: they cost one call.
fn listed(list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<Vec<u8>>> {
    /// The kernel's limit for all names of a file.
    const MAX: usize = 65536;
    let split = |names: Option<&[u8]>| {
        let names = names.unwrap_or_default().split(|b| *b == 0);
        names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let mut few = [0u8; 256];
    match list(&mut few) {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(rustix::io::Errno::RANGE) => {
            let mut many = vec![0u8; MAX];
            let len = list(&mut many)?;
            Ok(split(many.get(..len)))
        }
        len => Ok(split(few.get(..len?))),
    }
}
