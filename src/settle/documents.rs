//! Whether an image's documents are those that its record describes.

use rustix::io::Errno;
use serde::Deserialize;

use super::SettleError;
use crate::fsio::{Dir, optional};
use crate::ids::Digest;
use crate::layout::Layout;
use crate::metadata::{Image, big_data_file};

/// The most bytes of a document that are read.
const DOCUMENT_MAX: u64 = 64 << 20;

/// What is wrong with the documents of an image, if anything is.
pub(super) fn fault(layout: &Layout, image: &Image) -> Result<Option<String>, SettleError> {
    let Some(id) = image.id() else { return Ok(Some("its id is none".to_owned())) };
    let dir = match optional(layout.images.dir(id.as_str())) {
        Err(error) if error.is(Errno::NOTDIR) || error.is(Errno::LOOP) => None,
        dir => dir?,
    };
    for key in image.big_data_names() {
        let Ok(file) = big_data_file(key) else { return Ok(Some(format!("its record names a document {key:?}, which no file can hold"))) };
        let bytes = match &dir {
            Some(dir) => read(dir, &file)?,
            None => None,
        };
        match bytes {
            None => return Ok(Some(format!("its {key} is missing"))),
            Some(bytes) if !is_described(image, key, &bytes) => {
                return Ok(Some(format!("its {key} is not the one that its record describes")));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// What is no file of a sensible size is as good as missing.
fn read(dir: &Dir, file: &str) -> Result<Option<Vec<u8>>, SettleError> {
    match optional(dir.read(file, DOCUMENT_MAX)) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP) => Ok(None),
        bytes => Ok(bytes?),
    }
}

fn is_described(image: &Image, key: &str, bytes: &[u8]) -> bool {
    let sized = image.big_data_sizes().get(key).is_none_or(|said| u64::try_from(*said) == Ok(bytes.len() as u64));
    let said = image.big_data_digests().get(key).and_then(|digest| digest.known());
    sized && (said.is_none_or(|said| *said == Digest::of(bytes)) || key.starts_with("manifest") && is_schema_1(bytes))
}

/// A manifest of schema 1 may be signed in itself: its digest is then that of the rest of it.
fn is_schema_1(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(rename = "schemaVersion")]
        schema_version: u32,
    }
    serde_json::from_slice::<Manifest>(bytes).is_ok_and(|manifest| manifest.schema_version == 1)
}
