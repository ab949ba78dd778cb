//! Looking at what stands under a member's name, and saying what it is.

use std::ffi::OsStr;

use crate::extract::error::shown;
use crate::extract::path::Cleaned;
use crate::extract::verify::{Cursor, Seen};
use crate::fsio::{self, Dir, Kind};
use crate::tarsplit::{Entry, EntryKind};

/// As [`Cursor::dir`]; no filesystem has names of more than 255 bytes.
pub(super) fn look_at_dir(cursor: &mut Cursor<'_>, path: &Cleaned) -> fsio::Result<Result<Dir, Seen>> {
    if path.0.iter().any(|part| part.len() > 255) { Ok(Err(Seen::NoParent)) } else { cursor.dir(path) }
}

pub(super) fn look(cursor: &mut Cursor<'_>, parent: &Cleaned, name: &OsStr) -> fsio::Result<Seen> {
    if parent.0.iter().any(|part| part.len() > 255) { Ok(Seen::NoParent) } else { cursor.look(parent, name) }
}

/// What is on disk for a member; `None`: what it links to.
pub(super) fn kind_of(entry: &Entry) -> Option<Kind> {
    match entry.kind {
        EntryKind::File => Some(Kind::File),
        EntryKind::Dir => Some(Kind::Dir),
        EntryKind::Symlink => Some(Kind::Symlink),
        EntryKind::Char => Some(Kind::Char),
        EntryKind::Block => Some(Kind::Block),
        EntryKind::Fifo => Some(Kind::Fifo),
        EntryKind::HardLink | EntryKind::GlobalHeader => None,
    }
}

pub(super) fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "a directory",
        Kind::File => "a file",
        Kind::Symlink => "a symbolic link",
        Kind::Char => "a character device",
        Kind::Block => "a block device",
        Kind::Fifo => "a fifo",
        Kind::Socket => "a socket",
        Kind::Unknown => "something unknown",
    }
}

pub(super) fn described(entry: &Entry) -> String {
    match kind_of(entry) {
        None => format!("a hard link to {}", shown(&entry.link)),
        Some(Kind::File) => "an empty file".to_owned(),
        Some(Kind::Symlink) => format!("a symbolic link to {}", shown(&entry.link)),
        Some(kind) => words(kind).to_owned(),
    }
}

/// A path as it is reported.
pub(super) fn bytes(path: &Cleaned) -> Vec<u8> {
    path.0.join(&b'/')
}
