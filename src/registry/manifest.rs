//! Pure: no I/O. Manifests and indexes, OCI and docker schema 2, judged by their bytes.
//!
//! The type is guessed from the bytes as c/image guesses it when it reads a stored manifest back (store-layout,
//! big data), so that what we accept and what podman later makes of the same bytes are one thing. A document that
//! could be read both as an image and as an index is refused (CVE-2021-41190).

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

pub use super::media_type::MediaType;
use super::pick::Pick;
use super::platform::Platform;
use super::{shape, shapes};
use crate::ids::Digest;

/// The largest manifest or index, in bytes: that of c/image and of every registry.
pub const MANIFEST_MAX: u64 = 4 << 20;
/// The largest image config, in bytes.
pub const CONFIG_MAX: u64 = 8 << 20;
/// The most layers an image may have; overlay mounts end at 500 lower directories.
pub const LAYERS_MAX: usize = 500;
/// The largest layer blob, in bytes.
pub const BLOB_MAX: u64 = 1 << 40;

/// The Accept header: everything that we can name, also what we then refuse by name.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What is wrong with a document that arrived whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ContentError {
    #[error("{size} bytes, at most {max} are accepted")]
    TooLarge { size: u64, max: u64 },
    #[error("not the JSON that was expected")]
    Json { source: serde_json::Error },
    #[error("docker schema 1, which is not supported; push the image again with a newer tool")]
    Schema1,
    #[error("an artifact of type {media_type:?} and not a container image")]
    Artifact { media_type: String },
    #[error("{field}: media type {media_type:?} is not supported")]
    MediaType { field: String, media_type: String },
    #[error("{field}: a foreign layer, kept outside the registry under its urls; these are not fetched")]
    Foreign { field: String },
    #[error("{field}: {why}")]
    Field { field: String, why: String },
    #[error("ambiguous: {why}")]
    Ambiguous { why: String },
    #[error("the registry calls it {said}, but it is {is}")]
    Disagree { said: MediaType, is: MediaType },
    #[error("no image for {wanted}; there is {offered}")]
    NoPlatform { wanted: Platform, offered: String },
    #[error("an index inside an index")]
    NestedIndex,
    #[error("{diff_ids} diff_ids for {layers} layers")]
    LayerCount { diff_ids: usize, layers: usize },
}

type Result<T> = std::result::Result<T, ContentError>;

/// A blob by digest, with its exact length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// As the manifest has it; for layers it does not decide the compression, the bytes do.
    pub media_type: String,
    /// The digest of the blob as it is transferred.
    pub digest: Digest,
    /// Its length in bytes; more is refused, less is an error.
    pub size: u64,
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The bytes as they came: the store keeps these.
    pub raw: Vec<u8>,
    /// The digest of the bytes.
    pub digest: Digest,
    /// OCI manifest or docker manifest.
    pub media_type: MediaType,
    /// The image's config.
    pub config: Descriptor,
    /// The layers, lowest first; may be none.
    pub layers: Vec<Descriptor>,
}

/// A list of images for several platforms.
#[derive(Debug, Clone)]
pub struct Index {
    /// The bytes as they came: the store keeps these.
    pub raw: Vec<u8>,
    /// The digest of the bytes.
    pub digest: Digest,
    /// OCI index or docker list.
    pub media_type: MediaType,
    entries: Vec<RawDescriptor>,
}

/// What a manifest request brought.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Document {
    Image(ImageManifest),
    Index(Index),
}

/// Where a key that is there with null means something else than none, two Options tell it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    #[serde(default, deserialize_with = "there")]
    config: Option<Option<RawDescriptor>>,
    #[serde(default, deserialize_with = "there")]
    layers: Option<Option<Vec<RawDescriptor>>>,
    #[serde(default, deserialize_with = "there")]
    manifests: Option<Option<Vec<RawDescriptor>>>,
    #[serde(default, deserialize_with = "there")]
    fs_layers: Option<Option<IgnoredAny>>,
    #[serde(default, deserialize_with = "there")]
    history: Option<Option<IgnoredAny>>,
}

fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> std::result::Result<Option<Option<T>>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<serde_json::Number>,
    /// Only their number matters, and this takes no memory.
    urls: Option<Vec<IgnoredAny>>,
    platform: Option<RawPlatform>,
    annotations: Option<Annotations>,
}

/// Those that mean something here; there may be any number of others.
#[derive(Debug, Clone, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    name: Option<String>,
    /// That of containerd and buildkit, which podman prefers for a name.
    #[serde(rename = "io.containerd.image.name")]
    containerd: Option<String>,
    #[serde(rename = "io.github.containers.compression.zstd")]
    zstd: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// Reads a manifest or an index; `content_type` is what the registry called it.
