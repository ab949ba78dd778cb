//! Archives of `docker save`: a tar file with manifest.json, configs, and layers that are uncompressed tar files.
//!
//! Such an archive has no manifest; the one that c/image makes for it is made here too, so that podman and we store
//! the same image. It names layers by their DiffIDs, so whatever is compressed is unpacked when it is read.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::archive::{Archive, ArchiveError};
use super::blobs::BlobSource;
use super::config;
use super::docker_save::{self, SAVED_BYTES_MAX, Saved};
use super::error::{RegistryError, Result};
use super::manifest::{self, BLOB_MAX, CONFIG_MAX, ContentError, Descriptor, Document, ImageManifest};
use super::pick::Pick;
use super::piece::{Counted, Piece};
use super::platform::Platform;
use super::source::{ImageSource, Resolved, verify};
use crate::extract::Compression;
use crate::ids::Digest;

/// An image in an archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    archive: Archive,
    images: Vec<Saved>,
    pick: Pick,
    cancel: CancellationToken,
    /// What has been read of the images, by their place; each at most once.
    read: Mutex<HashMap<usize, Arc<Image>>>,
    /// The layers by the names of their files; each is measured at most once.
    measured: Mutex<HashMap<String, Layer>>,
    /// What layers unpack to, by the names of their files; each is hashed at most once.
    hashed: Mutex<HashMap<String, Digest>>,
}

/// An image whose config has been read and whose layers have been measured.
#[derive(Debug)]
struct Image {
    manifest: ImageManifest,
    config: Vec<u8>,
    layers: HashMap<Digest, Layer>,
}

#[derive(Debug, Clone)]
struct Layer {
    name: String,
    piece: Piece,
    compression: Compression,
    /// Unpacked.
    bytes: u64,
}

