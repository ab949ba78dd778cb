//! Pure: no I/O. One record of images.json (spec section 2.2).

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{Cause, ParseError, shorten};
use super::go::{self, Change, Object};
use super::layer::created;
use super::loose::{Loose, text_of};
use super::table::{Record, decode};
use crate::ids::{Digest, ImageId, LayerId};

/// Go's keys in Go's order.
const KEYS: [&str; 12] = [
    "id",
    "digest",
    "names",
    "names-history",
    "layer",
    "mapped-layers",
    "metadata",
    "big-data-names",
    "big-data-sizes",
    "big-data-digests",
    "created",
    "flags",
];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Keys {
    id: Option<String>,
    digest: Option<String>,
    names: Option<Vec<String>>,
    names_history: Option<Vec<String>>,
    layer: Option<String>,
    mapped_layers: Option<Vec<String>>,
    metadata: Option<String>,
    big_data_names: Option<Vec<String>>,
    big_data_sizes: Option<BTreeMap<String, i64>>,
    big_data_digests: Option<BTreeMap<String, String>>,
    created: Option<String>,
    flags: Option<Map<String, Value>>,
}

/// An image as images.json has it. Unknown keys are part of [`Image::json`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    json: Box<str>,
    id: Loose<ImageId>,
    digest: Option<Loose<Digest>>,
    names: Vec<String>,
    names_history: Vec<String>,
    layer: Option<Loose<LayerId>>,
    mapped_layers: Vec<Loose<LayerId>>,
    metadata: String,
    big_data_names: Vec<String>,
    big_data_sizes: BTreeMap<String, i64>,
    big_data_digests: BTreeMap<String, Loose<Digest>>,
    created: String,
    flags: Map<String, Value>,
}

impl Record for Image {
    type Id = ImageId;

    fn from_json(json: &str) -> Result<Self, ParseError> {
        let keys: Keys = decode(json)?;
        let digests = keys.big_data_digests.unwrap_or_default();
        let digest = keys.digest.filter(|d| !d.is_empty());
        let manifests = digests.iter().filter(|(key, _)| is_manifest(key)).map(|(key, text)| (&**key, text));
        for (key, text) in digest.iter().map(|text| ("digest", text)).chain(manifests) {
            if !is_go_digest(text) {
                return Err(ParseError::new(0, Cause::Digest { key: shorten(key), text: shorten(text) }));
            }
        }
        Ok(Self {
            id: Loose::new(&keys.id.unwrap_or_default()),
            digest: Loose::optional(digest),
            names: keys.names.unwrap_or_default(),
            names_history: keys.names_history.unwrap_or_default(),
            layer: Loose::optional(keys.layer),
            mapped_layers: keys.mapped_layers.unwrap_or_default().iter().map(|id| Loose::new(id)).collect(),
            metadata: keys.metadata.unwrap_or_default(),
            big_data_names: keys.big_data_names.unwrap_or_default(),
            big_data_sizes: keys.big_data_sizes.unwrap_or_default(),
            big_data_digests: digests.into_iter().map(|(key, text)| (key, Loose::new(&text))).collect(),
            created: created(keys.created)?,
            flags: keys.flags.unwrap_or_default(),
            json: json.into(),
        })
    }

    fn json(&self) -> &str {
        &self.json
    }

    fn key(&self) -> Option<&ImageId> {
        self.id.known()
    }
}

/// Whether a big data item is a manifest, whose digest the image can be found by.
fn is_manifest(key: &str) -> bool {
    key.starts_with("manifest")
}

