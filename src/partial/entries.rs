//! What lies in the cache's directory, and how it goes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::Locked;
use crate::fsio::{Dir, Kind, Meta, Result, optional};
use crate::ids::Digest;
use crate::layout::{parse_partial, partial_name};

/// A clock that was set back is no reason to remove a file, one that was wrong by more than this is.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// One thing under a name of the cache's form.
#[derive(Debug)]
pub(super) struct Entry {
    pub digest: Digest,
    pub kind: Kind,
    pub bytes: u64,
    /// Whether it is a file that this user alone may have written.
    pub usable: bool,
    /// Seconds and nanoseconds of the last write.
    pub mtime: (i64, u32),
}

impl Entry {
    fn of(digest: Digest, meta: &Meta) -> Self {
        let bytes = if meta.kind == Kind::File { meta.size } else { 0 };
        Self { digest, kind: meta.kind, bytes, usable: of_this_user(meta), mtime: meta.mtime }
    }

    /// Whether it was last written longer ago than this; a time far in the future would never come of age.
    pub fn is_old(&self, now: SystemTime, age: Duration) -> bool {
        let (seconds, nanos) = self.mtime;
        let since = Duration::new(seconds.unsigned_abs(), nanos);
        let written = if seconds >= 0 { UNIX_EPOCH.checked_add(since) } else { UNIX_EPOCH.checked_sub(since) };
        let Some(written) = written else { return true };
        match now.duration_since(written) {
            Ok(passed) => passed > age,
            Err(ahead) => ahead.duration() > SKEW,
        }
    }
}

pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether nobody but this user can have written it, and it has no second name.
pub(super) fn of_this_user(meta: &Meta) -> bool {
    meta.kind == Kind::File && meta.uid == user() && meta.mode == 0o600 && meta.links == 1
}

/// What has a name of the cache's form, by name.
pub(super) fn list(dir: &Dir) -> Result<Vec<Entry>> {
    // A handle's position is shared: another thread may be reading the same directory.
    let names = dir.again()?.names()?;
    let digests = names.iter().filter_map(|name| parse_partial(name.to_str()?));
    let mut found = Vec::new();
    for digest in digests {
        found.extend(find(dir, &digest)?);
    }
    Ok(found)
}

/// What has the name of this blob.
pub(super) fn find(dir: &Dir, digest: &Digest) -> Result<Option<Entry>> {
    Ok(dir.meta(partial_name(digest))?.map(|meta| Entry::of(digest.clone(), &meta)))
}

/// Removes it unless it is locked, or a directory; whether it is gone.
pub(super) fn remove(dir: &Dir, entry: &Entry) -> Result<bool> {
    let name = partial_name(&entry.digest);
    match entry.kind {
        Kind::Dir => return Ok(false),
        Kind::File => {}
        _ => return dir.unlink(&name).map(|()| true),
    }
    let _lock = match optional(dir.file_rw(&name)) {
        Ok(Some(file)) => {
            if !file.try_lock(true)? {
                return Ok(false);
            }
            let file = Locked(file);
            let (_, inode) = file.0.links_and_inode()?;
            // Whoever had the lock before may have removed the file, and another may have one of its own here by now.
            if dir.meta(&name)?.is_some_and(|meta| meta.inode != inode) {
                return Ok(false);
            }
            Some(file)
        }
        Ok(None) => return Ok(true),
        // Whoever may not write to it has no lock on it either.
        Err(error) if error.is(Errno::ACCESS) => None,
        Err(error) => return Err(error),
    };
    optional(dir.unlink(&name)).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_told_from_the_last_write() {
        let day = Duration::from_secs(24 * 3600);
        let now = UNIX_EPOCH + 100 * day;
        for (written, old) in [(99 * 86_400, false), (93 * 86_400, false), (93 * 86_400 - 1, true), (-5, true), (i64::MIN, true)] {
            let entry = Entry { digest: Digest::of(b""), kind: Kind::File, bytes: 0, usable: true, mtime: (written, 0) };
            assert_eq!(entry.is_old(now, 7 * day), old, "{written}");
        }
        for (ahead, old) in [(86_400, false), (86_401, true), (i64::MAX - 101 * 86_400, true)] {
            let entry = Entry { digest: Digest::of(b""), kind: Kind::File, bytes: 0, usable: true, mtime: (100 * 86_400 + ahead, 0) };
            assert_eq!(entry.is_old(now, 7 * day), old, "{ahead} ahead");
        }
    }
}
