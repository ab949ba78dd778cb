//! Members of a tar, one after the other, into a layer's directory.

use std::ffi::{OsStr, OsString};
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Timespec, Timestamps};
use rustix::io::Errno;

use super::ExtractError;
use super::error::shown;
use super::layer::entry_error;
use super::path::{Cleaned, Whiteout, is_applied_root};
use super::spill::Spill;
use crate::fsio::{self, Dir, File, Kind, optional};
use crate::tarsplit::{self, Entry, EntryKind, LayerReader, Time};

/// The largest path that one system call takes, less some room.
const PATH_STEP: usize = 4000;
/// How many opened parents are kept.
const PARENTS: usize = 8;

/// A layer's directory being filled.
pub(super) struct Tree {
    root: Dir,
    spill: Spill,
    /// Opened parents, the latest first. Cleared whenever a directory or link goes away.
    parents: Vec<(Cleaned, Dir)>,
    root_entry: bool,
    is_root: bool,
}

impl Tree {
    pub(super) fn new(root: Dir, spill: Spill) -> Self {
        Self { root, spill, parents: Vec::new(), root_entry: false, is_root: rustix::process::geteuid().is_root() }
    }

    pub(super) fn finish(self) -> (bool, Spill) {
        (self.root_entry, self.spill)
    }

    /// Applies one member, its body included.
    pub(super) fn apply<R: Read, W: Write>(&mut self, entry: &Entry, body: &mut LayerReader<R, W>) -> Result<(), ExtractError> {
        if entry.kind == EntryKind::GlobalHeader {
            return Ok(());
        }
        let cleaned = Cleaned::of(&entry.name);
        let Some((parent_path, name)) = cleaned.split() else {
            return if is_applied_root(&entry.name) { self.apply_root(entry) } else { Ok(()) };
        };
        let whiteout = Whiteout::parse(&name);
        let parent = match self.parent(&parent_path) {
            // A whiteout below something that is no directory any more has nothing left to hide.
            Err(error) if whiteout.is_some() && (error.is(Errno::NOTDIR)) => return self.keep_body(entry, parent_path, &name, body),
            other => other.map_err(member(entry))?,
        };
        match whiteout {
            Some(Whiteout::Opaque) => {
                let key: &[u8] = if self.is_root { b"trusted.overlay.opaque" } else { b"user.overlay.opaque" };
                parent.set_xattr_self(key, b"y").map_err(member(entry))?;
                self.keep_body(entry, parent_path, &name, body)
            }
            Some(Whiteout::Of(hidden)) => {
                self.remove(&parent, &parent_path, hidden).map_err(member(entry))?;
                parent.mknod(hidden, FileType::CharacterDevice, 0, (0, 0)).map_err(member(entry))?;
                self.own(&parent, hidden, entry)?;
                self.keep_body(entry, parent_path, &name, body)
            }
            None => self.make(entry, &parent, &parent_path, &name, body),
        }
    }

    /// A body without a file on disk must reach the tar-split all the same.
    fn keep_body<R: Read, W: Write>(
        &mut self,
        entry: &Entry,
        mut path: Cleaned,
        name: &OsStr,
        body: &mut LayerReader<R, W>,
    ) -> Result<(), ExtractError> {
        if entry.size == 0 {
            return Ok(());
        }
        path.0.push(name.as_bytes().to_vec());
        let mut file = self.spill.create(path).map_err(member(entry))?;
        copy_body(&mut file, entry, body)
    }

    fn apply_root(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        if entry.kind != EntryKind::Dir {
            return Err(entry_error(entry, "the root can only be a directory"));
        }
        self.root_entry = true;
        let own = || -> fsio::Result<()> {
            self.root.chown_self(entry.uid, entry.gid)?;
            self.root.chmod_self(entry.mode)
        };
        own().map_err(member(entry))
    }

    fn make<R: Read, W: Write>(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        parent_path: &Cleaned,
        name: &OsStr,
        body: &mut LayerReader<R, W>,
    ) -> Result<(), ExtractError> {
        if name.len() > 255 {
            return Err(entry_error(entry, "a component of the path is longer than 255 bytes"));
        }
        match entry.kind {
            EntryKind::File => self.make_file(entry, parent, parent_path, name, body),
            EntryKind::HardLink => self.make_link(entry, parent, parent_path, name),
            EntryKind::Dir => {
                if parent.meta(name).map_err(member(entry))?.is_none_or(|meta| meta.kind != Kind::Dir) {
                    self.remove(parent, parent_path, name).map_err(member(entry))?;
                    parent.mkdir(name, entry.mode & 0o777).map_err(member(entry))?;
                }
                let dir = parent.dir(name).map_err(member(entry))?;
                self.own(parent, name, entry)?;
                dir.chmod_self(entry.mode).map_err(member(entry))?;
                self.xattrs(entry, |key, value| dir.set_xattr_self(key, value))
            }
            EntryKind::Symlink => {
                let target = std::path::PathBuf::from(OsStr::from_bytes(&entry.link));
                self.replacing(entry, parent, parent_path, name, || parent.symlink(&target, name))?;
                self.own(parent, name, entry)?;
                self.xattrs(entry, |key, value| parent.set_xattr(name, key, value))?;
                parent.set_times(name, &times(entry)).map_err(member(entry))
            }
            EntryKind::Fifo => self.make_node(entry, parent, parent_path, name, FileType::Fifo),
            EntryKind::Char => self.make_node(entry, parent, parent_path, name, FileType::CharacterDevice),
            EntryKind::Block => self.make_node(entry, parent, parent_path, name, FileType::BlockDevice),
            EntryKind::GlobalHeader => Ok(()),
        }
    }

