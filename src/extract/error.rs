//! Why a layer cannot be unpacked.

use std::io;

use crate::fsio;
use crate::tarsplit::{Entry, SplitError, TarError};

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ExtractError {
    /// The blob's reader failed: the network, a file.
    #[error("the blob cannot be read")]
    Source(#[source] io::Error),
    #[error("the blob is longer than the {declared} bytes that the manifest declares; refused")]
    TooLong { declared: u64 },
    #[error("the blob ends after {got} bytes, the manifest declares {declared}")]
    TooShort { declared: u64, got: u64 },
    #[error("the layer unpacks to more than {limit} bytes; refused")]
    TooLarge { limit: u64 },
    #[error("the layer has more than {limit} members; refused")]
    TooMany { limit: u64 },
    #[error("the blob is not valid {what}")]
    Decompress { what: &'static str, source: io::Error },
    #[error("the blob is compressed with {what}, which is not supported; publish the image with gzip or zstd layers")]
    Unsupported { what: &'static str },
    #[error("the tar is not valid")]
    Tar(#[source] TarError),
    #[error("the tar-split cannot be written and proved")]
    Split(#[from] SplitError),
    #[error("the layer replaces or removes more than {limit} of its own files; refused: build it without them")]
    TooManyReplaced { limit: usize },
    #[error("the layer names paths more than once in a way that its exact tar cannot be kept: {why}")]
    Inexact { why: String },
    #[error("{name}: {why}")]
    Entry { name: String, why: String },
    #[error("{name} cannot be unpacked")]
    Member { name: String, source: fsio::Error },
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error("cancelled")]
    Cancelled,
}

/// For messages of the tree.
pub(super) fn entry_error(entry: &Entry, why: impl Into<String>) -> ExtractError {
    ExtractError::Entry { name: shown(&entry.name), why: why.into() }
}

/// Puts the member's name to an error of the disk.
pub(super) fn member(entry: &Entry) -> impl FnOnce(fsio::Error) -> ExtractError + use<> {
    let name = shown(&entry.name);
    move |source| ExtractError::Member { name, source }
}

/// A tar's name made fit for a message: shortened, nothing that moves a cursor.
pub(super) fn shown(name: &[u8]) -> String {
    name.get(..name.len().min(200)).unwrap_or_default().escape_ascii().to_string()
}
