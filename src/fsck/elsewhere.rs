//! Additional image stores: read only, and without their locks, as their owner may be anybody.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::fsio::{Dir, Seam};
use crate::ids::{ImageId, LayerId};
use crate::metadata::{Images, Layers};

const TABLE_MAX: u64 = 256 << 20;

/// What the additional stores hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Elsewhere {
    layers: HashSet<LayerId>,
    images: HashSet<ImageId>,
    /// Layers that have a record there and no directory, each with its store.
    hollow: Vec<(LayerId, PathBuf)>,
    /// Stores that cannot be read, and why.
    pub broken: Vec<(PathBuf, String)>,
}

impl Elsewhere {
    /// Reads them.
    pub fn read(stores: &[PathBuf]) -> Self {
        let mut elsewhere = Self::default();
        for store in stores {
            if let Err(why) = elsewhere.add(store) {
                elsewhere.broken.push((store.clone(), why));
            }
        }
        elsewhere
    }

    fn add(&mut self, store: &Path) -> Result<(), String> {
        let open = |name: &str| Dir::open(&store.join(name), Seam::default()).map_err(|error| error.to_string());
        let (overlay, layers, images) = (open("overlay")?, open("overlay-layers")?, open("overlay-images")?);
        let bytes = layers.read("layers.json", TABLE_MAX).map_err(|error| error.to_string())?;
        let table = Layers::parse(&bytes).map_err(|error| format!("layers.json: {error}"))?;
        for id in table.iter().filter_map(|layer| layer.id()) {
            match overlay.dir(id.as_str()).and_then(|dir| dir.dir("diff")) {
                Ok(_) => {
                    self.layers.insert(id.clone());
                }
                Err(_) => self.hollow.push((id.clone(), store.to_owned())),
            }
        }
        let bytes = images.read("images.json", TABLE_MAX).map_err(|error| error.to_string())?;
        let table = Images::parse(&bytes).map_err(|error| format!("images.json: {error}"))?;
        self.images.extend(table.iter().filter_map(|image| image.id().cloned()));
        Ok(())
    }

    pub fn has_layer(&self, id: &LayerId) -> bool {
        self.layers.contains(id)
    }

    pub fn has_image(&self, id: &ImageId) -> bool {
        self.images.contains(id)
    }

    /// The store in which a layer is without its contents.
    pub fn hollow(&self, id: &LayerId) -> Option<&Path> {
        self.hollow.iter().find(|(hollow, _)| hollow == id).map(|(_, store)| store.as_path())
    }
}
