//! Repairs of fsck: one that is cut short is finished or taken back by the next open, and done by the next run; whatever happens,
//! no image is missing and no bytes of anybody's are nowhere.

#[allow(clippy::ptr_arg)] // of one kind: what podman may do
mod acts;
mod medium;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::{Arc, Mutex};

use cstor_rs::fsck::{Finding, FsckError, Level, Options, Summary, Supply, run};
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::store::Store;
use rustix::io::Errno;

use crate::hooks::{Kill, Once, Stop};
use crate::injury::{Bytes, Case, End, Exempt, Place};
use crate::oracle;
use crate::settle::Good;
use crate::snapshot::Snapshot;
use crate::steps;
use crate::stop::{Tokens, check_tokens, tokens};
use crate::work::{options, temp};

type Tier = fn(&Case);

pub const TIERS: &[(&str, Tier)] = &[
    ("stop", stopped_everywhere),
    ("stop_recovery", recovery_stopped_everywhere),
    ("errno", one_error_everywhere),
    ("acts", acts::between),
    ("kill", killed_everywhere),
    ("power", medium::power_lost_everywhere),
    ("sync", medium::every_sync_counts),
];

/// Every how many points are tried: all with `CSTOR_CRASH_ALL`.
fn stride(plain: usize) -> usize {
    if std::env::var_os("CSTOR_CRASH_ALL").is_some() {
        return 1;
    }
    println!("a sample, one of {plain}; CSTOR_CRASH_ALL=1 takes all");
    plain
}

/// Repairs; the findings that are still there are told.
fn repair(case: &Case, top: &Path, hook: Option<Arc<dyn Hook>>) -> Result<(Summary, Vec<Finding>), FsckError> {
    look(case, top, hook, true)
}

fn look(case: &Case, top: &Path, hook: Option<Arc<dyn Hook>>, repair: bool) -> Result<(Summary, Vec<Finding>), FsckError> {
    let bytes = Bytes::all();
    let supply = case.supplied.then_some(&bytes as &dyn Supply);
    let prune = repair && case.end == End::Dropped;
    let how = Options { level: Level::Full, repair, prune, jobs: NonZeroUsize::MIN, ..Options::default() };
    let mut findings = Vec::new();
    let summary = run(&options(top, hook), &how, supply, &mut |finding| findings.push(finding.clone()))?;
    Ok((summary, findings))
}

/// A store with an injury, and what it was and has to become.
struct Hurt {
    case: Case,
    place: Place,
    sound: Snapshot,
    good: Good,
    /// In what the injured store differs from the sound one.
    damaged: BTreeSet<String>,
    /// The images that the injured store knows, but for those that are to be dropped.
    images: BTreeSet<String>,
    /// In what the repaired store differs from the sound one.
    end: BTreeSet<String>,
    /// The same between the transactions of a repair, before the first and after the last.
    between: BTreeSet<BTreeSet<String>>,
    /// Whether the injured store can be opened.
    opens: bool,
    /// What is in a layer and not the layer's, with its attributes.
    extra: Vec<String>,
    tokens: Tokens,
}

impl Hurt {
    fn new(case: &Case, top: &Path) -> Self {
        let place = Place::sound(top, case.end != End::Whole);
        let (sound, good) = (Snapshot::of(&place.root), Good::of(top));
        case.hurt(&place);
        let hurt = Snapshot::of(&place.root);
        let damaged = sound.differing(&hurt, case.exempt);
        assert!(!damaged.is_empty(), "{}: nobody would see it", case.name);
        let images = hurt.images.keys().cloned().collect();
        let extra = oracle::listing(&place.more()).unwrap_or_default();
        let end = if case.end == End::Unsealed { damaged.clone() } else { BTreeSet::new() };
        Self { case: *case, place, sound, good, damaged, images, end, between: BTreeSet::new(), opens: true, extra, tokens: tokens(top) }
    }

    /// The same with what only a run that nothing interrupts tells, from one in another place.
    fn knowing(self, end: &Expected) -> Self {
        let images = self.images.difference(&end.dropped).cloned().collect();
        let damaged = self.damaged.union(&end.end).cloned().collect();
        Self { images, damaged, end: end.end.clone(), between: end.between.clone(), opens: end.opens, ..self }
    }

