//! Why a table is not read, and why an edit is not made.

use std::path::PathBuf;

use crate::fsio;

/// Why a table, or one record of it, is not valid: where, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {cause}")]
pub struct ParseError {
    /// Bytes from the start of the text that was given.
    pub offset: usize,
    /// What is wrong there.
    pub cause: Cause,
}

/// What is wrong with the text of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A zero byte: the usual trace of a power cut.
    #[error("a NUL byte")]
    Nul,
    /// Bytes that are not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// The text ends too early.
    #[error("the text is cut off")]
    Truncated,
    /// Something follows the list.
    #[error("text after the end of the list")]
    Trailing,
    /// Lists and objects in each other deeper than anything the store writes.
    #[error("nested deeper than {} levels", super::table::MAX_DEPTH)]
    TooDeep,
    /// Not JSON, or another type than the key has.
    #[error("{0}")]
    Json(String),
    /// A record that is not an object.
    #[error("a record that is not an object")]
    NotAnObject,
    /// A digest that Go refuses, and with it the whole file.
    #[error("key {key:?} has {text:?}, which is not a digest")]
    Digest {
        /// The key it was found under.
        key: String,
        /// The offending text, shortened to 100 characters.
        text: String,
    },
    /// A time that is not RFC 3339.
    #[error("\"created\" has {text:?}, which is not an RFC 3339 time")]
    Created {
        /// The offending text, shortened to 100 characters.
        text: String,
    },
}

impl ParseError {
    pub(super) fn new(offset: usize, cause: Cause) -> Self {
        Self { offset, cause }
    }

    /// The same error in a text that begins `start` bytes earlier.
    pub(super) fn moved(mut self, start: usize) -> Self {
        self.offset = self.offset.saturating_add(start);
        self
    }
}

/// The text, shortened for an error.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Why a table could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It cannot be read, or is larger than [`super::MAX_TABLE_BYTES`].
    #[error("cannot read {}", path.display())]
    Read {
        /// The table.
        path: PathBuf,
        /// Which call failed.
        source: fsio::Error,
    },
    /// The directory that tells whether an empty table is credible cannot be read.
    #[error("cannot list {}", path.display())]
    Evidence {
        /// The directory.
        path: PathBuf,
        /// Which call failed.
        source: fsio::Error,
    },
    /// It is not valid.
    #[error("{} is damaged; run fsck", path.display())]
    Damaged {
        /// The table.
        path: PathBuf,
        /// Where, and what.
        source: ParseError,
    },
    /// It lists nothing although there is something to list. Taken for an empty list, it would make other
    /// programs delete what is there.
    #[error("{} {state} although {} holds {example}; run fsck", path.display(), evidence.display())]
    Lost {
        /// The table.
        path: PathBuf,
        /// `is missing`, `is empty` or `says null`.
        state: &'static str,
        /// The directory that is not empty.
        evidence: PathBuf,
        /// One of the directories in it.
        example: String,
    },
}

/// Why an edit of a table is not made. The table is then as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// A record with this id is there already.
    #[error("{what} {id} is there already")]
    Exists {
        /// `layer` or `image`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// No record has this id.
    #[error("{what} {id} is not known")]
    Unknown {
        /// `layer` or `image`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A new record needs an id of 64 hex digits.
    #[error("a new {what} cannot have the id {id:?}; 64 lowercase hex digits are needed")]
    ForeignId {
        /// `layer` or `image`.
        what: &'static str,
        /// The text, shortened to 100 characters.
        id: String,
    },
    /// A new image claims a name that another image has.
    #[error("image {id} has the name {name:?} already; use the operations on names to move it")]
    NameInUse {
        /// The name.
        name: String,
        /// The image that has it.
        id: String,
    },
    /// The same image id over another top layer.
    #[error("image {id} is there already with top layer {have:?} instead of {want:?}")]
    OtherTopLayer {
        /// The image.
        id: String,
        /// The top layer in the table.
        have: String,
        /// The top layer of the record to unite with.
        want: String,
    },
    /// The record would not be valid.
    #[error("the record of {what} {id} would not be valid")]
    Record {
        /// `layer` or `image`.
        what: &'static str,
        /// Its id.
        id: String,
        /// Where, and what.
        source: ParseError,
    },
}
