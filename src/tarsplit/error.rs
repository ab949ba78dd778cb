//! Pure: no I/O. What can be wrong with a tar and with a tar-split.

use std::io;

/// A name from a tar for a message: lossy text, shortened to 200 characters.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// Why a layer's tar is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream under the tar failed.
    #[error("read tar at byte {offset}")]
    Read {
        /// Bytes of the tar before it.
        offset: u64,
        /// What the stream said.
        source: io::Error,
    },
    /// The tar-split could not be written.
    #[error("write tar-split")]
    Write {
        /// What the writer said.
        source: io::Error,
    },
    /// The tar ends inside a header or a body.
    #[error("tar ends at byte {offset} inside {what}, {missing} bytes early")]
    Truncated {
        /// Bytes of the tar there are.
        offset: u64,
        /// What is cut short.
        what: &'static str,
        /// How many bytes are missing of it.
        missing: u64,
    },
    /// A block is not a tar header: its checksum is wrong.
    #[error("tar header at byte {offset}: wrong checksum")]
    Checksum {
        /// Where the block begins.
        offset: u64,
    },
    /// A single block of zeros is followed by data.
    #[error("tar has data at byte {offset} after a lone zero block")]
    LoneZeroBlock {
        /// Where the data begins.
        offset: u64,
    },
    /// A number of a header is not one, or does not fit.
    #[error("tar header at byte {offset}: {field} is not a number")]
    Number {
        /// Where the header begins.
        offset: u64,
        /// The field.
        field: &'static str,
    },
    /// A member with a body has a negative size.
    #[error("tar header at byte {offset}: negative size {size}")]
    NegativeSize {
        /// Where the header begins.
        offset: u64,
        /// The size.
        size: i64,
    },
    /// A PAX header is malformed.
    #[error("tar extended header at byte {offset}: {what}")]
    Pax {
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The extension headers of one member are too long together.
    #[error("tar extension headers up to byte {offset} exceed the limit of {limit} bytes for one member")]
    ExtensionsTooLong {
        /// Where the header that is too much begins.
        offset: u64,
        /// The limit.
        limit: u64,
    },
    /// A type that containers/storage does not extract either.
    #[error("{name}: unhandled tar header type {:?}", char::from(*kind))]
    Unhandled {
        /// The member's name.
        name: String,
        /// The type byte.
        kind: u8,
    },
    /// A sparse file in one of GNU's PAX formats.
    #[error("{name}: sparse files are not supported; create the layer without tar's --sparse")]
    Sparse {
        /// The member's name.
        name: String,
    },
    /// An owner, group or device number that the kernel cannot take.
    #[error("{name}: {field} {value} is out of range")]
    OutOfRange {
        /// The member's name.
        name: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// The reader was used again after an error.
    #[error("tar reader used after it failed")]
    Failed,
}

/// Why a tar-split cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The file cannot be read or is not gzip.
    #[error("read tar-split after entry {position}")]
    Read {
        /// Entries read before.
        position: u64,
        /// The cause.
        source: io::Error,
    },
    /// A line is longer than any writer makes them.
    #[error("tar-split entry {position} is longer than {limit} bytes")]
    LineTooLong {
        /// The entry, from 0.
        position: u64,
        /// The limit.
        limit: u64,
    },
    /// A line is not a JSON object of the known form.
    #[error("tar-split entry {position} is not valid JSON")]
    Json {
        /// The entry, from 0.
        position: u64,
        /// The cause.
        source: serde_json::Error,
    },
    /// A line is JSON and yet not an entry.
    #[error("tar-split entry {position}: {what}")]
    Entry {
        /// The entry, from 0.
        position: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file could not be opened.
    #[error("open {name}, named by the tar-split")]
    Open {
        /// The file's name in the tar.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("read {name}, named by the tar-split")]
    Body {
        /// The file's name in the tar.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// A file is not as long as the tar-split says.
    #[error("{name}: {found} bytes, the tar-split says {wanted}")]
    Size {
        /// The file's name in the tar.
        name: String,
        /// Its length; at least this where it is too long.
        found: u64,
        /// The recorded length.
        wanted: u64,
    },
    /// A file's contents are not those that the tar-split was made from.
    #[error("{name}: file integrity checksum failed: {found:016x}, the tar-split says {wanted:016x}")]
    Crc {
        /// The file's name in the tar.
        name: String,
        /// Its CRC.
        found: u64,
        /// The recorded CRC.
        wanted: u64,
    },
    /// The output could not be written.
    #[error("write what the tar-split gives")]
    Write {
        /// The cause.
        source: io::Error,
    },
    /// The tar that the tar-split describes is not valid.
    #[error("tar-split describes a tar that is not valid")]
    Tar {
        /// The cause.
        #[from]
        source: TarError,
    },
}
