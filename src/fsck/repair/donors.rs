//! Files of other layers that have the contents that a layer has lost.

use std::collections::{HashMap, HashSet};

use crate::fsck::split::from_start;
use crate::fsck::survey::{Survey, directory};
use crate::fsio::{Dir, File};
use crate::ids::LayerId;
use crate::layout::{Layout, split_name};
use crate::tarsplit::{self, Crc64, EntryKind, SplitEntry, SplitReader};
use crate::txn::TxnError;

/// CRC and length in bytes.
type Body = (u64, u64);

/// What a layer's damaged files can be taken from, by their names.
#[derive(Debug, Default)]
pub(in crate::fsck) struct Donors {
    files: HashMap<Vec<u8>, (Dir, Vec<u8>)>,
}

impl Donors {
    /// Looks in all other layers for files of the same CRC and length. Whether they are the same the layer's digest tells.
    /// `None`: one of the files is nowhere.
    pub fn find(layout: &Layout, survey: &Survey, id: &LayerId, split: &File, lost: &HashSet<Vec<u8>>) -> Result<Option<Self>, TxnError> {
        if lost.is_empty() {
            return Ok(Some(Self::default()));
        }
        let mut wanted: HashMap<Body, Vec<Vec<u8>>> = HashMap::new();
        read(split, |name, body| {
            let name = clean(name);
            if lost.contains(&name) {
                wanted.entry(body).or_default().push(name);
            }
        });
        let mut donors = Self::default();
        if let Some(diff) = directory(&layout.overlay, id.as_str())?.map(|dir| directory(&dir, "diff")).transpose()?.flatten() {
            donors.at_home(&diff, split, lost, &mut wanted);
        }
        for other in survey.records().filter_map(|record| record.id()).filter(|other| *other != id) {
            if wanted.is_empty() {
                break;
            }
            let Ok(split) = layout.layers.file(split_name(other)) else { continue };
            let Some(diff) = directory(&layout.overlay, other.as_str())?.map(|dir| directory(&dir, "diff")).transpose()?.flatten() else {
                continue;
            };
            let mut found: Vec<(Body, Vec<u8>)> = Vec::new();
            read(&split, |name, body| {
                if wanted.contains_key(&body) {
                    found.push((body, name.to_vec()));
                }
            });
            for (body, name) in found {
                if wanted.contains_key(&body) && is_it(&diff, &name, body) {
                    for lost in wanted.remove(&body).unwrap_or_default() {
                        donors.files.insert(lost, (diff.clone(), name.clone()));
                    }
                }
            }
        }
        Ok(wanted.is_empty().then_some(donors))
    }

    /// Files of the layer itself: other names of the lost ones, and copies.
    fn at_home(&mut self, diff: &Dir, split: &File, lost: &HashSet<Vec<u8>>, wanted: &mut HashMap<Body, Vec<Vec<u8>>>) {
        let bodies: HashMap<Vec<u8>, Body> =
            wanted.iter().flat_map(|(body, names)| names.iter().map(|name| (name.clone(), *body))).collect();
        let mut found: Vec<(Body, Vec<u8>)> = Vec::new();
        for entry in tarsplit::plain_headers(from_start(split)).flatten() {
            if entry.kind == EntryKind::HardLink
                && let Some(body) = bodies.get(&clean(&entry.link))
            {
                found.push((*body, entry.name.clone()));
            }
        }
        read(split, |name, body| {
            if wanted.contains_key(&body) && !lost.contains(&clean(name)) {
                found.push((body, name.to_vec()));
            }
        });
        for (body, name) in found {
            if wanted.contains_key(&body) && is_it(diff, &name, body) {
                for lost in wanted.remove(&body).unwrap_or_default() {
                    self.files.insert(lost, (diff.clone(), name.clone()));
                }
            }
        }
    }

    /// The file to read instead of the one of this name.
    pub fn get(&self, name: &[u8]) -> Option<(Dir, Vec<u8>)> {
        self.files.get(&clean(name)).cloned()
    }
}

/// A member's name as the path that it has in the layer.
fn clean(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

/// The files with contents of a tar-split, as far as it can be read.
fn read(split: &File, mut each: impl FnMut(&[u8], Body)) {
    let nothing = Crc64::of(b"");
    let mut entries = SplitReader::new(from_start(split));
    while let Ok(Some(entry)) = entries.next() {
        if let SplitEntry::File { name, size, crc } = entry
            && size > 0
            && crc != nothing
        {
            each(&name, (crc, size));
        }
    }
}

/// Whether a file still has the contents that its own layer's tar-split gives it.
fn is_it(diff: &Dir, name: &[u8], (crc, size): Body) -> bool {
    crate::extract::crc_of(diff, name).is_ok_and(|seen| seen == (crc, size))
}
