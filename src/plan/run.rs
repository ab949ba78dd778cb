//! Runs the steps of a plan: for a commit, for recovery forward and back.

use rustix::io::Errno;

use crate::fsio::{self, Dir, optional};
use crate::ids::{ImageId, LayerId, TxnId};
use crate::layout::{Layout, Route, Tables, TablesError, Users, scratch_name, side_stage_name};
use crate::lock::{LockError, StoreWriteGuard};
use crate::metadata::{self, Images, Layers, MAX_TABLE_BYTES};
use crate::overlay::{TreeId, read_link_id};

use super::edit::{Around, edit};
use super::holder::Needs;
use super::{Intent, Place, Step, Table};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StepError {
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error("{name} was staged, and is gone: something removed it from cstor-rs/ or overlay/tempdirs; pull again")]
    Gone { name: String },
    #[error(transparent)]
    Table(#[from] metadata::LoadError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Plan(#[from] super::PlanError),
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
}

/// What a plan acts on: the store under all three locks, and the transaction's staging directories.
pub struct World<'a> {
    /// The store.
    pub layout: &'a Layout,
    /// The handles for renames.
    pub route: &'a Route,
    /// The transaction.
    pub txn: &'a TxnId,
    /// What it wants.
    pub intent: &'a Intent,
    /// All three store locks.
    pub locks: &'a mut StoreWriteGuard,
    /// `cstor-rs/stage/<txn>`, if it exists.
    pub stage: Option<Dir>,
    /// `overlay-layers/.cstor-rs-<txn>`, if it exists.
    pub layer_side: Option<Dir>,
    /// `overlay-images/.cstor-rs-<txn>`, if it exists.
    pub image_side: Option<Dir>,
    /// Whether the markers were made under these same locks: what they say need not be worked out again.
    pub fresh: bool,
    layers: Option<Layers>,
    images: Option<Images>,
}

impl<'a> World<'a> {
    /// Opens the staging directories of a transaction.
    ///
    /// # Errors
    ///
    /// Those of the disk; missing directories are no error.
    pub fn open(
        layout: &'a Layout,
        route: &'a Route,
        txn: &'a TxnId,
        intent: &'a Intent,
        locks: &'a mut StoreWriteGuard,
    ) -> fsio::Result<Self> {
        let side = side_stage_name(txn);
        Ok(Self {
            stage: route.stage_of(txn)?,
            layer_side: optional(layout.layers.dir(&side))?,
            image_side: optional(layout.images.dir(&side))?,
            layout,
            route,
            txn,
            intent,
            locks,
            fresh: false,
            layers: None,
            images: None,
        })
    }

    /// Applies every step in order.
    ///
    /// # Errors
    ///
    /// The first that fails; nothing behind it is tried.
    pub fn forward(&mut self) -> Result<(), StepError> {
        let intent = self.intent;
        intent.steps.iter().try_for_each(|step| step.apply(self))
    }

    /// Takes back every step before the pivot, last first, and syncs the directories.
    ///
    /// # Errors
    ///
    /// The first that fails: the segment must then stay.
    pub fn back(&mut self) -> Result<(), StepError> {
        let intent = self.intent;
        let end = intent.pivot().unwrap_or(intent.steps.len());
        for step in intent.steps.iter().take(end).rev() {
            step.undo(self)?;
        }
        Step::barrier(intent.steps.get(..end).unwrap_or_default()).apply(self)
    }

    /// Takes back what was placed for images; their layers stay, complete and unneeded.
    ///
    /// # Errors
    ///
    /// The first step that fails.
    pub fn abandon_images(&mut self) -> Result<(), StepError> {
        let ours = |step: &&Step| matches!(step, Step::PlaceImage { .. } | Step::PlaceData { .. });
        let steps: Vec<Step> = self.intent.steps.iter().filter(ours).cloned().collect();
        steps.iter().rev().try_for_each(|step| step.undo(self))?;
        Step::barrier(&steps).apply(self)
    }

    pub(super) fn sync(&self, place: &Place) -> fsio::Result<()> {
        match place {
            Place::Overlay => self.route.overlay.sync(),
            Place::Links => self.route.links.sync(),
            Place::Layers => self.layout.layers.sync(),
            Place::Images => self.layout.images.sync(),
            Place::Image(id) => sync_if(optional(self.layout.images.dir(id.as_str()))?),
            Place::LayerDir(id) => sync_if(self.layer_dir(id)?),
            Place::StagedLayer(id) => sync_if(self.staged_layer(id)?),
            Place::Stage => sync_if(self.stage.clone()),
            Place::LayerSide => sync_if(self.layer_side.clone()),
            Place::ImageSide => sync_if(self.image_side.clone()),
            Place::StagedImage(id) => sync_if(self.image_stage(id)?),
            Place::Trash => sync_if(self.route.trash_of(self.txn)?),
        }
    }

