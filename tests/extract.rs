//! Laws of unpacking: what is accepted comes back exactly and is found sound, what is not is refused; no tar is dear.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/skip.rs"]
mod skip;
mod tars;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use cstor_rs::extract::{self, Depth, Difference, Examine, ExtractError, Extracted, Options};
use cstor_rs::fsio::{Dir, Seam};
use cstor_rs::ids::Digest;
use tars::{dir, file, member, pax, tar};

/// A place where one layer is unpacked.
struct Lab {
    temp: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for name in ["diff", "spill", "side"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        Self { temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn dir(&self, name: &str) -> Dir {
        Dir::open(&self.path(name), Seam::default()).unwrap()
    }

    fn unpack(&self, tar: &[u8]) -> Result<Extracted, ExtractError> {
        let cancelled = AtomicBool::new(false);
        let options = Options { blob_bytes: None, max_bytes: 1 << 40, cancelled: &cancelled, progress: &|_| {} };
        extract::layer(tar, &self.dir("diff"), &self.dir("spill"), &self.dir("side"), "split", &options)
    }

    fn verdict(&self, tar: &[u8], depth: Depth) -> Option<String> {
        extract::verify(&self.dir("diff"), &self.dir("side").file("split").unwrap(), &Digest::of(tar), depth, None).unwrap()
    }

    /// All that differs.
    fn found(&self, tar: &[u8]) -> Vec<Difference> {
        let (stop, diff_id) = (AtomicBool::new(false), Digest::of(tar));
        let how = Examine { diff_id: Some(&diff_id), contents: true, limit: 100, progress: &|_, _| {}, stop: &stop };
        let seen = extract::examine(&self.dir("diff"), &self.dir("side").file("split").unwrap(), &how).unwrap().unwrap();
        assert!(!seen.differences.is_empty() || seen.tar_digest == Some(diff_id));
        seen.differences
    }
}

/// Unpacks a tar that must be accepted, and has it proved by code that shares nothing with ours.
fn sound(name: &str, tar: &[u8]) -> Lab {
    let lab = Lab::new();
    let seen = lab.unpack(tar).unwrap_or_else(|error| panic!("{name}: {error}: {:?}", std::error::Error::source(&error)));
    assert_eq!(seen.diff_id, Digest::of(tar), "{name}");
    assert_eq!(oracle::reassembled(&lab.path("side/split"), &lab.path("diff")), Ok(Digest::of(tar).to_string()), "{name}");
    assert_eq!(lab.verdict(tar, Depth::Structure), None, "{name}: structure");
    assert_eq!(lab.verdict(tar, Depth::Contents), None, "{name}: contents");
    assert_eq!(lab.found(tar), [], "{name}: found");
    lab
}

fn refused(name: &str, tar: &[u8]) -> String {
    match Lab::new().unpack(tar) {
        Ok(_) => panic!("{name}: accepted"),
        Err(error) => error.to_string(),
    }
}

fn link(kind: u8, name: &str, to: &str) -> Vec<u8> {
    member(kind, name.as_bytes(), b"").link(to.as_bytes()).build()
}

/// What needs root: owners, devices, attributes of the kernel's.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip::skipped("needs root");
    }
    root
}

#[test]
fn a_tar_that_cannot_be_kept_exactly_is_refused() {
    let through = [dir("a/"), link(b'2', "s", "a"), file("s/f", b"hello")];
    let then = |more: Vec<u8>| tar(&[through.concat(), more]);
    for (name, tar) in [
        ("a directory in the place of the link", then(dir("s/"))),
        ("another link in its place", then([dir("b/"), link(b'2', "s", "b")].concat())),
        ("the link removed", then(file(".wh.s", b""))),
        ("an empty file in its place", then(file("s", b""))),
        (
            "the link behind a link",
            tar(&[dir("a/"), link(b'2', "t", "."), link(b'2', "t/s", "a"), file("s/f", b"hello"), link(b'2', "t/s", "b")]),
        ),
    ] {
        let error = refused(name, &tar);
        assert_eq!(
            error.split(": ").next(),
            Some("the layer names paths more than once in a way that its exact tar cannot be kept"),
            "{name}"
        );
    }
}

#[test]
fn bodies_without_a_file_go_into_the_tar_split() {
    for name in ["./", ".", "a/..", ""] {
        let tar = tar(&[member(b'0', name.as_bytes(), b"a body").build(), file("f", b"1")]);
        let lab = sound(&format!("{name:?}"), &tar);
        assert_eq!(oracle::listing(&lab.path("diff")).unwrap().len(), 2, "{name:?}");
    }
}

