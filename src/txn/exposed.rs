//! Staging that other programs can see and may remove: whether it is whole, and making it again.

use std::collections::BTreeSet;

use crate::fsio::optional;
use crate::ids::LayerId;
use crate::overlay::{LayerDir, SEAL, TreeId};
use crate::plan::{Source, seal_stage};

use super::{SyncMode, TxnError, WriteTxn};

impl WriteTxn {
    /// Whether everything staged is there, to the last name. Under layers.lock: programs of storage 1.45 to 1.58 remove
    /// what they do not know under it, and may have been killed half-way.
    pub(super) fn staging_is_whole(&self) -> Result<bool, TxnError> {
        if !self.staging()?.route.is_exposed() {
            return Ok(true);
        }
        if !self.staging()?.route.is_intact()? {
            return Ok(false);
        }
        let contents = self.contents();
        for (id, count) in &contents.counts {
            let Some(dir) = optional(self.staging()?.stage.dir(id.as_str()))? else { return Ok(false) };
            let Some(diff) = optional(dir.dir("diff"))? else { return Ok(false) };
            let ancestry = contents.declared.get(id).map(|declared| declared.ancestry.clone()).unwrap_or_default();
            let names: Vec<_> = dir.names()?;
            let mut around = LayerDir::names(&ancestry);
            if self.staging()?.sync != SyncMode::None {
                around.push(SEAL);
            }
            if diff.count_tree()? != *count || around.iter().any(|name| !names.iter().any(|seen| *name == *seen)) {
                return Ok(false);
            }
        }
        for (id, wanted) in &contents.layers {
            if matches!(wanted.source, Source::Reused { sealing: true, .. }) && self.staging()?.stage.meta(seal_stage(id))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the staging directory anew, with the seals of verified layers. Returns the layers that must be staged again.
    pub(super) fn stage_anew(&mut self) -> Result<BTreeSet<LayerId>, TxnError> {
        tracing::info!(txn = %self.id, "another program removed what was staged in overlay/tempdirs; staging it again");
        let id = self.id.clone();
        let staging = self.staging_mut()?;
        staging.stage = staging.route.begin(&id)?;
        let lost: BTreeSet<LayerId> = {
            let mut contents = self.contents();
            contents.counts.clear();
            contents.own_roots.clear();
            let staged = |source: &Source| matches!(source, Source::Staged { .. } | Source::Heal { .. });
            contents.layers.extract_if(|_, wanted| staged(&wanted.source)).map(|(id, _)| id).collect()
        };
        for id in &lost {
            self.drop_staged(id)?;
        }
        let reused: Vec<_> = self.contents().layers.values().cloned().collect();
        for wanted in reused {
            if let Source::Reused { link, sealing: true } = &wanted.source
                && let Some(layer) = optional(self.staging()?.route.overlay.dir(wanted.id.as_str()))?
                && let Some(diff) = optional(layer.dir("diff"))?
            {
                let tree = TreeId::of(&diff)?;
                self.write_seal(&self.staging()?.stage, &seal_stage(&wanted.id), &wanted.diff_id, link, tree)?;
            }
        }
        Ok(lost)
    }
}
