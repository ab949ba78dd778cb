//! Which blob unpacks to the layer of a DiffID: told by manifests and configs, which are read as far as it takes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::config;
use super::error::{RegistryError, Result};
use super::manifest::{Descriptor, Document, ImageManifest};
use crate::ids::Digest;

/// The most manifests and indexes that are looked into.
const DOCUMENTS_MAX: usize = 2000;
/// The most layers that are remembered.
const LAYERS_MAX: usize = 100_000;

/// Where manifests and configs are read from.
pub(super) trait Documents {
    /// Where to begin: an image, or an index of them.
    fn root(&self) -> Result<Document>;
    /// A manifest or index, digest verified.
    fn document(&self, wanted: &Descriptor) -> Result<Document>;
    /// A config, digest verified.
    fn whole_config(&self, wanted: &Descriptor) -> Result<Vec<u8>>;
}

/// What is known of the layers so far.
#[derive(Debug, Default)]
pub(super) struct DiffIds(Mutex<Search>);

#[derive(Debug, Default)]
struct Search {
    begun: bool,
    pending: VecDeque<Descriptor>,
    seen: HashSet<Digest>,
    known: HashMap<Digest, Descriptor>,
}

impl DiffIds {
    /// The blob of this layer, as the first image that has the layer names it.
    pub(super) fn find(&self, diff_id: &Digest, documents: &dyn Documents) -> Result<Option<Descriptor>> {
        let mut search = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !search.begun {
            let root = documents.root()?;
            search.begun = true;
            search.tolerate(root, documents)?;
        }
        loop {
            if let Some(found) = search.known.get(diff_id) {
                return Ok(Some(found.clone()));
            }
            let Some(next) = search.pending.pop_front() else { return Ok(None) };
            match documents.document(&next) {
                Ok(document) => search.tolerate(document, documents)?,
                Err(error) => pass_over(error)?,
            }
        }
    }
}

impl Search {
    /// Takes in what a document says. One bad image must not hide the layers of the others.
    fn tolerate(&mut self, document: Document, documents: &dyn Documents) -> Result<()> {
        match document {
            Document::Index(index) => {
                for entry in index.listed() {
                    if self.seen.len() < DOCUMENTS_MAX && self.seen.insert(entry.digest.clone()) {
                        self.pending.push_back(entry);
                    }
                }
                Ok(())
            }
            Document::Image(image) => self.image(&image, documents).or_else(pass_over),
        }
    }

    fn image(&mut self, image: &ImageManifest, documents: &dyn Documents) -> Result<()> {
        let bytes = documents.whole_config(&image.config)?;
        let refuse = |source| RegistryError::Content { what: format!("config {}", image.config.digest), source };
        let config = config::parse(&bytes, image.layers.len()).map_err(refuse)?;
        for (diff_id, blob) in config.diff_ids.into_iter().zip(&image.layers) {
            if self.known.len() < LAYERS_MAX {
                self.known.entry(diff_id).or_insert_with(|| blob.clone());
            }
        }
        Ok(())
    }
}

/// What is wrong with one document is passed over; what would be wrong with each of them is not.
fn pass_over(error: RegistryError) -> Result<()> {
    match error {
        RegistryError::NotFound { .. } | RegistryError::Content { .. } | RegistryError::Digest { .. } | RegistryError::Length { .. } => {
            tracing::debug!(error = &error as &dyn std::error::Error, "an image that cannot be used is passed over");
            Ok(())
        }
        error => Err(error),
    }
}
