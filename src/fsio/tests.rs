use std::io;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Default)]
struct Fail(Mutex<Vec<String>>, Option<&'static str>);

impl Hook for Fail {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let text = format!("{op:?}");
        if self.1.is_some_and(|f| text.starts_with(f)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.lock().unwrap().push(text);
        Ok(())
    }
}

fn dir(hook: Arc<Fail>) -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path(), Seam::new(hook)).unwrap();
    (temp, dir)
}

#[test]
fn f1_a_refused_change_is_not_made() {
    let (temp, dir) = dir(Arc::new(Fail(Mutex::default(), Some("Create"))));
    assert_eq!(dir.create("x", 0o600).unwrap_err().source.raw_os_error(), Some(5));
    assert!(!temp.path().join("x").exists());
}

#[test]
fn f2_after_a_failed_sync_no_sync_is_tried() {
    let hook = Arc::new(Fail(Mutex::default(), Some("SyncDir")));
    let (_temp, dir) = dir(hook.clone());
    let file = dir.create("x", 0o600).unwrap();
    file.sync_data().unwrap();
    assert!(dir.sync().is_err());
    assert!(dir.seam().poisoned());
    assert!(file.sync_data().is_err());
    assert_eq!(hook.0.lock().unwrap().iter().filter(|o| o.starts_with("SyncData")).count(), 1);
}

#[test]
fn names_cannot_leave_their_directory() {
    let (_temp, dir) = dir(Arc::default());
    for bad in ["", ".", "..", "a/b", "/etc", "a\0b"] {
        assert_eq!(dir.create(bad, 0o600).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        assert!(dir.unlink(bad).is_err());
        assert!(dir.rename(bad, &dir, "x").is_err());
    }
}

#[test]
fn replace_is_temp_sync_rename_sync() {
    let hook = Arc::new(Fail::default());
    let (temp, dir) = dir(hook.clone());
    dir.replace("t", "f", b"one", 0o600).unwrap();
    assert_eq!(std::fs::read(temp.path().join("f")).unwrap(), b"one");
    let verbs: Vec<String> = hook.0.lock().unwrap().iter().map(|o| o.split('(').next().unwrap().to_owned()).collect();
    assert_eq!(verbs, ["Create", "Write", "SyncData", "Rename", "SyncDir"]);
}

#[test]
fn a_fifo_or_a_link_is_no_file() {
    let (temp, dir) = dir(Arc::default());
    dir.mknod("fifo", rustix::fs::FileType::Fifo, 0o600, (0, 0)).unwrap();
    assert_eq!(dir.file("fifo").unwrap_err().kind(), io::ErrorKind::InvalidData);
    std::os::unix::fs::symlink("/etc/passwd", temp.path().join("link")).unwrap();
    assert!(dir.file("link").is_err());
    assert!(dir.dir("link").is_err());
}

#[test]
fn a_device_is_not_opened_to_find_out_that_it_is_one() {
    let (_temp, dir) = dir(Arc::default());
    // No driver has this number: open(2) would answer ENXIO.
    match dir.mknod("device", rustix::fs::FileType::CharacterDevice, 0o600, (4000, 4000)) {
        Ok(()) => {}
        Err(error) => return println!("skipped: {error}: {}", error.source),
    }
    for opened in [dir.file("device"), dir.file_rw("device")] {
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn remove_tree_takes_links_away_and_not_their_targets() {
    let (temp, dir) = dir(Arc::default());
    let keep = tempfile::tempdir().unwrap();
    std::fs::write(keep.path().join("kept"), b"x").unwrap();
    let deep = dir.mkdir("a", 0o700).unwrap().mkdir("b", 0o500).unwrap();
    deep.symlink(keep.path(), "out").unwrap();
    dir.remove_tree("a").unwrap();
    dir.remove_tree("a").unwrap();
    assert!(!temp.path().join("a").exists());
    assert!(keep.path().join("kept").exists());
}
