//! Compressed blobs of pulls that did not come to their end, in `cstor-rs/partial/`: the next pull reads what came whole,
//! and asks for the rest of what did not.
//!
//! Invariants:
//! - P1: the cache never fails a pull. Its errors are logged, the file is dropped and its space given back, and the
//!   download goes on without it.
//! - P2: nothing in it is trusted. What is read from it goes through the same digest as what comes from the network, so
//!   that nothing need be synced; what a power cut made of a file is found out by its digest.
//! - P3: a file is read, written and removed only under its own exclusive lock, which is never waited for.
//! - P4: only regular files of this user with mode 0600, one name, and a name of the cache's form are used; links are never
//!   followed, and what is not of this form is left alone.
//! - P5: it is bounded by [`Limits`]; whoever uses it makes the room, oldest first, before a byte is written.

mod blob;
mod entries;

pub use blob::{Partial, Tee};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::fsio::{self, Dir, File, Kind, optional};
use crate::ids::Digest;
use crate::layout::{Layout, OWN, PARTIAL, partial_name};
use entries::{Entry, list, of_this_user, remove};

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All files together in bytes; never more than half of what would be free without them. 0: nothing is kept.
    pub bytes: u64,
    /// A file that was not written to for so long is removed.
    pub age: Duration,
    /// So many bytes of a pull are kept in any case. More only while the network is what is waited for: where it is faster
    /// than the disk, what is written here is written instead of layers, and nobody would gain by it.
    pub regardless: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 8 << 30, age: Duration::from_secs(7 * 24 * 3600), regardless: 256 << 20 }
    }
}

/// What there is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of blobs, whole and cut.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What interrupted downloads take up.
///
/// # Errors
///
/// Those of the disk.
pub fn usage(layout: &Layout) -> fsio::Result<Usage> {
    let Some(dir) = layout.own(PARTIAL)? else { return Ok(Usage::default()) };
    Ok(sum(list(&dir)?.iter().filter(|entry| entry.kind == Kind::File)))
}

/// Removes all interrupted downloads but those in use, and says how much that was.
///
/// # Errors
///
/// Those of the disk.
pub fn clear(layout: &Layout) -> fsio::Result<Usage> {
    let Some(dir) = layout.own(PARTIAL)? else { return Ok(Usage::default()) };
    let mut gone = Vec::new();
    for entry in list(&dir)? {
        if remove(&dir, &entry)? {
            gone.push(entry);
        }
    }
    Ok(sum(gone.iter()))
}

fn sum<'a>(entries: impl Iterator<Item = &'a Entry>) -> Usage {
    entries.fold(Usage::default(), |all, one| Usage { blobs: all.blobs + 1, bytes: all.bytes.saturating_add(one.bytes) })
}

/// The cache as one pull uses it.
#[derive(Debug)]
pub struct Cache {
    dir: Dir,
    limit: u64,
    /// What is left of [`Limits::regardless`].
    regardless: AtomicU64,
    rooms: Mutex<Rooms>,
    off: AtomicBool,
}

/// Who has how much of the limit.
#[derive(Debug, Default)]
struct Rooms {
    /// This pull's blobs with their full sizes, whatever of them is there by now.
    own: HashMap<Digest, u64>,
    /// What was there before, oldest first.
    others: Vec<Entry>,
}

impl Cache {
    /// Opens the cache, making it if it is missing, and removes what is too old or too much. `None` where there can be none.
    pub fn open(layout: &Layout, limits: &Limits) -> Option<Self> {
        if limits.bytes == 0 {
            return None;
        }
        noted("open the cache of downloads", Self::try_open(layout, limits)).flatten()
    }

