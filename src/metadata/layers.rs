//! Pure: no I/O. layers.json and volatile-layers.json.

use super::error::{EditError, ParseError, shorten};
use super::index::Index;
use super::layer::Layer;
use super::loose::Loose;
use super::table::Table;
use crate::ids::{Digest, LayerId};

/// The layers of one file, in its order.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    table: Table<Layer>,
    ways: Ways,
}

/// What layers are found by.
#[derive(Debug, Clone, Default)]
struct Ways {
    children: Index<LayerId>,
    diffs: Index<Digest>,
}

impl Ways {
    /// A layer comes to a slot, or leaves it.
    fn set(&mut self, slot: usize, layer: &Layer, there: bool) {
        if let Some(parent) = layer.parent().and_then(Loose::known) {
            self.children.set(parent, slot, there);
        }
        if let Some(diff) = layer.diff_digest().and_then(Loose::known) {
            self.diffs.set(diff, slot, there);
        }
    }
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
            layers.ways.set(slot, layer, true);
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
        self.ways.children.get(id).filter_map(|slot| self.table.at(slot))
    }

    /// The layers with this DiffID, in file order: whatever their parents, complete or not, mapped or not.
    pub fn by_diff_digest(&self, digest: &Digest) -> impl Iterator<Item = &Layer> {
        self.ways.diffs.get(digest).filter_map(|slot| self.table.at(slot))
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
            self.ways.set(slot, layer, true);
        }
        Ok(())
    }

    /// Adds the layers of another table whose ids are not here yet.
    pub fn join(&mut self, other: &Self) {
        for layer in other.iter().filter(|layer| layer.id().is_some_and(|id| self.get(id).is_none())).cloned().collect::<Vec<_>>() {
            if let Err(error) = self.insert(layer) {
                tracing::debug!(error = &error as &dyn std::error::Error, "a layer is not taken over");
            }
        }
    }

    /// Takes a layer out, every record with its id; `None` if there is none. Who may still need it is not
    /// looked at here.
    pub fn remove(&mut self, id: &LayerId) -> Option<Layer> {
        let taken = self.table.take(id);
        for (slot, layer) in &taken {
            self.ways.set(*slot, layer, false);
        }
        taken.into_iter().next().map(|(_, layer)| layer)
    }
}
