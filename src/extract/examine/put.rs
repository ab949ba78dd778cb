//! The changes that mending makes, each synced before the end.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::attributes::{self, Attributes, Keeps};
use super::findings::Findings;
use super::look::bytes;
use super::mend::{Halt, refuse, remove_name};
use crate::extract::path::Cleaned;
use crate::extract::resolve::open_in;
use crate::fsio::{self, Dir, Kind, optional};

/// What names begin with that things have while they are made.
pub(super) const TEMP: &[u8] = b".cstor-rs-mend-";

/// More inodes than these are synced with their whole filesystem.
const SYNCS: usize = 1000;

/// Something that is made without any file's bytes.
pub(super) enum Made {
    Empty,
    Dir,
    Symlink(Vec<u8>),
    Node(Kind, (u32, u32)),
    /// A further name of what is in a directory under a name.
    Link(Dir, OsString, Kind),
}

impl Made {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Empty => Kind::File,
            Self::Dir => Kind::Dir,
            Self::Symlink(_) => Kind::Symlink,
            Self::Node(kind, _) | Self::Link(_, _, kind) => *kind,
        }
    }

    fn make(&self, dir: &Dir, name: &OsStr) -> fsio::Result<()> {
        match self {
            Self::Empty => dir.create_private(name, 0o600).map(drop),
            Self::Dir => dir.mkdir(name, 0o700).map(drop),
            Self::Symlink(text) => dir.symlink(OsStr::from_bytes(text), name),
            Self::Node(Kind::Block, device) => dir.mknod(name, FileType::BlockDevice, 0, *device),
            Self::Node(Kind::Fifo, device) => dir.mknod(name, FileType::Fifo, 0, *device),
            Self::Node(_, device) => dir.mknod(name, FileType::CharacterDevice, 0, *device),
            Self::Link(from, target, _) => from.link(target, dir, name),
        }
    }
}

/// What has been changed so far.
pub(super) struct Changes<'a> {
    root: &'a Dir,
    keeps: Keeps,
    changed: u64,
    /// To be synced one by one; or the filesystem is, where links, devices and fifos cannot be or where they are many.
    touched: HashSet<Cleaned>,
    whole: bool,
}

impl<'a> Changes<'a> {
    pub(super) fn new(root: &'a Dir, keeps: Keeps) -> Self {
        Self { root, keeps, changed: 0, touched: HashSet::new(), whole: false }
    }

    pub(super) fn keeps(&self) -> Keeps {
        self.keeps
    }

    /// Takes note of an inode that is to be synced.
    pub(super) fn touched(&mut self, path: Cleaned, kind: Kind) {
        self.changed += 1;
        self.note(path, kind);
    }

    fn note(&mut self, path: Cleaned, kind: Kind) {
        self.whole |= !matches!(kind, Kind::File | Kind::Dir) || self.touched.len() >= SYNCS;
        if !self.whole {
            self.touched.insert(path);
        }
    }

    /// Changes the names in a directory, and puts its time back.
    pub(super) fn names<T>(&mut self, dir: &Dir, path: &Cleaned, change: impl FnOnce() -> fsio::Result<T>) -> fsio::Result<T> {
        let (tv_sec, nanos) = dir.own_meta()?.mtime;
        let value = change()?;
        let last_modification = Timespec { tv_sec, tv_nsec: nanos.into() };
        dir.set_times_self(&Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification })?;
        self.touched(path.clone(), Kind::Dir);
        Ok(value)
    }

    /// Makes something under a temporary name and then gives it its own, in place of what is there.
    pub(super) fn put(
        &mut self,
        dir: &Dir,
        parent: &Cleaned,
        (temp, name): (&OsStr, &OsStr),
        there: Option<Kind>,
        made: &Made,
        wanted: Option<&Attributes>,
    ) -> Result<(), Halt> {
        let (tv_sec, nanos) = dir.own_meta()?.mtime;
        made.make(dir, temp)?;
        if let Some(wanted) = wanted {
            self.attributes(dir, parent, temp, wanted, 1)?;
            self.touched.remove(&parent.clone().join(temp));
        }
        match there {
            None => dir.rename_new(temp, dir, name)?,
            Some(kind) if kind != Kind::Dir && made.kind() != Kind::Dir => dir.rename(temp, dir, name)?,
            Some(kind) => {
                dir.exchange(temp, dir, name)?;
                remove_name(dir, temp, kind)?;
            }
        }
        let last_modification = Timespec { tv_sec, tv_nsec: nanos.into() };
        dir.set_times_self(&Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification })?;
        self.touched(parent.clone().join(name), made.kind());
        self.note(parent.clone(), Kind::Dir);
        Ok(())
    }

    /// Gives what is in `dir` under `name` its attributes, where they differ. `names` is how many names it may have.
    pub(super) fn attributes(&mut self, dir: &Dir, parent: &Cleaned, name: &OsStr, wanted: &Attributes, names: u64) -> Result<(), Halt> {
        let Some(meta) = dir.meta(name)? else { return Ok(()) };
        let path = parent.clone().join(name);
        let keys = dir.xattr_names(name)?;
        let mut found = Findings::new(0);
        attributes::compare(wanted, &meta, self.keeps, &bytes(&path), &keys, |key| dir.kept_xattr(name, key), &mut found)?;
        if found.is_empty() {
            return Ok(());
        }
        if meta.kind != Kind::Dir && meta.links > names {
            return refuse(&path, "it has names that are not of this layer");
        }
        // Owner before mode: chown clears setuid. Attributes after both: chown clears security.capability.
        let (uid, gid) = wanted.owner;
        let other_owner = (meta.uid, meta.gid) != wanted.owner;
        if other_owner {
            dir.chown(name, uid, gid)?;
        }
        let new_mode = wanted.mode.filter(|mode| meta.kind != Kind::Symlink && (other_owner || *mode != meta.mode));
        if let Some(mode) = new_mode {
            dir.chmod(name, mode)?;
        }
        for (key, value) in wanted.xattrs.iter().filter(|(key, _)| self.keeps.must_be_there(key)) {
            match dir.kept_xattr(name, key) {
                Err(error) if error.is(Errno::OPNOTSUPP) => {}
                // The mode is part of an access control list.
                Ok(seen) if new_mode.is_none() && attributes::is_value(key, value, seen.as_deref()) => {}
                Ok(_) => dir.set_xattr(name, key, value)?,
                Err(error) => return Err(error.into()),
            }
        }
        for key in keys.iter().filter(|key| attributes::is_extra(wanted, key)) {
            dir.remove_xattr(name, key)?;
        }
        if let Some(times) = &wanted.times {
            let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            dir.set_times(name, &Timestamps { last_access, last_modification: times.last_modification })?;
        }
        self.touched(path, meta.kind);
        Ok(())
    }

    /// Syncs what was touched; returns the number of changes.
    pub(super) fn finish(&mut self) -> fsio::Result<u64> {
        if self.whole {
            self.root.sync_filesystem()?;
            return Ok(self.changed);
        }
        for path in std::mem::take(&mut self.touched) {
            let Some((parent, name)) = path.split() else {
                self.root.sync()?;
                continue;
            };
            let Some(dir) = optional(open_in(self.root, &parent))? else { continue };
            match dir.meta(&name)?.map(|meta| meta.kind) {
                Some(Kind::File) => dir.file(&name)?.sync_all()?,
                Some(Kind::Dir) => dir.dir(&name)?.sync()?,
                _ => {}
            }
        }
        Ok(self.changed)
    }
}
