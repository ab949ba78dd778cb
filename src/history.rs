//! The history of image records: what lets fsck bring back names after images.json is lost.
//!
//! `cstor-rs/history` is a row of frames, each whole by itself: a reader that meets damage goes on at the next magic.
//! Frames are appended before the intent of every transaction, under images.lock, and each append first adds what other
//! programs changed since the last. The newest frame of an image wins. What it says is used only for images that are
//! on disk, so that a frame of a transaction that was rolled back does no harm.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic `CSHF` |
//! | 4 | length of the record, little-endian |
//! | 16 | the transaction |
//! | 4 | crc32 of length, transaction and record |
//! | | the image's record, JSON, as in images.json |

use std::collections::{HashMap, HashSet};

use crate::fsio::{self, Dir, optional};
use crate::ids::TxnId;

/// The file's name in `cstor-rs/`.
pub const FILE: &str = "history";
const TEMP: &str = ".history.new";
const MAGIC: &[u8; 4] = b"CSHF";
const HEAD: usize = 28;
/// A file larger than this is not read; it is begun anew.
const LIMIT: u64 = 256 << 20;
/// A record larger than this is damage.
const RECORD_LIMIT: usize = 16 << 20;
/// The file is rewritten once it is this much larger than twice what is still newest.
const SLACK: u64 = 1 << 20;
/// The checksums of what is no frame after all may cost this many times the file. Frames lie side by side; what only
/// looks like them, each said to be 16 MiB long, may begin at every eighth byte.
const VAIN: usize = 4;

/// The newest record of every image, by the caller's key.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct History {
    newest: HashMap<String, String>,
    bytes: u64,
}

fn frame(txn: &TxnId, record: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + record.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&data_encoding::HEXLOWER.decode(txn.as_str().as_bytes()).unwrap_or_default());
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(4..).unwrap_or_default());
    crc.update(record.as_bytes());
    bytes.extend_from_slice(&crc.finalize().to_le_bytes());
    bytes.extend_from_slice(record.as_bytes());
    bytes
}

/// The frame that `bytes` begin with: its record and length. What is read in vain is paid from `budget`.
fn parse_frame<'a>(bytes: &'a [u8], budget: &mut usize) -> Option<(&'a str, usize)> {
    let head = bytes.get(..HEAD)?;
    let (body, crc) = head.split_at_checked(HEAD - 4)?;
    let len = usize::try_from(u32::from_le_bytes(body.get(4..8)?.try_into().ok()?)).ok()?;
    if !body.starts_with(MAGIC) || len > RECORD_LIMIT {
        return None;
    }
    let record = bytes.get(HEAD..HEAD + len).filter(|record| record.len() <= *budget)?;
    let mut hash = crc32fast::Hasher::new();
    hash.update(body.get(4..)?);
    hash.update(record);
    let record = std::str::from_utf8(record).ok().filter(|_| hash.finalize().to_le_bytes() == crc);
    if record.is_none() {
        *budget -= len;
    }
    Some((record?, HEAD + len))
}

impl History {
    /// Reads frames; damage is passed over, in time that grows with the file alone: behind more damage than any accident
    /// makes nothing is read any more. `key` gives the image's id out of a record.
    pub fn parse(bytes: &[u8], key: impl Fn(&str) -> Option<String>) -> Self {
        let mut budget = bytes.len().saturating_mul(VAIN);
        Self::parse_within(bytes, &mut budget, key)
    }

    fn parse_within(bytes: &[u8], budget: &mut usize, key: impl Fn(&str) -> Option<String>) -> Self {
        let mut history = Self { bytes: bytes.len() as u64, ..Self::default() };
        let mut rest = bytes;
        while !rest.is_empty() {
            match parse_frame(rest, budget) {
                Some((record, used)) => {
                    if let Some(id) = key(record) {
                        history.newest.insert(id, record.to_owned());
                    }
                    rest = rest.get(used..).unwrap_or_default();
                }
                None => {
                    // Resynchronise at the next magic.
                    let next = rest.get(1..).and_then(|tail| tail.windows(4).position(|w| w == MAGIC));
                    rest = next.and_then(|at| rest.get(at + 1..)).unwrap_or_default();
                }
            }
        }
        history
    }

