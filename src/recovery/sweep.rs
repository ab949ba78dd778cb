//! Removing what a decided transaction left: markers, staging, trash. The segment is the caller's, and goes last.

use std::time::Duration;

use crate::fsio::{self, Dir, optional};
use crate::ids::TxnId;
use crate::layout::{
    IMAGES_JSON, LAYERS_JSON, Layout, Route, marker_name, parse_marker, parse_side_stage, scratch_name, second_marker_name, side_stage_name,
};
use crate::lock::{StoreLocks, Wait};

/// Why something stays: the segment must then stay too.
#[derive(Debug, thiserror::Error)]
#[error("what transaction {txn} left cannot be removed; it is tried again at the next open")]
pub struct SweepError {
    /// The transaction.
    pub txn: TxnId,
    /// What failed.
    pub source: fsio::Error,
}

/// Removes markers, staged and dying trees of one transaction, and syncs the directories they left.
///
/// # Errors
///
/// The first failure: a mount point inside the trash, a full or broken disk.
pub fn sweep(layout: &Layout, route: &Route, txn: &TxnId) -> Result<(), SweepError> {
    try_sweep(layout, route, txn).map_err(|source| SweepError { txn: txn.clone(), source })
}

/// Removes `overlay/tempdirs/` if this route made it and it is empty. Best effort, and without waiting: it is only for
/// podman 5.4, which calls the directory damage.
pub fn tidy_tempdirs(layout: &Layout, route: &Route) {
    if !route.made_tempdirs() {
        return;
    }
    match StoreLocks::write_layers(&layout.layers, &Wait::limit(Duration::ZERO)) {
        Ok(_held) => {
            if let Err(error) = route.remove_tempdirs() {
                tracing::warn!(error = &error as &dyn std::error::Error, "overlay/tempdirs stays");
            }
        }
        Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "overlay/tempdirs stays"),
    }
}

fn try_sweep(layout: &Layout, route: &Route, txn: &TxnId) -> fsio::Result<()> {
    let side = side_stage_name(txn);
    let seam = layout.root.seam();
    for table in [&layout.layers, &layout.images] {
        let mut changed = remove_markers(table, txn)?;
        if table.meta(&side)?.is_some() {
            table.remove_tree(&side)?;
            changed = true;
        }
        if changed {
            sync_unless_poisoned(table)?;
        }
    }
    // A probe of the rename route that was cut short.
    if route.overlay.meta(&side)?.is_some() {
        route.overlay.remove_tree(&side)?;
        sync_unless_poisoned(&route.overlay)?;
    }
    route.remove(txn, sync_unless_poisoned)?;
    if seam.poisoned() {
        // Gone from the page cache, but nobody may say that it is gone from the medium: the segment stays.
        let why = std::io::Error::other("an earlier sync failed");
        return Err(fsio::Error { call: "fsync", path: layout.root.path().to_owned(), source: why });
    }
    Ok(())
}

/// After a failed sync nothing is synced any more, but what is staged still goes: a full disk gets its room back.
fn sync_unless_poisoned(dir: &Dir) -> fsio::Result<()> {
    if dir.seam().poisoned() { Ok(()) } else { dir.sync() }
}

/// By their names: a directory of any size is not listed for it.
fn remove_markers(dir: &Dir, txn: &TxnId) -> fsio::Result<bool> {
    let mut changed = false;
    for table in [LAYERS_JSON, IMAGES_JSON] {
        for name in [marker_name(table, txn), second_marker_name(table, txn), scratch_name(table, txn)] {
            if dir.meta(&name)?.is_some() {
                optional(dir.unlink(&name))?;
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// The transactions that left something beside the tables and have neither a segment nor anything in `cstor-rs/`. It takes a look
/// at every name in `overlay-layers/` and `overlay-images/`, which an open does not take.
///
/// # Errors
///
/// Those of the disk.
pub fn side_strays(layout: &Layout) -> Result<Vec<TxnId>, super::RecoveryError> {
    let mut seen = std::collections::BTreeSet::new();
    for dir in [&layout.layers, &layout.images] {
        for name in dir.names()? {
            // A segment is born before its staging: what is seen here and has none by then is dead.
            seen.extend(name.to_str().and_then(|name| parse_side_stage(name).or_else(|| parse_marker(name))));
        }
    }
    super::pass::dead_among(layout, seen)
}
