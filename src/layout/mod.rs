//! Where things lie: the opened directories of a store, and every file name that cstor-rs makes.
//!
//! `overlay/` may be bind-mounted on itself by podman at any moment. A rename by path from `cstor-rs/` into it
//! then fails with EXDEV on one and the same filesystem, so all renames of layer trees go through a [`Route`]:
//! handles that were all opened through one private clone of the graph root's mount.

mod gotemp;
mod names;
mod route;
mod tables;
mod users;

pub use names::*;
pub use route::Route;
pub use tables::{Tables, TablesError};
pub use users::{Mounted, User, Users, mounted};

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::fsio::{self, Dir, Seam, optional};
use crate::history::History;
use crate::ids::{ImageId, LayerId, TxnId};
use crate::metadata::{self, Images, Layers, LoadError};

/// Why a directory is no store that cstor-rs can work on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LayoutError {
    #[error("there is no store at {}; the first pull makes one", path.display())]
    NoStore { path: PathBuf },
    #[error("the store at {} was made by the {driver} driver; cstor-rs works on overlay stores only", path.display())]
    OtherDriver { path: PathBuf, driver: String },
    #[error("overlay/l of the store at {} is missing, and with it the links of its layers; pull its images again", path.display())]
    NoLinks { path: PathBuf },
    #[error(
        "{missing}/ of the store at {} is missing, though {evidence} is there; restore it from a backup, or empty the store and pull again",
        path.display()
    )]
    Partial { path: PathBuf, missing: &'static str, evidence: String },
    #[error("overlay-containers/ of the store at {} is missing; any podman command, or a pull, makes it", path.display())]
    NoContainers { path: PathBuf },
    #[error(
        "the store at {} was used with fuse-overlayfs (overlay/.has-mount-program says true), whose whiteouts differ; use a store of native overlay",
        path.display()
    )]
    MountProgram { path: PathBuf },
    #[error("the store at {} belongs to user {owner}, this process is user {user}; run as user {owner}", path.display())]
    OtherOwner { path: PathBuf, owner: u32, user: u32 },
    #[error("{} was staged where it could be renamed into overlay/, which is not so now; mount the store as it was before", path.display())]
    OtherWay { path: PathBuf },
    #[error("{} is held by other programs again and again; stop what cleans up the store, and try again", path.display())]
    NoTemp { path: PathBuf },
    #[error(transparent)]
    Disk(#[from] fsio::Error),
}

/// The opened directories of a store.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The graph root.
    pub root: Dir,
    /// `overlay/`.
    pub overlay: Dir,
    /// `overlay/l/`.
    pub links: Dir,
    /// `overlay-layers/`.
    pub layers: Dir,
    /// `overlay-images/`.
    pub images: Dir,
    /// `overlay-containers/`.
    pub containers: Dir,
    /// The run root, where mountpoints.json lies; it may be missing.
    pub runroot: PathBuf,
}

impl Layout {
    /// Opens the directories of an existing store.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NoStore`] where `overlay-layers/` or `overlay-images/` is missing, and the refusals.
    pub fn open(graphroot: &Path, runroot: &Path, seam: &Seam) -> Result<Self, LayoutError> {
        let missing = || LayoutError::NoStore { path: graphroot.to_owned() };
        let root = optional(Dir::open(graphroot, seam.clone()))?.ok_or_else(missing)?;
        check(&root)?;
        check_parts(&root)?;
        let sub = |dir: &Dir, name: &str| -> Result<Dir, LayoutError> { optional(dir.dir(name))?.ok_or_else(missing) };
        let overlay = sub(&root, "overlay")?;
        let links = match optional(overlay.dir("l"))? {
            Some(links) => links,
            None if overlay.names()?.iter().any(|name| name.to_str().is_some_and(|text| text.parse::<LayerId>().is_ok())) => {
                return Err(LayoutError::NoLinks { path: graphroot.to_owned() });
            }
            None => return Err(missing()),
        };
        Ok(Self {
            links,
            overlay,
            layers: sub(&root, "overlay-layers")?,
            images: sub(&root, "overlay-images")?,
            containers: match optional(root.dir("overlay-containers"))? {
                Some(containers) => containers,
                // A store that is being made by another process has it in a moment.
                None if evidence(&root)?.is_none() => return Err(missing()),
                None => return Err(LayoutError::NoContainers { path: graphroot.to_owned() }),
            },
            root,
            runroot: runroot.to_owned(),
        })
    }

