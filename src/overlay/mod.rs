//! Layer directories of the overlay driver: what lies in `overlay/<id>/`, made and read.
//!
//! A layer's directory is identified by (id, LINKID): podman that makes the same layer again gives it another
//! LINKID, so the pair never means two different trees.

mod layer_dir;
mod lower;
mod seal;

pub use layer_dir::{Facts, LayerDir, TreeId, is_foreign, link_target, read_link_id};
pub use lower::Ancestry;
pub use seal::{Seal, SealError};

/// The name of the seal in a layer's directory.
pub const SEAL: &str = "cstor-rs.seal";
/// A seal being written into the directory of a layer that somebody else made. One that a crash left is replaced by the next.
pub const NEW_SEAL: &str = "cstor-rs.seal.new";
