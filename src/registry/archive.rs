//! A tar file as a set of named pieces: one pass finds its members, which are then read where they stand.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::{RegistryError, Result};
use super::piece::Piece;
use crate::extract::{Compression, ExtractError};
use crate::fsio::{self, Dir, File, Seam, scratch};
use crate::tarsplit::{Entry, EntryKind, TarError, members};

/// The most members an archive may have.
const MEMBERS_MAX: usize = 65_536;
/// The longest name of a member, and the longest text of a link, in bytes.
const NAME_MAX: usize = 1024;
/// The most bytes that a compressed archive may unpack to.
const UNPACKED_MAX: u64 = 256 << 30;
/// What is unpacked at once.
const BUFFER: usize = 256 << 10;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ArchiveError {
    /// Cut short, or no tar at all.
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("more than {MEMBERS_MAX} members, which are not accepted")]
    Members,
    #[error("a member before byte {offset} has a name or link of {len} bytes, at most {NAME_MAX} are accepted")]
    Name { offset: u64, len: usize },
    #[error("member {name:?} leads out of the archive")]
    Outside { name: String },
    #[error("member {name:?} is there more than once; make the archive anew")]
    Twice { name: String },
    #[error("member {name:?} is {kind}, not a file")]
    Kind { name: String, kind: &'static str },
    /// A compression that is not supported.
    #[error("it cannot be unpacked")]
    Compression { source: ExtractError },
    #[error("it cannot be unpacked beyond byte {offset}")]
    Unpack { offset: u64, source: io::Error },
    #[error("it unpacks to more than the {limit} bytes that there is room for; unpack it yourself, or set TMPDIR")]
    Room { limit: u64 },
    #[error("no temporary file to unpack it to")]
    Scratch { source: fsio::Error },
}

/// What has a name in an archive.
#[derive(Debug)]
enum Member {
    File { at: u64, len: u64 },
    Link { to: Vec<u8> },
    Other { kind: &'static str },
    Twice,
}

/// An opened archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// Its kind and path, for messages.
    label: String,
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

impl Archive {
    /// Opens the tar file `path` and finds its members; a compressed one is unpacked into a file without a name first.
    pub(super) fn open(kind: &str, path: &Path, cancel: &CancellationToken) -> Result<Self> {
        let label = format!("{kind} {}", path.display());
        let local = |source| RegistryError::Local { what: label.clone(), source };
        let file = Arc::new(open(path).map_err(local)?);
        let len = file.len().map_err(local)?;
        let refuse = |source| RegistryError::Archive { archive: label.clone(), source };
        let piece = Piece::new(file.clone(), 0, len);
        let file = match piece.compression(&label)?.map_err(|source| refuse(ArchiveError::Compression { source }))? {
            Compression::None => file,
            compression => Arc::new(unpack(&piece, &label, compression, cancel)?),
        };
        let members = index(&file).map_err(refuse)?;
        Ok(Self { label, file, members })
    }

    /// Its kind and path.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The file of this name, if there is one.
    pub(super) fn piece(&self, name: &str) -> Result<Option<Piece>> {
        let name = clean(name.as_bytes()).ok_or_else(|| self.refuse(ArchiveError::Outside { name: shown(name.as_bytes()) }))?;
        self.find(&name)
    }

    /// As [`Archive::piece`], but a link to a file will do: old versions of docker save a layer that several images share
    /// as one file and links to it. As c/image, no link to a link.
    pub(super) fn piece_or_link(&self, name: &str) -> Result<Option<Piece>> {
        let outside = || self.refuse(ArchiveError::Outside { name: shown(name.as_bytes()) });
        let path = clean(name.as_bytes()).ok_or_else(outside)?;
        let Some(Member::Link { to }) = self.members.get(&path) else { return self.find(&path) };
        let parent = path.iter().rposition(|&b| b == b'/').map_or(&b""[..], |slash| path.get(..slash).unwrap_or_default());
        let target = resolve(parent, to).ok_or_else(outside)?;
        self.find(&target)
    }

    fn find(&self, name: &[u8]) -> Result<Option<Piece>> {
        let kind = match self.members.get(name) {
            None => return Ok(None),
            Some(Member::File { at, len }) => return Ok(Some(Piece::new(self.file.clone(), *at, *len))),
            Some(Member::Twice) => return Err(self.refuse(ArchiveError::Twice { name: shown(name) })),
            Some(Member::Link { .. }) => "a symbolic link",
            Some(Member::Other { kind }) => kind,
        };
        Err(self.refuse(ArchiveError::Kind { name: shown(name), kind }))
    }

