//! The verbs on names: what has a name keeps it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

use cstor_rs::fsio::{Dir, Seam};
use rustix::io::Errno;

type Made = (&'static str, fn(&Path));

#[test]
fn what_has_a_name_is_neither_made_anew_nor_renamed_over() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path(), Seam::default()).unwrap();
    let there: &[Made] = &[
        ("file", |path| fs::write(path, "there").unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("link", |path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
    ];
    fs::write(temp.path().join("new"), "new").unwrap();
    for (name, make) in there {
        make(&temp.path().join(name));
        for refused in [dir.create(name, 0o600).err(), dir.mkdir(name, 0o700).err(), dir.rename_new("new", &dir, name).err()] {
            assert!(refused.as_ref().is_some_and(|error| error.is(Errno::EXIST)), "{name}: {refused:?}");
        }
    }
    assert_eq!(fs::read(temp.path().join("file")).unwrap(), b"there");
    assert_eq!(fs::read(temp.path().join("new")).unwrap(), b"new");
    assert!(!temp.path().join("nowhere").exists());
}
