//! Where bytes come from that the store has lost.

use std::io::Read;

use crate::ids::Digest;

/// Why something could not be had.
pub type SupplyError = Box<dyn std::error::Error + Send + Sync>;

/// A layer that is wanted.
#[derive(Debug, Clone)]
pub struct WantedLayer {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The blobs that it may come as: digest, and length in bytes, 0 where it is not known.
    pub blobs: Vec<(Digest, u64)>,
    /// The names of the images that it belongs to.
    pub images: Vec<String>,
}

/// A document that is wanted.
#[derive(Debug, Clone)]
pub struct WantedDocument {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is a manifest, which registries keep apart from blobs.
    pub is_manifest: bool,
    /// The names of the image that it belongs to.
    pub images: Vec<String>,
}

/// A source of bytes by their digests: the registries of the images, or one that was named. What it gives is verified.
pub trait Supply: Sync {
    /// A layer, compressed or not.
    ///
    /// # Errors
    ///
    /// The source cannot be asked; `None`: it does not have it.
    fn layer(&self, wanted: &WantedLayer) -> Result<Option<Box<dyn Read + Send>>, SupplyError>;

    /// A manifest or config.
    ///
    /// # Errors
    ///
    /// As [`Supply::layer`].
    fn document(&self, wanted: &WantedDocument) -> Result<Option<Vec<u8>>, SupplyError>;
}
