//! Recovery met with what no crash of ours leaves: rotten segments, segments of other versions, trees of any size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/skip.rs"]
mod skip;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::fixture::{self, Failure, app, base, image};
use common::once::Once;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::journal::{self, Header, Kind};
use cstor_rs::recovery::Outcome;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::TxnError;

const TXN: &str = "00112233445566778899aabbccddeeff";

struct Place(tempfile::TempDir);

impl Place {
    /// With one image in it.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fixture::pull(&place.open(), &[image("localhost/zero:1", vec![app("zero")])]).unwrap();
        place
    }

    fn options(&self) -> StoreOptions {
        StoreOptions::new(self.0.path().join("root"), self.0.path().join("run"))
    }

    fn open(&self) -> Store {
        Store::open(self.options()).unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join("root").join(below)
    }

    fn segment(&self) -> PathBuf {
        self.path(&format!("cstor-rs/journal/{TXN}.wal"))
    }
}

/// A sound segment with this intent, its header changed by `edit` and sealed again.
fn segment(payload: &[u8], edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let txn = TXN.parse().unwrap();
    let mut head = journal::header(&Header { txn, boot: [0; 16], pid_namespace: 0, pid: 1, start: 1 });
    let crc = head.len() - 4;
    edit(&mut head);
    let sum = crc32fast::hash(&head[..crc]).to_le_bytes();
    head[crc..].copy_from_slice(&sum);
    head.extend(journal::Chain::new(&TXN.parse().unwrap()).record(Kind::Intent, payload));
    head
}

type Rot = (&'static str, fn(&Path));

const ROT: &[Rot] = &[
    ("a fifo", |path| rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a link that leads out of the store", |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
    ("a link in a circle", |path| std::os::unix::fs::symlink(path, path).unwrap()),
    ("a terabyte of nothing", |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ("an intent that makes no sense", |path| fs::write(path, segment(b"\x01nonsense", |_| {})).unwrap()),
];

#[test]
fn a_segment_that_cannot_be_read_is_set_aside_and_blocks_nothing() {
    for (what, make) in ROT {
        let place = Place::new();
        make(&place.segment());
        let store = place.open();
        assert_eq!(store.recovered().ended, [(TXN.parse().unwrap(), Outcome::SetAside)], "{what}");
        let names: Vec<String> =
            fs::read_dir(place.path("cstor-rs/journal")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names, [format!("{TXN}.bad")], "{what}");
        fixture::pull(&store, &[image("localhost/one:1", vec![base()])]).unwrap();
        assert_eq!(place.open().recovered().ended, [], "{what}");
        assert_eq!(place.open().read().unwrap().unwrap().images().count(), 2, "{what}");
    }
}

#[test]
fn a_segment_of_a_newer_version_stays_and_is_named_until_the_newer_program_comes() {
    let versions: [(&str, Vec<u8>); 3] = [
        ("another header version", segment(b"\x01", |head| head[8] = 2)),
        ("flags", segment(b"\x01", |head| head[10] = 1)),
        ("another payload version", segment(b"\x04whatever it means", |_| {})),
    ];
    for (what, bytes) in versions {
        let place = Place::new();
        fs::write(place.segment(), &bytes).unwrap();
        let store = place.open();
        assert_eq!(store.recovered().pending.len(), 1, "{what}");
        assert!(store.recovered().pending[0].1.contains("newer cstor-rs"), "{what}: {:?}", store.recovered());
        assert_eq!(store.read().unwrap().unwrap().images().count(), 1, "{what}: it can be read");
        let refused = fixture::pull(&store, &[image("localhost/one:1", vec![base()])]);
        assert!(matches!(refused, Err(Failure::Txn(TxnError::Pending { .. }))), "{what}: {refused:?}");
        assert_eq!(fs::read(place.segment()).unwrap(), bytes, "{what}");
        assert_eq!(store.read().unwrap().unwrap().images().count(), 1, "{what}");
    }
}

/// Fails every change once an intent is on the medium, as if the process were gone.
#[derive(Default)]
struct DiesBehindIntent(AtomicUsize);

impl Hook for DiesBehindIntent {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) > 0 { Err(io::Error::other(format!("gone before {op:?}"))) } else { Ok(()) }
    }

    fn done(&self, op: &Op<'_>) {
        if matches!(op, Op::SyncData(at) if at.name.to_string_lossy().ends_with(".wal")) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Before anything is removed from staging: may somebody else have the store's locks?
struct Trees {
    locks: Vec<PathBuf>,
    removed: AtomicUsize,
}

impl Hook for Trees {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if let Op::Unlink(at) = op
            && at.dir.to_string_lossy().contains("/cstor-rs/stage/")
        {
            self.removed.fetch_add(1, Ordering::SeqCst);
            for lock in &self.locks {
                let file = fs::File::options().read(true).write(true).open(lock)?;
                let whole = libc_flock();
                nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole))
                    .unwrap_or_else(|error| panic!("{}: {error} while {} is removed", lock.display(), at.path().display()));
            }
        }
        Ok(())
    }
}