    /// Makes a name; what has it already is removed first and the making tried once more.
    fn replacing<T>(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        parent_path: &Cleaned,
        name: &OsStr,
        make: impl Fn() -> fsio::Result<T>,
    ) -> Result<T, ExtractError> {
        match make() {
            Err(error) if error.is(Errno::EXIST) => {
                self.remove(parent, parent_path, name).map_err(member(entry))?;
                make().map_err(member(entry))
            }
            other => other.map_err(member(entry)),
        }
    }

    fn make_file<R: Read, W: Write>(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        parent_path: &Cleaned,
        name: &OsStr,
        body: &mut LayerReader<R, W>,
    ) -> Result<(), ExtractError> {
        let mut file = self.replacing(entry, parent, parent_path, name, || parent.create_private(name, 0o600))?;
        copy_body(&mut file, entry, body)?;
        // Owner before mode: chown clears setuid. Attributes after both: chown clears security.capability.
        match file.chown(entry.uid, entry.gid) {
            Err(error) if !self.is_root && error.is(Errno::PERM) => {
                return Err(entry_error(entry, format!("owner {}:{} is not mapped in this user namespace", entry.uid, entry.gid)));
            }
            other => other.map_err(member(entry))?,
        }
        file.chmod(entry.mode).map_err(member(entry))?;
        self.xattrs(entry, |key, value| file.set_xattr(key, value))?;
        file.set_times(&times(entry)).map_err(member(entry))
    }

    fn make_node(&mut self, entry: &Entry, parent: &Dir, parent_path: &Cleaned, name: &OsStr, kind: FileType) -> Result<(), ExtractError> {
        match self.replacing(entry, parent, parent_path, name, || parent.mknod(name, kind, entry.mode, entry.device)) {
            // As Go: devices are left out where the user may not make them.
            Err(ExtractError::Member { source, .. }) if !self.is_root && kind != FileType::Fifo && source.is(Errno::PERM) => return Ok(()),
            other => other?,
        }
        self.own(parent, name, entry)?;
        parent.chmod(name, entry.mode).map_err(member(entry))?;
        self.xattrs(entry, |key, value| parent.set_xattr(name, key, value))?;
        parent.set_times(name, &times(entry)).map_err(member(entry))
    }

    /// The header's owner, mode and time land on the shared inode, as in Go.
    fn make_link(&mut self, entry: &Entry, parent: &Dir, parent_path: &Cleaned, name: &OsStr) -> Result<(), ExtractError> {
        let Some((target_path, target)) = Cleaned::of(&entry.link).split() else {
            return Err(entry_error(entry, "a hard link to the root"));
        };
        let missing = || entry_error(entry, format!("hard link to {}, which is not in the layer", shown(&entry.link)));
        let target_dir = optional(self.open(&target_path)).map_err(member(entry))?.ok_or_else(missing)?;
        let meta = target_dir.meta(&target).map_err(member(entry))?.ok_or_else(missing)?;
        self.replacing(entry, parent, parent_path, name, || target_dir.link(&target, parent, name))?;
        self.own(parent, name, entry)?;
        if meta.kind != Kind::Symlink {
            parent.chmod(name, entry.mode).map_err(member(entry))?;
        }
        self.xattrs(entry, |key, value| parent.set_xattr(name, key, value))?;
        parent.set_times(name, &times(entry)).map_err(member(entry))
    }

    fn own(&self, parent: &Dir, name: &OsStr, entry: &Entry) -> Result<(), ExtractError> {
        parent.chown(name, entry.uid, entry.gid).map_err(member(entry))
    }

    fn xattrs(&self, entry: &Entry, set: impl Fn(&[u8], &[u8]) -> fsio::Result<()>) -> Result<(), ExtractError> {
        for (key, value) in &entry.xattrs {
            if !applies(key, self.is_root) {
                continue;
            }
            match set(key, value) {
                Err(error) if error.is(Errno::OPNOTSUPP) || (!self.is_root && error.is(Errno::PERM)) => {
                    tracing::debug!(name = shown(&entry.name), key = shown(key), "an attribute that this filesystem does not keep");
                }
                other => other.map_err(member(entry))?,
            }
        }
        Ok(())
    }

    fn remove(&mut self, parent: &Dir, parent_path: &Cleaned, name: &OsStr) -> fsio::Result<()> {
        // A directory or link that goes may be on the way to a parent we hold.
        self.parents.clear();
        self.spill.take(parent, parent_path, name)
    }

