//! What other programs do while fsck looks is no finding: it is looked at again under the locks, and what was read counts only for
//! the layer that was read.

#![cfg(feature = "cli")] // for the log, which tells that a lock is waited for
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/fixture.rs"]
#[allow(dead_code)]
mod fixture;

use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use cstor_rs::fsck::{Code, Finding, FsckError, Level, Options, Progress, Summary, run};
use cstor_rs::fsio::{Dir, Seam};
use cstor_rs::lock::{StoreLocks, StoreWriteGuard, Wait};
use cstor_rs::store::{Store, StoreOptions};
use fixture::{Member, image, layer};

struct Place {
    temp: tempfile::TempDir,
    /// The base layer and the one on it.
    layers: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::new(temp.path().join("root"), temp.path().join("run"))).unwrap();
        let base = layer(&[Member::Dir("etc", 0o755), Member::File("etc/motd", 0o644, &[7; 300_000])]);
        let above = layer(&[Member::File("own", 0o600, &[8; 300_000])]);
        fixture::pull(&store, &[image("localhost/one:1", vec![base, above])]).unwrap();
        let mut layers: Vec<(bool, String)> =
            store.read().unwrap().unwrap().layers().map(|l| (l.parent().is_some(), l.id_text().to_owned())).collect();
        layers.sort();
        Self { temp, layers: layers.into_iter().map(|(_, id)| id).collect() }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn fsck(&self, level: Level, wait: Duration, progress: &dyn Progress) -> Result<(Summary, Vec<Finding>), FsckError> {
        let how = Options { level, wait, progress, jobs: NonZeroUsize::MIN, ..Options::default() };
        let mut findings = Vec::new();
        let store = StoreOptions::new(self.root(), self.temp.path().join("run"));
        let summary = run(&store, &how, None, &mut |finding| findings.push(finding.clone()))?;
        Ok((summary, findings))
    }

    fn locked(&self) -> StoreWriteGuard {
        let dir = |name: &str| Dir::open(&self.root().join(name), Seam::default()).unwrap();
        let wait = Wait::limit(Duration::from_secs(60));
        StoreLocks::write(&dir("overlay-layers"), &dir("overlay-images"), &dir("overlay-containers"), &wait).unwrap()
    }

    /// As podman begins a layer: a directory, and no record yet.
    fn half_made(&self) -> PathBuf {
        let dir = self.root().join("overlay").join("e".repeat(64));
        fs::create_dir_all(dir.join("diff")).unwrap();
        dir
    }
}

struct Nobody;

impl Progress for Nobody {}

fn codes(findings: &[Finding]) -> Vec<Code> {
    findings.iter().map(|finding| finding.code).collect()
}

/// Looking takes no lock, but where something seems damaged: then whoever holds them has to end first.
#[test]
fn f1_a_sound_store_is_looked_at_without_a_lock_and_damage_only_under_them() {
    let place = Place::new();
    let held = place.locked();
    let (summary, findings) = place.fsck(Level::Full, Duration::ZERO, &Nobody).unwrap();
    assert_eq!((summary.exit_code(), summary.layers, codes(&findings)), (0, 2, vec![]));
    place.half_made();
    let error = place.fsck(Level::Quick, Duration::ZERO, &Nobody).unwrap_err();
    assert!(error.is_busy(), "{error:?}");
    drop(held);
    assert_eq!(codes(&place.fsck(Level::Quick, Duration::ZERO, &Nobody).unwrap().1), [Code::OrphanLayer]);
}

/// Tells when a line of the log says that a lock is waited for.
struct Log(Mutex<Sender<()>>);

impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if String::from_utf8_lossy(line).contains("waiting for a lock") {
            self.0.lock().unwrap().send(()).ok();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What seemed damaged, and is done by the time the locks are had, was another program's work.
#[test]
fn f1_what_another_program_was_just_making_is_no_finding() {
    let place = Place::new();
    // Damage that stays is told, beside what was only half done.
    fs::write(place.root().join("overlay").join(&place.layers[1]).join("lower"), "wrong").unwrap();
    let half = place.half_made();
    let held = place.locked();
    let (send, waits) = channel();
    let log: &'static Log = Box::leak(Box::new(Log(Mutex::new(send))));
    let found = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let log = tracing_subscriber::fmt().with_writer(move || log).finish();
            tracing::subscriber::with_default(log, || place.fsck(Level::Quick, Duration::from_secs(60), &Nobody))
        });
        waits.recv_timeout(Duration::from_secs(60)).expect("nobody waits for a lock");
        // It has looked once. The layer is given up, and another one half made and finished in the same breath.
        fs::remove_dir_all(&half).unwrap();
        drop(held);
        looking.join().unwrap()
    });
    assert_eq!(codes(&found.unwrap().1), [Code::LayerLowerWrong]);
}

/// Takes a layer away while it is read, as `podman rmi` does, and puts another one of the same id in its place.
struct Replaces<'a> {
    layer: &'a Path,
    aside: PathBuf,
    done: Mutex<bool>,
}

impl Progress for Replaces<'_> {
    fn checked(&self, _: u64, _: u64) {
        let mut done = self.done.lock().unwrap();
        if !*done {
            fs::rename(self.layer, &self.aside).unwrap();
            fs::remove_dir_all(self.aside.join("diff/etc")).unwrap();
            fs::create_dir_all(self.layer.join("diff")).unwrap();
            fs::write(self.layer.join("link"), "ANOTHERLINKIDOFANOTHERLAYE").unwrap();
            *done = true;
        }
    }
}

/// What is missing in a layer that is being removed is no damage of the layer that stands there now.
#[test]
fn f1_a_layer_that_is_replaced_while_it_is_read_is_passed_over() {
    let place = Place::new();
    let layer = place.root().join("overlay").join(&place.layers[0]);
    let replaces = Replaces { layer: &layer, aside: place.temp.path().join("aside"), done: Mutex::new(false) };
    let (summary, findings) = place.fsck(Level::Full, Duration::from_secs(60), &replaces).unwrap();
    assert!(*replaces.done.lock().unwrap(), "nothing was read");
    assert_eq!((summary.damaged, codes(&findings)), (0, vec![]));
}
