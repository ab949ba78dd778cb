//! Injuries of the contents of files.

use std::fs;
use std::path::Path;

use super::target::{At, collect, cut, empty, flip, has_xattr, nul, quietly, remove, rot};
use super::{Fetch, Injury};

const ROW: &str = "file content, size, missing file";

pub const ALL: &[Injury] = &[
    content("file-flipped", |t| flip(&t.file()?)).refetch(Fetch::Layer(At::Middle)),
    content("file-nul", |t| nul(&t.file()?)).refetch(Fetch::Layer(At::Middle)),
    content("file-truncated", |t| cut(&t.file()?)).refetch(Fetch::Layer(At::Middle)),
    content("file-grown", |t| rot(&t.file()?, |bytes| bytes.extend_from_slice(b"more"))).refetch(Fetch::Layer(At::Middle)),
    content("file-emptied", |t| empty(&t.file()?)).refetch(Fetch::Layer(At::Middle)),
    Injury::full(ROW, "file-missing", &["file-missing"], |t| remove(&t.file()?)).refetch(Fetch::Layer(At::Middle)),
    // What a power cut leaves of a pull that nobody synced: names and attributes, no bytes.
    content("files-all-emptied", |t| {
        let mut all = Vec::new();
        collect(&t.diff(At::Middle), &mut all)?;
        // The kernel takes a capability away with the bytes.
        let full = |path: &Path, meta: &fs::Metadata| meta.is_file() && meta.len() > 0 && !has_xattr(path, "security.capability");
        for (path, meta) in all.into_iter().filter(|(path, meta)| full(path, meta)) {
            // A hard link is emptied with its file.
            if fs::symlink_metadata(&path).is_ok_and(|now| now.len() == meta.len()) {
                quietly(&path, empty)?;
            }
        }
        Ok(())
    })
    .refetch(Fetch::Layer(At::Middle)),
    content("file-flipped-in-base", |t| {
        let mut all = Vec::new();
        collect(&t.diff(At::Base), &mut all)?;
        let largest = all.into_iter().filter(|(_, meta)| meta.is_file()).max_by_key(|(_, meta)| meta.len());
        flip(&largest.ok_or("the base has no file")?.0)
    })
    .refetch(Fetch::Layer(At::Base)),
    content("file-with-twin-flipped", |t| flip(&t.twin()?)),
    Injury::full(ROW, "file-with-twin-missing", &["file-missing"], |t| remove(&t.twin()?)),
];

const fn content(name: &'static str, hurt: super::Hurt) -> Injury {
    Injury::full(ROW, name, &["file-content"], hurt)
}
