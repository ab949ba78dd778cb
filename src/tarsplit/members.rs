//! Finds the members of a tar whose bytes can be had at any offset, without reading their bodies.

use std::io;

use super::frame::{Framer, Want};
use super::header::BLOCK;
use super::{Entry, TarError};

/// The members of a tar of `len` bytes, each with the offset of its body; `read` fills a buffer from an offset on and
/// returns how much there was.
///
/// The framing is that of [`super::LayerReader`]. None is marked as a duplicate.
pub fn members<F: FnMut(u64, &mut [u8]) -> io::Result<usize>>(len: u64, read: F) -> Members<F> {
    Members { read, len, framer: Framer::new(), done: false }
}

/// An iterator over the members of a tar; it ends after the first error.
pub struct Members<F> {
    read: F,
    len: u64,
    framer: Framer,
    done: bool,
}

impl<F: FnMut(u64, &mut [u8]) -> io::Result<usize>> Iterator for Members<F> {
    type Item = Result<(Entry, u64), TarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let result = self.step().transpose();
        self.done = !matches!(result, Some(Ok(_)));
        result
    }
}

impl<F: FnMut(u64, &mut [u8]) -> io::Result<usize>> Members<F> {
    fn step(&mut self) -> Result<Option<(Entry, u64)>, TarError> {
        loop {
            let offset = self.framer.offset();
            let len = match self.framer.want() {
                Want::Body(size) => {
                    let there = self.len.saturating_sub(offset);
                    if there < size {
                        self.framer.end(usize::try_from(there).unwrap_or(usize::MAX))?;
                        return Ok(None);
                    }
                    self.framer.skip(size);
                    continue;
                }
                Want::Header => BLOCK,
                Want::Extension(len) | Want::Padding(len) => len,
                Want::Tail => return Ok(None),
            };
            let mut bytes = vec![0; len];
            let got = (self.read)(offset, &mut bytes).map_err(|source| TarError::Read { offset, source })?;
            if got < len {
                self.framer.end(got)?;
                return Ok(None);
            }
            if let Some(entry) = self.framer.give(&bytes)? {
                return Ok(Some((entry, self.framer.offset())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn walk(tar: &[u8]) -> Result<Vec<(Vec<u8>, u64, u64)>, TarError> {
        let read = |offset: u64, buf: &mut [u8]| {
            let rest = tar.get(offset as usize..).unwrap_or_default();
            let got = rest.len().min(buf.len());
            buf[..got].copy_from_slice(&rest[..got]);
            Ok(got)
        };
        members(tar.len() as u64, read).map(|m| m.map(|(entry, at)| (entry.name, at, entry.size))).collect()
    }

    #[test]
    fn members_are_found_with_the_place_of_their_bodies() {
        let long = "d/".repeat(100) + "name";
        let tar = tar(&[("one", b"1"), (&long, &[7; 1000]), ("empty", b""), ("last", &[8; 512])]);
        let found = walk(&tar).unwrap();
        let names: Vec<&[u8]> = found.iter().map(|(name, ..)| name.as_slice()).collect();
        assert_eq!(names, [b"one", long.as_bytes(), b"empty", b"last"]);
        let bodies: Vec<&[u8]> = found.iter().map(|(_, at, size)| &tar[*at as usize..(at + size) as usize]).collect();
        assert_eq!(bodies, [&b"1"[..], &[7; 1000], b"", &[8; 512]]);
    }

    /// Cut at every byte: an error, or the members that are whole; never more.
    #[test]
    fn a_tar_cut_short_is_refused_where_go_refuses_it() {
        let tar = tar(&[("one", &[1; 600]), ("two", &[2; 512])]);
        let whole = walk(&tar).unwrap();
        for len in 0..tar.len() {
            match (len, walk(&tar[..len])) {
                // Nothing, padding cut short, or an end where a header would begin.
                (0, Ok(found)) => assert_eq!(found, []),
                (1112..=1536, Ok(found)) => assert_eq!(found, whole[..1], "{len}"),
                (2560.., Ok(found)) => assert_eq!(found, whole, "{len}"),
                (2561.., Err(TarError::Truncated { offset, what: "a header", .. })) => assert_eq!(offset, len as u64),
                (1..1112 | 1537..2560, Err(TarError::Truncated { offset, .. })) => assert_eq!(offset, len as u64),
                (_, other) => panic!("{len}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_size_that_lies_reads_nothing() {
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_size(i64::MAX as u64);
        header.set_cksum();
        let error = walk(header.as_bytes()).unwrap_err();
        assert!(matches!(error, TarError::Truncated { offset: 512, missing, .. } if missing == i64::MAX as u64), "{error:?}");
    }
}
