//! Writes tar-split: gzip of JSON lines, the bytes of each line as Go's encoder makes them.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// The longest segment written for bytes that are not headers; Go cuts what follows the archive the same way.
pub const SEGMENT_MAX: usize = 1 << 20;

/// Lines gathered before they go to the compressor.
const PENDING: usize = 64 << 10;

/// Writes the entries of a tar-split in order.
///
/// Without [`SplitWriter::finish`] what was written is incomplete, yet may be valid gzip: throw it away.
pub struct SplitWriter<W: Write> {
    gzip: GzEncoder<W>,
    pending: Vec<u8>,
    position: u64,
}

impl<W: Write> SplitWriter<W> {
    /// Writes to `out`, compressed at the fast level that Go uses.
    pub fn new(out: W) -> Self {
        Self { gzip: GzEncoder::new(out, Compression::fast()), pending: Vec::with_capacity(2 * PENDING), position: 0 }
    }

    /// Adds raw bytes of the tar.
    ///
    /// # Errors
    ///
    /// Those of the writer below.
    pub fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(b"{\"type\":2,\"payload\":");
        self.base64(bytes);
        self.close_line()
    }

    /// Adds a member: its name as in the tar, and size and CRC of its body (0 and ignored where it has none).
    ///
    /// # Errors
    ///
    /// Those of the writer below.
    pub fn file(&mut self, name: &[u8], size: u64, crc: u64) -> io::Result<()> {
        self.pending.extend_from_slice(b"{\"type\":1");
        match std::str::from_utf8(name) {
            Ok("") => {}
            Ok(text) => {
                self.pending.extend_from_slice(b",\"name\":");
                push_string(&mut self.pending, text);
            }
            Err(_) => {
                self.pending.extend_from_slice(b",\"name_raw\":");
                self.base64(name);
            }
        }
        if size == 0 {
            self.pending.extend_from_slice(b",\"payload\":null");
        } else {
            self.pending.extend_from_slice(b",\"size\":");
            self.pending.extend_from_slice(size.to_string().as_bytes());
            self.pending.extend_from_slice(b",\"payload\":");
            self.base64(&crc.to_be_bytes());
        }
        self.close_line()
    }

    /// Entries written so far.
    pub fn entries(&self) -> u64 {
        self.position
    }

    /// Ends the gzip stream and gives the writer below back, not synced.
    ///
    /// # Errors
    ///
    /// Those of the writer below.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_pending()?;
        self.gzip.finish()
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.pending.push(b'"');
        let start = self.pending.len();
        self.pending.resize(start + data_encoding::BASE64.encode_len(bytes.len()), 0);
        if let Some(place) = self.pending.get_mut(start..) {
            data_encoding::BASE64.encode_mut(bytes, place);
        }
        self.pending.push(b'"');
    }

    fn close_line(&mut self) -> io::Result<()> {
        self.pending.extend_from_slice(b",\"position\":");
        self.pending.extend_from_slice(self.position.to_string().as_bytes());
        self.pending.extend_from_slice(b"}\n");
        self.position += 1;
        if self.pending.len() >= PENDING { self.flush_pending() } else { Ok(()) }
    }

    fn flush_pending(&mut self) -> io::Result<()> {
        self.gzip.write_all(&self.pending)?;
        self.pending.clear();
        // One long segment must not hold its memory for ever.
        self.pending.shrink_to(2 * PENDING);
        Ok(())
    }
}

/// A JSON string as Go's encoder writes it, which also escapes `<`, `>`, `&` and two line separators.
fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
            }
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_are_those_of_go() {
        let mut split = SplitWriter::new(Vec::new());
        split.segment(b"abcd").unwrap();
        split.file("a<\"\u{1}é\u{2028}".as_bytes(), 8, 0x0d_43_62_d1_bd_84_18_27).unwrap();
        split.file(b"\xff/", 0, 0).unwrap();
        split.file(b"", 0, 0).unwrap();
        split.segment(b"").unwrap();
        assert_eq!(split.entries(), 5);
        let gzip = split.finish().unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_string(&mut text).unwrap();
        let lines = [
            r#"{"type":2,"payload":"YWJjZA==","position":0}"#,
            r#"{"type":1,"name":"a\u003c\"\u0001é\u2028","size":8,"payload":"DUNi0b2EGCc=","position":1}"#,
            r#"{"type":1,"name_raw":"/y8=","payload":null,"position":2}"#,
            r#"{"type":1,"payload":null,"position":3}"#,
            r#"{"type":2,"payload":"","position":4}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }
}
