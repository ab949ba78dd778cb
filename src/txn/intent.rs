//! Barrier B: the tables as they will be, the history, the intent.

use crate::journal::Kind;
use crate::layout::scratch_name;
use crate::overlay::LayerDir;
use crate::plan::{self, Intent, Ready, Table};

use super::begin::best_effort;
use super::{TxnError, WriteTxn};

impl WriteTxn {
    /// Under the locks still: who gets them next must not meet an intent that neither lives nor has ended. What is staged
    /// goes when the transaction is dropped, after the locks.
    pub(super) fn take_intent_back(&mut self, error: TxnError) -> TxnError {
        let Ok(staging) = self.staging_mut() else { return error };
        let ended = staging.abort();
        if staging.intent_open.is_some() {
            // Released before the store locks: whoever gets those may then end the transaction.
            drop(staging.segment.take());
        }
        match staging.intent_open {
            // Without a table to rename there is no marker: if the intent did reach the medium, recovery goes forward.
            Some(false) => TxnError::InDoubt { txn: self.id.clone(), source: Box::new(error) },
            _ => {
                best_effort("end a transaction that was taken back", ended);
                error
            }
        }
    }

    /// Barrier B.
    pub(super) fn write_intent(&mut self, ready: Ready) -> Result<Intent, TxnError> {
        for (id, ancestry) in &ready.rewrites {
            LayerDir::rewrite_lower(&self.staging()?.stage.dir(id.as_str())?, ancestry)?;
        }
        for table in [Table::Layers, Table::Images] {
            let dir = table.dir(&self.layout);
            if dir.meta(table.file())?.is_none() {
                // A new store. Once layers are placed, a missing table is no longer credible as an empty one.
                dir.replace(scratch_name(table.file(), &self.id), table.file(), b"[]", 0o600)?;
            }
        }
        let prepared =
            [(Table::Layers, &ready.layers_json), (Table::RemainingLayers, &ready.remaining_json), (Table::Images, &ready.images_json)];
        for (table, bytes) in &prepared {
            if let Some(bytes) = bytes {
                table.dir(&self.layout).write_temp(table.marker(&self.id), bytes, 0o600)?;
            }
        }
        if ready.layers_json.is_some() || ready.remaining_json.is_some() {
            self.layout.layers.sync()?;
        }
        if ready.images_json.is_some() {
            self.layout.images.sync()?;
        }
        if ready.images_json.is_some() {
            self.layout.note_history(&self.id, &ready.images)?;
        }
        let intent = ready.intent;
        let payload = plan::encode(&intent)?;
        let staging = self.staging_mut()?;
        let segment = staging.segment.as_mut().ok_or(TxnError::Cancelled)?;
        segment.reserve(payload.len() as u64)?;
        staging.intent_open = Some(intent.pivot().is_some());
        segment.append(Kind::Intent, &payload)?;
        segment.sync()?;
        Ok(intent)
    }
}
