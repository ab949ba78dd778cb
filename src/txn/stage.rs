//! Staging: layers from tar streams, images from their documents.

use std::io::Read;
use std::time::SystemTime;

use crate::extract::{self, ExtractError, Extracted};
use crate::fsio::optional;
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::{Tables, split_name};
use crate::metadata::{self, BigData, Compression, Images, NewImage, NewLayer};
use crate::overlay::{self, Ancestry, LayerDir, Seal, TreeId};
use crate::plan::{Change, Source, StagedData, WantedImage, WantedLayer, seal_stage};

use super::begin::{Declared, SyncMode};
use super::inspect::is_gone;
use super::{Inspection, TxnError, WriteTxn, inspect};

/// The deepest stack of layers that overlay mounts (storage 1.44 and newer).
const MAX_LAYERS: usize = 500;

/// What a staged layer's blob must be.
#[derive(Debug, Clone)]
pub struct LayerSpec {
    /// The layer's chain id, as [`WriteTxn::declare`] gave it.
    pub id: LayerId,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The blob's digest, if it is known beforehand.
    pub blob: Option<Digest>,
    /// The blob's length in bytes, if it is known beforehand: a limit.
    pub blob_bytes: Option<u64>,
}

/// A layer of an image as the transaction sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedLayer {
    /// Its chain id.
    pub id: LayerId,
    /// Its DiffID.
    pub diff_id: Digest,
    /// Whether its blob must be staged; else it is in the store, complete.
    pub needed: bool,
}

/// An image to be made.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// The config, as it was published.
    pub config: Vec<u8>,
    /// The manifest, as it was published.
    pub manifest: Vec<u8>,
    /// The index that the manifest was chosen from, as it was published.
    pub index: Option<Vec<u8>>,
    /// Its DiffIDs, base first.
    pub diff_ids: Vec<Digest>,
    /// Its names, normalised.
    pub names: Vec<String>,
    /// The config's `created`, RFC 3339.
    pub created: Option<String>,
}

impl ImageSpec {
    /// Its big data, keys and bytes, in c/image's order: config, index, manifest of the instance, manifest.
    pub fn documents(&self) -> Vec<(String, &[u8])> {
        let mut items: Vec<(String, &[u8])> = vec![(Digest::of(&self.config).to_string(), &self.config)];
        items.extend(self.index.iter().map(|index| (format!("manifest-{}", Digest::of(index)), index.as_slice())));
        items.push((format!("manifest-{}", Digest::of(&self.manifest)), &self.manifest));
        items.push(("manifest".to_owned(), &self.manifest));
        items
    }

    /// The record that images.json gets, names included.
    ///
    /// # Errors
    ///
    /// A time of creation that is none.
    pub fn record(&self) -> Result<metadata::Image, TxnError> {
        self.record_on(self.diff_ids.iter().fold(None, |below, diff_id| Some(LayerId::chain(below.as_ref(), diff_id))).as_ref())
    }

    /// The same with this top layer.
    fn record_on(&self, top: Option<&LayerId>) -> Result<metadata::Image, TxnError> {
        let mut new = NewImage::new(ImageId::of_config(&Digest::of(&self.config)), top.cloned());
        new.digest = Some(Digest::of(self.index.as_ref().unwrap_or(&self.manifest)));
        new.names = self.names.clone();
        // As the newest c/image writes it for an unsigned image.
        new.metadata = "{}".to_owned();
        new.big_data = self.documents().iter().map(|(key, bytes)| BigData::new(key, bytes.len() as u64, &Digest::of(bytes))).collect();
        new.created = self.created.clone();
        Ok(new.build()?)
    }
}

impl WriteTxn {
    /// Declares the layers of an image, base first, and says which of them must be staged. Layers in the store are
    /// looked at here, and the unsealed ones verified byte for byte.
    ///
    /// # Errors
    ///
    /// A layer in the store that is damaged and in use, or whose structure is broken.
    pub fn declare(&self, tables: &Tables, diff_ids: &[Digest]) -> Result<Vec<StagedLayer>, TxnError> {
        if diff_ids.len() > MAX_LAYERS {
            return Err(TxnError::TooManyLayers { count: diff_ids.len() });
        }
        let mut list = Vec::with_capacity(diff_ids.len());
        let mut parent: Option<LayerId> = None;
        for diff_id in diff_ids {
            let id = LayerId::chain(parent.as_ref(), diff_id);
            let needed = self.declare_one(tables, &id, parent.take(), diff_id)?;
            list.push(StagedLayer { id: id.clone(), diff_id: diff_id.clone(), needed });
            parent = Some(id);
        }
        Ok(list)
    }