fn libc_flock() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK.try_into().unwrap(),
        l_whence: nix::libc::SEEK_SET.try_into().unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[test]
fn trees_are_removed_while_nobody_waits_for_the_locks() {
    let locks = |place: &Place| {
        ["overlay-layers/layers.lock", "overlay-images/images.lock", "overlay-containers/containers.lock"].map(|l| place.path(l)).to_vec()
    };
    let one = [image("localhost/one:1", vec![base(), app("one")])];
    for next in ["an open", "a pull", "the commit that fails itself"] {
        let place = Place::new();
        if next != "the commit that fails itself" {
            let dying = Store::open(place.options().hook(Arc::new(DiesBehindIntent::default()))).unwrap();
            fixture::pull(&dying, &one).unwrap_err();
            assert!(place.path("cstor-rs/stage").read_dir().unwrap().count() > 0, "{next}: nothing is left to remove");
        }
        let trees = Arc::new(Trees { locks: locks(&place), removed: AtomicUsize::new(0) });
        match next {
            "an open" => drop(Store::open(place.options().hook(trees.clone())).unwrap()),
            "a pull" => {
                // Opened before the other one died: the pull itself meets what is left.
                let store = Store::open_read_only(place.options().hook(trees.clone())).unwrap();
                fixture::pull(&store, &[image("localhost/two:1", vec![base()])]).unwrap();
            }
            _ => {
                struct Full(Arc<Trees>);
                impl Hook for Full {
                    fn before(&self, op: &Op<'_>) -> io::Result<()> {
                        self.0.before(op)?;
                        match op {
                            Op::Rename(_, to) if to.dir.ends_with("overlay") && to.name.to_string_lossy().len() == 64 => {
                                Err(rustix::io::Errno::NOSPC.into())
                            }
                            _ => Ok(()),
                        }
                    }
                }
                let store = Store::open(place.options().hook(Arc::new(Full(trees.clone())))).unwrap();
                fixture::pull(&store, &one).unwrap_err();
            }
        }
        assert!(trees.removed.load(Ordering::SeqCst) > 5, "{next}: {} files were removed", trees.removed.load(Ordering::SeqCst));
        assert_eq!(place.path("cstor-rs/stage").read_dir().unwrap().count(), 0, "{next}");
        assert_eq!(place.path("cstor-rs/journal").read_dir().unwrap().count(), 0, "{next}");
    }
}

/// Takes an unlocked new segment for dead, as another process's recovery may, once.
#[derive(Default)]
struct Unborn(AtomicUsize);

impl Hook for Unborn {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if let Op::SyncFile(at) = op
            && at.name.to_string_lossy().ends_with(".new")
            && self.0.fetch_add(1, Ordering::SeqCst) == 0
        {
            fs::remove_file(at.path())?;
        }
        Ok(())
    }
}

#[test]
fn a_segment_that_is_taken_for_dead_at_its_birth_is_made_again() {
    let place = Place::new();
    let hook = Arc::new(Unborn::default());
    let store = Store::open(place.options().hook(hook.clone())).unwrap();
    fixture::pull(&store, &[image("localhost/one:1", vec![base()])]).unwrap();
    assert_eq!(hook.0.load(Ordering::SeqCst), 2, "it was made twice");
    assert_eq!(place.open().recovered().ended, []);
}

