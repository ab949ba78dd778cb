//! The way from staging into `overlay/`, and from there into the trash.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::gotemp::{self, GoTemp};
use super::{Layout, LayoutError, OWN, STAGE, TEMPDIRS, TRASH, TempName, side_stage_name};
use crate::fsio::{self, Dir, Meta, optional};
use crate::ids::TxnId;

/// How often the handles are opened again because something was mounted in between.
const TRIES: usize = 16;

/// The handles that layer trees are renamed between: all of one mount, whatever podman mounts meanwhile.
#[derive(Debug, Clone)]
pub struct Route {
    /// `overlay/`.
    pub overlay: Dir,
    /// `overlay/l/`.
    pub links: Dir,
    stage: Dir,
    trash: Dir,
    way: Way,
}

/// Where trees wait and die.
#[derive(Debug, Clone)]
enum Way {
    /// In `cstor-rs/`, which no other program looks into.
    Own,
    /// In `overlay/tempdirs/`, because nothing can be renamed from `cstor-rs/` into `overlay/`.
    Temp(Option<Arc<GoTemp>>),
}

impl Route {
    /// Opens the handles, through a private clone of the graph root's mount where `overlay/` is a mount point of its own.
    /// Never mix handles from before and after a bind mount: take all from one route.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn open(layout: &Layout) -> Result<Self, LayoutError> {
        let (own_stage, own_trash) = (layout.ensure_own(STAGE)?, layout.ensure_own(TRASH)?);
        let root = &layout.root;
        for _ in 0..TRIES {
            // Opened anew: podman may have mounted since the layout was opened, and may mount right now.
            let outside = root.dir("overlay")?;
            let (root_meta, outside_meta) = (root.own_meta()?, outside.own_meta()?);
            let same_mount = matches!((root_meta.mount, outside_meta.mount), (Some(a), Some(b)) if a == b);
            let base = if same_mount { Some(root.clone()) } else { clone_of(root) };
            if let Some(base) = base {
                let overlay = base.dir("overlay")?;
                let inside = overlay.own_meta()?;
                if same_mount && inside.mount != root_meta.mount {
                    continue;
                }
                if same_object(&inside, &outside_meta) {
                    let own = base.dir(OWN)?;
                    let links = overlay.dir("l")?;
                    return Ok(Self { links, overlay, stage: own.dir(STAGE)?, trash: own.dir(TRASH)?, way: Way::Own });
                }
            }
            let links = outside.dir("l")?;
            return Ok(Self { links, overlay: outside, stage: own_stage, trash: own_trash, way: Way::Temp(None) });
        }
        Err(LayoutError::NoTemp { path: layout.overlay.path().to_owned() })
    }

    /// Proves the way: renames an empty directory from `stage/` into `overlay/` and back; where that is no way (EXDEV), trees
    /// will wait in `overlay/tempdirs/`. Equal device and inode numbers prove nothing: a nested btrfs subvolume passes that
    /// test and still gives EXDEV. To be called under layers.lock, released at once.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn prove(&mut self, txn: &TxnId) -> Result<(), LayoutError> {
        if !matches!(self.way, Way::Own) {
            return Ok(());
        }
        let (here, there) = (format!("{txn}.probe"), side_stage_name(txn));
        // A recovery that was interrupted in the middle of this left its own.
        optional(self.overlay.rmdir(&there))?;
        optional(self.stage.rmdir(&here))?;
        self.stage.mkdir(&here, 0o700)?;
        let tried = self.stage.rename(&here, &self.overlay, &there);
        if tried.is_ok() {
            self.overlay.rename(&there, &self.stage, &here)?;
        }
        self.stage.rmdir(&here)?;
        if let Err(error) = tried {
            if !error.is(Errno::XDEV) {
                return Err(error.into());
            }
            tracing::info!(error = &error as &dyn std::error::Error, "staging in overlay/tempdirs: it cannot be renamed into overlay/");
            self.way = Way::Temp(None);
        }
        Ok(())
    }

    /// Makes the directory that a transaction stages its layers in; makes it anew, where other programs have removed it.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn begin(&mut self, txn: &TxnId) -> Result<Dir, LayoutError> {
        let made = self.made_tempdirs();
        let Way::Temp(slot) = &mut self.way else { return Ok(self.stage.mkdir(txn.as_str(), 0o700)?) };
        if let Some(old) = slot.take() {
            // What is left of it goes first.
            old.remove()?;
        }
        let (temp, stage) = GoTemp::create_stage(&self.overlay, txn, made)?;
        *slot = Some(Arc::new(temp));
        Ok(stage)
    }

    /// Brings the name of a living transaction's staging directory to the medium: what is in it is there already.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn sync_name(&self) -> fsio::Result<()> {
        match &self.way {
            Way::Own => self.stage.sync(),
            Way::Temp(Some(temp)) => temp.sync_name(&self.overlay),
            Way::Temp(None) => Ok(()),
        }
    }

    /// The route for ending a dead transaction, which may need a place to throw into.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn for_dead(&self, txn: &TxnId) -> Result<Self, LayoutError> {
        let mut route = self.clone();
        route.prove(txn)?;
        // The probe is gone for good, whatever else there will be to sync: the segment that tells whose it was goes too.
        route.overlay.sync()?;
        if let Way::Temp(slot) = &mut route.way {
            if self.stage.meta(txn.as_str())?.is_some() {
                return Err(LayoutError::OtherWay { path: self.stage.path().join(txn.as_str()) });
            }
            *slot = Some(Arc::new(GoTemp::create(&route.overlay, txn, false)?));
        }
        Ok(route)
    }

    /// Whether trees wait among Go's temporary directories, where other programs may remove them.
    pub fn is_exposed(&self) -> bool {
        matches!(self.way, Way::Temp(_))
    }

    /// Whether the staging of a living transaction is where it was made; to be asked under layers.lock.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn is_intact(&self) -> fsio::Result<bool> {
        match &self.way {
            Way::Own => Ok(true),
            Way::Temp(Some(temp)) => temp.is_intact(&self.overlay),
            Way::Temp(None) => Ok(false),
        }
    }

    /// Where a transaction's staged layers wait. Of a dead one whose staging other programs could see: nowhere, they may
    /// have removed half of it.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn stage_of(&self, txn: &TxnId) -> fsio::Result<Option<Dir>> {
        match &self.way {
            Way::Own => optional(self.stage.dir(txn.as_str())),
            Way::Temp(temp) => Ok(temp.as_ref().and_then(|temp| temp.stage.clone())),
        }
    }

    /// Where a transaction throws what dies, if it has thrown anything.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn trash_of(&self, txn: &TxnId) -> fsio::Result<Option<Dir>> {
        match &self.way {
            Way::Own => optional(self.trash.dir(txn.as_str())),
            Way::Temp(Some(temp)) => temp.trash(),
            Way::Temp(None) => Ok(None),
        }
    }

    /// The same, made if missing.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn ensure_trash(&self, txn: &TxnId) -> fsio::Result<Dir> {
        match &self.way {
            Way::Own | Way::Temp(None) => self.trash.ensure_dir(txn.as_str(), 0o700),
            Way::Temp(Some(temp)) => temp.ensure_trash(),
        }
    }

    /// The transactions that have something in staging or trash.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn residents(&self) -> fsio::Result<BTreeSet<TxnId>> {
        let mut found = residents(&self.stage)?;
        found.extend(residents(&self.trash)?);
        found.extend(temp_residents(&self.overlay)?);
        Ok(found)
    }

    /// Removes a transaction's staging and trash, wherever they are.
    ///
    /// # Errors
    ///
    /// The first failure: a mount point inside, a broken disk.
    pub fn remove(&self, txn: &TxnId, sync: impl Fn(&Dir) -> fsio::Result<()>) -> fsio::Result<()> {
        for dir in [&self.stage, &self.trash] {
            let mut changed = false;
            for name in [txn.to_string(), format!("{txn}.probe")] {
                if dir.meta(&name)?.is_some() {
                    dir.remove_tree(&name)?;
                    changed = true;
                }
            }
            if changed {
                sync(dir)?;
            }
        }
        let Some(tempdirs) = optional(self.overlay.dir(TEMPDIRS))? else { return Ok(()) };
        let mut changed = false;
        for name in temp_names(&tempdirs)?.into_iter().filter(|name| name.txn == *txn) {
            match &self.way {
                Way::Temp(Some(temp)) if temp.name == name => temp.remove()?,
                _ => gotemp::remove_dead(&tempdirs, &name)?,
            }
            changed = true;
        }
        if changed { sync(&tempdirs) } else { Ok(()) }
    }

    /// Whether `overlay/tempdirs/` was made by this transaction: podman 5.4 calls it damage, so it goes again. Under
    /// layers.lock only: storage 1.59 to 1.61 makes it and then something in it under that lock, and loses the race silently.
    /// From 1.62 on Go does so without the lock: where such a program has been it is there for good, and is not ours.
    pub fn made_tempdirs(&self) -> bool {
        matches!(&self.way, Way::Temp(Some(temp)) if temp.made)
    }

    /// Removes `overlay/tempdirs/` if it is empty.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn remove_tempdirs(&self) -> fsio::Result<()> {
        match self.overlay.rmdir(TEMPDIRS) {
            Err(error) if error.not_found() || error.is(rustix::io::Errno::NOTEMPTY) || error.is(rustix::io::Errno::EXIST) => Ok(()),
            other => other,
        }
    }
}

