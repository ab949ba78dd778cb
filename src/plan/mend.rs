//! Repairs: what stands around a layer's contents, its attributes, an image's documents, names that are nobody's.
//!
//! Invariants:
//! - M1: a repair acts on the object that fsck looked at and on no other: the record must be there, and the LINKID the same.
//! - M2: it may run again at any moment, and over its own halves: what it puts in place is staged or follows from what is there.
//! - M3: nothing that is removed is lost if it was anybody's: it was proved to be nobody's, or copied to `lost+found` before.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::act::{make_link, own_layer, place_split, replace_file};
use super::bury::{bury_image, bury_layer};
use super::heal::damaged_layer;
use super::run::{StepError, World};
use super::step::Place;
use crate::extract::{Mended, mend_attributes};
use crate::fsio::{Dir, Kind, optional};
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::{TEMPDIRS, Tables, split_name};
use crate::overlay;

/// One repair that is no exchange of contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mend {
    /// The staged ones of `link`, `lower` and `lower-layers` take their places, and the layer gets its entry in `l/`.
    Around {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
    },
    /// An entry of `l/` that is no layer's is removed, if it is still what it was.
    DropLink {
        /// Its name.
        name: String,
        /// Where it leads; `None` for what is no symlink.
        target: Option<Vec<u8>>,
    },
    /// A staged document takes the place of one that is not what its image's record says.
    Document {
        /// The image.
        image: ImageId,
        /// The key.
        key: String,
        /// The file's name.
        file: String,
        /// sha256 of the staged bytes.
        digest: Digest,
    },
    /// A staged tar-split takes the place of a damaged one.
    Split {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
    },
    /// The seal of a layer that is damaged goes, so that nobody relies on it.
    Unseal {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
    },
    /// What the headers in a layer's tar-split say is put right in place, contents apart.
    Attributes {
        /// The layer's id.
        id: LayerId,
        /// Its LINKID.
        link: LinkId,
        /// Names that are not the layer's, and go.
        remove: Vec<Vec<u8>>,
    },
    /// What stands in `overlay/`, `l/` and `overlay-layers/` under an id without a record is removed.
    BuryLayer {
        /// The id.
        id: LayerId,
        /// The LINKID it has, if `link` is readable.
        link: Option<LinkId>,
    },
    /// The data directory of an image without a record is removed.
    BuryImage {
        /// The image's id.
        id: ImageId,
    },
    /// What another program left in a place for temporary things is removed, if nobody holds its lock.
    Stray {
        /// The place.
        place: StrayPlace,
        /// The name there.
        name: String,
    },
}

/// A place where programs keep what is not for long.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StrayPlace {
    /// `overlay-layers/`: a table being written.
    Layers,
    /// `overlay-images/`: a table being written.
    Images,
    /// `overlay-images/<id>/`: a document being written.
    Image(ImageId),
    /// `overlay/tempdirs/`: a directory with a lock beside it.
    Tempdirs,
    /// `overlay-layers/tmp/`: the same.
    LayerTempdirs,
    /// `overlay/staging/`: a directory with a lock in it.
    Staging,
}

impl StrayPlace {
    /// The directory, from the graph root on.
    pub fn path(&self) -> String {
        match self {
            Self::Layers => "overlay-layers".to_owned(),
            Self::Images => "overlay-images".to_owned(),
            Self::Image(id) => format!("overlay-images/{id}"),
            Self::Tempdirs => "overlay/tempdirs".to_owned(),
            Self::LayerTempdirs => "overlay-layers/tmp".to_owned(),
            Self::Staging => "overlay/staging".to_owned(),
        }
    }
}

/// The lock of a directory of Go's, by the directory's name: beside it.
pub fn temp_lock(name: &str) -> Option<String> {
    Some(format!("lock-{}", name.strip_prefix("temp-dir-")?))
}

/// The lock of a directory in `overlay/staging`, in it.
pub const STAGING_LOCK: &str = "staging.lock";

/// The name of the directory in staging with the files that go around a layer's contents.
pub fn mend_stage(id: &LayerId) -> String {
    format!("{id}.mend")
}

impl Mend {
    /// The directories in which it makes, moves or removes names.
    pub(super) fn places(&self) -> Vec<Place> {
        match self {
            Self::Around { id, .. } => vec![Place::LayerDir(id.clone()), Place::Links, Place::Stage],
            Self::DropLink { .. } => vec![Place::Links, Place::Trash],
            Self::Document { image, .. } => vec![Place::Image(image.clone()), Place::StagedImage(image.clone())],
            Self::Split { .. } => vec![Place::Layers, Place::LayerSide],
            Self::Unseal { id, .. } => vec![Place::LayerDir(id.clone())],
            // Every object is synced where it is changed.
            Self::Attributes { .. } => vec![],
            Self::BuryLayer { .. } => vec![Place::Overlay, Place::Links, Place::Layers, Place::LayerSide, Place::Trash],
            Self::BuryImage { .. } => vec![Place::Images, Place::ImageSide],
            // The place itself is synced on the spot.
            Self::Stray { .. } => vec![Place::Trash, Place::LayerSide],
        }
    }

