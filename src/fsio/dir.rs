//! Directory handles and the verbs on names in them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, CWD, OFlags, ResolveFlags};

use super::hook::{At, Op};
use super::meta::{Kind, Meta, statx};
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

/// An open directory.
#[derive(Debug, Clone)]
pub struct Dir {
    pub(super) fd: Arc<OwnedFd>,
    path: Arc<Path>,
    pub(super) seam: Seam,
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

    pub(super) fn here(&self) -> At<'_> {
        At { dir: &self.path, name: Path::new("") }
    }

    /// An error of a call on this directory.
    pub(super) fn error(&self, call: &'static str, source: impl Into<io::Error>) -> Error {
        Error::new(call, self.here(), source)
    }

    pub(super) fn at<'a>(&'a self, name: &'a OsStr) -> At<'a> {
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
    ///
    /// # Errors
    ///
    /// That of openat(2).
    pub fn again(&self) -> Result<Self> {
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

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
