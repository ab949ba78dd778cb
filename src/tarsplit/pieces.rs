//! Reads a tar-split as the bytes, the bodies and the members of its tar at once.

use std::io::Read;

use super::frame::{Framer, Want};
use super::header::BLOCK;
use super::{Entry, SplitEntry, SplitError, SplitReader};

/// What comes next in the tar.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of the tar: headers, padding, and bodies that are not on disk.
    Bytes(Vec<u8>),
    /// A member whose headers the bytes before have completed.
    Member(Box<Entry>),
    /// The body of the last member, which is on disk.
    Body {
        /// Its length in bytes.
        size: u64,
        /// Its CRC.
        crc: u64,
    },
}

/// A pull parser over a tar-split: [`super::SplitReader`] for who puts the tar together and [`super::plain_headers`] for
/// who looks at its members, in one pass.
pub struct Pieces<R> {
    split: SplitReader<R>,
    framer: Framer,
    segment: Vec<u8>,
    /// Bytes of the segment that the framer has had.
    used: usize,
    /// The start of a block or of an extension whose rest is in the next segment.
    held: Vec<u8>,
    done: bool,
}

impl<R: Read> Pieces<R> {
    /// Reads the gzip file `split`.
    pub fn new(split: R) -> Self {
        Self { split: SplitReader::new(split), framer: Framer::new(), segment: Vec::new(), used: 0, held: Vec::new(), done: false }
    }

    /// The next piece, or `None` at the end of the tar. After an error there are no more.
    ///
    /// # Errors
    ///
    /// [`SplitError`]: the tar-split cannot be read, or what it stands for is no tar.
    #[allow(clippy::should_implement_trait)] // fallible: `while let Some(..) = ..next()?` reads better
    pub fn next(&mut self) -> Result<Option<Piece>, SplitError> {
        if self.done {
            return Ok(None);
        }
        let piece = self.step();
        self.done = !matches!(piece, Ok(Some(_)));
        piece
    }

    fn step(&mut self) -> Result<Option<Piece>, SplitError> {
        loop {
            if let Some(entry) = self.frame()? {
                return Ok(Some(Piece::Member(Box::new(entry))));
            }
            match self.split.next()? {
                Some(SplitEntry::Segment(bytes)) => {
                    self.segment.clone_from(&bytes);
                    self.used = 0;
                    return Ok(Some(Piece::Bytes(bytes)));
                }
                Some(SplitEntry::File { size, crc, .. }) => match self.framer.want() {
                    Want::Body(left) if size == left => {
                        self.framer.skip(size);
                        return Ok(Some(Piece::Body { size, crc }));
                    }
                    Want::Body(_) if size > 0 => {
                        let position = self.split.position().saturating_sub(1);
                        return Err(SplitError::Entry { position, what: "the file's size is not that of its header" });
                    }
                    // That of a member without a body, whatever size Go gave it.
                    _ => {}
                },
                None => {
                    self.framer.end(self.held.len())?;
                    return Ok(None);
                }
            }
        }
    }

    /// Gives the framer what is left of the segment, up to the next member.
    fn frame(&mut self) -> Result<Option<Entry>, SplitError> {
        loop {
            let rest = self.segment.get(self.used..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            let len = match self.framer.want() {
                Want::Header => BLOCK,
                Want::Extension(len) | Want::Padding(len) => len,
                Want::Body(left) => {
                    let some = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.used += some;
                    self.framer.skip(some as u64);
                    continue;
                }
                Want::Tail => {
                    self.used = self.segment.len();
                    return Ok(None);
                }
            };
            let some = rest.get(..rest.len().min(len.saturating_sub(self.held.len()))).unwrap_or_default();
            self.held.extend_from_slice(some);
            self.used += some.len();
            if self.held.len() < len {
                return Ok(None);
            }
            let given = self.framer.give(&self.held)?;
            self.held.clear();
            if given.is_some() {
                return Ok(given);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarsplit::{SplitWriter, plain_headers};

    fn header(name: &str, size: usize) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(size as u64);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn members_are_those_of_the_headers_however_the_segments_are_cut() {
        let head = [header("a", 3), b"abc".to_vec(), vec![0; 509], header("b", 5)].concat();
        let tail = [vec![0; 507], header("c", 0), vec![0; 1024], b"rest".to_vec()].concat();
        for cut in [1, 511, 512, 513, 600, 1024, head.len()] {
            let mut split = SplitWriter::new(Vec::new());
            for part in head.chunks(cut) {
                split.segment(part).unwrap();
            }
            split.file(b"b", 5, 77).unwrap();
            for part in tail.chunks(cut) {
                split.segment(part).unwrap();
            }
            let bytes = split.finish().unwrap();
            let (mut pieces, mut seen, mut tar) = (Pieces::new(&bytes[..]), Vec::new(), Vec::new());
            while let Some(piece) = pieces.next().unwrap() {
                match piece {
                    Piece::Bytes(some) => tar.extend(some),
                    Piece::Member(entry) => seen.push(*entry),
                    Piece::Body { size, crc } => {
                        assert_eq!((size, crc, tar.len()), (5, 77, head.len()), "cut {cut}");
                        tar.extend(b"BBBBB");
                    }
                }
            }
            assert_eq!(tar, [&head[..], b"BBBBB", &tail].concat(), "cut {cut}");
            assert_eq!(seen, plain_headers(&bytes[..]).map(Result::unwrap).collect::<Vec<_>>(), "cut {cut}");
            assert_eq!(seen.len(), 3, "cut {cut}");
        }
    }
}
