//! Injuries of what ties a layer to its name: `overlay/l`, `link`, `lower`, `lower-layers`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::target::{At, Result, Target, at, empty, nul, relink, remove, remove_all, rot};
use super::{Injury, LINKS, Repair};

const L: &str = "l/ symlink missing, wrong, dangling, duplicate; all of l/ gone";
const LINK: &str = "link empty, missing, bad, with newline";
const LOWER: &str = "lower, lower-layers empty, missing, wrong";

/// A LINKID that no layer has.
const NOBODY: &str = "A2B3C4D5E6F7A2B3C4D5E6F7A2";
const NO_LAYER: &str = "../dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd/diff";

pub const ALL: &[Injury] = &[
    Injury::quick(L, "links-entry-missing", &["links-entry-missing"], |t| remove(&t.entry(At::Middle)?)),
    Injury::quick(L, "links-entry-missing-base", &["links-entry-missing"], |t| remove(&t.entry(At::Base)?)),
    Injury::quick(L, "links-entry-missing-top", &["links-entry-missing"], |t| remove(&t.entry(At::Top)?)),
    Injury::quick(L, "links-entry-other-layer", &["links-entry-wrong"], |t| {
        relink(&t.entry(At::Middle)?, format!("../{}/diff", t.layer(At::Top)))
    }),
    Injury::quick(L, "links-entry-no-layer", &["links-entry-wrong"], |t| relink(&t.entry(At::Middle)?, NO_LAYER)),
    Injury::quick(L, "links-entry-absolute", &["links-entry-wrong"], |t| relink(&t.entry(At::Middle)?, t.diff(At::Middle))),
    Injury::quick(L, "links-entry-is-file", &["links-entry-wrong"], |t| {
        let entry = t.entry(At::Middle)?;
        remove(&entry)?;
        at(&entry, fs::write(&entry, "x"))
    }),
    Injury::quick(L, "links-entry-stray", &["links-entry-dangling"], |t| {
        let stray = t.root.join("overlay/l").join(NOBODY);
        at(&stray, symlink(NO_LAYER, &stray))
    }),
    Injury::quick(L, "links-entry-duplicate", &["links-entry-duplicate"], |t| {
        let second = t.root.join("overlay/l").join(NOBODY);
        at(&second, symlink(format!("../{}/diff", t.layer(At::Middle)), &second))
    }),
    Injury::quick(L, "links-directory-gone", &["links-directory-missing"], |t| remove_all(&t.root.join("overlay/l"))),
    Injury::quick(L, "links-directory-emptied", &["links-entry-missing"], |t| {
        let dir = t.root.join("overlay/l");
        for entry in at(&dir, fs::read_dir(&dir))? {
            remove(&at(&dir, entry)?.path())?;
        }
        Ok(())
    }),
    Injury::quick(LINK, "link-empty", &["layer-link-bad"], |t| empty(&link(t, At::Middle))),
    Injury::quick(LINK, "link-empty-base", &["layer-link-bad"], |t| empty(&link(t, At::Base))),
    Injury::quick(LINK, "link-missing", &["layer-link-missing"], |t| remove(&link(t, At::Middle))),
    Injury::quick(LINK, "link-missing-top", &["layer-link-missing"], |t| remove(&link(t, At::Top))),
    Injury::quick(LINK, "link-bad", &["layer-link-bad"], |t| write(&link(t, At::Middle), "this is not a link id at a")),
    Injury::quick(LINK, "link-nul", &["layer-link-bad"], |t| nul(&link(t, At::Middle))),
    Injury::quick(LINK, "link-newline", &["layer-link-bad"], |t| rot(&link(t, At::Middle), |bytes| bytes.push(b'\n'))),
    Injury::quick(LINK, "link-lower-case", &["layer-link-bad"], |t| rot(&link(t, At::Middle), |b| b.make_ascii_lowercase())),
    Injury::quick(LINK, "link-is-directory", &["layer-link-bad"], |t| {
        let link = link(t, At::Middle);
        remove(&link)?;
        at(&link, fs::create_dir(&link))
    }),
    Injury::quick(LINK, "link-foreign", &["layer-link-foreign"], |t| write(&link(t, At::Middle), &t.link(At::Base)?)),
    // What the layers above call it in their `lower` is still known.
    Injury::quick(LINK, "link-and-entry-lost", &["layer-link-lost"], |t| both_lost(t, At::Middle)),
    Injury::quick(LINK, "link-and-entry-lost-base", &["layer-link-lost"], |t| both_lost(t, At::Base)),
    Injury::quick(LINK, "link-and-entry-and-lowers-lost", &["layer-link-lost"], |t| {
        both_lost(t, At::Middle)?;
        empty(&lower(t, "lower"))
    })
    .exempt(LINKS),
    Injury::quick(LINK, "link-and-entry-lost-top", &["layer-link-lost"], |t| both_lost(t, At::Top)).exempt(LINKS),
    Injury::quick(LOWER, "lower-empty", &["layer-lower-wrong"], |t| empty(&lower(t, "lower"))),
    Injury::quick(LOWER, "lower-missing", &["layer-lower-missing"], |t| remove(&lower(t, "lower"))),
    Injury::quick(LOWER, "lower-short", &["layer-lower-wrong"], |t| {
        rot(&lower(t, "lower"), |bytes| bytes.truncate(bytes.iter().position(|b| *b == b':').unwrap_or(0)))
    }),
    Injury::quick(LOWER, "lower-other-order", &["layer-lower-wrong"], |t| {
        rot(&lower(t, "lower"), |bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            *bytes = text.split(':').rev().collect::<Vec<_>>().join(":").into_bytes();
        })
    }),
    Injury::quick(LOWER, "lower-newline", &["layer-lower-wrong"], |t| rot(&lower(t, "lower"), |bytes| bytes.push(b'\n'))),
    Injury::quick(LOWER, "lower-garbled", &["layer-lower-wrong"], |t| nul(&lower(t, "lower"))),
    Injury::quick(LOWER, "lower-of-base", &["layer-lower-wrong"], |t| {
        let lower = t.dir(At::Base).join("lower");
        at(&lower, fs::write(&lower, format!("l/{}", t.link(At::Middle)?)))
    }),
    Injury::quick(LOWER, "lower-layers-empty", &["layer-lower-layers-wrong"], |t| empty(&lower(t, "lower-layers"))),
    Injury::quick(LOWER, "lower-layers-short", &["layer-lower-layers-wrong"], |t| write(&lower(t, "lower-layers"), t.layer(At::Base))),
    Injury::quick(LOWER, "lower-layers-garbled", &["layer-lower-layers-wrong"], |t| nul(&lower(t, "lower-layers"))),
    // podman 5 and older write none: nobody can tell.
    Injury::quick(LOWER, "lower-layers-missing", &[], |t| remove(&lower(t, "lower-layers"))).repair(Repair::Harmless),
];

fn link(t: &Target, which: At) -> PathBuf {
    t.dir(which).join("link")
}

/// Of the top layer, which has two below it.
fn lower(t: &Target, name: &str) -> PathBuf {
    t.dir(At::Top).join(name)
}

fn write(path: &Path, text: &str) -> Result<()> {
    rot(path, |bytes| *bytes = text.as_bytes().to_vec())
}

fn both_lost(t: &Target, which: At) -> Result<()> {
    remove(&t.entry(which)?)?;
    empty(&link(t, which))
}
