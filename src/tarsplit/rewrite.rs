//! Makes a tar-split exact and readable by Go where the disk does not hold every body under its name.

use std::io::{self, Read, Write};

use super::assemble::{Recorded, copy_verified, write_error};
use super::error::shown;
use super::writer::SEGMENT_MAX;
use super::{Repeated, SplitEntry, SplitError, SplitReader, SplitWriter};

/// Copies the tar-split that [`super::LayerReader`] wrote, putting bodies that are no longer on disk into segments.
///
/// `earlier` is asked for every body, by its number ([`super::LayerReader::body_number`]) and record, and answers
/// with the body if a later member replaced or removed the file, with `None` if the file is there. At most one
/// body of each path may be left to the disk. File entries of repeated names without a body are dropped.
/// Returns the writer below, not synced.
///
/// # Errors
///
/// [`SplitError`]: `old` cannot be read, `earlier` failed or gave another body, or `new` failed.
pub fn rewrite<W: Write, B: Read>(
    old: impl Read,
    new: W,
    repeated: &Repeated,
    mut earlier: impl FnMut(u64, &Recorded<'_>) -> io::Result<Option<B>>,
) -> Result<W, SplitError> {
    let mut entries = SplitReader::new(old);
    let mut split = SplitWriter::new(new);
    let mut buffer = vec![0; SEGMENT_MAX];
    let mut number = 0;
    while let Some(entry) = entries.next()? {
        match entry {
            SplitEntry::Segment(bytes) => split.segment(&bytes).map_err(write_error)?,
            SplitEntry::File { name, size: 0, .. } => {
                if !repeated.contains(&name) {
                    split.file(&name, 0, 0).map_err(write_error)?;
                }
            }
            SplitEntry::File { name, size, crc } => {
                let wanted = Recorded { name: &name, size, crc };
                match earlier(number, &wanted).map_err(|source| SplitError::Open { name: shown(&name), source })? {
                    Some(body) => {
                        copy_verified(body, &wanted, &mut buffer, |bytes| split.segment(bytes).map_err(write_error))?;
                    }
                    None => split.file(&name, size, crc).map_err(write_error)?,
                }
                number += 1;
            }
        }
    }
    split.finish().map_err(write_error)
}
