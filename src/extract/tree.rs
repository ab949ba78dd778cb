//! Members of a tar, one after the other, into a layer's directory.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::{entry_error, member, shown};
use super::path::{Cleaned, Whiteout, is_applied_root};
use super::resolve::{make_in, open_in};
use super::spill::Spill;
use super::{ExtractError, times};
use crate::fsio::{self, Dir, File, Kind, optional};
use crate::tarsplit::{Entry, EntryKind, LayerReader};

const TOO_LONG: &str =
    "its path, or that of its target, is longer than the 4095 bytes that system calls take; build the layer with shorter paths";
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
    /// The names in the tree, by what was made and removed: counted, not looked at, so that it tells what others removed.
    names: u64,
}

impl Tree {
    pub(super) fn new(root: Dir, spill: Spill) -> Self {
        Self { root, spill, parents: Vec::new(), root_entry: false, is_root: fsio::is_initial_root(), names: 0 }
    }

    pub(super) fn finish(self) -> (bool, u64, Spill) {
        (self.root_entry, self.names, self.spill)
    }

    /// Applies one member, its body included.
    pub(super) fn apply<R: Read, W: Write>(&mut self, entry: &Entry, body: &mut LayerReader<R, W>) -> Result<(), ExtractError> {
        if entry.kind == EntryKind::GlobalHeader {
            return Ok(());
        }
        let Some(cleaned) = Cleaned::of(&entry.name) else { return Err(entry_error(entry, TOO_LONG)) };
        let Some((parent_path, name)) = cleaned.split() else {
            return if is_applied_root(&entry.name) { self.apply_root(entry) } else { self.keep_body(entry, &Cleaned::default(), body) };
        };
        let whiteout = Whiteout::parse(&name);
        let parent = match self.parent(&parent_path) {
            // A whiteout below something that is no directory any more has nothing left to hide.
            Err(error) if whiteout.is_some() && (error.is(Errno::NOTDIR)) => return self.keep_body(entry, &parent_path.join(&name), body),
            other => other.map_err(member(entry))?,
        };
        match whiteout {
            Some(Whiteout::Opaque) => {
                parent.set_xattr_self(opaque_key(self.is_root), b"y").map_err(member(entry))?;
                self.keep_body(entry, &parent_path.join(&name), body)
            }
            Some(Whiteout::Of(hidden)) => {
                self.remove(entry, &parent, &parent_path, hidden)?;
                parent.mknod(hidden, FileType::CharacterDevice, 0, (0, 0)).map_err(member(entry))?;
                self.names += 1;
                self.own(&parent, hidden, entry)?;
                self.keep_body(entry, &parent_path.join(&name), body)
            }
            None => self.make(entry, &parent, &parent_path, &name, body),
        }
    }

    /// A body without a file on disk must reach the tar-split all the same.
    fn keep_body<R: Read, W: Write>(&mut self, entry: &Entry, path: &Cleaned, body: &mut LayerReader<R, W>) -> Result<(), ExtractError> {
        if entry.size == 0 {
            return Ok(());
        }
        let mut file = self.spill.create(entry, path)?;
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
        own().map_err(member(entry))?;
        self.xattrs(entry, |key, value| self.root.set_xattr_self(key, value))
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
                    self.remove(entry, parent, parent_path, name)?;
                    parent.mkdir(name, entry.mode & 0o777).map_err(member(entry))?;
                    self.names += 1;
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
                parent.set_times(name, &times::of_link(entry)).map_err(member(entry))
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
        let made = match make() {
            Err(error) if error.is(Errno::EXIST) => {
                self.remove(entry, parent, parent_path, name)?;
                make()
            }
            other => other,
        };
        let made = made.map_err(member(entry))?;
        self.names += 1;
        Ok(made)
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
            Err(error) if !self.is_root && (error.is(Errno::PERM) || error.is(Errno::INVAL)) => {
                return Err(entry_error(entry, format!("owner {}:{} is not mapped in this user namespace", entry.uid, entry.gid)));
            }
            other => other.map_err(member(entry))?,
        }
        file.chmod(entry.mode).map_err(member(entry))?;
        self.xattrs(entry, |key, value| file.set_xattr(key, value))?;
        file.set_times(&times::of_file(entry)).map_err(member(entry))
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
        parent.set_times(name, &times::of_file(entry)).map_err(member(entry))
    }

    /// The header's owner, mode and time land on the shared inode, as in Go.
    fn make_link(&mut self, entry: &Entry, parent: &Dir, parent_path: &Cleaned, name: &OsStr) -> Result<(), ExtractError> {
        let Some(target) = Cleaned::of(&entry.link) else { return Err(entry_error(entry, TOO_LONG)) };
        let Some((target_path, target)) = target.split() else {
            return Err(entry_error(entry, "a hard link to the root"));
        };
        let missing = || entry_error(entry, format!("hard link to {}, which is not in the layer", shown(&entry.link)));
        let target_dir = optional(open_in(&self.root, &target_path)).map_err(member(entry))?.ok_or_else(missing)?;
        let meta = target_dir.meta(&target).map_err(member(entry))?.ok_or_else(missing)?;
        self.replacing(entry, parent, parent_path, name, || target_dir.link(&target, parent, name))?;
        self.own(parent, name, entry)?;
        self.xattrs(entry, |key, value| parent.set_xattr(name, key, value))?;
        // Go leaves a link that has a second name its times.
        if meta.kind == Kind::Symlink {
            return Ok(());
        }
        parent.chmod(name, entry.mode).map_err(member(entry))?;
        parent.set_times(name, &times::of_file(entry)).map_err(member(entry))
    }

    /// chown(2) drops security.capability even where it changes nothing, and the file of a hard link may have one.
    fn own(&self, parent: &Dir, name: &OsStr, entry: &Entry) -> Result<(), ExtractError> {
        match parent.meta(name).map_err(member(entry))? {
            Some(meta) if (meta.uid, meta.gid) == (entry.uid, entry.gid) => Ok(()),
            _ => parent.chown(name, entry.uid, entry.gid).map_err(member(entry)),
        }
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

    fn remove(&mut self, entry: &Entry, parent: &Dir, parent_path: &Cleaned, name: &OsStr) -> Result<(), ExtractError> {
        // A directory or link that goes may be on the way to a parent we hold.
        self.parents.clear();
        let gone = self.spill.take(entry, parent, parent_path, name)?;
        self.names = self.names.saturating_sub(gone);
        Ok(())
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
        let dir = match open_in(&self.root, path) {
            Err(error) if error.not_found() => make_in(&self.root, path, &mut self.names)?,
            other => other?,
        };
        self.parents.insert(0, (path.clone(), dir.clone()));
        self.parents.truncate(PARENTS);
        Ok(dir)
    }
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

/// The attribute that makes a directory opaque: overlay reads the one in a user namespace, the other outside.
pub(super) fn opaque_key(is_root: bool) -> &'static [u8] {
    if is_root { b"trusted.overlay.opaque" } else { b"user.overlay.opaque" }
}

/// Whether an attribute of a layer is set on its file.
pub(super) fn applies(key: &[u8], is_root: bool) -> bool {
    key != b"security.selinux" && !key.starts_with(b"trusted.overlay.") && (is_root || !key.starts_with(b"user.overlay."))
}
