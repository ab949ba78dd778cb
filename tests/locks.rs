//! Our locks against those of Go's programs, which lock with fcntl(F_SETLK): both ways, and against ourselves.
//!
//! The other process is this test binary, run again: it takes a POSIX lock, says so, and holds it until its stdin ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use cstor_rs::fsio::{Dir, Seam};
use cstor_rs::lock::{LockError, StoreLocks, Wait};

const CHILD: &str = "CSTOR_RS_LOCKS_CHILD";

/// Not a test of its own: what the other process does. `posix|ofd read|write FILE`
#[test]
fn child() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let mut parts = job.splitn(3, ' ');
    let (kind, mode, path) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let got = lock(&file, kind == "posix", mode == "write");
    println!("\n{}", if got { "locked" } else { "excluded" });
    std::io::stdout().flush().unwrap();
    // The parent closes its end.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn lock(file: &File, posix: bool, write: bool) -> bool {
    use nix::fcntl::{FcntlArg, fcntl};
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    let range = libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    let arg = if posix { FcntlArg::F_SETLK(&range) } else { FcntlArg::F_OFD_SETLK(&range) };
    fcntl(file, arg).is_ok()
}

/// Another process that tried to take a lock, and what it said.
struct Other {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Kept open: it still has to say that its test has ended.
    lines: Lines<BufReader<ChildStdout>>,
    got: bool,
}

impl Other {
    fn takes(kind: &str, mode: &str, path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, format!("{kind} {mode} {}", path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.by_ref().map(Result::unwrap).find(|line| line == "locked" || line == "excluded").unwrap();
        Self { stdin: child.stdin.take(), child, lines, got: said == "locked" }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.lines.by_ref().for_each(drop);
        self.child.wait().unwrap();
    }
}

struct Dirs {
    temp: tempfile::TempDir,
    layers: Dir,
    images: Dir,
    containers: Dir,
}

impl Dirs {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            std::fs::create_dir(temp.path().join(name)).unwrap();
            Dir::open(&temp.path().join(name), Seam::default()).unwrap()
        };
        let (layers, images, containers) = (open("overlay-layers"), open("overlay-images"), open("overlay-containers"));
        Self { layers, images, containers, temp }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join(format!("overlay-{name}/{name}.lock"))
    }

    fn write(&self) -> Result<cstor_rs::lock::StoreWriteGuard, LockError> {
        StoreLocks::write(&self.layers, &self.images, &self.containers, &Wait::limit(Duration::ZERO))
    }

    fn read(&self) -> Result<cstor_rs::lock::StoreReadGuard, LockError> {
        StoreLocks::read(&self.layers, &self.images, &self.containers, &Wait::limit(Duration::ZERO))
    }
}

#[test]
fn ours_excludes_theirs() {
    for name in ["layers", "images", "containers"] {
        for (kind, mode) in [("posix", "read"), ("posix", "write"), ("ofd", "read"), ("ofd", "write")] {
            let dirs = Dirs::new();
            let held = dirs.write().unwrap();
            assert!(!Other::takes(kind, mode, &dirs.file(name)).got, "{kind} {mode} on {name}.lock under our exclusive lock");
            drop(held);
            assert!(Other::takes(kind, mode, &dirs.file(name)).got, "{kind} {mode} on {name}.lock after we released it");
            let held = dirs.read().unwrap();
            assert_eq!(
                Other::takes(kind, mode, &dirs.file(name)).got,
                mode == "read",
                "{kind} {mode} on {name}.lock under our shared lock"
            );
            drop(held);
        }
    }
}

#[test]
fn theirs_excludes_ours_and_is_named() {
    for name in ["layers", "images", "containers"] {
        for (kind, mode) in [("posix", "read"), ("posix", "write"), ("ofd", "read"), ("ofd", "write")] {
            let dirs = Dirs::new();
            let other = Other::takes(kind, mode, &dirs.file(name));
            assert!(other.got);
            let error = dirs.write().unwrap_err();
            let LockError::Busy { path, holder, .. } = &error else { panic!("{error:?}") };
            assert_eq!(path, &dirs.file(name), "{kind} {mode}");
            assert!(holder.starts_with(&format!("process {} (", other.pid())), "{kind} {mode}: {holder}, not {}", other.pid());
            assert_eq!(dirs.read().is_ok(), mode == "read", "{kind} {mode}: readers share");
            drop(other);
            drop(dirs.write().unwrap());
        }
    }
}

