//! What is not as its member says, until it is known whether a later member of the same tar made it so.
//!
//! Only then the tar-split is read once more: a layer whose tar names each path once has no suspects.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use super::path::{Cleaned, Whiteout};
use super::verify::{from_start, verdict, words};
use crate::fsio::{self, File};
use crate::tarsplit::{self, Entry, EntryKind, Repeated};

/// Hashes of paths held at once, so that a layer of nothing but suspects costs time and not memory.
const MAX_WEIGHT: usize = 1 << 18;

/// Something that differs.
struct Suspect {
    /// The number of its member.
    index: u64,
    /// Hashes of the path and of all that it lies in, the topmost first.
    path: Vec<u64>,
    /// Whether any later member at the path is an excuse, or only one that takes away what was there.
    by_any: bool,
    message: String,
}

/// The last members that did something to a path.
#[derive(Default, Clone, Copy)]
struct Last {
    /// Put anything there, or changed its attributes.
    any: Option<u64>,
    /// Took away what was there.
    removal: Option<u64>,
}

/// The suspects so far.
#[derive(Default)]
pub(super) struct Suspects {
    random: RandomState,
    list: Vec<Suspect>,
    weight: usize,
}

impl Suspects {
    pub(super) fn add(&mut self, index: u64, path: &Cleaned, by_any: bool, message: String) {
        let path = self.hashes(path);
        self.weight += path.len() + 32;
        self.list.push(Suspect { index, path, by_any, message });
    }

    pub(super) fn is_full(&self) -> bool {
        self.weight > MAX_WEIGHT
    }

    fn hashes(&self, path: &Cleaned) -> Vec<u64> {
        let mut hasher = self.random.build_hasher();
        let each = path.0.iter().map(|part| {
            hasher.write(part);
            hasher.write_u8(b'/');
            hasher.clone().finish()
        });
        let mut all: Vec<u64> = each.collect();
        if all.is_empty() {
            all.push(self.random.build_hasher().finish());
        }
        all
    }

    /// The first suspect that no later member excuses; all are forgotten.
    pub(super) fn judge(&mut self, split: &File, repeated: &Repeated) -> fsio::Result<Option<String>> {
        let list = std::mem::take(&mut self.list);
        self.weight = 0;
        if list.is_empty() {
            return Ok(None);
        }
        let mut last: HashMap<u64, Last> = list.iter().flat_map(|suspect| &suspect.path).map(|hash| (*hash, Last::default())).collect();
        for (index, entry) in (0..).zip(tarsplit::plain_headers(from_start(split))) {
            match entry {
                Ok(entry) => self.note(&mut last, index, &entry, repeated),
                Err(error) => return Ok(Some(verdict(error)?.unwrap_or_else(|error| words(&error)))),
            }
        }
        let after = |at: Option<u64>, index: u64| at.is_some_and(|at| at > index);
        let excused = |suspect: &Suspect| {
            let removed = suspect.path.iter().any(|hash| last.get(hash).is_some_and(|last| after(last.removal, suspect.index)));
            let own = suspect.path.last().and_then(|hash| last.get(hash));
            removed || suspect.by_any && own.is_some_and(|last| after(last.any, suspect.index))
        };
        Ok(list.into_iter().find(|suspect| !excused(suspect)).map(|suspect| suspect.message))
    }

    fn note(&self, last: &mut HashMap<u64, Last>, index: u64, entry: &Entry, repeated: &Repeated) {
        let Some(cleaned) = Cleaned::of(&entry.name) else { return };
        let mut mark = |path: &Cleaned, removes: bool| {
            if let Some(last) = self.hashes(path).last().and_then(|hash| last.get_mut(hash)) {
                last.any = Some(index);
                last.removal = if removes { Some(index) } else { last.removal };
            }
        };
        // A hard link's header changes the file that it links to.
        if entry.kind == EntryKind::HardLink
            && let Some(target) = Cleaned::of(&entry.link)
        {
            mark(&target, false);
        }
        let hidden = cleaned.clone().split().and_then(|(parent, name)| match Whiteout::parse(&name) {
            Some(Whiteout::Of(hidden)) => Some(parent.join(hidden)),
            _ => None,
        });
        match (hidden, entry.kind) {
            (_, EntryKind::GlobalHeader) => {}
            (Some(hidden), _) => mark(&hidden, true),
            // A directory that is named for the first time leaves alone what is there already.
            (None, EntryKind::Dir) => mark(&cleaned, repeated.contains(&entry.name)),
            (None, _) => mark(&cleaned, true),
        }
    }
}
