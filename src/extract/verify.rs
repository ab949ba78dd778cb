//! Whether a layer on disk is what its tar-split says.

use std::io::{self, BufReader, Write};

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::attributes;
use super::error::shown;
use super::path::{Cleaned, Whiteout};
use super::resolve::open_in;
use super::spill::{Body, into_io};
use super::strangers;
use crate::causes::in_one_line;
use crate::fsio::{self, Dir, File, Kind, Meta};
use crate::ids::Digest;
use crate::tarsplit::{self, Crc64, SplitEntry, SplitError, SplitReader};

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every name is there, and every file with its size; contents are not read.
    ///
    /// The tar-split must stand for as many bytes as the record says, else the contents are read all the same.
    Structure,
    /// Every byte and attribute.
    Contents,
}

/// Compares a layer's `diff/` with its tar-split. `None`: sound. `Some`: what is wrong, in words.
///
/// `tar_bytes` is the length of the layer's tar, where it is known. Times are not compared. The contents are proved by reassembling the tar to `diff_id`.
///
/// # Errors
///
/// Those of the disk that say nothing about the layer (out of memory, descriptors, EIO).
pub fn verify(diff: &Dir, split: &File, diff_id: &Digest, depth: Depth, tar_bytes: Option<u64>) -> fsio::Result<Option<String>> {
    match depth {
        Depth::Structure => match structure(diff, split)? {
            Err(why) => Ok(Some(why)),
            // The tar-split was cut short, or the record names another length: only the bytes tell.
            Ok(found) if tar_bytes.is_some_and(|wanted| wanted != found.tar_bytes) => contents(diff, split, diff_id),
            // A later member may have removed it, or it is lost: that takes the headers to tell.
            Ok(found) if found.names_missing => attributes::compare(diff, split),
            Ok(_) => Ok(None),
        },
        Depth::Contents => contents(diff, split, diff_id),
    }
}

fn contents(diff: &Dir, split: &File, diff_id: &Digest) -> fsio::Result<Option<String>> {
    match digest_of(diff, split) {
        Err(error) => Ok(Some(verdict(error)?.unwrap_or_else(|error| words(&error)))),
        Ok(seen) if seen != *diff_id => Ok(Some(format!("its files reassemble to {seen}"))),
        Ok(_) => match attributes::compare(diff, split)? {
            None => strangers::find(diff, split),
            wrong => Ok(wrong),
        },
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

/// The digest of the tar that a layer's files and tar-split reassemble to.
pub(super) fn digest_of(diff: &Dir, split: &File) -> Result<Digest, SplitError> {
    let mut hash = Hasher(Sha256::new());
    let open = |name: &[u8]| open_file(diff, name).map(Body).map_err(into_io);
    tarsplit::reassemble(from_start(split), open, &mut hash)?;
    Ok(Digest::from_hash(&hash.0.finalize()))
}

/// Tells what says something about the layer, in words (`Ok(Ok)`), from what the disk alone is to blame for (`Err`) and
/// from a tar-split that cannot be read or written (`Ok(Err)`).
pub(super) fn verdict(error: SplitError) -> fsio::Result<Result<String, SplitError>> {
    let text = words(&error);
    match error {
        SplitError::Open { source, .. } | SplitError::Body { source, .. } => match source.downcast::<fsio::Error>() {
            Ok(error) if is_of_the_disk(&error) => Err(error),
            _ => Ok(Ok(text)),
        },
        SplitError::Size { .. } | SplitError::Crc { .. } => Ok(Ok(text)),
        SplitError::Read { position, source } => match source.downcast::<fsio::Error>() {
            Ok(error) => Err(error),
            Err(source) => Ok(Err(SplitError::Read { position, source })),
        },
        other => Ok(Err(other)),
    }
}

fn is_of_the_disk(error: &fsio::Error) -> bool {
    [Errno::IO, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN].into_iter().any(|errno| error.is(errno))
}

pub(super) fn words(error: &SplitError) -> String {
    in_one_line(error)
}

/// Reads a file from its start, wherever others have read it to.
pub(super) fn from_start(file: &File) -> BufReader<FromStart<'_>> {
    BufReader::with_capacity(64 << 10, FromStart { file, at: 0 })
}

pub(super) struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for FromStart<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(self.at, buf).map_err(into_io)?;
        self.at += got as u64;
        Ok(got)
    }
}

pub(super) fn open_file(diff: &Dir, name: &[u8]) -> fsio::Result<File> {
    // The root, or what no member can be called: no file has this name.
    let Some((parent, name)) = Cleaned::of(name).and_then(Cleaned::split) else { return diff.file("") };
    open_in(diff, &parent)?.file(name)
}

