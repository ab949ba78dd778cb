//! Directory handles and the verbs on names in them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, CWD, FileType, OFlags, RenameFlags, ResolveFlags, StatxFlags};

use super::hook::{At, Op};
use super::{Error, File, Result, Seam, optional};

/// Permission bits as the kernel's type; anything above 07777 is cut off.
pub(super) fn mode(bits: u32) -> sys::Mode {
    sys::Mode::from_raw_mode(bits & 0o7777)
}

pub(super) fn ids(uid: u32, gid: u32) -> (Option<sys::Uid>, Option<sys::Gid>) {
    (Some(sys::Uid::from_raw(uid)), Some(sys::Gid::from_raw(gid)))
}

/// Permission bits, 07777 at most.
pub type Mode = u32;

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

/// An open directory.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    path: Arc<Path>,
    seam: Seam,
}

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Dir {
    /// Opens a directory by path, following links in the path but not at its end.
    ///
    /// # Errors
    ///
    /// That of open(2).
    pub fn open(path: &Path, seam: Seam) -> Result<Self> {
        let at = At { dir: path, name: Path::new("") };
        let fd =
            rustix::io::retry_on_intr(|| sys::openat(CWD, path, OPEN_DIR, sys::Mode::empty())).map_err(|e| Error::new("open", at, e))?;
        Ok(Self::from_fd(fd, path, seam))
    }

    /// A directory whose descriptor was got elsewhere; `path` is what the hook and errors will show.
    pub fn from_fd(fd: OwnedFd, path: &Path, seam: Seam) -> Self {
        Self { fd: Arc::new(fd), path: path.into(), seam }
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The seam all handles of the store share.
    pub fn seam(&self) -> &Seam {
        &self.seam
    }

    fn here(&self) -> At<'_> {
        At { dir: &self.path, name: Path::new("") }
    }

    /// An error of a call on this directory.
    pub(super) fn error(&self, call: &'static str, source: impl Into<io::Error>) -> Error {
        Error::new(call, self.here(), source)
    }

    fn at<'a>(&'a self, name: &'a OsStr) -> At<'a> {
        At { dir: &self.path, name: Path::new(name) }
    }

    /// Refuses what is not one plain name, so that no verb can leave its directory.
    pub(super) fn name<'a>(&'a self, name: &'a (impl AsRef<OsStr> + ?Sized)) -> Result<(&'a OsStr, At<'a>)> {
        let name = name.as_ref();
        let at = self.at(name);
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "not a plain file name");
            return Err(Error::new("lookup", at, why));
        }
        Ok((name, at))
    }

    /// Opens a directory in this one; a link is refused.
    ///
    /// # Errors
    ///
    /// That of openat(2): ENOENT, ENOTDIR, ELOOP for a link.
    pub fn dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let (name, at) = self.name(&name)?;
        let fd = rustix::io::retry_on_intr(|| sys::openat(&*self.fd, name, OPEN_DIR, sys::Mode::empty()))
            .map_err(|e| Error::new("open", at, e))?;
        Ok(Self { fd: Arc::new(fd), path: at.path().into(), seam: self.seam.clone() })
    }

    /// Opens a directory below this one by a relative path, with this one as the root: `..`, absolute links
    /// and `/` cannot leave it (openat2 with RESOLVE_IN_ROOT).
    ///
    /// # Errors
    ///
    /// That of openat2(2).
    pub fn dir_in_root(&self, path: &Path) -> Result<Self> {
        let at = At { dir: &self.path, name: path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            self.openat2(path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS).map_err(|e| Error::new("openat2", at, e))?;
        Ok(Self { fd: Arc::new(fd), path: at.path().into(), seam: self.seam.clone() })
    }

    fn openat2(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        // EAGAIN: a rename or mount raced with the walk and the kernel could not prove containment; again.
        let mut tries = 0;
        loop {
            match sys::openat2(&*self.fd, path, flags, sys::Mode::empty(), resolve) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if tries < 100 => tries += 1,
                other => return other,
            }
        }
    }

    /// Opens a directory in this one without crossing into another mount; EXDEV where it would.
    ///
    /// # Errors
    ///
    /// That of openat2(2).
    pub(super) fn dir_same_mount(&self, name: &OsStr) -> Result<Self> {
        let at = self.at(name);
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let fd = self.openat2(Path::new(name), OPEN_DIR, resolve).map_err(|e| Error::new("openat2", at, e))?;
        Ok(Self { fd: Arc::new(fd), path: at.path().into(), seam: self.seam.clone() })
    }

    /// The directory that this one lies in, on the same mount.
    pub(super) fn up(&self) -> Result<Self> {
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let fd = self.openat2(Path::new(".."), OPEN_DIR, resolve).map_err(|e| self.error("openat2", e))?;
        Ok(Self { fd: Arc::new(fd), path: self.path.parent().unwrap_or(&self.path).into(), seam: self.seam.clone() })
    }

    /// This directory opened once more, with a reading position of its own.
    pub(super) fn again(&self) -> Result<Self> {
        let fd =
            rustix::io::retry_on_intr(|| sys::openat(&*self.fd, ".", OPEN_DIR, sys::Mode::empty())).map_err(|e| self.error("open", e))?;
        Ok(Self { fd: Arc::new(fd), path: self.path.clone(), seam: self.seam.clone() })
    }

    /// Makes a directory with exactly this mode and opens it.
    ///
    /// # Errors
    ///
    /// That of mkdirat(2); EEXIST if the name is taken.
    pub fn mkdir(&self, name: impl AsRef<OsStr>, bits: Mode) -> Result<Self> {
        let (name, at) = self.name(&name)?;
        self.seam.change("mkdir", at, Op::Mkdir(at, bits), || sys::mkdirat(&*self.fd, name, mode(bits & 0o700)))?;
        let dir = self.dir(name)?;
        sys::fchmod(&*dir.fd, mode(bits)).map_err(|e| Error::new("fchmod", at, e))?;
        Ok(dir)
    }

    /// Opens a directory, or makes it with this mode and syncs this one.
    ///
    /// # Errors
    ///
    /// That of openat(2) or mkdirat(2).
    pub fn ensure_dir(&self, name: impl AsRef<OsStr>, bits: Mode) -> Result<Self> {
        if let Some(dir) = optional(self.dir(&name))? {
            return Ok(dir);
        }
        match self.mkdir(&name, bits) {
            Ok(dir) => {
                self.sync()?;
                Ok(dir)
            }
            Err(error) if error.is(rustix::io::Errno::EXIST) => self.dir(name),
            Err(error) => Err(error),
        }
    }

    /// Makes a new regular file with exactly this mode, open for reading and writing.
    ///
    /// # Errors
    ///
    /// That of openat(2); EEXIST if the name is taken.
    pub fn create(&self, name: impl AsRef<OsStr>, bits: Mode) -> Result<File> {
        let file = self.create_private(name, bits)?;
        sys::fchmod(&file, mode(bits)).map_err(|e| Error { call: "fchmod", path: file.path(), source: e.into() })?;
        Ok(file)
    }

    /// Makes a new regular file of mode 0600 or less whose mode the caller sets later with [`File::chmod`].
    ///
    /// # Errors
    ///
    /// That of openat(2); EEXIST if the name is taken.
    pub fn create_private(&self, name: impl AsRef<OsStr>, bits: Mode) -> Result<File> {
        let (name, at) = self.name(&name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = self.seam.change("create", at, Op::Create(at, bits), || sys::openat(&*self.fd, name, flags, mode(bits & 0o600)))?;
        Ok(File::new(fd, self.path.clone(), at.name, self.seam.clone()))
    }

    /// A regular file of this directory whose descriptor was got elsewhere.
    pub(super) fn file_of(&self, fd: OwnedFd, at: At<'_>) -> File {
        File::new(fd, self.path.clone(), at.name, self.seam.clone())
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    ///
    /// That of readlinkat(2); EINVAL for what is no link.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> Result<PathBuf> {
        let (name, at) = self.name(&name)?;
        let text = sys::readlinkat(&*self.fd, name, Vec::new()).map_err(|e| Error::new("readlink", at, e))?;
        Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
    }

    /// What a name stands for, or `None`.
    ///
    /// # Errors
    ///
    /// Any error of statx(2) but ENOENT.
    pub fn meta(&self, name: impl AsRef<OsStr>) -> Result<Option<Meta>> {
        let (name, at) = self.name(&name)?;
        optional(statx(self.fd.as_fd(), Path::new(name), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Error::new("statx", at, e)))
    }

    /// What this directory is.
    ///
    /// # Errors
    ///
    /// That of statx(2).
    pub fn own_meta(&self) -> Result<Meta> {
        statx(self.fd.as_fd(), Path::new(""), AtFlags::EMPTY_PATH).map_err(|e| Error::new("statx", self.here(), e))
    }

    /// The names in this directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    ///
    /// That of getdents64(2).
    pub fn names(&self) -> Result<Vec<OsString>> {
        Ok(self.entries()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The names in this directory with their kinds, sorted by name.
    ///
    /// # Errors
    ///
    /// That of getdents64(2).
    pub fn entries(&self) -> Result<Vec<(OsString, Kind)>> {
        let wrap = |e| Error::new("readdir", self.here(), e);
        let mut list = Vec::new();
        for entry in sys::Dir::read_from(&*self.fd).map_err(wrap)? {
            let entry = entry.map_err(wrap)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let mut kind = Kind::from(entry.file_type());
                if kind == Kind::Unknown {
                    match self.meta(OsStr::from_bytes(name))? {
                        Some(meta) => kind = meta.kind,
                        None => continue,
                    }
                }
                list.push((OsStr::from_bytes(name).to_owned(), kind));
            }
        }
        list.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(list)
    }

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

    fn proc_path(&self, name: &OsStr) -> PathBuf {
        use std::os::fd::AsRawFd;
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        path.push(name);
        path
    }

    /// fsync of this directory: its names are durable after it.
    ///
    /// # Errors
    ///
    /// That of fsync(2); it poisons the seam.
    pub fn sync(&self) -> Result<()> {
        self.seam.sync("fsync", self.here(), Op::SyncDir(self.here()), || sys::fsync(&*self.fd))
    }

    /// syncfs of the filesystem this directory lies on. Write errors are reported since this handle was
    /// opened only (Linux 5.8), so open it before the writing starts.
    ///
    /// # Errors
    ///
    /// That of syncfs(2); it poisons the seam.
    pub fn sync_filesystem(&self) -> Result<()> {
        self.seam.sync("syncfs", self.here(), Op::SyncFs(self.here()), || sys::syncfs(&*self.fd))
    }

    /// Writes a file whole: a temporary beside it, fdatasync, rename, fsync of this directory.
    ///
    /// # Errors
    ///
    /// Those of the verbs; the old file is then still there.
    pub fn replace(&self, temp: impl AsRef<OsStr>, name: impl AsRef<OsStr>, bytes: &[u8], bits: Mode) -> Result<()> {
        self.write_temp(&temp, bytes, bits)?;
        self.rename(temp, self, name)?;
        self.sync()
    }

    /// Writes a new temporary file and fdatasyncs it. An older file of this name is removed first.
    ///
    /// # Errors
    ///
    /// Those of the verbs.
    pub fn write_temp(&self, temp: impl AsRef<OsStr>, bytes: &[u8], bits: Mode) -> Result<()> {
        if self.meta(&temp)?.is_some() {
            self.unlink(&temp)?;
        }
        let file = self.create(&temp, bits)?;
        file.write_at(0, bytes)?;
        file.sync_data()
    }
}

fn statx(fd: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> rustix::io::Result<Meta> {
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

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
