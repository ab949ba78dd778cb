//! What a transaction does before it takes the locks: everything staged or reused is on the medium.

use std::collections::{BTreeSet, HashMap};

use crate::fsio::{self, Meta, optional};
use crate::ids::{LayerId, LinkId};
use crate::layout::Tables;
use crate::plan::{self, Change, WantedImage, WantedLayer};

use super::begin::Contents;
use super::inspect::is_gone;
use super::prepare::Before;
use super::{Inspection, SyncMode, TxnError, WriteTxn, inspect};

impl WriteTxn {
    /// Everything on the medium: what is staged, and what is reused.
    pub(super) fn before_the_locks(&self, again: &BTreeSet<LayerId>) -> Result<Before, TxnError> {
        let damaged = self.verify_again(again)?;
        if !damaged.is_empty() {
            return Ok(Before::Damaged(damaged));
        }
        let (layers, images) = self.wanted()?;
        self.set_roots(&layers)?;
        self.sync_staged(&layers, &images)?;
        Ok(Before::Synced(layers, images))
    }

    /// The wanted layers, parents first, and images.
    fn wanted(&self) -> Result<(Vec<WantedLayer>, Vec<WantedImage>), TxnError> {
        let contents = self.contents();
        let mut layers = Vec::with_capacity(contents.order.len());
        for id in &contents.order {
            layers.push(contents.layers.get(id).cloned().ok_or_else(|| TxnError::NotStaged { id: id.clone() })?);
        }
        Ok((layers, contents.images.clone()))
    }

    /// Gives each staged `diff/` whose tar says nothing of it mode and owner: those of its parent's, as Go's programs do, and
    /// 0555 to a base layer. Layers are staged in any order, so it is done here.
    fn set_roots(&self, layers: &[WantedLayer]) -> Result<(), TxnError> {
        let mut roots: HashMap<&LayerId, Meta> = HashMap::new();
        for wanted in layers {
            let staged = !matches!(wanted.source, plan::Source::Reused { .. });
            let home = if staged { &self.staging()?.stage } else { &self.staging()?.route.overlay };
            // A reused layer may be gone by now: the plan finds out, and nothing is built on this root.
            let Some(layer) = optional(home.dir(wanted.id.as_str()))? else { continue };
            let Some(diff) = optional(layer.dir("diff"))? else { continue };
            let mut root = diff.own_meta()?;
            if staged && !self.contents().own_roots.contains(&wanted.id) {
                let above = wanted.parent.as_ref().and_then(|parent| roots.get(parent));
                let (mode, uid, gid) = above.map_or((0o555, root.uid, root.gid), |above| (above.mode, above.uid, above.gid));
                if (root.uid, root.gid) != (uid, gid) {
                    diff.chown_self(uid, gid)?;
                }
                if root.mode != mode {
                    diff.chmod_self(mode)?;
                }
                root = diff.own_meta()?;
            }
            roots.insert(&wanted.id, root);
        }
        Ok(())
    }

    /// Barrier A. A transaction that only removes has nothing to bring there; a few documents go by themselves.
    fn sync_staged(&self, layers: &[WantedLayer], images: &[WantedImage]) -> Result<(), TxnError> {
        let sets_data = self.contents().changes.iter().any(|change| matches!(change, Change::SetData { .. }));
        let mends = self.contents().changes.iter().any(|change| matches!(change, Change::Mend(mend) if mend.is_staged()));
        match self.staging()?.sync {
            SyncMode::None => {}
            _ if layers.is_empty() && images.is_empty() => {
                if mends {
                    self.sync_staging()?;
                } else if sets_data {
                    super::files::sync_tree(&self.staging()?.image_side)?;
                }
            }
            SyncMode::Filesystem => self.staging()?.filesystems.iter().try_for_each(fsio::Dir::sync_filesystem)?,
            SyncMode::Files => {
                self.sync_staging()?;
                self.sync_verified(layers)?;
            }
        }
        Ok(())
    }

    /// What is staged, file by file, and the names of the directories that it lies in: without a table to rename nothing else
    /// syncs those, and an intent that is there goes forward without what it was to put in place.
    fn sync_staging(&self) -> Result<(), TxnError> {
        let staging = self.staging()?;
        for dir in [&staging.stage, &staging.layer_side, &staging.image_side] {
            super::files::sync_tree(dir)?;
        }
        staging.route.sync_name()?;
        self.layout.layers.sync()?;
        Ok(self.layout.images.sync()?)
    }

    /// What others wrote and this transaction seals: nobody may have synced it.
    fn sync_verified(&self, layers: &[WantedLayer]) -> Result<(), TxnError> {
        let sealing = |wanted: &&WantedLayer| matches!(wanted.source, plan::Source::Reused { sealing: true, .. });
        let verified = layers.iter().filter(sealing).map(|wanted| &wanted.id);
        Ok(self.layout.sync_layers(&self.staging()?.route.overlay, verified)?)
    }

