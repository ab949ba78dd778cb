//! What lies in the journal, for people: nothing is locked or changed.

use crate::fsio::optional;
use crate::ids::TxnId;
use crate::journal::{self, State};
use crate::layout::{JOURNAL, Layout};
use crate::plan::{self, Intent, Table};

use super::decide::{Decision, Signs, decide};
use super::pass::{dead_among, is_rot};
use super::{Outcome, RecoveryError};

/// A segment in words.
#[derive(Debug, Clone)]
pub struct SegmentInfo {
    /// The transaction.
    pub txn: TxnId,
    /// What the segment says.
    pub state: &'static str,
    /// Whether its owner lives.
    pub alive: bool,
    /// The process that wrote it, as it called itself.
    pub pid: Option<u32>,
    /// The images that its intent makes, changes or removes.
    pub images: Vec<String>,
    /// The new layers of its intent.
    pub layers: Vec<String>,
    /// The layers that its intent removes.
    pub removals: Vec<String>,
    /// The steps of its intent.
    pub steps: Vec<String>,
    /// How recovery would end it, as far as the segment and the markers tell: one that would be finished is given up
    /// if a layer of its images is gone. `None` while its owner lives, and for an intent that cannot be read.
    pub end: Option<Outcome>,
}

impl SegmentInfo {
    fn unreadable(txn: &TxnId) -> Self {
        let end = Some(Outcome::SetAside);
        Self {
            txn: txn.clone(),
            state: "unreadable",
            alive: false,
            pid: None,
            images: vec![],
            layers: vec![],
            removals: vec![],
            steps: vec![],
            end,
        }
    }
}

/// Lists the segments of a store.
///
/// # Errors
///
/// Those of the disk; a damaged segment is no error here.
pub fn segments(layout: &Layout) -> Result<Vec<SegmentInfo>, RecoveryError> {
    let Some(journal) = layout.own(JOURNAL)? else { return Ok(Vec::new()) };
    let mut list = Vec::new();
    for name in journal::list(&journal)?.segments {
        // Read only: taking even a free lock for a moment would tell others that the owner lives.
        let bytes = match journal.read(name.file(), journal::SEGMENT_LIMIT) {
            Err(error) if is_rot(&error) => {
                list.push(SegmentInfo::unreadable(name.txn()));
                continue;
            }
            read => match optional(read)? {
                Some(bytes) => bytes,
                None => continue,
            },
        };
        let state = journal::scan(&bytes, name.txn());
        let intent = match &state {
            State::Intent(payload) => plan::decode(payload).ok(),
            _ => None,
        };
        let alive = journal::is_held(&journal, &name)?;
        list.push(SegmentInfo {
            end: if alive { None } else { end(layout, name.txn(), &state, intent.as_ref())? },
            txn: name.txn().clone(),
            state: match state {
                State::Empty => "staging",
                State::Torn => "intent not written whole",
                State::Intent(_) => "intent",
                State::Done => "done",
                State::Aborted => "aborted",
                State::Corrupt => "corrupt",
                State::Newer { .. } => "of a newer version",
            },
            alive,
            pid: journal::parse_header(&bytes).map(|header| header.pid),
            images: intent.iter().flat_map(|i| &i.images).map(|change| change.id().to_string()).collect(),
            layers: intent.iter().flat_map(|i| &i.layers).map(|put| put.id.to_string()).collect(),
            removals: intent.iter().flat_map(|i| &i.removals).map(|gone| gone.id.to_string()).collect(),
            steps: intent.iter().flat_map(|i| &i.steps).map(|step| format!("{step:?}")).collect(),
        });
    }
    Ok(list)
}

/// The transactions that left something in staging or trash but have no segment: it is only removed.
///
/// # Errors
///
/// Those of the disk.
pub fn leftovers(layout: &Layout) -> Result<Vec<TxnId>, RecoveryError> {
    dead_among(layout, layout.residents()?)
}

fn end(layout: &Layout, txn: &TxnId, state: &State, intent: Option<&Intent>) -> Result<Option<Outcome>, RecoveryError> {
    Ok(match (state, intent) {
        (State::Empty | State::Torn, _) => Some(Outcome::Dropped),
        (State::Done | State::Aborted, _) => Some(Outcome::CleanedUp),
        (State::Corrupt, _) => Some(Outcome::SetAside),
        (State::Intent(_), None) | (State::Newer { .. }, _) => None,
        (State::Intent(_), Some(intent)) => {
            let signs = Signs {
                layers_marker: Table::Layers.waits(layout, txn)?,
                images_marker: Table::Images.waits(layout, txn)?,
                remaining_marker: Table::RemainingLayers.waits(layout, txn)?,
                chains_complete: true,
                data_present: true,
            };
            Some(match decide(intent, signs) {
                Decision::Back => Outcome::RolledBack,
                Decision::Forward => Outcome::RolledForward,
                Decision::Abandon => Outcome::Abandoned,
            })
        }
    })
}
