//! A layer's tar once more, out of its tar-split and its files.

use std::io::{self, Write};

use super::spill::{Body, into_io};
use super::verify::{digest_of, from_start, open_file, verdict};
use crate::fsio::{self, Dir, File};
use crate::ids::Digest;
use crate::tarsplit::{self, SplitError};

/// The digest of the tar that a layer's files and tar-split reassemble to; `None` where they do not.
///
/// # Errors
///
/// Those of the disk that say nothing about the layer.
pub fn digest_of_layer(diff: &Dir, split: &File) -> fsio::Result<Option<Digest>> {
    match digest_of(diff, split) {
        Ok(digest) => Ok(Some(digest)),
        Err(error) => verdict(error).map(|_| None),
    }
}

/// Writes a layer's tar, each file from `elsewhere` if that has it, else from `diff`.
///
/// # Errors
///
/// [`SplitError`]: what cannot be read, or is not what the tar-split says.
pub fn write_tar(
    diff: &Dir,
    split: &File,
    elsewhere: impl Fn(&[u8]) -> Option<(Dir, Vec<u8>)>,
    out: impl Write,
) -> Result<u64, SplitError> {
    let open = |name: &[u8]| -> io::Result<Body> {
        match elsewhere(name) {
            Some((dir, name)) => open_file(&dir, &name).map(Body).map_err(into_io),
            None => open_file(diff, name).map(Body).map_err(into_io),
        }
    };
    tarsplit::reassemble(from_start(split), open, out)
}

/// CRC and length in bytes of a layer's file.
///
/// # Errors
///
/// Those of the disk, and of names that are no file.
pub fn crc_of(diff: &Dir, name: &[u8]) -> fsio::Result<(u64, u64)> {
    let file = open_file(diff, name)?;
    let (mut crc, mut at) = (tarsplit::Crc64::default(), 0u64);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read_at(at, &mut buffer)? {
            0 => return Ok((crc.value(), at)),
            got => {
                crc.update(buffer.get(..got).unwrap_or_default());
                at += got as u64;
            }
        }
    }
}