    /// What must hold at any moment, whoever looks.
    fn holds(&self, top: &Path) -> Result<Snapshot, String> {
        let root = top.join("root");
        let now = Snapshot::of(&root);
        let missing: Vec<&String> = self.images.iter().filter(|id| !now.images.contains_key(*id)).collect();
        if !missing.is_empty() {
            return Err(format!("images are missing: {missing:?}"));
        }
        if self.case.kept.is_some_and(|bytes| !somewhere(&root, bytes)) {
            return Err("what somebody may still want is nowhere".to_owned());
        }
        let bare = |id: &&String| !self.images.contains(*id) && !now.layers.contains_key(now.images[*id]["layer"].as_str().unwrap());
        if let Some(id) = now.images.keys().find(bare) {
            return Err(format!("image {id} came back before its layer"));
        }
        Ok(now)
    }

    fn equal(&self, now: &Snapshot, top: &Path) -> Result<(), String> {
        let differing = self.sound.differing(now, self.case.exempt);
        if differing != self.end {
            let all = self.sound.differences(now, self.case.exempt);
            return Err(format!("the store is not what it has to be: {all:#?}"));
        }
        let seal = top.join("root").join(self.place.seal(1).strip_prefix(&self.place.root).unwrap());
        if self.case.end == End::Unsealed && seal.exists() {
            return Err("the seal of a damaged layer is there".to_owned());
        }
        Ok(())
    }

    /// What a repair left that ended in any way: the next open finishes it or takes it back, the next run heals. `done`: it has
    /// said that everything is healed. `whole`: after one error the repairs that follow may still be done, and else none.
    fn judge(&self, top: &Path, done: bool, whole: bool) -> Result<(), String> {
        let mut now = self.holds(top).map_err(|why| format!("unrecovered: {why}"))?;
        match Store::open(options(top, None)) {
            Ok(store) if !store.recovered().pending.is_empty() => return Err(format!("{:?}", store.recovered())),
            Ok(_) => {
                now = self.holds(top).map_err(|why| format!("recovered: {why}"))?;
                // Who reads seals has opened the store: before, one may stand there whose tar-split the recovery brings.
                if self.case.end == End::Whole {
                    self.good.sealed(&top.join("root")).map_err(|why| format!("recovered: {why}"))?;
                }
                let differing = self.sound.differing(&now, self.case.exempt);
                if whole && !self.between.contains(&plain(&self.sound, &now, self.case.exempt)) || !differing.is_subset(&self.damaged) {
                    return Err(format!("recovered: a repair is half done: {differing:#?}"));
                }
            }
            Err(error) if self.opens || done => return Err(format!("it does not open: {error:?}")),
            Err(_) => {}
        }
        if done {
            self.equal(&now, top).map_err(|why| format!("it was said to be healed: {why}"))?;
        }
        let (summary, findings) = repair(&self.case, top, None).map_err(|error| format!("not repaired again: {error:?}"))?;
        let remains = summary.remaining() > 0;
        if remains != (self.case.end == End::Unsealed) || summary.unchecked || summary.busy > 0 {
            return Err(format!("not healed: {summary:?} {findings:#?}"));
        }
        let now = self.holds(top).map_err(|why| format!("repaired again: {why}"))?;
        self.equal(&now, top).map_err(|why| format!("repaired again: {why}"))?;
        let halves = half_copies(&top.join("root/cstor-rs/lost+found"));
        if !halves.is_empty() {
            return Err(format!("left behind: {halves:?}"));
        }
        let (summary, findings) = look(&self.case, top, None, false).map_err(|error| format!("not looked at: {error:?}"))?;
        if (summary.damaged > 0) != remains {
            return Err(format!("it was healed, and is damaged: {findings:#?}"));
        }
        Ok(())
    }

    fn check(&self, top: &Path, done: bool, what: &str) {
        check_tokens(top, &self.tokens, &format!("{}, {what}", self.case.name));
        self.judge(top, done, true).unwrap_or_else(|why| panic!("{}, {what}: {why}", self.case.name));
    }
}

