//! Inodes with several names, while the headers of their members come one after the other.

use std::collections::HashMap;
use std::ffi::OsString;

use super::attributes::Attributes;
use super::plan::Plan;
use crate::extract::path::Cleaned;
use crate::fsio::Kind;
use crate::tarsplit::{Entry, EntryKind};

/// What is known of one so far.
pub(super) struct Shared {
    /// What the headers come to.
    pub wanted: Attributes,
    kind: Kind,
    /// One of its names.
    pub at: Option<(Cleaned, OsString)>,
    /// How many of its names are on disk.
    pub names: u64,
}

/// All that wait for further members.
#[derive(Default)]
pub(super) struct Shares(HashMap<u32, Shared>);

impl Shares {
    /// Takes in the member `index` of a group, whose name is on disk `at` a place and of a kind. Returned once the last
    /// member has come.
    pub(super) fn add(
        &mut self,
        plan: &Plan,
        index: u32,
        group: u32,
        entry: &mut Entry,
        at: Option<(Cleaned, OsString, Kind)>,
    ) -> Option<Shared> {
        let kind = super::look::kind_of(entry).or(at.as_ref().map(|(_, _, kind)| *kind)).unwrap_or(Kind::File);
        let at = at.map(|(parent, name, _)| (parent, name));
        let names = u64::from(at.is_some());
        let shared = match self.0.remove(&group) {
            Some(mut known) => {
                known.wanted.overlay(Attributes::of(entry, known.kind));
                Shared { at: at.or(known.at), names: known.names + names, ..known }
            }
            None => {
                // The first name was removed by a later member; what it gave stays with the others.
                let may_have_more = entry.kind == EntryKind::HardLink;
                Shared { wanted: Attributes { may_have_more, ..Attributes::of(entry, kind) }, kind, at, names }
            }
        };
        if plan.last_of(group) > index {
            self.0.insert(group, shared);
            return None;
        }
        Some(shared)
    }
}