impl DockerArchive {
    /// Opens the archive `file`, which may be compressed with gzip or zstd: then it is unpacked into a temporary file without a
    /// name first. `cancel` ends that and every other long reading.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Local`], [`RegistryError::Archive`], [`RegistryError::Content`], [`RegistryError::Cancelled`].
    pub fn open(file: &Path, pick: Pick, cancel: &CancellationToken) -> Result<Self> {
        let archive = Archive::open("docker archive", file, cancel)?;
        let what = format!("manifest.json of {}", archive.label());
        let piece = archive.piece("manifest.json")?.ok_or_else(|| missing(&archive, "manifest.json"))?;
        let raw = piece.whole(&what, archive.label(), SAVED_BYTES_MAX)?;
        let images = docker_save::parse(&raw).map_err(|source| RegistryError::Content { what, source })?;
        let (read, measured, hashed) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { archive, images, pick, cancel: cancel.clone(), read, measured, hashed })
    }

    /// What the archive itself calls the image: the one name it was asked for by, else all it has.
    ///
    /// # Errors
    ///
    /// As [`ImageSource::manifest`].
    pub fn titles(&self) -> Result<Vec<String>> {
        Ok(self.chosen()?.1)
    }

    fn chosen(&self) -> Result<(usize, Vec<String>)> {
        docker_save::choose(&self.images, &self.pick).ok_or_else(|| RegistryError::NotFound {
            what: self.pick.what(),
            host: self.archive.label().to_owned(),
            said: self.pick.hint(docker_save::names(&self.images), "docker-archive:FILE:NAME"),
        })
    }

    /// The image at this place.
    fn image(&self, number: usize) -> Result<Arc<Image>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = read.get(&number) {
            return Ok(image.clone());
        }
        let saved = self.images.get(number).ok_or_else(|| missing(&self.archive, &format!("image @{number}")))?;
        let image = Arc::new(self.measure(saved)?);
        read.insert(number, image.clone());
        Ok(image)
    }

    fn chosen_image(&self) -> Result<Arc<Image>> {
        self.image(self.chosen()?.0)
    }

    fn config_of(&self, saved: &Saved) -> Result<Vec<u8>> {
        let what = format!("config {:?} of {}", super::plain(&saved.config, 100), self.archive.label());
        let piece = self.archive.piece(&saved.config)?.ok_or_else(|| missing(&self.archive, &what))?;
        piece.whole(&what, self.archive.label(), CONFIG_MAX)
    }

    /// The DiffIDs that a config names, one for each layer.
    fn diff_ids(&self, saved: &Saved, config: &[u8]) -> Result<Vec<Digest>> {
        let refuse = |source| RegistryError::Content { what: format!("config {:?}", super::plain(&saved.config, 100)), source };
        let layers = saved.layers.len();
        let parsed = config::parse(config, layers).map_err(refuse)?;
        match parsed.diff_ids.len() {
            count if count == layers => Ok(parsed.diff_ids),
            diff_ids => Err(refuse(ContentError::LayerCount { diff_ids, layers })),
        }
    }

    fn measure(&self, saved: &Saved) -> Result<Image> {
        let config = self.config_of(saved)?;
        let diff_ids = self.diff_ids(saved, &config)?;
        let mut layers: HashMap<Digest, Layer> = HashMap::new();
        let mut sizes = Vec::new();
        for (diff_id, name) in diff_ids.iter().zip(&saved.layers) {
            // An image may have one layer more than once.
            let bytes = match layers.get(diff_id) {
                Some(layer) => layer.bytes,
                None => {
                    let layer = self.layer(name)?;
                    let bytes = layer.bytes;
                    layers.insert(diff_id.clone(), layer);
                    bytes
                }
            };
            sizes.push((diff_id.clone(), bytes));
        }
        let what = format!("the manifest for {}", self.archive.label());
        let refuse = |source| RegistryError::Content { what: what.clone(), source };
        let raw = docker_save::manifest((&Digest::of(&config), config.len() as u64), &sizes).map_err(refuse)?;
        match manifest::parse(&raw, None).map_err(refuse)? {
            Document::Image(manifest) => Ok(Image { manifest, config, layers }),
            Document::Index(_) => Err(refuse(ContentError::NestedIndex)),
        }
    }

    fn layer(&self, name: &str) -> Result<Layer> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = measured.get(name) {
            return Ok(layer.clone());
        }
        let what = format!("layer {:?} of {}", super::plain(name, 100), self.archive.label());
        let piece = self.archive.piece_or_link(name)?.ok_or_else(|| missing(&self.archive, &what))?;
        let compression = piece.compression(&what)?.map_err(|source| self.archive.refuse(ArchiveError::Compression { source }))?;
        let bytes = match compression {
            Compression::None => piece.len(),
            compression => self.pass(&what, &piece, compression, |_| ())?,
        };
        let layer = Layer { name: name.to_owned(), piece, compression, bytes };
        measured.insert(name.to_owned(), layer.clone());
        Ok(layer)
    }

    /// Reads what a piece unpacks to, and says how much it is.
    fn pass(&self, what: &str, piece: &Piece, compression: Compression, mut see: impl FnMut(&[u8])) -> Result<u64> {
        let mut reader = piece.unpacked(what, compression)?;
        let (mut buffer, mut bytes) = (vec![0; 256 << 10], 0u64);
        loop {
            if self.cancel.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(got) => {
                    see(buffer.get(..got).unwrap_or_default());
                    bytes = bytes.saturating_add(got as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(piece.failed(what, error)),
            }
            if bytes > BLOB_MAX {
                let got = format!("more than {BLOB_MAX} bytes unpacked");
                return Err(RegistryError::Length {
                    what: what.to_owned(),
                    host: self.archive.label().to_owned(),
                    declared: BLOB_MAX,
                    got,
                });
            }
        }
    }

    /// What the layer unpacks to, from `from` on; exactly as long as it was when it was measured.
    fn open_layer(&self, layer: &Layer, from: u64) -> Result<Box<dyn Read + Send>> {
        let what = format!("layer {:?} of {}", super::plain(&layer.name, 100), self.archive.label());
        if layer.compression == Compression::None {
            return Ok(Box::new(layer.piece.reader(&what, from)));
        }
        let mut reader = Counted::new(layer.piece.unpacked(&what, layer.compression)?, layer.bytes, &what);
        let passed = io::copy(&mut (&mut reader).take(from.min(layer.bytes)), &mut io::sink());
        passed.map_err(|error| layer.piece.failed(&what, error))?;
        Ok(Box::new(reader))
    }

    /// The digest of what a layer unpacks to.
    fn hash(&self, layer: &Layer) -> Result<Digest> {
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = hashed.get(&layer.name) {
            return Ok(digest.clone());
        }
        let mut hash = Sha256::new();
        self.pass(&format!("layer {:?}", super::plain(&layer.name, 100)), &layer.piece, layer.compression, |bytes| hash.update(bytes))?;
        let digest = Digest::from_hash(&hash.finalize());
        hashed.insert(layer.name.clone(), digest.clone());
        Ok(digest)
    }

    /// The layer that really unpacks to this: one that a config says to, else any other.
    fn find_layer(&self, diff_id: &Digest) -> Result<Option<Layer>> {
        let mut candidates: Vec<(bool, &String)> = Vec::new();
        for saved in &self.images {
            // A config that is damaged says nothing; the layers are there all the same.
            let said = self.config_of(saved).and_then(|config| self.diff_ids(saved, &config)).unwrap_or_default();
            let is = |number: usize| said.get(number) == Some(diff_id);
            candidates.extend(saved.layers.iter().enumerate().map(|(number, name)| (is(number), name)));
        }
        candidates.sort_by_key(|(said, _)| !said);
        let mut failed = None;
        for (_, name) in candidates {
            match self.layer(name).and_then(|layer| Ok((self.hash(&layer)?, layer))) {
                Ok((digest, layer)) if digest == *diff_id => return Ok(Some(layer)),
                Ok(_) => {}
                Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
                // Whether it is the one that is wanted is not known; another may be.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// A config, or the manifest made for an image, by its digest.
    fn find_document(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        for saved in &self.images {
            match self.config_of(saved) {
                Ok(config) if Digest::of(&config) == *digest => return Ok(Some(config)),
                _ => {}
            }
        }
        Ok((0..self.images.len()).find_map(|number| {
            let image = self.image(number).ok()?;
            (image.manifest.digest == *digest).then(|| image.manifest.raw.clone())
        }))
    }
}

fn missing(archive: &Archive, what: &str) -> RegistryError {
    RegistryError::NotFound { what: what.to_owned(), host: archive.label().to_owned(), said: String::new() }
}

impl ImageSource for DockerArchive {
    /// There is one for each image, whatever its platform.
    fn manifest(&self, _: &Platform) -> Result<Resolved> {
        Ok(Resolved { image: self.chosen_image()?.manifest.clone(), index: None })
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        let image = self.chosen_image()?;
        verify(&format!("config {}", config.digest), self.archive.label(), &config.digest, &image.config)?;
        Ok(image.config.clone())
    }

    fn blob_from(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>> {
        let image = self.chosen_image()?;
        let layer = image.layers.get(&blob.digest).ok_or_else(|| missing(&self.archive, &format!("layer {}", blob.digest)))?;
        self.open_layer(layer, from)
    }
}

impl BlobSource for DockerArchive {
    fn blob_by_digest(&self, digest: &Digest, limit: u64) -> Result<Option<Box<dyn Read + Send>>> {
        let (what, host) = (format!("blob {digest}"), self.archive.label());
        let too_long = |bytes: u64| RegistryError::Length {
            what: what.clone(),
            host: host.to_owned(),
            declared: limit,
            got: format!("{bytes} bytes"),
        };
        // Docker since version 25 makes archives that are OCI layouts, too.
        if let Some(piece) = self.archive.piece(&format!("blobs/sha256/{}", digest.hex()))? {
            piece.within(&what, host, limit)?;
            return Ok(Some(Box::new(piece.reader(&what, 0))));
        }
        if let Some(document) = self.find_document(digest)? {
            let bytes = document.len() as u64;
            return if bytes > limit { Err(too_long(bytes)) } else { Ok(Some(Box::new(Cursor::new(document)))) };
        }
        match self.find_layer(digest)? {
            Some(layer) if layer.bytes > limit => Err(too_long(layer.bytes)),
            Some(layer) => self.open_layer(&layer, 0).map(Some),
            None => Ok(None),
        }
    }

    fn layer_by_diff_id(&self, diff_id: &Digest) -> Result<Option<Box<dyn Read + Send>>> {
        self.find_layer(diff_id)?.map(|layer| self.open_layer(&layer, 0)).transpose()
    }
}
