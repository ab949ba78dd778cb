//! Tar framing and tar-split.
//!
//! One streaming pass over a layer's tar ([`LayerReader`]) delivers its members and writes the tar-split, the
//! record from which the exact bytes can be put together again with the files on disk ([`reassemble`]).
//! Framing follows Go's archive/tar and vbatts/tar-split: what they refuse is refused here.
//!
//! - I1: segments, and bodies where File entries stand, are the exact input, whatever the input.
//! - I2: no two File entries of a finished tar-split have the same cleaned path (Go refuses them); [`rewrite`] sees to it.
//! - I3: memory is bounded by [`EXTENSIONS_MAX`] and the set of names, about 16 bytes a member.
//!
//! Deviations from Go's tar-split, all readable by Go: no size for members without a body, padding cut short by
//! the end of the input is kept, no final empty segment, no File entry for a repeated name without a body.

mod assemble;
mod crc;
mod entry;
mod error;
mod frame;
mod header;
mod headers;
mod layer;
mod members;
mod names;
mod number;
mod pax;
mod pieces;
mod reader;
mod rewrite;
mod writer;

pub use assemble::{Recorded, reassemble};
pub use crc::Crc64;
pub use entry::{Entry, EntryKind, Time};
pub use error::{SplitError, TarError};
pub use frame::EXTENSIONS_MAX;
pub use headers::{Headers, headers, plain_headers};
pub use layer::{LayerReader, Totals};
pub use members::{Members, members};
pub use names::Repeated;
pub use pieces::{Piece, Pieces};
pub use reader::{LINE_MAX, SplitEntry, SplitReader};
pub use rewrite::rewrite;
pub use writer::{SEGMENT_MAX, SplitWriter};
