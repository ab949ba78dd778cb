//! A model of a disk: what a program did, what of it is on the medium, and every state a power cut may leave.
//!
//! What is assumed of a filesystem is what ext4, XFS and btrfs all give, and no more:
//! - a name, a rename, an unlink is on the medium after an fsync of a directory it touches, and may be there before; a rename
//!   is one change, wherever its two names lie;
//! - bytes and attributes are on the medium after an fsync of their file; a name may come without them;
//! - syncfs brings everything.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cstor_rs::fsio::{At, Hook, Op};

/// Owner, mode, time and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attrs {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attrs {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
        let mut xattrs = BTreeMap::new();
        if !meta.file_type().is_symlink() {
            let mut names = vec![0u8; 4096];
            let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
            for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
                let mut value = vec![0u8; 4096];
                let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
                xattrs.insert(name.to_vec(), value[..len].to_vec());
            }
        }
        Ok(Self { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid(), mtime: (meta.mtime(), meta.mtime_nsec()), xattrs })
    }
}

/// A change as the log has it: paths relative to the store's directory, and attributes as they were afterwards.
#[derive(Clone, Debug)]
pub enum Change {
    Make(PathBuf, Made, Attrs, Real),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Attrs(PathBuf, Attrs),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFile(PathBuf),
    SyncDir(PathBuf),
    SyncFs,
    /// All but what lies in this directory, and its name.
    SyncFsBut(PathBuf),
    Nothing,
}

#[derive(Clone, Debug)]
pub enum Made {
    Dir,
    File,
    Symlink(PathBuf),
    Node(u32, u64),
}

/// Inode number and birth time of a directory on the real disk, which seals and intents name.
pub type Identity = (u64, Option<(i64, u32)>);
pub type Real = Option<Identity>;

pub fn real(path: &Path) -> Real {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME).ok()?;
    let birth = (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec));
    Some((stat.stx_ino, birth))
}

/// Logs what a program does to a directory.
pub struct Log {
    top: PathBuf,
    changes: Mutex<Vec<Change>>,
}

impl Log {
    pub fn of(top: &Path) -> Arc<Self> {
        Arc::new(Self { top: top.to_owned(), changes: Mutex::default() })
    }

    pub fn take(&self) -> Vec<Change> {
        std::mem::take(&mut self.changes.lock().unwrap())
    }

    fn path(&self, at: &At<'_>) -> PathBuf {
        at.path().strip_prefix(&self.top).unwrap_or_else(|_| panic!("{at:?} lies outside")).to_owned()
    }

    fn made(&self, at: &At<'_>, made: Made) -> Change {
        let path = at.path();
        let attrs = Attrs::of(&path).unwrap();
        // Of a new name only its kind is sure: its mode comes when it is set, but nobody sets it twice here.
        Change::Make(self.path(at), made, attrs, real(&path))
    }
}

impl Hook for Log {
    fn before(&self, _: &Op<'_>) -> io::Result<()> {
        Ok(())
    }

    fn done(&self, op: &Op<'_>) {
        let attrs = |at: &At<'_>| Change::Attrs(self.path(at), Attrs::of(&at.path()).unwrap());
        let change = match op {
            Op::Mkdir(at, mode) => match self.made(at, Made::Dir) {
                Change::Make(path, made, attrs, real) => Change::Make(path, made, Attrs { mode: *mode, ..attrs }, real),
                other => other,
            },
            Op::Create(at, mode) => match self.made(at, Made::File) {
                Change::Make(path, made, attrs, real) => Change::Make(path, made, Attrs { mode: *mode, ..attrs }, real),
                other => other,
            },
            Op::Symlink(at, text) => self.made(at, Made::Symlink(text.to_path_buf())),
            Op::Mknod(at, mode, device) => self.made(at, Made::Node(*mode, *device)),
            Op::Write(at, offset, bytes) => Change::Write(self.path(at), *offset, bytes.to_vec()),
            Op::Token(at, bytes) => Change::Write(self.path(at), 0, bytes.to_vec()),
            Op::Truncate(at, size) => Change::Truncate(self.path(at), *size),
            Op::Allocate(..) => Change::Nothing,
            Op::SyncData(at) | Op::SyncFile(at) => Change::SyncFile(self.path(at)),
            Op::SyncDir(at) => Change::SyncDir(self.path(at)),
            Op::SyncFs(_) => Change::SyncFs,
            Op::Rename(from, to) => Change::Rename(self.path(from), self.path(to)),
            Op::Exchange(one, other) => Change::Exchange(self.path(one), self.path(other)),
            Op::Link(from, to) => Change::Link(self.path(from), self.path(to)),
            Op::Unlink(at) | Op::Rmdir(at) => Change::Remove(self.path(at)),
            Op::Chmod(at, _) | Op::Chown(at, ..) | Op::Times(at) | Op::SetXattr(at, ..) | Op::RemoveXattr(at, ..) => attrs(at),
            other => panic!("the model does not know {other:?}"),
        };
        self.changes.lock().unwrap().push(change);
    }
}

