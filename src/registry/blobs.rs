//! Blobs by digest alone: for whoever knows what is missing, and needs no image.

use std::io::{Cursor, Read};

use super::blob::BlobReader;
use super::diff_ids::Documents;
use super::error::{RegistryError, Result};
use super::manifest::{Descriptor, Document, MANIFEST_MAX};
use super::source::{ImageSource, Place};
use super::{DockerArchive, Layout, Options, Registry};
use crate::ids::Digest;

/// Something that may have a blob: a repository of a registry, a layout, an archive.
///
/// Which image of it was named does not matter, but for a registry's [`BlobSource::layer_by_diff_id`]. `None`: it is not
/// there; any error means that it is not known. The digest is the reader's to check, in the same pass that uses the bytes.
///
/// Every call blocks; none may be made from inside an async task. The calls may be made from several threads.
pub trait BlobSource: Send + Sync {
    /// A layer as it is transferred, a config or a manifest, by the digest of these bytes; no longer than `limit`.
    ///
    /// Layers of a docker-archive are transferred uncompressed: there the digest is the DiffID.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Length`] for one that is longer, [`RegistryError`] naming the object, here or inside what the reader
    /// returns ([`RegistryError::within`]).
    fn blob_by_digest(&self, digest: &Digest, limit: u64) -> Result<Option<Box<dyn Read + Send>>>;

    /// A layer by the digest of what it unpacks to, as it is transferred: it may be compressed.
    ///
    /// Manifests and configs say which it is; of a registry those of the image that was named, for every platform.
    ///
    /// # Errors
    ///
    /// As [`BlobSource::blob_by_digest`].
    fn layer_by_diff_id(&self, diff_id: &Digest) -> Result<Option<Box<dyn Read + Send>>>;
}

/// Opens what a user names as a source of blobs: a registry's repository, `oci:DIR`, `oci-archive:FILE`,
/// `docker-archive:FILE`. Tags need not be given.
///
/// # Errors
///
/// Those of [`Place::find`] and [`Place::open_blobs`].
pub fn open_blobs(text: &str, options: &Options) -> Result<Box<dyn BlobSource>> {
    Place::find(text, &options.system)?.open_blobs(options)
}

impl Place {
    /// Opens the source for blobs by digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] naming the object.
    pub fn open_blobs(&self, options: &Options) -> Result<Box<dyn BlobSource>> {
        Ok(match self {
            Self::Registry(reference) => Box::new(Registry::connect(reference.clone(), options)?),
            Self::Layout { dir, tag } => Box::new(Layout::open(dir, tag.clone())?),
            Self::OciArchive { file, pick } => Box::new(Layout::open_archive(file, pick.clone(), &options.cancel)?),
            Self::DockerArchive { file, pick } => Box::new(DockerArchive::open(file, pick.clone(), &options.cancel)?),
        })
    }
}

impl BlobSource for Registry {
    fn blob_by_digest(&self, digest: &Digest, limit: u64) -> Result<Option<Box<dyn Read + Send>>> {
        // The registry's word for the length: it is refused here, before anything of that length is read.
        if let Some(size) = self.blob_bytes(digest)? {
            if size > limit {
                let (what, host) = (format!("blob {digest}"), self.reference().host().to_owned());
                return Err(RegistryError::Length { what, host, declared: limit, got: format!("{size} bytes announced") });
            }
            let blob = Descriptor { media_type: String::new(), digest: digest.clone(), size };
            return Ok(Some(Box::new(BlobReader::open(self.shared(), &blob, 0)?)));
        }
        match self.raw_manifest(digest, limit.min(MANIFEST_MAX))? {
            Some(raw) => Ok(Some(Box::new(Cursor::new(raw)))),
            None => Ok(None),
        }
    }

    fn layer_by_diff_id(&self, diff_id: &Digest) -> Result<Option<Box<dyn Read + Send>>> {
        match self.diff_ids().find(diff_id, self)? {
            Some(blob) => absent(self.blob(&blob)),
            None => Ok(None),
        }
    }
}

impl Documents for Registry {
    fn root(&self) -> Result<Document> {
        self.named()
    }

    fn document(&self, wanted: &Descriptor) -> Result<Document> {
        self.listed(wanted)
    }

    fn whole_config(&self, wanted: &Descriptor) -> Result<Vec<u8>> {
        self.config(wanted)
    }
}

/// `None` for what the registry does not have.
pub(super) fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(RegistryError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
