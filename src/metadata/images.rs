//! Pure: no I/O. images.json, and Go's rules for names and big data in it (spec section 9).

use std::collections::{BTreeMap, HashSet};

use super::error::{EditError, ParseError, shorten};
use super::image::{BigData, Image, dedupe};
use super::index::Index;
use super::loose::Loose;
use super::table::Table;
use crate::ids::{Digest, ImageId, LayerId};

/// The images of one file, in its order.
///
/// A name belongs to one image. Where a file says otherwise the last record has it; the file is not changed
/// for that, see [`Images::shadowed_names`].
#[derive(Debug, Clone, Default)]
pub struct Images {
    table: Table<Image>,
    ways: Ways,
}

/// What images are found by.
#[derive(Debug, Clone, Default)]
struct Ways {
    names: Index<String>,
    digests: Index<Digest>,
    layers: Index<LayerId>,
}

impl Ways {
    /// An image comes to a slot, or leaves it.
    fn set(&mut self, slot: usize, image: &Image, there: bool) {
        for name in image.names() {
            self.names.set(name, slot, there);
        }
        for digest in image.lookup_digests() {
            self.digests.set(digest, slot, there);
        }
        for layer in image.layer().into_iter().chain(image.mapped_layers()).filter_map(Loose::known) {
            self.layers.set(layer, slot, there);
        }
    }
}

