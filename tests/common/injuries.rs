//! A layer that has one of everything, and what can happen to it.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use cstor_rs::extract::DifferenceKind;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::tars::{dir, file, member, pax, tar};
use crate::{lab, skip};

pub const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip::skipped("needs root");
    }
    root
}

pub fn link(kind: u8, name: &str, to: &str) -> Vec<u8> {
    member(kind, name.as_bytes(), b"").link(to.as_bytes()).build()
}

/// One of everything that a layer can have, as most layers have it: each member as it ends up on disk.
pub fn everything() -> Vec<u8> {
    layer(b"0004711\0")
}

/// The same with a hard link whose header gives its file another mode: what is on disk takes all members to tell.
pub fn everything_overlaid() -> Vec<u8> {
    layer(b"0004755\0")
}

fn layer(mode_of_f: &[u8; 8]) -> Vec<u8> {
    let device = |kind, name: &[u8]| member(kind, name, b"").field(329, b"0000001\0").field(337, b"0000003\0").build();
    let at = |seconds: &[u8], rest: Vec<u8>| [pax(&[(b"mtime", seconds)]), rest].concat();
    let owned = |kind: u8, name: &str, mode: &[u8; 8]| {
        member(kind, name.as_bytes(), b"").field(100, mode).field(108, b"0001750\0").field(116, b"0000012\0").build()
    };
    tar(&[
        dir("./"),
        at(b"1500000000.123456789", owned(b'5', "d/", b"0001777\0")),
        member(b'0', b"d/f", b"hello").field(100, mode_of_f).build(),
        file("d/big", &(0..300_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()),
        member(b'1', b"d/hard", b"").link(b"d/f").field(100, b"0004711\0").build(),
        file("d/g", b"shared"),
        link(b'1', "linked", "d/g"),
        owned(b'5', "e/", b"0000700\0"),
        at(b"1400000000.5", file("empty", b"")),
        at(b"1234567890.25", member(b'2', b"sym", b"").link(b"d/f").field(108, b"0001750\0").build()),
        device(b'3', b"null"),
        device(b'4', b"disk"),
        owned(b'6', "fifo", b"0000620\0"),
        pax(&[(b"SCHILY.xattr.security.capability", CAPABILITY)]),
        file("ping", b"ping"),
        pax(&[(b"SCHILY.xattr.user.a", b"one"), (b"SCHILY.xattr.user.b", b"\0\xff")]),
        file("attributes", b"x"),
        dir("o/"),
        file("o/.wh..wh..opq", b""),
        file("d/.wh.gone", b""),
        file("u/v/unlisted", b"parents without entries"),
        file(".wh.top", b""),
    ])
}

pub fn stamps(at: (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: at.0, tv_nsec: at.1 };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the times of everything that is there before and after to what they were before.
pub fn keeping_times(root: &Path, injure: impl FnOnce(&Path)) {
    let before = lab::paths(root);
    injure(root);
    for (path, meta) in before.iter().rev() {
        if path.symlink_metadata().is_ok() {
            let times = stamps((meta.mtime(), meta.mtime_nsec()));
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
    }
}

pub fn chown(path: &Path, uid: u32, gid: u32) {
    rustix::fs::chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn mknod(path: &Path, kind: FileType, mode: u32, (major, minor): (u32, u32)) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), rustix::fs::makedev(major, minor)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn set_xattr(path: &Path, key: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()).unwrap();
}

/// A file of its own with the same bytes and attributes.
pub fn into_copy(path: &Path) {
    let (bytes, meta) = (fs::read(path).unwrap(), path.metadata().unwrap());
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    chown(path, meta.uid(), meta.gid());
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777)).unwrap();
}

pub type Injury = (&'static str, DifferenceKind, &'static str, fn(&Path));