#[test]
fn a_second_handle_of_the_same_process_is_excluded() {
    let dirs = Dirs::new();
    let held = dirs.write().unwrap();
    assert!(matches!(dirs.write(), Err(LockError::Busy { .. })));
    assert!(matches!(dirs.read(), Err(LockError::Busy { .. })));
    drop(held);
    let (one, two) = (dirs.read().unwrap(), dirs.read().unwrap());
    assert!(matches!(dirs.write(), Err(LockError::Busy { .. })));
    drop(one);
    assert!(matches!(dirs.write(), Err(LockError::Busy { .. })));
    drop(two);
    drop(dirs.write().unwrap());
}

#[test]
fn a_lock_survives_that_another_descriptor_of_its_file_is_closed() {
    let dirs = Dirs::new();
    let held = dirs.write().unwrap();
    drop(File::open(dirs.file("layers")).unwrap());
    assert!(!Other::takes("posix", "write", &dirs.file("layers")).got);
    drop(held);
}

#[test]
fn what_fails_half_way_releases_what_it_had() {
    let dirs = Dirs::new();
    let other = Other::takes("posix", "write", &dirs.file("containers"));
    assert!(matches!(dirs.write(), Err(LockError::Busy { .. })));
    for name in ["layers", "images"] {
        assert!(Other::takes("posix", "write", &dirs.file(name)).got, "{name}.lock is still ours");
    }
    drop(other);
}

#[test]
fn a_token_is_64_bytes_and_never_the_same() {
    let dirs = Dirs::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut held = dirs.write().unwrap();
    for _ in 0..100 {
        held.touch_layers().unwrap();
        let token = std::fs::read(dirs.file("layers")).unwrap();
        assert_eq!(token.len(), 64);
        assert!(seen.insert(token), "the same token twice");
    }
    assert!(std::fs::read(dirs.file("images")).unwrap().is_empty(), "images.lock was not touched");
    held.touch_images().unwrap();
    assert_eq!(std::fs::read(dirs.file("images")).unwrap().len(), 64);
}

#[test]
fn waiting_can_be_given_up() {
    let dirs = Dirs::new();
    let held = dirs.write().unwrap();
    let given_up = std::sync::atomic::AtomicBool::new(true);
    let wait = Wait::new(Duration::from_secs(3600), Some(&given_up));
    let error = StoreLocks::write(&dirs.layers, &dirs.images, &dirs.containers, &wait).unwrap_err();
    assert!(matches!(error, LockError::Cancelled { .. }), "{error:?}");
    drop(held);
}

/// Whoever waits for one lock holds those before it, as Go's programs do: two of another order would wait for each other.
#[test]
fn locks_are_taken_in_gos_order() {
    let order = ["layers", "images", "containers"];
    for (n, first) in order.iter().enumerate() {
        let dirs = Dirs::new();
        let others: Vec<Other> = order[n..].iter().map(|name| Other::takes("posix", "write", &dirs.file(name))).collect();
        for error in [dirs.write().unwrap_err(), dirs.read().unwrap_err()] {
            let LockError::Busy { path, .. } = &error else { panic!("{error:?}") };
            assert_eq!(path, &dirs.file(first), "waited for behind one that nobody had");
        }
        drop(others);
    }
}

#[test]
fn a_single_lock_is_exclusive_and_no_other_is_taken() {
    for name in ["layers", "images"] {
        for (kind, mode) in [("posix", "read"), ("ofd", "read")] {
            let (dirs, wait) = (Dirs::new(), Wait::limit(Duration::ZERO));
            let held: Box<dyn std::any::Any> = match name {
                "layers" => Box::new(StoreLocks::write_layers(&dirs.layers, &wait).unwrap()),
                _ => Box::new(StoreLocks::write_images(&dirs.images, &wait).unwrap()),
            };
            for other in ["layers", "images", "containers"] {
                assert_eq!(
                    Other::takes(kind, mode, &dirs.file(other)).got,
                    other != name,
                    "{kind} {mode} on {other}.lock, {name}.lock held"
                );
            }
            drop(held);
            assert!(Other::takes(kind, "write", &dirs.file(name)).got, "{kind} on {name}.lock after we released it");
        }
    }
}

/// As between fork and exec: another process has the same open file, and closing ours releases nothing.
#[test]
fn a_lock_is_released_though_another_descriptor_shares_it() {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let dirs = Dirs::new();
    let held = dirs.write().unwrap();
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let shared = |name: &str| {
        let path = dirs.file(name);
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap);
        let mut fds = fds.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == path));
        let raw = fds.next().unwrap().file_name().into_string().unwrap().parse().unwrap();
        pidfd_getfd(&own, raw, PidfdGetfdFlags::empty()).unwrap()
    };
    let copies = ["layers", "images", "containers"].map(shared);
    drop(held);
    for name in ["layers", "images", "containers"] {
        assert!(Other::takes("posix", "write", &dirs.file(name)).got, "{name}.lock is held by a descriptor that somebody forgot");
    }
    drop(copies);
}
