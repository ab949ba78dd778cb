//! Pure: no I/O. The bytes of a segment.

use crate::ids::TxnId;

/// The first eight bytes of a segment.
pub const MAGIC: &[u8; 8] = b"CSTORJNL";
/// The version that is written and read.
pub const VERSION: u16 = 1;
/// The length of a header in bytes.
pub const HEADER_BYTES: usize = 68;
/// What a record costs beside its payload: length, kind, number, checksum.
pub const FRAME_BYTES: usize = 13;
/// The largest payload in bytes.
pub const PAYLOAD_LIMIT: usize = 256 << 20;
/// The first eight bytes of an end record's payload, so that it is found behind a damaged intent.
const END_MAGIC: &[u8; 8] = b"CSTOREND";
/// The length of an end record's payload: magic, transaction, checksum.
const END_BYTES: usize = 28;

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the transaction will do.
    Intent,
    /// It is done.
    Done,
    /// It was taken back.
    Abort,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Intent => 1,
            Self::Done => 2,
            Self::Abort => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Intent, Self::Done, Self::Abort].into_iter().find(|kind| kind.code() == code)
    }
}

/// What the header says of the writer: it explains, and never decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The transaction.
    pub txn: TxnId,
    /// The boot it was written in, 16 bytes.
    pub boot: [u8; 16],
    /// The inode number of the writer's pid namespace.
    pub pid_namespace: u64,
    /// The writer's process id in that namespace.
    pub pid: u32,
    /// The writer's start time in clock ticks since boot.
    pub start: u64,
}

/// What a segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A header, or not even that: nothing was decided.
    Empty,
    /// An intent that was not written whole: never acted on.
    Torn,
    /// An intent, and no end.
    Intent(Vec<u8>),
    /// The transaction was finished.
    Done,
    /// The transaction was taken back.
    Aborted,
    /// An intent that cannot be read, and an end behind it: damage after the fact.
    Corrupt,
    /// A sound header of another version of this format: another program's business.
    Newer {
        /// The version it names.
        version: u16,
    },
}

fn txn_bytes(txn: &TxnId) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // A TxnId is 32 hex digits: this cannot fail, and zeros would only fail the checksum.
    if let Ok(decoded) = data_encoding::HEXLOWER.decode(txn.as_str().as_bytes())
        && decoded.len() == 16
    {
        bytes.copy_from_slice(&decoded);
    }
    bytes
}

