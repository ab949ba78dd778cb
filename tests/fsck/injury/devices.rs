//! Injuries of special files, and of what is there too much.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::Injury;
use super::target::{At, Result, at, quietly, remove};

const ROW: &str = "mode, owner, mtime, xattr, capability, symlink target or missing symlink, directory, device, fifo, hard link";
const EXTRA: &str = "extra file in diff";

pub const ALL: &[Injury] = &[
    special("device-missing", &["entry-missing"], |t| remove(&t.first(|_, meta| device(meta) && meta.rdev() != 0)?)),
    special("device-other", &["entry-device"], |t| {
        quietly(&t.first(|_, meta| device(meta) && meta.rdev() != 0)?, |path| {
            let meta = at(path, fs::symlink_metadata(path))?;
            at(path, fs::remove_file(path))?;
            node(path, if meta.file_type().is_block_device() { FileType::BlockDevice } else { FileType::CharacterDevice }, meta.mode())
        })
    }),
    special("fifo-missing", &["entry-missing"], |t| remove(&t.first(|_, meta| meta.file_type().is_fifo())?)),
    special("fifo-is-file", &["entry-type"], |t| {
        quietly(&t.first(|_, meta| meta.file_type().is_fifo())?, |path| {
            at(path, fs::remove_file(path))?;
            at(path, fs::write(path, ""))
        })
    }),
    special("whiteout-missing", &["entry-missing"], |t| remove(&t.first(|_, meta| device(meta) && meta.rdev() == 0)?)),
    extra("extra-file", |t| {
        let path = t.diff(At::Middle).join("more");
        quietly(&path, |path| at(path, fs::write(path, "nobody knows")))
    }),
    extra("extra-file-in-directory", |t| {
        let path = t.file()?.with_file_name("more");
        quietly(&path, |path| at(path, fs::write(path, "nobody knows")))
    }),
    extra("extra-directory", |t| {
        let path = t.diff(At::Middle).join("more");
        quietly(&path, |path| {
            at(path, fs::create_dir(path))?;
            at(path, fs::write(path.join("inside"), "nobody knows"))
        })
    }),
    extra("extra-symlink", |t| {
        let path = t.diff(At::Middle).join("more");
        quietly(&path, |path| at(path, symlink("/etc/passwd", path)))
    }),
    extra("extra-whiteout", |t| {
        let path = t.diff(At::Middle).join("more");
        quietly(&path, |path| at(path, mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).map_err(Into::into)))
    }),
];

const fn special(name: &'static str, codes: &'static [&'static str], hurt: super::Hurt) -> Injury {
    Injury::full(ROW, name, codes, hurt)
}

const fn extra(name: &'static str, hurt: super::Hurt) -> Injury {
    Injury::full(EXTRA, name, &["entry-extra"], hurt)
}

fn device(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() || meta.file_type().is_block_device()
}

/// Another device with the same permissions.
fn node(path: &Path, kind: FileType, mode: u32) -> Result<()> {
    at(path, mknodat(CWD, path, kind, Mode::from_raw_mode(mode & 0o7777), makedev(1, 9)).map_err(Into::into))?;
    at(path, fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777)))
}