    /// Moves a name into `cstor-rs/trash/<txn>/`.
    pub(super) fn to_trash(&self, from: &Dir, name: &str) -> fsio::Result<()> {
        let trash = self.route.ensure_trash(self.txn)?;
        // One name may be thrown away twice: by the plan, and by recovery taking the plan back.
        let mut free = name.to_owned();
        while trash.meta(&free)?.is_some() {
            free.push('+');
        }
        from.rename_new(name, &trash, &free)
    }

    pub(super) fn staged_layer(&self, id: &LayerId) -> fsio::Result<Option<Dir>> {
        match &self.stage {
            Some(stage) => optional(stage.dir(id.as_str())),
            None => Ok(None),
        }
    }

    pub(super) fn image_stage(&self, id: &ImageId) -> fsio::Result<Option<Dir>> {
        match &self.image_side {
            Some(side) => optional(side.dir(id.as_str())),
            None => Ok(None),
        }
    }

    /// `overlay/<id>/`, if a directory stands there; what else stands there is nobody's layer.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn layer_dir(&self, id: &LayerId) -> fsio::Result<Option<Dir>> {
        match self.route.overlay.dir(id.as_str()) {
            Err(error) if error.not_found() || error.is(Errno::NOTDIR) || error.is(Errno::LOOP) => Ok(None),
            other => other.map(Some),
        }
    }

    /// In a living commit what is placed was staged by it: where that is gone, nothing may be switched on. In recovery it means
    /// that the step was done.
    pub(super) fn demand(&self, staged: Option<&Dir>, name: &str) -> Result<(), StepError> {
        let there = match staged {
            Some(dir) => dir.meta(name)?.is_some(),
            None => false,
        };
        if there || !self.fresh { Ok(()) } else { Err(StepError::Gone { name: name.to_owned() }) }
    }

    /// Who uses a layer or one built on it, by all the tables there are. A commit has looked already, under these locks.
    pub(super) fn user_of(&self, id: &LayerId) -> Result<Option<String>, StepError> {
        if self.fresh {
            return Ok(None);
        }
        Ok(Tables::load(self.layout)?.user_of(self.layout, id)?)
    }

    /// layers.json as it is now.
    ///
    /// # Errors
    ///
    /// An unreadable table.
    pub fn layers(&mut self) -> Result<&Layers, StepError> {
        if self.layers.is_none() {
            self.layers = Some(self.layout.load_layers()?);
        }
        Ok(self.layers.get_or_insert_default())
    }

    /// images.json as it is now.
    ///
    /// # Errors
    ///
    /// An unreadable table.
    pub fn images(&mut self) -> Result<&Images, StepError> {
        if self.images.is_none() {
            self.images = Some(self.layout.load_images()?);
        }
        Ok(self.images.get_or_insert_default())
    }

    pub(super) fn has_layer(&mut self, id: &LayerId) -> Result<bool, StepError> {
        Ok(self.layers()?.get(id).is_some())
    }

    /// Whether a container that ends with its process has this layer.
    pub(super) fn has_volatile_layer(&self, id: &LayerId) -> Result<bool, StepError> {
        Ok(Tables::load(self.layout)?.volatile.get(id).is_some())
    }

    pub(super) fn has_image(&mut self, id: &ImageId) -> Result<bool, StepError> {
        Ok(self.images()?.get(id).is_some())
    }

    /// Whether the image's record names a key that this file holds.
    pub(super) fn lists_data(&mut self, id: &ImageId, file: &str) -> Result<bool, StepError> {
        Ok(self
            .images()?
            .get(id)
            .is_some_and(|image| image.big_data_names().iter().any(|key| metadata::big_data_file(key).is_ok_and(|name| name == file))))
    }

    /// The digest the image's record has for a key.
    pub(super) fn data_digest(&mut self, id: &ImageId, key: &str) -> Result<Option<String>, StepError> {
        Ok(self.images()?.get(id).and_then(|image| image.big_data_digests().get(key)).map(ToString::to_string))
    }

    /// Renames a prepared table into its place. A missing marker means: done for ever, whatever the table says now.
    pub(super) fn switch(&mut self, table: Table) -> Result<(), StepError> {
        let layout = self.layout;
        let (dir, marker) = (table.dir(layout), table.marker(self.txn));
        if dir.meta(&marker)?.is_none() {
            return Ok(());
        }
        if !self.fresh {
            match table {
                // Layers are inserted before the pivot only, so never again.
                Table::Layers => {}
                Table::Images => self.refresh(table, |world| world.changed_images())?,
                Table::RemainingLayers => self.refresh(table, |world| world.remaining_layers())?,
            }
        }
        // The token first: killed between the two, readers would otherwise trust their stale cache for ever.
        match table {
            Table::Layers | Table::RemainingLayers => self.locks.touch_layers()?,
            Table::Images => self.locks.touch_images()?,
        }
        dir.rename(&marker, dir, table.file())?;
        match table {
            Table::Layers | Table::RemainingLayers => self.layers = None,
            Table::Images => self.images = None,
        }
        Ok(())
    }

    /// Works a change out again over the tables as they are now; only the bytes decide if the marker is good.
    fn refresh(&mut self, table: Table, work: impl Fn(&Self) -> Result<Vec<u8>, StepError>) -> Result<(), StepError> {
        let (dir, marker) = (table.dir(self.layout), table.marker(self.txn));
        let want = work(self)?;
        if dir.read(&marker, MAX_TABLE_BYTES)? == want {
            return Ok(());
        }
        dir.replace(scratch_name(table.file(), self.txn), &marker, &want, 0o600)?;
        Ok(())
    }

    fn changed_images(&self) -> Result<Vec<u8>, StepError> {
        let tables = Tables::load(self.layout)?;
        let mut images = tables.images.clone();
        edit(&mut images, &self.intent.images, &Seen { world: self, users: &tables.users(self.layout)? })?;
        Ok(images.encode())
    }

    /// Without those layers that are still the ones the plan saw, and that still nothing needs.
    fn remaining_layers(&self) -> Result<Vec<u8>, StepError> {
        let tables = Tables::load(self.layout)?;
        let mut same = Vec::new();
        for gone in &self.intent.removals {
            let seen = match self.layer_dir(&gone.id)? {
                Some(dir) => read_link_id(&dir)?,
                None => None,
            };
            if tables.layers.get(&gone.id).is_some() && (seen.is_none() || seen == gone.link) {
                same.push(gone.id.clone());
            }
        }
        let users = tables.users(self.layout)?;
        let (gone, kept) = Needs::of(&tables.layers, &tables.images, &tables, &users).sift(&tables.layers, &same);
        for (id, holder) in kept {
            tracing::info!(layer = %id, %holder, "stays: it is needed again");
        }
        let mut layers = tables.layers.clone();
        for id in &gone {
            layers.remove(id);
        }
        Ok(layers.encode())
    }

    pub(super) fn ensure_layer_side(&mut self) -> fsio::Result<Dir> {
        ensure_side(&mut self.layer_side, &self.layout.layers, self.txn)
    }

    pub(super) fn ensure_image_side(&mut self) -> fsio::Result<Dir> {
        ensure_side(&mut self.image_side, &self.layout.images, self.txn)
    }
}

/// The transaction's directory beside a table; another program may have removed it.
fn ensure_side(side: &mut Option<Dir>, table: &Dir, txn: &TxnId) -> fsio::Result<Dir> {
    match side {
        Some(dir) => Ok(dir.clone()),
        None => Ok(side.insert(table.ensure_dir(side_stage_name(txn), 0o700)?).clone()),
    }
}

/// The world outside images.json as recovery finds it.
struct Seen<'a, 'w> {
    world: &'a World<'w>,
    users: &'a Users,
}

impl Around for Seen<'_, '_> {
    fn is_used(&self, id: &ImageId) -> bool {
        self.users.of_image(id).next().is_some()
    }

    fn is_tree(&self, id: &ImageId, tree: Option<&TreeId>) -> bool {
        let images = &self.world.layout.images;
        match optional(images.dir(id.as_str())).and_then(|dir| dir.map(|dir| TreeId::of(&dir)).transpose()) {
            // What cannot be looked at is not ours to judge.
            Err(_) => false,
            Ok(seen) => seen.as_ref() == tree,
        }
    }
}

fn sync_if(dir: Option<Dir>) -> fsio::Result<()> {
    dir.map_or(Ok(()), |dir| dir.sync())
}
