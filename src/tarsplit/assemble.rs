//! Puts a tar together again from its tar-split and the files on disk.

use std::io::{self, Read, Write};

use super::error::shown;
use super::header::BLOCK;
use super::{Crc64, SplitEntry, SplitError, SplitReader};

/// Writes the exact tar that `split` was made from, taking bodies from what `open` gives for a member's name.
///
/// Every body's size and CRC are verified. Returns the tar's length.
///
/// # Errors
///
/// [`SplitError`]: `split` cannot be read, a body is missing or not the recorded one, or `out` failed.
pub fn reassemble<B: Read>(split: impl Read, mut open: impl FnMut(&[u8]) -> io::Result<B>, mut out: impl Write) -> Result<u64, SplitError> {
    let mut entries = SplitReader::new(split);
    let mut written = 0u64;
    let mut buffer = vec![0; 128 << 10];
    let mut last = LastBlock::default();
    while let Some(entry) = entries.next()? {
        match entry {
            SplitEntry::Segment(bytes) => {
                out.write_all(&bytes).map_err(write_error)?;
                written = written.saturating_add(bytes.len() as u64);
                last.see(&bytes);
            }
            SplitEntry::File { size: 0, .. } => {}
            SplitEntry::File { crc: 0, .. } if last.is_header_only() => {}
            SplitEntry::File { name, size, crc } => {
                let body = open(&name).map_err(|source| SplitError::Open { name: shown(&name), source })?;
                let wanted = Recorded { name: &name, size, crc };
                copy_verified(body, &wanted, &mut buffer, |bytes| out.write_all(bytes).map_err(write_error))?;
                written = written.saturating_add(size);
            }
        }
    }
    out.flush().map_err(write_error)?;
    Ok(written)
}

/// The body that a File entry of a tar-split stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// The member's name as in the tar.
    pub name: &'a [u8],
    /// Its length in bytes.
    pub size: u64,
    /// Its CRC.
    pub crc: u64,
}

/// Gives `body` piece by piece to `out` and fails unless it is the recorded one.
pub(super) fn copy_verified(
    mut body: impl Read,
    wanted: &Recorded<'_>,
    buffer: &mut [u8],
    mut out: impl FnMut(&[u8]) -> Result<(), SplitError>,
) -> Result<(), SplitError> {
    let name = || shown(wanted.name);
    let (mut found, mut crc) = (0u64, Crc64::default());
    loop {
        let read = match body.read(buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(SplitError::Body { name: name(), source }),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        found = found.saturating_add(read as u64);
        if found > wanted.size {
            return Err(SplitError::Size { name: name(), found, wanted: wanted.size });
        }
        crc.update(bytes);
        out(bytes)?;
    }
    if found != wanted.size {
        return Err(SplitError::Size { name: name(), found, wanted: wanted.size });
    }
    if crc.value() != wanted.crc {
        return Err(SplitError::Crc { name: name(), found: crc.value(), wanted: wanted.crc });
    }
    Ok(())
}

pub(super) fn write_error(source: io::Error) -> SplitError {
    SplitError::Write { source }
}

/// The last 512 bytes of the segments: before a File entry, the member's header.
#[derive(Default)]
struct LastBlock(Vec<u8>);

impl LastBlock {
    fn see(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes.get(bytes.len().saturating_sub(BLOCK)..).unwrap_or_default());
        self.0.drain(..self.0.len().saturating_sub(BLOCK));
    }

    /// Whether the header is of a type that has no body though Go records a size for it.
    fn is_header_only(&self) -> bool {
        self.0.get(156).is_some_and(|kind| (b'1'..=b'6').contains(kind))
    }
}
