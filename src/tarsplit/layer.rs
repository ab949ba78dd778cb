//! Reads a layer's tar in one pass, writing its tar-split on the way.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::frame::{Framer, Want};
use super::names::{Names, Repeated};
use super::writer::SEGMENT_MAX;
use super::{Crc64, Entry, SplitWriter, TarError};

/// What is read from the stream at once; bodies are handed out as slices of this buffer.
const BUFFER: usize = 256 << 10;

/// What a whole tar amounted to.
#[derive(Debug)]
pub struct Totals {
    /// Bytes of the tar, all that follows its end included.
    pub tar_bytes: u64,
    /// Members, global headers included.
    pub members: u64,
    /// Members with a body.
    pub bodies: u64,
    /// Entries of the tar-split.
    pub split_entries: u64,
    /// The paths named more than once.
    pub repeated: Repeated,
    /// Whether the tar-split names a path twice, so that it must go through [`super::rewrite`].
    pub must_rewrite: bool,
}

/// The member whose body is being read.
struct Body {
    name: Vec<u8>,
    size: u64,
    crc: Crc64,
}

/// A pull parser over a tar that records the exact stream.
///
/// Members come from [`LayerReader::next`], their bodies from [`LayerReader::chunk`] or [`LayerReader::read_body`];
/// what is not read of a body is passed over. After an error nothing more can be read.
pub struct LayerReader<R, W: Write> {
    tar: BufReader<R>,
    split: SplitWriter<W>,
    framer: Framer,
    names: Names,
    /// Padding and headers since the last member.
    segment: Vec<u8>,
    body: Option<Body>,
    /// Bytes of the buffer handed out by the last `chunk`.
    lent: usize,
    members: u64,
    bodies: u64,
    must_rewrite: bool,
    failed: bool,
}

impl<R: Read, W: Write> LayerReader<R, W> {
    /// Reads `tar`, uncompressed, and records it in `split`.
    pub fn new(tar: R, split: SplitWriter<W>) -> Self {
        Self {
            tar: BufReader::with_capacity(BUFFER, tar),
            split,
            framer: Framer::new(),
            names: Names::new(),
            segment: Vec::new(),
            body: None,
            lent: 0,
            members: 0,
            bodies: 0,
            must_rewrite: false,
            failed: false,
        }
    }

