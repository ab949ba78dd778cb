//! What an examination finds.

use crate::ids::Digest;

/// How something on disk differs from what the layer's tar-split says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DifferenceKind {
    /// The tar-split cannot be read to its end, or what it stands for is no tar.
    SplitUnreadable,
    /// Every file has its CRC, and yet the tar is not the one that the DiffID names.
    SplitDigest,
    /// A file's bytes are not those that its CRC was made of.
    Content,
    /// A file is longer or shorter than it was.
    Size,
    /// A regular file with a body is gone, or something else has its name.
    FileMissing,
    /// Anything else is gone: a link, a directory, a device, a fifo, an empty file, a whiteout, an opaque mark.
    NameMissing,
    /// Something of another kind has the name of what has no body.
    Kind,
    /// A symbolic link has another text.
    LinkTarget,
    /// A device has other numbers.
    Device,
    /// A hard link is a file of its own.
    HardLink,
    /// The permission bits, setuid, setgid and sticky included.
    Mode,
    /// Owner or group.
    Owner,
    /// The modification time.
    Mtime,
    /// An extended attribute is lost, has another value, or is one that the tar does not give.
    Xattr,
    /// A name that no member puts there.
    Extra,
}

impl DifferenceKind {
    /// Whether bytes must come from elsewhere to put it right.
    pub fn needs_bytes(self) -> bool {
        matches!(self, Self::SplitUnreadable | Self::SplitDigest | Self::Content | Self::Size | Self::FileMissing)
    }
}

/// One difference between a layer on disk and its tar-split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs.
    pub kind: DifferenceKind,
    /// The path inside `diff`; empty for the layer itself.
    pub path: Vec<u8>,
    /// What the tar-split says, for people.
    pub expected: String,
    /// What is on disk, for people.
    pub seen: String,
}

/// What an examination of a whole layer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The first differences, as many as were asked for.
    pub differences: Vec<Difference>,
    /// The number of further ones.
    pub more: u64,
    /// Regular files that were looked at.
    pub files: u64,
    /// The length in bytes of the tar, as far as it could be read.
    pub bytes: u64,
    /// The digest of the tar; `None` if contents were not read or are not all there.
    pub tar_digest: Option<Digest>,
}

/// Differences as they come: the first ones are kept, the others counted.
#[derive(Debug)]
pub(super) struct Findings {
    list: Vec<Difference>,
    more: u64,
    limit: usize,
}

impl Findings {
    pub(super) fn new(limit: usize) -> Self {
        Self { list: Vec::new(), more: 0, limit }
    }

    pub(super) fn add(&mut self, kind: DifferenceKind, path: &[u8], expected: impl Into<String>, seen: impl Into<String>) {
        if self.list.len() < self.limit {
            self.list.push(Difference { kind, path: path.to_vec(), expected: expected.into(), seen: seen.into() });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.more == 0
    }

    /// Takes in what another pass found.
    pub(super) fn append(&mut self, other: Self) {
        self.more = self.more.saturating_add(other.more);
        for one in other.list {
            self.add(one.kind, &one.path, one.expected, one.seen);
        }
    }

    pub(super) fn into_parts(self) -> (Vec<Difference>, u64) {
        (self.list, self.more)
    }
}
