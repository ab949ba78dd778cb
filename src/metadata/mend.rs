//! Pure: no I/O. Records put right, and what can be saved of a table that cannot be read.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::error::{Cause, ParseError};
use super::go;
use super::image::{BigData, Image};
use super::images::Images;
use super::layer::Layer;
use super::layers::Layers;
use super::table::Record;
use crate::ids::{Digest, LayerId};

/// The keys of a layer's record in Go's order.
const LAYER_KEYS: [&str; 18] = [
    "id",
    "names",
    "parent",
    "metadata",
    "mountlabel",
    "created",
    "compressed-diff-digest",
    "compressed-size",
    "diff-digest",
    "toc-digest",
    "diff-size",
    "compression",
    "uidset",
    "gidset",
    "flags",
    "uidmap",
    "gidmap",
    "big-data-names",
];

impl Layer {
    fn changed(&self, changes: &[go::Change]) -> Result<Self, ParseError> {
        let json = go::rewrite(self.json(), &LAYER_KEYS, changes).map_err(|e| ParseError::new(0, Cause::Json(e.to_string())))?;
        Self::from_json(&json)
    }

    /// The same record on this parent, with this DiffID.
    ///
    /// # Errors
    ///
    /// None in practice: an edit of a valid record is valid.
    pub fn with_contents(&self, parent: Option<&LayerId>, diff_digest: &Digest) -> Result<Self, ParseError> {
        self.changed(&[("parent", parent.map(|id| go::string(id.as_str()))), ("diff-digest", Some(go::string(diff_digest.as_str())))])
    }

    /// The same record with the length of its tar in bytes; 0 leaves the key out, as Go does.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn with_size(&self, bytes: u64) -> Result<Self, ParseError> {
        self.changed(&[("diff-size", (bytes > 0).then(|| bytes.to_string()))])
    }

    /// The same record without the flag that says incomplete.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn completed(&self) -> Result<Self, ParseError> {
        let mut flags = self.flags().clone();
        flags.remove("incomplete");
        self.changed(&[("flags", (!flags.is_empty()).then(|| go::flags(&flags)))])
    }
}

impl Image {
    /// The same record over another top layer.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn with_layer(&self, top: &LayerId) -> Result<Self, ParseError> {
        self.changed(&[("layer", Some(go::string(top.as_str())))])
    }

    /// The same record with just these names; the history stays.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn only_named(&self, names: &[String]) -> Result<Self, ParseError> {
        self.changed(&[("names", (!names.is_empty()).then(|| go::strings(names)))])
    }

    /// The same record with these items of big data besides, or instead of those of the same keys.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn with_documents(&self, items: &[BigData]) -> Result<Self, ParseError> {
        self.with_big_data(items)
    }

    /// The same record without these items of big data.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn without_documents(&self, keys: &[String]) -> Result<Self, ParseError> {
        keys.iter().try_fold(self.clone(), |image, key| image.without_big_data(key))
    }
}

impl Layers {
    /// The same table with these records in the places of those of their ids.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn replaced(&self, new: &[Layer]) -> Result<Self, ParseError> {
        let by_id: HashMap<&str, &Layer> = new.iter().map(|new| (new.id_text(), new)).collect();
        Self::parse(&list(self.iter().map(|old| by_id.get(old.id_text()).copied().unwrap_or(old).json())))
    }

    /// The same table with these records at its end.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn extended(&self, new: &[Layer]) -> Result<Self, ParseError> {
        Self::parse(&list(self.iter().chain(new).map(Layer::json)))
    }
}

impl Images {
    /// The same table with these records in the places of those of their ids.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn replaced(&self, new: &[Image]) -> Result<Self, ParseError> {
        let by_id: HashMap<&str, &Image> = new.iter().map(|new| (new.id_text(), new)).collect();
        Self::parse(&list(self.iter().map(|old| by_id.get(old.id_text()).copied().unwrap_or(old).json())))
    }

    /// The same table with these records at its end.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn extended(&self, new: &[Image]) -> Result<Self, ParseError> {
        Self::parse(&list(self.iter().chain(new).map(Image::json)))
    }

    /// The same table in which each name is only the last one's that has it.
    ///
    /// # Errors
    ///
    /// As [`Layer::with_contents`].
    pub fn without_shadowed_names(&self) -> Result<Self, ParseError> {
        let mut vain: HashMap<&str, HashSet<&str>> = HashMap::new();
        for (name, image) in self.shadowed_names() {
            vain.entry(image.id_text()).or_default().insert(name);
        }
        let changed: Vec<Image> = self
            .iter()
            .filter_map(|image| Some((image, vain.get(image.id_text())?)))
            .map(|(image, vain)| image.without_names(vain))
            .collect::<Result<_, _>>()?;
        self.replaced(&changed)
    }
}

fn list<'a>(records: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = vec![b'['];
    for (n, record) in records.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(record.as_bytes());
    }
    out.push(b']');
    out
}

/// The whole records at the start of a table that cannot be read to its end.
pub fn salvage<R: Record>(bytes: &[u8]) -> Vec<R> {
    let mut found = Vec::new();
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let Some(mut rest) = valid.trim_ascii_start().strip_prefix('[') else { return found };
    loop {
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_ascii_start();
        if !rest.starts_with('{') {
            return found;
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Box<RawValue>>();
        let Some(Ok(value)) = values.next() else { return found };
        let end = values.byte_offset();
        match R::from_json(value.get()) {
            Ok(record) => found.push(record),
            Err(_) => return found,
        }
        rest = rest.get(end..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_records_are_saved_up_to_the_damage() {
        let record = |c: &str| format!(r#"{{"id":"{}","created":"2024-01-01T00:00:00Z"}}"#, c.repeat(64));
        let whole = format!("[{},{},{}]", record("a"), record("b"), record("c"));
        let ids = |bytes: &[u8]| -> Vec<String> { salvage::<Layer>(bytes).iter().map(|layer| layer.id_text()[..1].to_owned()).collect() };
        assert_eq!(ids(whole.as_bytes()), ["a", "b", "c"]);
        for end in 0..whole.len() {
            let saved = ids(&whole.as_bytes()[..end]);
            let want: Vec<&str> = ["a", "b", "c"].into_iter().take(end.saturating_sub(1) / (record("a").len() + 1)).collect();
            assert!(saved == want || saved.len() == want.len() + 1, "{end}: {saved:?} {want:?}");
        }
        let mut nul = whole.clone().into_bytes();
        nul[record("a").len() + 10] = 0;
        assert_eq!(ids(&nul), ["a"]);
        assert!(ids(b"").is_empty() && ids(b"null").is_empty() && ids(b"[").is_empty() && ids(b"[[[[").is_empty());
        assert!(ids(format!("[{}", "[".repeat(100_000)).as_bytes()).is_empty());
    }

    #[test]
    fn a_record_is_put_right_and_keeps_what_nobody_knows() {
        let json =
            format!(r#"{{"id":"{}","flags":{{"incomplete":true}},"created":"2024-01-01T00:00:00Z","x-new":[1, 2]}}"#, "a".repeat(64));
        let layer = Layer::from_json(&json).unwrap();
        let parent: LayerId = "b".repeat(64).parse().unwrap();
        let layer = layer.completed().unwrap().with_contents(Some(&parent), &Digest::of(b"")).unwrap().with_size(7).unwrap();
        assert!(!layer.incomplete() && layer.json().contains(r#""x-new":[1, 2]"#));
        assert_eq!((layer.parent_text(), layer.diff_size(), layer.flags().len()), (parent.as_str(), 7, 0));
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            drop(salvage::<Layer>(&bytes));
        }
    }
}
