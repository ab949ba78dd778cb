//! Stores that somebody made to hurt: fsck ends, follows nothing, and writes nowhere but in the store.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::command::fsck;
use crate::injury::{At, Target};
use crate::matrix::REMAINS;
use crate::oracle::data_file;
use crate::place::Place;
use crate::snapshot::exactly;

/// What is done to a store; the directory is outside of it.
type Attack = fn(&Target, &Path);

/// One trap.
pub struct Trap {
    pub name: &'static str,
    attack: Attack,
}

const fn trap(name: &'static str, attack: Attack) -> Trap {
    Trap { name, attack }
}

/// What is no damage to a store: fsck's own notes, and what only podman reads.
const SOUND: &[&str] = &[
    "seal-is-link",
    "seal-huge",
    "state-is-link",
    "stage-is-link",
    "tempdirs-is-link",
    "image-name-climbs",
    "seal",
    "containers-lock",
    "storage-lock",
    "history",
    "clean-point",
    "reserve",
    "state",
    "database",
];
/// Where nobody can know.
const UNCHECKED: &[&str] = &["journal-is-link", "mount-program"];

pub const ALL: &[Trap] = &[
    trap("layer-directory-is-link", |t, outside| replace(&t.dir(At::Middle), &outside.join("layer"))),
    trap("links-directory-is-link", |t, outside| replace(&t.root.join("overlay/l"), &outside.join("layer"))),
    trap("diff-is-link", |t, outside| replace(&t.diff(At::Middle), &outside.join("layer"))),
    trap("diff-is-relative-link", |t, _| replace(&t.diff(At::Middle), Path::new("../../../../outside/layer"))),
    trap("directory-in-diff-is-link", |t, outside| replace(&t.diff(At::Middle).join("data"), &outside.join("layer"))),
    trap("link-is-link", |t, outside| replace(&t.dir(At::Middle).join("link"), &outside.join("file"))),
    trap("lower-is-link", |t, outside| replace(&t.dir(At::Top).join("lower"), &outside.join("file"))),
    trap("lower-layers-is-link", |t, outside| replace(&t.dir(At::Top).join("lower-layers"), &outside.join("file"))),
    trap("seal-is-link", |t, outside| replace(&t.dir(At::Middle).join("cstor-rs.seal"), &outside.join("file"))),
    trap("split-is-link", |t, outside| replace(&t.split(At::Middle), &outside.join("file"))),
    trap("layers-table-is-link", |t, outside| replace(&t.layers_json(), &outside.join("table"))),
    trap("images-table-is-link", |t, outside| replace(&t.images_json(), &outside.join("table"))),
    trap("manifest-is-link", |t, outside| replace(&document(t, "manifest"), &outside.join("file"))),
    trap("image-directory-is-link", |t, outside| replace(&t.root.join("overlay-images").join(&t.image), &outside.join("layer"))),
    trap("lock-is-link", |t, outside| replace(&t.root.join("overlay-layers/layers.lock"), &outside.join("file"))),
    trap("lost-found-is-link", |t, outside| {
        replace(&t.root.join("cstor-rs/lost+found"), &outside.join("layer"));
        fs::write(t.diff(At::Middle).join("more"), "x").unwrap();
    }),
    trap("history-is-link", |t, outside| {
        replace(&t.root.join("cstor-rs/history"), &outside.join("file"));
        fs::write(t.images_json(), "").unwrap();
    }),
    trap("state-is-link", |t, outside| {
        replace(&t.root.join("cstor-rs/fsck-state"), &outside.join("file"));
        replace(&t.root.join("cstor-rs/clean"), &outside.join("file"));
    }),
    trap("stage-is-link", |t, outside| replace(&t.root.join("cstor-rs/stage"), &outside.join("layer"))),
    trap("journal-is-link", |t, outside| replace(&t.root.join("cstor-rs/journal"), &outside.join("layer"))),
    trap("tempdirs-is-link", |t, outside| replace(&t.root.join("overlay/tempdirs"), &outside.join("layer"))),
    trap("orphan-layer-is-link", |t, outside| replace(&t.root.join("overlay").join("e".repeat(64)), &outside.join("layer"))),
    trap("orphan-image-is-link", |t, outside| replace(&t.root.join("overlay-images").join("e".repeat(64)), &outside.join("layer"))),
    trap("layer-id-climbs", |t, _| layer(t, |record| record["id"] = json!("../../../outside/layer"))),
    trap("layer-id-is-absolute", |t, outside| {
        let path = outside.join("layer").display().to_string();
        layer(t, |record| record["id"] = json!(path));
    }),
    trap("layer-id-is-empty", |t, _| layer(t, |record| record["id"] = json!(""))),
    trap("layer-id-is-l", |t, _| layer(t, |record| record["id"] = json!("l"))),
    trap("layer-id-is-number", |t, _| layer(t, |record| record["id"] = json!(7))),
    trap("layer-parent-climbs", |t, _| layer(t, |record| record["parent"] = json!("../../../outside/layer"))),
    trap("layer-is-its-own-parent", |t, _| {
        let id = t.layer(At::Middle).to_owned();
        layer(t, |record| record["parent"] = json!(id));
    }),
    trap("layers-in-a-circle", |t, _| {
        let top = t.layer(At::Top).to_owned();
        change(&t.layers_json(), t.layer(At::Base), |record| record["parent"] = json!(top));
    }),
    trap("layer-twice", |t, _| {
        Target::records(&t.layers_json(), |records| {
            records.extend(records.clone());
            Ok(())
        })
        .unwrap();
    }),
    trap("image-id-climbs", |t, _| image(t, |record| record["id"] = json!("../../outside/layer"))),
    trap("image-layer-climbs", |t, _| image(t, |record| record["layer"] = json!("../../../outside/layer"))),
    trap("image-key-climbs", |t, _| image(t, |record| record["big-data-names"] = json!(["../../../outside/file", "manifest"]))),
    trap("image-name-climbs", |t, _| image(t, |record| record["names"] = json!(["../../outside", "", "a b\n"]))),
    trap("digest-climbs", |t, _| {
        layer(t, |record| record["diff-digest"] = json!("sha256:../../../outside"));
        fs::remove_file(t.split(At::Middle)).unwrap();
    }),
    trap("sizes-that-are-none", |t, _| layer(t, |record| record["diff-size"] = json!(-9_223_372_036_854_775_808_i64))),
    trap("link-climbs", |t, _| fs::write(t.dir(At::Middle).join("link"), "../../../outside/layer/xxx").unwrap()),
    trap("lower-climbs", |t, _| fs::write(t.dir(At::Top).join("lower"), "l/../../../outside/layer").unwrap()),
    trap("lower-without-end", |t, _| fs::write(t.dir(At::Top).join("lower"), "l/A2B3C4D5E6F7A2B3C4D5E6F7A2:".repeat(200_000)).unwrap()),
    trap("entry-climbs", |t, _| replace(&t.entry(At::Middle).unwrap(), Path::new("../../../outside/layer"))),
    trap("many-entries", |t, _| {
        for n in 0..2_000 {
            let link: String = format!("{n:026}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
            symlink(format!("../{}/diff", "d".repeat(64)), t.root.join("overlay/l").join(link)).unwrap();
        }
    }),
    trap("layers-table-nested", |t, _| nested(&t.layers_json())),
    trap("images-table-nested", |t, _| nested(&t.images_json())),
    trap("layers-table-huge", |t, _| huge(&t.layers_json())),
    trap("images-table-huge", |t, _| huge(&t.images_json())),
    trap("manifest-huge", |t, _| huge(&document(t, "manifest"))),
    trap("config-nested", |t, _| nested(&document(t, &format!("sha256:{}", t.image)))),
    trap("link-huge", |t, _| huge(&t.dir(At::Middle).join("link"))),
    trap("seal-huge", |t, _| huge(&t.dir(At::Middle).join("cstor-rs.seal"))),
    trap("history-huge", |t, _| {
        huge(&t.root.join("cstor-rs/history"));
        fs::write(t.images_json(), "").unwrap();
    }),
    trap("split-is-bomb", |t, _| bomb(&t.split(At::Middle), 1 << 30)),
    trap("split-names-climb", |t, _| split_of(&t.split(At::Middle), "../../../../../outside/file")),
    trap("split-names-are-absolute", |t, outside| split_of(&t.split(At::Middle), &outside.join("file").display().to_string())),
    trap("segment-huge", |t, _| huge(&t.root.join("cstor-rs/journal/0123456789abcdef0123456789abcdef.wal"))),
    trap("deep-directories", |t, _| {
        let mut path = t.diff(At::Middle);
        // As deep as a path that is named at once can be.
        while path.as_os_str().len() < 3900 {
            path.push("d".repeat(60));
            fs::create_dir(&path).unwrap();
        }
    }),
];

/// Where a file is.
pub type Find = fn(&Target) -> PathBuf;

/// Every file that fsck reads, each with a fifo in its place.
/// What is replaced, and where it lies.
type Stand = (&'static str, fn(&Target) -> PathBuf);

pub const FIFOS: &[Stand] = &[
    ("link", |t| t.dir(At::Middle).join("link")),
    ("lower", |t| t.dir(At::Top).join("lower")),
    ("lower-layers", |t| t.dir(At::Top).join("lower-layers")),
    ("seal", |t| t.dir(At::Middle).join("cstor-rs.seal")),
    ("layer-directory", |t| t.dir(At::Middle)),
    ("diff", |t| t.diff(At::Middle)),
    ("file", |t| t.diff(At::Middle).join("data/blob")),
    ("directory-in-diff", |t| t.diff(At::Middle).join("data")),
    ("links-entry", |t| t.entry(At::Middle).unwrap()),
    ("links-directory", |t| t.root.join("overlay/l")),
    ("split", |t| t.split(At::Middle)),
    ("layers-table", Target::layers_json),
    ("images-table", Target::images_json),
    ("containers-table", |t| t.root.join("overlay-containers/containers.json")),
    ("volatile-layers-table", |t| t.root.join("overlay-layers/volatile-layers.json")),
    ("mount-program", |t| t.root.join("overlay/.has-mount-program")),
    ("layers-lock", |t| t.root.join("overlay-layers/layers.lock")),
    ("images-lock", |t| t.root.join("overlay-images/images.lock")),
    ("containers-lock", |t| t.root.join("overlay-containers/containers.lock")),
    ("storage-lock", |t| t.root.join("storage.lock")),
    ("image-directory", |t| t.root.join("overlay-images").join(&t.image)),
    ("manifest", |t| document(t, "manifest")),
    ("config", |t| document(t, &format!("sha256:{}", t.image))),
    ("history", |t| t.root.join("cstor-rs/history")),
    ("segment", |t| t.root.join("cstor-rs/journal/0123456789abcdef0123456789abcdef.wal")),
    ("clean-point", |t| t.root.join("cstor-rs/clean")),
    ("state", |t| t.root.join("cstor-rs/fsck-state")),
    ("reserve", |t| t.root.join("cstor-rs/reserve")),
    ("tempdirs-lock", |t| {
        let dir = t.root.join("overlay/tempdirs");
        fs::create_dir_all(dir.join("temp-dir-1")).unwrap();
        dir.join("lock-1")
    }),
    ("database", |t| t.root.join("db.sql")),
];

fn document(t: &Target, key: &str) -> PathBuf {
    t.root.join("overlay-images").join(&t.image).join(data_file(key))
}

fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => fs::create_dir_all(path.parent().unwrap()).unwrap(),
    }
}