/// Whether Go's `digest.Validate` takes it; one that it does not take makes the whole file unreadable for Go.
fn is_go_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let wanted = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == wanted && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Image {
    /// Reads one record, for instance one that the journal kept.
    ///
    /// # Errors
    ///
    /// As [`Record::from_json`], and a digest that Go refuses.
    pub fn from_json(json: &str) -> Result<Self, ParseError> {
        Record::from_json(json)
    }

    /// The record's text, byte for byte.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The id; `None` if it is not 64 hex digits, see [`Image::id_text`].
    pub fn id(&self) -> Option<&ImageId> {
        self.id.known()
    }

    /// The id as it stands in the file.
    pub fn id_text(&self) -> &str {
        self.id.as_str()
    }

    /// The first manifest digest that was recorded; that of the index for a pull through one.
    pub fn digest(&self) -> Option<&Loose<Digest>> {
        self.digest.as_ref()
    }

    /// The names, in the file's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names it ever got by an operation on names, the latest first.
    pub fn names_history(&self) -> &[String] {
        &self.names_history
    }

    /// The top layer; `None` for an image without layers.
    pub fn layer(&self) -> Option<&Loose<LayerId>> {
        self.layer.as_ref()
    }

    /// The text of the top layer, empty if there is none.
    pub fn layer_text(&self) -> &str {
        text_of(self.layer.as_ref())
    }

    /// Copies of the top layer with shifted owners.
    pub fn mapped_layers(&self) -> &[Loose<LayerId>] {
        &self.mapped_layers
    }

    /// JSON text of c/image, or nothing.
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// The keys of the big data, in the order they were written first.
    pub fn big_data_names(&self) -> &[String] {
        &self.big_data_names
    }

    /// The sizes of the big data in bytes.
    pub fn big_data_sizes(&self) -> &BTreeMap<String, i64> {
        &self.big_data_sizes
    }

    /// The digests of the big data; those of manifests are manifest digests.
    pub fn big_data_digests(&self) -> &BTreeMap<String, Loose<Digest>> {
        &self.big_data_digests
    }

    /// The time in the image's config, as it stands there.
    pub fn created(&self) -> &str {
        &self.created
    }

    /// The flags; nothing in use.
    pub fn flags(&self) -> &Map<String, Value> {
        &self.flags
    }

    /// The digests the image can be found by: its own and those of all its manifests; one may come twice.
    pub fn lookup_digests(&self) -> impl Iterator<Item = &Digest> {
        let manifests = self.big_data_digests.iter().filter(|(key, _)| is_manifest(key)).map(|(_, digest)| digest);
        self.digest.iter().chain(manifests).filter_map(Loose::known)
    }

    /// The same record with some keys changed; the text of all others stays.
    pub(super) fn changed(&self, changes: &[Change]) -> Result<Self, ParseError> {
        let json = go::rewrite(&self.json, &KEYS, changes).map_err(|e| ParseError::new(0, Cause::Json(e.to_string())))?;
        Self::from_json(&json)
    }

    /// The same record with these names; each of them goes in front of the history, in their order.
    pub(super) fn with_names(&self, names: &[String]) -> Result<Self, ParseError> {
        let history = dedupe(names.iter().rev().chain(&self.names_history));
        self.changed(&[("names", unless_empty(names)), ("names-history", unless_empty(&history))])
    }

    /// The same record without the names that went to another image; the history stays.
    pub(super) fn without_names(&self, lost: &HashSet<&str>) -> Result<Self, ParseError> {
        let names: Vec<&String> = self.names.iter().filter(|name| !lost.contains(name.as_str())).collect();
        self.changed(&[("names", unless_empty(&names))])
    }

    /// The same record without any name and history.
    ///
    /// # Errors
    ///
    /// None in practice: an edit of a valid record is valid.
    pub fn nameless(&self) -> Result<Self, ParseError> {
        self.changed(&[("names", None), ("names-history", None)])
    }

    /// The same record with other metadata; empty leaves the key out.
    pub(super) fn with_metadata(&self, metadata: &str) -> Result<Self, ParseError> {
        self.changed(&[("metadata", (!metadata.is_empty()).then(|| go::string(metadata)))])
    }

    /// The same record with these big data items added or overwritten. A record without a digest gets that of
    /// the first manifest among them.
    pub(super) fn with_big_data(&self, items: &[BigData]) -> Result<Self, ParseError> {
        let mut names = self.big_data_names.clone();
        let mut sizes = self.big_data_sizes.clone();
        let mut digests = self.big_data_digests.clone();
        let mut digest = self.digest.clone();
        let mut known: HashSet<&str> = self.big_data_names.iter().map(String::as_str).collect();
        for item in items {
            if known.insert(&item.key) {
                names.push(item.key.clone());
            }
            sizes.insert(item.key.clone(), item.size);
            match &item.digest {
                Some(of_item) => {
                    digests.insert(item.key.clone(), of_item.clone());
                    if digest.is_none() && is_manifest(&item.key) {
                        digest = Some(of_item.clone());
                    }
                }
                None => drop(digests.remove(&item.key)),
            }
        }
        let [names, sizes, digests] = big_data_changes(&names, &sizes, &digests);
        self.changed(&[("digest", digest.map(|d| go::string(d.as_str()))), names, sizes, digests])
    }

    /// Whether anything is recorded of a big data item.
    pub(super) fn has_big_data(&self, key: &str) -> bool {
        self.big_data_sizes.contains_key(key)
            || self.big_data_digests.contains_key(key)
            || self.big_data_names.iter().any(|name| name == key)
    }

    /// The same record without a big data item; its digest stays.
    pub(super) fn without_big_data(&self, key: &str) -> Result<Self, ParseError> {
        let names: Vec<&String> = self.big_data_names.iter().filter(|name| *name != key).collect();
        let (mut sizes, mut digests) = (self.big_data_sizes.clone(), self.big_data_digests.clone());
        sizes.remove(key);
        digests.remove(key);
        self.changed(&big_data_changes(&names, &sizes, &digests))
    }

    /// What the record says of its big data, in its order.
    pub(super) fn big_data(&self) -> Vec<BigData> {
        self.big_data_names
            .iter()
            .map(|key| BigData {
                key: key.clone(),
                size: self.big_data_sizes.get(key).copied().unwrap_or_default(),
                digest: self.big_data_digests.get(key).cloned(),
            })
            .collect()
    }
}

