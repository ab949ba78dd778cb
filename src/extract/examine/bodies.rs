//! The bytes of a layer's tar, put together again and hashed.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::findings::{DifferenceKind, Findings};
use super::pass::There;
use crate::fsio;
use crate::ids::Digest;
use crate::tarsplit::Crc64;

/// What is read of a file at once: it stays in the processor's cache for both sums.
const BUFFER: usize = 256 << 10;

/// The tar so far.
pub(super) struct Bodies<'a> {
    hash: Sha256,
    buffer: Vec<u8>,
    read: bool,
    whole: bool,
    bytes: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    stop: &'a AtomicBool,
    pub findings: Findings,
}

impl<'a> Bodies<'a> {
    /// Without `read`, lengths are counted and nothing else.
    pub(super) fn new(read: bool, progress: &'a (dyn Fn(u64, u64) + Sync), stop: &'a AtomicBool, limit: usize) -> Self {
        let buffer = if read { vec![0; BUFFER] } else { Vec::new() };
        Self { hash: Sha256::new(), buffer, read, whole: read, bytes: 0, progress, stop, findings: Findings::new(limit) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Bytes of the tar itself.
    pub(super) fn segment(&mut self, bytes: &[u8], files: u64) {
        if self.whole {
            self.hash.update(bytes);
        }
        self.count(bytes.len() as u64, files);
    }

    /// A body that is not what it was, or is not there.
    pub(super) fn lost(&mut self, size: u64, files: u64) {
        self.whole = false;
        self.count(size, files);
    }

    /// A body of `size` bytes whose file is there and as long.
    pub(super) fn file(&mut self, there: &There, size: u64, crc: u64, path: &[u8], files: u64) -> fsio::Result<()> {
        if !self.read {
            self.count(size, files);
            return Ok(());
        }
        let file = match there.dir.file(&there.name) {
            Ok(file) => file,
            // Exchanged since it was looked at.
            Err(error) if is_of_the_name(&error) => {
                self.findings.add(DifferenceKind::FileMissing, path, format!("a file of {size} bytes"), error.source.to_string());
                self.lost(size, files);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (mut at, mut sum) = (0u64, Crc64::default());
        while at < size && !self.is_stopped() {
            let len = usize::try_from(size - at).unwrap_or(BUFFER).min(BUFFER);
            let got = file.read_at(at, self.buffer.get_mut(..len).unwrap_or_default())?;
            let bytes = self.buffer.get(..got).unwrap_or_default();
            sum.update(bytes);
            if self.whole {
                self.hash.update(bytes);
            }
            at += got as u64;
            self.count(got as u64, files);
            if got < len {
                break;
            }
        }
        if at < size && !self.is_stopped() {
            self.findings.add(DifferenceKind::Size, path, format!("{size} bytes"), format!("{at} bytes"));
            self.lost(size - at, files);
        } else if sum.value() != crc && !self.is_stopped() {
            self.findings.add(DifferenceKind::Content, path, format!("CRC {crc:016x}"), format!("CRC {:016x}", sum.value()));
            self.whole = false;
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64, files: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        (self.progress)(self.bytes, files);
    }

    /// The findings, and the digest of the tar if all of it was read.
    pub(super) fn finish(self) -> (Findings, Option<Digest>) {
        let digest = self.whole.then(|| Digest::from_hash(&self.hash.finalize()));
        (self.findings, digest)
    }
}

fn is_of_the_name(error: &fsio::Error) -> bool {
    error.not_found() || error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP)
}
