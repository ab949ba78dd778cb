//! The second stage: everything on the medium, the plan made under the locks, the intent durable.

use std::collections::{BTreeSet, HashMap};

use crate::fsio::{self, Meta, optional};
use crate::history::History;
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::journal::Kind;
use crate::layout::{IMAGES_JSON, LAYERS_JSON, Layout, OWN, Tables, marker_name, scratch_name};
use crate::lock::{StoreLocks, StoreWriteGuard};
use crate::metadata::{Image, Images};
use crate::overlay::{Facts, LayerDir};
use crate::plan::{self, Built, DiskFacts, ImageFacts, Inputs, Intent, Ready, WantedImage, WantedLayer};
use crate::recovery;

use super::begin::{Contents, SyncMode};
use super::{Inspection, TxnError, WriteTxn, inspect};

/// How often a plan may be overtaken by other processes.
const TRIES: usize = 8;

/// A transaction whose intent is durable, holding all store locks: commit it soon.
#[must_use = "a prepared transaction holds all store locks until it is committed or dropped"]
pub struct PreparedTxn {
    pub(super) txn: WriteTxn,
    /// `None` once it is committed or taken back.
    pub(super) locks: Option<StoreWriteGuard>,
    pub(super) intent: Intent,
}

impl std::fmt::Debug for PreparedTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedTxn").field("txn", &self.txn).finish_non_exhaustive()
    }
}

/// What [`WriteTxn::prepare`] came to.
#[derive(Debug)]
pub enum Prepared {
    /// Ready to commit.
    Ready(Box<PreparedTxn>),
    /// The store already says all of this.
    Nothing,
    /// Layers that were to be reused are gone: stage them, and prepare again.
    NeedLayers(Box<WriteTxn>, BTreeSet<LayerId>),
}

/// What is known before the locks are taken.
enum Before {
    /// All of this is on the medium.
    Synced(Vec<WantedLayer>, Vec<WantedImage>),
    /// These layers were to be reused and are damaged: to be staged.
    Damaged(BTreeSet<LayerId>),
}

impl WriteTxn {
    /// Syncs what is staged, takes the locks, ends dead transactions, decides, and makes the intent durable.
    ///
    /// # Errors
    ///
    /// Whatever keeps the transaction from being visible; nothing of it is then.
    pub fn prepare(mut self) -> Result<Prepared, TxnError> {
        let (mut again, mut recovered) = (BTreeSet::new(), false);
        for _ in 0..TRIES {
            let (layers, images) = match self.before_the_locks(&std::mem::take(&mut again)) {
                Ok(Before::Synced(layers, images)) => (layers, images),
                Ok(Before::Damaged(damaged)) => return Ok(Prepared::NeedLayers(Box::new(self), damaged)),
                Err(error) if !self.route.is_exposed() || self.route.is_intact()? => return Err(error),
                // Another program took the staging away meanwhile.
                Err(_) => {
                    let lost = self.stage_anew()?;
                    if lost.is_empty() {
                        continue;
                    }
                    return Ok(Prepared::NeedLayers(Box::new(self), lost));
                }
            };
            let wait = self.wait();
            let mut locks = StoreLocks::write(&self.layout.layers, &self.layout.images, &self.layout.containers, &wait)?;
            let pass = recovery::run_locked(&self.layout, &self.route, &mut locks, Some(&self.id))?;
            if pass.has_leftovers() && !recovered {
                // Somebody else's trees, of any size: nobody waits for the locks while they go.
                drop(locks);
                pass.clean_up(&self.layout, &self.route);
                recovered = true;
                continue;
            }
            if !self.staging_is_whole()? {
                drop(locks);
                let lost = self.stage_anew()?;
                if lost.is_empty() {
                    continue;
                }
                return Ok(Prepared::NeedLayers(Box::new(self), lost));
            }
            let report = pass.report;
            let tables = Tables::load(&self.layout)?;
            let disk = facts(&self.layout, &layers, &images)?;
            let inputs = Inputs {
                layers: &tables.layers,
                images: &tables.images,
                disk: &disk,
                seq: report.pins.seq + 1,
                wanted_layers: &layers,
                wanted_images: &images,
            };
            match plan::build(&inputs)? {
                Built::Ready(ready) if ready.intent.steps.is_empty() => {
                    // All of it may be somebody else's doing, who syncs no directory.
                    if self.options.sync != SyncMode::None {
                        self.layout.settle(images.iter().map(|image| &image.id))?;
                    }
                    drop(locks);
                    self.clean_up()?;
                    return Ok(Prepared::Nothing);
                }
                Built::Ready(ready) => {
                    if let Some(what) = report.pins.conflict(&ready.intent) {
                        let why = report.pending.into_iter().map(|(txn, why)| format!("{txn}: {why}")).collect::<Vec<_>>().join("; ");
                        return Err(TxnError::Pending { what, why });
                    }
                    // Between declaring and locking somebody may have mounted what is to be healed.
                    self.refuse_healing_in_use(&tables, &layers)?;
                    let intent = match self.write_intent(*ready) {
                        Ok(intent) => intent,
                        Err(error) => return Err(self.take_intent_back(error)),
                    };
                    return Ok(Prepared::Ready(Box::new(PreparedTxn { txn: self, locks: Some(locks), intent })));
                }
                Built::Verify(ids) => {
                    drop(locks);
                    again = ids;
                }
                Built::Need(ids) => {
                    drop(locks);
                    self.forget(&ids)?;
                    return Ok(Prepared::NeedLayers(Box::new(self), ids));
                }
            }
        }
        Err(TxnError::Overtaken { tries: TRIES })
    }

