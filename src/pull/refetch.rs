//! Bytes that a store has lost, by their digests: from the registries of its images, or from a source that is named.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fsck::{Supply, SupplyError, WantedDocument, WantedLayer};
use crate::registry::{self, BlobSource, Place, RegistryError};

/// The largest layer that is asked for where nobody knows its length, in bytes.
const LAYER_MAX: u64 = 1 << 40;
/// The largest document that is asked for, in bytes.
const DOCUMENT_MAX: u64 = 64 << 20;

type Source = Arc<dyn BlobSource>;

/// Fetches what fsck wants.
pub struct Refetch {
    options: registry::Options,
    source: Option<Place>,
    /// Each is opened once; `None` where it cannot be.
    opened: Mutex<HashMap<String, Source>>,
}

impl std::fmt::Debug for Refetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refetch").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Refetch {
    /// From `source`, or from the registry of each image.
    pub fn new(options: registry::Options, source: Option<Place>) -> Self {
        Self { options, source, opened: Mutex::default() }
    }

    /// The places to ask, in their order.
    fn places(&self, images: &[String]) -> Vec<String> {
        match &self.source {
            Some(source) => vec![source.to_string()],
            None => images.to_vec(),
        }
    }

    fn open(&self, text: &str) -> Result<Source, RegistryError> {
        if let Some(known) = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Ok(known.clone());
        }
        let source: Source = match &self.source {
            Some(place) => place.open_blobs(&self.options)?.into(),
            None => registry::open_blobs(text, &self.options)?.into(),
        };
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned(), source.clone());
        Ok(source)
    }

    /// The first that has it. An error counts only where nobody has it.
    fn first<T>(
        &self,
        images: &[String],
        ask: impl Fn(&dyn BlobSource) -> Result<Option<T>, RegistryError>,
    ) -> Result<Option<T>, SupplyError> {
        let mut failed: Option<RegistryError> = None;
        for place in self.places(images) {
            match self.open(&place).and_then(|source| ask(&*source)) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => {
                    tracing::info!(place, error = &error as &dyn std::error::Error, "cannot be asked");
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(None), |error| Err(error.into()))
    }
}

impl Supply for Refetch {
    fn layer(&self, wanted: &WantedLayer) -> Result<Option<Box<dyn Read + Send>>, SupplyError> {
        self.first(&wanted.images, |source| {
            for (digest, size) in &wanted.blobs {
                let limit = if *size > 0 { *size } else { LAYER_MAX };
                if let Some(blob) = source.blob_by_digest(digest, limit)? {
                    return Ok(Some(blob));
                }
            }
            // Uncompressed, as archives have it, or compressed by somebody else.
            match source.blob_by_digest(&wanted.diff_id, LAYER_MAX)? {
                Some(blob) => Ok(Some(blob)),
                None => source.layer_by_diff_id(&wanted.diff_id),
            }
        })
    }

    fn document(&self, wanted: &WantedDocument) -> Result<Option<Vec<u8>>, SupplyError> {
        let found = self.first(&wanted.images, |source| source.blob_by_digest(&wanted.digest, DOCUMENT_MAX))?;
        let Some(found) = found else { return Ok(None) };
        let mut bytes = Vec::new();
        found.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}
