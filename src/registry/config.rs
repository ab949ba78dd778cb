//! Pure: no I/O. The parts of an image's config that a store needs.

use serde::Deserialize;

use super::manifest::{CONFIG_MAX, ContentError};
use super::platform::Platform;
use super::{shape, shapes};
use crate::ids::{Digest, IdError};

/// What a store needs of an image's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// The digests of the uncompressed layers, lowest first. Empty where the config names none: then nothing but
    /// the manifest vouches for the layers, and c/image accepts that too.
    pub diff_ids: Vec<Digest>,
    /// When the image was made, RFC 3339 as written.
    pub created: Option<String>,
    /// In Go's words; may be empty.
    pub os: String,
    /// In Go's words; may be empty.
    pub architecture: String,
    /// In Go's words, where there is one.
    pub variant: Option<String>,
}

impl ImageConfig {
    /// What the image is made for; `None` where it does not say.
    pub fn platform(&self) -> Option<Platform> {
        let said = !self.os.is_empty() && !self.architecture.is_empty();
        said.then(|| Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() })
    }
}

#[derive(Deserialize)]
struct Raw {
    created: Option<String>,
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// Reads the config of an image with `layers` layers.
///
/// # Errors
///
/// [`ContentError`]: not a JSON object, too large, a DiffID that is none, or another number of them than layers.
pub fn parse(raw: &[u8], layers: usize) -> Result<ImageConfig, ContentError> {
    if raw.len() as u64 > CONFIG_MAX {
        return Err(ContentError::TooLarge { size: raw.len() as u64, max: CONFIG_MAX });
    }
    shape::check(raw, &shapes::CONFIG)?;
    let doc: Raw = serde_json::from_slice(raw).map_err(|source| ContentError::Json { source })?;
    let texts = doc.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
    let mut diff_ids = Vec::new();
    if texts.iter().any(|t| !t.is_empty()) {
        if texts.len() != layers {
            return Err(ContentError::LayerCount { diff_ids: texts.len(), layers });
        }
        for (i, text) in texts.iter().enumerate() {
            let id =
                text.parse().map_err(|e: IdError| ContentError::Field { field: format!("rootfs.diff_ids[{i}]"), why: e.to_string() })?;
            diff_ids.push(id);
        }
    }
    Ok(ImageConfig {
        diff_ids,
        created: doc.created,
        os: doc.os.unwrap_or_default(),
        architecture: doc.architecture.unwrap_or_default(),
        variant: doc.variant.filter(|variant| !variant.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn diff_ids_are_as_many_as_layers_or_none() {
        let a = format!("\"{}\"", Digest::of(b"a"));
        let config = |ids: &str| format!(r#"{{"os":"linux","created":"2024-05-01T01:02:03.5Z","rootfs":{{"diff_ids":[{ids}]}}}}"#);
        let good = parse(config(&a).as_bytes(), 1).unwrap();
        assert_eq!((good.diff_ids, good.created.as_deref()), (vec![Digest::of(b"a")], Some("2024-05-01T01:02:03.5Z")));
        assert_eq!(parse(b"{}", 3).unwrap().diff_ids, []);
        assert_eq!(parse(config(r#""","""#).as_bytes(), 3).unwrap().diff_ids, []);
        let table = [
            (config(&a), 2, "1 diff_ids for 2 layers"),
            (config(&a), 0, "1 diff_ids for 0 layers"),
            (config(&format!(r#"{a},"""#)), 2, "rootfs.diff_ids[1]: \"\" is not a digest"),
            (config("\"sha256:zz\""), 1, "rootfs.diff_ids[0]"),
            (config("7"), 1, "rootfs.diff_ids[0]: is a number, wanted a string"),
            ("[]".into(), 0, "the document: is a list, wanted an object"),
            ("null".into(), 0, "not the JSON"),
            (String::new(), 0, "not the JSON"),
            (r#"{"created":"yesterday"}"#.into(), 0, "created: is \"yesterday\", wanted a time in RFC 3339"),
        ];
        for (text, layers, want) in table {
            let error = parse(text.as_bytes(), layers).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        assert!(matches!(parse(&vec![b' '; CONFIG_MAX as usize + 1], 0), Err(ContentError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(parse(&raw, 0).is_err());
        }
    }
}
