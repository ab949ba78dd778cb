//! Layers and images that a caller makes: what they are turns out while they are read.

use std::io::Read;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde_json::json;

use crate::extract::ExtractError;
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::{Tables, split_name};
use crate::metadata::{ConfigLayers, Layer, Loose};
use crate::overlay::Ancestry;
use crate::plan::Source;

use super::begin::{Declared, best_effort};
use super::stage::{Unpacking, random_failed, split_file};
use super::{ImageSpec, TxnError, WriteTxn};

/// The deepest chain that is walked; a ring in a hostile table must end.
const CHAIN_MAX: usize = 500;
/// A tar without members: two blocks of zeroes.
const EMPTY_TAR: [u8; 1024] = [0; 1024];

/// An image that a caller makes of layers and a config.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// The OCI config; its `rootfs.diff_ids` must be those of the layers.
    pub config: Vec<u8>,
    /// The manifest. Without one an OCI manifest is made that names the layers by their uncompressed tars.
    pub manifest: Option<Vec<u8>>,
    /// The top layer; `None` for an image without layers.
    pub top: Option<LayerId>,
    /// Its names, normalised.
    pub names: Vec<String>,
}

impl WriteTxn {
    /// Stages a layer from a tar, plain or compressed with gzip or zstd, on a parent or on nothing. Returns its id, which
    /// follows from the parent's and from what the tar turned out to be. The parent is one that this transaction staged, or one
    /// of the store, which is then verified.
    ///
    /// # Errors
    ///
    /// A parent that is not known or not sound, a tar that cannot be unpacked, the disk. What was staged of it is removed.
    pub fn stage_new_layer(
        &self,
        parent: Option<&LayerId>,
        tar: impl Read + Send,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<LayerId, TxnError> {
        let ancestry = match parent {
            Some(parent) => self.ancestry_on(parent)?,
            None => Ancestry::default(),
        };
        let declared = Declared {
            link: LinkId::random().map_err(random_failed)?,
            ancestry,
            parent: parent.cloned(),
            heal: false,
            even_incomplete: false,
        };
        let name = format!("new-{}", self.made.fetch_add(1, Ordering::Relaxed));
        let staged = self.try_new_layer(&name, declared, tar, progress);
        if staged.is_err() {
            best_effort("drop a layer that could not be staged", self.drop_named(&name));
        }
        staged
    }

    /// Stages a layer without contents.
    ///
    /// # Errors
    ///
    /// As [`WriteTxn::stage_new_layer`].
    pub fn stage_empty_layer(&self, parent: Option<&LayerId>) -> Result<LayerId, TxnError> {
        self.stage_new_layer(parent, EMPTY_TAR.as_slice(), &|_| {})
    }

    fn try_new_layer(
        &self,
        name: &str,
        declared: Declared,
        tar: impl Read + Send,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<LayerId, TxnError> {
        let (made, extracted) = self.unpack(name, &declared, None, tar, progress).map_err(|error| match error {
            Unpacking::Disk(error) => error,
            Unpacking::Extract(ExtractError::Cancelled) => TxnError::Cancelled,
            Unpacking::Extract(source) => TxnError::NewLayer { source },
        })?;
        let id = LayerId::chain(declared.parent.as_ref(), &extracted.diff_id);
        // Of two threads that stage the same layer one comes second.
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let contents = self.contents();
            contents.layers.contains_key(&id) || contents.declared.contains_key(&id)
        };
        if known {
            // The same layer, staged before: one of them is enough.
            self.drop_named(name)?;
            return Ok(id);
        }
        let staging = self.staging()?;
        staging.stage.rename_new(name, &staging.stage, id.as_str())?;
        staging.layer_side.rename_new(split_file(name), &staging.layer_side, split_name(&id))?;
        let made = crate::overlay::LayerDir { dir: staging.stage.dir(id.as_str())?, ..made };
        let wanted = self.staged_source(&id, &declared, &made, &extracted)?;
        let mut contents = self.contents();
        contents.order.push(id.clone());
        contents.declared.insert(id.clone(), declared);
        contents.layers.insert(id.clone(), wanted);
        Ok(id)
    }

    fn drop_named(&self, name: &str) -> Result<(), TxnError> {
        let staging = self.staging()?;
        staging.stage.remove_tree(name)?;
        staging.stage.remove_tree(format!("{name}.spill"))?;
        Ok(staging.layer_side.remove_tree(split_file(name))?)
    }

    /// What a layer on this parent has below it.
    fn ancestry_on(&self, parent: &LayerId) -> Result<Ancestry, TxnError> {
        if !self.contents().declared.contains_key(parent) {
            self.declare_stored(&self.tables()?, parent)?;
        }
        let contents = self.contents();
        let declared = contents.declared.get(parent).ok_or_else(|| TxnError::Undeclared { id: parent.clone() })?;
        Ok(declared.ancestry.child_of(parent.clone(), declared.link.clone()))
    }

    /// Declares a layer of the store and those below it, whatever their ids.
    fn declare_stored(&self, tables: &Tables, top: &LayerId) -> Result<(), TxnError> {
        let mut chain = Vec::new();
        let mut next = Some(top.clone());
        while let Some(id) = next {
            if self.contents().declared.contains_key(&id) {
                break;
            }
            let broken = |why: &str| TxnError::Broken { id: id.clone(), why: why.to_owned() };
            let record = tables.layers.get(&id).ok_or_else(|| TxnError::UnknownParent { id: id.clone() })?;
            let diff_id = record.diff_digest().and_then(Loose::known).ok_or_else(|| broken("its record has no diff-digest"))?.clone();
            if chain.len() == CHAIN_MAX {
                return Err(TxnError::TooManyLayers { count: chain.len() + 1 });
            }
            let parent = match record.parent() {
                Some(parent) => Some(parent.known().ok_or_else(|| broken("its parent is no layer id"))?.clone()),
                None => None,
            };
            chain.push((id, parent.clone(), diff_id));
            next = parent;
        }
        for (id, parent, diff_id) in chain.into_iter().rev() {
            if self.declare_one(tables, &id, parent, &diff_id)? {
                return Err(TxnError::Broken { id, why: "it is damaged, and what it should be is not at hand".to_owned() });
            }
        }
        Ok(())
    }

    /// Stages an image of layers that this transaction staged, or that the store has.
    ///
    /// # Errors
    ///
    /// A config that does not name these layers, a name that is not normalised, an unknown layer, the disk.
    pub fn stage_new_image(&self, new: &NewImage) -> Result<ImageId, TxnError> {
        new.names.iter().try_for_each(|name| super::change::check_name(name))?;
        let config = ConfigLayers::parse(&new.config).map_err(|source| TxnError::Config { source })?;
        let mut chain = Vec::new();
        if let Some(top) = &new.top {
            self.ancestry_on(top)?;
            let contents = self.contents();
            let mut next = Some(top.clone());
            while let Some(id) = next {
                let declared = contents.declared.get(&id).ok_or_else(|| TxnError::Undeclared { id: id.clone() })?;
                next = declared.parent.clone();
                chain.push(id);
            }
            chain.reverse();
        }
        let tables = self.tables()?;
        let layers = chain.iter().map(|id| self.layer_of(&tables, id)).collect::<Result<Vec<_>, _>>()?;
        let diff_ids: Vec<Digest> = layers.iter().map(|(diff_id, _)| diff_id.clone()).collect();
        if config.diff_ids() != diff_ids {
            return Err(TxnError::DiffIds { config: config.diff_ids().len(), layers: diff_ids.len() });
        }
        let manifest = match &new.manifest {
            Some(manifest) => manifest.clone(),
            None => manifest_of(&new.config, &layers),
        };
        let spec =
            ImageSpec { config: new.config.clone(), manifest, index: None, diff_ids, names: new.names.clone(), created: config.created };
        self.stage_image_on(&spec, chain)
    }

    /// DiffID and length of the tar of a layer of this transaction.
    fn layer_of(&self, tables: &Tables, id: &LayerId) -> Result<(Digest, i64), TxnError> {
        let wanted = self.contents().layers.get(id).cloned().ok_or_else(|| TxnError::NotStaged { id: id.clone() })?;
        let size = match &wanted.source {
            Source::Staged { record, .. } => Layer::from_json(record)?.diff_size(),
            Source::Reused { .. } | Source::Heal { .. } => tables.layers.get(id).map_or(0, Layer::diff_size),
        };
        Ok((wanted.diff_id, size))
    }
}

/// An OCI manifest that names layers by their uncompressed tars, as buildah writes it for images that were never pushed.
fn manifest_of(config: &[u8], layers: &[(Digest, i64)]) -> Vec<u8> {
    let layer =
        |(digest, size): &(Digest, i64)| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size});
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config), "size": config.len()},
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}
