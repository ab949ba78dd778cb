//! Puts right, in place, what a layer's tar-split says without any file's bytes: attributes, links, directories, devices,
//! fifos, empty files, hard links, whiteouts, opaque marks.
//!
//! - M1: all of it is worked out from the headers, so that it may be cut short anywhere and run again.
//! - M2: no bytes of a file are changed, and no inode that has names beyond those that the tar gives it: it may be shared
//!   with another layer.
//! - M3: what is made gets a temporary name and its attributes, and then its name. A run removes what an earlier one left.
//! - M4: the time of a directory whose names change is put back; everything touched is synced before the end.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::attributes::{Attributes, Keeps};
use super::look::{bytes, kind_of, look};
use super::plan::{Plan, Role};
use super::put::{Changes, Made, TEMP};
use super::shares::Shares;
use super::unreadable;
use crate::extract::path::{Cleaned, Whiteout};
use crate::extract::resolve::{self, open_in};
use crate::extract::tree::opaque_key;
use crate::extract::verify::{Cursor, Seen, from_start};
use crate::fsio::{self, Dir, File, Kind, Meta, Purpose, Step, Walk, optional};
use crate::tarsplit::{self, Entry, EntryKind};

/// What came of mending a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mended {
    /// All that needs no bytes is as the tar-split says, and synced.
    Done {
        /// How many objects were changed, made or removed.
        changed: u64,
    },
    /// It cannot be done in place, and the whole tree must be made anew; some of it may have been put right.
    Refused {
        /// Where it stopped; empty for the layer itself.
        path: Vec<u8>,
        /// Why.
        why: String,
    },
}

/// Why the work stops.
#[derive(Debug)]
pub(super) enum Halt {
    Refused(Vec<u8>, String),
    Disk(fsio::Error),
}

impl From<fsio::Error> for Halt {
    fn from(error: fsio::Error) -> Self {
        Self::Disk(error)
    }
}

pub(super) fn refuse<T>(path: &Cleaned, why: &str) -> Result<T, Halt> {
    Err(Halt::Refused(bytes(path), why.to_owned()))
}

/// Makes everything in `diff` that needs no bytes what the tar-split says. Nobody may use the layer meanwhile.
///
/// `remove` are paths inside `diff` that the caller has kept elsewhere if they matter: names that the tar does not give are
/// removed, and what has the name of something else may be replaced. Other such names stay.
///
/// # Errors
///
/// Those of the disk; the work can be done again from its start.
pub fn mend_attributes(diff: &Dir, split: &File, remove: &[Vec<u8>]) -> fsio::Result<Mended> {
    let mut plan = Plan::default();
    for (index, entry) in (0..).zip(tarsplit::plain_headers(from_start(split))) {
        match entry {
            Ok(entry) => plan.apply(diff, index, &entry)?,
            Err(error) => return Ok(Mended::Refused { path: Vec::new(), why: unreadable(error)? }),
        }
    }
    let changes = Changes::new(diff, Keeps::of(diff)?);
    let mut mend =
        Mend { root: diff, cursor: Cursor::new(diff), plan: &plan, changes, shares: Shares::default(), given_up: HashSet::new() };
    match mend.run(split, remove) {
        Ok(changed) => Ok(Mended::Done { changed }),
        Err(Halt::Refused(path, why)) => Ok(Mended::Refused { path, why }),
        Err(Halt::Disk(error)) => Err(error),
    }
}

struct Mend<'a> {
    root: &'a Dir,
    cursor: Cursor<'a>,
    plan: &'a Plan,
    changes: Changes<'a>,
    shares: Shares,
    /// Paths of the tar where something else may be replaced whatever it holds.
    given_up: HashSet<Vec<u8>>,
}