    /// The layer that is touched.
    pub fn layer(&self) -> Option<&LayerId> {
        match self {
            Self::Around { id, .. }
            | Self::Split { id, .. }
            | Self::Unseal { id, .. }
            | Self::Attributes { id, .. }
            | Self::BuryLayer { id, .. } => Some(id),
            Self::DropLink { .. } | Self::Document { .. } | Self::BuryImage { .. } | Self::Stray { .. } => None,
        }
    }

    /// The image that is touched.
    pub fn image(&self) -> Option<&ImageId> {
        match self {
            Self::Document { image, .. } | Self::BuryImage { id: image } => Some(image),
            _ => None,
        }
    }

    /// Whether something staged is needed for it.
    pub(crate) fn is_staged(&self) -> bool {
        matches!(self, Self::Around { .. } | Self::Document { .. } | Self::Split { .. })
    }

    pub(super) fn apply(&self, w: &mut World<'_>) -> Result<(), StepError> {
        match self {
            Self::Around { id, link } => around(w, id, link),
            Self::DropLink { name, target } => drop_link(w, name, target.as_deref()),
            Self::Document { image, key, file, digest } => document(w, image, key, file, digest),
            Self::Split { id, link } => {
                if w.has_layer(id)? && own_layer(w, id, link)?.is_some() {
                    place_split(w, id)?;
                }
                Ok(())
            }
            Self::Unseal { id, link } => {
                if let Some(dir) = own_layer(w, id, link)?
                    && dir.meta(overlay::SEAL)?.is_some_and(|meta| meta.kind != Kind::Dir)
                {
                    dir.unlink(overlay::SEAL)?;
                }
                Ok(())
            }
            Self::Attributes { id, link, remove } => attributes(w, id, link, remove),
            // Of all that stands there fsck has seen that no record names it; a record that came since makes it somebody's.
            Self::BuryLayer { id, link } => {
                if w.has_layer(id)? {
                    return Ok(());
                }
                bury_layer(w, id, link.as_ref())
            }
            Self::BuryImage { id } => {
                if w.has_image(id)? {
                    return Ok(());
                }
                bury_image(w, id)
            }
            Self::Stray { place, name } => stray(w, place, name),
        }
    }
}

fn around(w: &mut World<'_>, id: &LayerId, link: &LinkId) -> Result<(), StepError> {
    if !w.has_layer(id)? && !w.has_volatile_layer(id)? {
        return Ok(());
    }
    let Some(dir) = damaged_layer(w, id, link)? else { return Ok(()) };
    let staged = match &w.stage {
        Some(stage) => optional(stage.dir(mend_stage(id)))?,
        None => None,
    };
    if let Some(staged) = staged {
        for name in ["lower", "lower-layers", "link"] {
            replace_file(&staged, name, &dir, name)?;
            let stands = dir.meta(name)?;
            match (staged.meta(gone_stage(name))?, stands) {
                (Some(_), Some(meta)) if meta.kind != Kind::Dir => dir.unlink(name)?,
                (Some(_), Some(_)) => dir.rename_new(name, &staged, format!("{name}.damaged"))?,
                _ => {}
            }
        }
        for name in ["work", "empty"] {
            if staged.meta(name)?.is_some() && dir.meta(name)?.is_none() {
                staged.rename_new(name, &dir, name)?;
            }
        }
    }
    Ok(make_link(w, id, link)?)
}

/// The name in staging that says that a file around a layer's contents is one too many.
pub fn gone_stage(name: &str) -> String {
    format!("{name}.gone")
}

