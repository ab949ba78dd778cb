//! What a pass did, for people and for the caller.

use tracing::warn;

use super::RecoveryError;
use super::pins::Pins;
use crate::causes::in_one_line;
use crate::ids::TxnId;
use crate::plan::Intent;

/// What the pass did.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Each dead transaction with its end, in the order of recovery.
    pub ended: Vec<(TxnId, Outcome)>,
    /// Dead transactions that could not be ended now, with the reason; they are tried again at the next open.
    pub pending: Vec<(TxnId, String)>,
    /// Transactions that have ended but whose leftovers could not be removed now, with the reason.
    pub left: Vec<(TxnId, String)>,
    /// Segments whose owner lives.
    pub alive: Vec<TxnId>,
    /// What the pending transactions still need as it is.
    pub pins: Pins,
}

/// How a dead transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had not begun to change the store: its staging was removed.
    Dropped,
    /// It had begun, and was taken back.
    RolledBack,
    /// It was finished.
    RolledForward,
    /// Its layers stay, its images were given up.
    Abandoned,
    /// It had ended; what it left behind was removed.
    CleanedUp,
    /// Its segment is damaged and was set aside as `<txn>.bad`.
    SetAside,
}

impl Report {
    pub(super) fn leave(&mut self, txn: TxnId, intent: Option<&Intent>, error: &RecoveryError) {
        warn!(txn = %txn, error = error as &dyn std::error::Error, "left for the next open");
        self.pins.add(intent);
        self.pending.push((txn, in_one_line(error)));
    }

    pub(super) fn leave_over(&mut self, txn: TxnId, error: &RecoveryError) {
        warn!(txn = %txn, error = error as &dyn std::error::Error, "what an ended transaction left stays for the next open");
        self.left.push((txn, in_one_line(error)));
    }
}