fn half_copies(lost: &Path) -> Vec<PathBuf> {
    let Ok(list) = std::fs::read_dir(lost) else { return Vec::new() };
    list.map(|entry| entry.unwrap().path()).filter(|path| path.ends_with(".new")).collect()
}

/// Whether any file of the store has these bytes.
fn somewhere(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().map(Result::unwrap).any(|entry| {
        let kind = entry.file_type().unwrap();
        let here = kind.is_file() && std::fs::read(entry.path()).unwrap() == bytes;
        here || kind.is_dir() && somewhere(&entry.path(), bytes)
    })
}

/// In what a store differs from a sound one, told without LINKIDs and without what a repair that goes on has prepared.
fn plain(sound: &Snapshot, now: &Snapshot, exempt: Exempt) -> BTreeSet<String> {
    let all = sound.differing(now, Exempt { links: true, ..exempt });
    all.into_iter().filter(|key| !key.starts_with("own ") && !key.contains("/.tmp-")).collect()
}

/// Looks whenever a transaction ends, or a table is replaced without one.
struct Between {
    root: PathBuf,
    look: Box<dyn Fn() -> BTreeSet<String> + Send + Sync>,
    seen: Mutex<BTreeSet<BTreeSet<String>>>,
}

impl Hook for Between {
    fn before(&self, _: &Op<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn done(&self, op: &Op<'_>) {
        let ends = match op {
            Op::Unlink(at) => at.path().extension().is_some_and(|end| end == "wal"),
            Op::Rename(_, to) => {
                let journal = std::fs::read_dir(self.root.join("cstor-rs/journal"));
                to.path().extension().is_some_and(|end| end == "json") && journal.is_ok_and(|mut names| names.next().is_none())
            }
            _ => false,
        };
        if ends {
            self.seen.lock().unwrap().insert((self.look)());
        }
    }
}

/// What a run that nothing interrupts comes to.
struct Expected {
    end: BTreeSet<String>,
    between: BTreeSet<BTreeSet<String>>,
    dropped: BTreeSet<String>,
    opens: bool,
}

impl Expected {
    fn of(case: &Case) -> Self {
        let other = temp();
        Hurt::new(case, other.path());
        let opens = Store::open(options(other.path(), None)).is_ok();
        let temp = temp();
        let mut hurt = Hurt::new(case, temp.path());
        let (sound, root, exempt) = (hurt.sound.clone(), hurt.place.root.clone(), case.exempt);
        let seen = Mutex::new(BTreeSet::from([plain(&sound, &Snapshot::of(&root), exempt)]));
        let look = Box::new(move || plain(&sound, &Snapshot::of(&root), exempt));
        let between = Arc::new(Between { root: hurt.place.root.clone(), look, seen });
        let (summary, findings) = repair(case, temp.path(), Some(between.clone())).unwrap();
        let wanted = match case.end {
            End::Whole => 1,
            End::Unsealed => 4,
            End::Dropped => 2,
        };
        assert_eq!(summary.exit_code() & 7, wanted, "{}: {summary:?} {findings:#?}", case.name);
        let now = Snapshot::of(&hurt.place.root);
        let dropped: BTreeSet<String> = hurt.images.iter().filter(|id| !now.images.contains_key(*id)).cloned().collect();
        assert_eq!(dropped.len(), usize::from(case.end == End::Dropped), "{}", case.name);
        if case.end == End::Dropped {
            hurt.end = hurt.sound.differing(&now, case.exempt);
        }
        let between = between.seen.lock().unwrap().clone();
        assert!(between.contains(&plain(&hurt.sound, &now, case.exempt)), "{}: {between:#?}", case.name);
        println!("{}: {} states between transactions", case.name, between.len());
        if case.name == "attributes" {
            let lost = hurt.place.root.join("cstor-rs/lost+found");
            let kept = std::fs::read_dir(&lost).unwrap().next().unwrap().unwrap().path().join("more");
            assert_eq!(oracle::listing(&kept).unwrap(), hurt.extra, "with its attributes");
        }
        let expected = Self { end: hurt.end.clone(), between, dropped, opens };
        hurt.knowing(&expected).check(temp.path(), true, "nothing interrupts it");
        expected
    }

