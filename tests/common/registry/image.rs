//! Images made of layer tars, as a registry would hold them.

use std::io::Write;

use cstor_rs::ids::Digest;
use serde_json::{Value, json};

use super::Registry;

/// How a layer is transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// The compressed bytes.
    pub fn compress(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::None => tar.to_vec(),
            Self::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                gzip.finish().unwrap()
            }
            Self::Zstd => zstd::stream::encode_all(tar, 1).unwrap(),
        }
    }
}

/// A layer as it goes into an image.
#[derive(Debug, Clone)]
struct Layer {
    /// The bytes of the blob.
    blob: Vec<u8>,
    diff_id: Digest,
    compression: Compression,
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    layers: Vec<Layer>,
    docker: bool,
    platform: (String, String, Option<String>),
    /// In place of the config that fits.
    config: Option<Vec<u8>>,
    command: Vec<String>,
}

/// What a registry holds of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The image's manifest.
    pub manifest: Digest,
    /// Its length in bytes.
    pub manifest_size: usize,
    /// The config.
    pub config: Digest,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Digest>,
    /// The layers' DiffIDs, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Default for ImageSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageSpec {
    /// An OCI image for linux on this machine, without layers.
    pub fn new() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { layers: Vec::new(), docker: false, platform: ("linux".into(), arch.into(), None), config: None, command: Vec::new() }
    }

    /// Adds a layer on top.
    pub fn layer(self, tar: impl AsRef<[u8]>, compression: Compression) -> Self {
        let tar = tar.as_ref();
        self.raw_layer(compression.compress(tar), Digest::of(tar), compression)
    }

    /// Adds a layer whose blob need not fit its DiffID.
    pub fn raw_layer(mut self, blob: Vec<u8>, diff_id: Digest, compression: Compression) -> Self {
        self.layers.push(Layer { blob, diff_id, compression });
        self
    }

    /// Makes it a docker schema 2 image.
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Makes it one for `OS/ARCH[/VARIANT]`.
    pub fn platform(mut self, text: &str) -> Self {
        let mut parts = text.split('/').map(str::to_owned);
        self.platform = (parts.next().unwrap(), parts.next().unwrap(), parts.next());
        self
    }

    /// What the image runs.
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// Uses these bytes as the config.
    pub fn config(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.config = Some(bytes.into());
        self
    }

    fn config_bytes(&self) -> Vec<u8> {
        if let Some(bytes) = &self.config {
            return bytes.clone();
        }
        let (os, architecture, variant) = &self.platform;
        let diff_ids: Vec<&str> = self.layers.iter().map(|l| l.diff_id.as_str()).collect();
        let mut config = json!({
            "created": "2024-05-01T12:00:00Z", "os": os, "architecture": architecture,
            "config": {"Cmd": self.command}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if let Some(variant) = variant {
            config["variant"] = json!(variant);
        }
        config.to_string().into_bytes()
    }

    fn media_type(&self) -> &'static str {
        if self.docker { "application/vnd.docker.distribution.manifest.v2+json" } else { "application/vnd.oci.image.manifest.v1+json" }
    }

    fn layer_type(&self, layer: &Layer) -> String {
        let base = if self.docker { "application/vnd.docker.image.rootfs.diff.tar" } else { "application/vnd.oci.image.layer.v1.tar" };
        let join = if self.docker { "." } else { "+" };
        match layer.compression {
            Compression::None => base.to_owned(),
            Compression::Gzip => format!("{base}{join}gzip"),
            Compression::Zstd => format!("{base}{join}zstd"),
        }
    }
}

impl Registry {
    /// Keeps an image under a name and a tag.
    pub fn add_image(&self, name: &str, tag: &str, spec: &ImageSpec) -> Pushed {
        self.push(name, Some(tag), spec)
    }

    /// Keeps several images under one tag, as an OCI index or, if the first is a docker image, a docker list.
    pub fn add_index(&self, name: &str, tag: &str, specs: &[ImageSpec]) -> (Digest, Vec<Pushed>) {
        let pushed: Vec<Pushed> = specs.iter().map(|s| self.push(name, None, s)).collect();
        let entries: Vec<Value> = specs
            .iter()
            .zip(&pushed)
            .map(|(spec, pushed)| {
                let (os, architecture, variant) = &spec.platform;
                let mut platform = json!({"os": os, "architecture": architecture});
                if let Some(variant) = variant {
                    platform["variant"] = json!(variant);
                }
                json!({"mediaType": spec.media_type(), "digest": pushed.manifest.as_str(), "size": pushed.manifest_size, "platform": platform})
            })
            .collect();
        let media_type = match specs.first() {
            Some(spec) if spec.docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            _ => "application/vnd.oci.image.index.v1+json",
        };
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string();
        (self.add_manifest(name, Some(tag), media_type, index), pushed)
    }

    fn push(&self, name: &str, tag: Option<&str>, spec: &ImageSpec) -> Pushed {
        let bytes = spec.config_bytes();
        let config_type =
            if spec.docker { "application/vnd.docker.container.image.v1+json" } else { "application/vnd.oci.image.config.v1+json" };
        let size = bytes.len();
        let config = self.add_blob(bytes);
        let layers: Vec<Digest> = spec.layers.iter().map(|l| self.add_blob(l.blob.clone())).collect();
        let listed: Vec<Value> = spec
            .layers
            .iter()
            .zip(&layers)
            .map(|(layer, digest)| json!({"mediaType": spec.layer_type(layer), "digest": digest.as_str(), "size": layer.blob.len()}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": spec.media_type(),
            "config": {"mediaType": config_type, "digest": config.as_str(), "size": size}, "layers": listed,
        })
        .to_string();
        let manifest_size = manifest.len();
        let manifest = self.add_manifest(name, tag, spec.media_type(), manifest);
        Pushed { manifest, manifest_size, config, layers, diff_ids: spec.layers.iter().map(|l| l.diff_id.clone()).collect() }
    }
}

/// A tar of regular files, 0644, owned by root, from the epoch.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}