impl Mend<'_> {
    fn run(&mut self, split: &File, remove: &[Vec<u8>]) -> Result<u64, Halt> {
        self.sweep()?;
        self.remove(remove)?;
        for (index, entry) in (0..).zip(tarsplit::plain_headers(from_start(split)).flatten()) {
            self.member(index, entry)?;
        }
        Ok(self.changes.finish()?)
    }

    /// Removes what a run left that was cut short.
    fn sweep(&mut self) -> Result<(), Halt> {
        let mut here = Cleaned::default();
        let mut stale = Vec::new();
        let mut walk = Walk::of(self.root, Purpose::Keep)?;
        while let Some(step) = walk.next()? {
            let (Step::Enter { name } | Step::Leaf { name, .. }) = &step else {
                here.0.pop();
                continue;
            };
            here = here.join(name);
            if name.as_bytes().starts_with(TEMP) && !self.plan.has(&self.plan.keys().chain(&here)) {
                stale.push(here.clone());
            }
            if matches!(step, Step::Leaf { .. }) {
                here.0.pop();
            }
        }
        stale.into_iter().try_for_each(|path| self.drop_name(path))
    }

    fn remove(&mut self, paths: &[Vec<u8>]) -> Result<(), Halt> {
        let mut paths: Vec<Cleaned> = paths.iter().filter_map(|path| Cleaned::of(path)).collect();
        // What is in a directory before the directory.
        paths.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        for path in paths {
            if self.plan.has(&self.plan.keys().chain(&path)) {
                self.given_up.insert(bytes(&path));
            } else {
                self.drop_name(path)?;
            }
        }
        Ok(())
    }

    /// Removes a name, which lies behind no link. Gone is done.
    fn drop_name(&mut self, path: Cleaned) -> Result<(), Halt> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let mut dir = self.root.clone();
        for part in &parent.0 {
            match optional(dir.dir(OsStr::from_bytes(part)))? {
                Some(next) => dir = next,
                None => return Ok(()),
            }
        }
        match dir.meta(&name)? {
            None => Ok(()),
            Some(meta) => Ok(self.changes.names(&dir, &parent, || remove_name(&dir, &name, meta.kind))?),
        }
    }

    fn member(&mut self, index: u32, mut entry: Entry) -> Result<(), Halt> {
        let Some(path) = Cleaned::of(&entry.name).filter(|_| entry.kind != EntryKind::GlobalHeader) else { return Ok(()) };
        let Some((parent, name)) = path.split() else { return Ok(()) };
        if parent.0.iter().any(|part| part.len() > 255) || name.len() > 255 {
            return refuse(&parent, "a name is longer than 255 bytes");
        }
        match Whiteout::parse(&name) {
            Some(Whiteout::Opaque) => self.opaque(index, &parent),
            Some(Whiteout::Of(hidden)) => self.hidden(index, &entry, &parent, hidden, &name),
            None => self.object(index, &mut entry, parent, name),
        }
    }

    fn opaque(&mut self, index: u32, path: &Cleaned) -> Result<(), Halt> {
        if !self.plan.opaque(self.root, index, path)? {
            return Ok(());
        }
        let dir = self.parent(path)?;
        let keys = [b"trusted.overlay.opaque".as_slice(), b"user.overlay.opaque"];
        for key in keys {
            if dir.xattr_self(key)?.as_deref() == Some(b"y") {
                return Ok(());
            }
        }
        // As it is where overlay is a program (fuse-overlayfs).
        if dir.meta(".wh..wh..opq")?.is_some() {
            return Ok(());
        }
        dir.set_xattr_self(opaque_key(self.changes.keeps().is_root), b"y")?;
        self.changes.touched(path.clone(), Kind::Dir);
        Ok(())
    }

    fn hidden(&mut self, index: u32, entry: &Entry, parent: &Cleaned, hidden: &OsStr, plain: &OsStr) -> Result<(), Halt> {
        let path = parent.clone().join(hidden);
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") || self.plan.role(self.root, index, &path)? == Role::Gone {
            return Ok(());
        }
        let there = match look(&mut self.cursor, parent, hidden)? {
            Seen::There(_, meta) if meta.kind == Kind::Char && meta.rdev == (0, 0) => return Ok(()),
            Seen::Blocked => return Ok(()),
            Seen::There(_, meta) => Some(meta),
            Seen::Nothing | Seen::NoParent => None,
        };
        // As it is where overlay is a program (fuse-overlayfs).
        if matches!(look(&mut self.cursor, parent, plain)?, Seen::There(_, meta) if meta.kind == Kind::File) {
            return Ok(());
        }
        let wanted = Attributes::of_whiteout((entry.uid, entry.gid));
        self.put(parent, hidden, there.as_ref(), &Made::Node(Kind::Char, (0, 0)), Some(&wanted))
    }

    fn object(&mut self, index: u32, entry: &mut Entry, parent: Cleaned, name: OsString) -> Result<(), Halt> {
        let path = parent.clone().join(&name);
        let role = self.plan.role(self.root, index, &path)?;
        if matches!(role, Role::Gone | Role::Superseded) {
            return Ok(());
        }
        let there = match look(&mut self.cursor, &parent, &name)? {
            Seen::There(dir, meta) => Some((dir, meta)),
            _ => None,
        };
        let right = match &there {
            Some((dir, meta)) => self.is_right(entry, role, dir, &name, meta)?,
            None => false,
        };
        let mut mended = right;
        if !right && let Some(made) = self.made(entry, role)? {
            let wanted = (!matches!(made, Made::Link(..))).then(|| Attributes::of(&mut entry.clone(), made.kind()));
            self.put(&parent, &name, there.map(|(_, meta)| meta).as_ref(), &made, wanted.as_ref())?;
            mended = true;
        }
        // What was lost is somebody else's to bring back, with its attributes.
        let meta = if mended { open_in(self.root, &parent)?.meta(&name)? } else { None };
        match (role, meta) {
            (Role::Shared(group), meta) => {
                let at = meta.map(|meta| (parent, name, meta.kind));
                let Some(shared) = self.shares.add(self.plan, index, group, entry, at) else { return Ok(()) };
                let Some((parent, name)) = shared.at else { return Ok(()) };
                self.changes.attributes(&open_in(self.root, &parent)?, &parent, &name, &shared.wanted, shared.names)
            }
            (Role::Last { opaque, merged }, Some(meta)) => {
                let wanted = Attributes { opaque, may_have_more: merged, ..Attributes::of(entry, meta.kind) };
                self.changes.attributes(&open_in(self.root, &parent)?, &parent, &name, &wanted, 1)
            }
            _ => Ok(()),
        }
    }

    /// Whether what has the member's name is the member, attributes and contents apart.
    fn is_right(&mut self, entry: &Entry, role: Role, dir: &Dir, name: &OsStr, meta: &Meta) -> fsio::Result<bool> {
        let Some(kind) = kind_of(entry) else {
            return Ok(match self.target(entry, role)? {
                Some((_, target)) => (target.device, target.inode) == (meta.device, meta.inode),
                None => true,
            });
        };
        Ok(meta.kind == kind
            && match kind {
                Kind::Symlink => dir.read_link(name)?.as_os_str().as_bytes() == entry.link,
                Kind::Char | Kind::Block => meta.rdev == entry.device,
                _ => true,
            })
    }

    /// What a hard link is a name of, if that is there and no later member has replaced it.
    fn target(&mut self, entry: &Entry, role: Role) -> fsio::Result<Option<((Dir, OsString), Meta)>> {
        let Some(target) = Cleaned::of(&entry.link) else { return Ok(None) };
        let Role::Shared(group) = role else { return Ok(None) };
        if !self.plan.linked(self.root, target.clone(), group)? {
            return Ok(None);
        }
        let Some((parent, name)) = target.split() else { return Ok(None) };
        Ok(match look(&mut self.cursor, &parent, &name)? {
            Seen::There(dir, meta) => Some(((dir, name), meta)),
            _ => None,
        })
    }

    /// How a member is made, if that takes no bytes.
    fn made(&mut self, entry: &Entry, role: Role) -> Result<Option<Made>, Halt> {
        Ok(match entry.kind {
            EntryKind::File => (entry.size == 0).then_some(Made::Empty),
            EntryKind::Dir => Some(Made::Dir),
            EntryKind::Symlink => Some(Made::Symlink(entry.link.clone())),
            // As Go: devices are left out where the user may not make them.
            EntryKind::Char | EntryKind::Block if !self.changes.keeps().is_root => None,
            EntryKind::Char => Some(Made::Node(Kind::Char, entry.device)),
            EntryKind::Block => Some(Made::Node(Kind::Block, entry.device)),
            EntryKind::Fifo => Some(Made::Node(Kind::Fifo, (0, 0))),
            EntryKind::HardLink => self.target(entry, role)?.map(|((dir, name), meta)| Made::Link(dir, name, meta.kind)),
            EntryKind::GlobalHeader => None,
        })
    }

    /// Puts something new under a name, in place of `there`.
    fn put(&mut self, parent: &Cleaned, name: &OsStr, there: Option<&Meta>, made: &Made, wanted: Option<&Attributes>) -> Result<(), Halt> {
        let dir = self.parent(parent)?;
        let path = parent.clone().join(name);
        if let Some(meta) = there
            && !self.given_up.contains(&bytes(&path))
            && holds_something(&dir, name, meta, made)?
        {
            return refuse(&path, "something that may matter has its name");
        }
        let mut number = 0u32;
        let temp = loop {
            let temp = OsString::from(format!("{}{number}", String::from_utf8_lossy(TEMP)));
            if !self.plan.has(&self.plan.keys().chain(&parent.clone().join(&temp))) {
                break temp;
            }
            number += 1;
        };
        self.changes.put(&dir, parent, (&temp, name), there.map(|meta| meta.kind), made, wanted)?;
        // A directory that was replaced may be the one that is held open.
        self.cursor = Cursor::new(self.root);
        Ok(())
    }

    /// The directory at a path, made where only the paths of members name it.
    fn parent(&mut self, path: &Cleaned) -> Result<Dir, Halt> {
        let mut dir = self.root.clone();
        for (depth, part) in path.0.iter().enumerate() {
            let name = OsStr::from_bytes(part);
            dir = match dir.meta(name)? {
                None => {
                    let above = path.prefix(depth);
                    let made = self.changes.names(&dir, &above, || resolve::make(&dir, name))?;
                    self.changes.touched(path.prefix(depth + 1), Kind::Dir);
                    self.cursor = Cursor::new(self.root);
                    made
                }
                Some(meta) if meta.kind == Kind::Dir => dir.dir(name)?,
                Some(meta) if meta.kind == Kind::Symlink => match optional(open_in(self.root, &path.prefix(depth + 1)))? {
                    Some(next) => next,
                    None => return refuse(&path.prefix(depth + 1), "a link on the way leads nowhere"),
                },
                Some(_) => return refuse(&path.prefix(depth + 1), "what should be a directory is none"),
            };
        }
        Ok(dir)
    }
}

pub(super) fn remove_name(dir: &Dir, name: &OsStr, kind: Kind) -> fsio::Result<()> {
    if kind == Kind::Dir { dir.rmdir(name) } else { dir.unlink(name) }
}

/// Whether what is replaced has bytes or names in it, and is no copy of what comes.
fn holds_something(dir: &Dir, name: &OsStr, meta: &Meta, made: &Made) -> fsio::Result<bool> {
    match (meta.kind, made) {
        (Kind::Dir, _) => Ok(dir.dir(name)?.count_tree()? > 0),
        (Kind::File, Made::Link(target, other, Kind::File)) => Ok(!same_bytes(&dir.file(name)?, &target.file(other)?)?),
        (Kind::File, _) => Ok(meta.size > 0),
        _ => Ok(false),
    }
}

fn same_bytes(one: &File, other: &File) -> fsio::Result<bool> {
    if one.len()? != other.len()? {
        return Ok(false);
    }
    let (mut a, mut b, mut at) = (vec![0u8; 64 << 10], vec![0u8; 64 << 10], 0);
    loop {
        let (got, same) = (one.read_at(at, &mut a)?, other.read_at(at, &mut b)?);
        if got != same || a.get(..got) != b.get(..same) {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
        at += got as u64;
    }
}