#[test]
fn replaced_and_removed_bodies_come_back_exactly() {
    for (name, parts) in [
        ("removed", vec![file("f", b"one"), file(".wh.f", b"")]),
        ("removed with its directory", vec![dir("d/"), dir("d/e/"), file("d/e/f", b"one"), file("d/g", b"two"), file(".wh.d", b"")]),
        ("a directory replaced by a file", vec![dir("d/"), file("d/f", b"one"), link(b'2', "d/l", "x"), dir("d/e/"), file("d", b"two")]),
        ("removed and made again", vec![dir("d/"), file("d/f", b"one"), link(b'2', "d/l", "x"), file(".wh.d", b""), dir("d/")]),
        ("a link replaced by a directory", vec![dir("a/"), link(b'2', "s", "a"), link(b'2', "s/l", "x"), dir("s/")]),
        ("a hard link replaced", vec![file("f", b"one"), link(b'1', "h", "f"), file("h", b"two")]),
        ("a hard link replaced by the same", vec![file("f", b"one"), link(b'1', "h", "f"), file("h", b"one"), file("h", b"two")]),
        ("a hard link removed", vec![file("f", b"one"), link(b'1', "h", "f"), file(".wh.h", b"")]),
        ("the first name of a hard link removed", vec![file("f", b"one"), link(b'1', "h", "f"), file(".wh.f", b"")]),
        ("both names removed", vec![file("f", b"one"), link(b'1', "h", "f"), file(".wh.f", b""), file(".wh.h", b"")]),
        ("three bodies of one name", vec![file("f", b"one"), file("f", b"two"), file("f", b"one")]),
        ("a whiteout with a body", vec![file(".wh.x", b"why?"), file("f", b"1")]),
        ("an opaque whiteout, then its directory", vec![file("d/.wh..wh..opq", b""), dir("d/"), file("d/f", b"1")]),
        ("an opaque directory replaced", vec![dir("d/"), file("d/.wh..wh..opq", b""), file(".wh.d", b""), dir("d/")]),
        ("a whiteout below a whiteout", vec![file(".wh.d", b""), file("d/.wh.x", b"")]),
        ("a whiteout, then a file", vec![file(".wh.f", b""), file("f", b"1")]),
    ] {
        if parts.concat().windows(4).any(|w| w == b".wh.") && !is_root() {
            continue;
        }
        sound(name, &tar(&parts));
    }
}

#[test]
fn more_replaced_bodies_than_fit_are_refused() {
    let parts: Vec<Vec<u8>> = (0..=65_536).map(|_| file("./", b"1")).collect();
    assert_eq!(
        refused("many", &tar(&parts)),
        "the layer replaces or removes more than 65536 of its own files; refused: build it without them"
    );
}

const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn with_capability(name: &str) -> Vec<u8> {
    [pax(&[(b"SCHILY.xattr.security.capability", CAPABILITY)]), file(name, b"1")].concat()
}

fn capability(lab: &Lab, name: &str) -> Option<Vec<u8>> {
    lab.dir("diff").xattr(name, b"security.capability").unwrap()
}

#[test]
fn a_hard_link_keeps_capabilities_and_their_loss_is_seen() {
    if !is_root() {
        return;
    }
    let tar1 = tar(&[with_capability("ping"), link(b'1', "ping6", "ping")]);
    let lab = sound("a hard link", &tar1);
    assert_eq!(capability(&lab, "ping").as_deref(), Some(CAPABILITY));
    rustix::fs::removexattr(lab.path("diff/ping6"), "security.capability").unwrap();
    assert_eq!(lab.verdict(&tar1, Depth::Contents).as_deref(), Some("ping lacks its attribute security.capability"));
    // The kernel drops them when the owner changes, so in Go's layer they are gone too.
    let other = member(b'1', b"ping6", b"").link(b"ping").field(108, b"0001750\0").build();
    let lab = sound("a hard link of another owner", &tar(&[with_capability("ping"), other]));
    assert_eq!(capability(&lab, "ping"), None);
}

#[test]
fn paths_that_no_call_takes_are_refused_at_once() {
    let long = pax(&[(b"path", "a/".repeat(500_000).as_bytes())]);
    let many: Vec<Vec<u8>> = (0..50).map(|_| [&long[..], &file("x", b"1")].concat()).collect();
    let error = refused("half a million components", &tar(&many));
    assert!(error.ends_with("is longer than the 4095 bytes that system calls take; build the layer with shorter paths"), "{error}");
    let target = [pax(&[(b"linkpath", "a/".repeat(500_000).as_bytes())]), link(b'1', "h", "x")].concat();
    let error = refused("a hard link", &tar(&[target]));
    assert!(error.ends_with("is longer than the 4095 bytes that system calls take; build the layer with shorter paths"), "{error}");
    sound("4094 bytes", &tar(&[pax(&[(b"path", "d/".repeat(2047).as_bytes())]), dir("x")]));
    sound("cleaned", &tar(&[pax(&[(b"path", "d/../".repeat(100_000).as_bytes()), (b"mtime", b"1")]), dir("x"), file("y", b"1")]));
}

