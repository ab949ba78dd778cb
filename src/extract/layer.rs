//! One layer from its blob: the two sides of the pipe, and what came of them.

use std::collections::BTreeSet;
use std::io::{self, BufReader, BufWriter, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

use sha2::{Digest as _, Sha256};

use super::ExtractError;
use super::decompress::{self, Blob, Compression, Limits};
use super::spill::Spill;
use super::tree::Tree;
use crate::fsio::{Dir, File};
use crate::ids::Digest;
use crate::tarsplit::{self, Entry, LayerReader, SplitError, SplitWriter};

/// More members than this are refused; a million take some 20 MB to tell duplicates.
const MAX_MEMBERS: u64 = 10_000_000;

/// How to unpack a layer.
pub struct Options<'a> {
    /// The blob's declared length in bytes: a limit, and what must come.
    pub blob_bytes: Option<u64>,
    /// The most it may unpack to, in bytes.
    pub max_bytes: u64,
    /// Ends the work soon once true.
    pub cancelled: &'a AtomicBool,
    /// Told how many bytes of the blob have been read.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// What a layer turned out to be.
#[derive(Debug, Clone)]
pub struct Extracted {
    /// The digest of the blob.
    pub blob_digest: Digest,
    /// The blob's length in bytes.
    pub blob_size: u64,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The tar's length in bytes.
    pub diff_size: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// The owners of all members but whiteouts, sorted.
    pub uids: Vec<u32>,
    /// The groups of all members but whiteouts, sorted.
    pub gids: Vec<u32>,
    /// The number of members.
    pub members: u64,
    /// Whether the tar has an entry for the root itself, named `/`.
    pub root_entry: bool,
    /// The number of names in the tree, by what was made and removed.
    pub names: u64,
}

/// Unpacks a blob into `diff` and writes its tar-split as `split` in `side`. `spill` is an empty directory on the same
/// filesystem, the caller's to remove. Nothing is synced.
///
/// # Errors
///
/// [`ExtractError`]; what is on disk is then the caller's to remove.
pub fn layer(
    blob: impl Read + Send,
    diff: &Dir,
    spill: &Dir,
    side: &Dir,
    split: &str,
    options: &Options<'_>,
) -> Result<Extracted, ExtractError> {
    let (full, filled) = sync_channel(8);
    let (empties, empty) = channel();
    let limits =
        Limits { declared: options.blob_bytes, max_bytes: options.max_bytes, cancelled: options.cancelled, progress: options.progress };
    std::thread::scope(|scope| {
        // Owned by the thread: when it ends, the reading side sees the end of the stream.
        let source = scope.spawn(move || decompress::run(blob, &limits, &full, &empty));
        let unpacked = unpack(Tar::new(filled, empties), diff, spill, side, split, options);
        let source = source.join().unwrap_or_else(|_| Err(ExtractError::Inexact { why: "the decompressor failed".to_owned() }));
        match (source, unpacked) {
            // The pipe broke because this side stopped.
            (Err(ExtractError::Cancelled), Err(error)) => Err(error),
            // This side's error is the echo of that one.
            (Err(error), _) => Err(error),
            (Ok(_), Err(error)) => Err(error),
            (Ok(blob), Ok(unpacked)) => Ok(unpacked.with(blob)),
        }
    })
}

/// What the unpacking side knows.
struct Unpacked {
    diff_id: Digest,
    diff_size: u64,
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
    members: u64,
    root_entry: bool,
    names: u64,
}

impl Unpacked {
    fn with(self, blob: Blob) -> Extracted {
        Extracted {
            blob_digest: blob.digest,
            blob_size: blob.bytes,
            diff_id: self.diff_id,
            diff_size: self.diff_size,
            compression: blob.compression,
            uids: self.uids.into_iter().collect(),
            gids: self.gids.into_iter().collect(),
            members: self.members,
            root_entry: self.root_entry,
            names: self.names,
        }
    }
}

fn unpack(mut tar: Tar, diff: &Dir, spill: &Dir, side: &Dir, split: &str, options: &Options<'_>) -> Result<Unpacked, ExtractError> {
    let out = BufWriter::with_capacity(64 << 10, side.create(split, 0o600)?);
    let mut tree = Tree::new(diff.clone(), Spill::new(spill.clone()));
    let (mut uids, mut gids) = (BTreeSet::new(), BTreeSet::new());
    let mut members = 0;
    let mut reader = LayerReader::new(&mut tar, SplitWriter::new(out));
    while let Some(entry) = reader.next().map_err(ExtractError::Tar)? {
        if options.cancelled.load(Ordering::Acquire) {
            return Err(ExtractError::Cancelled);
        }
        members += 1;
        if members > MAX_MEMBERS {
            return Err(ExtractError::TooMany { limit: MAX_MEMBERS });
        }
        if counts_owner(&entry) {
            uids.insert(entry.uid);
            gids.insert(entry.gid);
        }
        tree.apply(&entry, &mut reader)?;
    }
    let (_, out, totals) = reader.finish().map_err(ExtractError::Tar)?;
    let flushed = |error: io::IntoInnerError<BufWriter<File>>| ExtractError::Source(error.into_error());
    drop(out.into_inner().map_err(flushed)?);
    let (diff_id, diff_size) = tar.done();
    let (root_entry, names, mut spill) = tree.finish();
    let must_rewrite = totals.must_rewrite || !spill.is_empty();
    if must_rewrite {
        rewrite(side, split, &totals.repeated, &mut spill)?;
    }
    // Also where a link went whose target has the bodies of names that lead through it.
    if must_rewrite || spill.removed() {
        prove(diff, side, split, &diff_id)?;
    }
    super::times::set_directory_times(diff, &side.file(split)?)?;
    Ok(Unpacked { diff_id, diff_size, uids, gids, members, root_entry, names })
}

/// Go's uidset and gidset: every header whose base name does not begin with `.wh.`; a global header counts as 0:0.
fn counts_owner(entry: &Entry) -> bool {
    let end = entry.name.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let base = entry.name.get(..end).unwrap_or_default().rsplit(|b| *b == b'/').next().unwrap_or_default();
    !base.starts_with(b".wh.")
}

/// Puts bodies that are no longer on disk into the tar-split itself.
fn rewrite(side: &Dir, split: &str, repeated: &tarsplit::Repeated, spill: &mut Spill) -> Result<(), ExtractError> {
    let temp = format!("{split}.rewrite");
    let out = BufWriter::new(side.create(&temp, 0o600)?);
    let old = side.file(split)?;
    let out = tarsplit::rewrite(BufReader::new(&old), out, repeated, |_, wanted| spill.earlier(wanted)).map_err(inexact)?;
    drop(out.into_inner().map_err(|error| ExtractError::Source(error.into_error()))?);
    Ok(side.rename(&temp, side, split)?)
}

/// Reassembles the tar: names that reach one file by two ways cannot be told apart by their text.
fn prove(diff: &Dir, side: &Dir, split: &str, diff_id: &Digest) -> Result<(), ExtractError> {
    let seen = super::verify::digest_of(diff, &side.file(split)?).map_err(inexact)?;
    if seen != *diff_id {
        return Err(ExtractError::Inexact { why: format!("it would reassemble to {seen}") });
    }
    Ok(())
}

/// A body that is not where the tar-split has it is the layer's fault; all else is the disk's.
fn inexact(error: SplitError) -> ExtractError {
    match super::verify::verdict(error) {
        Ok(Ok(why)) => ExtractError::Inexact { why },
        Ok(Err(error)) => ExtractError::Split(error),
        Err(error) => ExtractError::Disk(error),
    }
}

/// The uncompressed tar as the decompressing thread sends it, hashed on the way.
struct Tar {
    filled: Receiver<Vec<u8>>,
    empties: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    hash: Sha256,
    bytes: u64,
}

impl Tar {
    fn new(filled: Receiver<Vec<u8>>, empties: Sender<Vec<u8>>) -> Self {
        Self { filled, empties, buffer: Vec::new(), at: 0, hash: Sha256::new(), bytes: 0 }
    }

    fn done(self) -> (Digest, u64) {
        (Digest::from_hash(&self.hash.finalize()), self.bytes)
    }
}

impl Read for Tar {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.buffer.len() {
            let Ok(next) = self.filled.recv() else { return Ok(0) };
            self.hash.update(&next);
            self.bytes += next.len() as u64;
            // Nobody to take it back means the other side is done.
            drop(self.empties.send(std::mem::replace(&mut self.buffer, next)));
            self.at = 0;
        }
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let take = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..take), rest.get(..take)) {
            to.copy_from_slice(from);
        }
        self.at += take;
        Ok(take)
    }
}
