//! The steps of a plan: what each does, and how each is taken back.
//!
//! Invariants:
//! - S1: `apply` may run again, after a crash in it, after a crash behind it, and after podman has changed what it
//!   made: it acts only on what is still this transaction's own.
//! - S2: `undo` is called before the pivot only, under all store locks, and moves nothing that got another owner.
//! - S3: no step writes file contents; what is placed was synced before the intent.

use serde::{Deserialize, Serialize};

use super::act::{displace, displace_image, exchange_data, make_link, own_layer, place, place_split, seal};
use super::bury::{bury_data, bury_image, bury_layer};
use super::heal::{finish_healing, finish_restoring, heal, restore};
use super::mend::Mend;
use super::run::{StepError, World};
use crate::fsio::Dir;
use crate::fsio::optional;
use crate::ids::TxnId;
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::{IMAGES_JSON, LAYERS_JSON, Layout, marker_name, second_marker_name, split_name};
use crate::overlay::{TreeId, link_target, read_link_id};

/// A directory to fsync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// `overlay/`
    Overlay,
    /// `overlay/l/`
    Links,
    /// `overlay-layers/`
    Layers,
    /// `overlay-images/`
    Images,
    /// `overlay-images/<id>/`
    Image(ImageId),
    /// `overlay/<id>/`
    LayerDir(LayerId),
    /// `cstor-rs/stage/<txn>/`
    Stage,
    /// `cstor-rs/stage/<txn>/<id>/`
    StagedLayer(LayerId),
    /// `overlay-layers/.cstor-rs-<txn>/`
    LayerSide,
    /// `overlay-images/.cstor-rs-<txn>/`
    ImageSide,
    /// `overlay-images/.cstor-rs-<txn>/<id>/`
    StagedImage(ImageId),
    /// `cstor-rs/trash/<txn>/`
    Trash,
}

impl Place {
    /// Whether it is a directory of this transaction alone, which names leave.
    fn is_source(&self) -> bool {
        matches!(self, Self::Stage | Self::StagedLayer(_) | Self::LayerSide | Self::ImageSide | Self::StagedImage(_) | Self::Trash)
    }
}

/// A table of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// layers.json
    Layers,
    /// images.json
    Images,
    /// layers.json once more, without the layers that go.
    RemainingLayers,
}

impl Table {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Layers, Self::Images, Self::RemainingLayers];

    /// The file's name.
    pub fn file(self) -> &'static str {
        match self {
            Self::Layers | Self::RemainingLayers => LAYERS_JSON,
            Self::Images => IMAGES_JSON,
        }
    }

    /// The name under which it waits for its rename.
    pub fn marker(self, txn: &TxnId) -> String {
        match self {
            Self::Layers | Self::Images => marker_name(self.file(), txn),
            Self::RemainingLayers => second_marker_name(self.file(), txn),
        }
    }

    /// The directory it lies in.
    pub fn dir(self, layout: &Layout) -> &Dir {
        match self {
            Self::Layers | Self::RemainingLayers => &layout.layers,
            Self::Images => &layout.images,
        }
    }

    /// Whether the prepared table still waits: its rename has not happened.
    ///
    /// # Errors
    ///
    /// That of statx(2).
    pub fn waits(self, layout: &Layout, txn: &TxnId) -> crate::fsio::Result<bool> {
        Ok(self.dir(layout).meta(self.marker(txn))?.is_some())
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Moves a layer directory without a live record, its `l/` entry and its tar-split out of the way.
    Displace {
        /// The layer's id.
        id: LayerId,
        /// The LINKID that `link` had, if it was readable.
        link: Option<LinkId>,
    },
    /// Moves an image's data directory without a record out of the way.
    DisplaceImage {
        /// The image's id.
        id: ImageId,
    },
    /// Moves a staged layer directory into `overlay/`.
    PlaceLayer {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
    },
    /// Makes the `l/` entry.
    Link {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
    },
    /// Moves a staged tar-split into `overlay-layers/`.
    PlaceSplit {
        /// The layer's id.
        id: LayerId,
    },
    /// Seals a layer of somebody else that this transaction has verified and synced.
    Seal {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
    },
    /// Exchanges the damaged contents of a layer for sound ones; its directory and LINKID stay.
    Heal {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
        /// The identity of the sound tree.
        tree: TreeId,
    },
    /// Moves a staged image data directory into `overlay-images/`.
    PlaceImage {
        /// The image's id.
        id: ImageId,
    },
    /// Moves one staged item of big data into an image's existing directory, under a name that was free.
    PlaceData {
        /// The image's id.
        image: ImageId,
        /// The file's name.
        file: String,
    },
    /// fsync of directories.
    Sync(Vec<Place>),
    /// The token, then the rename of a prepared table.
    Switch(Table),
    /// Exchanges one item of big data for a staged one.
    ExchangeData {
        /// The image's id.
        image: ImageId,
        /// The key.
        key: String,
        /// The file's name.
        file: String,
        /// sha256 of the bytes to be replaced.
        old: Digest,
        /// sha256 of the new bytes.
        new: Digest,
    },
    /// Gives a layer whose record outlived its directory a new one, with its tar-split.
    Restore {
        /// The layer's id.
        id: LayerId,
        /// The LINKID of the new directory.
        link: LinkId,
    },
    /// Moves what is left of a layer without a record out of the way: its `l/` entry, its directory, tar-split and big data.
    BuryLayer {
        /// The layer's id.
        id: LayerId,
        /// The LINKID it had, if `link` was readable.
        link: Option<LinkId>,
    },
    /// Moves the data directory of an image without a record out of the way.
    BuryImage {
        /// The image's id.
        id: ImageId,
    },
    /// Removes an item of big data that no record names.
    BuryData {
        /// The image's id.
        image: ImageId,
        /// The file's name.
        file: String,
    },
    /// A repair that is no exchange of contents.
    Mend(Mend),
}