/// The transactions with something in a directory of `cstor-rs/`.
pub(super) fn residents(dir: &Dir) -> fsio::Result<BTreeSet<TxnId>> {
    let names = dir.names()?;
    Ok(names.iter().filter_map(|name| name.to_str()).filter_map(|text| text.strip_suffix(".probe").unwrap_or(text).parse().ok()).collect())
}

/// The transactions with something among Go's temporary directories.
pub(super) fn temp_residents(overlay: &Dir) -> fsio::Result<BTreeSet<TxnId>> {
    let Some(tempdirs) = optional(overlay.dir(TEMPDIRS))? else { return Ok(BTreeSet::new()) };
    Ok(temp_names(&tempdirs)?.into_iter().map(|name| name.txn).collect())
}

/// Our temporary directories and locks, each once.
fn temp_names(tempdirs: &Dir) -> fsio::Result<BTreeSet<TempName>> {
    Ok(tempdirs.names()?.iter().filter_map(|name| name.to_str()).filter_map(TempName::parse).collect())
}

fn same_object(a: &Meta, b: &Meta) -> bool {
    a.device == b.device && a.inode == b.inode
}

/// A private clone of the graph root's mount; `None` where the kernel or the user's rights do not allow one.
fn clone_of(root: &Dir) -> Option<Dir> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match rustix::mount::open_tree(root.as_fd(), "", flags) {
        Ok(fd) => Some(Dir::from_fd(fd, root.path(), root.seam().clone())),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "overlay/ is a mount point and open_tree failed");
            None
        }
    }
}

impl Layout {
    /// The transactions that have something in staging or trash, wherever they may have staged.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn residents(&self) -> fsio::Result<BTreeSet<TxnId>> {
        let mut found = BTreeSet::new();
        for name in [STAGE, TRASH] {
            if let Some(dir) = self.own(name)? {
                found.extend(residents(&dir)?);
            }
        }
        found.extend(temp_residents(&self.overlay)?);
        Ok(found)
    }
}
