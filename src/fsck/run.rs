//! A run: look, repair what can be, look again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::code::Code;
use super::elsewhere::Elsewhere;
use super::finding::{Finding, Key, Outcome, Repair};
use super::fix::Fix;
use super::options::{FsckError, Options, Summary};
use super::repair::{self, Corrections};
use super::rounds::rounds;
use super::supply::Supply;
use super::survey::{Survey, called};
use super::{drop, full};
use crate::fsio::Kind;
use crate::ids::{ImageId, LayerId};
use crate::layout::{Layout, LayoutError};
use crate::metadata::Loose;
use crate::store::StoreOptions;
use crate::txn::TxnError;

/// One run.
pub(super) struct Run<'a> {
    pub layout: Layout,
    pub elsewhere: Elsewhere,
    pub how: &'a Options<'a>,
    pub supply: Option<&'a dyn Supply>,
    /// Ends an examination in the middle.
    pub stop: Arc<AtomicBool>,
    begun: Instant,
    unchecked: AtomicBool,
    nameless: Mutex<Vec<ImageId>>,
    made: Mutex<HashSet<LayerId>>,
    sizes: Mutex<Vec<(LayerId, i64, u64)>>,
}

impl Run<'_> {
    pub fn could_not_check(&self) {
        self.unchecked.store(true, Ordering::Relaxed);
    }

    pub fn names_lost(&self, id: &ImageId) {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
    }

    /// Layers got their records anew.
    pub fn made(&self, layers: Vec<LayerId>) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).extend(layers);
    }

    /// The length of a layer's tar is another one than its record says.
    pub fn sized(&self, id: &LayerId, said: i64, seen: u64) {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).push((id.clone(), said, seen));
    }

    /// The layers whose records say another length, with that and their own.
    pub fn take_sizes(&self) -> Vec<(LayerId, i64, u64)> {
        std::mem::take(&mut *self.sizes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn is_late(&self) -> bool {
        self.how.max_time.is_some_and(|limit| self.begun.elapsed() >= limit)
    }

    /// Whether a layer has no record by now.
    pub fn is_gone(&self, id: &LayerId) -> bool {
        self.layout.load_layers().is_ok_and(|layers| layers.get(id).is_none())
    }

    /// The names of an image, by its record.
    pub fn names_of(&self, id: &ImageId) -> Vec<String> {
        match self.layout.load_images() {
            Ok(images) => images.get(id).map(names).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Every name of every image on a layer.
    pub fn every_name_on(&self, survey: &Survey, id: &LayerId) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        for image in survey.images().iter() {
            let chain = image.id().and_then(|id| survey.documents.get(id)).is_some_and(|documents| documents.chain.contains(id));
            if chain || image.layer().and_then(Loose::known) == Some(id) {
                list.extend(names(image));
            }
        }
        list
    }
}

/// What an image was ever called, names that it has now first.
fn names(image: &crate::metadata::Image) -> Vec<String> {
    let mut list: Vec<String> = image.names().to_vec();
    list.extend(image.names_history().iter().filter(|name| !image.names().contains(name)).cloned());
    list
}

/// A store that may be damaged.
enum Opened {
    /// It can be looked at. With what was put right to that end.
    Store(Box<Layout>, Option<Finding>),
    /// A part of it is gone, and nobody can tell what was there.
    Partial(Finding),
}

fn open(store: &StoreOptions, how: &Options<'_>) -> Result<Opened, FsckError> {
    let layout = match store.layout_for_check() {
        Ok(layout) => layout,
        Err(error @ (LayoutError::Partial { .. } | LayoutError::NoContainers { .. })) => {
            let missing = if let LayoutError::Partial { missing, .. } = &error { missing } else { "overlay-containers" };
            let action = "restore it from a backup, or empty the store and pull again";
            let finding = Finding::report(Code::StoreDirectoryMissing, action).at(missing).seen(error.to_string());
            return Ok(Opened::Partial(finding));
        }
        Err(error) => return Err(error.into()),
    };
    if !how.repair || layout.links.path() != layout.overlay.path() {
        return Ok(Opened::Store(Box::new(layout), None));
    }
    // Everything else looks into `l/`. What it held is found missing, layer by layer.
    if layout.overlay.meta("l").map_err(TxnError::from)?.is_some_and(|meta| meta.kind != Kind::Dir) {
        layout.overlay.unlink("l").map_err(TxnError::from)?;
    }
    layout.overlay.ensure_dir("l", 0o755).map_err(TxnError::from)?;
    let mut finding = links_missing();
    finding.result = Outcome::Healed;
    Ok(Opened::Store(Box::new(store.layout_for_check()?), Some(finding)))
}

/// `l/` is gone.
pub(super) fn links_missing() -> Finding {
    Finding::new(Code::LinksDirectoryMissing, Repair::Offline, Fix::None, "make it, and an entry for each layer").at("overlay/l")
}

/// Looks at a store, repairs what the options allow, and tells every finding once, when it is known what became of it.
///
/// # Errors
///
/// [`FsckError`] where nothing could be looked at.
pub fn run(
    store: &StoreOptions,
    how: &Options<'_>,
    supply: Option<&dyn Supply>,
    tell: &mut dyn FnMut(&Finding),
) -> Result<Summary, FsckError> {
    let mut summary = Summary::default();
    let mut tell = |finding: &Finding, summary: &mut Summary| {
        summary.count(finding);
        tell(finding);
    };
    let layout = match open(store, how)? {
        Opened::Store(layout, first) => {
            first.iter().for_each(|finding| tell(finding, &mut summary));
            *layout
        }
        Opened::Partial(finding) => {
            tell(&finding, &mut summary);
            summary.unchecked = true;
            return Ok(summary);
        }
    };
    let stop = how.interrupt.clone().unwrap_or_default();
    let run = Run {
        layout,
        elsewhere: Elsewhere::read(&how.additional),
        how,
        supply,
        stop,
        begun: Instant::now(),
        unchecked: AtomicBool::new(false),
        nameless: Mutex::default(),
        made: Mutex::default(),
        sizes: Mutex::default(),
    };
    let quick = rounds(&run)?;
    let mut left = Vec::new();
    for finding in quick {
        if finding.result == Outcome::Healed { tell(&finding, &mut summary) } else { left.push(finding) }
    }
    left.extend(full::check(&run, &left, &mut summary)?);
    let made = std::mem::take(&mut *run.made.lock().unwrap_or_else(PoisonError::into_inner));
    if !made.is_empty() {
        repair::correct(&run, &Corrections { made, ..Corrections::default() })?;
    }
    if how.prune {
        drop::unhealed(&run, &mut left);
        if left.iter().any(|finding| finding.result == Outcome::Dropped) {
            // What was only there for what is gone.
            let known: HashSet<Key> = left.iter().map(Finding::key).collect();
            left.extend(rounds(&run)?.into_iter().filter(|finding| !known.contains(&finding.key())));
        }
    }
    for id in run.nameless.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let action = "`cstor-rs tag` gives it a name";
        left.push(Finding::new(Code::ImageNamesLost, Repair::None, Fix::None, action).image(id).at("overlay-images/images.json"));
    }
    left.iter().for_each(|finding| tell(finding, &mut summary));
    summary.unchecked |= run.unchecked.load(Ordering::Relaxed);
    summary.stopped |= run.is_stopped();
    Ok(summary)
}

impl<'a> Run<'a> {
    /// Whether a finding may be repaired in this run.
    pub fn may(&self, finding: &Finding) -> bool {
        let by_bytes = self.supply.is_some();
        match finding.repair {
            Repair::Offline => self.how.repair,
            // A donor may be at hand; a document is only fetched.
            Repair::Refetch => self.how.repair && (by_bytes || matches!(finding.fix, Fix::Contents { .. })),
            Repair::Prune | Repair::None | Repair::Report => false,
        }
    }

    /// Whether a finding is of what was asked for: of these layers, where not everything was.
    pub fn concerns(&self, wanted: &HashSet<LayerId>, finding: &Finding) -> bool {
        self.how.images.is_empty()
            || finding.layer.is_none() && finding.image.is_none()
            || finding.image_id().is_some_and(|id| self.how.images.contains(&id))
            || finding.layer_id().is_some_and(|id| wanted.contains(&id))
    }

    /// The layers of the images that were asked for.
    pub fn wanted_layers(&self, survey: &Survey) -> HashSet<LayerId> {
        let mut wanted = HashSet::new();
        for id in &self.how.images {
            wanted.extend(survey.documents.get(id).iter().flat_map(|documents| documents.chain.iter().cloned()));
            let mut next = survey.images().get(id).and_then(|image| image.layer()).and_then(Loose::known).cloned();
            while let Some(layer) = next {
                next = survey.record(&layer).and_then(|record| record.parent()).and_then(Loose::known).cloned();
                if !wanted.insert(layer) {
                    break;
                }
            }
        }
        wanted
    }
}

/// What people call an image.
pub(super) fn name_of(survey: &Survey, id: &ImageId) -> String {
    survey.images().get(id).map_or_else(|| id.to_string(), called)
}
