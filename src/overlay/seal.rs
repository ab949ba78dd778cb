//! The seal: a file in a layer's directory that says "these contents were verified and are on the medium".
//!
//! Go ignores it and deletes it with the layer. It names the inode number and birth time of `diff/`, so a store
//! copied file by file, or a `diff/` that somebody replaced, is unsealed. It is written only for contents that a
//! sync has covered.

use serde::{Deserialize, Serialize};

use super::TreeId;
use crate::ids::{Digest, LinkId};

/// What a seal says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The format of this file; 1.
    pub version: u32,
    /// The digest of the layer's uncompressed tar.
    pub diff_id: Digest,
    /// The LINKID of the layer directory.
    pub link: LinkId,
    /// The identity of `diff/`.
    pub tree: TreeId,
}

/// A seal that cannot be understood: the layer counts as unsealed.
#[derive(Debug, thiserror::Error)]
#[error("the seal is not readable")]
pub struct SealError(#[from] serde_json::Error);

impl Seal {
    /// The largest seal that is read, in bytes.
    pub const LIMIT: u64 = 4096;

    /// A seal for a verified and synced tree.
    pub fn new(diff_id: Digest, link: LinkId, tree: TreeId) -> Self {
        Self { version: 1, diff_id, link, tree }
    }

    /// The bytes of the file.
    ///
    /// # Errors
    ///
    /// Never in practice: every field has a JSON form.
    pub fn encode(&self) -> Result<Vec<u8>, SealError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    ///
    /// For anything that is not a seal of version 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        let seal: Self = serde_json::from_slice(bytes)?;
        if seal.version != 1 {
            return Err(SealError(serde::de::Error::custom("another version")));
        }
        Ok(seal)
    }

    /// Whether this seal holds for a layer with this DiffID and this directory.
    pub fn holds(&self, diff_id: &Digest, link: &LinkId, tree: &TreeId) -> bool {
        self.diff_id == *diff_id && self.link == *link && self.tree == *tree
    }
}
