//! Whether a layer on disk is what its tar-split says.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, BufReader, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::error::shown;
use super::path::{Cleaned, Whiteout, is_applied_root};
use super::spill::Body;
use super::tree::{applies, open_in};
use crate::fsio::{self, Dir, File, Kind, Meta};
use crate::ids::Digest;
use crate::tarsplit::{self, Crc64, Entry, EntryKind, SplitEntry, SplitError, SplitReader};

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every file is there with its size; contents are not read.
    Structure,
    /// Every byte and attribute.
    Contents,
}

/// Compares a layer's `diff/` with its tar-split. `None`: sound. `Some`: what is wrong, in words.
///
/// Times are not compared. The contents are proved by reassembling the tar to `diff_id`.
///
/// # Errors
///
/// Those of the disk that say nothing about the layer (out of memory, descriptors, EIO).
pub fn verify(diff: &Dir, split: &File, diff_id: &Digest, depth: Depth) -> fsio::Result<Option<String>> {
    match depth {
        Depth::Structure => sizes(diff, split),
        Depth::Contents => {
            match digest_of(diff, split) {
                Err(why) => return Ok(Some(why)),
                Ok(seen) if seen != *diff_id => return Ok(Some(format!("its files reassemble to {seen}"))),
                Ok(_) => {}
            }
            attributes(diff, split)
        }
    }
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The digest of the tar that a layer's files and tar-split reassemble to; the error is in words.
pub(super) fn digest_of(diff: &Dir, split: &File) -> Result<Digest, String> {
    let mut hash = Hasher(Sha256::new());
    let open = |name: &[u8]| open_file(diff, name).map(Body).map_err(io::Error::other);
    tarsplit::reassemble(from_start(split).map_err(|e| e.to_string())?, open, &mut hash).map_err(|error| words(&error))?;
    Ok(Digest::from_hash(&hash.0.finalize()))
}

fn words(error: &SplitError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Reads a file from its start, wherever others have read it to.
fn from_start(file: &File) -> fsio::Result<BufReader<FromStart<'_>>> {
    Ok(BufReader::with_capacity(64 << 10, FromStart { file, at: 0 }))
}

struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for FromStart<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(self.at, buf).map_err(|error| io::Error::new(error.kind(), error))?;
        self.at += got as u64;
        Ok(got)
    }
}

fn open_file(diff: &Dir, name: &[u8]) -> fsio::Result<File> {
    let Some((parent, name)) = Cleaned::of(name).split() else { return diff.file("") };
    open_in(diff, &parent)?.file(name)
}

/// Parents come in runs: the last one is kept.
struct Cursor<'a> {
    root: &'a Dir,
    last: Option<(Cleaned, Dir)>,
}

impl Cursor<'_> {
    /// What stands at a member's path, with the directory it is in.
    fn look(&mut self, parent: Cleaned, name: &OsStr) -> fsio::Result<Option<(Dir, Meta)>> {
        let known = self.last.as_ref().filter(|(path, _)| *path == parent).map(|(_, dir)| dir.clone());
        let dir = match known {
            Some(dir) => dir,
            None => match open_in(self.root, &parent) {
                Err(error) if error.not_found() || error.is(Errno::NOTDIR) || error.is(Errno::LOOP) => return Ok(None),
                other => other?,
            },
        };
        let meta = dir.meta(name)?;
        self.last = Some((parent, dir.clone()));
        Ok(meta.map(|meta| (dir, meta)))
    }
}

fn sizes(diff: &Dir, split: &File) -> fsio::Result<Option<String>> {
    let mut cursor = Cursor { root: diff, last: None };
    let mut entries = SplitReader::new(from_start(split)?);
    let nothing = Crc64::of(b"");
    loop {
        let (name, size) = match entries.next() {
            Ok(None) => return Ok(None),
            // Go records a size for links and directories that have one in their header, with the CRC of nothing.
            Ok(Some(SplitEntry::File { name, size, crc })) if size > 0 && crc != nothing => (name, size),
            Ok(Some(_)) => continue,
            Err(error) => return Ok(Some(words(&error))),
        };
        let Some((parent, last)) = Cleaned::of(&name).split() else { continue };
        match cursor.look(parent, &last)? {
            Some((_, meta)) if meta.kind == Kind::File && meta.size == size => {}
            Some(_) => return Ok(Some(format!("{} is not a file of {size} bytes", shown(&name)))),
            None => return Ok(Some(format!("{} is missing", shown(&name)))),
        }
    }
}

