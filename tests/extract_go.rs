//! The same tars unpacked by skopeo and by us: the same verdict, the same tree, file by file and attribute by attribute.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/skip.rs"]
mod skip;
mod tars;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use cstor_rs::extract::{self, Examine};
use cstor_rs::fsio::{Dir, Seam};
use cstor_rs::ids::{Digest, LayerId};
use cstor_rs::tarsplit::{EntryKind, LayerReader, SplitWriter};
use serde_json::{Value, json};
use tars::{Go, cases, dir, file, member, pax, tar};

fn skip_reason() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers-storage needs root".to_owned());
    }
    match Command::new("skopeo").arg("--version").output() {
        Ok(output) if output.status.success() => None,
        other => Some(format!("skopeo does not run: {other:?}")),
    }
}

fn blob(layout: &Path, media: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({ "mediaType": media, "digest": digest, "size": bytes.len() })
}

/// An OCI layout with one image of these uncompressed layers.
fn write_layout(layout: &Path, tars: &[Vec<u8>]) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let config = json!({"architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": tars.iter().map(|tar| blob(layout, "application/vnd.oci.image.layer.v1.tar", tar)).collect::<Vec<_>>(),
    });
    let manifest = blob(layout, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
}

/// Each layer's tree and the owners in its record, or the error.
type Trees = Result<Vec<Vec<String>>, String>;

fn trees(root: &Path, tars: &[Vec<u8>]) -> Vec<Vec<String>> {
    let records: Vec<Value> = serde_json::from_slice(&fs::read(root.join("overlay-layers/layers.json")).unwrap()).unwrap();
    let mut parent: Option<LayerId> = None;
    let mut list = Vec::new();
    for tar in tars {
        let id = LayerId::chain(parent.as_ref(), &Digest::of(tar));
        let diff = root.join("overlay").join(id.as_str()).join("diff");
        let mut lines = oracle::exact_listing(&diff, &timed(tar)).unwrap();
        let record = records.iter().find(|record| record["id"] == id.as_str()).unwrap();
        lines.push(format!("uids {} gids {}", record["uidset"], record["gidset"]));
        list.push(lines);
        parent = Some(id);
    }
    list
}

