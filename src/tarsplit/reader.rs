//! Reads a tar-split as a stream of entries.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use super::SplitError;

/// The longest line accepted. Ours have 3 MB at most; old writers put all that follows the archive in one.
pub const LINE_MAX: u64 = 16 << 20;

/// One entry of a tar-split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitEntry {
    /// Raw bytes of the tar.
    Segment(Vec<u8>),
    /// A member, in the place of its body.
    File {
        /// The name as in the tar.
        name: Vec<u8>,
        /// Bytes of the body. Go records the header's size also for types that have no body.
        size: u64,
        /// CRC-64/GO-ISO of the body; 0 where there is none.
        crc: u64,
    },
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u64,
    name: Option<String>,
    name_raw: Option<String>,
    size: Option<i64>,
    payload: Option<String>,
}

/// A pull parser over a tar-split file, in any valid gzip.
pub struct SplitReader<R> {
    lines: BufReader<MultiGzDecoder<BufReader<R>>>,
    line: Vec<u8>,
    position: u64,
    started: bool,
}

impl<R: Read> SplitReader<R> {
    /// Reads the gzip file `split`.
    pub fn new(split: R) -> Self {
        Self {
            lines: BufReader::with_capacity(64 << 10, MultiGzDecoder::new(BufReader::new(split))),
            line: Vec::new(),
            position: 0,
            started: false,
        }
    }

    /// Entries read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// [`SplitError`]: `Read` (also where the gzip is cut short), `LineTooLong`, `Json` or `Entry`.
    #[allow(clippy::should_implement_trait)] // fallible: `while let Some(..) = ..next()?` reads better
    pub fn next(&mut self) -> Result<Option<SplitEntry>, SplitError> {
        let position = self.position;
        if !std::mem::replace(&mut self.started, true) {
            self.refuse_empty_file()?;
        }
        loop {
            self.line.clear();
            let line = (&mut self.lines).take(LINE_MAX + 1).read_until(b'\n', &mut self.line);
            if line.map_err(|source| SplitError::Read { position, source })? == 0 {
                return Ok(None);
            }
            if self.line.len() as u64 > LINE_MAX {
                return Err(SplitError::LineTooLong { position, limit: LINE_MAX });
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let line = serde_json::from_slice(&self.line).map_err(|source| SplitError::Json { position, source })?;
        self.position += 1;
        entry(line).map(Some).map_err(|what| SplitError::Entry { position, what })
    }

    /// A file of no bytes is what a power cut leaves, not a gzip of nothing; the decompressor takes it for one.
    fn refuse_empty_file(&mut self) -> Result<(), SplitError> {
        match self.lines.get_mut().get_mut().fill_buf() {
            Ok([]) => Err(SplitError::Read { position: 0, source: io::ErrorKind::UnexpectedEof.into() }),
            Ok(_) => Ok(()),
            Err(source) => Err(SplitError::Read { position: 0, source }),
        }
    }
}

fn base64(text: &str) -> Result<Vec<u8>, &'static str> {
    data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| "not base64")
}

fn entry(line: Line) -> Result<SplitEntry, &'static str> {
    let payload = line.payload.as_deref().map(base64).transpose()?.unwrap_or_default();
    match line.kind {
        2 => Ok(SplitEntry::Segment(payload)),
        1 => {
            let raw = line.name_raw.as_deref().map(base64).transpose()?.unwrap_or_default();
            let name = if raw.is_empty() { line.name.unwrap_or_default().into_bytes() } else { raw };
            // Go writes what a header says even if it is negative; only types without a body can have that.
            let size = u64::try_from(line.size.unwrap_or_default()).unwrap_or_default();
            let crc = match (size, <[u8; 8]>::try_from(payload)) {
                (0, _) => 0,
                (_, Ok(bytes)) => u64::from_be_bytes(bytes),
                (_, Err(_)) => return Err("a file's payload is not 8 bytes of CRC"),
            };
            Ok(SplitEntry::File { name, size, crc })
        }
        _ => Err("unknown type"),
    }
}
