//! Pure: no I/O. layers.json and volatile-layers.json.

use std::collections::HashMap;

use super::error::{EditError, ParseError, shorten};
use super::layer::Layer;
use super::loose::Loose;
use super::table::Table;
use crate::ids::{Digest, LayerId};

/// The layers of one file, in its order.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    table: Table<Layer>,
    /// Slots by parent and by DiffID; those of removed layers stay and lead to a hole.
    children: HashMap<LayerId, Vec<usize>>,
    diffs: HashMap<Digest, Vec<usize>>,
}

impl Layers {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// As [`Table::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut layers = Self { table: Table::parse(bytes)?, ..Self::default() };
        for (slot, layer) in layers.table.slots() {
            note(&mut layers.children, &mut layers.diffs, slot, layer);
        }
        Ok(layers)
    }

    /// The whole file; see [`Table::encode`].
    pub fn encode(&self) -> Vec<u8> {
        self.table.encode()
    }

    /// All layers in file order, those with foreign or repeated ids included.
    pub fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.table.iter()
    }

    /// The layer with this id; the first if there are several.
    pub fn get(&self, id: &LayerId) -> Option<&Layer> {
        self.table.get(id)
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The layers whose parent this is, in file order.
    pub fn children(&self, id: &LayerId) -> impl Iterator<Item = &Layer> {
        self.children.get(id).into_iter().flatten().filter_map(|slot| self.table.at(*slot))
    }

    /// The layers with this DiffID, in file order: whatever their parents, complete or not, mapped or not.
    pub fn by_diff_digest(&self, digest: &Digest) -> impl Iterator<Item = &Layer> {
        self.diffs.get(digest).into_iter().flatten().filter_map(|slot| self.table.at(*slot))
    }

    /// Appends a layer.
    ///
    /// # Errors
    ///
    /// [`EditError::Exists`], [`EditError::ForeignId`].
    pub fn insert(&mut self, layer: Layer) -> Result<(), EditError> {
        let Some(id) = layer.id() else {
            return Err(EditError::ForeignId { what: "layer", id: shorten(layer.id_text()) });
        };
        if self.get(id).is_some() {
            return Err(EditError::Exists { what: "layer", id: id.to_string() });
        }
        let slot = self.table.push(layer);
        if let Some(layer) = self.table.at(slot) {
            note(&mut self.children, &mut self.diffs, slot, layer);
        }
        Ok(())
    }

    /// Takes a layer out, every record with its id; `None` if there is none. Who may still need it is not
    /// looked at here.
    pub fn remove(&mut self, id: &LayerId) -> Option<Layer> {
        self.table.take(id)
    }
}

fn note(children: &mut HashMap<LayerId, Vec<usize>>, diffs: &mut HashMap<Digest, Vec<usize>>, slot: usize, layer: &Layer) {
    if let Some(parent) = layer.parent().and_then(Loose::known) {
        children.entry(parent.clone()).or_default().push(slot);
    }
    if let Some(diff) = layer.diff_digest().and_then(Loose::known) {
        diffs.entry(diff.clone()).or_default().push(slot);
    }
}
