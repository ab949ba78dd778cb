//! OCI image layouts: a directory with `index.json` and `blobs/sha256/HEX`.

use std::io::{self, Read};
use std::path::Path;

use super::error::{RegistryError, Result};
use super::manifest::{self, ContentError, Descriptor, Document, MANIFEST_MAX};
use super::platform::Platform;
use super::source::{ImageSource, Resolved, resolve, verify};
use crate::fsio::{self, Dir, File, Seam};

/// An image in an OCI layout.
#[derive(Debug)]
pub struct Layout {
    root: Dir,
    blobs: Dir,
    tag: Option<String>,
}

impl Layout {
    /// Opens the layout in `dir`; `tag` names the entry in its index, none needed where there is only one.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Local`] for a directory that is no layout.
    pub fn open(dir: &Path, tag: Option<String>) -> Result<Self> {
        let open = || {
            // The user may name a link to the layout; inside it none is followed.
            let path = std::fs::canonicalize(dir).map_err(|source| fsio::Error { call: "realpath", path: dir.into(), source })?;
            let root = Dir::open(&path, Seam::default())?;
            let blobs = root.dir("blobs")?.dir("sha256")?;
            Ok((root, blobs))
        };
        let (root, blobs) = open().map_err(|source| RegistryError::Local { what: format!("OCI layout {}", dir.display()), source })?;
        Ok(Self { root, blobs, tag })
    }

    fn host(&self) -> String {
        format!("OCI layout {}", self.root.path().display())
    }

    fn file(&self, what: &str, blob: &Descriptor) -> Result<File> {
        let file = match fsio::optional(self.blobs.file(blob.digest.hex())) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(RegistryError::NotFound { what: what.to_owned(), host: self.host(), said: String::new() }),
            Err(source) => return Err(RegistryError::Local { what: what.to_owned(), source }),
        };
        let len = file.len().map_err(|source| RegistryError::Local { what: what.to_owned(), source })?;
        if len != blob.size {
            let got = format!("{len} bytes in the file");
            return Err(RegistryError::Length { what: what.to_owned(), host: self.host(), declared: blob.size, got });
        }
        Ok(file)
    }

    /// A whole small blob, verified. Its declared size has been checked against the limit of its kind.
    fn whole(&self, what: &str, blob: &Descriptor) -> Result<Vec<u8>> {
        let file = self.file(what, blob)?;
        let bytes = file.read_all(blob.size).map_err(|source| RegistryError::Local { what: what.to_owned(), source })?;
        verify(what, &self.host(), &blob.digest, &bytes)?;
        Ok(bytes)
    }

    fn document(&self, blob: &Descriptor) -> Result<Document> {
        let what = format!("manifest {}", blob.digest);
        let raw = self.whole(&what, blob)?;
        let said = Some(blob.media_type.as_str()).filter(|t| !t.is_empty());
        manifest::parse(&raw, said).map_err(|source| RegistryError::Content { what, source })
    }

    fn entry(&self) -> Result<Descriptor> {
        let what = format!("index.json of {}", self.host());
        let refuse = |source| RegistryError::Content { what: what.clone(), source };
        let raw = self.root.read("index.json", MANIFEST_MAX).map_err(|source| RegistryError::Local { what: what.clone(), source })?;
        // An index with an empty list and no mediaType looks like an artifact to the general parser.
        let index = match manifest::parse(&raw, None).map_err(refuse)? {
            Document::Index(index) => index,
            Document::Image(_) => return Err(refuse(ContentError::Field { field: "mediaType".into(), why: "is not an index".into() })),
        };
        index.named(self.tag.as_deref()).map_err(refuse)?.ok_or_else(|| RegistryError::NotFound {
            what: self.tag.as_ref().map_or_else(|| "the only image".to_owned(), |t| format!("image {:?}", super::plain(t, 100))),
            host: self.host(),
            said: if self.tag.is_none() { "there is none or more than one; name it as oci:DIR:TAG".into() } else { String::new() },
        })
    }
}

impl ImageSource for Layout {
    fn manifest(&self, wanted: &Platform) -> Result<Resolved> {
        let entry = self.entry()?;
        let what = format!("manifest {}", entry.digest);
        resolve(&what, self.document(&entry)?, wanted, |chosen| self.document(chosen))
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        self.whole(&format!("config {}", config.digest), config)
    }

    fn blob_from(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>> {
        let what = format!("blob {}", blob.digest);
        let file = self.file(&what, blob)?;
        let at = from.min(blob.size);
        Ok(Box::new(Exact { file, at, left: blob.size - at, what }))
    }
}

/// A file that must not end early; what is behind its declared size is not read.
struct Exact {
    file: File,
    at: u64,
    left: u64,
    what: String,
}

impl Read for Exact {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.file.read_at(self.at, buf.get_mut(..most).unwrap_or_default()).map_err(|e| io::Error::new(e.kind(), e))?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{}: {} bytes missing at the end", self.what, self.left)));
        }
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}