    /// Layers that appeared in the store since they were looked at: reused from now on, if they are sound. Returns those that
    /// are damaged and not staged: the caller stages them.
    fn verify_again(&self, ids: &BTreeSet<LayerId>) -> Result<BTreeSet<LayerId>, TxnError> {
        let mut needed = BTreeSet::new();
        if ids.is_empty() {
            return Ok(needed);
        }
        let tables = self.tables()?;
        let order = self.contents().order.clone();
        for id in order.iter().filter(|id| ids.contains(*id)) {
            let Some((wanted, ancestry)) = self.with_ancestry(id) else { continue };
            match inspect(&self.layout, &tables, id, &wanted.diff_id, &ancestry)? {
                // Gone again: the staged one is as good as before.
                Inspection::Absent => {}
                Inspection::Broken { why } => return Err(TxnError::Broken { id: id.clone(), why }),
                Inspection::Damaged { link, why } => {
                    if let Some(user) = tables.user_of(&self.layout, id)? {
                        return Err(TxnError::InUse { id: id.clone(), why, user });
                    }
                    if !self.heal_with_staged(id, link)? {
                        needed.insert(id.clone());
                    }
                }
                found @ (Inspection::Sealed { .. } | Inspection::Verified { .. }) => {
                    let reused = self.reuse(id, wanted.parent.clone(), &wanted.diff_id, &found);
                    if is_gone(&self.layout, id, &reused)? {
                        continue;
                    }
                    reused?;
                    if let (Inspection::Sealed { link } | Inspection::Verified { link }, Some(declared)) =
                        (&found, self.contents().declared.get_mut(id))
                    {
                        declared.link = link.clone();
                    }
                }
            }
        }
        Ok(needed)
    }

    /// A layer with its ancestry as the transaction now sees it.
    fn with_ancestry(&self, id: &LayerId) -> Option<(WantedLayer, crate::overlay::Ancestry)> {
        let contents = self.contents();
        let wanted = contents.layers.get(id)?.clone();
        let mut list = Vec::new();
        let mut next = wanted.parent.clone();
        while let Some(parent) = next {
            let declared = contents.declared.get(&parent)?;
            next = declared.parent.clone();
            list.push((parent, declared.link.clone()));
        }
        // Nearest first; an ancestry grows from its far end.
        let ancestry = list.into_iter().rev().fold(crate::overlay::Ancestry::default(), |above, (id, link)| above.child_of(id, link));
        Some((wanted, ancestry))
    }

    /// Somebody else's layer of the same id turned out damaged: the staged tree is exchanged for it. `false`: none is staged.
    fn heal_with_staged(&self, id: &LayerId, link: LinkId) -> Result<bool, TxnError> {
        let mut guard = self.contents();
        let Contents { declared, layers, .. } = &mut *guard;
        if let Some(declared) = declared.get_mut(id) {
            declared.link = link.clone();
            declared.heal = true;
        }
        let wanted = layers.get_mut(id).ok_or_else(|| TxnError::NotStaged { id: id.clone() })?;
        let (plan::Source::Staged { tree, assumed, .. } | plan::Source::Heal { tree, assumed, .. }) = &wanted.source else {
            layers.remove(id);
            return Ok(false);
        };
        let (tree, assumed) = (*tree, assumed.clone());
        let dir = self.staging()?.stage.dir(id.as_str())?;
        optional(dir.unlink(crate::overlay::SEAL))?;
        dir.unlink("link")?;
        dir.create("link", 0o644)?.append(link.as_str().as_bytes())?;
        if self.staging()?.sync != SyncMode::None {
            let seal = crate::overlay::Seal::new(wanted.diff_id.clone(), link.clone(), tree);
            dir.create(crate::overlay::SEAL, 0o600)?.append(&seal.encode()?)?;
        }
        wanted.source = plan::Source::Heal { link, tree, assumed, even_incomplete: false };
        Ok(true)
    }

    /// Layers that are gone from the store: to be staged as new ones, under a LINKID of their own.
    pub(super) fn forget(&self, ids: &BTreeSet<LayerId>) -> Result<(), TxnError> {
        for id in ids {
            let link = LinkId::random().map_err(super::stage::random_failed)?;
            self.drop_staged(id)?;
            let mut contents = self.contents();
            contents.layers.remove(id);
            if let Some(declared) = contents.declared.get_mut(id) {
                declared.link = link;
                declared.heal = false;
            }
        }
        Ok(())
    }

    pub(super) fn refuse_healing_in_use(&self, tables: &Tables, layers: &[WantedLayer]) -> Result<(), TxnError> {
        for wanted in layers.iter().filter(|w| matches!(w.source, plan::Source::Heal { .. })) {
            if let Some(user) = tables.user_of(&self.layout, &wanted.id)? {
                return Err(TxnError::InUse { id: wanted.id.clone(), why: "its contents are to be exchanged".to_owned(), user });
            }
        }
        Ok(())
    }
}
