//! Pins: they keep an image from our prune, whoever else may remove it.
//!
//! A pin is an empty file `cstor-rs/pins/<image id>.<owner>`; podman knows nothing of it. Pins are made and removed under
//! images.lock, so that a prune, which holds it too, sees each pin wholly or not at all.
//!
//! Invariants:
//! - N1: when [`pin`] or [`unpin`] returns Ok, what it did survives a power cut.
//! - N2: a pin in `pins/` proves that the names `cstor-rs` and `pins` themselves are on the medium: the first one is made
//!   only after their directories were synced, whoever made them.
//! - N3: what is no pin in `pins/` is neither believed nor touched.
//! - N4: a pin of an image that is gone holds nothing. It is removed when somebody pins or unpins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::fsio::{self, Dir, Kind};
use crate::ids::{ImageId, Owner};
use crate::layout::{Layout, OWN, PINS, parse_pin, pin_name};
use crate::lock::{ImagesGuard, LockError, StoreLocks, Wait};
use crate::metadata::{Images, LoadError};

/// How many pins of images that are gone one call removes: the lock is not held for more.
const MAX_STALE: usize = 100;

/// Who pins which image.
pub type Pinned = BTreeMap<ImageId, Vec<Owner>>;

/// Why an image was not pinned or unpinned.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum PinError {
    #[error("image {image} is not in the store at {}; pull it, then pin it", path.display())]
    NoImage { image: ImageId, path: PathBuf },
    #[error("{} is in the way of a pin and no regular file; remove it", path.display())]
    InTheWay { path: PathBuf },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Disk(#[from] fsio::Error),
}

/// Keeps an image from being pruned until [`unpin`] with the same owner. To pin twice is to pin once.
///
/// # Errors
///
/// [`PinError::NoImage`] for an image that is not in images.json; a lock held too long, an unreadable table, and those of the
/// disk: the image is then pinned or not, and to call again is right.
pub fn pin(layout: &Layout, wait: &Wait<'_>, image: &ImageId, owner: &Owner) -> Result<(), PinError> {
    let guard = StoreLocks::write_images(&layout.images, wait)?;
    let images = layout.load_images()?;
    if images.get(image).is_none() {
        return Err(PinError::NoImage { image: image.clone(), path: layout.root.path().to_owned() });
    }
    let own = layout.root.ensure_dir(OWN, 0o700)?;
    let dir = own.ensure_dir(PINS, 0o700)?;
    let pins = pins_in(&dir)?;
    if pins.is_empty() {
        // N2: who made them may have been stopped before its own sync.
        layout.root.sync()?;
        own.sync()?;
    }
    match dir.create(pin_name(image, owner), 0o600) {
        Ok(_) => {}
        Err(error) if error.is(Errno::EXIST) && pins.iter().any(|(i, o)| i == image && o == owner) => {}
        Err(error) if error.is(Errno::EXIST) => return Err(PinError::InTheWay { path: error.path }),
        Err(error) => return Err(error.into()),
    }
    drop_stale(&dir, &pins, &images, &guard);
    // Where the pin was there already, too: N1, and who made it may have been stopped before its own sync.
    Ok(dir.sync()?)
}

/// Ends what [`pin`] did; says whether there was such a pin.
///
/// # Errors
///
/// A lock held too long, and those of the disk: the image is then pinned or not, and to call again is right.
pub fn unpin(layout: &Layout, wait: &Wait<'_>, image: &ImageId, owner: &Owner) -> Result<bool, PinError> {
    let guard = StoreLocks::write_images(&layout.images, wait)?;
    let Some(dir) = layout.own(PINS)? else { return Ok(false) };
    let pins = pins_in(&dir)?;
    let there = pins.iter().any(|(i, o)| i == image && o == owner);
    if there {
        dir.unlink(pin_name(image, owner))?;
    }
    // A table that cannot be read is no reason to keep what its owner gives up.
    match layout.load_images() {
        Ok(images) => drop_stale(&dir, &pins, &images, &guard),
        Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "pins of images that are gone are kept"),
    }
    dir.sync()?;
    Ok(there)
}

/// All pins, by image and owner.
///
/// # Errors
///
/// Those of the disk.
pub fn list(layout: &Layout) -> fsio::Result<Vec<(ImageId, Owner)>> {
    layout.own(PINS)?.map_or_else(|| Ok(Vec::new()), |dir| pins_in(&dir))
}

/// The pinned images with all who pin them. A prune asks under the store's locks.
///
/// # Errors
///
/// Those of the disk.
pub fn pinned(layout: &Layout) -> fsio::Result<Pinned> {
    let mut pinned = Pinned::new();
    for (image, owner) in list(layout)? {
        pinned.entry(image).or_default().push(owner);
    }
    Ok(pinned)
}

/// The pins in a directory, sorted (N3).
fn pins_in(dir: &Dir) -> fsio::Result<Vec<(ImageId, Owner)>> {
    let files = dir.entries()?.into_iter().filter(|(_, kind)| *kind == Kind::File);
    Ok(files.filter_map(|(name, _)| parse_pin(name.to_str()?)).collect())
}

/// Removes pins of images that are gone (N4), as far as it can be done; the caller syncs.
fn drop_stale(dir: &Dir, pins: &[(ImageId, Owner)], images: &Images, _locked: &ImagesGuard) {
    for (image, owner) in pins.iter().filter(|(image, _)| images.get(image).is_none()).take(MAX_STALE) {
        match dir.unlink(pin_name(image, owner)) {
            Err(error) if !error.not_found() => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a pin of an image that is gone is kept");
            }
            _ => {}
        }
    }
}
