//! OCI image layouts: `index.json` and `blobs/sha256/HEX` in a directory or in a tar file.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::blobs::BlobSource;
use super::diff_ids::{DiffIds, Documents};
use super::error::{RegistryError, Result};
use super::manifest::{self, ContentError, Descriptor, Document, Index, MANIFEST_MAX};
use super::pick::Pick;
use super::piece::Piece;
use super::platform::Platform;
use super::source::{ImageSource, Resolved, resolve, verify};
use crate::fsio::{self, Dir, File, Seam};
use crate::ids::Digest;

/// An image in an OCI layout.
#[derive(Debug)]
pub struct Layout {
    tree: Tree,
    pick: Pick,
    diff_ids: DiffIds,
}

/// What the layout is kept in.
#[derive(Debug)]
enum Tree {
    Dir { root: Dir, blobs: Dir },
    Archive(Archive),
}

impl Layout {
    /// Opens the layout in `dir`; `tag` names the entry in its index, none needed where there is only one.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Local`] for a directory that is no layout.
    pub fn open(dir: &Path, tag: Option<String>) -> Result<Self> {
        Self::pick(dir, tag.map_or(Pick::Only, Pick::Named))
    }

    /// As [`Layout::open`], whichever way the entry is meant.
    pub(super) fn pick(dir: &Path, pick: Pick) -> Result<Self> {
        let open = || {
            // The user may name a link to the layout; inside it none is followed.
            let path = std::fs::canonicalize(dir).map_err(|source| fsio::Error { call: "realpath", path: dir.into(), source })?;
            let root = Dir::open(&path, Seam::default())?;
            let blobs = root.dir("blobs")?.dir("sha256")?;
            Ok(Tree::Dir { root, blobs })
        };
        let tree = open().map_err(|source| RegistryError::Local { what: format!("OCI layout {}", dir.display()), source })?;
        Ok(Self { tree, pick, diff_ids: DiffIds::default() })
    }

    /// Opens the layout in the tar file `file`, which may be compressed with gzip or zstd: then it is unpacked into a
    /// temporary file without a name first, until `cancel` says to stop.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Local`], [`RegistryError::Archive`], [`RegistryError::Cancelled`].
    pub fn open_archive(file: &Path, pick: Pick, cancel: &CancellationToken) -> Result<Self> {
        let tree = Tree::Archive(Archive::open("OCI archive", file, cancel)?);
        Ok(Self { tree, pick, diff_ids: DiffIds::default() })
    }

    /// What the layout itself calls the image.
    ///
    /// # Errors
    ///
    /// As [`ImageSource::manifest`].
    pub fn title(&self) -> Result<Option<String>> {
        Ok(self.entry()?.1)
    }

    fn host(&self) -> String {
        match &self.tree {
            Tree::Dir { root, .. } => format!("OCI layout {}", root.path().display()),
            Tree::Archive(archive) => archive.label().to_owned(),
        }
    }

    fn missing(&self, what: &str) -> RegistryError {
        RegistryError::NotFound { what: what.to_owned(), host: self.host(), said: String::new() }
    }

    /// A blob, whatever its length.
    fn blob_piece(&self, what: &str, digest: &Digest) -> Result<Option<Piece>> {
        match &self.tree {
            Tree::Dir { blobs, .. } => file_piece(what, blobs.file(digest.hex())),
            Tree::Archive(archive) => archive.piece(&format!("blobs/sha256/{}", digest.hex())),
        }
    }

    /// A blob that must be as long as declared.
    fn piece(&self, what: &str, blob: &Descriptor) -> Result<Piece> {
        let piece = self.blob_piece(what, &blob.digest)?.ok_or_else(|| self.missing(what))?;
        if piece.len() != blob.size {
            let got = format!("{} bytes in the file", piece.len());
            return Err(RegistryError::Length { what: what.to_owned(), host: self.host(), declared: blob.size, got });
        }
        Ok(piece)
    }