/// The paths whose times a tar gives: all that it names but whiteouts, which are made now.
fn timed(tar: &[u8]) -> BTreeSet<PathBuf> {
    let mut reader = LayerReader::new(tar, SplitWriter::new(std::io::sink()));
    let mut names = BTreeSet::new();
    while let Some(entry) = reader.next().unwrap() {
        let mut path = PathBuf::new();
        for part in entry.name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
            match part {
                b".." => drop(path.pop()),
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        let whiteout = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh."));
        if !path.as_os_str().is_empty() && !whiteout && entry.kind != EntryKind::GlobalHeader {
            names.insert(path);
        }
    }
    names
}

fn by_go(dir: &Path, tars: &[Vec<u8>]) -> Trees {
    go_accepts(dir).map(|()| trees(&dir.join("go"), tars))
}

fn go_accepts(dir: &Path) -> Result<(), String> {
    let (root, run) = (dir.join("go"), dir.join("gorun"));
    let store = format!("containers-storage:[overlay@{}+{}]test:tar", root.display(), run.display());
    let source = format!("oci:{}", dir.join("layout").display());
    let output = Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", &source, &store]).output().unwrap();
    // The driver bind-mounts its directory on itself.
    match rustix::mount::unmount(root.join("overlay"), rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => panic!("unmount overlay: {error}"),
    }
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// How many layers of a store that Go wrote we take for damaged, and fetch again.
fn distrusted(dir: &Path) -> String {
    let output = pull(dir, "go");
    match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(said) => said["layers_fetched"].to_string(),
        Err(_) => String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn pull(dir: &Path, root: &str) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_cstor-rs"))
        .arg("--root")
        .arg(dir.join(root))
        .arg("--runroot")
        .arg(dir.join(format!("{root}run")))
        .args(["--log-level", "info", "pull", "--json", &format!("oci:{}", dir.join("layout").display())])
        .output()
        .unwrap()
}

/// What an examination of each layer of a store finds.
fn found(root: &Path, tars: &[Vec<u8>]) -> Vec<String> {
    let open = |path: &Path| Dir::open(path, Seam::default()).unwrap();
    let mut parent: Option<LayerId> = None;
    let mut list = Vec::new();
    for tar in tars {
        let diff_id = Digest::of(tar);
        let id = LayerId::chain(parent.as_ref(), &diff_id);
        let diff = open(&root.join("overlay").join(id.as_str()).join("diff"));
        let split = open(&root.join("overlay-layers")).file(format!("{id}.tar-split.gz")).unwrap();
        let stop = AtomicBool::new(false);
        for contents in [false, true] {
            let how = Examine { diff_id: Some(&diff_id), contents, limit: 100, progress: &|_, _| {}, stop: &stop };
            let seen = extract::examine(&diff, &split, &how).unwrap().unwrap();
            list.extend(seen.differences.into_iter().map(|one| format!("{one:?}")));
            assert!(!contents || !list.is_empty() || (seen.tar_digest, seen.bytes) == (Some(diff_id.clone()), tar.len() as u64));
        }
        parent = Some(id);
    }
    list
}

fn by_us(dir: &Path, tars: &[Vec<u8>]) -> Trees {
    we_accept(dir).map(|()| trees(&dir.join("ours"), tars))
}

fn we_accept(dir: &Path) -> Result<(), String> {
    let output = pull(dir, "ours");
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!text.contains("panicked"), "{text}");
    if output.status.success() { Ok(()) } else { Err(text) }
}

/// Trees that the tar-split table does not hold: what each entry does to the ones before it, and to the attributes.
fn more() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    // The kernel makes no link to nothing.
    let target = |kind: u8| if kind == b'2' { b"target".as_slice() } else { b"" };
    let with = |kind: u8, name: &str, mode: &[u8; 8], uid: &[u8; 8]| {
        member(kind, name.as_bytes(), b"").link(target(kind)).field(100, mode).field(108, uid).build()
    };
    let link = |kind: u8, name: &str, to: &str| member(kind, name.as_bytes(), b"").link(to.as_bytes()).build();
    let mode = |name: &str, mode: &[u8; 8]| member(b'0', name.as_bytes(), b"1").field(100, mode).build();
    let time =
        |name: &str, kind: u8, at: &[u8]| [pax(&[(b"mtime", at)]), member(kind, name.as_bytes(), b"").link(target(kind)).build()].concat();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        (
            "setuid, setgid, sticky, no rights at all",
            vec![tar(&[
                mode("s", b"0004755\0"),
                mode("g", b"0002755\0"),
                with(b'5', "t/", b"0001777\0", b"0000000\0"),
                mode("n", b"0000000\0"),
            ])],
        ),
        (
            "owners",
            vec![tar(&[
                with(b'5', "d/", b"0000750\0", b"0001750\0"),
                with(b'0', "d/f", b"0000640\0", b"0177777\0"),
                with(b'2', "l", b"0000777\0", b"0001750\0"),
            ])],
        ),
        ("setuid of another owner", vec![tar(&[with(b'0', "f", b"0006755\0", b"0001750\0")])]),
        ("parents that are not in the tar", vec![tar(&[file("a/b/c/f", b"1")])]),
        ("parents that come after their children", vec![tar(&[file("a/b/f", b"1"), with(b'5', "a/", b"0000700\0", b"0001750\0")])]),
        (
            "times of directories",
            vec![tar(&[time("d/", b'5', b"1000000000.5"), file("d/f", b"1"), time("d/e/", b'5', b"1100000000.25"), file("d/e/f", b"2")])],
        ),
        ("times of links", vec![tar(&[time("l", b'2', b"1234567890.123456789")])]),
        (
            "capabilities and other attributes",
            vec![tar(&[
                pax(&[(b"SCHILY.xattr.security.capability", capability), (b"SCHILY.xattr.user.hello", b"world")]),
                mode("f", b"0000755\0"),
                pax(&[(b"SCHILY.xattr.user.dir", b"\0\xff")]),
                dir("d/"),
            ])],
        ),
        ("a directory over a file", vec![tar(&[file("x", b"1"), dir("x/")])]),
        ("an empty file called the root", vec![tar(&[file("./", b""), file("f", b"1")])]),
        ("a body for the root", vec![tar(&[file("./", b"body"), file("f", b"1")])]),
        ("a hard link over a file", vec![tar(&[file("x", b"1"), file("y", b"2"), link(b'1', "y", "x")])]),
        ("a hard link to a link", vec![tar(&[link(b'2', "l", "nowhere"), link(b'1', "h", "l")])]),
        (
            "a hard link with another mode",
            vec![tar(&[mode("x", b"0000600\0"), member(b'1', b"y", b"").link(b"x").field(100, b"0004755\0").build()])],
        ),
        (
            "a hard link to a file with a capability",
            vec![tar(&[
                pax(&[(b"SCHILY.xattr.security.capability", capability)]),
                mode("ping", b"0000755\0"),
                link(b'1', "ping6", "ping"),
            ])],
        ),
        (
            "a hard link of another owner to a file with a capability",
            vec![tar(&[
                pax(&[(b"SCHILY.xattr.security.capability", capability)]),
                mode("ping", b"0000755\0"),
                member(b'1', b"ping6", b"").link(b"ping").field(108, b"0001750\0").build(),
            ])],
        ),
        ("a hard link to a link with another time", vec![tar(&[link(b'2', "l", "x"), pax(&[(b"mtime", b"77")]), link(b'1', "h", "l")])]),
        ("a hard link with another time", vec![tar(&[file("f", b"1"), pax(&[(b"mtime", b"77.5")]), link(b'1', "h", "f")])]),
        (
            "access times",
            vec![tar(&[
                pax(&[(b"atime", b"1700000000.25")]),
                file("later", b"1"),
                pax(&[(b"atime", b"5.5")]),
                file("earlier", b"1"),
                pax(&[(b"atime", b"1700000000.25")]),
                dir("d/"),
                pax(&[(b"atime", b"1700000000.25")]),
                link(b'2', "l", "x"),
            ])],
        ),
        (
            "times before 1970",
            vec![tar(&[time("f", b'0', b"-1.5"), time("d/", b'5', b"-1.5"), time("l", b'2', b"-1.5"), time("p", b'6', b"-7")])],
        ),
        (
            "the last time that Go knows",
            vec![tar(&[
                time("f", b'0', b"9223372036.854775807"),
                time("d/", b'5', b"9223372036.854775807"),
                time("l", b'2', b"9223372036"),
            ])],
        ),
        (
            "times after the last that Go knows",
            vec![tar(&[time("f", b'0', b"9223372037"), time("d/", b'5', b"9223372036.854775808"), time("l", b'2', b"9223372037.5")])],
        ),
        (
            "parents that are not in the tar, below a setgid directory",
            vec![tar(&[
                member(b'5', b"d/", b"").field(100, b"0002755\0").field(116, b"0000010\0").build(),
                file("d/e/f/g", b"1"),
                file("d/h/.wh.x", b""),
                dir("d/i/"),
                file("d/j", b"1"),
            ])],
        ),
        (
            "attributes of the root",
            vec![tar(&[pax(&[(b"SCHILY.xattr.user.root", b"yes")]), with(b'5', "/", b"0000711\0", b"0001750\0"), file("f", b"1")])],
        ),
        ("the root by a name that climbs", vec![tar(&[with(b'5', "..", b"0000711\0", b"0001750\0"), file("f", b"1")])]),
        ("the root by a name that climbs and a slash", vec![tar(&[with(b'5', "a/../../", b"0000711\0", b"0001750\0"), file("f", b"1")])]),
        ("the root by a name that comes back", vec![tar(&[with(b'5', "a/../", b"0000711\0", b"0001750\0"), file("f", b"1")])]),
        ("a file called as the directory above", vec![tar(&[file("f", b"1"), file("..", b"")])]),
        (
            "owners of a global header and of whiteouts",
            vec![tar(&[
                tars::global("g", &[(b"comment", b"1")]),
                with(b'0', "f", b"0000644\0", b"0001750\0"),
                with(b'0', ".wh.x", b"0000644\0", b"0001751\0"),
                with(b'5', ".wh.y//", b"0000755\0", b"0001752\0"),
            ])],
        ),
        (
            "attributes of links and devices",
            vec![tar(&[
                pax(&[(b"SCHILY.xattr.trusted.a", b"1")]),
                link(b'2', "l", "x"),
                pax(&[(b"SCHILY.xattr.trusted.a", b"2")]),
                member(b'6', b"fifo", b"").build(),
                pax(&[(b"SCHILY.xattr.trusted.a", b"3")]),
                file(".wh.w", b""),
            ])],
        ),
        ("attributes of an unknown namespace", vec![tar(&[pax(&[(b"SCHILY.xattr.other.a", b"1")]), file("f", b"1")])]),
        ("a hard link by an absolute name", vec![tar(&[file("x", b"1"), link(b'1', "y", "/x")])]),
        ("the root itself", vec![tar(&[with(b'5', "./", b"0000711\0", b"0001750\0"), file("f", b"1")])]),
        ("the root by its own name", vec![tar(&[with(b'5', "/", b"0000711\0", b"0001750\0"), file("f", b"1")])]),
        (
            "a child of a layer whose root has a mode",
            vec![tar(&[with(b'5', "/", b"0000711\0", b"0001750\0"), file("f", b"1")]), tar(&[file("g", b"2")]), tar(&[file("h", b"2")])],
        ),
        (
            "whiteouts of what is below",
            vec![
                tar(&[dir("d/"), file("d/a", b"1"), file("d/b", b"2"), dir("e/"), file("e/f", b"3"), file("g", b"4")]),
                tar(&[file("d/.wh.a", b""), file("e/.wh..wh..opq", b""), file("e/new", b"5"), file(".wh.g", b"")]),
            ],
        ),
        (
            "a whiteout in a directory that the layer does not name",
            vec![tar(&[dir("d/"), file("d/a", b"1")]), tar(&[file("d/.wh.a", b"")])],
        ),
        ("a whiteout of what is not there", vec![tar(&[file(".wh.nothing", b"")])]),
        ("an opaque root", vec![tar(&[file("a", b"1")]), tar(&[file(".wh..wh..opq", b""), file("b", b"2")])]),
        (
            "other .wh..wh. names",
            vec![tar(&[file(".wh..wh.plnk", b""), dir(".wh..wh.aufs/"), file(".wh..wh.aufs/x", b"1"), file("a", b"1")])],
        ),
        (
            "names with dots and slashes",
            vec![tar(&[file("./a", b"1"), file("b//c", b"2"), file("d/./e", b"3"), file("f/../g", b"4"), dir("h/./")])],
        ),
        (
            "a fifo and devices",
            vec![tar(&[
                member(b'6', b"fifo", b"").build(),
                member(b'3', b"null", b"").field(329, b"0000001\0").field(337, b"0000003\0").build(),
                member(b'4', b"disk", b"").field(329, b"0000010\0").field(337, b"0000400\0").build(),
            ])],
        ),
        ("a symlink as parent inside", vec![tar(&[dir("real/"), link(b'2', "way", "real"), file("way/f", b"1")])]),
        ("an absolute symlink as parent", vec![tar(&[dir("real/"), link(b'2', "way", "/real"), file("way/f", b"1")])]),
        ("a name of 255 bytes", vec![tar(&[pax(&[(b"path", &[b'n'; 255])]), file("x", b"1")])]),
        ("a name of 256 bytes", vec![tar(&[pax(&[(b"path", &[b'n'; 256])]), file("x", b"1")])]),
        ("a path of 3000 bytes", vec![tar(&[pax(&[(b"path", "d/".repeat(1500).as_bytes())]), member(b'5', b"x", b"").build()])]),
    ]
}

