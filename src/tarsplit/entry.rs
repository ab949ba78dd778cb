//! Pure: no I/O. One tar member with all extension headers resolved.

/// Seconds since 1970 (negative before) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What a member is. `\0` and `7`… are resolved as Go's archive/tar and containers/storage resolve them (spec section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EntryKind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
    /// A PAX global header: recorded in tar-split, nothing is extracted.
    GlobalHeader,
}

/// One tar member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as in the tar, PAX and GNU long names resolved, trailing slash kept.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The link's text or the hard link's target; empty for other kinds.
    pub link: Vec<u8>,
    /// Permission bits, 07777 at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of body that follow in the tar; 0 for kinds without a body.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Modification time.
    pub mtime: Time,
    /// Access time, where PAX gives one.
    pub atime: Option<Time>,
    /// Extended attributes of `SCHILY.xattr.*` records, in name order: name, value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether an earlier member of this tar has the same cleaned path.
    pub duplicate: bool,
}
