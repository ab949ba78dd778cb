//! Pure: no I/O. One 512-byte header block in any of the formats that Go's archive/tar knows.

use super::number::{c_string, numeric, octal};
use super::{TarError, Time};

/// The unit of tar.
pub(super) const BLOCK: usize = 512;

/// A header block's fields; extension headers are not applied yet.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: i64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: Time,
    pub(super) atime: Option<Time>,
    pub(super) device: (i64, i64),
}

#[derive(PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// The bytes of a field; headers are always whole blocks.
fn field(block: &[u8; BLOCK], start: usize, len: usize) -> &[u8] {
    block.get(start..start + len).unwrap_or_default()
}

/// Whether the stored checksum is that of unsigned bytes (POSIX) or of signed ones (old Sun tar).
fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let Some(stored) = octal(field(block, 148, 8)) else { return false };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (index, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    stored == unsigned || stored == signed
}

fn format(block: &[u8; BLOCK]) -> Format {
    match (field(block, 257, 6), field(block, 263, 2), field(block, 508, 4)) {
        (b"ustar\0", _, b"tar\0") => Format::Star,
        (b"ustar\0", _, _) => Format::Ustar,
        (b"ustar ", b" \0", _) => Format::Gnu,
        _ => Format::V7,
    }
}

impl Header {
    /// Decodes the block that begins at byte `offset` of the tar.
    pub(super) fn parse(block: &[u8; BLOCK], offset: u64) -> Result<Self, TarError> {
        if !checksum_holds(block) {
            return Err(TarError::Checksum { offset });
        }
        let number = |start, len, name| numeric(field(block, start, len)).ok_or(TarError::Number { offset, field: name });
        let seconds = |secs| Time { secs, nanos: 0 };
        let text = |start, len| c_string(field(block, start, len));
        let mut header = Self {
            kind: field(block, 156, 1).first().copied().unwrap_or_default(),
            name: text(0, 100).to_vec(),
            link: text(157, 100).to_vec(),
            size: number(124, 12, "size")?,
            mode: number(100, 8, "mode")?,
            uid: number(108, 8, "uid")?,
            gid: number(116, 8, "gid")?,
            mtime: seconds(number(136, 12, "mtime")?),
            atime: None,
            device: (0, 0),
        };
        let format = format(block);
        if format == Format::V7 {
            return Ok(header);
        }
        header.device = (number(329, 8, "device major")?, number(337, 8, "device minor")?);
        let prefix = match format {
            Format::Star => {
                header.atime = Some(seconds(number(476, 12, "atime")?));
                number(488, 12, "ctime")?;
                text(345, 131)
            }
            Format::Gnu => {
                let time = |start| match field(block, start, 12) {
                    [0, ..] => Some(None),
                    other => numeric(other).map(Some),
                };
                // Go before 1.8 wrote a ustar prefix over the GNU times; Go still reads such headers so.
                match (time(345), time(357), text(345, 155)) {
                    (Some(atime), Some(_), _) => {
                        header.atime = atime.map(seconds);
                        &[]
                    }
                    (_, _, prefix) if prefix.is_ascii() => prefix,
                    _ => &[],
                }
            }
            _ => text(345, 155),
        };
        if !prefix.is_empty() {
            header.name = [prefix, b"/", &header.name].concat();
        }
        Ok(header)
    }
}
