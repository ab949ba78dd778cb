//! A part of a local file that stands for a blob.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use super::error::{RegistryError, Result};
use crate::extract::{Compression, zstd_decoder};
use crate::fsio::{self, File};

/// A part of a file: all of it, or a member of an archive.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    file: Arc<File>,
    at: u64,
    len: u64,
}

impl Piece {
    pub(super) fn new(file: Arc<File>, at: u64, len: u64) -> Self {
        Self { file, at, len }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes from `from` on. What is behind the piece is not read, and it must not end early.
    pub(super) fn reader(&self, what: &str, from: u64) -> Exact {
        let from = from.min(self.len);
        Exact { file: self.file.clone(), at: self.at.saturating_add(from), left: self.len - from, what: what.to_owned() }
    }

    /// All of it, if it is no longer than `limit`.
    pub(super) fn whole(&self, what: &str, host: &str, limit: u64) -> Result<Vec<u8>> {
        self.within(what, host, limit)?;
        let mut bytes = Vec::with_capacity(usize::try_from(self.len).unwrap_or(0));
        let read = self.reader(what, 0).read_to_end(&mut bytes);
        read.map_err(|e| self.failed(what, e))?;
        Ok(bytes)
    }

    /// Refuses a piece that is longer than `limit`.
    pub(super) fn within(&self, what: &str, host: &str, limit: u64) -> Result<()> {
        if self.len <= limit {
            return Ok(());
        }
        let got = format!("{} bytes", self.len);
        Err(RegistryError::Length { what: what.to_owned(), host: host.to_owned(), declared: limit, got })
    }

    /// How it is compressed, by its first bytes.
    ///
    /// `Err` in the second place: in a way that is not supported.
    pub(super) fn compression(&self, what: &str) -> Result<std::result::Result<Compression, crate::extract::ExtractError>> {
        let mut start = Vec::new();
        self.reader(what, 0).take(8).read_to_end(&mut start).map_err(|e| self.failed(what, e))?;
        Ok(Compression::of(&start))
    }

    /// What it unpacks to.
    pub(super) fn unpacked(&self, what: &str, compression: Compression) -> Result<Box<dyn Read + Send>> {
        let raw = self.reader(what, 0);
        Ok(match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, raw))),
            Compression::Zstd => {
                let decoder = zstd_decoder(BufReader::with_capacity(256 << 10, raw));
                Box::new(decoder.map_err(|e| self.failed(what, e))?)
            }
        })
    }

    /// What a read of it failed with.
    pub(super) fn failed(&self, what: &str, source: io::Error) -> RegistryError {
        RegistryError::Local { what: what.to_owned(), source: fsio::Error { call: "read", path: self.file.path(), source } }
    }
}

/// The reader of a piece.
pub(super) struct Exact {
    file: Arc<File>,
    at: u64,
    left: u64,
    what: String,
}

impl Read for Exact {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.file.read_at(self.at, buf.get_mut(..most).unwrap_or_default()).map_err(|e| io::Error::new(e.kind(), e))?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{}: {} bytes missing at the end", self.what, self.left)));
        }
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

/// A stream that must be exactly so long: what a compressed piece unpacks to.
pub(super) struct Counted<R> {
    inner: R,
    left: u64,
    what: String,
}

impl<R: Read> Counted<R> {
    pub(super) fn new(inner: R, len: u64, what: &str) -> Self {
        Self { inner, left: len, what: what.to_owned() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        let bad = |kind, why: String| Err(io::Error::new(kind, format!("{}: {why}", self.what)));
        match self.left.checked_sub(got as u64) {
            None => bad(io::ErrorKind::InvalidData, "it is longer than it was before".into()),
            Some(left) if got == 0 && !buf.is_empty() && left > 0 => {
                bad(io::ErrorKind::UnexpectedEof, format!("{left} bytes missing at the end"))
            }
            Some(left) => {
                self.left = left;
                Ok(got)
            }
        }
    }
}