///
/// # Errors
///
/// [`ContentError`] saying what is not acceptable.
pub fn parse(raw: &[u8], content_type: Option<&str>) -> Result<Document> {
    if raw.len() as u64 > MANIFEST_MAX {
        return Err(ContentError::TooLarge { size: raw.len() as u64, max: MANIFEST_MAX });
    }
    // First of all: what is read after it is of the right types and of limited number.
    shape::check(raw, &shapes::MANIFEST)?;
    let doc: Raw = serde_json::from_slice(raw).map_err(|source| ContentError::Json { source })?;
    let media_type = guess(&doc)?;
    unambiguous(media_type, &doc)?;
    // Content-Type may carry parameters; a type that is none of ours (text/plain of a simple server) says nothing.
    let said = content_type.and_then(|t| MediaType::of(t.split(';').next().unwrap_or(t).trim()));
    if let Some(said) = said.filter(|s| s.is_index() != media_type.is_index()) {
        return Err(ContentError::Disagree { said, is: media_type });
    }
    let (raw, digest) = (raw.to_vec(), Digest::of(raw));
    if media_type.is_index() {
        return Ok(Document::Index(Index { raw, digest, media_type, entries: doc.manifests.flatten().unwrap_or_default() }));
    }
    let config = doc.config.iter().flatten().next().ok_or_else(|| missing("config"))?;
    check_config(media_type, config)?;
    let config = config.check("config", CONFIG_MAX)?;
    let layers = doc.layers.iter().flatten().flatten().enumerate().map(|(i, l)| layer(i, l)).collect::<Result<_>>()?;
    Ok(Document::Image(ImageManifest { raw, digest, media_type, config, layers }))
}

/// The type by the bytes alone, as c/image guesses it.
fn guess(doc: &Raw) -> Result<MediaType> {
    if let Some(known) = doc.media_type.as_deref().and_then(MediaType::of) {
        return Ok(known);
    }
    if doc.schema_version == Some(1) || doc.fs_layers.is_some() {
        return Err(ContentError::Schema1);
    }
    if doc.schema_version != Some(2) {
        return Err(ContentError::Field { field: "schemaVersion".into(), why: "is not 2".into() });
    }
    let config = doc.config.iter().flatten().find_map(|c| c.media_type.as_deref());
    match config {
        Some(OCI_CONFIG) => Ok(MediaType::OciManifest),
        Some(DOCKER_CONFIG) => Ok(MediaType::DockerManifest),
        None if doc.manifests.iter().flatten().any(|m| !m.is_empty()) => Ok(MediaType::OciIndex),
        _ => match doc.media_type.as_deref().filter(|t| !t.is_empty()) {
            Some(other) => Err(ContentError::MediaType { field: "mediaType".into(), media_type: short(other) }),
            None => Ok(MediaType::OciManifest),
        },
    }
}

/// Refuses keys that belong to the other kind.
fn unambiguous(media_type: MediaType, doc: &Raw) -> Result<()> {
    let index = media_type.is_index();
    let foreign = [
        ("config", doc.config.is_some() && index),
        ("layers", doc.layers.is_some() && index),
        ("manifests", doc.manifests.is_some() && !index),
        ("fsLayers", doc.fs_layers.is_some()),
        ("history", doc.history.is_some()),
    ];
    match foreign.iter().find(|(_, found)| *found) {
        Some((key, _)) => Err(ContentError::Ambiguous { why: format!("{media_type} with {key:?}") }),
        None => Ok(()),
    }
}

fn check_config(media_type: MediaType, config: &RawDescriptor) -> Result<()> {
    let name = config.media_type.as_deref().unwrap_or_default();
    let known = match media_type {
        MediaType::OciManifest => name == OCI_CONFIG,
        // Docker 1.10 pushed configs as plain bytes.
        _ => matches!(name, DOCKER_CONFIG | "application/octet-stream"),
    };
    if known { Ok(()) } else { Err(ContentError::Artifact { media_type: short(name) }) }
}

fn layer(number: usize, raw: &RawDescriptor) -> Result<Descriptor> {
    let field = format!("layers[{number}]");
    let name = raw.media_type.as_deref().unwrap_or_default();
    let foreign = match name {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => false,
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => true,
        other => return Err(ContentError::MediaType { field, media_type: short(other) }),
    };
    // Without urls the registry has the bytes itself; with them it usually has not.
    if foreign && raw.urls.as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(ContentError::Foreign { field });
    }
    raw.check(&field, BLOB_MAX)
}