fn attributes(diff: &Dir, split: &File) -> fsio::Result<Option<String>> {
    let mut repeated: HashSet<Vec<Vec<u8>>> = HashSet::new();
    for entry in tarsplit::headers(from_start(split)?) {
        match entry {
            Ok(entry) if entry.duplicate => drop(repeated.insert(Cleaned::of(&entry.name).0)),
            Ok(_) => {}
            Err(error) => return Ok(Some(words(&error))),
        }
    }
    let mut cursor = Cursor { root: diff, last: None };
    let is_root = rustix::process::geteuid().is_root();
    for entry in tarsplit::headers(from_start(split)?) {
        let Ok(entry) = entry else { continue };
        if let Some(why) = compare(&mut cursor, &entry, &repeated, is_root)? {
            return Ok(Some(format!("{} {why}", shown(&entry.name))));
        }
    }
    Ok(None)
}

fn compare(cursor: &mut Cursor<'_>, entry: &Entry, repeated: &HashSet<Vec<Vec<u8>>>, is_root: bool) -> fsio::Result<Option<String>> {
    let cleaned = Cleaned::of(&entry.name);
    // Of a path that is named twice only the last one is on disk, and its body is proved already.
    if entry.kind == EntryKind::GlobalHeader || repeated.contains(&cleaned.0) || (cleaned.0.is_empty() && is_applied_root(&entry.name)) {
        return Ok(None);
    }
    let Some((parent, name)) = cleaned.split() else { return Ok(None) };
    let wrong = |why: &str| Ok(Some(why.to_owned()));
    let hidden = match Whiteout::parse(&name) {
        Some(Whiteout::Opaque) => return Ok(None),
        Some(Whiteout::Of(hidden)) => {
            // A later member may have put something real in its place.
            let there = cursor.look(parent.clone(), hidden)?;
            return if there.is_some() || cursor.last.as_ref().is_none_or(|(path, _)| *path != parent) {
                Ok(None)
            } else {
                wrong("is not hidden")
            };
        }
        None => name,
    };
    let Some((dir, meta)) = cursor.look(parent, &hidden)? else {
        let device = matches!(entry.kind, EntryKind::Char | EntryKind::Block);
        return if device && !is_root { Ok(None) } else { wrong("is missing") };
    };
    // A whiteout that came later, or what replaced an ancestor.
    if meta.kind == Kind::Char && meta.rdev == (0, 0) && entry.kind != EntryKind::Char {
        return Ok(None);
    }
    let kind = match entry.kind {
        EntryKind::File => Kind::File,
        EntryKind::Dir => Kind::Dir,
        EntryKind::Symlink => Kind::Symlink,
        EntryKind::Char => Kind::Char,
        EntryKind::Block => Kind::Block,
        EntryKind::Fifo => Kind::Fifo,
        // Whatever it links to; its attributes are those of the last header of the inode.
        EntryKind::HardLink | EntryKind::GlobalHeader => return Ok(None),
    };
    if meta.kind != kind {
        return Ok(Some(format!("is a {:?}, the layer has a {kind:?}", meta.kind)));
    }
    if kind == Kind::Symlink && dir.read_link(&hidden)?.as_os_str().as_bytes() != entry.link {
        return wrong("links to somewhere else");
    }
    if matches!(kind, Kind::Char | Kind::Block) && meta.rdev != entry.device {
        return wrong("is another device");
    }
    if kind == Kind::File && meta.size != entry.size {
        return wrong("has another size");
    }
    // A hard link's header sets the owner and mode of the shared inode.
    if kind != Kind::Dir && meta.links > 1 {
        return Ok(None);
    }
    if (meta.uid, meta.gid) != (entry.uid, entry.gid) {
        return Ok(Some(format!("is owned by {}:{} instead of {}:{}", meta.uid, meta.gid, entry.uid, entry.gid)));
    }
    if kind != Kind::Symlink && meta.mode != entry.mode {
        return Ok(Some(format!("has mode {:04o} instead of {:04o}", meta.mode, entry.mode)));
    }
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| applies(key, is_root)) {
        match dir.xattr(&hidden, key) {
            Ok(Some(seen)) if seen == *value => {}
            // A namespace that the filesystem or the kernel does not keep.
            Err(error) if error.is(Errno::OPNOTSUPP) => {}
            Ok(_) => return Ok(Some(format!("lacks its attribute {}", shown(key)))),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