    fn try_open(layout: &Layout, limits: &Limits) -> fsio::Result<Option<Self>> {
        let Some(dir) = ensure(layout)? else { return Ok(None) };
        let now = SystemTime::now();
        let mut others = Vec::new();
        for entry in list(&dir)? {
            if entry.kind == Kind::Dir {
                continue;
            }
            // Removed or not, nothing else is ever done with it; a locked one still takes its room.
            let fit = entry.kind == Kind::File && entry.usable && !entry.is_old(now, limits.age);
            if fit || !removed(&dir, &entry) {
                others.push(entry);
            }
        }
        others.sort_by_key(|entry| entry.mtime);
        let free = dir.free_bytes()?;
        let limit = limits.bytes.min(free.saturating_add(sum(others.iter()).bytes) / 2);
        let rooms = Mutex::new(Rooms { own: HashMap::new(), others });
        let cache = Self { dir, limit, regardless: AtomicU64::new(limits.regardless), rooms, off: AtomicBool::new(false) };
        cache.make_room(&mut cache.rooms(), None, 0);
        Ok(Some(cache))
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Takes from what may be kept regardless; whether there was so much.
    fn take(&self, bytes: u64) -> bool {
        self.regardless.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    /// Removes the oldest of what was there before until there is room for one more blob of this size; nothing, if there
    /// can be none.
    fn make_room(&self, rooms: &mut Rooms, digest: Option<&Digest>, bytes: u64) -> bool {
        let own = rooms.own.iter().filter(|(other, _)| Some(*other) != digest).fold(bytes, |all, (_, size)| all.saturating_add(*size));
        if own > self.limit {
            return false;
        }
        // What is counted by its full size, or wanted, is not in its own way.
        let counts = |entry: &Entry| !rooms.own.contains_key(&entry.digest) && Some(&entry.digest) != digest;
        let mut all = own.saturating_add(sum(rooms.others.iter().filter(|entry| counts(entry))).bytes);
        let mut kept = Vec::with_capacity(rooms.others.len());
        for entry in std::mem::take(&mut rooms.others) {
            if all > self.limit && counts(&entry) && removed(&self.dir, &entry) {
                all -= entry.bytes;
            } else {
                kept.push(entry);
            }
        }
        rooms.others = kept;
        all <= self.limit
    }

    /// The file of a blob, locked: with what came of it before, or empty. `None` where somebody else has it, where there is
    /// no room, and where the disk will not have it: the blob is then fetched without.
    pub fn blob(&self, digest: &Digest, size: u64) -> Option<Partial<'_>> {
        if size == 0 || self.is_off() {
            return None;
        }
        let room = {
            let mut rooms = self.rooms();
            let room = self.make_room(&mut rooms, Some(digest), size);
            if room {
                rooms.own.insert(digest.clone(), size);
            }
            room
        };
        if !room {
            tracing::debug!(blob = %digest, size, limit = self.limit, "not kept: no room");
            return None;
        }
        let file = noted("open the file of a download", self.lock(&partial_name(digest), size)).flatten()?;
        Some(Partial::new(self, digest.clone(), size, file))
    }

    /// Opens and locks a file of at most this many bytes under this name, whatever is there.
    fn lock(&self, name: &str, size: u64) -> fsio::Result<Option<(Locked, u64)>> {
        // Again after something else was removed, or came; who does that for ever will not stop the pull.
        for _ in 0..3 {
            match self.dir.meta(name)?.map(|meta| meta.kind) {
                None | Some(Kind::File) => {}
                Some(Kind::Dir) => return Ok(None),
                Some(_) => self.dir.unlink(name)?,
            }
            let file = self.dir.file_or_create(name, 0o600)?;
            if !file.try_lock(true)? {
                return Ok(None);
            }
            let file = Locked(file);
            // Whoever had the lock before may have removed the file.
            let (_, inode) = file.0.links_and_inode()?;
            let Some(meta) = self.dir.meta(name)?.filter(|meta| meta.inode == inode) else { continue };
            if of_this_user(&meta) && meta.size <= size {
                return Ok(Some((file, meta.size)));
            }
            tracing::info!(name, bytes = meta.size, size, "a kept download is too long or not this user's, dropping it");
            self.dir.unlink(name)?;
        }
        Ok(None)
    }

    /// Removes the blobs of this pull: once all are staged, and before a sync of the filesystem would write them.
    pub fn discard(&self) {
        let own: Vec<Digest> = self.rooms().own.drain().map(|(digest, _)| digest).collect();
        for digest in own {
            let entry = noted("look at a download", entries::find(&self.dir, &digest)).flatten();
            if let Some(entry) = entry {
                removed(&self.dir, &entry);
            }
        }
    }

    /// Gives all space back and keeps nothing more: the disk is full. Whether it kept anything until now.
    pub fn give_up(&self) -> bool {
        if self.off.swap(true, Ordering::AcqRel) {
            return false;
        }
        for entry in noted("list the cache of downloads", list(&self.dir)).unwrap_or_default() {
            removed(&self.dir, &entry);
        }
        true
    }
}

/// Whether it is gone; one that cannot be removed is one that takes up room.
fn removed(dir: &Dir, entry: &Entry) -> bool {
    noted("remove a download", remove(dir, entry)) == Some(true)
}

/// The directory, made if missing: not synced, because what is lost of it is only fetched again.
fn ensure(layout: &Layout) -> fsio::Result<Option<Dir>> {
    // Synced where it is made here: whoever finds it there takes its name for durable.
    let own = layout.root.ensure_dir(OWN, 0o700)?;
    let dir = match optional(own.dir(PARTIAL))? {
        Some(dir) => dir,
        None => match own.mkdir(PARTIAL, 0o700) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => own.dir(PARTIAL)?,
            made => made?,
        },
    };
    let meta = dir.own_meta()?;
    let private = meta.uid == entries::user() && meta.mode & 0o022 == 0;
    Ok(private.then_some(dir))
}

/// P1: an error is no more than a line in the log.
fn noted<T>(what: &'static str, result: fsio::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "could not {what}; going on without");
            None
        }
    }
}

/// A file whose lock is ours. Dropping it releases.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Unlock, then close: after close alone a forked child still holds it.
        noted("unlock a download", self.0.unlock());
    }
}