    /// Opens a store that may be damaged: where `overlay/l` is missing or no directory, its handle is that of `overlay/`, in which no LINKID is
    /// found either.
    ///
    /// # Errors
    ///
    /// As [`Layout::open`] without `NoLinks`.
    pub fn open_for_check(graphroot: &Path, runroot: &Path, seam: &Seam) -> Result<Self, LayoutError> {
        let no_links = |error: &LayoutError| match error {
            LayoutError::NoLinks { .. } => true,
            LayoutError::Disk(error) => error.path.ends_with("overlay/l") && (error.is(Errno::NOTDIR) || error.is(Errno::LOOP)),
            _ => false,
        };
        match Self::open(graphroot, runroot, seam) {
            Err(error) if no_links(&error) => {
                let root = Dir::open(graphroot, seam.clone())?;
                let overlay = root.dir("overlay")?;
                Ok(Self {
                    links: overlay.clone(),
                    overlay,
                    layers: root.dir("overlay-layers")?,
                    images: root.dir("overlay-images")?,
                    containers: root.dir("overlay-containers")?,
                    root,
                    runroot: runroot.to_owned(),
                })
            }
            other => other,
        }
    }

    /// Opens a store, making what is missing of it with the modes that podman gives.
    ///
    /// # Errors
    ///
    /// As [`Layout::open`] without `NoStore`.
    pub fn create(graphroot: &Path, runroot: &Path, seam: &Seam) -> Result<Self, LayoutError> {
        make_path(graphroot, seam)?;
        let root = Dir::open(graphroot, seam.clone())?;
        check(&root)?;
        check_parts(&root)?;
        let overlay = root.ensure_dir("overlay", 0o700)?;
        overlay.ensure_dir("l", 0o755)?;
        for name in ["overlay-layers", "overlay-images", "overlay-containers"] {
            root.ensure_dir(name, 0o700)?;
        }
        Self::open(graphroot, runroot, seam)
    }

    /// `cstor-rs/` and a directory in it, if they exist.
    ///
    /// # Errors
    ///
    /// That of openat(2).
    pub fn own(&self, name: &str) -> fsio::Result<Option<Dir>> {
        match optional(self.root.dir(OWN))? {
            Some(own) => optional(own.dir(name)),
            None => Ok(None),
        }
    }

    /// `cstor-rs/` and a directory in it, made and synced if missing.
    ///
    /// # Errors
    ///
    /// Those of the verbs.
    pub fn ensure_own(&self, name: &str) -> fsio::Result<Dir> {
        self.root.ensure_dir(OWN, 0o700)?.ensure_dir(name, 0o700)
    }

    /// layers.json. Empty counts as empty only where `overlay/` holds no layer.
    ///
    /// # Errors
    ///
    /// A table that cannot be read or believed.
    pub fn load_layers(&self) -> Result<Layers, LoadError> {
        metadata::load(&self.layers, LAYERS_JSON, Some(&self.overlay))
    }

