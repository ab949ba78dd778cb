//! A run: look, repair what can be, look again.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::code::{Code, Level};
use super::elsewhere::Elsewhere;
use super::examine::{self, Verdict};
use super::finding::{Finding, Key, Outcome, Repair};
use super::fix::{Fix, Phase};
use super::repair::{self, Corrections, Layered};
use super::state::State;
use super::supply::Supply;
use super::survey::{Survey, called};
use super::{check, drop};
use crate::fsio::Kind;
use crate::ids::{ImageId, LayerId};
use crate::layout::{Layout, LayoutError};
use crate::metadata::Loose;
use crate::store::StoreOptions;
use crate::txn::TxnError;

/// The most rounds of looking and repairing: each puts right what the next relies on.
const ROUNDS: usize = 24;

/// Told how far a run is. Called from several threads.
pub trait Progress: Sync {
    /// The full check begins: so many layers, and about so many bytes.
    fn begin(&self, _layers: usize, _bytes: u64) {}
    /// So many more bytes and files are checked.
    fn checked(&self, _bytes: u64, _files: u64) {}
    /// So many more bytes of a layer that is being healed are there.
    fn repaired(&self, _bytes: u64) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}

/// What to look at, and what to do about it.
#[derive(Clone)]
pub struct Options<'a> {
    /// How deep to look.
    pub level: Level,
    /// Whether to repair what the store itself can heal.
    pub repair: bool,
    /// Whether to drop what cannot be healed.
    pub prune: bool,
    /// Only these images, and the layers they are made of; all, if there is none.
    pub images: Vec<ImageId>,
    /// When to stop the full check; the next run goes on from there.
    pub max_time: Option<Duration>,
    /// Whether to pass over, in the full check, the layers that were clean at the last clean point.
    pub since_clean: bool,
    /// Additional image stores: read only.
    pub additional: Vec<PathBuf>,
    /// How many layers are checked at once.
    pub jobs: NonZeroUsize,
    /// How long to wait for a lock that somebody else holds.
    pub wait: Duration,
    /// Once true, the run ends soon.
    pub interrupt: Option<Arc<AtomicBool>>,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            level: Level::Quick,
            repair: false,
            prune: false,
            images: Vec::new(),
            max_time: None,
            since_clean: false,
            additional: Vec::new(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            wait: Duration::from_secs(60),
            interrupt: None,
            progress: &Silent,
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Damage that was found.
    pub damaged: u64,
    /// Of that, healed without loss.
    pub healed: u64,
    /// Of that, dropped.
    pub dropped: u64,
    /// Of that, still there because something was in use.
    pub busy: u64,
    /// What is worth knowing and no damage.
    pub notes: u64,
    /// Layers that were read whole.
    pub layers: u64,
    /// Bytes of their tars.
    pub bytes: u64,
    /// Whether something could not be looked at or asked.
    pub unchecked: bool,
    /// Whether it was stopped by time or by a signal.
    pub stopped: bool,
}

impl Summary {
    /// Damage that is still there.
    pub fn remaining(&self) -> u64 {
        self.damaged.saturating_sub(self.healed).saturating_sub(self.dropped)
    }

    /// The exit code, as fsck(8) adds it up: 1 all damage healed, 2 something dropped, 4 damage remains, 8 could not check,
    /// 32 stopped, 64 something was busy.
    pub fn exit_code(&self) -> u8 {
        let bits = [
            (1, self.healed > 0 && self.remaining() == 0),
            (2, self.dropped > 0),
            (4, self.remaining() > 0),
            (8, self.unchecked),
            (32, self.stopped),
            (64, self.busy > 0),
        ];
        bits.iter().filter(|(_, set)| *set).map(|(bit, _)| bit).sum()
    }
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FsckError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Txn(#[from] TxnError),
}

impl FsckError {
    /// Whether somebody held a lock for too long.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Txn(error) if error.is_busy())
    }
}

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
    sizes: Mutex<Vec<(LayerId, i64, u64)>>,
}

