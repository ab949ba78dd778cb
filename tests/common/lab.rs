//! A place where one layer is unpacked.

#![allow(dead_code)]

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cstor_rs::extract::{self, Options};
use cstor_rs::fsio::{Dir, File, Hook, NoHook, Seam};

pub struct Lab {
    temp: tempfile::TempDir,
}

impl Lab {
    /// An unpacked layer, in a directory that goes with it.
    pub fn with(tar: &[u8]) -> Self {
        let lab = Self { temp: tempfile::tempdir().unwrap() };
        for name in ["diff", "spill", "side"] {
            fs::create_dir(lab.path(name)).unwrap();
        }
        let cancelled = AtomicBool::new(false);
        let options = Options { blob_bytes: None, max_bytes: 1 << 40, cancelled: &cancelled, progress: &|_| {} };
        extract::layer(tar, &lab.dir("diff"), &lab.dir("spill"), &lab.dir("side"), "split", &options).unwrap();
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn dir(&self, name: &str) -> Dir {
        self.dir_with(name, Arc::new(NoHook))
    }

    pub fn dir_with(&self, name: &str, hook: Arc<dyn Hook>) -> Dir {
        Dir::open(&self.path(name), Seam::new(hook)).unwrap()
    }

    pub fn split(&self) -> File {
        self.dir("side").file("split").unwrap()
    }
}

/// Everything below a directory, and it, with what lstat tells; what is in a directory comes after it.
pub fn paths(root: &Path) -> Vec<(PathBuf, Metadata)> {
    let meta = root.symlink_metadata().unwrap();
    let is_dir = meta.is_dir();
    let mut list = vec![(root.to_owned(), meta)];
    if is_dir {
        let mut names: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        list.extend(names.iter().flat_map(|path| paths(path)));
    }
    list
}
