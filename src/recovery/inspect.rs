//! What lies in the journal, for people: nothing is locked or changed.

use crate::fsio::optional;
use crate::ids::TxnId;
use crate::journal::{self, State};
use crate::layout::{JOURNAL, Layout};
use crate::plan;

use super::RecoveryError;

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
    /// The images of its intent.
    pub images: Vec<String>,
    /// The new layers of its intent.
    pub layers: Vec<String>,
    /// The steps of its intent.
    pub steps: Vec<String>,
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
        let Some(bytes) = optional(journal.read(name.file(), journal::SEGMENT_LIMIT))? else { continue };
        let state = journal::scan(&bytes, name.txn());
        let intent = match &state {
            State::Intent(payload) => plan::decode(payload).ok(),
            _ => None,
        };
        list.push(SegmentInfo {
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
            alive: journal::is_held(&journal, &name)?,
            pid: journal::parse_header(&bytes).map(|header| header.pid),
            images: intent.iter().flat_map(|i| &i.images).map(|put| put.id.to_string()).collect(),
            layers: intent.iter().flat_map(|i| &i.layers).map(|put| put.id.to_string()).collect(),
            steps: intent.iter().flat_map(|i| &i.steps).map(|step| format!("{step:?}")).collect(),
        });
    }
    Ok(list)
}
