//! Laws of examining a layer: each injury is found, at its path and as what it is, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/injuries.rs"]
mod injuries;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/skip.rs"]
mod skip;
mod tars;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cstor_rs::extract::{self, Difference, DifferenceKind, Examine, Examined};
use cstor_rs::ids::Digest;
use injuries::{CAPABILITY, all, chown, everything, everything_overlaid, is_root, keeping_times, set_xattr};
use lab::Lab;
use tars::{dir, file, tar};

fn looked(lab: &Lab, tar: &[u8], contents: bool, limit: usize) -> Examined {
    let stop = AtomicBool::new(false);
    let diff_id = Digest::of(tar);
    let how = Examine { diff_id: Some(&diff_id), contents, limit, progress: &|_, _| {}, stop: &stop };
    extract::examine(&lab.dir("diff"), &lab.split(), &how).unwrap().unwrap()
}

fn found(lab: &Lab, tar: &[u8], contents: bool) -> Vec<(DifferenceKind, String)> {
    let seen = looked(lab, tar, contents, 1000);
    assert_eq!(seen.more, 0);
    seen.differences.into_iter().map(|one| (one.kind, String::from_utf8(one.path).unwrap())).collect()
}

#[test]
fn each_injury_is_found_as_what_it_is_and_nothing_else_is() {
    if !is_root() {
        return;
    }
    let tars = [everything(), everything_overlaid()];
    for (tar, ((name, kind, path, injure), keep)) in tars.iter().flat_map(|tar| all().into_iter().map(move |injury| (tar, injury))) {
        let lab = Lab::with(tar);
        assert_eq!(found(&lab, tar, true), [], "{name}: before");
        if keep {
            keeping_times(&lab.path("diff"), injure);
        } else {
            injure(&lab.path("diff"));
        }
        let wanted = vec![(kind, path.to_owned())];
        assert_eq!(found(&lab, tar, true), wanted, "{name}");
        assert_eq!(found(&lab, tar, false), if kind == DifferenceKind::Content { vec![] } else { wanted }, "{name}: without contents");
        let whole = !kind.needs_bytes() || kind == DifferenceKind::Size && path == "empty";
        assert_eq!(looked(&lab, tar, true, 9).tar_digest.is_some(), whole, "{name}: the digest");
    }
}

#[test]
fn one_bad_file_does_not_hide_the_others() {
    if !is_root() {
        return;
    }
    use DifferenceKind as K;
    let tar = everything();
    let lab = Lab::with(&tar);
    keeping_times(&lab.path("diff"), |root| {
        fs::write(root.join("d/g"), b"SHARED").unwrap();
        fs::remove_file(root.join("d/big")).unwrap();
        fs::write(root.join("ping"), b"pong").unwrap();
        set_xattr(&root.join("ping"), "security.capability", CAPABILITY);
        chown(&root.join("sym"), 5, 5);
    });
    let mut seen = found(&lab, &tar, true);
    seen.sort();
    let wanted = [(K::Content, "d/g"), (K::Content, "ping"), (K::FileMissing, "d/big"), (K::Owner, "sym")];
    assert_eq!(seen, wanted.map(|(kind, path)| (kind, path.to_owned())));
    let first = looked(&lab, &tar, true, 1);
    assert_eq!((first.differences.len(), first.more), (1, 3));
}

#[test]
fn differences_say_what_was_expected_and_what_is_there() {
    if !is_root() {
        return;
    }
    let tar = everything();
    let lab = Lab::with(&tar);
    // The header of its second name sets the mode, too.
    fs::set_permissions(lab.path("diff/d/f"), fs::Permissions::from_mode(0o4755)).unwrap();
    let wanted = Difference { kind: DifferenceKind::Mode, path: b"d/hard".to_vec(), expected: "4711".to_owned(), seen: "4755".to_owned() };
    assert_eq!(looked(&lab, &tar, false, 9).differences, [wanted]);
}

#[test]
fn a_tar_split_that_is_not_of_the_layer_is_found() {
    if !is_root() {
        return;
    }
    let tar = everything();
    let lab = Lab::with(&tar);
    let whole = fs::read(lab.path("side/split")).unwrap();
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("no gzip", b"garbage".to_vec()),
        ("a byte flipped", {
            let mut bytes = whole.clone();
            bytes[whole.len() / 2] ^= 0x10;
            bytes
        }),
    ] {
        fs::write(lab.path("side/split"), bytes).unwrap();
        let seen = looked(&lab, &tar, true, 9);
        let kinds: Vec<_> = seen.differences.iter().map(|one| (one.kind, one.path.len())).collect();
        assert_eq!((kinds, seen.tar_digest), (vec![(DifferenceKind::SplitUnreadable, 0)], None), "{name}");
    }
    fs::write(lab.path("side/split"), whole).unwrap();
    let other = [tar.clone(), vec![0; 512]].concat();
    assert_eq!(found(&lab, &other, true), [(DifferenceKind::SplitDigest, String::new())]);
    assert_eq!(found(&lab, &other, false), []);
}

#[test]
fn what_is_sound_is_found_sound_and_counted() {
    let tar = tar(&[dir("d/"), file("d/a", b"12345"), file("d/b", b""), file("c", &[7; 600_000])]);
    let lab = Lab::with(&tar);
    let (stop, told) = (AtomicBool::new(false), AtomicU64::new(0));
    let progress = |bytes: u64, files: u64| told.store(bytes * 10 + files, Ordering::Relaxed);
    let how = Examine { diff_id: None, contents: true, limit: 9, progress: &progress, stop: &stop };
    let seen = extract::examine(&lab.dir("diff"), &lab.split(), &how).unwrap().unwrap();
    let wanted = Examined { differences: vec![], more: 0, files: 3, bytes: tar.len() as u64, tar_digest: Some(Digest::of(&tar)) };
    assert_eq!(seen, wanted);
    assert_eq!(told.load(Ordering::Relaxed), tar.len() as u64 * 10 + 3);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(extract::examine(&lab.dir("diff"), &lab.split(), &how).unwrap(), None);
}
