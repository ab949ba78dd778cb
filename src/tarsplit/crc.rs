//! Pure: no I/O. CRC-64/GO-ISO, the checksum of tar-split: reflected polynomial 0xD8…, all ones in and out.

use crc_fast::{CrcAlgorithm, Digest};

/// A running CRC-64/GO-ISO.
#[derive(Debug, Clone, Copy)]
pub struct Crc64(Digest);

impl Default for Crc64 {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64GoIso))
    }
}

impl Crc64 {
    /// The CRC of `bytes`.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut crc = Self::default();
        crc.update(bytes);
        crc.value()
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC of all bytes so far; 0 for none.
    pub fn value(self) -> u64 {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_and_known_file() {
        assert_eq!(Crc64::of(b"123456789"), 0xb909_56c7_75a4_1001);
        assert_eq!(data_encoding::BASE64.encode(&Crc64::of(b"changed\n").to_be_bytes()), "DUNi0b2EGCc=");
        assert_eq!(Crc64::of(b""), 0);
    }

    const POLYNOMIAL: u64 = 0xD800_0000_0000_0000;

    fn bitwise(bytes: &[u8]) -> u64 {
        !bytes.iter().fold(!0u64, |crc, &byte| {
            (0..8).fold(crc ^ u64::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 })
        })
    }

    /// Bytes without a pattern, the same in every run.
    fn bytes(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn any_split_gives_the_crc_of_the_whole() {
        let bytes = bytes(1500);
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let mut crc = Crc64::default();
            crc.update(head);
            assert_eq!(crc.value(), bitwise(head), "{cut} bytes");
            crc.update(tail);
            assert_eq!(crc.value(), bitwise(&bytes), "cut at {cut}");
        }
    }

    #[test]
    fn long_runs_in_pieces_of_any_length() {
        let bytes = bytes(300_000);
        let wanted = bitwise(&bytes);
        for len in [1, 7, 15, 16, 17, 127, 128, 255, 256, 257, 1023, 4096, 65_537, 262_144, 300_000] {
            let mut crc = Crc64::default();
            bytes.chunks(len).for_each(|piece| crc.update(piece));
            assert_eq!(crc.value(), wanted, "pieces of {len} bytes");
        }
        // Wherever they lie in memory.
        for at in 0..64 {
            assert_eq!(Crc64::of(&bytes[at..at + 5000]), bitwise(&bytes[at..at + 5000]), "at {at}");
        }
    }
}