fn replace(path: &Path, to: &Path) {
    clear(path);
    symlink(to, path).unwrap();
}

fn change(table: &Path, id: &str, change: impl FnOnce(&mut Value)) {
    Target::record(table, id, change).unwrap();
}

fn layer(t: &Target, attack: impl FnOnce(&mut Value)) {
    change(&t.layers_json(), t.layer(At::Middle), attack);
}

fn image(t: &Target, attack: impl FnOnce(&mut Value)) {
    change(&t.images_json(), &t.image, attack);
}

/// Brackets deep enough for any stack.
fn nested(path: &Path) {
    fs::write(path, "[".repeat(4 << 20)).unwrap();
}

/// A file of a terabyte, without taking the room.
fn huge(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().set_len(1 << 40).unwrap();
}

/// Small, and without end once it is unpacked.
fn bomb(path: &Path, len: usize) {
    let mut gzip = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
    let block = vec![b'['; 1 << 20];
    (0..len >> 20).for_each(|_| gzip.write_all(&block).unwrap());
    gzip.finish().unwrap();
}

/// A tar-split of one file with this name.
fn split_of(path: &Path, name: &str) {
    let mut gzip = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
    writeln!(gzip, "{}", json!({"type": 2, "payload": "", "position": 0})).unwrap();
    writeln!(gzip, "{}", json!({"type": 1, "name": name, "size": 4, "payload": "AAAAAAAAAAA=", "position": 1})).unwrap();
    gzip.finish().unwrap();
}