pub fn injuries() -> Vec<Injury> {
    use DifferenceKind as K;
    vec![
        ("a byte flipped", K::Content, "d/big", |root| {
            let mut bytes = fs::read(root.join("d/big")).unwrap();
            bytes[299_999] ^= 1;
            fs::write(root.join("d/big"), bytes).unwrap();
        }),
        ("cut short", K::Size, "d/big", |root| fs::File::options().write(true).open(root.join("d/big")).unwrap().set_len(299_999).unwrap()),
        ("grown", K::Size, "ping", |root| {
            fs::File::options().write(true).open(root.join("ping")).unwrap().set_len(5).unwrap();
            set_xattr(&root.join("ping"), "security.capability", CAPABILITY);
        }),
        ("an empty file grown", K::Size, "empty", |root| fs::write(root.join("empty"), b"x").unwrap()),
        ("a file removed", K::FileMissing, "d/big", |root| fs::remove_file(root.join("d/big")).unwrap()),
        ("a directory in place of a file", K::FileMissing, "ping", |root| {
            fs::remove_file(root.join("ping")).unwrap();
            fs::create_dir(root.join("ping")).unwrap();
        }),
        ("a fifo in place of a file", K::FileMissing, "ping", |root| {
            fs::remove_file(root.join("ping")).unwrap();
            mknod(&root.join("ping"), FileType::Fifo, 0o644, (0, 0));
        }),
        ("a link to the same bytes in place of a file", K::FileMissing, "ping", |root| {
            fs::rename(root.join("ping"), root.parent().unwrap().join("away")).unwrap();
            symlink("../away", root.join("ping")).unwrap();
        }),
        ("mode", K::Mode, "d/big", |root| fs::set_permissions(root.join("d/big"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("mode of a directory", K::Mode, "e", |root| fs::set_permissions(root.join("e"), fs::Permissions::from_mode(0o755)).unwrap()),
        ("mode of a fifo", K::Mode, "fifo", |root| fs::set_permissions(root.join("fifo"), fs::Permissions::from_mode(0o666)).unwrap()),
        ("sticky lost", K::Mode, "d", |root| fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o777)).unwrap()),
        ("owner", K::Owner, "d/big", |root| chown(&root.join("d/big"), 7, 0)),
        ("group of a directory", K::Owner, "e", |root| chown(&root.join("e"), 1000, 11)),
        ("owner of a link", K::Owner, "sym", |root| chown(&root.join("sym"), 0, 0)),
        ("owner of a device", K::Owner, "null", |root| chown(&root.join("null"), 1, 0)),
        ("an attribute lost", K::Xattr, "attributes", |root| rustix::fs::removexattr(root.join("attributes"), "user.b").unwrap()),
        ("an attribute changed", K::Xattr, "attributes", |root| set_xattr(&root.join("attributes"), "user.a", b"two")),
        ("an attribute added", K::Xattr, "d/big", |root| set_xattr(&root.join("d/big"), "user.new", b"")),
        ("an attribute added to a directory", K::Xattr, "e", |root| set_xattr(&root.join("e"), "user.new", b"1")),
        ("an attribute added to a link", K::Xattr, "sym", |root| set_xattr(&root.join("sym"), "trusted.new", b"1")),
        ("a capability lost", K::Xattr, "ping", |root| rustix::fs::removexattr(root.join("ping"), "security.capability").unwrap()),
        ("a capability added", K::Xattr, "d/big", |root| set_xattr(&root.join("d/big"), "security.capability", CAPABILITY)),
        ("a link to somewhere else", K::LinkTarget, "sym", |root| {
            fs::remove_file(root.join("sym")).unwrap();
            symlink("d/g", root.join("sym")).unwrap();
            chown(&root.join("sym"), 1000, 0);
        }),
        ("a link removed", K::NameMissing, "sym", |root| fs::remove_file(root.join("sym")).unwrap()),
        ("a file in place of a link", K::Kind, "sym", |root| {
            fs::remove_file(root.join("sym")).unwrap();
            fs::write(root.join("sym"), b"").unwrap();
        }),
        ("a directory removed", K::NameMissing, "e", |root| fs::remove_dir(root.join("e")).unwrap()),
        ("a file in place of a directory", K::Kind, "e", |root| {
            fs::remove_dir(root.join("e")).unwrap();
            fs::write(root.join("e"), b"").unwrap();
        }),
        ("an empty file removed", K::NameMissing, "empty", |root| fs::remove_file(root.join("empty")).unwrap()),
        ("another device", K::Device, "null", |root| {
            fs::remove_file(root.join("null")).unwrap();
            mknod(&root.join("null"), FileType::CharacterDevice, 0o755, (1, 5));
        }),
        ("a device of another kind", K::Kind, "disk", |root| {
            fs::remove_file(root.join("disk")).unwrap();
            mknod(&root.join("disk"), FileType::CharacterDevice, 0o755, (1, 3));
        }),
        ("a device removed", K::NameMissing, "disk", |root| fs::remove_file(root.join("disk")).unwrap()),
        ("a fifo removed", K::NameMissing, "fifo", |root| fs::remove_file(root.join("fifo")).unwrap()),
        ("a hard link made a copy", K::HardLink, "linked", |root| into_copy(&root.join("linked"))),
        ("the target of a hard link made a copy", K::HardLink, "d/hard", |root| into_copy(&root.join("d/f"))),
        ("a hard link removed", K::NameMissing, "d/hard", |root| fs::remove_file(root.join("d/hard")).unwrap()),
        ("a name more", K::Extra, "d/new", |root| fs::write(root.join("d/new"), b"1").unwrap()),
        ("a directory more", K::Extra, "u/new", |root| fs::create_dir(root.join("u/new")).unwrap()),
        ("a whiteout more", K::Extra, "other", |root| mknod(&root.join("other"), FileType::CharacterDevice, 0, (0, 0))),
        ("a whiteout removed", K::NameMissing, "d/gone", |root| fs::remove_file(root.join("d/gone")).unwrap()),
        ("a file in place of a whiteout", K::Kind, "top", |root| {
            fs::remove_file(root.join("top")).unwrap();
            fs::write(root.join("top"), b"").unwrap();
        }),
        ("an opaque mark lost", K::NameMissing, "o", |root| rustix::fs::removexattr(root.join("o"), "trusted.overlay.opaque").unwrap()),
        ("an opaque mark more", K::Xattr, "e", |root| set_xattr(&root.join("e"), "trusted.overlay.opaque", b"y")),
    ]
}

/// Those of times: nothing is put back after them.
pub fn injuries_of_time() -> Vec<Injury> {
    use DifferenceKind as K;
    vec![
        ("time of a file", K::Mtime, "d/big", |root| touch(root, "d/big", (5, 0))),
        ("nanoseconds of a file lost", K::Mtime, "empty", |root| touch(root, "empty", (1_400_000_000, 0))),
        ("time of a directory", K::Mtime, "d", |root| touch(root, "d", (1_500_000_000, 123_456_788))),
        ("time of a link", K::Mtime, "sym", |root| touch(root, "sym", (1_234_567_890, 0))),
        ("time of a device", K::Mtime, "null", |root| touch(root, "null", (1, 0))),
    ]
}

pub fn touch(root: &Path, name: &str, at: (i64, i64)) {
    rustix::fs::utimensat(CWD, root.join(name), &stamps(at), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// All of them, and whether the times of the tree are put back after it.
pub fn all() -> Vec<(Injury, bool)> {
    let kept = injuries().into_iter().map(|injury| (injury, true));
    kept.chain(injuries_of_time().into_iter().map(|injury| (injury, false))).collect()
}