    pub(super) fn declare_one(&self, tables: &Tables, id: &LayerId, parent: Option<LayerId>, diff_id: &Digest) -> Result<bool, TxnError> {
        let ancestry = {
            let contents = self.contents();
            if contents.declared.contains_key(id) {
                return Ok(!contents.layers.contains_key(id));
            }
            match &parent {
                None => Ancestry::default(),
                Some(above) => {
                    let known = contents.declared.get(above).ok_or_else(|| TxnError::Undeclared { id: above.clone() })?;
                    known.ancestry.child_of(above.clone(), known.link.clone())
                }
            }
        };
        let mut found = inspect(&self.layout, tables, id, diff_id, &ancestry)?;
        if matches!(found, Inspection::Sealed { .. } | Inspection::Verified { .. }) {
            let reused = self.reuse(id, parent.clone(), diff_id, &found);
            if is_gone(&self.layout, id, &reused)? {
                found = Inspection::Absent;
            } else {
                reused?;
            }
        }
        let (link, heal) = match &found {
            Inspection::Absent => (LinkId::random().map_err(random_failed)?, false),
            Inspection::Sealed { link } | Inspection::Verified { link } => (link.clone(), false),
            Inspection::Damaged { link, why } => {
                if let Some(user) = tables.user_of(&self.layout, id)? {
                    return Err(TxnError::InUse { id: id.clone(), why: why.clone(), user });
                }
                tracing::info!(layer = %id, why, "damaged in the store, fetching it again");
                (link.clone(), true)
            }
            Inspection::Broken { why } => return Err(TxnError::Broken { id: id.clone(), why: why.clone() }),
        };
        let needed = heal || found == Inspection::Absent;
        let mut contents = self.contents();
        contents.order.push(id.clone());
        contents.declared.insert(id.clone(), Declared { link, ancestry, parent, heal, even_incomplete: false });
        Ok(needed)
    }

    /// Notes a complete layer of the store as part of the transaction; a verified one gets a seal in staging.
    pub(super) fn reuse(&self, id: &LayerId, parent: Option<LayerId>, diff_id: &Digest, found: &Inspection) -> Result<(), TxnError> {
        let (link, sealing) = match found {
            Inspection::Sealed { link } => (link, false),
            Inspection::Verified { link } => (link, self.staging()?.sync != SyncMode::None),
            _ => return Err(TxnError::NotStaged { id: id.clone() }),
        };
        if sealing {
            let tree = TreeId::of(&self.staging()?.route.overlay.dir(id.as_str())?.dir("diff")?)?;
            let name = seal_stage(id);
            if self.staging()?.stage.meta(&name)?.is_some() {
                self.staging()?.stage.unlink(&name)?;
            }
            self.write_seal(&self.staging()?.stage, &name, diff_id, link, tree)?;
        }
        let source = Source::Reused { link: link.clone(), sealing };
        let wanted = WantedLayer { id: id.clone(), parent, diff_id: diff_id.clone(), source };
        self.contents().layers.insert(id.clone(), wanted);
        Ok(())
    }

    pub(super) fn write_seal(
        &self,
        dir: &crate::fsio::Dir,
        name: &str,
        diff_id: &Digest,
        link: &LinkId,
        tree: TreeId,
    ) -> Result<(), TxnError> {
        let seal = Seal::new(diff_id.clone(), link.clone(), tree);
        dir.create(name, 0o600)?.append(&seal.encode()?)?;
        Ok(())
    }