type Entries = BTreeMap<OsString, usize>;

#[derive(Clone, Debug)]
enum Body {
    Dir { now: Entries, safe: Entries },
    File { now: Vec<u8>, safe: Vec<u8> },
    Symlink(PathBuf),
    Node(u32, u64),
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    now: Attrs,
    safe: Attrs,
    real: Real,
}

/// One change of names that is not on the medium for certain: directory, name, what it stood for, what it stands for.
#[derive(Clone, Debug)]
struct Pending(Vec<(usize, OsString, Option<usize>, Option<usize>)>);

/// The disk.
#[derive(Clone)]
pub struct Disk {
    inodes: Vec<Inode>,
    pending: Vec<Pending>,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Nothing of it.
    Synced,
    /// Names, but neither bytes nor attributes.
    Names,
    /// Names, and zeroes for bytes.
    Zeroes,
    /// All of it.
    Everything,
    /// All but one change of names.
    Without(usize),
    /// One change of names and nothing else.
    Only(usize),
    /// All but the bytes of one file.
    Dataless(usize),
    /// All, but of the last unsynced write to one file only so many bytes.
    Torn(usize, usize),
    /// All, but what was not synced of one block of 512 bytes of one file is zeroes.
    Hole(usize, usize),
}

impl Disk {
    /// The disk as a directory is now, all of it on the medium.
    pub fn of(top: &Path) -> Self {
        let mut disk = Self { inodes: Vec::new(), pending: Vec::new() };
        disk.load(top, &mut BTreeMap::new());
        disk
    }

    /// What podman leaves of a layer: its names and its record are on the medium, but no bytes of any file of it.
    pub fn forget_layer(&mut self, layer: &str) {
        self.forget_bytes(|path| path.to_string_lossy().contains(layer));
    }

    /// No bytes of these files are on the medium.
    pub fn forget_bytes(&mut self, which: impl Fn(&Path) -> bool) {
        for (id, path) in self.paths() {
            if which(&path)
                && let Body::File { safe, .. } = &mut self.inodes[id].body
            {
                safe.clear();
            }
        }
    }

    /// None of these names is on the medium.
    pub fn forget_names(&mut self, which: impl Fn(&Path) -> bool) {
        for (dir, path) in self.paths() {
            let Body::Dir { now, safe } = &mut self.inodes[dir].body else { continue };
            for (name, inode) in now.iter().filter(|(name, _)| which(&path.join(name))) {
                safe.remove(name);
                self.pending.push(Pending(vec![(dir, name.clone(), None, Some(*inode))]));
            }
        }
    }

