//! What is there and belongs to nobody; locks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::target::{At, Result, Target, at, remove, remove_all, rot};
use super::{Injury, Repair};

const ROW: &str = "orphan layer directory, tar-split, image data, staging, tempdirs";
const UNNEEDED: &str = "layer no image or container needs";
const LOCK: &str = "lock file missing or short";

const NOBODY: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const LINK: &str = "E2E3E4E5E6E7E2E3E4E5E6E7E2";
const TXN: &str = "0123456789abcdef0123456789abcdef";

pub const ALL: &[Injury] = &[
    orphan("orphan-layer", &["orphan-layer"], |t| {
        let dir = t.root.join("overlay").join(NOBODY);
        make(&dir.join("diff/etc"), "motd")?;
        at(&dir, fs::write(dir.join("link"), LINK))?;
        at(&dir, fs::write(dir.join("lower"), format!("l/{}", t.link(At::Base)?)))?;
        let entry = t.root.join("overlay/l").join(LINK);
        at(&entry, symlink(format!("../{NOBODY}/diff"), &entry))?;
        let split = t.root.join("overlay-layers").join(format!("{NOBODY}.tar-split.gz"));
        at(&split, fs::copy(t.split(At::Middle), &split)).map(drop)
    }),
    orphan("orphan-layer-hollow", &["orphan-layer"], |t| {
        let dir = t.root.join("overlay").join(NOBODY);
        at(&dir, fs::create_dir(&dir))
    }),
    orphan("orphan-split", &["orphan-split"], |t| {
        let split = t.root.join("overlay-layers").join(format!("{NOBODY}.tar-split.gz"));
        at(&split, fs::copy(t.split(At::Middle), &split)).map(drop)
    }),
    orphan("orphan-layer-data", &["orphan-layer-data"], |t| make(&t.root.join("overlay-layers").join(NOBODY), "chunks")),
    orphan("orphan-image-data", &["orphan-image-data"], |t| make(&t.root.join("overlay-images").join(NOBODY), "manifest")),
    orphan("orphan-tempdir", &["orphan-tempdir"], |t| tempdir(&t.root.join("overlay/tempdirs"))),
    orphan("orphan-tempdir-of-layers", &["orphan-tempdir"], |t| tempdir(&t.root.join("overlay-layers/tmp"))),
    orphan("orphan-staging-of-podman", &["orphan-tempdir"], |t| {
        let dir = t.root.join("overlay/staging/123456789");
        make(&dir.join("dir"), "file")?;
        at(&dir, fs::write(dir.join("staging.lock"), ""))
    }),
    orphan("orphan-stage", &["orphan-staging"], |t| make(&t.root.join("cstor-rs/stage").join(TXN).join("diff"), "file")),
    orphan("orphan-trash", &["orphan-staging"], |t| make(&t.root.join("cstor-rs/trash").join(TXN).join("diff"), "file")),
    orphan("orphan-staged-splits", &["orphan-staging"], |t| make(&t.root.join("overlay-layers").join(format!(".cstor-rs-{TXN}")), "split")),
    orphan("orphan-staged-documents", &["orphan-staging"], |t| {
        make(&t.root.join("overlay-images").join(format!(".cstor-rs-{TXN}")), "manifest")
    }),
    orphan("orphan-temp-table", &["orphan-temp-file"], |t| {
        let path = t.root.join("overlay-layers/.tmp-layers.json123456789");
        at(&path, fs::write(&path, "[{"))
    }),
    orphan("orphan-temp-document", &["orphan-temp-file"], |t| {
        let path = t.root.join("overlay-images").join(&t.image).join(".tmp-manifest123456789");
        at(&path, fs::write(&path, "{"))
    }),
    Injury::quick(UNNEEDED, "layer-unneeded", &["layer-unneeded"], |t| {
        Target::forget(&t.images_json(), &t.image)?;
        remove_all(&t.root.join("overlay-images").join(&t.image))
    })
    .repair(Repair::Note),
    Injury::quick(LOCK, "lock-layers-missing", &["lock-missing"], |t| remove(&t.root.join("overlay-layers/layers.lock"))),
    Injury::quick(LOCK, "lock-images-missing", &["lock-missing"], |t| remove(&t.root.join("overlay-images/images.lock"))),
    Injury::quick(LOCK, "lock-layers-short", &["lock-bad"], |t| {
        rot(&t.root.join("overlay-layers/layers.lock"), |bytes| *bytes = b"0123456789".to_vec())
    }),
    Injury::quick(LOCK, "lock-images-short", &["lock-bad"], |t| {
        rot(&t.root.join("overlay-images/images.lock"), |bytes| *bytes = vec![7; 63])
    }),
];

const fn orphan(name: &'static str, codes: &'static [&'static str], hurt: super::Hurt) -> Injury {
    Injury::quick(ROW, name, codes, hurt)
}

/// A directory with a file.
fn make(dir: &Path, name: &str) -> Result<()> {
    at(dir, fs::create_dir_all(dir))?;
    at(dir, fs::write(dir.join(name), "left behind"))
}

/// One of Go's temporary directories, whose owner is dead.
fn tempdir(parent: &Path) -> Result<()> {
    let dir = parent.join("temp-dir-987654321");
    make(&dir.join("0-addition"), "file")?;
    let lock = parent.join("lock-987654321");
    at(&lock, fs::write(&lock, ""))?;
    at(&lock, fs::set_permissions(&lock, PermissionsExt::from_mode(0o600)))?;
    at(parent, fs::set_permissions(parent, PermissionsExt::from_mode(0o700)))
}
