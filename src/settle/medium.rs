//! Bringing everything that was looked at to the medium.

use super::look::Look;
use super::{Outcome, SettleError, Skip};
use crate::fsio::{self, Dir};
use crate::ids::{ImageId, LayerId};
use crate::layout::{Layout, Tables};
use crate::txn::{SyncMode, filesystems, reliable};

/// The filesystems of a store, open since before anything was read.
pub(super) struct Medium {
    filesystems: Vec<Dir>,
    sync: SyncMode,
}

impl Medium {
    pub(super) fn open(layout: &Layout, wanted: SyncMode) -> Result<Self, SettleError> {
        let filesystems = filesystems(&[&layout.overlay, &layout.layers, &layout.images, &layout.root])?;
        let sync = reliable(wanted, &filesystems)?;
        Ok(Self { filesystems, sync })
    }

    /// Brings there what was verified, what is there but cannot be, both tables, and the documents of all images.
    pub(super) fn sync(&self, layout: &Layout, tables: &Tables, looks: &[Look]) -> Result<(), SettleError> {
        if self.sync == SyncMode::Filesystem {
            return Ok(self.filesystems.iter().try_for_each(Dir::sync_filesystem)?);
        }
        let unverifiable = |look: &&Look| matches!(look.outcome, Outcome::Skipped { why: Skip::IdMapped | Skip::NoTarSplit });
        let layers = looks.iter().filter(|look| look.verified.is_some() || unverifiable(look)).map(|look| &look.id);
        layers_by_file(layout, layers.collect())?;
        let images: Vec<ImageId> = tables.images.iter().filter_map(|image| image.id().cloned()).collect();
        layout.settle(&images)?;
        // The names of the store's own directories.
        Ok(layout.root.sync()?)
    }
}

/// As [`Layout::sync_layers`]; layers that other programs remove meanwhile are left out.
fn layers_by_file(layout: &Layout, mut layers: Vec<&LayerId>) -> fsio::Result<()> {
    loop {
        match layout.sync_layers(&layout.overlay, layers.iter().copied()) {
            Err(error) if error.not_found() => {
                let before = layers.len();
                let mut there = Vec::with_capacity(before);
                for id in layers {
                    if layout.overlay.meta(id.as_str())?.is_some() {
                        there.push(id);
                    }
                }
                // Something else is missing than a layer.
                if there.len() == before {
                    return Err(error);
                }
                layers = there;
            }
            result => return result,
        }
    }
}
