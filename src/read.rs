//! Views of a store for people and programs that only look.

use crate::ids::{ImageId, LayerId};
use crate::layout::Tables;
use crate::metadata::{Image, Layer};

/// The store as it was at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    tables: Tables,
}

impl Snapshot {
    pub(crate) fn new(tables: Tables) -> Self {
        Self { tables }
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// All images, in file order.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.tables.images.iter()
    }

    /// All layers, in file order, those of running containers left out.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.tables.layers.iter()
    }

    /// The image with this id.
    pub fn image(&self, id: &ImageId) -> Option<&Image> {
        self.tables.images.get(id)
    }

    /// The image with this exact, normalised name.
    pub fn image_by_name(&self, name: &str) -> Option<&Image> {
        self.tables.images.by_name(name)
    }

    /// The layer with this id.
    pub fn layer(&self, id: &LayerId) -> Option<&Layer> {
        self.tables.layers.get(id)
    }

    /// The uncompressed size of an image: the sum over its layers, in bytes. `None` where a layer is missing or has
    /// no known size.
    pub fn image_bytes(&self, image: &Image) -> Option<u64> {
        let mut sum = 0u64;
        let mut next = image.layer().cloned();
        // A chain is at most 500 long; a loop in a hostile table must end.
        for _ in 0..1000 {
            let Some(id) = next else { return Some(sum) };
            let layer = self.tables.layers.get(id.known()?)?;
            sum = sum.checked_add(u64::try_from(layer.diff_size()).ok()?)?;
            next = layer.parent().cloned();
        }
        None
    }
}