    /// The directory a member lies in, made if missing: mode 0755, owned by root, as Go makes it.
    fn parent(&mut self, path: &Cleaned) -> fsio::Result<Dir> {
        if path.0.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(at) = self.parents.iter().position(|(known, _)| known == path) {
            let hit = self.parents.remove(at);
            let dir = hit.1.clone();
            self.parents.insert(0, hit);
            return Ok(dir);
        }
        let dir = match self.open(path) {
            Err(error) if error.not_found() => self.make_parents(path)?,
            other => other?,
        };
        self.parents.insert(0, (path.clone(), dir.clone()));
        self.parents.truncate(PARENTS);
        Ok(dir)
    }

    fn make_parents(&self, path: &Cleaned) -> fsio::Result<Dir> {
        let mut dir = self.root.clone();
        let mut here = Cleaned::default();
        for part in &path.0 {
            here.0.push(part.clone());
            dir = match self.open(&here) {
                Err(error) if error.not_found() => match dir.mkdir(OsStr::from_bytes(part), 0o755) {
                    // A link that points nowhere stands there: as in Go, an error.
                    Err(error) if error.is(Errno::EXIST) => return self.open(&here),
                    made => made?,
                },
                other => other?,
            };
        }
        Ok(dir)
    }

    /// Opens a directory with the layer's root as `/`: links in the path are followed inside it.
    fn open(&self, path: &Cleaned) -> fsio::Result<Dir> {
        open_in(&self.root, path)
    }
}

/// Opens a directory below `root`, links followed inside it; paths of any length.
pub(super) fn open_in(root: &Dir, path: &Cleaned) -> fsio::Result<Dir> {
    if path.0.is_empty() {
        return Ok(root.clone());
    }
    if path.bytes() < PATH_STEP {
        return root.dir_in_root(&path.path());
    }
    // Too long for one call: in steps, in which links are refused, because the root of a step is not the layer's.
    path.0.iter().try_fold(root.clone(), |dir, part| dir.dir(OsStr::from_bytes(part)))
}

fn member(entry: &Entry) -> impl FnOnce(fsio::Error) -> ExtractError + use<> {
    let name = shown(&entry.name);
    move |source| ExtractError::Member { name, source }
}

fn copy_body<R: Read, W: Write>(file: &mut File, entry: &Entry, body: &mut LayerReader<R, W>) -> Result<(), ExtractError> {
    loop {
        let chunk = body.chunk().map_err(ExtractError::Tar)?;
        if chunk.is_empty() {
            return Ok(());
        }
        file.append(chunk).map_err(member(entry))?;
    }
}

/// Whether an attribute of a layer is set on its file.
pub(super) fn applies(key: &[u8], is_root: bool) -> bool {
    key != b"security.selinux" && !key.starts_with(b"trusted.overlay.") && (is_root || !key.starts_with(b"user.overlay."))
}

/// Go's rule: a time before 1970 becomes 1970.
fn clamp(time: Time) -> Timespec {
    if time.secs < 0 { Timespec { tv_sec: 0, tv_nsec: 0 } } else { Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() } }
}

fn times(entry: &Entry) -> Timestamps {
    // Go: an access time before the modification time is raised to it.
    let atime = entry.atime.unwrap_or(entry.mtime).max(entry.mtime);
    Timestamps { last_access: clamp(atime), last_modification: clamp(entry.mtime) }
}

/// The times of directories, last: everything that was put into them has changed them. A second pass over the tar-split
/// and not a list, so that memory does not grow with the layer.
pub(super) fn set_directory_times(root: &Dir, split: &File) -> Result<(), ExtractError> {
    for entry in tarsplit::headers(BufReader::with_capacity(64 << 10, split)) {
        let entry = entry?;
        if entry.kind != EntryKind::Dir {
            continue;
        }
        let cleaned = Cleaned::of(&entry.name);
        if cleaned.0.is_empty() && !is_applied_root(&entry.name) {
            continue;
        }
        if Whiteout::parse(cleaned.0.last().map_or(OsStr::new(""), |name| OsStr::from_bytes(name))).is_some() {
            continue;
        }
        let atime = entry.atime.unwrap_or_default();
        let stamps = Timestamps { last_access: clamp(atime), last_modification: clamp(entry.mtime) };
        let Some(dir) = directory(root, &cleaned).map_err(member(&entry))? else { continue };
        dir.set_times_self(&stamps).map_err(member(&entry))?;
    }
    Ok(())
}

/// The directory at a path, if there is one there now; its last component is not followed.
fn directory(root: &Dir, path: &Cleaned) -> fsio::Result<Option<Dir>> {
    let Some((parent, name)): Option<(Cleaned, OsString)> = path.clone().split() else { return Ok(Some(root.clone())) };
    let gone = |error: &fsio::Error| error.not_found() || error.is(Errno::NOTDIR) || error.is(Errno::LOOP);
    match open_in(root, &parent).and_then(|dir| dir.dir(&name)) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
