//! Laws of mending a layer in place: what needs no bytes is as it was, wherever the work is cut short; nothing else changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/injuries.rs"]
mod injuries;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/skip.rs"]
mod skip;
mod tars;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cstor_rs::extract::{self, Difference, DifferenceKind, Examine, Mended};
use cstor_rs::fsio::{Hook, NoHook, Op};
use injuries::{Injury, all, chown, everything, is_root, keeping_times, set_xattr};
use lab::Lab;
use rustix::fs::{AtFlags, CWD};
use tars::{dir, file, member, pax, tar};

fn found(lab: &Lab) -> Vec<Difference> {
    let stop = AtomicBool::new(false);
    let how = Examine { diff_id: None, contents: true, limit: 1000, progress: &|_, _| {}, stop: &stop };
    extract::examine(&lab.dir("diff"), &lab.split(), &how).unwrap().unwrap().differences
}

fn mend(lab: &Lab, remove: &[&str]) -> Mended {
    let remove: Vec<Vec<u8>> = remove.iter().map(|path| path.as_bytes().to_vec()).collect();
    extract::mend_attributes(&lab.dir("diff"), &lab.split(), &remove).unwrap()
}

/// What a tree is, name by name: attributes in words, and the inode's number.
fn snapshot(root: &Path, without_times: &[&str]) -> BTreeMap<PathBuf, (String, u64)> {
    let said = |path: &Path, meta: &fs::Metadata| {
        let name = path.strip_prefix(root).unwrap();
        let mut list = [0u8; 4096];
        let len = rustix::fs::llistxattr(path, &mut list).unwrap();
        let mut xattrs = Vec::new();
        for key in list[..len].split(|b| *b == 0).filter(|key| !key.is_empty()) {
            let mut value = [0u8; 4096];
            let len = rustix::fs::lgetxattr(path, key, &mut value).unwrap();
            xattrs.push(format!("{}={}", key.escape_ascii(), value[..len].escape_ascii()));
        }
        xattrs.sort();
        // Nothing says when a whiteout was made.
        let is_whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let is_timed = !is_whiteout && !without_times.contains(&name.to_str().unwrap());
        let time = is_timed.then(|| (meta.mtime(), meta.mtime_nsec()));
        let body = if meta.is_file() { fs::read(path).unwrap() } else { Vec::new() };
        let target = if meta.is_symlink() { fs::read_link(path).unwrap() } else { PathBuf::new() };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let inode = (meta.mode(), meta.uid(), meta.gid(), meta.rdev(), links);
        (name.to_owned(), (format!("{inode:?} {time:?} {xattrs:?} {target:?} {} bytes {:?}", body.len(), body.get(..9)), meta.ino()))
    };
    lab::paths(root).iter().map(|(path, meta)| said(path, meta)).collect()
}

/// Without the inodes of what was made anew.
fn compared(mut tree: BTreeMap<PathBuf, (String, u64)>, made: &[&str]) -> BTreeMap<PathBuf, (String, u64)> {
    for name in made {
        if let Some((_, inode)) = tree.get_mut(Path::new(name)) {
            *inode = 0;
        }
    }
    tree
}

fn needs_no_bytes() -> Vec<(Injury, bool)> {
    all().into_iter().filter(|((_, kind, ..), _)| !kind.needs_bytes()).collect()
}

fn injure(lab: &Lab, injury: fn(&Path), keep: bool) {
    if keep { keeping_times(&lab.path("diff"), injury) } else { injury(&lab.path("diff")) }
}

/// Which inodes may be new: the injured one, or those of all names that it shares.
fn new_inodes(kind: DifferenceKind, path: &str) -> Vec<&str> {
    use DifferenceKind as K;
    match (kind, path) {
        (K::HardLink, _) | (K::NameMissing, "d/hard") => vec!["d/f", "d/hard", "linked", "d/g"],
        (K::NameMissing, "o") => vec![],
        (K::NameMissing | K::Kind | K::LinkTarget | K::Device, path) => vec![path],
        _ => vec![],
    }
}

