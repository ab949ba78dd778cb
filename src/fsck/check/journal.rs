//! Transactions of ours that a crash cut short.

use super::{Held, Quick};
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::layout::{JOURNAL, Layout, OWN};
use crate::recovery;

/// What the intents in the journal name.
pub(in crate::fsck) fn held(layout: &Layout) -> Held {
    let mut held = Held::default();
    for segment in recovery::segments(layout).unwrap_or_default() {
        held.layers.extend(segment.layers.iter().chain(&segment.removals).filter_map(|id| id.parse().ok()));
        if segment.end == Some(recovery::Outcome::RolledBack) {
            held.going_back.extend(segment.layers.iter().filter_map(|id| id.parse().ok()));
        }
        held.images.extend(segment.images.iter().filter_map(|id| id.parse().ok()));
    }
    held
}

impl Quick<'_> {
    pub(super) fn journal(&mut self) {
        let segments = match recovery::segments(self.layout) {
            Ok(segments) => segments,
            Err(error) => {
                self.push(Finding::report(Code::CheckFailed, "check the medium").at(format!("{OWN}/{JOURNAL}")).seen(error.to_string()));
                return;
            }
        };
        for segment in segments.into_iter().filter(|segment| !segment.alive) {
            let path = format!("{OWN}/{JOURNAL}/{}.wal", segment.txn);
            let damaged = segment.end == Some(recovery::Outcome::SetAside);
            let (code, action) = if damaged {
                (Code::JournalDamaged, "set the segment aside")
            } else {
                (Code::JournalUnfinished, "finish the transaction or take it back")
            };
            let mut finding = Finding::new(code, Repair::Offline, Fix::Recover, action).at(path).seen(segment.state);
            finding.images = segment.images;
            self.push(finding);
        }
        let mut strays = recovery::leftovers(self.layout).unwrap_or_default();
        strays.extend(recovery::side_strays(self.layout).unwrap_or_default());
        strays.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        strays.dedup();
        for txn in strays {
            let path = format!("{OWN}/stage/{txn}");
            self.push(
                Finding::new(Code::OrphanStaging, Repair::Offline, Fix::Recover, "remove what the transaction staged")
                    .at(path)
                    .seen(format!("transaction {txn} has no segment")),
            );
        }
    }
}
