//! Segments on disk: born, appended to, found again, removed.

use std::io;

use super::frame::{self, Chain, FRAME_BYTES, HEADER_BYTES, Header, Kind, PAYLOAD_LIMIT, State};
use crate::fsio::{self, Dir, File, optional};
use crate::ids::TxnId;

/// The bytes that are read of a segment at most.
pub const SEGMENT_LIMIT: u64 = 2 * PAYLOAD_LIMIT as u64;

/// How often a segment is made again that others removed at its birth.
const BIRTHS: usize = 16;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum JournalError {
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error("an intent of {bytes} bytes, more than the limit of {PAYLOAD_LIMIT}; use smaller transactions")]
    TooLarge { bytes: usize },
    #[error("a new segment of transaction {txn} could not be locked; the filesystem does not support locks")]
    NotLocked { txn: TxnId },
}

/// The name of a segment: the one place that builds and parses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    txn: TxnId,
    file: String,
}

impl SegmentName {
    /// The segment of a transaction.
    pub fn of(txn: &TxnId) -> Self {
        Self { file: format!("{txn}.wal"), txn: txn.clone() }
    }

    fn unborn(txn: &TxnId) -> Self {
        Self { file: format!(".{txn}.new"), txn: txn.clone() }
    }

    fn bad(txn: &TxnId) -> Self {
        Self { file: format!("{txn}.bad"), txn: txn.clone() }
    }

    /// The transaction.
    pub fn txn(&self) -> &TxnId {
        &self.txn
    }

    /// The file's name in `journal/`.
    pub fn file(&self) -> &str {
        &self.file
    }
}

/// What lies in `journal/`. Names of other forms are nobody's business.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Segments, by name.
    pub segments: Vec<SegmentName>,
    /// Segments that never got their final name.
    pub unborn: Vec<SegmentName>,
    /// Segments that were set aside.
    pub bad: Vec<SegmentName>,
}

/// Lists `journal/`.
///
/// # Errors
///
/// Those of the disk.
pub fn list(journal: &Dir) -> fsio::Result<Listing> {
    let mut listing = Listing::default();
    for name in journal.names()? {
        let Some(text) = name.to_str() else { continue };
        let parse = |text: Option<&str>| text.and_then(|t| t.parse::<TxnId>().ok());
        if let Some(txn) = parse(text.strip_suffix(".wal")) {
            listing.segments.push(SegmentName::of(&txn));
        } else if let Some(txn) = parse(text.strip_prefix('.').and_then(|t| t.strip_suffix(".new"))) {
            listing.unborn.push(SegmentName::unborn(&txn));
        } else if let Some(txn) = parse(text.strip_suffix(".bad")) {
            listing.bad.push(SegmentName::bad(&txn));
        }
    }
    Ok(listing)
}

/// Whether somebody holds a segment's lock: its owner lives. Takes nothing.
///
/// # Errors
///
/// Those of the disk; a missing file is held by nobody.
pub fn is_held(journal: &Dir, name: &SegmentName) -> fsio::Result<bool> {
    match optional(journal.file_rw(&name.file))? {
        Some(file) => Ok(file.lock_owner()?.is_some()),
        None => Ok(true),
    }
}

/// A segment whose lock we hold. Dropping it releases the lock and leaves the file.
#[derive(Debug)]
pub struct Segment {
    file: File,
    name: SegmentName,
    chain: Chain,
}

impl Drop for Segment {
    fn drop(&mut self) {
        // Unlock, then close: after close alone a forked child still holds it.
        if let Err(error) = self.file.unlock() {
            tracing::error!(error = &error as &dyn std::error::Error, "a segment could not be released");
        }
    }
}

/// What a segment says, and what its header says of the writer.
#[derive(Debug, Clone)]
pub struct Scan {
    /// What it says.
    pub state: State,
    /// Its header, if readable.
    pub header: Option<Header>,
}

/// A segment found.
#[derive(Debug)]
pub enum Opened {
    /// Its owner was dead; the lock is ours now.
    Ours(Segment, Scan),
    /// Its owner lives.
    Held(Scan),
    /// It went away meanwhile.
    Gone,
}

