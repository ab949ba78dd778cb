//! All tables of a store, read together under shared locks.

use std::collections::HashSet;

use super::Layout;
use crate::fsio::{self, Dir, Seam, optional};
use crate::ids::LayerId;
use crate::lock::{LockError, StoreLocks, Wait};
use crate::metadata::{self, Containers, Images, Layers, LoadError, Mountpoints};

/// The tables as they were at one moment.
#[derive(Debug, Clone)]
pub struct Tables {
    /// layers.json
    pub layers: Layers,
    /// volatile-layers.json: layers of containers that end with their process.
    pub volatile: Layers,
    /// images.json
    pub images: Images,
    /// containers.json
    pub containers: Containers,
    /// volatile-containers.json
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
        let runroot = optional(Dir::open(&layout.runroot.join("overlay-layers"), Seam::default()))?;
        Ok(Self {
            layers: layout.load_layers()?,
            volatile: metadata::load(&layout.layers, "volatile-layers.json", None)?,
            images: layout.load_images()?,
            containers: metadata::load(&layout.containers, "containers.json", None)?,
            volatile_containers: metadata::load(&layout.containers, "volatile-containers.json", None)?,
            mounts: match runroot {
                Some(dir) => metadata::load(&dir, "mountpoints.json", None)?,
                None => Mountpoints::default(),
            },
        })
    }

    /// A layer and everything built on it, directly or not.
    pub fn with_descendants(&self, id: &LayerId) -> HashSet<String> {
        let mut found = HashSet::from([id.to_string()]);
        loop {
            let before = found.len();
            for layer in self.layers.iter().chain(self.volatile.iter()) {
                if found.contains(layer.parent_text()) {
                    found.insert(layer.id_text().to_owned());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Who uses a layer or a descendant right now: a container by name, or a mount.
    ///
    /// # Errors
    ///
    /// An unreadable `/proc/self/mountinfo`.
    pub fn user_of(&self, layout: &Layout, id: &LayerId) -> Result<Option<String>, TablesError> {
        let family = self.with_descendants(id);
        for container in self.containers.iter().chain(self.volatile_containers.iter()) {
            if container.layer().is_some_and(|layer| family.contains(layer.as_str())) {
                return Ok(Some(format!("container {}", container.display_name())));
            }
        }
        if let Some(mount) = self.mounts.iter().find(|mount| family.contains(mount.id().as_str()) && mount.count() > 0) {
            return Ok(Some(format!("the mount at {}", mount.path())));
        }
        let path = "/proc/self/mountinfo";
        let text = fs_err::read_to_string(path).map_err(|source| fsio::Error { call: "read", path: path.into(), source })?;
        // As the kernel writes it there.
        let overlay = layout.overlay.path().display().to_string();
        let overlay = [('\\', "\\134"), (' ', "\\040"), ('\t', "\\011"), ('\n', "\\012")]
            .into_iter()
            .fold(overlay, |path, (char, code)| path.replace(char, code));
        for point in text.lines().filter_map(|line| line.split(' ').nth(4)) {
            let member = point.strip_prefix(&overlay).and_then(|rest| rest.split('/').nth(1));
            if member.is_some_and(|member| family.contains(member)) {
                return Ok(Some(format!("the mount at {point}")));
            }
        }
        Ok(None)
    }
}
