//! Settling: the store is one that podman has left, with nothing of it on the medium. Whatever happens, no seal lies; once
//! settling has returned Ok everything is there, after any power cut.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;

use cstor_rs::clean::CleanPoint;
use cstor_rs::fsio::Hook;
use cstor_rs::overlay::{Seal, TreeId};
use cstor_rs::settle::{Outcome, SettleError, SettleOptions, Settled, settle};
use cstor_rs::store::Store;
use cstor_rs::txn::{SyncMode, TxnOptions};
use rustix::io::Errno;

use crate::disk::{Change, Disk, Log, real};
use crate::fixture::{self, app, base, image};
use crate::hooks::{Kill, Once, Stop};
use crate::oracle::{self, Said};
use crate::power;
use crate::steps;
use crate::work::{options, temp};

pub const ALL: &[(&str, fn())] = &[
    ("stop", stopped_everywhere),
    ("errno", one_error_everywhere),
    ("kill", killed_everywhere),
    ("power", power_lost_everywhere),
    ("sync", every_sync_counts),
];

const MODES: [SyncMode; 2] = [SyncMode::Filesystem, SyncMode::Files];

/// A store as podman leaves it: two images, no seal, nothing of ours.
fn setup(top: &Path) {
    let images = [image("localhost/app:latest", vec![base(), app("one")]), image("localhost/other:1", vec![base(), app("two")])];
    let unsealed = TxnOptions { sync: SyncMode::None, ..TxnOptions::default() };
    fixture::pull_with(&Store::open(options(top, None)).unwrap(), &images, unsealed).unwrap().unwrap();
    std::fs::remove_dir_all(top.join("root/cstor-rs")).unwrap();
}

fn run(top: &Path, hook: Option<Arc<dyn Hook>>, sync: SyncMode) -> Result<Settled, SettleError> {
    settle(&Store::open(options(top, hook))?, &[], &SettleOptions { jobs: 1, sync })
}

/// What the store is when nothing has happened to it.
pub struct Good {
    said: Said,
    layers: Vec<(String, String, Vec<String>)>,
}

