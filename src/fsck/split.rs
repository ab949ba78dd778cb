//! What a tar-split tells of its layer without the layer's files.

use std::collections::BTreeSet;
use std::io::BufReader;

use crate::fsio::{self, File};
use crate::tarsplit::{self, Crc64, EntryKind, SplitEntry, SplitReader};

/// What a tar-split tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SplitFacts {
    /// The length of the tar in bytes.
    pub tar_bytes: u64,
    /// The users of its members.
    pub uids: BTreeSet<u32>,
    /// The groups of its members.
    pub gids: BTreeSet<u32>,
}

struct Whole<'a> {
    file: &'a File,
    at: u64,
}

impl std::io::Read for Whole<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let got = self.file.read_at(self.at, buf).map_err(|error| std::io::Error::new(error.kind(), error))?;
        self.at += got as u64;
        Ok(got)
    }
}

/// A tar-split from its start, wherever others have read it to.
pub(super) fn from_start(file: &File) -> impl std::io::BufRead + '_ {
    BufReader::with_capacity(64 << 10, Whole { file, at: 0 })
}

/// Reads a tar-split to its end; `None` where it cannot be.
pub(super) fn facts(split: &File) -> fsio::Result<Option<SplitFacts>> {
    let mut facts = SplitFacts::default();
    let nothing = Crc64::of(b"");
    let mut entries = SplitReader::new(from_start(split));
    loop {
        match entries.next() {
            Ok(None) => break,
            Ok(Some(SplitEntry::Segment(bytes))) => facts.tar_bytes = facts.tar_bytes.saturating_add(bytes.len() as u64),
            // Go records a size for links and directories that have one in their header, with the CRC of nothing.
            Ok(Some(SplitEntry::File { size, crc, .. })) if size > 0 && crc != nothing => {
                facts.tar_bytes = facts.tar_bytes.saturating_add(size);
            }
            Ok(Some(SplitEntry::File { .. })) => {}
            Err(_) => return Ok(None),
        }
    }
    for entry in tarsplit::plain_headers(from_start(split)) {
        let Ok(entry) = entry else { return Ok(None) };
        let base = entry.name.rsplit(|b| *b == b'/').find(|part| !part.is_empty()).unwrap_or_default();
        if entry.kind != EntryKind::GlobalHeader && !base.starts_with(b".wh.") {
            facts.uids.insert(entry.uid);
            facts.gids.insert(entry.gid);
        }
    }
    Ok(Some(facts))
}