impl Run<'_> {
    pub fn could_not_check(&self) {
        self.unchecked.store(true, Ordering::Relaxed);
    }

    pub fn names_lost(&self, id: &ImageId) {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
    }

    /// The length of a layer's tar is another one than its record says.
    pub fn sized(&self, id: &LayerId, said: i64, seen: u64) {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).push((id.clone(), said, seen));
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
    let mut layout = store.layout_for_check()?;
    let mut first = None;
    if how.repair && layout.links.path() == layout.overlay.path() {
        // Everything else looks into it. What it held is found missing, layer by layer.
        let stands = layout.overlay.meta("l").map_err(TxnError::from)?;
        if stands.is_some_and(|meta| meta.kind != Kind::Dir) {
            layout.overlay.unlink("l").map_err(TxnError::from)?;
        }
        layout.overlay.ensure_dir("l", 0o755).map_err(TxnError::from)?;
        layout = store.layout_for_check()?;
        let action = "make it, and an entry for each layer";
        let mut finding = Finding::new(Code::LinksDirectoryMissing, Repair::Offline, Fix::Links, action).at("overlay/l");
        finding.result = Outcome::Healed;
        first = Some(finding);
    }
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
        sizes: Mutex::default(),
    };
    let mut summary = Summary::default();
    let mut tell = |finding: &Finding, summary: &mut Summary| {
        count(summary, finding);
        tell(finding);
    };
    first.iter().for_each(|finding| tell(finding, &mut summary));
    let quick = rounds(&run)?;
    let mut left = Vec::new();
    for finding in quick {
        if finding.result == Outcome::Healed { tell(&finding, &mut summary) } else { left.push(finding) }
    }
    let survey = Survey::read(&run.layout, &run.elsewhere).map_err(TxnError::from)?;
    left.extend(full(&run, &survey, &left, &mut summary)?);
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

fn count(summary: &mut Summary, finding: &Finding) {
    if finding.code == Code::CheckFailed {
        summary.unchecked = true;
        return;
    }
    if !finding.is_damage() {
        summary.notes += 1;
        return;
    }
    summary.damaged += 1;
    match finding.result {
        Outcome::Healed => summary.healed += 1,
        Outcome::Dropped => summary.dropped += 1,
        Outcome::Busy => summary.busy += 1,
        Outcome::Found | Outcome::Failed => {}
    }
}

impl<'a> Run<'a> {
    /// Whether a finding may be repaired in this run.
    fn may(&self, finding: &Finding) -> bool {
        let by_bytes = self.supply.is_some();
        match finding.repair {
            Repair::Offline => self.how.repair,
            // A donor may be at hand; a document is only fetched.
            Repair::Refetch => self.how.repair && (by_bytes || matches!(finding.fix, Fix::Contents { .. })),
            Repair::Prune | Repair::None | Repair::Report => false,
        }
    }

    /// Whether a finding is of what was asked for.
    fn concerns(&self, survey: &Survey, finding: &Finding) -> bool {
        if self.how.images.is_empty() || finding.layer.is_none() && finding.image.is_none() {
            return true;
        }
        finding.image_id().is_some_and(|id| self.how.images.contains(&id))
            || finding.layer_id().is_some_and(|id| self.wanted_layers(survey).contains(&id))
    }