/// A store and a directory outside of it that traps lead to.
fn outside(place: &Place) -> PathBuf {
    let dir = place.temp.path().join("outside");
    fs::create_dir_all(dir.join("layer/diff/data")).unwrap();
    fs::write(dir.join("layer/diff/data/blob"), "not of the store").unwrap();
    fs::write(dir.join("layer/link"), "A2B3C4D5E6F7A2B3C4D5E6F7A2").unwrap();
    fs::write(dir.join("file"), "not of the store").unwrap();
    fs::write(dir.join("table"), "[]").unwrap();
    dir
}

fn withstood(place: &Place, outside: &Path, name: &str) {
    let before = exactly(outside);
    for args in [
        &["--level", "quick"][..],
        &["--level", "full"],
        &["--level", "full", "--repair"],
        &["--level", "full", "--repair", "--refetch", "--tls-verify=false"],
        &["--level", "full", "--repair", "--prune"],
    ] {
        let said = fsck(place, args, &format!("{name}, {args:?}"));
        let code = said.code.unwrap_or_else(|| panic!("{name}, {args:?}: ended by a signal: {}", said.stderr));
        assert_eq!(code & (16 | 32), 0, "{name}, {args:?}: {}", said.stderr);
        if args == ["--level", "full"] {
            let seen =
                if UNCHECKED.contains(&name) { code & 8 != 0 } else { code == if SOUND.contains(&name) { 0 } else { code & 8 | REMAINS } };
            assert!(seen, "{name}: {code} {:?} {}", said.codes(), said.stderr);
        }
        assert_eq!(exactly(outside), before, "{name}, {args:?}: something outside of the store changed");
    }
}

pub fn trapped(trap: &Trap) {
    let place = Place::ours(true);
    let outside = outside(&place);
    (trap.attack)(&Target::find(&place.root()).unwrap(), &outside);
    withstood(&place, &outside, trap.name);
}

pub fn fifo(name: &str, path: Find) {
    let place = Place::ours(true);
    let outside = outside(&place);
    let path = path(&Target::find(&place.root()).unwrap());
    clear(&path);
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    withstood(&place, &outside, name);
}