    /// Reads the history of a store; a missing file is an empty history.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn load(own: &Dir, key: impl Fn(&str) -> Option<String>) -> fsio::Result<Self> {
        match optional(own.file(FILE))? {
            Some(file) if file.len()? <= LIMIT => Ok(Self::parse(&file.read_all(LIMIT)?, key)),
            Some(file) => Ok(Self { newest: HashMap::new(), bytes: file.len()? }),
            None => Ok(Self::default()),
        }
    }

    /// The newest record of an image.
    pub fn get(&self, id: &str) -> Option<&str> {
        self.newest.get(id).map(String::as_str)
    }

    /// Adds records to a file that is no longer than `limit` bytes, without a sync and without reading it: what a power cut
    /// takes of it the next [`History::note`] adds again. `false`: the file is longer, and nothing was done.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn append<'a>(own: &Dir, txn: &TxnId, records: impl IntoIterator<Item = &'a str>, limit: u64) -> fsio::Result<bool> {
        let bytes: Vec<u8> =
            records.into_iter().filter(|record| record.len() <= RECORD_LIMIT).flat_map(|record| frame(txn, record)).collect();
        let file = own.file_or_create(FILE, 0o600)?;
        let end = file.len()?;
        if end > limit.saturating_add(SLACK) {
            return Ok(false);
        }
        file.write_at(end, &bytes)?;
        Ok(true)
    }

    /// Makes the history say `records` (id, record) for each of these images, durably. Others that it knows are forgotten when
    /// the file is rewritten, but for those of which `on_disk` says that there is still something to give a name to.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn note<'a>(
        &mut self,
        own: &Dir,
        txn: &TxnId,
        records: impl IntoIterator<Item = (&'a str, &'a str)>,
        on_disk: impl Fn(&str) -> fsio::Result<bool>,
    ) -> fsio::Result<()> {
        let mut bytes = Vec::new();
        let (mut live, mut now) = (0, HashSet::new());
        for (id, record) in records {
            live += (HEAD + record.len()) as u64;
            now.insert(id);
            if self.get(id) != Some(record) && record.len() <= RECORD_LIMIT {
                bytes.extend(frame(txn, record));
                self.newest.insert(id.to_owned(), record.to_owned());
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.bytes + bytes.len() as u64 > 2 * live + SLACK {
            for id in self.newest.keys().filter(|id| !now.contains(id.as_str())).cloned().collect::<Vec<_>>() {
                if !on_disk(&id)? {
                    self.newest.remove(&id);
                }
            }
            let whole: Vec<u8> = self.newest.values().flat_map(|record| frame(txn, record)).collect();
            own.replace(TEMP, FILE, &whole, 0o600)?;
            self.bytes = whole.len() as u64;
            return Ok(());
        }
        let new = own.meta(FILE)?.is_none();
        let file = own.file_or_create(FILE, 0o600)?;
        file.write_at(self.bytes, &bytes)?;
        file.sync_data()?;
        if new {
            own.sync()?;
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsio::Seam;

    fn key(record: &str) -> Option<String> {
        record.split(' ').next().map(str::to_owned)
    }

    fn kept(id: &str) -> fsio::Result<bool> {
        Ok(id == "kept")
    }

    fn txn() -> TxnId {
        "a".repeat(32).parse().unwrap()
    }

    #[test]
    fn the_newest_record_wins_and_nothing_is_written_twice() {
        let temp = tempfile::tempdir().unwrap();
        let own = Dir::open(temp.path(), Seam::default()).unwrap();
        let mut history = History::default();
        history.note(&own, &txn(), [("a", "a 1"), ("b", "b 1")], kept).unwrap();
        history.note(&own, &txn(), [("a", "a 2"), ("b", "b 1")], kept).unwrap();
        let again = History::load(&own, key).unwrap();
        assert_eq!(again, history);
        assert_eq!((again.get("a"), again.get("b"), again.get("c")), (Some("a 2"), Some("b 1"), None));
        assert_eq!(again.bytes, 3 * (HEAD as u64 + 3));
    }

    #[test]
    fn a_reader_resynchronises_behind_damage() {
        let mut bytes: Vec<u8> = ["a 1", "b 1", "c 1"].iter().flat_map(|r| frame(&txn(), r)).collect();
        let whole = bytes.clone();
        bytes[HEAD + 3 + 10] ^= 1;
        let history = History::parse(&bytes, key);
        assert_eq!((history.get("a"), history.get("b"), history.get("c")), (Some("a 1"), None, Some("c 1")));
        for len in 0..whole.len() {
            assert!(History::parse(&whole[..len], key).newest.len() < 3);
        }
    }

    #[test]
    fn damage_costs_no_more_than_a_few_times_the_file() {
        let honest: Vec<u8> = (0..100u8)
            .flat_map(|n| {
                let mut bytes = frame(&txn(), &format!("{n} {}", "x".repeat(5000)));
                bytes[HEAD + 100] ^= n % 2;
                bytes
            })
            .collect();
        let mut budget = VAIN * honest.len();
        let history = History::parse_within(&honest, &mut budget, key);
        assert_eq!(history.newest.len(), 50, "every second frame is whole");
        assert_eq!(VAIN * honest.len() - budget, 50 * 5003 - 5, "each damaged frame is paid for once");

        // As the header of a frame of 60,000 bytes at every 28th byte: quadratic, were all of them checked.
        let mut hostile = Vec::new();
        for _ in 0..10_000 {
            hostile.extend_from_slice(MAGIC);
            hostile.extend_from_slice(&60_000u32.to_le_bytes());
            hostile.extend_from_slice(&[0; HEAD - 8]);
        }
        let file = [frame(&txn(), "a 1"), hostile, frame(&txn(), "b 1")].concat();
        let mut budget = VAIN * file.len();
        let history = History::parse_within(&file, &mut budget, key);
        assert_eq!((history.get("a"), history.get("b")), (Some("a 1"), Some("b 1")));
        assert_eq!(VAIN * file.len() - budget, VAIN * file.len() / 60_000 * 60_000);
    }

    #[test]
    fn it_is_bounded_by_rewriting() {
        let temp = tempfile::tempdir().unwrap();
        let own = Dir::open(temp.path(), Seam::default()).unwrap();
        let mut history = History::default();
        let long = "x".repeat(300_000);
        history.note(&own, &txn(), [("gone", "gone 1"), ("kept", "kept 1")], kept).unwrap();
        for n in 0..20 {
            history.note(&own, &txn(), [("a", format!("a {n} {long}").as_str())], kept).unwrap();
            assert!(own.file(FILE).unwrap().len().unwrap() <= 3 * 300_100 + SLACK);
        }
        let again = History::load(&own, key).unwrap();
        assert!(again.get("a").unwrap().starts_with("a 19 "));
        assert_eq!((again.get("gone"), again.get("kept")), (None, Some("kept 1")), "what is not on disk any more is forgotten");
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            History::parse(&bytes, key);
        }
    }
}
