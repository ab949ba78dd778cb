//! One pass over the members of a layer, each compared with what is on disk.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::attributes::{self, Attributes, Keeps};
use super::findings::{DifferenceKind, Findings};
use super::hope::Hope;
use super::look::{bytes, described, kind_of, look, look_at_dir, words};
use super::plan::{Plan, Role};
use super::shares::Shares;
use crate::extract::error::shown;
use crate::extract::path::{Cleaned, Whiteout};
use crate::extract::verify::{Cursor, Seen};
use crate::fsio::{self, Dir, Kind, Meta};
use crate::tarsplit::{Entry, EntryKind};

/// How the members are judged.
pub(super) enum Judge<'a> {
    /// Each for itself.
    Each(Box<Hope>),
    /// By what all of them come to.
    All(&'a Plan),
}

/// What stands under the name of the last member that has a body.
pub(super) struct There {
    pub dir: Dir,
    pub name: OsString,
}

/// What a pass knows of the file of a member, should its body be on disk.
pub(super) enum Looked {
    /// There is none.
    Nothing,
    /// Its absence, or that it has another length, is among the findings.
    Reported,
    /// It is there and as long as it should be.
    There(There),
}

/// A pass in progress.
pub(super) struct Pass<'a> {
    root: &'a Dir,
    cursor: Cursor<'a>,
    keeps: Keeps,
    judge: Judge<'a>,
    shares: Shares,
    pub findings: Findings,
    pub files: u64,
}

impl<'a> Pass<'a> {
    pub(super) fn new(root: &'a Dir, judge: Judge<'a>, limit: usize) -> fsio::Result<Self> {
        let keeps = Keeps::of(root)?;
        let findings = Findings::new(limit);
        Ok(Self { root, cursor: Cursor::new(root), keeps, judge, shares: Shares::default(), findings, files: 0 })
    }

    pub(super) fn into_parts(self) -> (Judge<'a>, Findings) {
        (self.judge, self.findings)
    }

    /// Compares a member, and tells what stands under its name.
    pub(super) fn member(&mut self, index: u32, mut entry: Entry) -> fsio::Result<Looked> {
        let Some(path) = Cleaned::of(&entry.name).filter(|_| entry.kind != EntryKind::GlobalHeader) else { return Ok(Looked::Nothing) };
        // The root's own mode may be that of its parent layer's, and mounting changes its owner.
        let Some((parent, name)) = path.split() else { return Ok(Looked::Nothing) };
        if let Judge::Each(hope) = &mut self.judge {
            hope.note(&entry, &parent, &name);
        }
        match Whiteout::parse(&name) {
            Some(Whiteout::Opaque) => self.opaque(index, &parent)?,
            Some(Whiteout::Of(hidden)) => self.hidden(index, parent, hidden, &name)?,
            None => return self.object(index, &mut entry, parent, name),
        }
        Ok(Looked::Nothing)
    }

    fn opaque(&mut self, index: u32, path: &Cleaned) -> fsio::Result<()> {
        if let Judge::All(plan) = self.judge
            && !plan.opaque(self.root, index, path)?
        {
            return Ok(());
        }
        let dir = match look_at_dir(&mut self.cursor, path)? {
            Ok(dir) => dir,
            // What is below something that is no directory any more was hidden with it.
            Err(Seen::Blocked) => return Ok(()),
            Err(_) => return self.lost(path, "a directory with an opaque mark", "nothing"),
        };
        for key in [b"trusted.overlay.opaque".as_slice(), b"user.overlay.opaque"] {
            if dir.xattr_self(key)?.as_deref() == Some(b"y") {
                return Ok(());
            }
        }
        // As it is where overlay is a program (fuse-overlayfs).
        if dir.meta(".wh..wh..opq")?.is_some() {
            return Ok(());
        }
        self.lost(path, "an opaque mark: what lies below is hidden", "no mark")
    }

    fn lost(&mut self, path: &Cleaned, expected: &str, seen: &str) -> fsio::Result<()> {
        self.findings.add(DifferenceKind::NameMissing, &bytes(path), expected, seen);
        Ok(())
    }

