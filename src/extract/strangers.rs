//! Whether anything is in a layer's tree that its tar does not put there.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::os::unix::ffi::OsStrExt;

use super::error::shown;
use super::path::{Cleaned, Whiteout};
use super::verify::from_start;
use crate::fsio::{self, Dir, File, Purpose, Step, Walk};
use crate::tarsplit::{self, EntryKind};

/// Paths by their hash: of a million 16 MB are kept and not 100.
#[derive(Default)]
struct Paths {
    random: RandomState,
    hashes: HashSet<u64>,
}

impl Paths {
    fn add(&mut self, path: &[Vec<u8>]) {
        self.hashes.insert(self.random.hash_one(path));
    }

    fn has(&self, path: &[Vec<u8>]) -> bool {
        self.hashes.contains(&self.random.hash_one(path))
    }
}

/// Looks for names that no member and no parent of a member has. `None`: there are none, or members lie behind links of
/// the layer, where their names do not tell their places.
pub(super) fn find(diff: &Dir, split: &File) -> fsio::Result<Option<String>> {
    let mut links = Paths::default();
    let mut known = Paths::default();
    for entry in tarsplit::plain_headers(from_start(split)).flatten() {
        let Some(path) = Cleaned::of(&entry.name) else { continue };
        if matches!(entry.kind, EntryKind::Symlink | EntryKind::HardLink) {
            links.add(&path.0);
        }
        let mut parts = path.0;
        if let Some(last) = parts.pop() {
            match Whiteout::parse(OsStr::from_bytes(&last)) {
                Some(Whiteout::Opaque) => {}
                Some(Whiteout::Of(hidden)) => {
                    parts.push(hidden.as_bytes().to_vec());
                    known.add(&parts);
                    parts.pop();
                }
                None => {
                    parts.push(last);
                    known.add(&parts);
                    parts.pop();
                }
            }
        }
        while !parts.is_empty() && !known.has(&parts) {
            known.add(&parts);
            parts.pop();
        }
    }
    // A second look, once every link is known: is a member's parent one of them?
    for entry in tarsplit::plain_headers(from_start(split)).flatten() {
        let Some(mut path) = Cleaned::of(&entry.name) else { continue };
        while path.0.pop().is_some() && !path.0.is_empty() {
            if links.has(&path.0) {
                return Ok(None);
            }
        }
    }
    let mut here: Vec<Vec<u8>> = Vec::new();
    let mut walk = Walk::of(diff, Purpose::Keep)?;
    while let Some(step) = walk.next()? {
        let name = match step {
            Step::Leave { .. } => {
                here.pop();
                continue;
            }
            Step::Enter { ref name } | Step::Leaf { ref name, .. } => name.as_bytes().to_vec(),
        };
        here.push(name);
        if !known.has(&here) {
            return Ok(Some(format!("{} is not in the layer", shown(&here.join(&b'/')))));
        }
        if matches!(step, Step::Leaf { .. }) {
            here.pop();
        }
    }
    Ok(None)
}
