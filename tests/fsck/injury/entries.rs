//! Injuries of attributes, links and directories: all that the tar's headers say.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use rustix::fs::{Timestamps, XattrFlags, lremovexattr, lsetxattr};

use super::target::{At, Result, at, has_xattr, quietly, relink, remove, remove_all, set_times, times, user_xattr};
use super::{Fetch, Injury};

const ROW: &str = "mode, owner, mtime, xattr, capability, symlink target or missing symlink, directory, device, fifo, hard link";

pub const ALL: &[Injury] = &[
    entry("mode", &["entry-mode"], |t| mode(&t.file()?, |mode| mode ^ 0o044)),
    entry("mode-of-directory", &["entry-mode"], |t| {
        mode(&t.first(|_, meta| meta.is_dir() && meta.mode() & 0o1000 == 0)?, |mode| mode ^ 0o055)
    }),
    entry("setuid-lost", &["entry-mode"], |t| mode(&t.first(|_, m| m.is_file() && m.mode() & 0o4000 != 0)?, |mode| mode & 0o777)),
    entry("sticky-lost", &["entry-mode"], |t| mode(&t.first(|_, m| m.is_dir() && m.mode() & 0o1000 != 0)?, |mode| mode & 0o777)),
    entry("owner", &["entry-owner"], |t| owner(&t.file()?)),
    entry("owner-of-symlink", &["entry-owner"], |t| owner(&t.first(|_, meta| meta.is_symlink())?)),
    entry("mtime", &["entry-mtime"], |t| later(&t.file()?, 3600, 0)),
    entry("mtime-nanoseconds", &["entry-mtime"], |t| later(&t.first(|_, m| m.is_file() && m.mtime_nsec() != 0)?, 0, 1)),
    entry("mtime-of-symlink", &["entry-mtime"], |t| later(&t.first(|_, meta| meta.is_symlink())?, 3600, 0)),
    entry("mtime-of-directory", &["entry-mtime"], |t| later(&t.first(|p, m| m.is_dir() && empty_dir(p))?, 3600, 0)),
    entry("xattr-lost", &["entry-xattr"], |t| {
        let file = t.first(|path, meta| meta.is_file() && user_xattr(path).is_some())?;
        let name = user_xattr(&file).ok_or("no attribute")?;
        at(&file, lremovexattr(&file, name.as_str()).map_err(Into::into))
    }),
    entry("xattr-changed", &["entry-xattr"], |t| {
        let file = t.first(|path, meta| meta.is_file() && user_xattr(path).is_some())?;
        let name = user_xattr(&file).ok_or("no attribute")?;
        at(&file, lsetxattr(&file, name.as_str(), b"another value", XattrFlags::REPLACE).map_err(Into::into))
    }),
    entry("xattr-more", &["entry-xattr"], |t| {
        let file = t.file()?;
        at(&file, lsetxattr(&file, "user.more", b"1", XattrFlags::CREATE).map_err(Into::into))
    }),
    entry("capability-lost", &["entry-xattr"], |t| {
        let file = t.first(|path, meta| meta.is_file() && has_xattr(path, "security.capability"))?;
        at(&file, lremovexattr(&file, "security.capability").map_err(Into::into))
    }),
    entry("opaque-lost", &["entry-xattr"], |t| {
        let dir = t.first(|path, meta| meta.is_dir() && has_xattr(path, "trusted.overlay.opaque"))?;
        at(&dir, lremovexattr(&dir, "trusted.overlay.opaque").map_err(Into::into))
    }),
    entry("symlink-target", &["symlink-target"], |t| relink(&t.first(|_, meta| meta.is_symlink())?, "somewhere/else")),
    entry("symlink-missing", &["entry-missing"], |t| remove(&t.first(|_, meta| meta.is_symlink())?)),
    entry("symlink-is-file", &["entry-type"], |t| {
        quietly(&t.first(|_, meta| meta.is_symlink())?, |path| {
            at(path, fs::remove_file(path))?;
            at(path, fs::write(path, "x"))
        })
    }),
    entry("directory-missing", &["entry-missing"], |t| remove_all(&t.first(|path, meta| meta.is_dir() && empty_dir(path))?)),
    entry("directory-with-links-missing", &["entry-missing"], |t| {
        remove_all(&t.first(|path, meta| meta.is_dir() && !empty_dir(path) && only_links(path))?)
    }),
    entry("directory-with-files-missing", &["entry-missing", "file-missing"], |t| {
        let file = t.file()?;
        remove_all(file.parent().ok_or("no parent")?)
    })
    .refetch(Fetch::Layer(At::Middle)),
    entry("file-is-directory", &["entry-type"], |t| {
        quietly(&t.file()?, |path| {
            at(path, fs::remove_file(path))?;
            at(path, fs::create_dir(path))
        })
    })
    .refetch(Fetch::Layer(At::Middle)),
    entry("empty-file-missing", &["entry-missing"], |t| remove(&t.first(|_, meta| meta.is_file() && meta.len() == 0)?)),
    entry("hard-link-broken", &["hardlink-broken"], |t| {
        let names = t.hard_links()?;
        let last = names.last().ok_or("no name")?;
        let meta = at(last, fs::metadata(last))?;
        quietly(last, |path| {
            let bytes = at(path, fs::read(path))?;
            at(path, fs::remove_file(path))?;
            at(path, fs::write(path, bytes))?;
            at(path, lchown(path, Some(meta.uid()), Some(meta.gid())))?;
            at(path, fs::set_permissions(path, Permissions::from_mode(meta.mode() & 0o7777)))
        })
    }),
    entry("hard-link-missing", &["entry-missing"], |t| remove(t.hard_links()?.last().ok_or("no name")?)),
    // Its bytes are still there, under the other name.
    entry("hard-linked-file-missing", &["file-missing"], |t| remove(t.hard_links()?.first().ok_or("no name")?)),
];

const fn entry(name: &'static str, codes: &'static [&'static str], hurt: super::Hurt) -> Injury {
    Injury::full(ROW, name, codes, hurt)
}

fn mode(path: &Path, change: impl FnOnce(u32) -> u32) -> Result<()> {
    let now = at(path, fs::symlink_metadata(path))?.mode() & 0o7777;
    at(path, fs::set_permissions(path, Permissions::from_mode(change(now))))
}

fn owner(path: &Path) -> Result<()> {
    at(path, lchown(path, Some(4242), Some(4242)))
}

fn later(path: &Path, seconds: i64, nanos: i64) -> Result<()> {
    let Timestamps { last_access, mut last_modification } = times(&at(path, fs::symlink_metadata(path))?);
    last_modification.tv_sec += seconds;
    last_modification.tv_nsec += nanos;
    set_times(path, &Timestamps { last_access, last_modification })
}

fn empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut names| names.next().is_none())
}

fn only_links(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut names| names.all(|name| name.is_ok_and(|name| name.file_type().is_ok_and(|kind| kind.is_symlink()))))
}
