//! A transaction's place on the disk: its journal segment, its staging directories, the way into `overlay/`.

use crate::fsio::{self, Dir};
use crate::ids::TxnId;
use crate::journal::{Kind, Segment};
use crate::layout::{JOURNAL, Layout, LayoutError, Route, side_stage_name};
use crate::lock::{StoreLocks, Wait};
use crate::recovery;

use super::begin::best_effort;
use super::{SyncMode, TxnError, TxnOptions};

/// Dropped, it removes everything, unless an intent is open: then the next open decides.
pub(super) struct Staging {
    layout: Layout,
    id: TxnId,
    pub segment: Option<Segment>,
    pub route: Route,
    pub stage: Dir,
    pub layer_side: Dir,
    pub image_side: Dir,
    /// One directory per filesystem, open since before the first write.
    pub filesystems: Vec<Dir>,
    /// How contents reach the medium, on these filesystems.
    pub sync: SyncMode,
    /// Whether an intent is in the segment that neither Done nor Abort follows, and if so, whether it has a pivot.
    pub intent_open: Option<bool>,
}

impl Staging {
    /// Makes and locks the journal segment, proves the rename route, makes the staging directories.
    pub fn begin(layout: &Layout, options: &TxnOptions, id: &TxnId) -> Result<Self, TxnError> {
        let journal = layout.ensure_own(JOURNAL)?;
        let mut route = Route::open(layout)?;
        let segment = Segment::create(&journal, id)?;
        match Self::dirs(layout, options, id, &mut route) {
            Ok((stage, layer_side, image_side)) => {
                let filesystems = filesystems(&[&stage, &layer_side, &image_side])?;
                let sync = reliable(options.sync, &filesystems)?;
                Ok(Self {
                    layout: layout.clone(),
                    id: id.clone(),
                    segment: Some(segment),
                    route,
                    stage,
                    layer_side,
                    image_side,
                    filesystems,
                    sync,
                    intent_open: None,
                })
            }
            Err(error) => {
                if recovery::sweep(layout, &route, id).is_ok() {
                    best_effort("remove the segment", segment.remove(&journal));
                }
                recovery::tidy_tempdirs(layout, &route);
                Err(error)
            }
        }
    }

    fn dirs(layout: &Layout, options: &TxnOptions, id: &TxnId, route: &mut Route) -> Result<(Dir, Dir, Dir), TxnError> {
        let wait = Wait::new(options.wait, options.interrupt.as_deref());
        let locks = StoreLocks::write_layers(&layout.layers, &wait)?;
        let proved = route.prove(id);
        drop(locks);
        proved?;
        let stage = route.begin(id)?;
        copy_label(route, &stage)?;
        let side = side_stage_name(id);
        Ok((stage, layout.layers.mkdir(&side, 0o700)?, layout.images.mkdir(&side, 0o700)?))
    }

    /// Ends an intent that nothing has been done of. Durable before the markers go: an intent without markers reads as
    /// "every rename was done". On a poisoned handle neither Abort nor Done can be made durable: the intent stays open, and
    /// everything stays for the next open, which decides.
    pub fn abort(&mut self) -> Result<(), TxnError> {
        if self.intent_open.is_none() || self.layout.root.seam().poisoned() {
            return Ok(());
        }
        if let Some(segment) = &mut self.segment {
            segment.append(Kind::Abort, &[])?;
            segment.sync()?;
        }
        self.intent_open = None;
        Ok(())
    }

    /// Removes everything, the segment last.
    pub fn clean_up(&mut self) -> Result<(), TxnError> {
        self.abort()?;
        let Some(segment) = self.segment.take() else { return Ok(()) };
        if self.intent_open.is_some() {
            return Ok(());
        }
        recovery::sweep(&self.layout, &self.route, &self.id).map_err(recovery::RecoveryError::from)?;
        if let Some(journal) = self.layout.own(JOURNAL)? {
            segment.remove(&journal)?;
        }
        recovery::tidy_tempdirs(&self.layout, &self.route);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        best_effort("take a dropped transaction back", self.clean_up());
    }
}

/// One directory for each filesystem among these.
pub(crate) fn filesystems(dirs: &[&Dir]) -> fsio::Result<Vec<Dir>> {
    let mut seen = Vec::new();
    let mut list = Vec::new();
    for dir in dirs {
        let device = dir.own_meta()?.device;
        if !seen.contains(&device) {
            seen.push(device);
            list.push((*dir).clone());
        }
    }
    Ok(list)
}

/// One syncfs where it is known to do what it says, else every file by itself.
pub(crate) fn reliable(wanted: SyncMode, filesystems: &[Dir]) -> fsio::Result<SyncMode> {
    if wanted != SyncMode::Filesystem {
        return Ok(wanted);
    }
    for dir in filesystems {
        if !dir.syncfs_is_enough()? {
            tracing::info!(path = %dir.path().display(), "syncfs is not relied on here: contents are synced file by file");
            return Ok(SyncMode::Files);
        }
    }
    Ok(wanted)
}

/// Gives the staging directory the SELinux label of `overlay/`: files take the type of the directory they are made
/// in and keep it on rename.
fn copy_label(route: &Route, stage: &Dir) -> Result<(), LayoutError> {
    const KEY: &[u8] = b"security.selinux";
    if let Some(label) = route.overlay.xattr("l", KEY)? {
        stage.set_xattr_self(KEY, &label)?;
    }
    Ok(())
}