    /// Brings both tables, and the data of these images, to the medium: whoever renamed them last may not have. What is gone by
    /// now is left out.
    ///
    /// # Errors
    ///
    /// A failed sync.
    pub fn settle<'a>(&self, images: impl IntoIterator<Item = &'a ImageId>) -> fsio::Result<()> {
        // In a new store there may be neither.
        if let Some(table) = optional(self.layers.file(LAYERS_JSON))? {
            table.sync_data()?;
        }
        self.layers.sync()?;
        for id in images {
            let Some(dir) = optional(self.images.dir(id.as_str()))? else { continue };
            for (name, kind) in dir.entries()? {
                if kind == fsio::Kind::File
                    && let Some(file) = optional(dir.file(&name))?
                {
                    file.sync_data()?;
                }
            }
            dir.sync()?;
        }
        if let Some(table) = optional(self.images.file(IMAGES_JSON))? {
            table.sync_data()?;
        }
        self.images.sync()
    }

    /// Brings layers to the medium file by file: contents, what stands around them, their tar-splits and names. `overlay` is
    /// the handle to reach them by. What is gone by now is left out; `merged/` may be somebody's mount and is not looked at.
    ///
    /// # Errors
    ///
    /// A failed sync.
    pub fn sync_layers<'a>(&self, overlay: &Dir, layers: impl IntoIterator<Item = &'a LayerId>) -> fsio::Result<()> {
        let mut any = false;
        for id in layers {
            any = true;
            if let Some(dir) = optional(overlay.dir(id.as_str()))? {
                if let Some(diff) = optional(dir.dir("diff"))? {
                    diff.sync_tree()?;
                }
                for (name, kind) in dir.entries()? {
                    if kind == fsio::Kind::File {
                        dir.file(&name)?.sync_all()?;
                    }
                }
                dir.sync()?;
            }
            if let Some(split) = optional(self.layers.file(split_name(id)))? {
                split.sync_all()?;
            }
        }
        if any {
            for dir in [overlay, &overlay.dir("l")?, &self.layers] {
                dir.sync()?;
            }
        }
        Ok(())
    }

    /// What lets fsck bring names back: these records, and what other programs changed since the last time. Under images.lock.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn note_history(&self, txn: &TxnId, images: &Images) -> fsio::Result<()> {
        let own = self.root.ensure_dir(OWN, 0o700)?;
        let mut history = self.history()?;
        // An id is a plain name, or it is no image's directory.
        let on_disk = |id: &str| Ok(id.parse::<ImageId>().is_ok() && self.images.meta(id)?.is_some());
        history.note(&own, txn, images.iter().map(|image| (image.id_text(), image.json())), on_disk)
    }

    /// The history of image records; an empty one where there is none.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn history(&self) -> fsio::Result<History> {
        /// The id alone: the frames are many, and their records are looked at only by who needs them.
        #[derive(serde::Deserialize)]
        struct Named {
            id: String,
        }
        match optional(self.root.dir(OWN))? {
            Some(own) => History::load(&own, |record| serde_json::from_str::<Named>(record).ok().map(|named| named.id)),
            None => Ok(History::default()),
        }
    }

    /// images.json. Empty counts as empty only where `overlay-images/` holds no image.
    ///
    /// # Errors
    ///
    /// A table that cannot be read or believed.
    pub fn load_images(&self) -> Result<Images, LoadError> {
        metadata::load(&self.images, IMAGES_JSON, Some(&self.images))
    }
}

/// Makes a directory and its missing parents, mode 0700, each parent synced.
fn make_path(path: &Path, seam: &Seam) -> Result<(), LayoutError> {
    if path.is_dir() {
        return Ok(());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(LayoutError::NoStore { path: path.to_owned() });
    };
    make_path(parent, seam)?;
    Dir::open(parent, seam.clone())?.ensure_dir(name, 0o700)?;
    Ok(())
}

fn check(root: &Dir) -> Result<(), LayoutError> {
    let path = || root.path().to_owned();
    let (owner, user) = (root.own_meta()?.uid, rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(LayoutError::OtherOwner { path: path(), owner, user });
    }
    if root.meta("overlay-layers")?.is_none() {
        for driver in ["vfs", "btrfs", "zfs", "aufs", "devicemapper"] {
            if root.meta(format!("{driver}-layers"))?.is_some() {
                return Err(LayoutError::OtherDriver { path: path(), driver: driver.to_owned() });
            }
        }
    }
    if let Some(overlay) = optional(root.dir("overlay"))?
        && optional(overlay.read(".has-mount-program", 64))?.is_some_and(|text| text == b"true")
    {
        return Err(LayoutError::MountProgram { path: path() });
    }
    Ok(())
}

/// A store that has lost one of its parts is not an empty one: where a part is missing, none of the others may hold anything.
fn check_parts(root: &Dir) -> Result<(), LayoutError> {
    for missing in PARTS {
        if root.meta(missing)?.is_none() {
            return match evidence(root)? {
                Some(evidence) => Err(LayoutError::Partial { path: root.path().to_owned(), missing, evidence }),
                None => Ok(()),
            };
        }
    }
    Ok(())
}

const PARTS: [&str; 3] = ["overlay", "overlay-layers", "overlay-images"];

/// A name in the store that tells of a layer or an image.
fn evidence(root: &Dir) -> Result<Option<String>, LayoutError> {
    let tells = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) || name.ends_with(".tar-split.gz");
    for part in PARTS {
        let Some(dir) = optional(root.dir(part))? else { continue };
        if let Some(name) = dir.names()?.into_iter().find(|name| name.to_str().is_some_and(tells)) {
            return Ok(Some(format!("{part}/{}", name.display())));
        }
    }
    Ok(None)
}