    fn load(&mut self, path: &Path, seen: &mut BTreeMap<u64, usize>) -> usize {
        let meta = std::fs::symlink_metadata(path).unwrap();
        if !meta.is_dir()
            && let Some(inode) = seen.get(&meta.ino())
        {
            return *inode;
        }
        let kind = meta.file_type();
        let attrs = Attrs::of(path).unwrap();
        let body = if kind.is_symlink() {
            Body::Symlink(std::fs::read_link(path).unwrap())
        } else if kind.is_file() {
            let bytes = std::fs::read(path).unwrap();
            Body::File { now: bytes.clone(), safe: bytes }
        } else if kind.is_dir() {
            Body::Dir { now: Entries::new(), safe: Entries::new() }
        } else {
            assert!(kind.is_fifo() || kind.is_char_device(), "{}", path.display());
            Body::Node(meta.mode(), meta.rdev())
        };
        let id = self.inodes.len();
        self.inodes.push(Inode { body, now: attrs.clone(), safe: attrs, real: real(path) });
        seen.insert(meta.ino(), id);
        if kind.is_dir() {
            let mut entries = Entries::new();
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                entries.insert(entry.file_name(), self.load(&entry.path(), seen));
            }
            self.inodes[id].body = Body::Dir { now: entries.clone(), safe: entries };
        }
        id
    }

    fn now(&mut self, dir: usize) -> &mut Entries {
        match &mut self.inodes[dir].body {
            Body::Dir { now, .. } => now,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn safe(&mut self, dir: usize) -> &mut Entries {
        match &mut self.inodes[dir].body {
            Body::Dir { safe, .. } => safe,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn find(&mut self, path: &Path) -> usize {
        let mut at = 0;
        for part in path {
            at = *self.now(at).get(part).unwrap_or_else(|| panic!("{} is not there", path.display()));
        }
        at
    }

    fn split(&mut self, path: &Path) -> (usize, OsString) {
        (self.find(path.parent().unwrap()), path.file_name().unwrap().to_owned())
    }

    /// Sets names, as one change.
    fn set(&mut self, names: Vec<(usize, OsString, Option<usize>)>) {
        let mut pending = Vec::new();
        for (dir, name, new) in names {
            let entries = self.now(dir);
            let old = match new {
                Some(inode) => entries.insert(name.clone(), inode),
                None => entries.remove(&name),
            };
            pending.push((dir, name, old, new));
        }
        self.pending.push(Pending(pending));
    }

    /// Plays one change.
    pub fn play(&mut self, change: &Change) {
        match change {
            Change::Nothing => {}
            Change::Make(path, made, attrs, real) => {
                let body = match made {
                    Made::Dir => Body::Dir { now: Entries::new(), safe: Entries::new() },
                    Made::File => Body::File { now: vec![], safe: vec![] },
                    Made::Symlink(text) => Body::Symlink(text.clone()),
                    Made::Node(mode, device) => Body::Node(*mode, *device),
                };
                let id = self.inodes.len();
                self.inodes.push(Inode { body, now: attrs.clone(), safe: attrs.clone(), real: *real });
                let (dir, name) = self.split(path);
                self.set(vec![(dir, name, Some(id))]);
            }
            Change::Write(path, offset, bytes) => {
                let inode = self.find(path);
                let Body::File { now, .. } = &mut self.inodes[inode].body else { panic!("{} is no file", path.display()) };
                let offset = usize::try_from(*offset).unwrap();
                now.resize(now.len().max(offset + bytes.len()), 0);
                now[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Change::Truncate(path, size) => {
                let inode = self.find(path);
                let Body::File { now, .. } = &mut self.inodes[inode].body else { panic!("{} is no file", path.display()) };
                now.resize(usize::try_from(*size).unwrap(), 0);
            }
            Change::Attrs(path, attrs) => {
                let inode = self.find(path);
                self.inodes[inode].now = attrs.clone();
            }
            Change::Link(from, to) => {
                let inode = self.find(from);
                let (dir, name) = self.split(to);
                self.set(vec![(dir, name, Some(inode))]);
            }
            Change::Rename(from, to) => {
                let inode = self.find(from);
                let ((from_dir, from), (to_dir, to)) = (self.split(from), self.split(to));
                self.set(vec![(from_dir, from, None), (to_dir, to, Some(inode))]);
            }
            Change::Exchange(one, other) => {
                let (first, second) = (self.find(one), self.find(other));
                let ((one_dir, one), (other_dir, other)) = (self.split(one), self.split(other));
                self.set(vec![(one_dir, one, Some(second)), (other_dir, other, Some(first))]);
            }
            Change::Remove(path) => {
                let (dir, name) = self.split(path);
                self.set(vec![(dir, name, None)]);
            }
            Change::SyncFile(path) => {
                let inode = self.find(path);
                self.settle(inode);
            }
            Change::SyncDir(path) => {
                let dir = self.find(path);
                self.settle(dir);
                for pending in std::mem::take(&mut self.pending) {
                    if pending.0.iter().any(|(touched, ..)| *touched == dir) {
                        self.keep(&pending);
                    } else {
                        self.pending.push(pending);
                    }
                }
            }
            Change::SyncFsBut(aside) => {
                let paths = self.paths();
                let out = |dir: &usize, name: &OsString| paths.get(dir).is_some_and(|path| path.join(name).starts_with(aside));
                for pending in std::mem::take(&mut self.pending) {
                    if pending.0.iter().any(|(dir, name, ..)| out(dir, name)) {
                        self.pending.push(pending);
                    } else {
                        self.keep(&pending);
                    }
                }
                for inode in 0..self.inodes.len() {
                    if paths.get(&inode).is_none_or(|path| !path.starts_with(aside)) {
                        self.settle(inode);
                    }
                }
            }
            Change::SyncFs => {
                for pending in std::mem::take(&mut self.pending) {
                    self.keep(&pending);
                }
                for inode in 0..self.inodes.len() {
                    self.settle(inode);
                }
            }
        }
    }

    fn settle(&mut self, inode: usize) {
        let inode = &mut self.inodes[inode];
        inode.safe = inode.now.clone();
        if let Body::File { now, safe } = &mut inode.body {
            safe.clone_from(now);
        }
    }

    fn keep(&mut self, pending: &Pending) {
        for (dir, name, _, new) in &pending.0 {
            let entries = self.safe(*dir);
            match new {
                Some(inode) => entries.insert(name.clone(), *inode),
                None => entries.remove(name),
            };
        }
    }

    /// Every state that a power cut may leave now. Single losses inside of what `aside` says is staging are left out.
    pub fn cuts(&self, aside: impl Fn(&Path) -> bool) -> Vec<Cut> {
        let mut cuts = vec![Cut::Synced, Cut::Names, Cut::Zeroes, Cut::Everything];
        let paths = self.paths();
        let out = |dir: &usize| paths.get(dir).is_none_or(|path| aside(path));
        for (index, pending) in self.pending.iter().enumerate() {
            if !pending.0.iter().all(|(dir, ..)| out(dir)) {
                cuts.extend([Cut::Without(index), Cut::Only(index)]);
            }
        }
        for (id, path) in &paths {
            let Some(Inode { body: Body::File { now, safe }, .. }) = self.inodes.get(*id) else { continue };
            if now == safe || aside(path) {
                continue;
            }
            cuts.push(Cut::Dataless(*id));
            if path.extension().is_some_and(|e| e == "wal") || path.ends_with("history") {
                let (old, new) = (safe.len().min(now.len()), now.len());
                cuts.extend([old + (new - old) / 3, old + (new - old) / 2, new - 1].map(|len| Cut::Torn(*id, len)));
                cuts.extend((old / 512..=(new - 1) / 512).map(|block| Cut::Hole(*id, block)));
            }
        }
        cuts
    }

    /// The path of every inode that has one now.
    fn paths(&self) -> BTreeMap<usize, PathBuf> {
        let mut paths = BTreeMap::from([(0, PathBuf::new())]);
        let mut queue = vec![0];
        while let Some(id) = queue.pop() {
            if let Body::Dir { now, .. } = &self.inodes[id].body {
                for (name, inode) in now {
                    paths.insert(*inode, paths[&id].join(name));
                    queue.push(*inode);
                }
            }
        }
        paths
    }

    /// The disk after a power cut: everything there is on the medium.
    pub fn after(&self, cut: &Cut) -> Self {
        let mut disk = self.clone();
        disk.pending.clear();
        match cut {
            Cut::Synced => {}
            Cut::Only(index) => disk.keep(&self.pending[*index]),
            Cut::Without(index) => {
                for (other, pending) in self.pending.iter().enumerate() {
                    // A later change of the same name can't be there without this one: it is lost with it.
                    let same = |a: &Pending, b: &Pending| a.0.iter().any(|x| b.0.iter().any(|y| (x.0, &x.1) == (y.0, &y.1)));
                    if other != *index && !(other > *index && same(pending, &self.pending[*index])) {
                        disk.keep(pending);
                    }
                }
            }
            _ => self.pending.iter().for_each(|pending| disk.keep(pending)),
        }
        for (id, inode) in disk.inodes.iter_mut().enumerate() {
            let without = matches!(cut, Cut::Synced | Cut::Only(_) | Cut::Names | Cut::Zeroes);
            if !without {
                inode.safe = inode.now.clone();
            }
            inode.now = inode.safe.clone();
            match &mut inode.body {
                Body::File { now, safe } => {
                    match cut {
                        // What was on the medium before an append stays.
                        Cut::Zeroes if now.starts_with(safe) => safe.resize(now.len(), 0),
                        Cut::Zeroes if now != safe => *safe = vec![0; now.len()],
                        Cut::Synced | Cut::Only(_) | Cut::Names | Cut::Zeroes => {}
                        Cut::Dataless(lost) if *lost == id => {}
                        Cut::Torn(torn, len) if *torn == id => *safe = now[..*len].to_vec(),
                        Cut::Hole(holed, block) if *holed == id => {
                            let (start, end) = ((block * 512).max(safe.len()), now.len().min((block + 1) * 512));
                            safe.clone_from(now);
                            safe[start..end].fill(0);
                        }
                        _ => safe.clone_from(now),
                    }
                    now.clone_from(safe);
                }
                Body::Dir { now, safe } => now.clone_from(safe),
                _ => {}
            }
        }
        disk
    }

    /// What tells two states apart.
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hash = DefaultHasher::new();
        for (id, path) in self.paths() {
            path.hash(&mut hash);
            let inode = &self.inodes[id];
            (inode.now.mode, inode.now.uid, inode.now.gid, &inode.now.xattrs).hash(&mut hash);
            match &inode.body {
                Body::File { now, .. } => now.hash(&mut hash),
                Body::Symlink(text) => text.hash(&mut hash),
                Body::Node(mode, device) => (mode, device).hash(&mut hash),
                Body::Dir { .. } => {}
            }
        }
        hash.finish()
    }

    /// Makes the disk's tree in an empty directory; gives what became of each directory's identity.
    pub fn write(&self, top: &Path) -> BTreeMap<Identity, Identity> {
        let mut places: BTreeMap<usize, PathBuf> = BTreeMap::new();
        let mut identities = BTreeMap::new();
        let mut order = Vec::new();
        let mut queue = vec![(0, top.to_owned())];
        while let Some((id, path)) = queue.pop() {
            let inode = &self.inodes[id];
            match (&inode.body, places.get(&id)) {
                (Body::Dir { now, .. }, _) => {
                    if id != 0 {
                        std::fs::create_dir(&path).unwrap();
                    }
                    queue.extend(now.iter().map(|(name, inode)| (*inode, path.join(name))));
                    if let (Some(old), Some(new)) = (inode.real, real(&path)) {
                        identities.insert(old, new);
                    }
                }
                (_, Some(there)) => {
                    std::fs::hard_link(there, &path).unwrap();
                    continue;
                }
                (Body::File { now, .. }, None) => std::fs::write(&path, now).unwrap(),
                (Body::Symlink(text), None) => std::os::unix::fs::symlink(text, &path).unwrap(),
                (Body::Node(mode, device), None) => {
                    use rustix::fs::{CWD, FileType, Mode};
                    rustix::fs::mknodat(CWD, &path, FileType::from_raw_mode(*mode), Mode::from_raw_mode(0o600), *device).unwrap();
                }
            }
            places.insert(id, path.clone());
            order.push((id, path));
        }
        // Children before parents: a directory's time and mode come last.
        for (id, path) in order.iter().rev() {
            let attrs = &self.inodes[*id].now;
            std::os::unix::fs::lchown(path, Some(attrs.uid), Some(attrs.gid)).unwrap();
            let symlink = matches!(self.inodes[*id].body, Body::Symlink(_));
            if !symlink && *id != 0 {
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(attrs.mode)).unwrap();
                for (name, value) in &attrs.xattrs {
                    rustix::fs::lsetxattr(path, name.as_slice(), value, rustix::fs::XattrFlags::empty()).unwrap();
                }
            }
            use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
            let time = Timespec { tv_sec: attrs.mtime.0, tv_nsec: attrs.mtime.1 };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        identities
    }
}