#[test]
fn each_injury_that_needs_no_bytes_is_undone() {
    if !is_root() {
        return;
    }
    for ((name, kind, path, injury), keep) in needs_no_bytes() {
        let lab = Lab::with(&everything());
        let made = new_inodes(kind, path);
        let before = compared(snapshot(&lab.path("diff"), &[]), &made);
        injure(&lab, injury, keep);
        assert_ne!(found(&lab), [], "{name}: not injured");
        let remove: &[&str] = if kind == DifferenceKind::Extra { &[path] } else { &[] };
        let Mended::Done { changed } = mend(&lab, remove) else { panic!("{name}: refused") };
        assert!(changed > 0, "{name}");
        assert_eq!(found(&lab), [], "{name}");
        assert_eq!(compared(snapshot(&lab.path("diff"), &[]), &made), before, "{name}");
        assert_eq!(mend(&lab, remove), Mended::Done { changed: 0 }, "{name}: again");
    }
}

/// Fails the change of this number, and all after it.
struct Stop {
    at: usize,
    seen: AtomicUsize,
}

impl Hook for Stop {
    fn before(&self, _: &Op<'_>) -> io::Result<()> {
        if self.seen.fetch_add(1, Ordering::SeqCst) >= self.at { Err(io::Error::other("stopped")) } else { Ok(()) }
    }
}

#[test]
fn m1_mending_that_is_cut_short_is_finished_by_the_next() {
    if !is_root() {
        return;
    }
    // Nothing says what the times of these were: every writer leaves them at the time of its work.
    let untimed = ["", "u", "u/v"];
    for ((name, kind, path, injury), keep) in needs_no_bytes() {
        let made = new_inodes(kind, path);
        let remove: Vec<Vec<u8>> = if kind == DifferenceKind::Extra { vec![path.as_bytes().to_vec()] } else { vec![] };
        let mut stops = 0;
        loop {
            let lab = Lab::with(&everything());
            let before = compared(snapshot(&lab.path("diff"), &untimed), &made);
            injure(&lab, injury, keep);
            let hook = Arc::new(Stop { at: stops, seen: AtomicUsize::new(0) });
            let cut = extract::mend_attributes(&lab.dir_with("diff", hook), &lab.split(), &remove);
            let done = extract::mend_attributes(&lab.dir_with("diff", Arc::new(NoHook)), &lab.split(), &remove).unwrap();
            assert!(matches!(done, Mended::Done { .. }), "{name}, stopped at {stops}: {done:?}");
            assert_eq!(found(&lab), [], "{name}, stopped at {stops}");
            assert_eq!(compared(snapshot(&lab.path("diff"), &untimed), &made), before, "{name}, stopped at {stops}");
            if cut.is_ok() {
                break;
            }
            stops += 1;
        }
        assert!(stops > 1, "{name}: {stops} stops");
    }
}

/// Writes down which paths still wait for a sync.
#[derive(Default)]
struct Unsynced(Mutex<BTreeSet<PathBuf>>);

impl Hook for Unsynced {
    fn before(&self, _: &Op<'_>) -> io::Result<()> {
        Ok(())
    }

    fn done(&self, op: &Op<'_>) {
        let mut waiting = self.0.lock().unwrap();
        let parent = |at: &cstor_rs::fsio::At<'_>| at.dir.to_owned();
        match op {
            Op::Chmod(at, _) | Op::Chown(at, ..) | Op::Times(at) | Op::SetXattr(at, ..) | Op::RemoveXattr(at, _) => {
                waiting.insert(at.path());
            }
            Op::Mkdir(at, _) | Op::Create(at, _) | Op::Symlink(at, _) | Op::Mknod(at, ..) | Op::Link(_, at) => {
                waiting.extend([parent(at), at.path()]);
            }
            Op::Unlink(at) | Op::Rmdir(at) => {
                waiting.insert(parent(at));
                waiting.remove(&at.path());
            }
            Op::Rename(from, to) | Op::Exchange(from, to) => {
                waiting.insert(parent(to));
                if waiting.remove(&from.path()) {
                    waiting.insert(to.path());
                }
            }
            Op::SyncFile(at) | Op::SyncDir(at) => {
                waiting.remove(&at.path());
            }
            Op::SyncFs(_) => waiting.clear(),
            other => panic!("{other:?} changes more than mending may"),
        }
    }
}

