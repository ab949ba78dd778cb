//! Pure: no I/O. One record of layers.json (spec section 2.1).

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{Cause, ParseError, shorten};
use super::go::{self, Object};
use super::loose::{Loose, text_of};
use super::table::{Record, decode};
use super::time::{ZERO_TIME, go_time, is_rfc3339};
use crate::ids::{Digest, LayerId};

/// How the blob a layer came from was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// bzip2.
    Bzip2,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// A code that only newer programs know.
    Other(i64),
}

impl Compression {
    /// The code in layers.json.
    pub fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Bzip2 => 1,
            Self::Gzip => 2,
            Self::Xz => 3,
            Self::Zstd => 4,
            Self::Other(code) => code,
        }
    }

    /// The compression with this code.
    pub fn from_code(code: i64) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Bzip2,
            2 => Self::Gzip,
            3 => Self::Xz,
            4 => Self::Zstd,
            code => Self::Other(code),
        }
    }
}

/// The keys of a record in layers.json, as they are decoded. `null` is a key that is not there, as for Go.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Keys {
    id: Option<String>,
    names: Option<Vec<String>>,
    parent: Option<String>,
    metadata: Option<String>,
    mountlabel: Option<String>,
    created: Option<String>,
    compressed_diff_digest: Option<String>,
    compressed_size: Option<i64>,
    diff_digest: Option<String>,
    toc_digest: Option<String>,
    diff_size: Option<i64>,
    compression: Option<i64>,
    uidset: Option<Vec<u32>>,
    gidset: Option<Vec<u32>>,
    flags: Option<Map<String, Value>>,
    uidmap: Option<Vec<Map<String, Value>>>,
    gidmap: Option<Vec<Map<String, Value>>>,
    big_data_names: Option<Vec<String>>,
}

/// A layer as layers.json has it. Unknown keys are part of [`Layer::json`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    json: Box<str>,
    id: Loose<LayerId>,
    names: Vec<String>,
    parent: Option<Loose<LayerId>>,
    metadata: String,
    mountlabel: String,
    created: String,
    compressed_diff_digest: Option<Loose<Digest>>,
    compressed_size: i64,
    diff_digest: Option<Loose<Digest>>,
    toc_digest: Option<Loose<Digest>>,
    diff_size: i64,
    compression: Compression,
    uidset: Vec<u32>,
    gidset: Vec<u32>,
    flags: Map<String, Value>,
    id_maps: bool,
    big_data_names: Vec<String>,
}

impl Record for Layer {
    type Id = LayerId;

    fn from_json(json: &str) -> Result<Self, ParseError> {
        let keys: Keys = decode(json)?;
        Ok(Self {
            id: Loose::new(&keys.id.unwrap_or_default()),
            names: keys.names.unwrap_or_default(),
            parent: Loose::optional(keys.parent),
            metadata: keys.metadata.unwrap_or_default(),
            mountlabel: keys.mountlabel.unwrap_or_default(),
            created: created(keys.created)?,
            compressed_diff_digest: Loose::optional(keys.compressed_diff_digest),
            compressed_size: keys.compressed_size.unwrap_or_default(),
            diff_digest: Loose::optional(keys.diff_digest),
            toc_digest: Loose::optional(keys.toc_digest),
            diff_size: keys.diff_size.unwrap_or_default(),
            compression: Compression::from_code(keys.compression.unwrap_or_default()),
            uidset: keys.uidset.unwrap_or_default(),
            gidset: keys.gidset.unwrap_or_default(),
            flags: keys.flags.unwrap_or_default(),
            id_maps: keys.uidmap.is_some_and(|m| !m.is_empty()) || keys.gidmap.is_some_and(|m| !m.is_empty()),
            big_data_names: keys.big_data_names.unwrap_or_default(),
            json: json.into(),
        })
    }

    fn json(&self) -> &str {
        &self.json
    }

    fn key(&self) -> Option<&LayerId> {
        self.id.known()
    }
}

/// The text of a time, checked; a missing one is Go's zero time.
pub(super) fn created(text: Option<String>) -> Result<String, ParseError> {
    match text {
        None => Ok(ZERO_TIME.to_owned()),
        Some(text) if is_rfc3339(&text) => Ok(text),
        Some(text) => Err(ParseError::new(0, Cause::Created { text: shorten(&text) })),
    }
}

impl Layer {
    /// Reads one record, for instance one that the journal kept.
    ///
    /// # Errors
    ///
    /// As [`Record::from_json`].
    pub fn from_json(json: &str) -> Result<Self, ParseError> {
        Record::from_json(json)
    }

    /// The record's text, byte for byte.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The id; `None` if it is not 64 hex digits, see [`Layer::id_text`].
    pub fn id(&self) -> Option<&LayerId> {
        self.id.known()
    }

    /// The id as it stands in the file.
    pub fn id_text(&self) -> &str {
        self.id.as_str()
    }

    /// The names; image layers have none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The parent, which may be foreign text; `None` for a base layer.
    pub fn parent(&self) -> Option<&Loose<LayerId>> {
        self.parent.as_ref()
    }

    /// Free text.
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// The SELinux label, or nothing.
    pub fn mountlabel(&self) -> &str {
        &self.mountlabel
    }

    /// When it was made, RFC 3339.
    pub fn created(&self) -> &str {
        &self.created
    }