/// What stands at a member's path.
pub(super) enum Seen {
    /// It, and the directory it is in.
    There(Dir, Meta),
    /// Nothing; the directory is there.
    Nothing,
    /// No directory to look in.
    NoParent,
    /// Something else than a directory on the way.
    Blocked,
}

/// Parents come in runs: the last one is kept.
pub(super) struct Cursor<'a> {
    root: &'a Dir,
    last: Option<(Cleaned, Dir)>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(root: &'a Dir) -> Self {
        Self { root, last: None }
    }

    /// Opens a directory of the layer; the error is [`Seen::NoParent`] or [`Seen::Blocked`].
    pub(super) fn dir(&mut self, path: &Cleaned) -> fsio::Result<Result<Dir, Seen>> {
        if let Some((_, dir)) = self.last.as_ref().filter(|(known, _)| known == path) {
            return Ok(Ok(dir.clone()));
        }
        let dir = match open_in(self.root, path) {
            Err(error) if error.not_found() => return Ok(Err(Seen::NoParent)),
            Err(error) if error.is(Errno::NOTDIR) || error.is(Errno::LOOP) => return Ok(Err(Seen::Blocked)),
            other => other?,
        };
        self.last = Some((path.clone(), dir.clone()));
        Ok(Ok(dir))
    }

    /// What stands under `name` in the directory at `parent`.
    pub(super) fn look(&mut self, parent: &Cleaned, name: &std::ffi::OsStr) -> fsio::Result<Seen> {
        Ok(match self.dir(parent)? {
            Err(seen) => seen,
            // No filesystem has longer names.
            Ok(_) if name.len() > 255 => Seen::Nothing,
            Ok(dir) => dir.meta(name)?.map_or(Seen::Nothing, |meta| Seen::There(dir, meta)),
        })
    }
}

/// What the structure of a layer tells.
struct Structure {
    /// The length of the tar that it stands for, in bytes.
    tar_bytes: u64,
    /// Whether a member without a body has nothing at its path.
    names_missing: bool,
}

/// Looks for every member at its path, and for the sizes of those with a body. `Err`: what is wrong, in words.
fn structure(diff: &Dir, split: &File) -> fsio::Result<Result<Structure, String>> {
    let mut cursor = Cursor::new(diff);
    let mut entries = SplitReader::new(from_start(split));
    let nothing = Crc64::of(b"");
    let mut found = Structure { tar_bytes: 0, names_missing: false };
    loop {
        let (name, size) = match entries.next() {
            Ok(None) => return Ok(Ok(found)),
            // Go records a size for links and directories that have one in their header, with the CRC of nothing.
            Ok(Some(SplitEntry::File { name, size, crc })) if size > 0 && crc != nothing => (name, size),
            Ok(Some(SplitEntry::File { name, .. })) => {
                found.names_missing |= !is_there(&mut cursor, &name)?;
                continue;
            }
            Ok(Some(SplitEntry::Segment(bytes))) => {
                found.tar_bytes = found.tar_bytes.saturating_add(bytes.len() as u64);
                continue;
            }
            Err(error) => return Ok(Err(verdict(error)?.unwrap_or_else(|error| words(&error)))),
        };
        found.tar_bytes = found.tar_bytes.saturating_add(size);
        let Some((parent, last)) = Cleaned::of(&name).and_then(Cleaned::split) else {
            return Ok(Err(format!("{} has {size} bytes in no file", shown(&name))));
        };
        match cursor.look(&parent, &last)? {
            Seen::There(_, meta) if meta.kind == Kind::File && meta.size == size => {}
            Seen::There(..) => return Ok(Err(format!("{} is not a file of {size} bytes", shown(&name)))),
            Seen::Nothing | Seen::NoParent | Seen::Blocked => return Ok(Err(format!("{} is missing", shown(&name)))),
        }
    }
}

/// Whether anything stands where a member without a body belongs.
fn is_there(cursor: &mut Cursor<'_>, name: &[u8]) -> fsio::Result<bool> {
    let Some((parent, last)) = Cleaned::of(name).and_then(Cleaned::split) else { return Ok(true) };
    let name = match Whiteout::parse(&last) {
        // An attribute of the directory, and not a name in it.
        Some(Whiteout::Opaque) => return Ok(cursor.dir(&parent)?.is_ok()),
        Some(Whiteout::Of(hidden)) => hidden,
        None => &last,
    };
    Ok(matches!(cursor.look(&parent, name)?, Seen::There(..)))
}