    /// Stages one declared layer from its blob: one pass that hashes, decompresses, hashes, writes the tar-split and
    /// unpacks. May be called from several threads at once, for different layers.
    ///
    /// # Errors
    ///
    /// A blob that is not what `spec` says, a tar that cannot be unpacked, the disk. What was staged of it is removed.
    pub fn stage_layer(&self, spec: &LayerSpec, blob: impl Read + Send, progress: &(dyn Fn(u64) + Sync)) -> Result<(), TxnError> {
        let declared = self.contents().declared.get(&spec.id).cloned().ok_or_else(|| TxnError::Undeclared { id: spec.id.clone() })?;
        let staged = self.try_stage(spec, &declared, blob, progress);
        if staged.is_err() {
            // So that the caller can try this layer again; else all of the staging goes with the transaction.
            super::begin::best_effort("drop a layer that could not be staged", self.drop_staged(&spec.id));
            if self.staging()?.route.is_exposed() && !self.staging()?.route.is_intact()? {
                return Err(TxnError::StagingLost { path: self.staging()?.stage.path().to_owned() });
            }
        }
        let wanted = staged?;
        self.contents().layers.insert(spec.id.clone(), wanted);
        Ok(())
    }

    pub(super) fn drop_staged(&self, id: &LayerId) -> Result<(), TxnError> {
        let staging = self.staging()?;
        staging.stage.remove_tree(id.as_str())?;
        staging.stage.remove_tree(format!("{id}.spill"))?;
        Ok(staging.layer_side.remove_tree(split_name(id))?)
    }

