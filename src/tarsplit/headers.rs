//! Reads a tar's members again from its tar-split, without the tar and without the bodies.

use std::io::Read;

use super::frame::{Framer, Want};
use super::header::BLOCK;
use super::names::{Names, Repeated};
use super::{Entry, SplitEntry, SplitError, SplitReader};

/// The members of the tar that `split` describes, as [`super::LayerReader::next`] gave them.
pub fn headers<R: Read>(split: R) -> Headers<R> {
    Headers { names: Some(Names::new()), ..plain_headers(split) }
}

/// As [`headers`], but no member is marked as a duplicate: so nothing is kept of the members that have passed.
pub fn plain_headers<R: Read>(split: R) -> Headers<R> {
    Headers { split: SplitReader::new(split), framer: Framer::new(), names: None, segment: Vec::new(), used: 0, done: false }
}

/// An iterator over the members of a tar-split; it ends after the first error.
pub struct Headers<R> {
    split: SplitReader<R>,
    framer: Framer,
    names: Option<Names>,
    segment: Vec<u8>,
    /// Bytes of the segment that the framer has had.
    used: usize,
    done: bool,
}

impl<R: Read> Iterator for Headers<R> {
    type Item = Result<Entry, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let result = self.step().transpose();
        self.done = !matches!(result, Some(Ok(_)));
        result
    }
}

impl<R: Read> Headers<R> {
    /// The paths that the members so far name more than once; none for [`plain_headers`].
    pub fn into_repeated(self) -> Repeated {
        self.names.unwrap_or_else(Names::new).into_repeated()
    }

    fn step(&mut self) -> Result<Option<Entry>, SplitError> {
        loop {
            let len = match self.framer.want() {
                Want::Body(left) => {
                    self.pass_body(left)?;
                    continue;
                }
                Want::Header => BLOCK,
                Want::Extension(len) | Want::Padding(len) => len,
                Want::Tail => return Ok(None),
            };
            let Some(bytes) = self.gather(len)? else { continue };
            if let Some(mut entry) = self.framer.give(&bytes)? {
                entry.duplicate = self.names.as_mut().is_some_and(|names| names.insert(&entry.name));
                return Ok(Some(entry));
            }
        }
    }

    /// Brings `len` bytes together from the segments; `None` after the end of the archive.
    fn gather(&mut self, len: usize) -> Result<Option<Vec<u8>>, SplitError> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let rest = self.segment.get(self.used..).unwrap_or_default();
            let some = rest.get(..rest.len().min(len - bytes.len())).unwrap_or_default();
            bytes.extend_from_slice(some);
            self.used += some.len();
            // A File entry here is that of a member without a body, whatever size Go gave it.
            if bytes.len() < len && self.refill()? == Source::End {
                self.framer.end(bytes.len())?;
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }

    /// Passes over a body: bytes in segments where the file is not on disk, else a File entry.
    fn pass_body(&mut self, left: u64) -> Result<(), SplitError> {
        let in_segment = self.segment.len().saturating_sub(self.used);
        if in_segment > 0 {
            let some = in_segment.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.used += some;
            self.framer.skip(some as u64);
            return Ok(());
        }
        match self.refill()? {
            Source::File(0) | Source::Segment => Ok(()),
            Source::File(size) if size == left => {
                self.framer.skip(size);
                Ok(())
            }
            Source::File(_) => {
                let position = self.split.position().saturating_sub(1);
                Err(SplitError::Entry { position, what: "the file's size is not that of its header" })
            }
            Source::End => Ok(self.framer.end(0)?),
        }
    }

    fn refill(&mut self) -> Result<Source, SplitError> {
        Ok(match self.split.next()? {
            Some(SplitEntry::Segment(bytes)) => {
                (self.segment, self.used) = (bytes, 0);
                Source::Segment
            }
            Some(SplitEntry::File { size, .. }) => Source::File(size),
            None => Source::End,
        })
    }
}

#[derive(PartialEq, Eq)]
enum Source {
    Segment,
    File(u64),
    End,
}