/// What a record says of its big data, without what is empty.
fn big_data_changes(names: &[impl AsRef<str>], sizes: &BTreeMap<String, i64>, digests: &BTreeMap<String, Loose<Digest>>) -> [Change; 3] {
    [
        ("big-data-names", unless_empty(names)),
        ("big-data-sizes", (!sizes.is_empty()).then(|| go::map(sizes, i64::to_string))),
        ("big-data-digests", (!digests.is_empty()).then(|| go::map(digests, |d| go::string(d.as_str())))),
    ]
}

fn unless_empty(items: &[impl AsRef<str>]) -> Option<String> {
    (!items.is_empty()).then(|| go::strings(items))
}

/// The items without those that came before.
pub(super) fn dedupe<'a>(items: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    items.into_iter().filter(|item| seen.insert(item.as_str())).cloned().collect()
}

/// One big data item of an image, as its record describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BigData {
    /// The key; see [`super::big_data_file`] for the file.
    pub key: String,
    /// In bytes.
    pub size: i64,
    /// For manifests the manifest digest, else that of the bytes.
    pub digest: Option<Loose<Digest>>,
}

impl BigData {
    /// An item of ours.
    pub fn new(key: impl Into<String>, size: u64, digest: &Digest) -> Self {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Self { key: key.into(), size, digest: Some(Loose::Known(digest.clone())) }
    }
}

/// What a new record is made of.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The id.
    pub id: ImageId,
    /// The manifest digest; if there is none, that of the first manifest in `big_data` is taken.
    pub digest: Option<Digest>,
    /// The names it is born with; they do not enter the history.
    pub names: Vec<String>,
    /// The history it is born with.
    pub names_history: Vec<String>,
    /// The top layer.
    pub layer: Option<LayerId>,
    /// JSON text, `{}` for an unsigned image.
    pub metadata: String,
    /// In the order of writing.
    pub big_data: Vec<BigData>,
    /// The config's time, verbatim; empty or missing is Go's zero time.
    pub created: Option<String>,
}

impl NewImage {
    /// An image with nothing but an id and a top layer.
    pub fn new(id: ImageId, layer: Option<LayerId>) -> Self {
        Self {
            id,
            digest: None,
            names: Vec::new(),
            names_history: Vec::new(),
            layer,
            metadata: String::new(),
            big_data: Vec::new(),
            created: None,
        }
    }

    /// The record with Go's keys, in Go's order, empty ones left out as Go does.
    ///
    /// # Errors
    ///
    /// [`Cause::Created`] for a time that is not RFC 3339.
    pub fn build(&self) -> Result<Image, ParseError> {
        let names = dedupe(&self.names);
        let history = dedupe(&self.names_history);
        let json = Object::new()
            .raw("id", &go::string(self.id.as_str()))
            .text("digest", self.digest.as_ref().map_or("", Digest::as_str))
            .if_any(!names.is_empty(), "names", || go::strings(&names))
            .if_any(!history.is_empty(), "names-history", || go::strings(&history))
            .text("layer", self.layer.as_ref().map_or("", LayerId::as_str))
            .text("metadata", &self.metadata)
            .raw("created", &go::string(self.created.as_deref().filter(|t| !t.is_empty()).unwrap_or(super::ZERO_TIME)))
            .end();
        let image = Image::from_json(&json)?;
        if self.big_data.is_empty() { Ok(image) } else { image.with_big_data(&self.big_data) }
    }
}