impl RawDescriptor {
    fn check(&self, field: &str, max: u64) -> Result<Descriptor> {
        let text = self.digest.as_deref().ok_or_else(|| missing(&format!("{field}.digest")))?;
        let digest =
            text.parse().map_err(|e: crate::ids::IdError| ContentError::Field { field: format!("{field}.digest"), why: e.to_string() })?;
        let number = self.size.as_ref().ok_or_else(|| missing(&format!("{field}.size")))?;
        let size = number
            .as_u64()
            .ok_or_else(|| ContentError::Field { field: format!("{field}.size"), why: format!("{number} is not a number of bytes") })?;
        if size > max {
            return Err(ContentError::Field { field: format!("{field}.size"), why: format!("{size} bytes, at most {max} are accepted") });
        }
        Ok(Descriptor { media_type: self.media_type.clone().unwrap_or_default(), digest, size })
    }

    fn platform(&self) -> Option<Platform> {
        let raw = self.platform.as_ref()?;
        Some(Platform {
            os: raw.os.clone().unwrap_or_default(),
            architecture: raw.architecture.clone().unwrap_or_default(),
            variant: raw.variant.clone().filter(|v| !v.is_empty()),
        })
    }

    fn is_image(&self) -> bool {
        let name = self.media_type.as_deref().unwrap_or_default();
        name.is_empty() || MediaType::of(name).is_some_and(|t| !t.is_index())
    }

    fn is_zstd(&self) -> bool {
        self.annotations.as_ref().and_then(|a| a.zstd.as_deref()) == Some("true")
    }

    /// What a layout calls it.
    fn name(&self) -> Option<&str> {
        self.annotations.as_ref()?.name.as_deref()
    }

    /// What podman calls it once it is in the store.
    fn title(&self) -> Option<&str> {
        let said = |name: &Option<String>| name.as_ref().filter(|n| !n.is_empty()).is_some();
        let annotations = self.annotations.as_ref()?;
        [&annotations.containerd, &annotations.name].into_iter().find(|name| said(name))?.as_deref()
    }
}

impl Index {
    /// The image for `wanted`: the best variant; of equals those with zstd layers, then the first listed.
    ///
    /// An OCI entry without a platform is taken only where no other fits.
    ///
    /// # Errors
    ///
    /// [`ContentError::NoPlatform`] with what there is, or what is wrong with the chosen entry.
    pub fn choose(&self, wanted: &Platform) -> Result<Descriptor> {
        let ranked = self.entries.iter().enumerate().filter(|(_, e)| e.is_image()).filter_map(|(i, e)| {
            let rank = match e.platform() {
                Some(platform) => wanted.rank(&platform)?,
                None if self.media_type == MediaType::OciIndex => usize::MAX,
                None => return None,
            };
            Some(((rank, !e.is_zstd(), i), e))
        });
        match ranked.min_by_key(|(key, _)| *key) {
            Some(((_, _, i), entry)) => entry.check(&format!("manifests[{i}]"), MANIFEST_MAX),
            None => Err(ContentError::NoPlatform { wanted: wanted.clone(), offered: self.offered() }),
        }
    }

    /// The entry that is meant, and what the layout says it is called.
    ///
    /// # Errors
    ///
    /// What is wrong with the entry; `Ok(None)` where there is none or, of the only one, more than one.
    pub fn pick(&self, pick: &Pick) -> Result<Option<(Descriptor, Option<String>)>> {
        let found = match (pick, self.entries.as_slice()) {
            (Pick::Only, [only]) => Some(only),
            (Pick::Only, _) => None,
            (Pick::Named(name), all) => all.iter().find(|e| e.name() == Some(name)),
            (Pick::Number(number), all) => all.get(*number),
        };
        found.map(|e| Ok((e.check("manifests", MANIFEST_MAX)?, e.title().map(str::to_owned)))).transpose()
    }

    /// What a layout calls its images, for a message.
    pub(super) fn names(&self) -> Vec<String> {
        self.entries.iter().enumerate().map(|(i, e)| e.name().map_or_else(|| format!("@{i}"), short)).collect()
    }

    /// The manifests that it lists, those of images and of other indexes. One that is wrong is left out.
    pub(super) fn listed(&self) -> impl Iterator<Item = Descriptor> {
        let known = |e: &&RawDescriptor| e.is_image() || e.media_type.as_deref().and_then(MediaType::of).is_some();
        self.entries.iter().filter(known).filter_map(|e| e.check("manifests", MANIFEST_MAX).ok())
    }

    fn offered(&self) -> String {
        let mut names: Vec<String> =
            self.entries.iter().filter(|e| e.is_image()).filter_map(RawDescriptor::platform).map(|p| short(&p.to_string())).collect();
        names.dedup();
        names.truncate(20);
        if names.is_empty() { "none with a platform".into() } else { names.join(", ") }
    }
}

fn missing(field: &str) -> ContentError {
    ContentError::Field { field: field.to_owned(), why: "is missing".into() }
}

fn short(text: &str) -> String {
    super::plain(text, 100)
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
