//! What [`super::apply`] would do: manifests are asked for, layers are not, and nothing is written.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use super::find::Found;
use super::{Item, Progress, Pull, PullError, PullOptions};
use crate::ids::{Digest, ImageId, LayerId};
use crate::layout::Tables;
use crate::plan::{Change, Preview};
use crate::registry::Place;
use crate::store::Store;
use crate::txn::{ImageSpec, preview_without_store};

/// What would be done.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// The images that would be pulled, in the order of the items.
    pub pulls: Vec<PlannedPull>,
    /// What would be changed.
    pub changes: Preview,
}

/// An image that would be pulled.
#[derive(Debug, Clone)]
pub struct PlannedPull {
    /// Its id.
    pub id: ImageId,
    /// Its name, if it gets one.
    pub name: Option<String>,
    /// The digest its reference stands for.
    pub digest: Digest,
    /// The layers that would be fetched, and the length of their blobs in bytes. One that several images share stands with the
    /// first.
    pub fetch: Vec<(LayerId, u64)>,
    /// How many layers are there already.
    pub present: usize,
}

/// Says what [`super::apply`] would do with these items now. Layers that are there are not looked into: one that is damaged
/// would be fetched, too.
///
/// # Errors
///
/// As [`super::apply`], for what can be known beforehand.
pub fn plan_apply(
    store: &Store,
    items: &[Item],
    options: &PullOptions,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Planned, PullError> {
    let network = options.registry.cancel.child_token();
    let pull = Pull { store, options, network: &network, progress, cancelled };
    let found = pull.resolve(places(items))?;
    let snapshot = store.read()?;
    let tables = snapshot.as_ref().map(|snapshot| snapshot.tables());
    let mut planned = Planned { changes: foresee(store, items, &found, options)?, ..Planned::default() };
    let mut fetched = HashSet::new();
    for one in &found {
        let (mut fetch, mut present, mut below) = (Vec::new(), 0, None);
        for (diff_id, descriptor) in one.spec.diff_ids.iter().zip(&one.layers) {
            let id = LayerId::chain(below.as_ref(), diff_id);
            if is_there(tables, &id) {
                present += 1;
            } else if fetched.insert(id.clone()) {
                fetch.push((id.clone(), descriptor.size));
            }
            below = Some(id);
        }
        let name = one.spec.names.first().cloned();
        planned.pulls.push(PlannedPull { id: one.id.clone(), name, digest: one.digest.clone(), fetch, present });
    }
    Ok(planned)
}

/// The places that images are pulled from.
pub(super) fn places(items: &[Item]) -> impl Iterator<Item = &Place> {
    items.iter().filter_map(|item| match item {
        Item::Pull(place) => Some(place),
        Item::Change(_) => None,
    })
}

/// What the items would change of images and layers. No store is made for that.
pub(super) fn foresee(store: &Store, items: &[Item], found: &[Found], options: &PullOptions) -> Result<Preview, PullError> {
    let mut images = found.iter();
    let change = |item: &Item| match item {
        Item::Pull(_) => images.next().map(|one| Change::Put { id: one.id.clone(), names: one.spec.names.clone() }),
        Item::Change(change) => Some(change.clone()),
    };
    let changes: Vec<Change> = items.iter().filter_map(change).collect();
    let mut specs: Vec<ImageSpec> = Vec::new();
    for one in found {
        if !specs.iter().any(|spec| spec.config == one.spec.config) {
            specs.push(one.spec.clone());
        }
    }
    if store.layout()?.is_none() {
        return Ok(preview_without_store(&changes, &specs)?);
    }
    let txn = store.begin(options.txn.clone())?;
    changes.into_iter().try_for_each(|change| txn.add(change))?;
    Ok(txn.preview(&specs)?)
}

fn is_there(tables: Option<&Tables>, id: &LayerId) -> bool {
    tables.and_then(|tables| tables.layers.get(id)).is_some_and(|layer| !layer.incomplete())
}
