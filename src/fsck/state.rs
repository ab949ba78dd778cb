//! What a full check that was stopped has read already: `cstor-rs/fsck-state`.
//!
//! One JSON object: `version` 1; `done`, by layer the LINKID and the identity of `diff` that were found sound; `damaged`, the layers
//! that were not. It goes when a
//! full check comes to its end; one that cannot be read says that nothing was done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::examine::Identity;
use super::run::Run;
use super::survey::directory;
use crate::clean::CleanPoint;
use crate::fsio::{self, optional};
use crate::ids::{LayerId, LinkId};
use crate::layout::{Layout, OWN};
use crate::lock::StoreLocks;
use crate::overlay::{Seal, TreeId, read_link_id};
use crate::txn::TxnError;

const FILE: &str = "fsck-state";
const TEMP: &str = ".fsck-state.new";
const LIMIT: u64 = 64 << 20;
const VERSION: u32 = 1;

/// What was read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    done: BTreeMap<LayerId, (LinkId, TreeId)>,
    #[serde(default)]
    damaged: BTreeSet<LayerId>,
    #[serde(skip)]
    clean: Option<CleanPoint>,
}

impl Default for State {
    fn default() -> Self {
        Self { version: VERSION, done: BTreeMap::new(), damaged: BTreeSet::new(), clean: None }
    }
}

impl State {
    /// What an earlier run left.
    pub fn load(layout: &Layout) -> fsio::Result<Self> {
        let mut state = match optional(layout.root.dir(OWN))? {
            Some(own) => match own.read(FILE, LIMIT) {
                Ok(bytes) => serde_json::from_slice::<Self>(&bytes).ok().filter(|state| state.version == VERSION).unwrap_or_default(),
                Err(_) => Self::default(),
            },
            None => Self::default(),
        };
        state.clean = CleanPoint::load(layout).unwrap_or_default();
        Ok(state)
    }

    /// Whether a layer need not be read again: by this check, which was stopped, or because it was clean at the last clean point.
    pub fn is_done(&self, run: &Run<'_>, id: &LayerId) -> bool {
        let Ok(Some(dir)) = directory(&run.layout.overlay, id.as_str()) else { return false };
        let (Ok(Some(link)), Ok(diff)) = (read_link_id(&dir), dir.dir("diff")) else { return false };
        let Ok(tree) = TreeId::of(&diff) else { return false };
        let was_clean = run.how.since_clean && self.clean.as_ref().is_some_and(|clean| clean.has(id, &link));
        if was_clean && is_sealed(&run.layout, id, &link, &tree).unwrap_or(false) {
            return true;
        }
        self.done.get(id).is_some_and(|known| *known == (link, tree))
    }

    /// A layer was read and is sound.
    pub fn done(&mut self, identity: &Identity) {
        if let Some(link) = &identity.link {
            self.done.insert(identity.id.clone(), (link.clone(), identity.tree));
        }
    }

    /// A layer was read and is damaged.
    pub fn damaged(&mut self, id: &LayerId) {
        self.damaged.insert(id.clone());
    }

    /// Whether an earlier run of this check has found a layer damaged.
    pub fn is_damaged(&self, id: &LayerId) -> bool {
        self.damaged.contains(id)
    }

    /// Ends a run: one that was stopped leaves what it has read, another what is clean.
    pub fn end(&self, run: &Run<'_>, stopped: bool, clean: bool) -> Result<(), TxnError> {
        // Looking alone changes nothing, but for this: without it a check in short runs would never come to an end.
        if stopped {
            let bytes = serde_json::to_vec(self).unwrap_or_default();
            let own = run.layout.root.ensure_dir(OWN, 0o700)?;
            return Ok(own.replace(TEMP, FILE, &bytes, 0o600)?);
        }
        if let Some(own) = optional(run.layout.root.dir(OWN))?
            && own.meta(FILE)?.is_some()
        {
            optional(own.unlink(FILE))?;
        }
        if clean && run.how.repair {
            self.mark(run)?;
        }
        Ok(())
    }

    /// The clean point: besides what was clean before, what was read now and is sealed, which is to say on the medium.
    fn mark(&self, run: &Run<'_>) -> Result<(), TxnError> {
        let locked = StoreLocks::write_layers(&run.layout.layers, &run.wait())?;
        let mut point = CleanPoint::load(&run.layout)?.unwrap_or_else(|| CleanPoint::new(SystemTime::now()));
        let before = point.clone();
        for (id, (link, tree)) in &self.done {
            if is_sealed(&run.layout, id, link, tree)? {
                point.insert(id.clone(), link.clone());
            }
        }
        if let Ok(layers) = run.layout.load_layers() {
            point.keep(&layers);
        }
        if !point.says_as(&before) {
            point.time = SystemTime::now();
            point.store(&run.layout, &locked)?;
        }
        Ok(())
    }
}

/// Whether the contents that were read are still there under a seal.
fn is_sealed(layout: &Layout, id: &LayerId, link: &LinkId, tree: &TreeId) -> fsio::Result<bool> {
    let Some(dir) = directory(&layout.overlay, id.as_str())? else { return Ok(false) };
    let Some(diff) = directory(&dir, "diff")? else { return Ok(false) };
    let same = read_link_id(&dir)?.as_ref() == Some(link) && TreeId::of(&diff)? == *tree;
    let seal = dir.read(crate::overlay::SEAL, Seal::LIMIT).ok().and_then(|bytes| Seal::parse(&bytes).ok());
    Ok(same && seal.is_some_and(|seal| seal.link == *link && seal.tree == *tree))
}
