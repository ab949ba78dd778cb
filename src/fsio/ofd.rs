//! Open-file-description locks: they exclude Go's POSIX locks both ways, survive the close of another descriptor of
//! the file, and exclude a second handle in the same process.

use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::{FcntlArg, fcntl};

use super::hook::At;
use super::{Error, File, Result};

/// Whom a lock waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOwner {
    /// A process that holds a POSIX lock.
    Process(i32),
    /// An open file description; the kernel does not say whose.
    Description,
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: 0, l_len: 0, l_pid: 0 }
}

impl File {
    fn ofd(&self, arg: FcntlArg<'_>) -> Result<bool> {
        let at = At { dir: &self.path(), name: std::path::Path::new("") };
        match fcntl(self.as_fd(), arg) {
            Ok(_) => Ok(true),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
            Err(error) => Err(Error::new("F_OFD_SETLK", at, std::io::Error::from(error))),
        }
    }

    /// Tries to take the whole-file lock; `false` if somebody else has it.
    ///
    /// # Errors
    ///
    /// That of fcntl(2).
    pub fn try_lock(&self, exclusive: bool) -> Result<bool> {
        self.ofd(FcntlArg::F_OFD_SETLK(&whole(if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })))
    }

    /// Releases the lock. Needed before close: a forked child shares the description and would keep it.
    ///
    /// # Errors
    ///
    /// That of fcntl(2).
    pub fn unlock(&self) -> Result<()> {
        self.ofd(FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK))).map(drop)
    }

    /// Who keeps us from taking the lock exclusively, if anybody; takes nothing.
    ///
    /// # Errors
    ///
    /// That of fcntl(2).
    pub fn lock_owner(&self) -> Result<Option<LockOwner>> {
        let mut probe = whole(libc::F_WRLCK);
        self.ofd(FcntlArg::F_OFD_GETLK(&mut probe))?;
        if libc::c_int::from(probe.l_type) == libc::F_UNLCK {
            return Ok(None);
        }
        Ok(Some(if probe.l_pid < 0 { LockOwner::Description } else { LockOwner::Process(probe.l_pid) }))
    }

    /// The raw descriptor number, to find it in `/proc`.
    pub fn raw(&self) -> i32 {
        self.as_fd().as_raw_fd()
    }
}
