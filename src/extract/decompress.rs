//! Decompression by magic, in a thread of its own.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use super::ExtractError;
use crate::ids::Digest;

/// The bytes of one buffer between the threads; there are at most eight.
const BUFFER: usize = 256 << 10;
/// 2^27 bytes: the largest zstd window that is accepted (128 MiB).
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, several members included.
    Gzip,
    /// zstd, several frames and skippable ones included.
    Zstd,
}

impl Compression {
    /// Go's code in layers.json.
    pub fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Gzip => 2,
            Self::Zstd => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// By the first bytes, as c/storage does; the media type does not matter.
    pub(crate) fn of(start: &[u8]) -> Result<Self, ExtractError> {
        const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
        if start.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self::Gzip);
        }
        if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (start.get(1..4) == Some(&SKIPPABLE) && start.first().is_some_and(|b| b >> 4 == 5))
        {
            return Ok(Self::Zstd);
        }
        if start.starts_with(b"BZh") {
            return Err(ExtractError::Unsupported { what: "bzip2" });
        }
        if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            return Err(ExtractError::Unsupported { what: "xz" });
        }
        Ok(Self::None)
    }
}

/// What the decompressing thread found.
pub(super) struct Blob {
    pub digest: Digest,
    pub bytes: u64,
    pub compression: Compression,
}

/// The blob on its way: counted, hashed, bounded. Its errors are kept apart from those of the decompressor.
struct Source<'a, R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
    declared: Option<u64>,
    cancelled: &'a AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
    failed: Option<ExtractError>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let fail = |slot: &mut Option<ExtractError>, error: ExtractError| {
            let text = error.to_string();
            slot.get_or_insert(error);
            io::Error::other(text)
        };
        if self.cancelled.load(Ordering::Acquire) {
            return Err(fail(&mut self.failed, ExtractError::Cancelled));
        }
        let got = loop {
            match self.inner.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fail(&mut self.failed, ExtractError::Source(error))),
                Ok(got) => break got,
            }
        };
        self.hash.update(buf.get(..got).unwrap_or_default());
        self.bytes += got as u64;
        match self.declared {
            Some(declared) if self.bytes > declared => return Err(fail(&mut self.failed, ExtractError::TooLong { declared })),
            Some(declared) if got == 0 && !buf.is_empty() && self.bytes < declared => {
                return Err(fail(&mut self.failed, ExtractError::TooShort { declared, got: self.bytes }));
            }
            _ => {}
        }
        (self.progress)(self.bytes);
        Ok(got)
    }
}

/// The options this side needs.
pub(super) struct Limits<'a> {
    pub declared: Option<u64>,
    pub max_bytes: u64,
    pub cancelled: &'a AtomicBool,
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Reads the blob to its end and sends what it unpacks to.
pub(super) fn run(
    blob: impl Read,
    limits: &Limits<'_>,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Blob, ExtractError> {
    let source = Source {
        inner: blob,
        hash: Sha256::new(),
        bytes: 0,
        declared: limits.declared,
        cancelled: limits.cancelled,
        progress: limits.progress,
        failed: None,
    };
    let mut source = BufReader::with_capacity(BUFFER, source);
    let compression = match source.fill_buf() {
        Ok(start) => Compression::of(start)?,
        Err(error) => return Err(source.into_inner().failed.unwrap_or(ExtractError::Source(error))),
    };
    let sent = match compression {
        Compression::None => pump(&mut source, limits, full, empty),
        Compression::Gzip => pump(&mut flate2::bufread::MultiGzDecoder::new(&mut source), limits, full, empty),
        Compression::Zstd => match zstd_decoder(&mut source) {
            Ok(mut decoder) => pump(&mut decoder, limits, full, empty),
            Err(error) => Err(Stop::Read(error)),
        },
    };
    // What stands behind the compressed stream belongs to the blob too; a decoder that stopped early left some.
    let sent = sent.and_then(|()| match source.fill_buf() {
        Ok([]) => Ok(()),
        Ok(_) => Err(Stop::Read(io::Error::new(io::ErrorKind::InvalidData, "bytes behind its end"))),
        Err(error) => Err(Stop::Read(error)),
    });
    let source = source.into_inner();
    match sent {
        Err(Stop::TooLarge) => Err(ExtractError::TooLarge { limit: limits.max_bytes }),
        Err(Stop::Read(error)) => Err(source.failed.unwrap_or(ExtractError::Decompress { what: compression.name(), source: error })),
        // The other side stopped listening, and has its own error.
        Err(Stop::Gone) => Err(ExtractError::Cancelled),
        Ok(()) => Ok(Blob { digest: Digest::from_hash(&source.hash.finalize()), bytes: source.bytes, compression }),
    }
}

/// A decoder that refuses a window of more than 128 MiB.
pub(crate) fn zstd_decoder<R: BufRead>(source: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

enum Stop {
    Read(io::Error),
    TooLarge,
    Gone,
}

fn pump(from: &mut impl Read, limits: &Limits<'_>, full: &SyncSender<Vec<u8>>, empty: &Receiver<Vec<u8>>) -> Result<(), Stop> {
    let mut total = 0u64;
    let mut made = 0;
    loop {
        let mut buffer = match empty.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if made < 8 => {
                made += 1;
                Vec::new()
            }
            Err(_) => empty.recv().map_err(|_| Stop::Gone)?,
        };
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match from.read(rest) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Read(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        total += filled as u64;
        if total > limits.max_bytes {
            return Err(Stop::TooLarge);
        }
        buffer.truncate(filled);
        full.send(buffer).map_err(|_| Stop::Gone)?;
    }
}