#[test]
fn m4_all_that_was_touched_is_synced_before_the_end() {
    if !is_root() {
        return;
    }
    for ((name, kind, path, injury), keep) in needs_no_bytes() {
        let lab = Lab::with(&everything());
        injure(&lab, injury, keep);
        let remove: Vec<Vec<u8>> = if kind == DifferenceKind::Extra { vec![path.as_bytes().to_vec()] } else { vec![] };
        let hook = Arc::new(Unsynced::default());
        extract::mend_attributes(&lab.dir_with("diff", hook.clone()), &lab.split(), &remove).unwrap();
        assert_eq!(*hook.0.lock().unwrap(), BTreeSet::new(), "{name}");
    }
}

#[test]
fn m2_an_inode_with_a_name_elsewhere_is_left_alone() {
    if !is_root() {
        return;
    }
    type Case = (&'static str, &'static str, fn(&Path));
    let cases: [Case; 3] = [
        ("a file", "d/big", |root| {
            fs::hard_link(root.join("d/big"), root.join("../elsewhere")).unwrap();
            fs::set_permissions(root.join("d/big"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("one of two names", "d/f", |root| {
            fs::hard_link(root.join("d/hard"), root.join("../elsewhere")).unwrap();
            chown(&root.join("d/f"), 7, 7);
        }),
        ("a link", "sym", |root| {
            rustix::fs::linkat(CWD, root.join("sym"), CWD, root.join("../elsewhere"), AtFlags::empty()).unwrap();
            chown(&root.join("sym"), 7, 7);
        }),
    ];
    for (name, path, injury) in cases {
        let lab = Lab::with(&everything());
        injure(&lab, injury, true);
        let before = snapshot(&lab.path("diff"), &[]);
        let Mended::Refused { path: seen, why } = mend(&lab, &[]) else { panic!("{name}: done") };
        // Either name of the inode.
        let names = if path == "d/f" { vec!["d/f", "d/hard"] } else { vec![path] };
        assert!(names.iter().any(|name| name.as_bytes() == seen), "{name}: {}", seen.escape_ascii());
        assert_eq!(why, "it has names that are not of this layer", "{name}");
        assert_eq!(snapshot(&lab.path("diff"), &[]), before, "{name}");
    }
}

#[test]
fn names_that_the_tar_does_not_give_stay_unless_they_are_listed() {
    if !is_root() {
        return;
    }
    let lab = Lab::with(&everything());
    keeping_times(&lab.path("diff"), |root| {
        fs::create_dir(root.join("e/new")).unwrap();
        fs::write(root.join("e/new/file"), b"matters").unwrap();
        symlink("e/new", root.join("way")).unwrap();
        chown(&root.join("d"), 0, 0);
    });
    assert!(matches!(mend(&lab, &[]), Mended::Done { .. }));
    let kinds: Vec<_> = found(&lab).into_iter().map(|one| (one.kind, String::from_utf8(one.path).unwrap())).collect();
    let extra = |path: &str| (DifferenceKind::Extra, path.to_owned());
    assert_eq!(kinds.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([extra("e/new"), extra("e/new/file"), extra("way")]));
    // Not through a link, and nothing that the tar gives.
    assert!(extract::mend_attributes(&lab.dir("diff"), &lab.split(), &[b"way/file".to_vec()]).is_err());
    assert!(matches!(mend(&lab, &["d/big", "empty"]), Mended::Done { .. }));
    assert_eq!(found(&lab).len(), 3);
    assert!(matches!(mend(&lab, &["e/new", "e/new/file", "way", "never/was"]), Mended::Done { .. }));
    assert_eq!(found(&lab), []);
}

#[test]
fn what_holds_something_is_replaced_only_if_it_is_listed() {
    if !is_root() {
        return;
    }
    type Case = (&'static str, &'static str, fn(&Path));
    let cases: [Case; 4] = [
        ("bytes in place of a link", "sym", |root| {
            fs::remove_file(root.join("sym")).unwrap();
            fs::write(root.join("sym"), b"matters").unwrap();
        }),
        ("other bytes in place of a hard link", "linked", |root| {
            fs::remove_file(root.join("linked")).unwrap();
            fs::write(root.join("linked"), b"sharED").unwrap();
        }),
        ("bytes in place of a directory", "e", |root| {
            fs::remove_dir(root.join("e")).unwrap();
            fs::write(root.join("e"), b"matters").unwrap();
        }),
        ("bytes in place of a whiteout", "top", |root| {
            fs::remove_file(root.join("top")).unwrap();
            fs::write(root.join("top"), b"matters").unwrap();
        }),
    ];
    for (name, path, injury) in cases {
        let lab = Lab::with(&everything());
        let before = compared(snapshot(&lab.path("diff"), &[]), &[path]);
        injure(&lab, injury, true);
        let why = "something that may matter has its name".to_owned();
        assert_eq!(mend(&lab, &[]), Mended::Refused { path: path.as_bytes().to_vec(), why }, "{name}");
        assert!(matches!(mend(&lab, &[path]), Mended::Done { .. }), "{name}");
        assert_eq!(compared(snapshot(&lab.path("diff"), &[]), &[path]), before, "{name}");
    }
}

#[test]
fn what_needs_bytes_is_left_to_others() {
    if !is_root() {
        return;
    }
    for ((name, kind, path, injury), keep) in all().into_iter().filter(|((_, kind, ..), _)| kind.needs_bytes()) {
        let lab = Lab::with(&everything());
        injure(&lab, injury, keep);
        let before = snapshot(&lab.path("diff"), &[]);
        assert_eq!(mend(&lab, &[]), Mended::Done { changed: 0 }, "{name}");
        assert_eq!(snapshot(&lab.path("diff"), &[]), before, "{name}");
        assert_eq!(found(&lab).into_iter().map(|one| (one.kind, one.path)).collect::<Vec<_>>(), [(kind, path.into())], "{name}");
    }
}

#[test]
fn directories_that_only_paths_name_are_made_again() {
    if !is_root() {
        return;
    }
    let deep = [pax(&[(b"mtime", b"5.25")]), member(b'2', b"a/b/l", b"").link(b"x").build()].concat();
    let tar = tar(&[deep, dir("d/"), member(b'1', b"d/h", b"").link(b"a/b/l").build(), file("a/.wh.w", b""), file("f", b"1")]);
    let lab = Lab::with(&tar);
    let before = snapshot(&lab.path("diff"), &["", "a", "a/b"]);
    keeping_times(&lab.path("diff"), |root| {
        fs::remove_dir_all(root.join("a")).unwrap();
        set_xattr(&root.join("f"), "user.x", b"1");
    });
    assert!(matches!(mend(&lab, &[]), Mended::Done { .. }));
    assert_eq!(found(&lab), []);
    let made = ["a", "a/b", "a/b/l", "a/w", "d/h"];
    assert_eq!(compared(snapshot(&lab.path("diff"), &["", "a", "a/b"]), &made), compared(before, &made));
}

#[test]
fn a_tar_split_that_cannot_be_read_is_refused() {
    let lab = Lab::with(&tar(&[file("f", b"1")]));
    fs::write(lab.path("side/split"), b"").unwrap();
    assert!(matches!(mend(&lab, &[]), Mended::Refused { path, .. } if path.is_empty()));
}

#[test]
fn whiteouts_as_fuse_overlayfs_keeps_them_are_sound() {
    if !is_root() {
        return;
    }
    let lab = Lab::with(&everything());
    keeping_times(&lab.path("diff"), |root| {
        for (device, file) in [("d/gone", "d/.wh.gone"), ("top", ".wh.top")] {
            fs::remove_file(root.join(device)).unwrap();
            fs::write(root.join(file), b"").unwrap();
        }
        rustix::fs::removexattr(root.join("o"), "trusted.overlay.opaque").unwrap();
        fs::write(root.join("o/.wh..wh..opq"), b"").unwrap();
    });
    assert_eq!(found(&lab), []);
    let before = snapshot(&lab.path("diff"), &[]);
    assert_eq!(mend(&lab, &[]), Mended::Done { changed: 0 });
    // The same where something else is to be mended.
    chown(&lab.path("diff/sym"), 7, 7);
    assert_eq!(found(&lab).len(), 1);
    assert_eq!(mend(&lab, &[]), Mended::Done { changed: 1 });
    assert_eq!(snapshot(&lab.path("diff"), &[]), before);
}