impl Good {
    pub fn of(top: &Path) -> Self {
        let root = top.join("root");
        let said = oracle::read(&root).unwrap();
        let table: Vec<serde_json::Value> =
            serde_json::from_slice(&std::fs::read(root.join("overlay-layers/layers.json")).unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let layer = |record: &serde_json::Value| {
            let id = text(&record["id"]);
            let listing = oracle::listing(&root.join("overlay").join(&id).join("diff")).unwrap();
            (id, text(&record["diff-digest"]), listing)
        };
        Self { said, layers: table.iter().map(layer).collect() }
    }

    /// Whether the layer is all there.
    fn layer_is_whole(&self, root: &Path, (id, diff_id, listing): &(String, String, Vec<String>)) -> Result<(), String> {
        let diff = root.join("overlay").join(id).join("diff");
        let seen = oracle::reassembled(&root.join(format!("overlay-layers/{id}.tar-split.gz")), &diff)?;
        if seen != *diff_id {
            return Err(format!("layer {id} reassembles to {seen}"));
        }
        if oracle::listing(&diff)? != *listing {
            return Err(format!("layer {id} has other attributes"));
        }
        Ok(())
    }

    /// No seal lies. Gives the sealed layers.
    pub fn sealed(&self, root: &Path) -> Result<BTreeSet<String>, String> {
        let mut sealed = BTreeSet::new();
        for layer in &self.layers {
            let id = &layer.0;
            if seal_holds(&root.join("overlay").join(id), &layer.1) {
                self.layer_is_whole(root, layer).map_err(|why| format!("sealed, and {why}"))?;
                sealed.insert(id.clone());
            }
        }
        Ok(sealed)
    }

    /// Neither does the clean point.
    fn judge(&self, root: &Path) -> Result<BTreeSet<String>, String> {
        let sealed = self.sealed(root)?;
        if let Some(point) = clean_point(root) {
            let noted: BTreeSet<String> = point.layers().map(|(id, _)| id.to_string()).collect();
            if !noted.is_subset(&sealed) {
                return Err(format!("{noted:?} are noted as clean, {sealed:?} are sealed"));
            }
            if point.tables.is_some() && oracle::read(root).as_ref() != Ok(&self.said) {
                return Err(format!("the tables are noted as durable and are {:?}", oracle::read(root)));
            }
        }
        Ok(sealed)
    }

    /// After Ok: all of it.
    fn judge_settled(&self, root: &Path) -> Result<(), String> {
        let sealed = self.judge(root)?;
        if sealed.len() != self.layers.len() {
            return Err(format!("only {sealed:?} are sealed"));
        }
        let said = oracle::read(root)?;
        if said != self.said {
            return Err(format!("the store is {said:?}"));
        }
        oracle::data_agrees(&said)?;
        let noted = clean_point(root).map_or(0, |point| point.layers().len());
        if noted != self.layers.len() {
            return Err(format!("{noted} layers are noted as clean"));
        }
        let history = String::from_utf8_lossy(&std::fs::read(root.join("cstor-rs/history")).unwrap_or_default()).into_owned();
        for (id, (record, _)) in &said.images {
            let name = record["names"][0].as_str().unwrap_or_default();
            if !history.contains(name) {
                return Err(format!("the history does not have image {id}, {name}"));
            }
        }
        Ok(())
    }
}

/// Without any of our code but the seal's own form.
fn seal_holds(dir: &Path, diff_id: &str) -> bool {
    let Ok(Ok(seal)) = std::fs::read(dir.join("cstor-rs.seal")).map(|bytes| Seal::parse(&bytes)) else { return false };
    let link = std::fs::read_to_string(dir.join("link")).unwrap_or_default();
    let tree = real(&dir.join("diff")).map(|(inode, birth)| TreeId { inode, birth });
    seal.diff_id.as_str() == diff_id && seal.link.as_str() == link && Some(seal.tree) == tree
}

/// Whether settling has found nothing wrong.
fn is_sound(settled: &Settled) -> bool {
    settled.broken.is_empty() && settled.unknown.is_empty() && settled.layers.iter().all(|layer| layer.outcome.is_sound())
}

fn clean_point(root: &Path) -> Option<CleanPoint> {
    std::fs::read(root.join("cstor-rs/clean")).ok().and_then(|bytes| CleanPoint::parse(&bytes).ok())
}

/// What a stopped settling may leave only until the next one.
fn half_written(root: &Path, good: &Good) -> Vec<PathBuf> {
    let seals = good.layers.iter().map(|(id, ..)| root.join("overlay").join(id).join("cstor-rs.seal.new"));
    seals.chain([root.join("cstor-rs/.clean.new")]).filter(|path| path.exists()).collect()
}

/// What holds after settling ended in any way; settling once more goes on to the end.
fn check(top: &Path, good: &Good, settled: Option<&Settled>, what: &str) {
    let root = top.join("root");
    let sealed = good.judge(&root).unwrap_or_else(|why| panic!("{what}: {why}"));
    if let Some(settled) = settled {
        let said = settled.layers.iter().filter(|layer| layer.outcome.is_sound()).map(|layer| layer.id.to_string());
        let said: BTreeSet<String> = said.collect();
        assert!(said.is_subset(&sealed), "{what}: said to be sealed: {said:?}, are sealed: {sealed:?}");
    }
    let again = run(top, None, SyncMode::Filesystem).unwrap_or_else(|why| panic!("{what}: it does not settle again: {why:?}"));
    for layer in &again.layers {
        let before = sealed.contains(layer.id.as_str());
        assert_eq!(layer.outcome, if before { Outcome::AlreadySealed } else { Outcome::Sealed }, "{what}: {}", layer.id);
    }
    good.judge_settled(&root).unwrap_or_else(|why| panic!("{what}, settled again: {why}"));
    assert_eq!(half_written(&root, good), Vec::<PathBuf>::new(), "{what}");
    assert_eq!(oracle::leftovers(&root, &BTreeSet::new()), Vec::<PathBuf>::new(), "{what}");
}

fn stopped_everywhere() {
    for sync in MODES {
        for k in 0.. {
            let temp = temp();
            setup(temp.path());
            let good = Good::of(temp.path());
            let stop = Stop::of("settle", k);
            let settled = run(temp.path(), Some(stop.clone()), sync);
            check(temp.path(), &good, settled.as_ref().ok(), &format!("{sync:?} stopped before change {k}"));
            if !stop.stopped() {
                println!("{sync:?}: {k} changes");
                assert!(settled.is_ok() && k > 12, "{k} changes: {settled:?}");
                break;
            }
        }
    }
}

const CHILD: &str = "CSTOR_RS_CRASH_SETTLE";

/// What the re-executed binary does: `mode k directory`.
pub fn child() -> Option<ExitCode> {
    let text = std::env::var(CHILD).ok()?;
    let mut parts = text.splitn(3, ' ');
    let (mode, at, top): (usize, usize, _) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    Some(if run(Path::new(top), Some(Kill::at(at)), MODES[mode]).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn killed_everywhere() {
    for (mode, sync) in MODES.iter().enumerate() {
        for k in 0.. {
            let temp = temp();
            setup(temp.path());
            let good = Good::of(temp.path());
            let text = format!("{mode} {k} {}", temp.path().display());
            let Output { status, stdout, .. } = Command::new(std::env::current_exe().unwrap()).env(CHILD, text).output().unwrap();
            steps::hit_by_child("settle", &stdout);
            if status.success() {
                println!("{sync:?}: {k} changes");
                assert!(k > 12, "{k} changes");
                break;
            }
            let what = format!("{sync:?} killed before change {k}");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{what}: ended otherwise");
            check(temp.path(), &good, None, &what);
        }
    }
}

fn one_error_everywhere() {
    for error in [Errno::NOSPC, Errno::IO, Errno::DQUOT, Errno::MFILE] {
        for k in 0.. {
            let temp = temp();
            setup(temp.path());
            let good = Good::of(temp.path());
            let once = Once::at(k, error);
            let settled = run(temp.path(), Some(once.clone()), SyncMode::Filesystem);
            if !once.failed() {
                assert!(k > 12, "{k} changes");
                break;
            }
            let failed = match &settled {
                Ok(settled) => settled.layers.iter().any(|layer| matches!(layer.outcome, Outcome::Failed { .. })),
                Err(_) => true,
            };
            assert!(failed, "{error:?} at change {k} is not told: {settled:?}");
            check(temp.path(), &good, settled.as_ref().ok(), &format!("{error:?} at change {k}"));
        }
    }
}

/// What podman has made: the store's directories, layers, links, tar-splits, documents, tables.
fn is_podmans(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.starts_with("root/overlay") && !text.ends_with(".lock")
}

/// What a layer does without that is only mounted below others; verifying does not look at it.
fn is_for_mounts(path: &Path) -> bool {
    path.iter().count() == 4 && ["work", "merged", "empty"].iter().any(|name| path.ends_with(name))
}

/// A run on the model disk.
struct Run {
    good: Good,
    before: Disk,
    log: Vec<Change>,
}

impl Run {
    fn of(sync: SyncMode) -> Self {
        let temp = temp();
        setup(temp.path());
        if sync == SyncMode::Files {
            // There since long ago: nothing that is done for it syncs the root.
            std::fs::create_dir(temp.path().join("root/cstor-rs")).unwrap();
        }
        let good = Good::of(temp.path());
        let mut before = Disk::of(temp.path());
        before.forget_bytes(is_podmans);
        before.forget_names(|path| is_podmans(path) && !is_for_mounts(path));
        let log = Log::of(temp.path());
        let settled = run(temp.path(), Some(log.clone()), sync).unwrap();
        assert!(settled.layers.iter().all(|layer| layer.outcome == Outcome::Sealed), "{settled:?}");
        Self { good, before, log: log.take() }
    }

    /// What is wrong with the first state of this log that is wrong, if any is; how many states there are.
    fn judge(&self, log: &[Change], from: usize) -> (Option<String>, usize) {
        let (mut disk, mut states) = (self.before.clone(), 0);
        let mut seen = BTreeSet::new();
        for k in 0..=log.len() {
            if k > 0 {
                disk.play(&log[k - 1]);
            }
            if k < from {
                continue;
            }
            for cut in disk.cuts(|_| false) {
                let left = disk.after(&cut);
                if !seen.insert((left.fingerprint(), k == log.len())) {
                    continue;
                }
                states += 1;
                if let Err(why) = self.judge_one(&left, k == log.len()) {
                    return (
                        Some(format!("power lost after change {k} ({:?}), {cut:?}: {why}", k.checked_sub(1).map(|k| &log[k]))),
                        states,
                    );
                }
            }
        }
        (None, states)
    }

    fn judge_one(&self, left: &Disk, done: bool) -> Result<(), String> {
        let temp = temp();
        power::write(left, temp.path());
        let root = temp.path().join("root");
        if done {
            return self.good.judge_settled(&root);
        }
        self.good.judge(&root)?;
        // Settling what the power cut left seals nothing that is not whole, and calls nothing whole that is not. Tables that are
        // lost are not its to bring back.
        match run(temp.path(), None, SyncMode::Filesystem) {
            Ok(settled) if settled.images.len() == self.good.said.images.len() && is_sound(&settled) => self.good.judge_settled(&root),
            Ok(_) => self.good.sealed(&root).map(drop),
            Err(_) => Ok(()),
        }
        .map_err(|why| format!("settled then: {why}"))
    }
}

fn power_lost_everywhere() {
    for sync in MODES {
        let run = Run::of(sync);
        let (wrong, states) = run.judge(&run.log, 0);
        (0..run.log.len()).for_each(|k| steps::hit_by_power("settle", &run.log, k));
        assert_eq!(wrong, None, "{sync:?}");
        println!("{sync:?}: {} changes, {states} states", run.log.len());
        assert!(states > 80, "{states} states are too few to be true");
    }
}

/// Takes each sync away, and where another one does the same, both: a state goes wrong.
fn every_sync_counts() {
    for sync in MODES {
        let run = Run::of(sync);
        let caught = |without: &[usize]| {
            let mut log = run.log.clone();
            without.iter().for_each(|index| log[*index] = Change::Nothing);
            run.judge(&log, without[0] + 1).0
        };
        let path = |change: &Change| match change {
            Change::SyncFs => Some(PathBuf::new()),
            // Two names of one file.
            Change::SyncFile(path) if path.ends_with("bin/same") => Some(path.with_file_name("tool")),
            Change::SyncFile(path) | Change::SyncDir(path) => Some(path.clone()),
            _ => None,
        };
        let syncs: Vec<(usize, PathBuf)> = run.log.iter().enumerate().filter_map(|(index, change)| Some((index, path(change)?))).collect();
        let (mut alone, mut paired, mut needless) = (0, 0, BTreeSet::new());
        for (index, path) in &syncs {
            if let Some(why) = caught(&[*index]) {
                alone += 1;
                println!("{sync:?} without {}: {}", path.display(), why.chars().take(200).collect::<String>());
                continue;
            }
            let mut twins = syncs.iter().filter(|(other, same)| other != index && same == path).map(|(other, _)| *other);
            if twins.any(|other| caught(&[*index.min(&other), *index.max(&other)]).is_some()) {
                paired += 1;
            } else {
                needless.insert(path.components().rev().take(2).collect::<Vec<_>>().iter().rev().collect::<PathBuf>());
            }
        }
        println!("{sync:?}: {alone} syncs are needed, {paired} as one of two");
        // A file without a byte has none to lose.
        let empty = (sync == SyncMode::Files).then(|| PathBuf::from("etc/empty"));
        assert_eq!(needless, empty.into_iter().collect(), "{sync:?}: nothing notices the loss of these syncs");
    }
}
