//! Pure: no I/O. The tar as most are: each path once, nothing behind links, nothing that undoes an earlier member.
//!
//! Such a layer is examined in one pass. Whatever does not look like it casts doubt, and the [`super::plan::Plan`] decides.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::keys::Keys;
use crate::extract::path::{Cleaned, Whiteout};
use crate::tarsplit::{Entry, EntryKind};

/// What the members have named so far, by hash.
#[derive(Default)]
pub(super) struct Hope {
    keys: Keys,
    known: HashSet<u64>,
    links: HashSet<u64>,
    /// Directories on which a member puts the opaque mark, and those that have it.
    opaque_given: HashSet<u64>,
    opaque_seen: HashSet<u64>,
    /// The directory of the last member, which needs no second look.
    last: Cleaned,
    doubt: bool,
}

impl Hope {
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether a member can have stood at a path or below it.
    pub(super) fn has(&self, chain: &[u64]) -> bool {
        chain.last().is_some_and(|key| self.known.contains(key))
    }

    /// Whether the pass proves nothing.
    pub(super) fn is_lost(&self) -> bool {
        self.doubt || self.opaque_given != self.opaque_seen
    }

    /// Takes note of an opaque mark that is on disk.
    pub(super) fn sees_opaque(&mut self, path: &Cleaned) {
        if let Some(key) = self.keys.chain(path).pop() {
            self.opaque_seen.insert(key);
        }
    }

    /// Takes note of a member.
    pub(super) fn note(&mut self, entry: &Entry, parent: &Cleaned, plain: &OsStr) {
        let whiteout = Whiteout::parse(plain);
        let name = match whiteout {
            Some(Whiteout::Of(hidden)) => hidden,
            _ => plain,
        };
        let mut at = self.keys.root();
        let mut own = None;
        for part in &parent.0 {
            let (next, key) = at.enter(part);
            (at, own) = (next, Some(key));
            if *parent != self.last {
                self.doubt |= self.links.contains(&key);
                self.known.insert(key);
            }
        }
        if *parent != self.last {
            self.last = parent.clone();
        }
        if whiteout.is_some() {
            // Where overlay is a program (fuse-overlayfs), it is a file.
            self.known.insert(at.enter(plain.as_bytes()).1);
        }
        if whiteout == Some(Whiteout::Opaque) {
            if let Some(own) = own {
                self.opaque_given.insert(own);
                // A directory that is not in the tar is not looked at for itself.
                self.opaque_seen.insert(own);
            }
            return;
        }
        let (_, key) = at.enter(name.as_bytes());
        self.doubt |= !self.known.insert(key);
        if matches!(entry.kind, EntryKind::Symlink | EntryKind::HardLink) {
            self.links.insert(key);
        }
    }
}
