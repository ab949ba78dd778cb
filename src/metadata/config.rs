//! Pure: no I/O. What an image's config says of its layers.

use serde::Deserialize;

use crate::ids::Digest;

/// The part of an OCI or docker config that a store is built by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConfigLayers {
    /// When the image was made, as it stands there.
    pub created: Option<String>,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl ConfigLayers {
    /// Reads a config.
    ///
    /// # Errors
    ///
    /// What is no JSON object, or has a DiffID that is no digest.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// The DiffIDs, base first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }
}
