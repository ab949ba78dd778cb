//! Applying a layer's tar to its directory, in one streaming pass.
//!
//! ```text
//! blob -> sha256 -> decompress --buffers--> sha256 -> framing -> tar-split
//!         (one thread)                     (the other)        -> tree
//! ```
//!
//! Invariants:
//! - E1: nothing outside the layer's root is touched, whatever the tar says: parents are resolved with the root as
//!   `/` (openat2, RESOLVE_IN_ROOT), the last component is never followed.
//! - E2: the tar-split reassembles to the very tar that was read, from what is on disk after the pass.
//! - E3: memory does not grow with the layer, but for the set of paths that finds duplicates and a bounded number of
//!   bodies that were replaced. No path costs more than the 4095 bytes that the kernel takes.
//!
//! `trusted.overlay.*` attributes of a layer are not applied: they forge the overlay's own metadata (opaque
//! directories, redirects) without any whiteout in the tar. Without root the same holds for `user.overlay.*`.

mod again;
mod attributes;
mod decompress;
mod error;
mod examine;
mod layer;
mod path;
mod resolve;
mod spill;
mod strangers;
mod suspects;
mod times;
mod tree;
mod verify;

pub use again::{crc_of, digest_of_layer, write_tar};
pub use decompress::Compression;
#[cfg(feature = "registry")]
pub(crate) use decompress::zstd_decoder;
pub use error::ExtractError;
pub use examine::{Difference, DifferenceKind, Examine, Examined, Mended, examine, mend_attributes};
pub use layer::{Extracted, Options, layer};
pub use verify::{Depth, verify};
