//! What an object is.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, FileType, StatxFlags};

use super::Mode;

/// What kind of object a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Dir,
    File,
    Symlink,
    Char,
    Block,
    Fifo,
    Socket,
    Unknown,
}

impl From<FileType> for Kind {
    fn from(t: FileType) -> Self {
        match t {
            FileType::Directory => Self::Dir,
            FileType::RegularFile => Self::File,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::Char,
            FileType::BlockDevice => Self::Block,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

/// What lstat(2) and statx(2) tell of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its kind.
    pub kind: Kind,
    /// Permission bits, 07777 at most.
    pub mode: Mode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Number of names.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
    /// The filesystem's device number: major, minor.
    pub device: (u32, u32),
    /// For devices: major, minor.
    pub rdev: (u32, u32),
    /// Seconds and nanoseconds of the last change of contents.
    pub mtime: (i64, u32),
    /// Seconds and nanoseconds of birth, where the filesystem keeps it.
    pub birth: Option<(i64, u32)>,
    /// The id of the mount it was reached through, where the kernel tells (Linux 5.8).
    pub mount: Option<u64>,
}

pub(super) fn statx(fd: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> rustix::io::Result<Meta> {
    // 0x1000 is STATX_MNT_ID; kernels before 5.8 ignore it and leave the bit out of stx_mask.
    let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let x = rustix::io::retry_on_intr(|| sys::statx(fd, path, flags | AtFlags::NO_AUTOMOUNT, want))?;
    let has = |bit: StatxFlags| x.stx_mask & bit.bits() != 0;
    Ok(Meta {
        kind: Kind::from(FileType::from_raw_mode(x.stx_mode.into())),
        mode: u32::from(x.stx_mode) & 0o7777,
        uid: x.stx_uid,
        gid: x.stx_gid,
        size: x.stx_size,
        links: x.stx_nlink.into(),
        inode: x.stx_ino,
        device: (x.stx_dev_major, x.stx_dev_minor),
        rdev: (x.stx_rdev_major, x.stx_rdev_minor),
        mtime: (x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec),
        birth: has(StatxFlags::BTIME).then_some((x.stx_btime.tv_sec, x.stx_btime.tv_nsec)),
        mount: has(StatxFlags::MNT_ID).then_some(x.stx_mnt_id),
    })
}