impl Step {
    /// The directories in which the step makes, moves or removes names.
    pub fn places(&self) -> Vec<Place> {
        match self {
            Self::Displace { .. } => vec![Place::Overlay, Place::Links, Place::Trash],
            Self::PlaceLayer { .. } => vec![Place::Overlay, Place::Stage, Place::Trash],
            Self::Link { .. } => vec![Place::Links],
            Self::PlaceSplit { .. } => vec![Place::Layers, Place::LayerSide],
            Self::Seal { id, .. } => vec![Place::LayerDir(id.clone()), Place::Stage],
            Self::Heal { id, .. } => {
                vec![Place::LayerDir(id.clone()), Place::Layers, Place::StagedLayer(id.clone()), Place::LayerSide]
            }
            Self::Restore { .. } => vec![Place::Overlay, Place::Layers, Place::Stage, Place::LayerSide],
            Self::DisplaceImage { .. } | Self::PlaceImage { .. } => vec![Place::Images, Place::ImageSide],
            Self::PlaceData { image, .. } | Self::ExchangeData { image, .. } => {
                vec![Place::Image(image.clone()), Place::StagedImage(image.clone())]
            }
            Self::Switch(Table::Layers | Table::RemainingLayers) => vec![Place::Layers],
            Self::BuryLayer { .. } => vec![Place::Overlay, Place::Links, Place::Layers, Place::LayerSide, Place::Trash],
            Self::BuryImage { .. } => vec![Place::Images, Place::ImageSide],
            Self::BuryData { image, .. } => vec![Place::Image(image.clone())],
            Self::Switch(Table::Images) => vec![Place::Images],
            Self::Mend(mend) => mend.places(),
            Self::Sync(_) => vec![],
        }
    }

    /// The barrier behind these steps: every directory they touch, targets before sources, each once.
    pub fn barrier(steps: &[Self]) -> Self {
        let touched: Vec<Place> = steps.iter().flat_map(Self::places).collect();
        let mut places: Vec<Place> = Vec::new();
        for source in [false, true] {
            for place in touched.iter().filter(|place| place.is_source() == source) {
                if !places.contains(place) {
                    places.push(place.clone());
                }
            }
        }
        Self::Sync(places)
    }