#[test]
fn staging_that_cannot_be_removed_is_reported_and_hinders_nothing() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return;
    }
    let place = Place::new();
    let stage = place.path(&format!("cstor-rs/stage/{TXN}/a"));
    fs::create_dir_all(&stage).unwrap();
    let mount = |args: &[&str]| assert!(std::process::Command::new(args[0]).args(&args[1..]).arg(&stage).status().unwrap().success());
    mount(&["mount", "-t", "tmpfs", "none"]);
    fs::write(stage.join("kept"), "kept").unwrap();
    let device = fs::metadata(&stage).unwrap().dev();
    let store = place.open();
    let left = store.recovered().left.clone();
    let pulled = fixture::pull(&store, &[image("localhost/one:1", vec![base()])]);
    let kept = (fs::metadata(&stage).map(|meta| meta.dev()).ok(), fs::read_to_string(stage.join("kept")).ok());
    mount(&["umount"]);
    assert_eq!(left.iter().map(|(txn, _)| txn.as_str()).collect::<Vec<_>>(), [TXN]);
    assert_eq!(kept, (Some(device), Some("kept".to_owned())));
    assert!(pulled.is_ok(), "{pulled:?}");
    assert_eq!(place.open().recovered().ended, [(TXN.parse().unwrap(), Outcome::CleanedUp)]);
}

/// A segment that cannot be read, as with a bad block, while its owner holds its lock.
#[test]
fn a_living_owners_segment_is_its_own_business_whatever_can_be_read_of_it() {
    let place = Place::new();
    let path = place.segment();
    // Longer than any segment: it cannot be read.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let owner = fs::File::options().read(true).write(true).open(&path).unwrap();
    nix::fcntl::fcntl(&owner, nix::fcntl::FcntlArg::F_OFD_SETLK(&libc_flock())).unwrap();
    let stage = place.path(&format!("cstor-rs/stage/{TXN}"));
    fs::create_dir_all(stage.join("layer")).unwrap();
    // A dead transaction beside it makes the pass run.
    fs::create_dir_all(place.path("cstor-rs/stage/ffffffffffffffffffffffffffffffff")).unwrap();
    let store = place.open();
    assert_eq!(store.recovered().ended.len(), 1, "{:?}", store.recovered());
    assert_eq!(store.recovered().alive, [TXN.parse().unwrap()]);
    assert!(stage.join("layer").is_dir() && path.exists(), "nothing of the living one is touched");
    drop(owner);
    assert_eq!(place.open().recovered().ended, [(TXN.parse().unwrap(), Outcome::SetAside)]);
    assert!(!stage.exists());
}

/// Somebody takes away what is staged: a commit over nothing would be a lie.
#[test]
fn a_commit_whose_staging_is_gone_is_no_commit() {
    for gone in ["cstor-rs/stage", "overlay-layers", "overlay-images"] {
        let place = Place::new();
        let dir = place.path(gone);
        let what = move || {
            for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
                let name = entry.file_name().into_string().unwrap();
                if entry.file_type().unwrap().is_dir() && (name.len() == 32 || name.starts_with(".cstor-rs-")) {
                    for staged in fs::read_dir(entry.path()).unwrap().map(|entry| entry.unwrap()) {
                        if staged.file_type().unwrap().is_dir() {
                            fs::remove_dir_all(staged.path()).unwrap();
                        } else {
                            fs::remove_file(staged.path()).unwrap();
                        }
                    }
                }
            }
        };
        let when = |op: &Op<'_>| matches!(op, Op::Rename(_, to) if to.dir.ends_with("overlay") && to.name.to_string_lossy().len() == 64);
        let hook = Arc::new(Once { when, what, done: AtomicUsize::new(0) });
        let store = Store::open(place.options().hook(hook.clone())).unwrap();
        let failed = fixture::pull(&store, &[image("localhost/one:1", vec![base(), app("one")])]).unwrap_err();
        assert!(matches!(failed, Failure::Commit(cstor_rs::txn::CommitError::RolledBack { .. })), "{gone}: {failed:?}");
        assert!(hook.done.load(Ordering::SeqCst) > 0, "{gone}: the moment never came");
        let store = place.open();
        assert_eq!((store.recovered().ended.len(), store.recovered().pending.len()), (0, 0), "{gone}: {:?}", store.recovered());
        assert_eq!(store.read().unwrap().unwrap().images().count(), 1, "{gone}");
        assert_eq!(store.read().unwrap().unwrap().layers().count(), 1, "{gone}");
    }
}

