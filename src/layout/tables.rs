//! All tables of a store, read together under shared locks.

use super::Layout;
use super::users::{self, Users};
use crate::fsio::{self, Dir, Seam, optional};
use crate::ids::LayerId;
use crate::lock::{LockError, StoreLocks, Wait};
use crate::metadata::{self, Containers, Images, Layer, Layers, LoadError, Mountpoints};

const VOLATILE_LAYERS: &str = "volatile-layers.json";
const CONTAINERS: &str = "containers.json";
const VOLATILE_CONTAINERS: &str = "volatile-containers.json";

/// The tables as they were at one moment.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// layers.json
    pub layers: Layers,
    /// volatile-layers.json: layers of containers that end with their process, or with the system (a transient store keeps
    /// them in the run root).
    pub volatile: Layers,
    /// images.json
    pub images: Images,
    /// containers.json
    pub containers: Containers,
    /// volatile-containers.json, and all containers of a transient store, which keeps them in the run root.
    pub volatile_containers: Containers,
    /// mountpoints.json of the run root.
    pub mounts: Mountpoints,
}

/// Why the tables could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TablesError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Disk(#[from] fsio::Error),
}

impl Tables {
    /// Takes the locks shared and together, parses, releases.
    ///
    /// # Errors
    ///
    /// A lock held by somebody else for too long; a table that cannot be read.
    pub fn read(layout: &Layout, wait: &Wait<'_>) -> Result<Self, TablesError> {
        let guard = StoreLocks::read(&layout.layers, &layout.images, &layout.containers, wait)?;
        let tables = Self::load(layout);
        drop(guard);
        tables
    }

    /// Parses; the caller holds the locks.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    pub fn load(layout: &Layout) -> Result<Self, TablesError> {
        let (layers, images) = (layout.load_layers()?, layout.load_images()?);
        Ok(Self { layers, images, ..Self::load_users(layout)? })
    }

    /// All tables but layers.json and images.json; the caller holds the locks.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    pub fn load_users(layout: &Layout) -> Result<Self, TablesError> {
        let mut tables = Self {
            layers: Layers::default(),
            volatile: metadata::load(&layout.layers, VOLATILE_LAYERS, None)?,
            images: Images::default(),
            containers: metadata::load(&layout.containers, CONTAINERS, None)?,
            volatile_containers: metadata::load(&layout.containers, VOLATILE_CONTAINERS, None)?,
            mounts: Mountpoints::default(),
        };
        let runroot = |name: &str| optional(Dir::open(&layout.runroot.join(name), Seam::default()));
        if let Some(dir) = runroot("overlay-layers")? {
            tables.mounts = metadata::load(&dir, "mountpoints.json", None)?;
            tables.volatile.join(&metadata::load(&dir, VOLATILE_LAYERS, None)?);
        }
        if let Some(dir) = runroot("overlay-containers")? {
            for name in [CONTAINERS, VOLATILE_CONTAINERS] {
                tables.volatile_containers.join(metadata::load(&dir, name, None)?);
            }
        }
        Ok(tables)
    }

    /// The layers whose parent this is, those of containers that end with their process included.
    pub fn children(&self, id: &LayerId) -> impl Iterator<Item = &Layer> {
        self.layers.children(id).chain(self.volatile.children(id))
    }

    /// Who uses layers and images right now. To be gathered once for all questions.
    ///
    /// # Errors
    ///
    /// An unreadable `/proc/self/mountinfo`.
    pub fn users(&self, layout: &Layout) -> Result<Users, TablesError> {
        Ok(Users::new(self, users::mounted(layout)?))
    }

    /// Who uses a layer or a descendant right now: a container by name, or a mount. Whoever asks about more than one
    /// layer asks [`Tables::users`].
    ///
    /// # Errors
    ///
    /// An unreadable `/proc/self/mountinfo`.
    pub fn user_of(&self, layout: &Layout, id: &LayerId) -> Result<Option<String>, TablesError> {
        Ok(self.users(layout)?.of_family(id).map(ToString::to_string))
    }
}
