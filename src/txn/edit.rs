//! Transactions that are one edit of images.json: atomic by its rename, without a segment in the journal.
//!
//! The table waits as `.tmp-images.json.cstor-rs`, a name that all such edits share: they hold images.lock. Two syncs, however
//! many names it changes: the table's, and that of its directory.

use std::collections::BTreeSet;

use crate::fsio::optional;
use crate::history::History;
use crate::ids::{ImageId, TxnId};
use crate::layout::{EDITED_IMAGES, IMAGES_JSON, Layout, OWN};
use crate::lock::{ImagesGuard, LockError, StoreLocks};
use crate::metadata::Images;
use crate::plan::{AsPlanned, Change, ImageChange, edit, renamed, resolve_light};
use crate::recovery;

use super::begin::best_effort;
use super::prepare::{Prepared, PreparedKind};
use super::{CommitError, PreparedTxn, Receipt, TxnError, WriteTxn};

/// An edit whose table is on the medium and waits for its rename.
pub(super) struct PreparedEdit {
    layout: Layout,
    /// `None` once it is committed.
    images: Option<ImagesGuard>,
    receipt: Receipt,
}

impl WriteTxn {
    /// Prepares what only edits images.json. `None`: it needs more than that.
    pub(super) fn prepare_edit(&self) -> Result<Option<Prepared>, TxnError> {
        let light = |change: &Change| {
            matches!(
                change,
                Change::Tag { .. }
                    | Change::Untag { .. }
                    | Change::SetNames { .. }
                    | Change::SetMetadata { .. }
                    | Change::RemoveImage { .. }
            )
        };
        let changes = self.contents().changes.clone();
        if changes.is_empty() {
            return Ok(Some(Prepared::Nothing));
        }
        if !changes.iter().all(light) {
            return Ok(None);
        }
        let layout = &self.layout;
        let mut guard = StoreLocks::write_images(&layout.images, &self.wait())?;
        if recovery::candidates(layout)? {
            // A dead transaction goes first, and needs all locks; one that cannot be ended yet does not keep names from moving.
            drop(guard);
            recovery::run(layout, &self.wait())?;
            guard = StoreLocks::write_images(&layout.images, &self.wait())?;
        }
        let before = layout.load_images().map_err(crate::layout::TablesError::from)?;
        let mut after = before.clone();
        let mut resolved: Vec<ImageChange> = Vec::with_capacity(changes.len());
        for change in &changes {
            let Some(change) = resolve_light(&after, change)? else { return Ok(None) };
            edit(&mut after, std::slice::from_ref(&change), &AsPlanned)?;
            resolved.push(change);
        }
        let bytes = after.encode();
        if bytes == before.encode() {
            // Whoever made it so may not have synced it.
            if let Some(table) = optional(layout.images.file(IMAGES_JSON))? {
                table.sync_data()?;
            }
            layout.images.sync()?;
            return Ok(Some(Prepared::Nothing));
        }
        self.note_edit(&after, &bytes, &resolved)?;
        let renamed = renamed(&before, &after, &resolved);
        let receipt =
            Receipt { txn: self.id.clone(), layers: vec![], images: vec![], renamed, removed_images: vec![], removed_layers: vec![] };
        let prepared = PreparedEdit { layout: layout.clone(), images: Some(guard), receipt };
        // From here on the temporary table goes with `prepared`.
        layout.images.write_temp(EDITED_IMAGES, &bytes, 0o600)?;
        let kind = PreparedKind::Edit(Box::new(prepared));
        Ok(Some(Prepared::Ready(Box::new(PreparedTxn { id: self.id.clone(), kind }))))
    }
}

impl WriteTxn {
    /// The history of the images that change. Not synced: names are on the medium by the table itself.
    fn note_edit(&self, after: &Images, bytes: &[u8], changes: &[ImageChange]) -> Result<(), TxnError> {
        let own = self.layout.root.ensure_dir(OWN, 0o700)?;
        let touched: BTreeSet<&ImageId> =
            changes.iter().flat_map(|change| change.claims().iter().filter_map(|claim| claim.from.as_ref()).chain([change.id()])).collect();
        let records = touched.into_iter().filter_map(|id| after.get(id)).map(|image| image.json());
        if History::append(&own, &self.id, records, 2 * bytes.len() as u64)? {
            Ok(())
        } else {
            Ok(self.layout.note_history(&self.id, after)?)
        }
    }
}

impl PreparedEdit {
    pub(super) fn commit(mut self: Box<Self>) -> Result<Receipt, CommitError> {
        let txn = self.receipt.txn.clone();
        if let Err(source) = self.rename() {
            // Whether the rename happened is plain to see, and nobody else can have done it.
            return Err(match self.layout.images.meta(EDITED_IMAGES) {
                Ok(Some(_)) => CommitError::RolledBack { txn, source: source.into() },
                _ => self.doubt(txn, source.into()),
            });
        }
        if let Err(source) = self.layout.images.sync() {
            return Err(self.doubt(txn, source.into()));
        }
        drop(self.images.take());
        Ok(self.receipt.clone())
    }

    fn rename(&mut self) -> Result<(), LockError> {
        if let Some(images) = &mut self.images {
            // The token first: killed between the two, readers would otherwise trust their stale cache for ever.
            images.touch()?;
        }
        Ok(self.layout.images.rename(EDITED_IMAGES, &self.layout.images, IMAGES_JSON)?)
    }

    /// The table is switched, and may not be on the medium.
    fn doubt(&mut self, txn: TxnId, source: Box<dyn std::error::Error + Send + Sync>) -> CommitError {
        drop(self.images.take());
        CommitError::InDoubt { txn, source }
    }
}

impl Drop for PreparedEdit {
    fn drop(&mut self) {
        if self.images.is_some() {
            // Under the lock still: the name is everybody's.
            let gone = optional(self.layout.images.unlink(EDITED_IMAGES)).map(drop);
            best_effort("remove a table that was not used", gone);
            drop(self.images.take());
        }
    }
}
