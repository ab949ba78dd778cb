//! Pure: no I/O. CRC-64/GO-ISO, the checksum of tar-split: reflected polynomial 0xD8…, all ones in and out.

const POLYNOMIAL: u64 = 0xD800_0000_0000_0000;

/// Bytes taken per step; table `k` advances a byte past `k` more.
const SLICES: usize = 16;

static TABLES: [[u64; 256]; SLICES] = tables();

#[allow(clippy::indexing_slicing)] // evaluated by the compiler: an index out of range does not build
const fn tables() -> [[u64; 256]; SLICES] {
    let mut tables = [[0u64; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < SLICES {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[slice - 1][byte];
            tables[slice][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        slice += 1;
    }
    tables
}

#[allow(clippy::indexing_slicing)] // a table has 256 fields and a byte no more values
fn at(table: &[u64; 256], byte: u8) -> u64 {
    table[usize::from(byte)]
}

/// A running CRC-64/GO-ISO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc64(u64);

impl Default for Crc64 {
    fn default() -> Self {
        Self(!0)
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
        let [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15] = &TABLES;
        let mut crc = self.0;
        let (chunks, rest) = bytes.as_chunks::<SLICES>();
        for &[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] in chunks {
            let [a, b, c, d, e, f, g, h] = (crc ^ u64::from_le_bytes([a, b, c, d, e, f, g, h])).to_le_bytes();
            let second = at(t7, i) ^ at(t6, j) ^ at(t5, k) ^ at(t4, l) ^ at(t3, m) ^ at(t2, n) ^ at(t1, o) ^ at(t0, p);
            let first = at(t15, a) ^ at(t14, b) ^ at(t13, c) ^ at(t12, d) ^ at(t11, e) ^ at(t10, f) ^ at(t9, g) ^ at(t8, h);
            crc = first ^ second;
        }
        for &byte in rest {
            let [low, ..] = crc.to_le_bytes();
            crc = at(t0, low ^ byte) ^ (crc >> 8);
        }
        self.0 = crc;
    }

    /// The CRC of all bytes so far; 0 for none.
    pub fn value(self) -> u64 {
        !self.0
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

    #[test]
    fn any_split_gives_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0..300u32).map(|n| (n * n % 251) as u8).collect();
        let bitwise = bytes.iter().fold(!0u64, |crc, &byte| {
            (0..8).fold(crc ^ u64::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 })
        });
        for cut in 0..bytes.len() {
            let mut crc = Crc64::default();
            crc.update(&bytes[..cut]);
            crc.update(&bytes[cut..]);
            assert_eq!(crc.value(), !bitwise, "cut at {cut}");
        }
    }
}
