//! Reads tables from the disk, and refuses to take lost ones for empty ones.

use std::path::PathBuf;

use super::error::{LoadError, ParseError};
use super::table::{Record, Table, says_nothing};
use super::{Images, Layers};
use crate::fsio::{Dir, Kind, optional};

/// No table is larger: 30,000 layers need some 20 MB.
pub const MAX_TABLE_BYTES: u64 = 256 << 20;

/// A whole table that can be read from bytes.
pub trait Parse: Sized {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// The first thing that is not as it should be, with its offset.
    fn parse(bytes: &[u8]) -> Result<Self, ParseError>;
}

impl<R: Record> Parse for Table<R> {
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Table::parse(bytes)
    }
}

impl Parse for Layers {
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Layers::parse(bytes)
    }
}

impl Parse for Images {
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Images::parse(bytes)
    }
}

/// Reads the table `name` of `dir`.
///
/// A file that is missing, has no bytes or says `null` is an empty table only if `evidence` holds no directory
/// with a name of 64 hex digits: `overlay/` for layers.json, `overlay-images/` for images.json, nothing for the
/// tables that may be missing. `[]` is an empty table in any case.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load<T: Parse>(dir: &Dir, name: &str, evidence: Option<&Dir>) -> Result<T, LoadError> {
    let path = || dir.path().join(name);
    let bytes = optional(dir.read(name, MAX_TABLE_BYTES)).map_err(|source| LoadError::Read { path: path(), source })?;
    let state = match &bytes {
        None => Some("is missing"),
        Some(bytes) => says_nothing(bytes),
    };
    if let (Some(state), Some(evidence)) = (state, evidence) {
        check_credible(path(), state, evidence)?;
    }
    T::parse(&bytes.unwrap_or_default()).map_err(|source| LoadError::Damaged { path: path(), source })
}

fn check_credible(path: PathBuf, state: &'static str, evidence: &Dir) -> Result<(), LoadError> {
    let entries = evidence.entries().map_err(|source| LoadError::Evidence { path: evidence.path().to_owned(), source })?;
    let is_id = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let dirs = entries.iter().filter(|(_, kind)| *kind == Kind::Dir);
    match dirs.filter_map(|(name, _)| name.to_str()).find(|name| is_id(name)) {
        None => Ok(()),
        Some(example) => Err(LoadError::Lost { path, state, evidence: evidence.path().to_owned(), example: example.to_owned() }),
    }
}