    pub(super) fn refuse(&self, source: ArchiveError) -> RegistryError {
        RegistryError::Archive { archive: self.label.clone(), source }
    }
}

/// Opens a regular file; its user may name a link to it.
fn open(path: &Path) -> fsio::Result<File> {
    let real: PathBuf = std::fs::canonicalize(path).map_err(|source| fsio::Error { call: "realpath", path: path.into(), source })?;
    let not_a_file = || {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not a file");
        fsio::Error { call: "open", path: path.into(), source }
    };
    let (parent, name) = real.parent().zip(real.file_name()).ok_or_else(not_a_file)?;
    Dir::open(parent, Seam::default())?.file(name)
}

fn index(file: &File) -> std::result::Result<HashMap<Vec<u8>, Member>, ArchiveError> {
    let len = file.len().map_err(|e| TarError::Read { offset: 0, source: io::Error::new(e.kind(), e) })?;
    let read = |offset: u64, buf: &mut [u8]| file.read_at(offset, buf).map_err(|e| io::Error::new(e.kind(), e));
    let mut found = HashMap::new();
    for (number, member) in members(len, read).enumerate() {
        if number >= MEMBERS_MAX {
            return Err(ArchiveError::Members);
        }
        let (entry, at) = member?;
        let long = entry.name.len().max(entry.link.len());
        if long > NAME_MAX {
            return Err(ArchiveError::Name { offset: at, len: long });
        }
        let name = clean(&entry.name).ok_or_else(|| ArchiveError::Outside { name: shown(&entry.name) })?;
        let Some(member) = member_of(entry, at) else { continue };
        found.entry(name).and_modify(|earlier| *earlier = Member::Twice).or_insert(member);
    }
    Ok(found)
}

/// What a member is here; directories and global headers are nothing.
fn member_of(entry: Entry, at: u64) -> Option<Member> {
    Some(match entry.kind {
        EntryKind::File => Member::File { at, len: entry.size },
        EntryKind::Symlink => Member::Link { to: entry.link },
        EntryKind::HardLink => Member::Other { kind: "a hard link" },
        EntryKind::Char | EntryKind::Block => Member::Other { kind: "a device" },
        EntryKind::Fifo => Member::Other { kind: "a fifo" },
        EntryKind::Dir | EntryKind::GlobalHeader => return None,
    })
}

/// A name without `.`, empty parts and a slash at either end; none if it has a part `..`.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = name.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    (!parts.contains(&&b".."[..])).then(|| parts.join(&b'/'))
}

/// Where a link in the directory `parent` leads, by its text alone; none if out of the archive.
fn resolve(parent: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let from = if to.starts_with(b"/") { &b""[..] } else { parent };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in from.split(|&b| b == b'/').chain(to.split(|&b| b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// A member's name for a message.
fn shown(name: &[u8]) -> String {
    super::plain(&String::from_utf8_lossy(name), 100)
}

/// Unpacks the archive into a file without a name; a tenth of the free space stays free.
fn unpack(piece: &Piece, label: &str, compression: Compression, cancel: &CancellationToken) -> Result<File> {
    let refuse = |source| RegistryError::Archive { archive: label.to_owned(), source };
    let scratch = || {
        let (file, dir) = scratch(Seam::default())?;
        Ok((file, UNPACKED_MAX.min(dir.free_bytes()? / 10 * 9)))
    };
    let (mut file, limit) = scratch().map_err(|source| refuse(ArchiveError::Scratch { source }))?;
    let mut reader = piece.unpacked(label, compression)?;
    fill(&mut file, &mut reader, limit, cancel).map_err(|fault| fault.map_or(RegistryError::Cancelled, refuse))?;
    Ok(file)
}

/// Writes what `reader` gives to a file; the error is none where the caller wants no more of it.
fn fill(file: &mut File, reader: &mut dyn Read, limit: u64, cancel: &CancellationToken) -> std::result::Result<(), Option<ArchiveError>> {
    let (mut buffer, mut offset) = (vec![0; BUFFER], 0u64);
    loop {
        if cancel.is_cancelled() {
            return Err(None);
        }
        let got = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Some(ArchiveError::Unpack { offset, source })),
        };
        offset = offset.saturating_add(got as u64);
        if offset > limit {
            return Err(Some(ArchiveError::Room { limit }));
        }
        file.append(buffer.get(..got).unwrap_or_default()).map_err(|source| Some(ArchiveError::Scratch { source }))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_clean_or_refused() {
        for (name, want) in [
            ("index.json", Some("index.json")),
            ("./blobs//sha256/./a/", Some("blobs/sha256/a")),
            ("/index.json", Some("index.json")),
            ("", Some("")),
            ("..", None),
            ("a/../b", None),
            ("a/..", None),
            ("...", Some("...")),
        ] {
            assert_eq!(clean(name.as_bytes()).as_deref(), want.map(str::as_bytes), "{name:?}");
        }
    }

    #[test]
    fn unpacking_ends_at_its_limit_and_when_it_is_cancelled() {
        let (mut file, _) = scratch(Seam::default()).unwrap();
        let cancel = CancellationToken::new();
        fill(&mut file, &mut io::repeat(7).take(1 << 20), 1 << 20, &cancel).unwrap();
        assert_eq!((file.len().unwrap(), file.links_and_inode().unwrap().0), (1 << 20, 0));
        let room = fill(&mut file, &mut io::repeat(7), 1 << 20, &cancel);
        assert!(matches!(room, Err(Some(ArchiveError::Room { limit: 0x10_0000 }))), "{room:?}");
        cancel.cancel();
        assert!(matches!(fill(&mut file, &mut io::repeat(7), u64::MAX, &cancel), Err(None)));
    }

    #[test]
    fn links_lead_to_names_of_the_archive() {
        for (parent, to, want) in [
            ("a", "../b/layer.tar", Some("b/layer.tar")),
            ("a", "layer.tar", Some("a/layer.tar")),
            ("", "x", Some("x")),
            ("a/b", "/x", Some("x")),
            ("a", "../../x", None),
            ("", "../x", None),
        ] {
            assert_eq!(resolve(parent.as_bytes(), to.as_bytes()).as_deref(), want.map(str::as_bytes), "{parent:?} {to:?}");
        }
    }
}