#[test]
fn lost_whiteouts_are_seen() {
    if !is_root() {
        return;
    }
    let parts = [dir("d/"), file("d/.wh..wh..opq", b""), file("e/.wh.a", b""), file(".wh.b", b""), file(".wh..wh..opq", b"")];
    let tar = tar(&parts);
    let spoil = |spoil: &dyn Fn(&Lab)| {
        let lab = sound("whiteouts", &tar);
        spoil(&lab);
        lab.verdict(&tar, Depth::Contents)
    };
    let opaque = |lab: &Lab, at: &str| rustix::fs::removexattr(lab.path(at), "trusted.overlay.opaque").unwrap();
    let lost = |name: &str| Some(format!("{name}.wh..wh..opq is not on its directory: what lies below is not hidden"));
    assert_eq!(spoil(&|lab| opaque(lab, "diff/d")), lost("d/"));
    assert_eq!(spoil(&|lab| opaque(lab, "diff")), lost(""));
    assert_eq!(spoil(&|lab| fs::remove_file(lab.path("diff/.wh.b").with_file_name("b")).unwrap()), Some(".wh.b is not hidden".to_owned()));
    assert_eq!(spoil(&|lab| fs::remove_dir_all(lab.path("diff/e")).unwrap()), Some("e/.wh.a is not hidden".to_owned()));
    let file_instead = |lab: &Lab| {
        fs::remove_file(lab.path("diff/b")).unwrap();
        fs::write(lab.path("diff/b"), b"").unwrap();
    };
    assert_eq!(spoil(&file_instead), Some(".wh.b is not hidden".to_owned()));
}

#[test]
fn what_a_later_member_does_not_excuse_is_seen() {
    let tar1 = tar(&[file("d/f", b""), link(b'2', "d/l", "x"), dir("d/"), file("g", b"1"), file("g", b"2")]);
    for spoil in ["d/f", "d/l"] {
        let lab = sound("children first", &tar1);
        fs::remove_file(lab.path("diff").join(spoil)).unwrap();
        assert_eq!(lab.verdict(&tar1, Depth::Contents), Some(format!("{spoil} is missing")));
    }
    let lab = sound("children first", &tar1);
    fs::set_permissions(lab.path("diff/g"), std::os::unix::fs::PermissionsExt::from_mode(0o4711)).unwrap();
    assert_eq!(lab.verdict(&tar1, Depth::Contents).as_deref(), Some("g has mode 4711 instead of 0755"));
}

#[test]
fn owners_are_counted_as_go_counts_them() {
    let owned = |kind: u8, name: &str| member(kind, name.as_bytes(), b"").field(108, b"0000007\0").field(116, b"0000011\0").build();
    for (name, parts, want) in [
        ("a file", vec![owned(b'0', "f")], (vec![7], vec![9])),
        ("a global header", vec![tars::global("g", &[(b"comment", b"1")]), owned(b'0', "f")], (vec![0, 7], vec![0, 9])),
        ("a whiteout", vec![owned(b'0', ".wh.x")], (vec![], vec![])),
        ("a whiteout with slashes", vec![owned(b'5', ".wh.x//")], (vec![], vec![])),
    ] {
        if !is_root() {
            return;
        }
        let seen = Lab::new().unpack(&tar(&parts)).unwrap();
        assert_eq!((seen.uids, seen.gids), want, "{name}");
    }
}

/// Runs one test of this program again as root of a user namespace, where the kernel allows one.
fn in_user_namespace(test: &str) {
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("CSTOR_TEST_INSIDE", "1");
    match command.output() {
        Err(error) => skip::skipped(&format!("unshare does not run: {error}")),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            if said.starts_with("unshare:") {
                return skip::skipped(&said.to_string());
            }
            assert!(output.status.success() && said.contains("inside: done"), "{said}");
        }
    }
}

#[test]
fn root_of_a_user_namespace_is_no_root() {
    if std::env::var_os("CSTOR_TEST_INSIDE").is_none() {
        return in_user_namespace("root_of_a_user_namespace_is_no_root");
    }
    assert!(rustix::process::geteuid().is_root());
    let device = member(b'3', b"null", b"").field(329, b"0000001\0").field(337, b"0000003\0").build();
    let given = [pax(&[(b"SCHILY.xattr.trusted.a", b"1"), (b"SCHILY.xattr.user.overlay.redirect", b"/x")]), file("f", b"1")].concat();
    let tar = tar(&[dir("d/"), file("d/.wh..wh..opq", b""), device, given]);
    let lab = sound("in a user namespace", &tar);
    let xattr = |name: &str, key: &[u8]| lab.dir("diff").xattr(name, key).unwrap();
    assert_eq!(xattr("d", b"user.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr("f", b"user.overlay.redirect"), None);
    assert!(!lab.path("diff/null").exists());
    rustix::fs::removexattr(lab.path("diff/d"), "user.overlay.opaque").unwrap();
    let lost = "d/.wh..wh..opq is not on its directory: what lies below is not hidden";
    assert_eq!(lab.verdict(&tar, Depth::Contents).as_deref(), Some(lost));
    println!("inside: done");
}

#[test]
fn every_tar_that_is_accepted_is_found_sound() {
    if !is_root() {
        return;
    }
    let accepted = tars::cases().into_iter().filter(|case| case.refused.is_none());
    for case in accepted {
        sound(&case.name, &case.tar);
    }
}
