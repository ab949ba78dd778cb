//! Segments of CRC-framed records with opaque payloads: one segment per transaction.
//!
//! The journal knows nothing of layers.
//!
//! Invariants:
//! - J1: a segment has its final name only after its header is on the medium and its owner's lock is on it.
//! - J2: no prefix and no damaged copy of a segment reads as another intent than the one that was written.
//! - J3: a lock on a segment says "its owner lives".
//!
#![doc = include_str!("../../docs/journal-format.md")]

mod frame;
mod segment;

pub use frame::{Chain, Header, Kind, State, header, parse_header, scan};
pub use segment::{JournalError, Listing, Opened, SEGMENT_LIMIT, Scan, Segment, SegmentName, is_held, list, set_aside};
