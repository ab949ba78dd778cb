//! One blob's file: read first, then written while the rest comes.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::{Cache, Locked, noted};
use crate::ids::Digest;
use crate::layout::partial_name;

/// Bytes are written in parts of this size, so that a download costs few system calls.
const BUFFER: usize = 256 << 10;

/// The file of one blob, locked. Dropping it keeps what it has for the next pull.
#[derive(Debug)]
pub struct Partial<'c> {
    cache: &'c Cache,
    digest: Digest,
    size: u64,
    /// `None` after it was dropped.
    file: Option<Locked>,
    kept: u64,
    /// Bytes in the file.
    written: u64,
    buffer: Vec<u8>,
    unreadable: bool,
    /// Nothing more is added to what is there.
    ended: bool,
}

impl<'c> Partial<'c> {
    pub(super) fn new(cache: &'c Cache, digest: Digest, size: u64, (file, kept): (Locked, u64)) -> Self {
        Self { cache, digest, size, file: Some(file), kept, written: kept, buffer: Vec::new(), unreadable: false, ended: false }
    }

    /// How many bytes came before, in another pull or for another layer of this one.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Whether what was kept could not be read back.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Removes the file at once and gives its space back.
    pub fn forget(&mut self) {
        self.buffer = Vec::new();
        let Some(file) = self.file.take() else { return };
        noted("remove a download", self.cache.dir.unlink(partial_name(&self.digest)));
        drop(file);
    }

    fn read_kept(&mut self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.kept - at).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..most).unwrap_or_default();
        let read = match &self.file {
            Some(file) => file.0.read_at(at, part).map_err(|error| io::Error::new(error.kind(), error)),
            None => Ok(0),
        };
        match read {
            Ok(got) if got == most => Ok(got),
            other => {
                self.unreadable = true;
                Err(other.err().unwrap_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof)))
            }
        }
    }

    fn write(&mut self, bytes: &[u8], slow: bool) {
        if self.file.is_none() || self.ended {
            return;
        }
        if !self.cache.take(bytes.len() as u64) && !slow {
            // The beginning stays, to be resumed from.
            self.ended = true;
            self.flush();
            return;
        }
        if self.cache.is_off() || self.written + (self.buffer.len() + bytes.len()) as u64 > self.size {
            self.forget();
            return;
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| !self.buffer.is_empty()) else { return };
        match noted("keep a download", file.0.write_at(self.written, &self.buffer)) {
            Some(()) => {
                self.written += self.buffer.len() as u64;
                self.buffer.clear();
            }
            None => self.forget(),
        }
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        self.flush();
        // Nothing came: a registry without the blob.
        if self.written == 0 {
            self.forget();
        }
    }
}

/// A blob's stream: what was kept, then the rest from the network, which is kept on its way.
#[derive(Debug)]
pub struct Tee<'p, 'c, R> {
    partial: Option<&'p mut Partial<'c>>,
    rest: Option<R>,
    at: u64,
    begun: Option<Instant>,
    waited: Duration,
}

impl<'p, 'c, R: Read> Tee<'p, 'c, R> {
    /// `rest` begins where what is kept ends; `None` where that is the end of the blob.
    pub fn new(partial: Option<&'p mut Partial<'c>>, rest: Option<R>) -> Self {
        Self { partial, rest, at: 0, begun: None, waited: Duration::ZERO }
    }
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(partial) = self.partial.as_mut().filter(|partial| self.at < partial.kept) {
            let got = partial.read_kept(self.at, buf)?;
            self.at += got as u64;
            return Ok(got);
        }
        let Some(rest) = &mut self.rest else { return Ok(0) };
        let asked = Instant::now();
        let got = rest.read(buf)?;
        if let Some(partial) = &mut self.partial {
            self.waited += asked.elapsed();
            let passed = self.begun.get_or_insert(asked).elapsed();
            partial.write(buf.get(..got).unwrap_or_default(), is_slow(self.waited, passed));
        }
        Ok(got)
    }
}

/// Whether the network is the slower side: so much of the time that has passed was spent waiting for it.
fn is_slow(waited: Duration, passed: Duration) -> bool {
    waited >= passed / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsio::Seam;
    use crate::layout::{Layout, OWN, PARTIAL};
    use crate::partial::{Cache, Limits, Usage, usage};

    #[test]
    fn whoever_is_waited_for_most_is_slow() {
        let millis = Duration::from_millis;
        for (waited, passed, slow) in [(0, 0, true), (0, 10, false), (4, 10, false), (5, 10, true), (10, 10, true)] {
            assert_eq!(is_slow(millis(waited), millis(passed)), slow, "{waited} of {passed}");
        }
    }

    /// Beyond what is kept in any case a fast network's blob is not written twice; its beginning stays.
    #[test]
    fn of_a_fast_download_no_more_than_the_beginning_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let layout = Layout::create(&temp.path().join("root"), &temp.path().join("run"), &Seam::default()).unwrap();
        layout.ensure_own(PARTIAL).unwrap();
        let open = || Cache::open(&layout, &Limits { regardless: 10, ..Limits::default() }).unwrap();
        let (fast, slow) = (Digest::of(b"fast"), Digest::of(b"slow"));
        let cache = open();
        let mut partial = cache.blob(&fast, 100).unwrap();
        for (bytes, is_slow) in [(&b"12345678"[..], false), (b"abc", false), (b"d", true)] {
            partial.write(bytes, is_slow);
        }
        drop(partial);
        let mut partial = cache.blob(&slow, 100).unwrap();
        for bytes in [&b"1234"[..], b"5678"] {
            partial.write(bytes, true);
        }
        drop(partial);
        let read = |blob| std::fs::read(layout.root.path().join(OWN).join(PARTIAL).join(partial_name(blob))).unwrap();
        assert_eq!((read(&fast), read(&slow)), (b"12345678".to_vec(), b"12345678".to_vec()));
        drop(cache);
        let cache = open();
        assert_eq!(cache.blob(&fast, 100).unwrap().kept(), 8);
        assert!(cache.give_up() && !cache.give_up());
        assert_eq!(usage(&layout).unwrap(), Usage::default());
        assert!(cache.blob(&slow, 100).is_none());
    }
}