    /// The layers of the images that were asked for.
    fn wanted_layers(&self, survey: &Survey) -> HashSet<LayerId> {
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

/// Looks and repairs until nothing more can be done without reading contents.
fn rounds(run: &Run<'_>) -> Result<Vec<Finding>, FsckError> {
    let mut tried: HashMap<Key, Finding> = HashMap::new();
    let mut order: Vec<Key> = Vec::new();
    for round in 0.. {
        let (survey, mut findings) = check::quick(&run.layout, &run.elsewhere, &run.wait())?;
        findings.retain(|finding| run.concerns(&survey, finding));
        let now: HashSet<Key> = findings.iter().map(Finding::key).collect();
        for (key, finding) in &mut tried {
            if !now.contains(key) && finding.result != Outcome::Healed {
                finding.result = Outcome::Healed;
                finding.why = None;
            }
        }
        let open: Vec<usize> = (0..findings.len())
            .filter(|at| findings.get(*at).is_some_and(|finding| run.may(finding) && !tried.contains_key(&finding.key())))
            .collect();
        let phase = open.iter().filter_map(|at| findings.get(*at)).map(|finding| finding.fix.phase()).min();
        let Some(phase) = phase.filter(|_| round < ROUNDS && !run.is_stopped()) else {
            return Ok(merge(findings, tried, order));
        };
        let phase = if phase == Phase::Tables
            && survey.tables().is_some()
            && findings.iter().any(|f| f.fix == Fix::Recover && run.may(f) && !tried.contains_key(&f.key()))
        {
            Phase::Journal
        } else {
            phase
        };
        let mut chosen: Vec<&mut Finding> =
            findings.iter_mut().filter(|f| f.fix.phase() == phase && run.may(f) && !tried.contains_key(&f.key())).collect();
        if phase == Phase::Contents {
            layers(run, &survey, &mut chosen);
        } else {
            repair::run(run, phase, &mut chosen);
        }
        for finding in chosen {
            order.push(finding.key());
            tried.insert(finding.key(), finding.clone());
        }
    }
    Ok(Vec::new())
}

/// What was healed, and what is there still, with what was tried.
fn merge(findings: Vec<Finding>, mut tried: HashMap<Key, Finding>, order: Vec<Key>) -> Vec<Finding> {
    let mut list: Vec<Finding> = Vec::new();
    let there: HashSet<Key> = findings.iter().map(Finding::key).collect();
    for key in order {
        if !there.contains(&key)
            && let Some(finding) = tried.remove(&key)
        {
            list.push(finding);
        }
    }
    for mut finding in findings {
        if let Some(before) = tried.remove(&finding.key()) {
            finding.result = if before.result == Outcome::Found { Outcome::Failed } else { before.result };
            finding.why = before.why;
            if finding.result == Outcome::Healed {
                finding.result = Outcome::Failed;
                finding.why = Some("it was healed and is damaged again".to_owned());
            }
            // Bytes were needed, and none were to be fetched: nothing was tried.
            if finding.why.is_none() && finding.repair == Repair::Refetch {
                finding.result = Outcome::Found;
            }
        }
        list.push(finding);
    }
    list
}

/// Layers whose directory, contents or tar-split are gone, or that are flagged incomplete.
fn layers(run: &Run<'_>, survey: &Survey, findings: &mut [&mut Finding]) {
    let mut done: HashMap<LayerId, (Outcome, Option<String>)> = HashMap::new();
    // Those below first: a layer is made anew on the one it is built on.
    let depth = |finding: &&mut Finding| {
        let id = finding.layer_id();
        let record = id.as_ref().and_then(|id| survey.record(id));
        let described =
            id.as_ref().and_then(|id| survey.described.get(id)).and_then(|d| d.parent.as_ref()).and_then(|id| survey.record(id));
        record.or(described).and_then(|record| survey.below(record)).map_or(0, |below| below.len())
    };
    findings.sort_by_key(depth);
    for finding in findings {
        let Some(id) = finding.layer_id() else { continue };
        if let Some((result, why)) = done.get(&id) {
            finding.result = *result;
            finding.why.clone_from(why);
            continue;
        }
        let (result, why) = match incomplete_or_lost(run, survey, &id, finding.code) {
            Ok(Layered::Healed) => (Outcome::Healed, None),
            Ok(Layered::NeedsBytes) => (Outcome::Found, None),
            Ok(Layered::NotFetched(why)) => (Outcome::Failed, Some(why)),
            Err(error) => {
                repair::fail(finding, &error);
                (finding.result, finding.why.clone())
            }
        };
        // Whether it is healed the next look tells.
        finding.result = if result == Outcome::Healed { Outcome::Found } else { result };
        finding.why.clone_from(&why);
        done.insert(id, (finding.result, why));
    }
}

fn incomplete_or_lost(run: &Run<'_>, survey: &Survey, id: &LayerId, code: Code) -> Result<Layered, TxnError> {
    // The layer may have been put right by the repair of one above or below it.
    let fresh;
    let survey = if survey.record(id).is_none() || code == Code::LayerLost {
        fresh = Survey::read(&run.layout, &run.elsewhere)?;
        &fresh
    } else {
        survey
    };
    let seen = match examine::layer(run, survey, id) {
        Verdict::Seen(identity, seen) if seen.is_sound() && code == Code::LayerIncomplete => {
            return complete(run, identity).map(|()| Layered::Healed);
        }
        Verdict::Seen(_, seen) => Some(seen),
        Verdict::Failed(error) => return Err(error.into()),
        Verdict::Stopped | Verdict::Passed => None,
    };
    let healed = repair::mend_layer(run, survey, id, seen.as_deref())?;
    if healed == Layered::Healed
        && code == Code::LayerIncomplete
        && let Verdict::Seen(identity, seen) = examine::layer(run, &Survey::read(&run.layout, &run.elsewhere)?, id)
        && seen.is_sound()
    {
        complete(run, identity)?;
    }
    Ok(healed)
}

/// The layer is complete, whatever its flag says.
fn complete(run: &Run<'_>, identity: examine::Identity) -> Result<(), TxnError> {
    let Some(link) = identity.link else { return Ok(()) };
    repair::correct(run, &Corrections { complete: vec![(identity.id, link)], ..Corrections::default() })
}

/// The full check.
fn full(run: &Run<'_>, survey: &Survey, known: &[Finding], summary: &mut Summary) -> Result<Vec<Finding>, FsckError> {
    if run.how.level != Level::Full {
        return Ok(Vec::new());
    }
    let damaged: HashSet<LayerId> = known.iter().filter(|f| matches!(f.fix, Fix::Contents { .. })).filter_map(Finding::layer_id).collect();
    let mut state = State::load(&run.layout).unwrap_or_default();
    let wanted = (!run.how.images.is_empty()).then(|| run.wanted_layers(survey));
    let mut seen = HashSet::new();
    let ids: Vec<LayerId> = survey
        .records()
        .filter(|record| !record.incomplete() && record.diff_digest().is_some())
        .filter_map(|record| record.id().cloned())
        .filter(|id| !damaged.contains(id) && wanted.as_ref().is_none_or(|wanted| wanted.contains(id)) && seen.insert(id.clone()))
        .filter(|id| !state.is_done(run, id))
        .collect();
    // What an earlier run of this check has found damaged is said again, after all that was not read yet.
    let (again, ids): (Vec<LayerId>, Vec<LayerId>) = ids.into_iter().partition(|id| state.is_damaged(id));
    let bytes = ids.iter().chain(&again).filter_map(|id| survey.record(id)).filter_map(|r| u64::try_from(r.diff_size()).ok()).sum();
    run.how.progress.begin(ids.len() + again.len(), bytes);
    let mut list = Vec::new();
    let mut verdicts = examine::layers(run, survey, &ids, false);
    if !again.is_empty() && !verdicts.values().any(|verdict| matches!(verdict, Verdict::Stopped)) {
        // They are few, or the store is lost: however late it is, or no run would ever be the last.
        verdicts.extend(examine::layers(run, survey, &again, true));
    }
    for id in ids.iter().chain(&again) {
        match verdicts.remove(id) {
            Some(Verdict::Seen(identity, seen)) => {
                summary.layers += 1;
                summary.bytes += seen.bytes;
                if seen.is_sound() {
                    state.done(&identity);
                } else {
                    state.damaged(id);
                    list.extend(heal(run, survey, id, &seen));
                }
            }
            Some(Verdict::Stopped) | None => summary.stopped = true,
            Some(Verdict::Passed) => {}
            Some(Verdict::Failed(error)) => {
                list.push(Finding::report(Code::CheckFailed, "check the medium").layer(id).seen(error.to_string()));
            }
        }
    }
    list.extend(sizes(run));
    list.retain(|finding| run.concerns(survey, finding));
    for finding in &mut list {
        finding.images = finding.layer_id().map(|id| survey.images_on(&id)).unwrap_or_default();
    }
    state.end(run, summary.stopped, list.iter().chain(known).all(|f| !f.is_damage() || f.result == Outcome::Healed))?;
    Ok(list)
}

/// The findings of one layer, and what became of them.
fn heal(run: &Run<'_>, survey: &Survey, id: &LayerId, seen: &examine::Seen) -> Vec<Finding> {
    let mut findings = examine::findings(id, seen);
    if !run.how.repair {
        return findings;
    }
    match repair::mend_layer(run, survey, id, Some(seen)) {
        Ok(Layered::Healed) => {
            let (still, why): (HashSet<Key>, Option<String>) = match examine::layer(run, survey, id) {
                Verdict::Seen(_, after) => (examine::findings(id, &after).iter().map(Finding::key).collect(), None),
                // Not seen, not healed (F3).
                Verdict::Failed(error) => (findings.iter().map(Finding::key).collect(), Some(error.to_string())),
                Verdict::Stopped | Verdict::Passed => {
                    let why = "it was repaired, and not read again: stopped, or changed by another program; run fsck again";
                    (findings.iter().map(Finding::key).collect(), Some(why.to_owned()))
                }
            };
            for finding in &mut findings {
                finding.result = if still.contains(&finding.key()) { Outcome::Failed } else { Outcome::Healed };
                finding.why = why.clone();
            }
        }
        Ok(Layered::NeedsBytes) => {}
        Ok(Layered::NotFetched(why)) => {
            for finding in &mut findings {
                finding.result = Outcome::Failed;
                finding.why = Some(why.clone());
            }
        }
        Err(error) => findings.iter_mut().for_each(|finding| repair::fail(finding, &error)),
    }
    findings
}

/// Records that say another length than the layer has.
fn sizes(run: &Run<'_>) -> Vec<Finding> {
    let wrong = std::mem::take(&mut *run.sizes.lock().unwrap_or_else(PoisonError::into_inner));
    let mut findings: Vec<Finding> = wrong
        .iter()
        .map(|(id, said, seen)| {
            Finding::new(Code::LayerRecordWrong, Repair::Offline, Fix::Tables, "put diff-size right")
                .layer(id)
                .at("overlay-layers/layers.json")
                .expected(format!("diff-size {seen}"))
                .seen(format!("diff-size {said}"))
        })
        .collect();
    if run.how.repair && !findings.is_empty() {
        let corrections = Corrections { sizes: wrong.into_iter().map(|(id, _, seen)| (id, seen)).collect(), ..Corrections::default() };
        let result = repair::correct(run, &corrections);
        for finding in &mut findings {
            match &result {
                Ok(()) => finding.result = Outcome::Healed,
                Err(error) => repair::fail(finding, error),
            }
        }
    }
    findings
}

/// What people call an image.
pub(super) fn name_of(survey: &Survey, id: &ImageId) -> String {
    survey.images().get(id).map_or_else(|| id.to_string(), called)
}
