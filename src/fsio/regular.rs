//! Opening regular files, and nothing else that may stand under a name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{self as sys, FileType, OFlags};
use rustix::io::Errno;

use super::hook::At;
use super::{Dir, Error, File, Mode, Result, optional};

impl Dir {
    fn open_with(&self, name: &OsStr, access: OFlags) -> Result<File> {
        let (name, at) = self.name(name)?;
        let fd = open_regular(self, name, access, at)?;
        Ok(self.file_of(fd, at))
    }

    /// Opens a regular file for reading; a link, device or fifo is refused and never opened.
    ///
    /// # Errors
    ///
    /// That of openat(2); `InvalidData` for what is not a regular file.
    pub fn file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        self.open_with(name.as_ref(), OFlags::RDONLY)
    }

    /// Opens a regular file for reading and writing.
    ///
    /// # Errors
    ///
    /// As [`Dir::file`].
    pub fn file_rw(&self, name: impl AsRef<OsStr>) -> Result<File> {
        self.open_with(name.as_ref(), OFlags::RDWR)
    }

    /// Opens a regular file for reading and writing, made with this mode if it is missing.
    ///
    /// # Errors
    ///
    /// As [`Dir::file`] and [`Dir::create`].
    pub fn file_or_create(&self, name: impl AsRef<OsStr>, bits: Mode) -> Result<File> {
        loop {
            if let Some(file) = optional(self.file_rw(&name))? {
                return Ok(file);
            }
            match self.create(&name, bits) {
                Err(error) if error.is(Errno::EXIST) => {}
                other => return other,
            }
        }
    }

    /// Reads a whole regular file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// As [`Dir::file`] and [`File::read_all`].
    pub fn read(&self, name: impl AsRef<OsStr>, limit: u64) -> Result<Vec<u8>> {
        self.file(name)?.read_all(limit)
    }
}

/// Opens what has this name if, and only if, it is a regular file.
///
/// To open a device is to use it: a watchdog is armed, a tape rewound, by open(2) alone, and a layer may hold any
/// device under the name of a file. A look before the open would leave a moment to exchange the two. O_PATH opens
/// nothing but the name; fstat(2) then speaks of that inode, and the way through `/proc/self/fd` opens the same inode
/// again, whatever the name stands for by then. It costs 2 µs.
fn open_regular(dir: &Dir, name: &OsStr, access: OFlags, at: At<'_>) -> Result<OwnedFd> {
    let wrap = |call| move |e: Errno| Error::new(call, at, e);
    let retry = |flags: OFlags| rustix::io::retry_on_intr(|| sys::openat(dir, name, flags, sys::Mode::empty()));
    let refuse_others = |fd: &OwnedFd| match FileType::from_raw_mode(sys::fstat(fd).map_err(wrap("fstat"))?.st_mode) {
        FileType::RegularFile => Ok(()),
        // What open(2) says of a link that it must not follow.
        FileType::Symlink => Err(wrap("open")(Errno::LOOP)),
        _ => Err(Error::new("open", at, io::Error::new(io::ErrorKind::InvalidData, "not a regular file"))),
    };
    let path = retry(OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC).map_err(wrap("open"))?;
    refuse_others(&path)?;
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let again = format!("/proc/self/fd/{}", path.as_raw_fd());
    match rustix::io::retry_on_intr(|| sys::open(&again, flags, sys::Mode::empty())) {
        // No /proc: by name, and what came instead is noticed, if too late for a device. Who could exchange names in
        // a store is its owner, and needs no layer for that.
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let fd = retry(flags | OFlags::NOFOLLOW).map_err(wrap("open"))?;
            refuse_others(&fd)?;
            Ok(fd)
        }
        other => other.map_err(wrap("open")),
    }
}