    /// A whole small blob, verified. Its declared size has been checked against the limit of its kind.
    fn whole(&self, what: &str, blob: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.piece(what, blob)?.whole(what, &self.host(), blob.size)?;
        verify(what, &self.host(), &blob.digest, &bytes)?;
        Ok(bytes)
    }

    fn index(&self) -> Result<Index> {
        let what = format!("index.json of {}", self.host());
        let refuse = |source| RegistryError::Content { what: what.clone(), source };
        let piece = match &self.tree {
            Tree::Dir { root, .. } => file_piece(&what, root.file("index.json"))?,
            Tree::Archive(archive) => archive.piece("index.json")?,
        };
        let raw = piece.ok_or_else(|| self.missing("index.json"))?.whole(&what, &self.host(), MANIFEST_MAX)?;
        // An index with an empty list and no mediaType looks like an artifact to the general parser.
        match manifest::parse(&raw, None).map_err(refuse)? {
            Document::Index(index) => Ok(index),
            Document::Image(_) => Err(refuse(ContentError::Field { field: "mediaType".into(), why: "is not an index".into() })),
        }
    }

    fn entry(&self) -> Result<(Descriptor, Option<String>)> {
        let index = self.index()?;
        let refuse = |source| RegistryError::Content { what: format!("index.json of {}", self.host()), source };
        let form = match &self.tree {
            Tree::Dir { .. } => "oci:DIR:TAG",
            Tree::Archive(_) => "oci-archive:FILE:TAG",
        };
        index.pick(&self.pick).map_err(refuse)?.ok_or_else(|| RegistryError::NotFound {
            what: self.pick.what(),
            host: self.host(),
            said: self.pick.hint(index.names(), form),
        })
    }
}

/// The whole of a file, if it is there.
fn file_piece(what: &str, file: fsio::Result<File>) -> Result<Option<Piece>> {
    let local = |source| RegistryError::Local { what: what.to_owned(), source };
    let Some(file) = fsio::optional(file).map_err(local)? else { return Ok(None) };
    let len = file.len().map_err(local)?;
    Ok(Some(Piece::new(Arc::new(file), 0, len)))
}

impl ImageSource for Layout {
    fn manifest(&self, wanted: &Platform) -> Result<Resolved> {
        let (entry, _) = self.entry()?;
        let what = format!("manifest {}", entry.digest);
        resolve(&what, self.document(&entry)?, wanted, |chosen| self.document(chosen))
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        self.whole(&format!("config {}", config.digest), config)
    }

    fn blob_from(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>> {
        let what = format!("blob {}", blob.digest);
        Ok(Box::new(self.piece(&what, blob)?.reader(&what, from)))
    }
}

impl Documents for Layout {
    fn root(&self) -> Result<Document> {
        self.index().map(Document::Index)
    }

    fn document(&self, blob: &Descriptor) -> Result<Document> {
        let what = format!("manifest {}", blob.digest);
        let raw = self.whole(&what, blob)?;
        let said = Some(blob.media_type.as_str()).filter(|t| !t.is_empty());
        manifest::parse(&raw, said).map_err(|source| RegistryError::Content { what, source })
    }

    fn whole_config(&self, wanted: &Descriptor) -> Result<Vec<u8>> {
        self.config(wanted)
    }
}

impl BlobSource for Layout {
    fn blob_by_digest(&self, digest: &Digest, limit: u64) -> Result<Option<Box<dyn Read + Send>>> {
        let what = format!("blob {digest}");
        let Some(piece) = self.blob_piece(&what, digest)? else { return Ok(None) };
        piece.within(&what, &self.host(), limit)?;
        Ok(Some(Box::new(piece.reader(&what, 0))))
    }

    fn layer_by_diff_id(&self, diff_id: &Digest) -> Result<Option<Box<dyn Read + Send>>> {
        match self.diff_ids.find(diff_id, self)? {
            Some(blob) if self.blob_piece(&format!("blob {}", blob.digest), &blob.digest)?.is_some() => self.blob(&blob).map(Some),
            _ => Ok(None),
        }
    }
}
