//! The times of members, by Go's rules.

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Timespec, Timestamps};
use rustix::io::Errno;

use super::ExtractError;
use super::error::member;
use super::path::{Cleaned, Whiteout, is_applied_root};
use super::resolve::open_in;
use crate::fsio::{self, Dir, File};
use crate::tarsplit::{self, Entry, EntryKind, Time};

/// The last time that Go's chtimes takes, `time.Unix(0, 1<<63-1)` in April 2262.
const LAST: Time = Time { secs: 9_223_372_036, nanos: 854_775_807 };
const NANOS: i64 = 1_000_000_000;

/// A time before 1970 or after [`LAST`] becomes 1970.
fn clamp(time: Time) -> Timespec {
    if time.secs < 0 || time > LAST {
        Timespec { tv_sec: 0, tv_nsec: 0 }
    } else {
        Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() }
    }
}

/// The times of links go through a count of nanoseconds that has 64 bits and wraps around.
fn wrap(time: Time) -> Timespec {
    let nanos = time.secs.wrapping_mul(NANOS).wrapping_add(time.nanos.into());
    Timespec { tv_sec: nanos.div_euclid(NANOS), tv_nsec: nanos.rem_euclid(NANOS) }
}

fn both(entry: &Entry, to_kernel: fn(Time) -> Timespec) -> Timestamps {
    // Go: an access time before the modification time is raised to it.
    let atime = entry.atime.unwrap_or(entry.mtime).max(entry.mtime);
    Timestamps { last_access: to_kernel(atime), last_modification: to_kernel(entry.mtime) }
}

/// What a member that is neither a symbolic link nor a directory gets.
pub(super) fn of_file(entry: &Entry) -> Timestamps {
    both(entry, clamp)
}

/// What a symbolic link gets.
pub(super) fn of_link(entry: &Entry) -> Timestamps {
    both(entry, wrap)
}

/// What a directory gets.
pub(super) fn of_dir(entry: &Entry) -> Timestamps {
    Timestamps { last_access: clamp(entry.atime.unwrap_or_default()), last_modification: clamp(entry.mtime) }
}

/// The times of directories, last: everything that was put into them has changed them. A second pass over the tar-split
/// and not a list, so that memory does not grow with the layer.
pub(super) fn set_directory_times(root: &Dir, split: &File) -> Result<(), ExtractError> {
    for entry in tarsplit::plain_headers(BufReader::with_capacity(64 << 10, split)) {
        let entry = entry?;
        if entry.kind != EntryKind::Dir {
            continue;
        }
        let Some(cleaned) = Cleaned::of(&entry.name) else { continue };
        if cleaned.0.is_empty() && !is_applied_root(&entry.name) {
            continue;
        }
        if Whiteout::parse(cleaned.0.last().map_or(OsStr::new(""), |name| OsStr::from_bytes(name))).is_some() {
            continue;
        }
        let Some(dir) = directory(root, cleaned).map_err(member(&entry))? else { continue };
        dir.set_times_self(&of_dir(&entry)).map_err(member(&entry))?;
    }
    Ok(())
}

/// The directory at a path, if there is one there now; its last component is not followed.
fn directory(root: &Dir, path: Cleaned) -> fsio::Result<Option<Dir>> {
    let Some((parent, name)) = path.split() else { return Ok(Some(root.clone())) };
    let gone = |error: &fsio::Error| error.not_found() || error.is(Errno::NOTDIR) || error.is(Errno::LOOP);
    match open_in(root, &parent).and_then(|dir| dir.dir(&name)) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_go_cannot_say_are_those_it_says_instead() {
        let time = |secs, nanos| Time { secs, nanos };
        let said = |t: Timespec| (t.tv_sec, t.tv_nsec);
        for (given, file, link) in [
            (time(5, 7), (5, 7), (5, 7)),
            (time(-2, 500_000_000), (0, 0), (-2, 500_000_000)),
            (LAST, (LAST.secs, 854_775_807), (LAST.secs, 854_775_807)),
            (time(LAST.secs, 854_775_808), (0, 0), (-9_223_372_037, 145_224_192)),
            (time(i64::MAX, 0), (0, 0), (-1, 0)),
        ] {
            assert_eq!((said(clamp(given)), said(wrap(given))), (file, link), "{given:?}");
        }
    }
}