impl Segment {
    /// Makes a segment: under a dot-name, locked, header written, fsynced, renamed, `journal/` fsynced.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn create(journal: &Dir, txn: &TxnId) -> Result<Self, JournalError> {
        let (unborn, name) = (SegmentName::unborn(txn), SegmentName::of(txn));
        for _ in 0..BIRTHS {
            let mut file = journal.create(&unborn.file, 0o600)?;
            match Self::bear(journal, &mut file, txn, &unborn, &name) {
                Ok(true) => return Ok(Self { file, chain: Chain::new(txn), name }),
                Ok(false) => {}
                Err(error) => {
                    for name in [&unborn.file, &name.file] {
                        if let Err(second) = optional(journal.unlink(name)) {
                            tracing::warn!(error = &second as &dyn std::error::Error, "an unborn segment stays; the next open removes it");
                        }
                    }
                    return Err(error);
                }
            }
        }
        Err(JournalError::NotLocked { txn: txn.clone() })
    }

    /// `false`: a recovery saw the file before it was locked, took it for dead and removed it.
    fn bear(journal: &Dir, file: &mut File, txn: &TxnId, unborn: &SegmentName, name: &SegmentName) -> Result<bool, JournalError> {
        if !file.try_lock(true)? {
            return Err(JournalError::NotLocked { txn: txn.clone() });
        }
        file.append(&frame::header(&own_header(txn)))?;
        file.sync_all()?;
        if optional(journal.rename_new(&unborn.file, journal, &name.file))?.is_none() {
            return Ok(false);
        }
        file.renamed(&name.file);
        journal.sync()?;
        Ok(true)
    }

    /// Opens a segment for recovery: tries its lock, checks that the file still has its name, reads it.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn open(journal: &Dir, name: &SegmentName) -> Result<Opened, JournalError> {
        let Some(file) = optional(journal.file_rw(&name.file))? else { return Ok(Opened::Gone) };
        let ours = file.try_lock(true)?;
        let (links, inode) = file.links_and_inode()?;
        if links == 0 || journal.meta(&name.file)?.is_none_or(|meta| meta.inode != inode) {
            return Ok(Opened::Gone);
        }
        let bytes = match file.read_all(SEGMENT_LIMIT) {
            // Its owner lives, and needs nothing of us: what cannot be read is its business.
            Err(_) if !ours => return Ok(Opened::Held(Scan { state: State::Empty, header: None })),
            read => read?,
        };
        let scan = Scan { state: frame::scan(&bytes, &name.txn), header: frame::parse_header(&bytes) };
        if !ours {
            return Ok(Opened::Held(scan));
        }
        let chain = replayed(&bytes, &name.txn);
        let mut segment = Self { file, name: name.clone(), chain };
        segment.file.seek_to(bytes.len() as u64);
        Ok(Opened::Ours(segment, scan))
    }

    /// The transaction.
    pub fn txn(&self) -> &TxnId {
        &self.name.txn
    }

    /// Reserves the blocks of an intent and of the end record behind it, so that a disk that fills up meanwhile
    /// cannot keep a transaction from ending. Best effort: not every filesystem can.
    ///
    /// # Errors
    ///
    /// ENOSPC and EDQUOT.
    pub fn reserve(&self, payload_bytes: u64) -> Result<(), JournalError> {
        let want = payload_bytes + HEADER_BYTES as u64 + 4 * FRAME_BYTES as u64 + 4096;
        match self.file.allocate(0, want) {
            Err(error)
                if [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::NOSYS, rustix::io::Errno::INVAL].iter().any(|e| error.is(*e)) =>
            {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Appends a record; not yet on the medium.
    ///
    /// # Errors
    ///
    /// Those of the disk, and a payload over the limit.
    pub fn append(&mut self, kind: Kind, payload: &[u8]) -> Result<(), JournalError> {
        if payload.len() > PAYLOAD_LIMIT {
            return Err(JournalError::TooLarge { bytes: payload.len() });
        }
        let bytes = self.chain.record(kind, payload);
        Ok(self.file.append(&bytes)?)
    }

    /// fdatasync: what was appended is on the medium.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn sync(&self) -> Result<(), JournalError> {
        Ok(self.file.sync_data()?)
    }

    /// Removes the segment: the last thing that happens to a transaction.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn remove(self, journal: &Dir) -> Result<(), JournalError> {
        optional(journal.unlink(&self.name.file))?;
        Ok(journal.sync()?)
    }
}

/// Sets a damaged segment aside under another name, where it blocks nothing.
///
/// # Errors
///
/// Those of the disk.
pub fn set_aside(journal: &Dir, name: &SegmentName) -> Result<(), JournalError> {
    optional(journal.rename(&name.file, journal, SegmentName::bad(&name.txn).file))?;
    Ok(journal.sync()?)
}

/// The chain behind the sound records of a segment. Behind damage the next record cannot be chained; an end record
/// is then recognised by itself.
fn replayed(bytes: &[u8], txn: &TxnId) -> Chain {
    let mut chain = Chain::new(txn);
    let mut rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
    while let Some(used) = chain.skip(rest) {
        rest = rest.get(used..).unwrap_or_default();
    }
    chain
}

fn own_header(txn: &TxnId) -> Header {
    // All of it is for people who read a segment; none of it decides, so what is missing is zero.
    let text = |path: &str| -> io::Result<String> { fs_err::read_to_string(path) };
    let boot = text("/proc/sys/kernel/random/boot_id").unwrap_or_default().replace('-', "");
    let mut boot_bytes = [0u8; 16];
    if let Ok(decoded) = data_encoding::HEXLOWER.decode(boot.trim().as_bytes())
        && decoded.len() == 16
    {
        boot_bytes.copy_from_slice(&decoded);
    }
    let stat = text("/proc/self/stat").unwrap_or_default();
    let start = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)).and_then(|n| n.parse().ok()).unwrap_or(0);
    let namespace = fs_err::read_link("/proc/self/ns/pid").unwrap_or_default();
    let inode = namespace.to_str().and_then(|t| t.split(['[', ']']).nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    Header { txn: txn.clone(), boot: boot_bytes, pid_namespace: inode, pid: std::process::id(), start }
}