    /// The same as a moment; `None` where nobody knows.
    pub fn created_at(&self) -> Option<SystemTime> {
        super::time::moment(&self.created)
    }

    /// The digest of the blob it came from.
    pub fn compressed_diff_digest(&self) -> Option<&Loose<Digest>> {
        self.compressed_diff_digest.as_ref()
    }

    /// The size of that blob in bytes, 0 if not recorded.
    pub fn compressed_size(&self) -> i64 {
        self.compressed_size
    }

    /// The DiffID; `None` for container layers.
    pub fn diff_digest(&self) -> Option<&Loose<Digest>> {
        self.diff_digest.as_ref()
    }

    /// The digest of the table of contents, for layers identified by one.
    pub fn toc_digest(&self) -> Option<&Loose<Digest>> {
        self.toc_digest.as_ref()
    }

    /// The length of the uncompressed tar in bytes; 0 if empty or not recorded, -1 if unknown.
    pub fn diff_size(&self) -> i64 {
        self.diff_size
    }

    /// How the blob was compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The user ids in the tar, sorted.
    pub fn uidset(&self) -> &[u32] {
        &self.uidset
    }

    /// The group ids in the tar, sorted.
    pub fn gidset(&self) -> &[u32] {
        &self.gidset
    }

    /// The flags (spec section 2.4).
    pub fn flags(&self) -> &Map<String, Value> {
        &self.flags
    }

    /// Whether it is being made or deleted: the flag `incomplete` is JSON `true`; a string "true" is not.
    pub fn incomplete(&self) -> bool {
        self.flags.get("incomplete") == Some(&Value::Bool(true))
    }

    /// Whether the owners in it were shifted, so that its contents are not those of its digest.
    pub fn has_id_maps(&self) -> bool {
        self.id_maps
    }

    /// The keys of its big data.
    pub fn big_data_names(&self) -> &[String] {
        &self.big_data_names
    }

    /// The text of the parent, empty for a base layer.
    pub fn parent_text(&self) -> &str {
        text_of(self.parent.as_ref())
    }
}

/// What a new record is made of.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct NewLayer {
    pub id: LayerId,
    pub names: Vec<String>,
    pub parent: Option<LayerId>,
    pub metadata: String,
    pub mountlabel: String,
    /// Becomes UTC.
    pub created: SystemTime,
    pub compressed_diff_digest: Option<Digest>,
    /// In bytes; 0 is left out.
    pub compressed_size: u64,
    pub diff_digest: Option<Digest>,
    pub toc_digest: Option<Digest>,
    /// In bytes; 0 is left out, -1 means unknown.
    pub diff_size: i64,
    pub compression: Compression,
    /// Sorted here, doubles dropped.
    pub uidset: Vec<u32>,
    /// Sorted here, doubles dropped.
    pub gidset: Vec<u32>,
    pub flags: Map<String, Value>,
    pub big_data_names: Vec<String>,
}

impl NewLayer {
    /// A layer with nothing but an id, a parent and a time of birth.
    pub fn new(id: LayerId, parent: Option<LayerId>, created: SystemTime) -> Self {
        Self {
            id,
            names: Vec::new(),
            parent,
            metadata: String::new(),
            mountlabel: String::new(),
            created,
            compressed_diff_digest: None,
            compressed_size: 0,
            diff_digest: None,
            toc_digest: None,
            diff_size: 0,
            compression: Compression::None,
            uidset: Vec::new(),
            gidset: Vec::new(),
            flags: Map::new(),
            big_data_names: Vec::new(),
        }
    }

    /// The record with Go's keys, in Go's order, empty ones left out as Go does.
    ///
    /// # Errors
    ///
    /// Flags nested deeper than a table may be.
    pub fn build(&self) -> Result<Layer, ParseError> {
        let ids = |set: &[u32]| {
            let mut set = set.to_vec();
            set.sort_unstable();
            set.dedup();
            go::numbers(&set)
        };
        let digest = |d: &Option<Digest>| d.as_ref().map_or_else(String::new, |d| d.as_str().to_owned());
        let json = Object::new()
            .raw("id", &go::string(self.id.as_str()))
            .if_any(!self.names.is_empty(), "names", || go::strings(&self.names))
            .text("parent", self.parent.as_ref().map_or("", LayerId::as_str))
            .text("metadata", &self.metadata)
            .text("mountlabel", &self.mountlabel)
            .raw("created", &go::string(&go_time(self.created)))
            .text("compressed-diff-digest", &digest(&self.compressed_diff_digest))
            .if_any(self.compressed_size != 0, "compressed-size", || self.compressed_size.to_string())
            .text("diff-digest", &digest(&self.diff_digest))
            .text("toc-digest", &digest(&self.toc_digest))
            .if_any(self.diff_size != 0, "diff-size", || self.diff_size.to_string())
            .if_any(self.compression.code() != 0, "compression", || self.compression.code().to_string())
            .if_any(!self.uidset.is_empty(), "uidset", || ids(&self.uidset))
            .if_any(!self.gidset.is_empty(), "gidset", || ids(&self.gidset))
            .if_any(!self.flags.is_empty(), "flags", || go::flags(&self.flags))
            .if_any(!self.big_data_names.is_empty(), "big-data-names", || go::strings(&self.big_data_names))
            .end();
        Layer::from_json(&json)
    }
}
