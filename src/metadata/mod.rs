//! The JSON tables of the store.
//!
//! `layers.json`, `images.json` and their volatile kin are lists of records that other programs write too. What
//! is read here is kept as text, and only what is edited is written anew.
//!
//! Invariants:
//! - M1: a record that is not edited keeps its text byte for byte; the table is encoded as Go encodes it.
//! - M2: in an edited record every key that the edit is not about keeps its text and its place.
//! - M3: records keep their order, new ones are appended; none is dropped but by `remove`.
//! - M4: what cannot be read is an error with its offset, never an empty list; a list that is empty although
//!   the store holds layers or images is an error too.
//! - M5: a record of ours has Go's keys in Go's order, leaves out what Go leaves out and escapes as Go escapes.

mod big_data;
mod config;
mod error;
mod go;
mod image;
mod images;
mod index;
mod layer;
mod layers;
mod load;
mod lookup;
mod loose;
mod mend;
mod table;
mod time;
mod users;
mod work;

pub use big_data::{BigDataKeyError, big_data_file, big_data_key};
pub use config::ConfigLayers;
pub use error::{Cause, EditError, LoadError, ParseError};
pub use image::{BigData, Image, NewImage};
pub use images::Images;
pub use layer::{Compression, Layer, NewLayer};
pub use layers::Layers;
pub use load::{MAX_TABLE_BYTES, Parse, load};
pub use lookup::{FoundImage, ImageRef, LookupError};
pub use loose::Loose;
pub use mend::salvage;
pub use table::{MAX_DEPTH, Record, Table};
pub use time::{ZERO_TIME, go_time, is_rfc3339, moment};
pub use users::{Container, Containers, Mountpoint, Mountpoints};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use work::count as count_work;
