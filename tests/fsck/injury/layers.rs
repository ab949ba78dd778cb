//! Injuries of a layer's directory.

use std::os::unix::fs::symlink;

use super::target::{At, remove, remove_all};
use super::{Fetch, Injury, Repair};

const ROW: &str = "layer directory missing";
const PARTS: &str = "work or empty of a layer missing";

pub const ALL: &[Injury] = &[
    missing("layer-directory-missing", |t| remove_all(&t.dir(At::Middle))).refetch(Fetch::Layer(At::Middle)),
    missing("layer-directory-missing-base", |t| remove_all(&t.dir(At::Base))).refetch(Fetch::Layer(At::Base)),
    missing("layer-directory-missing-top", |t| remove_all(&t.dir(At::Top))).refetch(Fetch::Layer(At::Top)),
    missing("layer-directory-and-entry-missing", |t| {
        let entry = t.entry(At::Middle)?;
        remove(&entry)?;
        remove_all(&t.dir(At::Middle))
    })
    .refetch(Fetch::Layer(At::Middle))
    .exempt(super::LINKS),
    missing("layer-directory-and-split-missing", |t| {
        remove(&t.split(At::Middle))?;
        remove_all(&t.dir(At::Middle))
    })
    .refetch(Fetch::Layer(At::Middle)),
    // Never followed: it is moved out of the way as what it is.
    Injury::quick(ROW, "layer-directory-is-link", &["layer-directory-wrong"], |t| {
        remove_all(&t.dir(At::Middle))?;
        symlink("/", t.dir(At::Middle)).map_err(|why| why.to_string())
    })
    .refetch(Fetch::Layer(At::Middle)),
    Injury::quick(ROW, "layer-directory-is-file", &["layer-directory-wrong"], |t| {
        remove_all(&t.dir(At::Middle))?;
        std::fs::write(t.dir(At::Middle), "no directory").map_err(|why| why.to_string())
    })
    .refetch(Fetch::Layer(At::Middle)),
    Injury::quick(ROW, "diff-missing", &["layer-diff-missing"], |t| remove_all(&t.diff(At::Middle))).refetch(Fetch::Layer(At::Middle)),
    Injury::quick(PARTS, "empty-missing", &["layer-empty-missing"], |t| remove_all(&t.dir(At::Base).join("empty"))),
    // No program mounts an image's layer to write to it.
    Injury::quick(PARTS, "work-missing", &[], |t| remove_all(&t.dir(At::Middle).join("work"))).repair(Repair::Harmless),
];

const fn missing(name: &'static str, hurt: super::Hurt) -> Injury {
    Injury::quick(ROW, name, &["layer-directory-missing"], hurt)
}