    fn try_stage(
        &self,
        spec: &LayerSpec,
        declared: &Declared,
        blob: impl Read + Send,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<WantedLayer, TxnError> {
        let (made, extracted) =
            self.unpack(spec.id.as_str(), declared, spec.blob_bytes, blob, progress).map_err(|source| match source {
                Unpacking::Disk(error) => error,
                Unpacking::Extract(ExtractError::Cancelled) => TxnError::Cancelled,
                Unpacking::Extract(source) => TxnError::Extract { diff_id: spec.diff_id.clone(), source },
            })?;
        if let Some(want) = &spec.blob
            && *want != extracted.blob_digest
        {
            return Err(TxnError::BlobDigest { diff_id: spec.diff_id.clone(), want: want.clone(), seen: extracted.blob_digest });
        }
        if spec.diff_id != extracted.diff_id {
            let (want, seen) = (spec.diff_id.clone(), extracted.diff_id);
            return Err(TxnError::DiffId { blob: extracted.blob_digest, want, seen });
        }
        self.staged_source(&spec.id, declared, &made, &extracted)
    }

    /// Unpacks a blob into a layer directory of this name in staging; its tar-split gets the same name.
    pub(super) fn unpack(
        &self,
        name: &str,
        declared: &Declared,
        blob_bytes: Option<u64>,
        blob: impl Read + Send,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(LayerDir, Extracted), Unpacking> {
        let staging = self.staging()?;
        let made = LayerDir::create(&staging.stage, name, &declared.link, &declared.ancestry)?;
        let spill_name = format!("{name}.spill");
        let spill = staging.stage.mkdir(&spill_name, 0o700)?;
        let options = extract::Options { blob_bytes, max_bytes: self.options.max_layer_bytes, cancelled: &self.cancelled, progress };
        let split = split_file(name);
        let extracted = extract::layer(blob, &made.diff, &spill, &staging.layer_side, &split, &options).map_err(Unpacking::Extract)?;
        staging.stage.remove_tree(&spill_name)?;
        Ok((made, extracted))
    }

    /// Seals an unpacked layer, and says what it is for the plan.
    pub(super) fn staged_source(
        &self,
        id: &LayerId,
        declared: &Declared,
        made: &LayerDir,
        extracted: &Extracted,
    ) -> Result<WantedLayer, TxnError> {
        let staging = self.staging()?;
        if extracted.root_entry {
            self.contents().own_roots.insert(id.clone());
        }
        let tree = TreeId::of(&made.diff)?;
        if staging.sync != SyncMode::None {
            self.write_seal(&made.dir, overlay::SEAL, &extracted.diff_id, &declared.link, tree)?;
        }
        if staging.route.is_exposed() {
            self.contents().counts.insert(id.clone(), extracted.names);
        }
        let source = if declared.heal {
            Source::Heal {
                link: declared.link.clone(),
                tree,
                assumed: declared.ancestry.clone(),
                even_incomplete: declared.even_incomplete,
            }
        } else {
            let record = layer_record(id, declared, extracted)?;
            Source::Staged { link: declared.link.clone(), tree, record, assumed: declared.ancestry.clone() }
        };
        Ok(WantedLayer { id: id.clone(), parent: declared.parent.clone(), diff_id: extracted.diff_id.clone(), source })
    }

    /// Stages an image over declared layers, and says that it is to be made. Its id is that of its config. It stays staged when
    /// [`WriteTxn::prepare`] asks for layers: to stage it again is to give it its names again.
    ///
    /// # Errors
    ///
    /// A layer that was not declared, the disk.
    pub fn stage_image(&self, spec: &ImageSpec) -> Result<ImageId, TxnError> {
        let mut chain: Vec<LayerId> = Vec::with_capacity(spec.diff_ids.len());
        for diff_id in &spec.diff_ids {
            chain.push(LayerId::chain(chain.last(), diff_id));
        }
        self.stage_image_on(spec, chain)
    }

    /// The same over these layers, base first.
    pub(super) fn stage_image_on(&self, spec: &ImageSpec, chain: Vec<LayerId>) -> Result<ImageId, TxnError> {
        let id = ImageId::of_config(&Digest::of(&spec.config));
        if let Some(layer) = chain.iter().find(|layer| !self.contents().declared.contains_key(*layer)) {
            return Err(TxnError::Undeclared { id: layer.clone() });
        }
        let side = match optional(self.staging()?.image_side.dir(id.as_str()))? {
            Some(side) => side,
            None => self.staging()?.image_side.mkdir(id.as_str(), 0o700)?,
        };
        let mut data = Vec::new();
        for (key, bytes) in spec.documents() {
            let file = metadata::big_data_file(&key)?;
            if side.meta(&file)?.is_some() {
                side.unlink(&file)?;
            }
            side.create(&file, 0o600)?.append(bytes)?;
            data.push(StagedData { key, file, size: bytes.len() as u64, digest: Digest::of(bytes) });
        }
        let record = spec.record_on(chain.last())?.json().to_owned();
        let mut contents = self.contents();
        match contents.images.iter_mut().find(|image| image.id == id) {
            // The same config under two references of one batch: one record with the documents of both.
            Some(there) => {
                let mut both = Images::default();
                both.unite(&metadata::Image::from_json(&there.record)?)?;
                both.unite(&metadata::Image::from_json(&record)?)?;
                if let Some(one) = both.get(&id) {
                    there.record = one.json().to_owned();
                }
                for item in data {
                    there.data.retain(|old| old.key != item.key);
                    there.data.push(item);
                }
            }
            None => contents.images.push(WantedImage { id: id.clone(), record, chain, data }),
        }
        contents.changes.push(Change::Put { id: id.clone(), names: spec.names.clone() });
        Ok(id)
    }
}

/// The name of a tar-split in staging.
pub(super) fn split_file(name: &str) -> String {
    format!("{name}.tar-split.gz")
}

/// Why a blob could not be unpacked.
pub(super) enum Unpacking {
    Extract(ExtractError),
    Disk(TxnError),
}

impl<E: Into<TxnError>> From<E> for Unpacking {
    fn from(error: E) -> Self {
        Self::Disk(error.into())
    }
}

pub(crate) fn random_failed(source: std::io::Error) -> TxnError {
    TxnError::Disk(crate::fsio::Error { call: "getrandom", path: "/dev/urandom".into(), source })
}

fn layer_record(id: &LayerId, declared: &Declared, extracted: &Extracted) -> Result<String, TxnError> {
    let mut new = NewLayer::new(id.clone(), declared.parent.clone(), SystemTime::now());
    new.compressed_diff_digest = Some(extracted.blob_digest.clone());
    new.compressed_size = extracted.blob_size;
    new.diff_digest = Some(extracted.diff_id.clone());
    new.diff_size = i64::try_from(extracted.diff_size).unwrap_or(-1);
    new.compression = Compression::from_code(extracted.compression.code());
    new.uidset.clone_from(&extracted.uids);
    new.gidset.clone_from(&extracted.gids);
    Ok(new.build()?.json().to_owned())
}
