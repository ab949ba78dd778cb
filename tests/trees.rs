//! Trees of any depth and width are walked with a bounded number of descriptors.
//!
//! The limit of this process is lowered, so these tests have a program of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use cstor_rs::fsio::{Dir, Hook, Op, Seam};
use rustix::fs::FileType;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const DESCRIPTORS: u64 = 128;
/// Far over the limit, and not a multiple of anything.
const DEPTH: usize = 1537;

fn lower_the_limit() {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: now.maximum }).unwrap();
}

/// The changes that pass the hook: the verb and the last component.
#[derive(Default)]
struct Log(Mutex<Vec<(String, Vec<u8>)>>);

impl Hook for Log {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let at = match op {
            Op::Unlink(at) | Op::Rmdir(at) | Op::SyncFile(at) | Op::SyncDir(at) => at.path(),
            _ => return Ok(()),
        };
        let verb = format!("{op:?}").split('(').next().unwrap().to_owned();
        self.0.lock().unwrap().push((verb, at.file_name().unwrap_or_default().as_bytes().to_vec()));
        Ok(())
    }
}

fn top() -> (tempfile::TempDir, Dir, Arc<Log>) {
    lower_the_limit();
    let (temp, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let dir = Dir::open(temp.path(), Seam::new(log.clone())).unwrap();
    (temp, dir, log)
}

/// A chain of directories; in each a file, and in each tenth two small trees beside the way down.
fn chain(top: &Dir) -> (usize, usize) {
    let (mut dirs, mut files) = (1, 0);
    let mut dir = top.mkdir("deep", 0o755).unwrap();
    for level in 0..DEPTH {
        drop(dir.create(format!("f{level}"), 0o600).unwrap());
        files += 1;
        if level % 10 == 0 {
            for side in ["a", "z"] {
                dir.mkdir(side, 0o755).unwrap().mkdir("below", 0o755).unwrap().create("file", 0o600).unwrap();
                (dirs, files) = (dirs + 2, files + 1);
            }
        }
        dir = dir.mkdir("m", 0o755).unwrap();
        dirs += 1;
    }
    (dirs, files)
}

fn count(log: &Log, verb: &str) -> usize {
    log.0.lock().unwrap().iter().filter(|(seen, _)| seen == verb).count()
}

#[test]
fn a_tree_deeper_than_the_descriptors_is_removed() {
    let (temp, dir, log) = top();
    let (dirs, files) = chain(&dir);
    dir.remove_tree("deep").unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    assert_eq!((count(&log, "Rmdir"), count(&log, "Unlink")), (dirs, files));
}

#[test]
fn a_tree_deeper_than_the_descriptors_is_synced_whole() {
    let (_temp, dir, log) = top();
    let (dirs, files) = chain(&dir);
    dir.sync_tree().unwrap();
    // The top itself is synced too.
    assert_eq!((count(&log, "SyncDir"), count(&log, "SyncFile")), (dirs + 1, files));
    dir.remove_tree("deep").unwrap();
}

#[test]
fn a_directory_of_many_parts_is_walked_whole() {
    let (temp, dir, log) = top();
    let wide = dir.mkdir("wide", 0o755).unwrap();
    for number in 0..5000 {
        wide.mknod(format!("{number:0200}"), FileType::Fifo, 0o600, (0, 0)).unwrap();
    }
    for number in 0..100 {
        wide.mkdir(format!("d{number}"), 0o755).unwrap().create("file", 0o600).unwrap();
    }
    dir.sync_tree().unwrap();
    assert_eq!((count(&log, "SyncDir"), count(&log, "SyncFile")), (102, 100));
    dir.remove_tree("wide").unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    let gone: BTreeSet<Vec<u8>> = log.0.lock().unwrap().iter().filter(|(verb, _)| verb == "Unlink").map(|(_, name)| name.clone()).collect();
    assert_eq!((gone.len(), count(&log, "Unlink"), count(&log, "Rmdir")), (5001, 5100, 101));
}

#[test]
fn removing_is_done_again_after_any_failure() {
    struct Stop(Mutex<usize>);
    impl Hook for Stop {
        fn before(&self, op: &Op<'_>) -> io::Result<()> {
            let mut left = self.0.lock().unwrap();
            if matches!(op, Op::Unlink(_) | Op::Rmdir(_)) {
                *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(5))?;
            }
            Ok(())
        }
    }
    lower_the_limit();
    let temp = tempfile::tempdir().unwrap();
    let stop = Arc::new(Stop(Mutex::new(usize::MAX)));
    let dir = Dir::open(temp.path(), Seam::new(stop.clone())).unwrap();
    chain(&dir);
    let round = |_: &usize| {
        *stop.0.lock().unwrap() = 997;
        dir.remove_tree("deep").is_ok()
    };
    let rounds = (1..=10).find(round);
    assert_eq!((fs::read_dir(temp.path()).unwrap().count(), rounds), (0, Some(5)));
}
