//! What a plan wants to know of the disk, read under the locks.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fsio::optional;
use crate::ids::{Digest, ImageId, LayerId};
use crate::layout::{Layout, Tables};
use crate::overlay::{Facts, TreeId};
use crate::pins;
use crate::plan::{Change, DiskFacts, ImageFacts, StagedData, WantedImage};

use super::TxnError;

/// The largest document that is read, in bytes.
const DOCUMENT_MAX: u64 = 64 << 20;

/// Reads the disk for a plan.
pub(super) struct Sight<'a> {
    layout: &'a Layout,
    /// The files that the transaction would write, by image.
    files: HashMap<&'a ImageId, Vec<&'a StagedData>>,
    /// What was read so far.
    pub facts: DiskFacts,
}

impl<'a> Sight<'a> {
    pub(super) fn new(layout: &'a Layout, changes: &'a [Change], images: &'a [WantedImage]) -> Self {
        let mut files: HashMap<&ImageId, Vec<&StagedData>> = HashMap::new();
        for wanted in images {
            files.entry(&wanted.id).or_default().extend(&wanted.data);
        }
        for change in changes {
            if let Change::SetData { image, items } = change {
                files.entry(image).or_default().extend(items);
            }
        }
        Self { layout, files, facts: DiskFacts::default() }
    }

    pub(super) fn layer(&mut self, id: &LayerId) -> Result<(), TxnError> {
        self.facts.layers.insert(id.clone(), Facts::read(&self.layout.overlay, &self.layout.links, id)?);
        Ok(())
    }

    pub(super) fn image(&mut self, id: &ImageId) -> Result<(), TxnError> {
        let mut seen = ImageFacts::default();
        if let Some(dir) = optional(self.layout.images.dir(id.as_str()))? {
            let meta = dir.own_meta()?;
            seen.tree = Some(TreeId { inode: meta.inode, birth: meta.birth });
            seen.changed = moment(meta.mtime);
            for item in self.files.get(id).into_iter().flatten() {
                if let Some(bytes) = optional(dir.read(&item.file, DOCUMENT_MAX))? {
                    seen.files.insert(item.file.clone(), Digest::of(&bytes));
                }
            }
        }
        self.facts.images.insert(id.clone(), seen);
        Ok(())
    }

    /// The images that are pinned.
    pub(super) fn pins(&mut self) -> Result<(), TxnError> {
        self.facts.pinned = pins::pinned(self.layout)?.into_keys().collect();
        Ok(())
    }

    /// What a plan asked for, and who uses the store.
    pub(super) fn look(&mut self, tables: &Tables, layers: &BTreeSet<LayerId>, images: &BTreeSet<ImageId>) -> Result<(), TxnError> {
        layers.iter().try_for_each(|id| self.layer(id))?;
        images.iter().try_for_each(|id| self.image(id))?;
        if self.facts.users.is_none() {
            self.facts.users = Some(tables.users(self.layout)?);
        }
        Ok(())
    }
}

fn moment((seconds, nanos): (i64, u32)) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, nanos))
}