fn stray(w: &mut World<'_>, place: &StrayPlace, name: &str) -> Result<(), StepError> {
    match place {
        StrayPlace::Layers => unlink_in(Some(w.layout.layers.clone()), name),
        StrayPlace::Images => unlink_in(Some(w.layout.images.clone()), name),
        StrayPlace::Image(id) => unlink_in(optional(w.layout.images.dir(id.as_str()))?, name),
        StrayPlace::Tempdirs => match optional(w.route.overlay.dir(TEMPDIRS))? {
            Some(dir) => temp_dir(w, &dir, name, false),
            None => Ok(()),
        },
        StrayPlace::LayerTempdirs => match optional(w.layout.layers.dir("tmp"))? {
            Some(dir) => temp_dir(w, &dir, name, true),
            None => Ok(()),
        },
        StrayPlace::Staging => {
            let Some(staging) = optional(w.route.overlay.dir("staging"))? else { return Ok(()) };
            let Some(dir) = optional(staging.dir(name))? else { return Ok(()) };
            let Some(lock) = optional(dir.file_rw(STAGING_LOCK))? else { return Ok(()) };
            if lock.try_lock(true)? {
                w.to_trash(&staging, name)?;
                staging.sync()?;
            }
            Ok(())
        }
    }
}

fn unlink_in(dir: Option<Dir>, name: &str) -> Result<(), StepError> {
    if let Some(dir) = dir
        && dir.meta(name)?.is_some_and(|meta| meta.kind != Kind::Dir)
    {
        dir.unlink(name)?;
        dir.sync()?;
    }
    Ok(())
}

/// A directory of Go's with a lock beside it; or a lock whose directory is gone.
fn temp_dir(w: &mut World<'_>, dir: &Dir, name: &str, beside_layers: bool) -> Result<(), StepError> {
    let Some(lock_name) = temp_lock(name) else { return Ok(()) };
    // Without O_CREAT: who makes the lock anew would take it from its owner.
    let lock = optional(dir.file_rw(&lock_name))?;
    if let Some(lock) = &lock
        && !lock.try_lock(true)?
    {
        return Ok(());
    }
    if dir.meta(name)?.is_some() {
        if beside_layers {
            let side = w.ensure_layer_side()?;
            dir.rename_new(name, &side, name)?;
        } else {
            w.to_trash(dir, name)?;
        }
    }
    if lock.is_some() {
        dir.unlink(&lock_name)?;
    }
    Ok(dir.sync()?)
}

fn attributes(w: &mut World<'_>, id: &LayerId, link: &LinkId, remove: &[Vec<u8>]) -> Result<(), StepError> {
    let Some(dir) = own_layer(w, id, link)? else { return Ok(()) };
    let (Some(diff), Some(split)) = (optional(dir.dir("diff"))?, optional(w.layout.layers.file(split_name(id)))?) else { return Ok(()) };
    // Nobody may be reading what changes; in a commit, too, since who mounts it does not ask for the store's locks.
    if let Some(user) = Tables::load(w.layout)?.user_of(w.layout, id)? {
        tracing::warn!(layer = %id, user, "stays damaged: it is in use; stop that and repair again");
        return Ok(());
    }
    match mend_attributes(&diff, &split, remove) {
        Ok(Mended::Done { .. }) => Ok(()),
        Ok(Mended::Refused { path, why }) => {
            tracing::info!(layer = %id, path = %String::from_utf8_lossy(&path), why, "cannot be put right in place");
            Ok(())
        }
        // What stands there now is not what fsck saw. To try that again at every open would end the same way each time.
        Err(error) if [Errno::NOTEMPTY, Errno::EXIST, Errno::NOTDIR, Errno::ISDIR].iter().any(|e| error.is(*e)) => {
            tracing::warn!(layer = %id, error = &error as &dyn std::error::Error, "is changing, and stays as it is; repair again");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn drop_link(w: &mut World<'_>, name: &str, target: Option<&[u8]>) -> Result<(), StepError> {
    let links = w.route.links.clone();
    match (links.meta(name)?, target) {
        (Some(meta), Some(target)) if meta.kind == Kind::Symlink && links.read_link(name)?.as_os_str() == OsStr::from_bytes(target) => {
            links.unlink(name)?;
        }
        (Some(meta), None) if meta.kind != Kind::Symlink => w.to_trash(&links, name)?,
        _ => {}
    }
    Ok(())
}

fn document(w: &mut World<'_>, image: &ImageId, key: &str, file: &str, digest: &Digest) -> Result<(), StepError> {
    // What the record names now is what the file must be: podman may have replaced both since.
    let is_config = format!("sha256:{image}") == key && digest.hex() == image.as_str();
    if !is_config && w.data_digest(image, key)?.as_deref() != Some(digest.as_str()) {
        return Ok(());
    }
    if !w.lists_data(image, file)? {
        return Ok(());
    }
    let dir = match optional(w.layout.images.dir(image.as_str()))? {
        Some(dir) => dir,
        None => w.layout.images.ensure_dir(image.as_str(), 0o700)?,
    };
    if let Some(side) = w.image_stage(image)? {
        replace_file(&side, file, &dir, file)?;
    }
    Ok(())
}