    fn hidden(&mut self, index: u32, parent: Cleaned, hidden: &OsStr, plain: &OsStr) -> fsio::Result<()> {
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Ok(());
        }
        let path = parent.clone().join(hidden);
        if let Judge::All(plan) = self.judge
            && plan.role(self.root, index, &path)? == Role::Gone
        {
            return Ok(());
        }
        match look(&mut self.cursor, &parent, hidden)? {
            Seen::There(_, meta) if meta.kind == Kind::Char && meta.rdev == (0, 0) => Ok(()),
            // Hidden with what it lay in.
            Seen::Blocked => Ok(()),
            seen => {
                // As it is where overlay is a program (fuse-overlayfs).
                if matches!(look(&mut self.cursor, &parent, plain)?, Seen::There(_, meta) if meta.kind == Kind::File) {
                    return Ok(());
                }
                match seen {
                    Seen::There(_, meta) => self.findings.add(DifferenceKind::Kind, &bytes(&path), "a whiteout", words(meta.kind)),
                    _ => self.findings.add(DifferenceKind::NameMissing, &bytes(&path), "a whiteout", "nothing"),
                }
                Ok(())
            }
        }
    }

    fn object(&mut self, index: u32, entry: &mut Entry, parent: Cleaned, name: OsString) -> fsio::Result<Looked> {
        let path = parent.clone().join(&name);
        let role = match &self.judge {
            Judge::Each(_) => Role::Last { opaque: None, merged: false },
            Judge::All(plan) => plan.role(self.root, index, &path)?,
        };
        if matches!(role, Role::Gone | Role::Superseded) {
            return Ok(Looked::Nothing);
        }
        self.files += u64::from(entry.kind == EntryKind::File);
        let there = match look(&mut self.cursor, &parent, &name)? {
            Seen::There(dir, meta) => Some((dir, meta)),
            seen => {
                self.absent(entry, &path, &seen);
                None
            }
        };
        let there = match there {
            Some((dir, meta)) if self.is_it(entry, role, &path, &dir, &name, &meta)? => Some((dir, meta)),
            _ => None,
        };
        match (role, &there) {
            (Role::Shared(group), there) => {
                let at = there.as_ref().map(|(_, meta)| (parent, name.clone(), meta.kind));
                self.share(index, group, entry, at)?;
            }
            (Role::Last { opaque, merged }, Some((dir, meta))) => {
                let wanted = Attributes { opaque, may_have_more: merged, ..Attributes::of(entry, meta.kind) };
                self.attributes(&wanted, &path, dir, &name, meta)?;
            }
            _ => {}
        }
        Ok(match there {
            Some((dir, meta)) if entry.kind == EntryKind::File && meta.size == entry.size => Looked::There(There { dir, name }),
            _ => Looked::Reported,
        })
    }

    fn absent(&mut self, entry: &Entry, path: &Cleaned, seen: &Seen) {
        // As Go: devices are left out where the user may not make them.
        if matches!(entry.kind, EntryKind::Char | EntryKind::Block) && !self.keeps.is_root {
            return;
        }
        let seen = if matches!(seen, Seen::Blocked) { "nothing: what it lies in is no directory" } else { "nothing" };
        if entry.kind == EntryKind::File && entry.size > 0 {
            self.findings.add(DifferenceKind::FileMissing, &bytes(path), format!("a file of {} bytes", entry.size), seen);
        } else {
            self.findings.add(DifferenceKind::NameMissing, &bytes(path), described(entry), seen);
        }
    }

    /// Whether what has the member's name is what the member says, attributes and contents apart.
    fn is_it(&mut self, entry: &Entry, role: Role, path: &Cleaned, dir: &Dir, name: &OsStr, meta: &Meta) -> fsio::Result<bool> {
        let at = bytes(path);
        let Some(kind) = kind_of(entry) else { return self.is_linked(entry, role, &at, meta) };
        if meta.kind != kind {
            if entry.size > 0 {
                let wanted = format!("a file of {} bytes", entry.size);
                self.findings.add(DifferenceKind::FileMissing, &at, wanted, words(meta.kind));
            } else {
                self.findings.add(DifferenceKind::Kind, &at, words(kind), words(meta.kind));
            }
            return Ok(false);
        }
        match kind {
            Kind::Symlink => {
                let text = dir.read_link(name)?;
                if text.as_os_str().as_bytes() != entry.link {
                    self.findings.add(DifferenceKind::LinkTarget, &at, shown(&entry.link), shown(text.as_os_str().as_bytes()));
                }
            }
            Kind::Char | Kind::Block if meta.rdev != entry.device => {
                let numbers = |(major, minor): (u32, u32)| format!("{major}:{minor}");
                self.findings.add(DifferenceKind::Device, &at, numbers(entry.device), numbers(meta.rdev));
            }
            Kind::File if meta.size != entry.size => {
                self.findings.add(DifferenceKind::Size, &at, format!("{} bytes", entry.size), format!("{} bytes", meta.size));
            }
            _ => {}
        }
        Ok(true)
    }

    fn is_linked(&mut self, entry: &Entry, role: Role, at: &[u8], meta: &Meta) -> fsio::Result<bool> {
        let Some(target) = Cleaned::of(&entry.link) else { return Ok(true) };
        if let (Judge::All(plan), Role::Shared(group)) = (&self.judge, role)
            && !plan.linked(self.root, target.clone(), group)?
        {
            return Ok(true);
        }
        let Some((parent, name)) = target.split() else { return Ok(true) };
        let same = match look(&mut self.cursor, &parent, &name)? {
            Seen::There(_, target) => (target.device, target.inode) == (meta.device, meta.inode),
            // Found for itself.
            _ => matches!(self.judge, Judge::All(_)),
        };
        if !same {
            self.findings.add(DifferenceKind::HardLink, at, described(entry), format!("{} of its own", words(meta.kind)));
        }
        Ok(same)
    }

    fn attributes(&mut self, wanted: &Attributes, path: &Cleaned, dir: &Dir, name: &OsStr, meta: &Meta) -> fsio::Result<()> {
        let names = dir.xattr_names(name)?;
        if let Judge::Each(hope) = &mut self.judge
            && names.iter().any(|key| attributes::is_opaque_mark(key))
        {
            hope.sees_opaque(path);
        }
        let value = |key: &[u8]| dir.kept_xattr(name, key);
        attributes::compare(wanted, meta, self.keeps, &bytes(path), &names, value, &mut self.findings)
    }

    /// Takes in the header of one of several names of an inode, and compares it once the last has come.
    fn share(&mut self, index: u32, group: u32, entry: &mut Entry, at: Option<(Cleaned, OsString, Kind)>) -> fsio::Result<()> {
        let Judge::All(plan) = self.judge else { return Ok(()) };
        let Some(shared) = self.shares.add(plan, index, group, entry, at) else { return Ok(()) };
        let Some((parent, name)) = shared.at else { return Ok(()) };
        match look(&mut self.cursor, &parent, &name)? {
            Seen::There(dir, meta) => self.attributes(&shared.wanted, &parent.join(&name), &dir, &name, &meta),
            _ => Ok(()),
        }
    }
}