/// What a prepared transaction that is given up does: Abort under the locks, trees without them.
#[test]
fn a_prepared_transaction_that_is_dropped_or_rolled_back_releases_the_locks_first() {
    use cstor_rs::ids::Digest;
    use cstor_rs::txn::{LayerSpec, Prepared, TxnOptions};
    for how in ["dropped", "rolled back"] {
        let place = Place::new();
        let locks = ["overlay-layers/layers.lock", "overlay-images/images.lock", "overlay-containers/containers.lock"];
        let trees = Arc::new(Trees { locks: locks.map(|lock| place.path(lock)).to_vec(), removed: AtomicUsize::new(0) });
        let store = Store::open(place.options().hook(trees.clone())).unwrap();
        let txn = store.begin(TxnOptions::default()).unwrap();
        let one = image("localhost/one:1", vec![base()]);
        let layer = &one.layers[0];
        for state in txn.declare(&txn.tables().unwrap(), std::slice::from_ref(&layer.diff_id)).unwrap() {
            let spec = LayerSpec { id: state.id, diff_id: state.diff_id, blob: Some(Digest::of(&layer.blob)), blob_bytes: None };
            txn.stage_layer(&spec, layer.blob.as_slice(), &|_| {}).unwrap();
        }
        txn.stage_image(&cstor_rs::txn::ImageSpec {
            config: one.config.clone(),
            manifest: one.manifest.clone(),
            index: None,
            diff_ids: vec![layer.diff_id.clone()],
            names: vec![one.name.clone()],
            created: None,
        })
        .unwrap();
        let Prepared::Ready(prepared) = txn.prepare().unwrap() else { panic!("{how}: nothing is ready") };
        match how {
            "dropped" => drop(prepared),
            _ => prepared.rollback().unwrap(),
        }
        assert!(trees.removed.load(Ordering::SeqCst) > 3, "{how}");
        for dir in ["journal", "stage", "trash"] {
            assert_eq!(place.path(&format!("cstor-rs/{dir}")).read_dir().unwrap().count(), 0, "{how}: {dir}");
        }
        assert_eq!(place.open().read().unwrap().unwrap().images().count(), 1, "{how}");
    }
}

/// An end that a dead process wrote may be in the page cache only.
#[test]
fn an_end_is_synced_before_what_it_ends_is_removed() {
    struct Killed(AtomicUsize);
    impl Hook for Killed {
        fn before(&self, op: &Op<'_>) -> io::Result<()> {
            // The second sync of the segment's data is that of Done.
            if matches!(op, Op::SyncData(at) if at.name.to_string_lossy().ends_with(".wal")) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
            if self.0.load(Ordering::SeqCst) > 1 { Err(io::Error::other("gone")) } else { Ok(()) }
        }
    }
    #[derive(Default)]
    struct Order(std::sync::Mutex<Vec<&'static str>>);
    impl Hook for Order {
        fn before(&self, op: &Op<'_>) -> io::Result<()> {
            let mut list = self.0.lock().unwrap();
            match op {
                Op::SyncData(at) if at.name.to_string_lossy().ends_with(".wal") => list.push("end"),
                Op::Unlink(_) | Op::Rmdir(_) => list.push("removal"),
                _ => {}
            }
            Ok(())
        }
    }
    let place = Place::new();
    let dying = Store::open(place.options().hook(Arc::new(Killed(AtomicUsize::new(0))))).unwrap();
    fixture::pull(&dying, &[image("localhost/one:1", vec![base()])]).unwrap_err();
    let order = Arc::new(Order::default());
    let store = Store::open(place.options().hook(order.clone())).unwrap();
    assert_eq!(store.recovered().ended.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>(), [Outcome::CleanedUp]);
    assert_eq!(order.0.lock().unwrap().first(), Some(&"end"));
    assert_eq!(store.read().unwrap().unwrap().images().count(), 2);
}