    /// Does the step, if it is not done yet; see S1.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn apply(&self, w: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Self::Displace { id, link } => Ok(displace(w, id, link.as_ref())?),
            Self::DisplaceImage { id } => Ok(displace_image(w, id)?),
            Self::PlaceLayer { id, .. } => {
                w.demand(w.stage.as_ref(), id.as_str())?;
                Ok(place(w.stage.as_ref(), id.as_str(), &w.route.overlay, id.as_str())?)
            }
            Self::Link { id, link } => Ok(make_link(w, id, link)?),
            // Under our record or under none: nothing else has this name after Displace.
            Self::PlaceSplit { id } => {
                w.demand(w.layer_side.as_ref(), &split_name(id))?;
                Ok(place_split(w, id)?)
            }
            Self::Seal { id, link } => Ok(seal(w, id, link)?),
            Self::Heal { id, link, tree } => {
                w.demand(w.stage.as_ref(), id.as_str())?;
                w.demand(w.layer_side.as_ref(), &split_name(id))?;
                heal(w, id, link, tree)
            }
            Self::Restore { id, link } => {
                w.demand(w.stage.as_ref(), id.as_str())?;
                w.demand(w.layer_side.as_ref(), &split_name(id))?;
                restore(w, id, link)
            }
            Self::PlaceImage { id } => {
                w.demand(w.image_side.as_ref(), id.as_str())?;
                Ok(place(w.image_side.as_ref(), id.as_str(), &w.layout.images, id.as_str())?)
            }
            Self::PlaceData { image, file } => {
                if let Some(dir) = optional(w.layout.images.dir(image.as_str()))?
                    && let Some(side) = w.image_stage(image)?
                {
                    w.demand(Some(&side), file)?;
                    place(Some(&side), file, &dir, file)?;
                }
                Ok(())
            }
            Self::Sync(places) => places.iter().try_for_each(|place| Ok(w.sync(place)?)),
            Self::Switch(table) => w.switch(*table),
            Self::ExchangeData { image, key, file, old, new } => exchange_data(w, image, key, file, old, new),
            Self::BuryLayer { id, link } => bury_layer(w, id, link.as_ref()),
            Self::BuryImage { id } => bury_image(w, id),
            Self::BuryData { image, file } => bury_data(w, image, file),
            Self::Mend(mend) => mend.apply(w),
        }
    }

    /// Takes the step back; see S2.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn undo(&self, w: &mut World<'_>) -> Result<(), StepError> {
        match self {
            // What was displaced was dead; a switch is never taken back; seals and syncs are true whatever comes.
            Self::Displace { .. } | Self::DisplaceImage { .. } | Self::Sync(_) | Self::Switch(_) | Self::Seal { .. } => Ok(()),
            // A repair makes nothing worse, and stands in no plan that has a pivot behind it.
            Self::Mend(_) => Ok(()),
            // Behind the pivot.
            Self::ExchangeData { .. } | Self::BuryLayer { .. } | Self::BuryImage { .. } | Self::BuryData { .. } => Ok(()),
            Self::PlaceLayer { id, link } => {
                if w.has_layer(id)? {
                    return Ok(());
                }
                let Some(dir) = w.layer_dir(id)? else { return Ok(()) };
                // Half deleted by a GC, `link` may be gone; another LINKID is another owner's tree.
                if read_link_id(&dir)?.is_none_or(|seen| seen == *link) {
                    w.to_trash(&w.route.overlay.clone(), id.as_str())?;
                }
                Ok(())
            }
            Self::Link { id, link } => {
                // Whoever made the layer since has another LINKID: this one is ours and leads nowhere.
                let taken = w.has_layer(id)? && own_layer(w, id, link)?.is_some();
                if !taken && w.route.links.read_link(link.as_str()).is_ok_and(|text| text == link_target(id)) {
                    w.route.links.unlink(link.as_str())?;
                }
                Ok(())
            }
            Self::PlaceSplit { id } => {
                let name = split_name(id);
                if !w.has_layer(id)?
                    && let Some(side) = &w.layer_side
                    && side.meta(&name)?.is_none()
                    && w.layout.layers.meta(&name)?.is_some()
                {
                    w.layout.layers.rename_new(&name, side, &name)?;
                }
                Ok(())
            }
            // Sound contents are not exchanged for damaged ones again; what was begun is finished.
            Self::Heal { id, link, tree } => Ok(finish_healing(w, id, link, tree)?),
            Self::Restore { id, link } => {
                finish_restoring(w, id, link)?;
                if w.has_layer(id)? { Ok(make_link(w, id, link)?) } else { Ok(()) }
            }
            Self::PlaceImage { id } => {
                if !w.has_image(id)?
                    && let Some(side) = &w.image_side
                    && side.meta(id.as_str())?.is_none()
                    && w.layout.images.meta(id.as_str())?.is_some()
                {
                    w.layout.images.rename_new(id.as_str(), side, id.as_str())?;
                }
                Ok(())
            }
            Self::PlaceData { image, file } => {
                if !w.lists_data(image, file)?
                    && let Some(dir) = optional(w.layout.images.dir(image.as_str()))?
                    && let Some(side) = w.image_stage(image)?
                    && dir.meta(file)?.is_some()
                    && side.meta(file)?.is_none()
                {
                    dir.rename_new(file, &side, file)?;
                }
                Ok(())
            }
        }
    }
}