/// The bytes of a header.
pub fn header(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&0u16.to_le_bytes());
    bytes.extend_from_slice(&txn_bytes(&header.txn));
    bytes.extend_from_slice(&header.boot);
    bytes.extend_from_slice(&header.pid_namespace.to_le_bytes());
    bytes.extend_from_slice(&header.pid.to_le_bytes());
    bytes.extend_from_slice(&header.start.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a header.
pub fn parse_header(bytes: &[u8]) -> Option<Header> {
    let (body, version, flags) = sound_header(bytes)?;
    if (version, flags) != (VERSION, 0) {
        return None;
    }
    Some(Header {
        txn: data_encoding::HEXLOWER.encode(body.get(12..28)?).parse().ok()?,
        boot: array(body.get(28..44)?)?,
        pid_namespace: u64::from_le_bytes(array(body.get(44..52)?)?),
        pid: u32::from_le_bytes(array(body.get(52..56)?)?),
        start: u64::from_le_bytes(array(body.get(56..64)?)?),
    })
}

/// The header's bytes without the checksum, its version and its flags, where it has our magic and is whole. Every version
/// keeps these where they are.
fn sound_header(bytes: &[u8]) -> Option<(&[u8], u16, u16)> {
    let (body, crc) = bytes.get(..HEADER_BYTES)?.split_at_checked(HEADER_BYTES - 4)?;
    if crc32fast::hash(body).to_le_bytes() != crc || !body.starts_with(MAGIC) {
        return None;
    }
    Some((body, u16::from_le_bytes(array(body.get(8..10)?)?), u16::from_le_bytes(array(body.get(10..12)?)?)))
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// The running checksum of a segment: seeded with the transaction, chained over every byte of every record.
#[derive(Debug, Clone)]
pub struct Chain {
    hash: crc32fast::Hasher,
    number: u32,
    txn: [u8; 16],
}

impl Chain {
    /// The chain of a new segment.
    pub fn new(txn: &TxnId) -> Self {
        let txn = txn_bytes(txn);
        let mut hash = crc32fast::Hasher::new();
        hash.update(&txn);
        Self { hash, number: 0, txn }
    }

    /// The bytes of the next record. `payload` must not be longer than 256 MiB; an end record has its own.
    pub fn record(&mut self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let end = self.end_payload(kind);
        let payload = if kind == Kind::Intent { payload } else { &end };
        let mut bytes = Vec::with_capacity(payload.len() + FRAME_BYTES);
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.push(kind.code());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(payload);
        self.hash.update(&bytes);
        let crc = self.hash.clone().finalize();
        bytes.extend_from_slice(&crc.to_le_bytes());
        self.number += 1;
        bytes
    }

    fn end_payload(&self, kind: Kind) -> Vec<u8> {
        let mut bytes = END_MAGIC.to_vec();
        bytes.extend_from_slice(&self.txn);
        let mut hash = crc32fast::Hasher::new();
        hash.update(&[kind.code()]);
        hash.update(&bytes);
        bytes.extend_from_slice(&hash.finalize().to_le_bytes());
        bytes
    }

    /// Passes over the next record, if it is sound; returns its length.
    pub fn skip(&mut self, bytes: &[u8]) -> Option<usize> {
        self.parse(bytes).map(|(_, _, used)| used)
    }

    /// Reads the next record; `None` where it is not whole and sound.
    fn parse<'a>(&mut self, bytes: &'a [u8]) -> Option<(Kind, &'a [u8], usize)> {
        let len = usize::try_from(u32::from_le_bytes(array(bytes.get(..4)?)?)).ok()?;
        if len > PAYLOAD_LIMIT {
            return None;
        }
        let kind = Kind::of(*bytes.get(4)?)?;
        if u32::from_le_bytes(array(bytes.get(5..9)?)?) != self.number {
            return None;
        }
        let payload = bytes.get(9..9 + len)?;
        let crc = bytes.get(9 + len..FRAME_BYTES + len)?;
        let mut hash = self.hash.clone();
        hash.update(bytes.get(..9 + len)?);
        if hash.clone().finalize().to_le_bytes() != crc || (kind != Kind::Intent && payload != self.end_payload(kind)) {
            return None;
        }
        self.hash = hash;
        self.number += 1;
        Some((kind, payload, FRAME_BYTES + len))
    }
}

/// Reads a whole segment of transaction `txn`.
pub fn scan(bytes: &[u8], txn: &TxnId) -> State {
    match sound_header(bytes) {
        Some((_, version, flags)) if (version, flags) != (VERSION, 0) => return State::Newer { version },
        _ => {}
    }
    // A header that is damaged hinders nothing: it explains and never decides, and records are bound to the transaction.
    let mut rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let mut chain = Chain::new(txn);
    let mut intent = None;
    while let Some((kind, payload, used)) = chain.parse(rest) {
        match kind {
            Kind::Intent => intent = Some(payload.to_vec()),
            Kind::Done => return State::Done,
            Kind::Abort => return State::Aborted,
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    match (intent, ended(rest, txn)) {
        // The intent is sound and so is the end, though not its chaining: the end was written, and it counts.
        (Some(_), Some(Kind::Done)) => State::Done,
        (Some(_), Some(_)) => State::Aborted,
        (None, Some(_)) => State::Corrupt,
        (Some(payload), None) => State::Intent(payload),
        (None, None) if rest.is_empty() => State::Empty,
        (None, None) => State::Torn,
    }
}

/// The end record that these bytes close with, recognised by itself.
fn ended(bytes: &[u8], txn: &TxnId) -> Option<Kind> {
    let start = bytes.len().checked_sub(END_BYTES + 4)?;
    let payload = bytes.get(start..start + END_BYTES)?;
    let chain = Chain::new(txn);
    [Kind::Done, Kind::Abort].into_iter().find(|kind| chain.end_payload(*kind) == payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn() -> TxnId {
        "00112233445566778899aabbccddeeff".parse().unwrap()
    }

    fn segment(records: &[(Kind, &[u8])]) -> Vec<u8> {
        let head = Header { txn: txn(), boot: [1; 16], pid_namespace: 2, pid: 3, start: 4 };
        let mut bytes = header(&head);
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(parse_header(&bytes).unwrap(), head);
        let mut chain = Chain::new(&txn());
        for (kind, payload) in records {
            bytes.extend(chain.record(*kind, payload));
        }
        bytes
    }

    #[test]
    fn a_segment_reads_as_what_was_written() {
        type Row<'a> = (&'a [(Kind, &'a [u8])], State);
        let table: [Row<'_>; 5] = [
            (&[], State::Empty),
            (&[(Kind::Intent, b"x")], State::Intent(b"x".to_vec())),
            (&[(Kind::Intent, b"x"), (Kind::Done, b"")], State::Done),
            (&[(Kind::Intent, b"x"), (Kind::Abort, b"")], State::Aborted),
            (&[(Kind::Abort, b"")], State::Aborted),
        ];
        for (records, want) in table {
            assert_eq!(scan(&segment(records), &txn()), want);
        }
        assert_eq!(scan(&segment(&[(Kind::Intent, b"x")]), &"0".repeat(32).parse().unwrap()), State::Torn, "another one's");
    }

    #[test]
    fn j2_no_prefix_reads_as_another_intent() {
        let bytes = segment(&[(Kind::Intent, b"payload")]);
        for len in 0..bytes.len() {
            let state = scan(&bytes[..len], &txn());
            assert!(matches!(state, State::Empty | State::Torn), "{len}: {state:?}");
        }
    }

    #[test]
    fn j2_no_flipped_bit_reads_as_another_intent() {
        for records in [&[(Kind::Intent, b"payload".as_slice())][..], &[(Kind::Intent, b"payload".as_slice()), (Kind::Done, b"")][..]] {
            let bytes = segment(records);
            let whole = scan(&bytes, &txn());
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let state = scan(&bad, &txn());
                if let State::Intent(payload) = &state {
                    assert_eq!(payload, b"payload", "bit {bit}");
                }
                assert!(
                    records.len() == 1 || state != State::Torn && state != State::Empty,
                    "an ended segment blocks nothing: bit {bit}, {state:?}"
                );
                assert!(records.len() == 2 || state != State::Done, "bit {bit}");
                assert!(records.len() == 2 || state == whole || matches!(state, State::Empty | State::Torn), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_segment_of_another_version_is_told_from_a_damaged_one() {
        for (at, version) in [(8, 2), (10, VERSION)] {
            let mut bytes = segment(&[(Kind::Intent, b"payload")]);
            bytes[at] = 2;
            let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]).to_le_bytes();
            assert_eq!(scan(&bytes, &txn()), State::Intent(b"payload".to_vec()), "a damaged header, and a sound record");
            bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc);
            assert_eq!(scan(&bytes, &txn()), State::Newer { version });
        }
    }

    #[test]
    fn a_damaged_intent_with_an_end_is_corrupt_and_not_torn() {
        let mut bytes = segment(&[(Kind::Intent, b"payload"), (Kind::Done, b"")]);
        bytes[HEADER_BYTES + 10] ^= 1;
        assert_eq!(scan(&bytes, &txn()), State::Corrupt);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(tail: Vec<u8>) {
            let mut bytes = segment(&[]);
            bytes.extend(tail);
            scan(&bytes, &txn());
        }
    }
}