impl Images {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// As [`Table::parse`], and a digest that Go refuses.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut images = Self { table: Table::parse(bytes)?, ..Self::default() };
        for (slot, image) in images.table.slots() {
            images.ways.set(slot, image, true);
        }
        Ok(images)
    }

    /// The whole file; see [`Table::encode`].
    pub fn encode(&self) -> Vec<u8> {
        self.table.encode()
    }

    /// All images in file order, those with foreign or repeated ids included.
    pub fn iter(&self) -> impl Iterator<Item = &Image> {
        self.table.iter()
    }

    /// The image with this id; the first if there are several.
    pub fn get(&self, id: &ImageId) -> Option<&Image> {
        self.table.get(id)
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The image that has this name.
    pub fn by_name(&self, name: &str) -> Option<&Image> {
        self.ways.names.get(name).next_back().and_then(|slot| self.table.at(slot))
    }

    /// The images that can be found by this digest: their own or that of one of their manifests.
    pub fn by_digest(&self, digest: &Digest) -> impl Iterator<Item = &Image> {
        self.ways.digests.get(digest).filter_map(|slot| self.table.at(slot))
    }

    /// The images with this top layer or mapped layer.
    pub fn by_layer(&self, id: &LayerId) -> impl Iterator<Item = &Image> {
        self.ways.layers.get(id).filter_map(|slot| self.table.at(slot))
    }

    /// The names that records have in vain because a later record has them too.
    pub fn shadowed_names(&self) -> impl Iterator<Item = (&str, &Image)> {
        self.table.slots().flat_map(move |(slot, image)| {
            let vain = move |name: &&String| self.ways.names.get(*name).next_back() != Some(slot);
            image.names().iter().filter(vain).map(move |name| (name.as_str(), image))
        })
    }

    /// Appends an image.
    ///
    /// # Errors
    ///
    /// [`EditError::Exists`], [`EditError::ForeignId`], and as in Go [`EditError::NameInUse`].
    pub fn insert(&mut self, image: Image) -> Result<(), EditError> {
        let Some(id) = image.id() else {
            return Err(EditError::ForeignId { what: "image", id: shorten(image.id_text()) });
        };
        if self.get(id).is_some() {
            return Err(EditError::Exists { what: "image", id: id.to_string() });
        }
        for name in image.names() {
            if let Some(other) = self.by_name(name) {
                return Err(EditError::NameInUse { name: shorten(name), id: shorten(other.id_text()) });
            }
        }
        self.push(image);
        Ok(())
    }

    /// Makes a pulled image part of the table, as c/image does it. A new id is appended. Where the id is known
    /// the big data keys of both are kept, those of `image` winning; `digest` stays; the metadata is replaced.
    /// In both cases the names of `image` are then added as by [`Images::add_names`].
    ///
    /// # Errors
    ///
    /// [`EditError::OtherTopLayer`], [`EditError::ForeignId`].
    pub fn unite(&mut self, image: &Image) -> Result<(), EditError> {
        let Some(id) = image.id() else {
            return Err(EditError::ForeignId { what: "image", id: shorten(image.id_text()) });
        };
        let fault = |source| fault(id, source);
        match self.table.slot(id).and_then(|slot| Some((slot, self.table.at(slot)?))) {
            None => {
                let nameless = if image.names().is_empty() { image.clone() } else { image.nameless().map_err(fault)? };
                self.push(nameless);
            }
            Some((_, have)) if have.layer_text() != image.layer_text() => {
                return Err(EditError::OtherTopLayer {
                    id: id.to_string(),
                    have: shorten(have.layer_text()),
                    want: shorten(image.layer_text()),
                });
            }
            Some((slot, have)) => {
                let mut united = have.clone();
                let items = image.big_data();
                if !items.is_empty() {
                    united = united.with_big_data(&items).map_err(fault)?;
                }
                if united.metadata() != image.metadata() {
                    united = united.with_metadata(image.metadata()).map_err(fault)?;
                }
                self.put(slot, united);
            }
        }
        if image.names().is_empty() { Ok(()) } else { self.add_names(id, image.names()) }
    }

    /// Takes an image out, every record with its id; `None` if there is none. Who may still need it is not
    /// looked at here.
    pub fn remove(&mut self, id: &ImageId) -> Option<Image> {
        let taken = self.table.take(id);
        for (slot, image) in &taken {
            self.ways.set(*slot, image, false);
        }
        taken.into_iter().next().map(|(_, image)| image)
    }

    /// Gives an image more names. They come first; every other image loses them.
    ///
    /// # Errors
    ///
    /// [`EditError::Unknown`].
    pub fn add_names(&mut self, id: &ImageId, names: &[impl AsRef<str>]) -> Result<(), EditError> {
        let (slot, image) = self.known(id)?;
        let names = owned(names);
        let names = dedupe(names.iter().chain(image.names()));
        self.name(slot, id, &names)
    }

    /// Takes names from an image; those it does not have are passed over.
    ///
    /// # Errors
    ///
    /// [`EditError::Unknown`].
    pub fn remove_names(&mut self, id: &ImageId, names: &[impl AsRef<str>]) -> Result<(), EditError> {
        let (slot, image) = self.known(id)?;
        let gone: HashSet<&str> = names.iter().map(AsRef::as_ref).collect();
        let names = dedupe(image.names().iter().filter(|name| !gone.contains(name.as_str())));
        self.name(slot, id, &names)
    }

    /// Gives an image exactly these names; every other image loses them.
    ///
    /// # Errors
    ///
    /// [`EditError::Unknown`].
    pub fn set_names(&mut self, id: &ImageId, names: &[impl AsRef<str>]) -> Result<(), EditError> {
        let (slot, _) = self.known(id)?;
        self.name(slot, id, &dedupe(&owned(names)))
    }

    /// Records a big data item, new or overwritten.
    ///
    /// # Errors
    ///
    /// [`EditError::Unknown`].
    pub fn set_big_data(&mut self, id: &ImageId, item: BigData) -> Result<(), EditError> {
        let (slot, image) = self.known(id)?;
        let image = image.with_big_data(&[item]).map_err(|e| fault(id, e))?;
        self.put(slot, image);
        Ok(())
    }

    /// Forgets a big data item; one that is not there is passed over. The record's digest stays, as the one that was
    /// recorded first, whichever items come and go.
    ///
    /// # Errors
    ///
    /// [`EditError::Unknown`].
    pub fn drop_big_data(&mut self, id: &ImageId, key: &str) -> Result<(), EditError> {
        let (slot, image) = self.known(id)?;
        if image.has_big_data(key) {
            let image = image.without_big_data(key).map_err(|e| fault(id, e))?;
            self.put(slot, image);
        }
        Ok(())
    }

    /// Replaces the metadata.
    ///
    /// # Errors
    ///
    /// [`EditError::Unknown`].
    pub fn set_metadata(&mut self, id: &ImageId, metadata: &str) -> Result<(), EditError> {
        let (slot, image) = self.known(id)?;
        let image = image.with_metadata(metadata).map_err(|e| fault(id, e))?;
        self.put(slot, image);
        Ok(())
    }

    fn known(&self, id: &ImageId) -> Result<(usize, &Image), EditError> {
        let found = self.table.slot(id).and_then(|slot| Some((slot, self.table.at(slot)?)));
        found.ok_or_else(|| EditError::Unknown { what: "image", id: id.to_string() })
    }

    /// Go's updateNames: the other holders lose the names, the image gets them and their history. Every record that
    /// changes is written once, however many names it loses.
    fn name(&mut self, slot: usize, id: &ImageId, names: &[String]) -> Result<(), EditError> {
        let mut lost: BTreeMap<usize, HashSet<&str>> = BTreeMap::new();
        for name in names {
            for other in self.ways.names.get(name).filter(|other| *other != slot) {
                lost.entry(other).or_default().insert(name);
            }
        }
        let mut changed = Vec::with_capacity(lost.len() + 1);
        for (other, lost) in &lost {
            if let Some(image) = self.table.at(*other) {
                changed.push((*other, image.without_names(lost).map_err(|e| fault(id, e))?));
            }
        }
        if let Some(image) = self.table.at(slot) {
            changed.push((slot, image.with_names(names).map_err(|e| fault(id, e))?));
        }
        for (slot, image) in changed {
            self.put(slot, image);
        }
        Ok(())
    }

    fn push(&mut self, image: Image) {
        let slot = self.table.push(image);
        if let Some(image) = self.table.at(slot) {
            self.ways.set(slot, image, true);
        }
    }

    fn put(&mut self, slot: usize, image: Image) {
        if let Some(old) = self.table.at(slot) {
            self.ways.set(slot, old, false);
        }
        self.ways.set(slot, &image, true);
        self.table.replace(slot, image);
    }
}

fn owned(names: &[impl AsRef<str>]) -> Vec<String> {
    names.iter().map(|name| name.as_ref().to_owned()).collect()
}

fn fault(id: &ImageId, source: ParseError) -> EditError {
    EditError::Record { what: "image", id: id.to_string(), source }
}