/// What both refuse.
const REFUSED: &[&str] = &["a name of 256 bytes", "a file called as the directory above"];

/// What Go writes so that not even Go can export it: we fetch it again.
const UNEXPORTABLE: &str = "a body for the root";

/// What Go does otherwise, and why we do not.
const DEVIATIONS: &[(&str, &str)] = &[
    (UNEXPORTABLE, "Go unpacks it and cannot export it; here it is exact, so that its files have been read once"),
    ("a directory over a file", "Go refuses every name that comes twice; here the tar-split is exact without the first"),
    ("a hard link over a file", "the same"),
    ("a child of a layer whose root has a mode", "storage 1.43 gives the child's root the mode of its parent's, newer ones its owner too"),
];

#[test]
fn our_trees_are_those_of_go() {
    if let Some(reason) = skip_reason() {
        skip::skipped(&reason.to_string());
        return;
    }
    let mut table: Vec<(String, Vec<Vec<u8>>)> = more().into_iter().map(|(name, tars)| (name.to_owned(), tars)).collect();
    // Those with another verdict are compared by tests/tarsplit_go.rs.
    let same = cases().into_iter().filter(|case| case.go == Go::Same && case.refused.is_none() && !case.name.starts_with("small tar cut"));
    table.extend(same.map(|case| (case.name, vec![case.tar])));
    let mut wrong = Vec::new();
    for (name, tars) in &table {
        let temp = tempfile::tempdir().unwrap();
        write_layout(&temp.path().join("layout"), tars);
        let (theirs, ours) = (by_go(temp.path(), tars), by_us(temp.path(), tars));
        let same = match (&theirs, &ours) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            (Err(_), Err(_)) => REFUSED.contains(&name.as_str()),
            _ => false,
        };
        for (who, root, done) in [("Go", "go", &theirs), ("we", "ours", &ours)] {
            let found = done.as_ref().map(|_| found(&temp.path().join(root), tars)).unwrap_or_default();
            if found.is_empty() == (name == UNEXPORTABLE && who == "Go") {
                wrong.push(format!("{name}: in what {who} wrote is found {found:#?}"));
            }
        }
        if theirs.is_ok() {
            let fetched = distrusted(temp.path());
            if (fetched != "0") != (name == UNEXPORTABLE) {
                wrong.push(format!("{name}: of what Go wrote we distrust {fetched}"));
            }
        }
        if same == DEVIATIONS.iter().any(|(known, _)| known == name) {
            wrong.push(format!("{name}:\n  Go:  {theirs:#?}\n  we:  {ours:#?}"));
        }
    }
    println!("{} tars", table.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_that_no_call_takes_are_refused_by_both() {
    if let Some(reason) = skip_reason() {
        skip::skipped(&reason.to_string());
        return;
    }
    // Go also refuses some that are shorter: it walks the layer by its path on the host.
    let path = [b'd', b'/'].repeat(2048);
    for (name, member) in [
        ("a directory", [pax(&[(b"path", &path)]), dir("x")].concat()),
        ("a hard link", [pax(&[(b"linkpath", &path)]), member(b'1', b"h", b"").build()].concat()),
    ] {
        let temp = tempfile::tempdir().unwrap();
        write_layout(&temp.path().join("layout"), &[tar(&[member])]);
        let (theirs, ours) = (go_accepts(temp.path()), we_accept(temp.path()));
        assert_eq!((theirs.is_ok(), ours.is_ok()), (false, false), "{name}: {theirs:?} {ours:?}");
    }
}