    /// Everything on the medium: what is staged, and what is reused.
    fn before_the_locks(&self, again: &BTreeSet<LayerId>) -> Result<Before, TxnError> {
        let damaged = self.verify_again(again)?;
        if !damaged.is_empty() {
            return Ok(Before::Damaged(damaged));
        }
        let (layers, images) = self.wanted()?;
        self.set_roots(&layers)?;
        self.sync_staged(&layers)?;
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
            let home = if staged { &self.stage } else { &self.route.overlay };
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

    /// Barrier A.
    fn sync_staged(&self, layers: &[WantedLayer]) -> Result<(), TxnError> {
        match self.options.sync {
            SyncMode::None => {}
            SyncMode::Filesystem => self.filesystems.iter().try_for_each(fsio::Dir::sync_filesystem)?,
            SyncMode::Files => {
                super::files::sync_tree(&self.stage)?;
                super::files::sync_tree(&self.layer_side)?;
                super::files::sync_tree(&self.image_side)?;
                self.sync_verified(layers)?;
            }
        }
        Ok(())
    }

    /// What others wrote and this transaction seals: nobody may have synced it.
    fn sync_verified(&self, layers: &[WantedLayer]) -> Result<(), TxnError> {
        let sealing = |wanted: &&WantedLayer| matches!(wanted.source, plan::Source::Reused { sealing: true, .. });
        let verified = layers.iter().filter(sealing).map(|wanted| &wanted.id);
        Ok(self.layout.sync_layers(&self.route.overlay, verified)?)
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
                    self.reuse(id, wanted.parent.clone(), &wanted.diff_id, &found)?;
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
        let dir = self.stage.dir(id.as_str())?;
        optional(dir.unlink(crate::overlay::SEAL))?;
        dir.unlink("link")?;
        dir.create("link", 0o644)?.append(link.as_str().as_bytes())?;
        if self.options.sync != SyncMode::None {
            let seal = crate::overlay::Seal::new(wanted.diff_id.clone(), link.clone(), tree);
            dir.create(crate::overlay::SEAL, 0o600)?.append(&seal.encode()?)?;
        }
        wanted.source = plan::Source::Heal { link, tree, assumed };
        Ok(true)
    }

    /// Layers that are gone from the store: to be staged as new ones, under a LINKID of their own.
    fn forget(&self, ids: &BTreeSet<LayerId>) -> Result<(), TxnError> {
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

    fn refuse_healing_in_use(&self, tables: &Tables, layers: &[WantedLayer]) -> Result<(), TxnError> {
        for wanted in layers.iter().filter(|w| matches!(w.source, plan::Source::Heal { .. })) {
            if let Some(user) = tables.user_of(&self.layout, &wanted.id)? {
                return Err(TxnError::InUse { id: wanted.id.clone(), why: "its contents are to be exchanged".to_owned(), user });
            }
        }
        Ok(())
    }

    /// Under the locks still: who gets them next must not meet an intent that neither lives nor has ended. What is staged
    /// goes when the transaction is dropped, after the locks.
    fn take_intent_back(&mut self, error: TxnError) -> TxnError {
        let ended = self.abort();
        if self.intent_open.is_some() {
            // Released before the store locks: whoever gets those may then end the transaction.
            drop(self.segment.take());
        }
        match self.intent_open {
            // Without a table to rename there is no marker: if the intent did reach the medium, recovery goes forward.
            Some(false) => TxnError::InDoubt { txn: self.id.clone(), source: Box::new(error) },
            _ => {
                super::begin::best_effort("end a transaction that was taken back", ended);
                error
            }
        }
    }

    /// Barrier B.
    fn write_intent(&mut self, ready: Ready) -> Result<Intent, TxnError> {
        for (id, ancestry) in &ready.rewrites {
            LayerDir::rewrite_lower(&self.stage.dir(id.as_str())?, ancestry)?;
        }
        for (dir, table, bytes) in
            [(&self.layout.layers, LAYERS_JSON, &ready.layers_json), (&self.layout.images, IMAGES_JSON, &ready.images_json)]
        {
            if dir.meta(table)?.is_none() {
                // A new store. Once layers are placed, a missing table is no longer credible as an empty one.
                dir.replace(scratch_name(table, &self.id), table, b"[]", 0o600)?;
            }
            if let Some(bytes) = bytes {
                dir.write_temp(marker_name(table, &self.id), bytes, 0o600)?;
                dir.sync()?;
            }
        }
        if let Some(bytes) = &ready.images_json {
            self.note_history(bytes)?;
        }
        let intent = ready.intent;
        let payload = plan::encode(&intent)?;
        let segment = self.segment.as_mut().ok_or(TxnError::Cancelled)?;
        segment.reserve(payload.len() as u64)?;
        self.intent_open = Some(intent.pivot().is_some());
        segment.append(Kind::Intent, &payload)?;
        segment.sync()?;
        Ok(intent)
    }
}

impl WriteTxn {
    /// What lets fsck bring names back: the records as they will be, and what others changed since the last time.
    fn note_history(&self, images_json: &[u8]) -> Result<(), TxnError> {
        let own = self.layout.root.ensure_dir(OWN, 0o700)?;
        let images = Images::parse(images_json)?;
        let id_of = |record: &str| Image::from_json(record).ok().map(|image| image.id_text().to_owned());
        let mut history = History::load(&own, id_of)?;
        // An id is a plain name, or it is no image's directory.
        let on_disk = |id: &str| Ok(id.parse::<ImageId>().is_ok() && self.layout.images.meta(id)?.is_some());
        Ok(history.note(&own, &self.id, images.iter().map(|image| (image.id_text(), image.json())), on_disk)?)
    }
}

fn facts(layout: &Layout, layers: &[WantedLayer], images: &[WantedImage]) -> Result<DiskFacts, TxnError> {
    let mut facts = DiskFacts::default();
    for wanted in layers {
        facts.layers.insert(wanted.id.clone(), Facts::read(&layout.overlay, &layout.links, &wanted.id)?);
    }
    for wanted in images {
        let mut seen = ImageFacts::default();
        if let Some(dir) = optional(layout.images.dir(wanted.id.as_str()))? {
            seen.exists = true;
            for item in &wanted.data {
                if let Some(bytes) = optional(dir.read(&item.file, 64 << 20))? {
                    seen.files.insert(item.file.clone(), Digest::of(&bytes));
                }
            }
        }
        facts.images.insert(wanted.id.clone(), seen);
    }
    Ok(facts)
}
