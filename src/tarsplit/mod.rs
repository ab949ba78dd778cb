//! Tar framing and tar-split.

mod entry;

pub use entry::{Entry, EntryKind, Time};