    fn hurt(&self, case: &Case, top: &Path) -> Hurt {
        Hurt::new(case, top).knowing(self)
    }
}

/// Whether a run says that it did all it could.
fn is_done(case: &Case, repaired: &Result<(Summary, Vec<Finding>), FsckError>) -> bool {
    repaired.as_ref().is_ok_and(|(summary, _)| {
        let all = summary.damaged > 0 && summary.remaining() == 0;
        case.end != End::Unsealed && all && !summary.unchecked
    })
}

/// The fewest changes that a repair makes.
const FEWEST: usize = 6;

fn stopped_everywhere(case: &Case) {
    let expected = Expected::of(case);
    for k in (0..).step_by(stride(3)) {
        let temp = temp();
        let hurt = expected.hurt(case, temp.path());
        let stop = Stop::of(&format!("fsck {}", case.name), k);
        let repaired = repair(case, temp.path(), Some(stop.clone()));
        hurt.check(temp.path(), is_done(case, &repaired), &format!("stopped before change {k}"));
        if !stop.stopped() {
            println!("{}: {k} changes", case.name);
            assert!(repaired.is_ok() && k >= FEWEST, "{k} changes: {repaired:?}");
            break;
        }
    }
}

fn recovery_stopped_everywhere(case: &Case) {
    let expected = Expected::of(case);
    let (first, second) = (stride(7), stride(4));
    let mut pairs = 0;
    for k in (0..).step_by(first) {
        for j in (0..).step_by(second) {
            let temp = temp();
            let hurt = expected.hurt(case, temp.path());
            let stop = Stop::at(k);
            drop(repair(case, temp.path(), Some(stop.clone())));
            if !stop.stopped() {
                println!("{}: {pairs} pairs", case.name);
                return;
            }
            let again = Stop::at(j);
            drop(Store::open(options(temp.path(), Some(again.clone()))));
            if !again.stopped() {
                break;
            }
            pairs += 1;
            hurt.check(temp.path(), false, &format!("stopped before change {k}, its recovery before change {j}"));
        }
    }
}

fn one_error_everywhere(case: &Case) {
    let expected = Expected::of(case);
    let step = stride(5);
    for error in [Errno::NOSPC, Errno::IO] {
        for k in (0..).step_by(step) {
            let temp = temp();
            let hurt = expected.hurt(case, temp.path());
            let once = Once::at(k, error);
            let repaired = repair(case, temp.path(), Some(once.clone()));
            if !once.failed() {
                break;
            }
            check_tokens(temp.path(), &hurt.tokens, &format!("{}, {error:?} at change {k}", case.name));
            let judged = hurt.judge(temp.path(), is_done(case, &repaired), false);
            judged.unwrap_or_else(|why| panic!("{}, {error:?} at change {k}: {why}", case.name));
        }
    }
}

const CHILD: &str = "CSTOR_RS_CRASH_FSCK";

/// What the re-executed binary does: `case k directory`.
pub fn child() -> Option<ExitCode> {
    let text = std::env::var(CHILD).ok()?;
    let mut parts = text.splitn(3, ' ');
    let (name, at, top) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let repaired = repair(&Case::named(name), Path::new(top), Some(Kill::at(at)));
    Some(if repaired.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn killed_everywhere(case: &Case) {
    let expected = Expected::of(case);
    for k in (0..).step_by(stride(5)) {
        let temp = temp();
        let hurt = expected.hurt(case, temp.path());
        let text = format!("{} {k} {}", case.name, temp.path().display());
        let Output { status, stdout, .. } = Command::new(std::env::current_exe().unwrap()).env(CHILD, text).output().unwrap();
        steps::hit_by_child(&format!("fsck {}", case.name), &stdout);
        hurt.check(temp.path(), status.success() && case.end != End::Unsealed, &format!("killed before change {k}"));
        if status.success() {
            assert!(k >= FEWEST, "{k} changes");
            break;
        }
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{} killed before change {k}", case.name);
    }
}