    /// The next member, or `None` at the end of the archive.
    ///
    /// # Errors
    ///
    /// [`TarError`]: the stream or the tar-split failed, or the tar is not one that Go reads and we extract.
    #[allow(clippy::should_implement_trait)] // fallible, and bodies are read between two calls
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.guarded(Self::next_member)
    }

    /// Reads from the current member's body; 0 at its end.
    ///
    /// # Errors
    ///
    /// As [`LayerReader::next`].
    pub fn read_body(&mut self, buf: &mut [u8]) -> Result<usize, TarError> {
        self.guarded(|reader| {
            reader.give_back();
            let Some(body) = &mut reader.body else { return Ok(0) };
            let Want::Body(left) = reader.framer.want() else { return Ok(0) };
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            let place = buf.get_mut(..len).unwrap_or_default();
            if place.is_empty() {
                return Ok(0);
            }
            let read = retry(|| reader.tar.read(place)).map_err(|source| TarError::Read { offset: reader.framer.offset(), source })?;
            if read == 0 {
                reader.framer.end(0)?;
            }
            body.crc.update(place.get(..read).unwrap_or_default());
            reader.framer.skip(read as u64);
            reader.end_body()?;
            Ok(read)
        })
    }

    /// The next bytes of the current member's body without a copy; empty at its end.
    ///
    /// # Errors
    ///
    /// As [`LayerReader::next`].
    pub fn chunk(&mut self) -> Result<&[u8], TarError> {
        let len = self.guarded(Self::lend)?;
        Ok(self.tar.buffer().get(..len).unwrap_or_default())
    }

    /// The number of the current body: members with a body are counted from 0 in the order of the tar.
    ///
    /// [`super::rewrite`] asks for bodies by this number.
    pub fn body_number(&self) -> u64 {
        self.bodies.saturating_sub(1)
    }

    /// Reads to the real end of the stream, records what follows the archive, and ends the tar-split.
    ///
    /// Members not asked for yet are read too. The tar-split is not synced.
    ///
    /// # Errors
    ///
    /// As [`LayerReader::next`].
    pub fn finish(mut self) -> Result<(R, W, Totals), TarError> {
        while self.next()?.is_some() {}
        let mut offset = self.framer.offset();
        let mut tail = Vec::new();
        loop {
            let more = (&mut self.tar).take(SEGMENT_MAX as u64).read_to_end(&mut tail);
            more.map_err(|source| TarError::Read { offset, source })?;
            if tail.is_empty() {
                break;
            }
            offset = offset.saturating_add(tail.len() as u64);
            self.split.segment(&tail).map_err(write_error)?;
            tail.clear();
        }
        let totals = Totals {
            tar_bytes: offset,
            members: self.members,
            bodies: self.bodies,
            split_entries: self.split.entries(),
            repeated: self.names.into_repeated(),
            must_rewrite: self.must_rewrite,
        };
        let out = self.split.finish().map_err(write_error)?;
        Ok((self.tar.into_inner(), out, totals))
    }

    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, TarError>) -> Result<T, TarError> {
        if self.failed {
            return Err(TarError::Failed);
        }
        let result = step(self);
        self.failed = result.is_err();
        result
    }

    fn next_member(&mut self) -> Result<Option<Entry>, TarError> {
        loop {
            match self.framer.want() {
                Want::Body(_) => {
                    self.lend()?;
                }
                Want::Header => {
                    if let Some(entry) = self.take(super::header::BLOCK)? {
                        return self.begin(entry).map(Some);
                    }
                }
                Want::Extension(len) | Want::Padding(len) => {
                    if let Some(entry) = self.take(len)? {
                        return self.begin(entry).map(Some);
                    }
                }
                Want::Tail => {
                    self.flush_segment()?;
                    return Ok(None);
                }
            }
            self.give_back();
        }
    }

    /// Brings `len` bytes of headers or padding to the framer and to the segment.
    fn take(&mut self, len: usize) -> Result<Option<Entry>, TarError> {
        self.give_back();
        let start = self.segment.len();
        let read = (&mut self.tar).take(len as u64).read_to_end(&mut self.segment);
        let read = read.map_err(|source| TarError::Read { offset: self.framer.offset(), source })?;
        if read < len {
            self.framer.end(read)?;
            return Ok(None);
        }
        self.framer.give(self.segment.get(start..).unwrap_or_default())
    }

    /// Records the head of a member.
    fn begin(&mut self, mut entry: Entry) -> Result<Entry, TarError> {
        self.flush_segment()?;
        self.members += 1;
        entry.duplicate = self.names.insert(&entry.name);
        if entry.size > 0 {
            self.bodies += 1;
            self.must_rewrite |= entry.duplicate;
            self.body = Some(Body { name: entry.name.clone(), size: entry.size, crc: Crc64::default() });
        } else if !entry.duplicate {
            self.split.file(&entry.name, 0, 0).map_err(write_error)?;
        }
        Ok(entry)
    }

    fn flush_segment(&mut self) -> Result<(), TarError> {
        if !self.segment.is_empty() {
            self.split.segment(&self.segment).map_err(write_error)?;
            self.segment.clear();
            self.segment.shrink_to(BUFFER);
        }
        Ok(())
    }

    /// Takes the next bytes of the body into the CRC and lends them out of the buffer.
    fn lend(&mut self) -> Result<usize, TarError> {
        self.give_back();
        let Want::Body(left) = self.framer.want() else { return Ok(0) };
        let Some(body) = &mut self.body else { return Ok(0) };
        let offset = self.framer.offset();
        if self.tar.buffer().is_empty() {
            retry(|| self.tar.fill_buf().map(|_| ())).map_err(|source| TarError::Read { offset, source })?;
        }
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.tar.buffer().len());
        if len == 0 {
            self.framer.end(0)?;
        }
        body.crc.update(self.tar.buffer().get(..len).unwrap_or_default());
        self.lent = len;
        self.framer.skip(len as u64);
        self.end_body()?;
        Ok(len)
    }

    fn give_back(&mut self) {
        self.tar.consume(self.lent);
        self.lent = 0;
    }

    /// Records the body once all of it has been read.
    fn end_body(&mut self) -> Result<(), TarError> {
        if !matches!(self.framer.want(), Want::Body(_))
            && let Some(body) = self.body.take()
        {
            self.split.file(&body.name, body.size, body.crc.value()).map_err(write_error)?;
        }
        Ok(())
    }
}

fn write_error(source: io::Error) -> TarError {
    TarError::Write { source }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
