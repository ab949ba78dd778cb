//! Pure: no I/O. Every file name that cstor-rs makes, built and parsed here and nowhere else.

use crate::fsio;
use crate::ids::{Digest, ImageId, LayerId, Owner, TxnId};

/// The directory of cstor-rs in the graph root: invisible to every version of podman.
pub const OWN: &str = "cstor-rs";
/// Segments.
pub const JOURNAL: &str = "journal";
/// Layer trees that no record names yet.
pub const STAGE: &str = "stage";
/// Layer trees that no record names any more.
pub const TRASH: &str = "trash";
/// Files that keep images from being pruned by us.
pub const PINS: &str = "pins";
/// The clean point: what was sound and on the medium at one moment.
pub const CLEAN: &str = "clean";
/// A clean point being written.
pub const NEW_CLEAN: &str = ".clean.new";
/// Blobs of interrupted downloads.
pub const PARTIAL: &str = "partial";
/// Go's temporary directories, in `overlay/` (storage 1.59 and newer).
pub const TEMPDIRS: &str = "tempdirs";
/// The table of layers.
pub const LAYERS_JSON: &str = "layers.json";
/// The table of images.
pub const IMAGES_JSON: &str = "images.json";
/// The table of images as an edit without a journal prepares it.
pub const EDITED_IMAGES: &str = ".tmp-images.json.cstor-rs";
/// The table of layers as a repair without a journal prepares it.
pub const EDITED_LAYERS: &str = ".tmp-layers.json.cstor-rs";
/// Copies of what repairs took away.
pub const LOST_AND_FOUND: &str = "lost+found";

/// The name of a layer's tar-split in `overlay-layers/`.
pub fn split_name(id: &LayerId) -> String {
    format!("{id}.tar-split.gz")
}

/// The staging directory of a transaction inside `overlay-layers/` and `overlay-images/`.
pub fn side_stage_name(txn: &TxnId) -> String {
    format!(".cstor-rs-{txn}")
}

/// The transaction whose staging directory this is.
pub fn parse_side_stage(name: &str) -> Option<TxnId> {
    name.strip_prefix(".cstor-rs-")?.parse().ok()
}

/// The file that says that `owner` pins `image`.
pub fn pin_name(image: &ImageId, owner: &Owner) -> String {
    format!("{image}.{owner}")
}

/// The pin that a file of this name is.
pub fn parse_pin(name: &str) -> Option<(ImageId, Owner)> {
    // An id has no dot, an owner may have some.
    let (image, owner) = name.split_once('.')?;
    Some((image.parse().ok()?, owner.parse().ok()?))
}

/// The name of a blob's file in [`PARTIAL`].
pub fn partial_name(blob: &Digest) -> String {
    format!("sha256-{}", blob.hex())
}

/// The blob whose file this is.
pub fn parse_partial(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("sha256-")?).parse().ok()
}

/// What names a temporary directory of a transaction among Go's: the transaction, and a number that is never used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TempName {
    pub(super) txn: TxnId,
    number: String,
}

impl TempName {
    pub(super) fn new(txn: &TxnId) -> Result<Self, fsio::Error> {
        let random = crate::ids::random_bytes::<8>();
        let bytes = random.map_err(|source| fsio::Error { call: "getrandom", path: "/dev/urandom".into(), source })?;
        Ok(Self { txn: txn.clone(), number: u64::from_le_bytes(bytes).to_string() })
    }

    pub(super) fn dir(&self) -> String {
        format!("temp-dir-{}-{}", self.txn, self.number)
    }

    /// The lock that says that the owner of [`TempName::dir`] lives.
    pub(super) fn lock(&self) -> String {
        format!("lock-{}-{}", self.txn, self.number)
    }

    /// What a directory or a lock is called by; Go's own end in digits alone.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (txn, number) = name.strip_prefix("temp-dir-").or_else(|| name.strip_prefix("lock-"))?.split_once('-')?;
        let plain = !number.is_empty() && number.len() <= 20 && number.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| Some(Self { txn: txn.parse().ok()?, number: number.to_owned() })).flatten()
    }
}

/// A prepared table that waits for its rename: the marker of a step not yet done.
pub fn marker_name(table: &str, txn: &TxnId) -> String {
    format!(".tmp-{table}.{txn}")
}

/// The second table of one name in a transaction that both adds and removes.
pub fn second_marker_name(table: &str, txn: &TxnId) -> String {
    format!(".tmp-{table}.{txn}.2")
}

/// A table being written, to replace a marker or to be renamed at once.
pub fn scratch_name(table: &str, txn: &TxnId) -> String {
    format!(".tmp-{table}.{txn}.scratch")
}

/// The transaction whose marker or scratch file this is.
pub fn parse_marker(name: &str) -> Option<TxnId> {
    let rest = name.strip_prefix(".tmp-")?;
    let rest = rest.strip_prefix(LAYERS_JSON).or_else(|| rest.strip_prefix(IMAGES_JSON))?.strip_prefix('.')?;
    [".scratch", ".2"].iter().find_map(|end| rest.strip_suffix(end)).unwrap_or(rest).parse().ok()
}
