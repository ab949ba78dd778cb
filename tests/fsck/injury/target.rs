//! Where an injury strikes: one image of a store, its layers, and the tools for it.

use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde_json::Value;

/// Which layer of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// It has no parent, and another image has it too.
    Base,
    /// It has a parent and a child.
    Middle,
    /// No other layer has it as its parent.
    Top,
}

/// The image with the longest chain of layers.
#[derive(Debug, Clone)]
pub struct Target {
    pub root: PathBuf,
    /// Base first.
    pub chain: Vec<String>,
    pub image: String,
}

pub type Result<T> = std::result::Result<T, String>;

/// An error of the disk in words.
pub fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}

/// A text of a record.
pub fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The records of a table.
pub fn table(path: &Path) -> Result<Vec<Value>> {
    serde_json::from_slice(&at(path, fs::read(path))?).map_err(|error| format!("{}: {error}", path.display()))
}

impl Target {
    /// Looks for it in a sound store.
    pub fn find(root: &Path) -> Result<Self> {
        let layers = table(&root.join("overlay-layers/layers.json"))?;
        let images = table(&root.join("overlay-images/images.json"))?;
        let chain = |image: &Value| {
            let mut chain = Vec::new();
            let mut next = text(image, "layer");
            while let Some(layer) = layers.iter().find(|layer| text(layer, "id") == next) {
                chain.insert(0, next.to_owned());
                next = text(layer, "parent");
            }
            chain
        };
        let chains: Vec<(String, Vec<String>)> = images.iter().map(|image| (text(image, "id").to_owned(), chain(image))).collect();
        // The first of those with the most layers.
        let longest = chains.iter().rev().max_by_key(|(_, chain)| chain.len()).ok_or("the store has no image")?.clone();
        if longest.1.len() < 3 {
            return Err("no image has three layers".to_owned());
        }
        Ok(Self { root: root.to_owned(), chain: longest.1, image: longest.0 })
    }

    /// A layer's id.
    pub fn layer(&self, which: At) -> &str {
        let index = match which {
            At::Base => 0,
            At::Middle => 1,
            At::Top => self.chain.len() - 1,
        };
        &self.chain[index]
    }

    /// `overlay/<id>`.
    pub fn dir(&self, which: At) -> PathBuf {
        self.root.join("overlay").join(self.layer(which))
    }

    /// `overlay/<id>/diff`.
    pub fn diff(&self, which: At) -> PathBuf {
        self.dir(which).join("diff")
    }

    pub fn link(&self, which: At) -> Result<String> {
        let path = self.dir(which).join("link");
        at(&path, fs::read_to_string(&path))
    }

    /// The layer's entry in `overlay/l`.
    pub fn entry(&self, which: At) -> Result<PathBuf> {
        Ok(self.root.join("overlay/l").join(self.link(which)?))
    }

    pub fn split(&self, which: At) -> PathBuf {
        self.root.join("overlay-layers").join(format!("{}.tar-split.gz", self.layer(which)))
    }

    pub fn layers_json(&self) -> PathBuf {
        self.root.join("overlay-layers/layers.json")
    }

    pub fn images_json(&self) -> PathBuf {
        self.root.join("overlay-images/images.json")
    }

    /// Changes the records of a table.
    pub fn records(path: &Path, change: impl FnOnce(&mut Vec<Value>) -> Result<()>) -> Result<()> {
        let mut records = table(path)?;
        change(&mut records)?;
        let bytes = serde_json::to_vec(&records).map_err(|error| error.to_string())?;
        at(path, fs::write(path, bytes))
    }

    /// Changes the record with an id.
    pub fn record(path: &Path, id: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        Self::records(path, |records| {
            change(records.iter_mut().find(|record| text(record, "id") == id).ok_or("no such record")?);
            Ok(())
        })
    }

    /// Removes the record with an id.
    pub fn forget(path: &Path, id: &str) -> Result<()> {
        Self::records(path, |records| {
            let before = records.len();
            records.retain(|record| text(record, "id") != id);
            if records.len() < before { Ok(()) } else { Err(format!("{id} has no record")) }
        })
    }

    /// The first thing in the layers' trees that is meant, the middle layer's first: those have everything in the tests' own images.
    pub fn first(&self, wanted: impl Fn(&Path, &Metadata) -> bool) -> Result<PathBuf> {
        for which in [At::Middle, At::Base, At::Top] {
            let mut all = Vec::new();
            collect(&self.diff(which), &mut all)?;
            if let Some((path, _)) = all.into_iter().find(|(path, meta)| wanted(path, meta)) {
                return Ok(path);
            }
        }
        Err("the store has nothing of the kind".to_owned())
    }

    /// The largest regular file of the middle layer that has one name and is in no other layer.
    pub fn file(&self) -> Result<PathBuf> {
        let mut all = Vec::new();
        collect(&self.diff(At::Middle), &mut all)?;
        let plain = |meta: &Metadata| meta.is_file() && meta.nlink() == 1 && meta.len() > 0 && meta.mode() & 0o7000 == 0;
        let largest = all.into_iter().filter(|(_, meta)| plain(meta)).max_by_key(|(_, meta)| meta.len());
        largest.map(|(path, _)| path).ok_or_else(|| "the layer has no file".to_owned())
    }

    /// A file of the middle layer that another layer has too, byte for byte.
    pub fn twin(&self) -> Result<PathBuf> {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        collect(&self.diff(At::Middle), &mut own)?;
        collect(&self.diff(At::Base), &mut others)?;
        let bytes = |path: &Path| at(path, fs::read(path));
        for (path, meta) in own.iter().filter(|(_, meta)| meta.is_file() && meta.len() > 0) {
            for (other, seen) in others.iter().filter(|(_, seen)| seen.is_file()) {
                if seen.len() == meta.len() && bytes(path)? == bytes(other)? {
                    return Ok(path.clone());
                }
            }
        }
        Err("no file is in two layers".to_owned())
    }

    /// The names of one file with several, sorted.
    pub fn hard_links(&self) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        collect(&self.diff(At::Middle), &mut all)?;
        let inode = all.iter().find(|(_, meta)| meta.is_file() && meta.nlink() > 1).map(|(_, meta)| meta.ino());
        let inode = inode.ok_or("no file has two names")?;
        Ok(all.into_iter().filter(|(_, meta)| meta.ino() == inode).map(|(path, _)| path).collect())
    }
}

/// Everything below `dir`, parents first, sorted by name.
pub fn collect(dir: &Path, into: &mut Vec<(PathBuf, Metadata)>) -> Result<()> {
    let mut names = Vec::new();
    for entry in at(dir, fs::read_dir(dir))? {
        names.push(at(dir, entry)?.path());
    }
    names.sort();
    for path in names {
        let meta = at(&path, fs::symlink_metadata(&path))?;
        let is_dir = meta.is_dir();
        into.push((path.clone(), meta));
        if is_dir {
            collect(&path, into)?;
        }
    }
    Ok(())
}

/// Whether an extended attribute is there.
pub fn has_xattr(path: &Path, name: &str) -> bool {
    rustix::fs::lgetxattr(path, name, &mut [0_u8; 256][..]).is_ok()
}

/// The name of an attribute of `user.`.
pub fn user_xattr(path: &Path) -> Option<String> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).ok()?;
    names[..len].split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned()).find(|name| name.starts_with("user."))
}

/// Sets the times of what is at `path`, links not followed.
pub fn set_times(path: &Path, times: &Timestamps) -> Result<()> {
    at(path, utimensat(CWD, path, times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into))
}

/// The times as they are.
pub fn times(meta: &Metadata) -> Timestamps {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    Timestamps { last_access: time(meta.atime(), meta.atime_nsec()), last_modification: time(meta.mtime(), meta.mtime_nsec()) }
}

/// Does something to `path`, and neither its times nor those of its directory tell.
pub fn quietly(path: &Path, hurt: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().ok_or("no parent")?;
    let own = fs::symlink_metadata(path).ok().map(|meta| times(&meta));
    let above = times(&at(parent, fs::symlink_metadata(parent))?);
    hurt(path)?;
    if let (Some(own), true) = (&own, fs::symlink_metadata(path).is_ok()) {
        set_times(path, own)?;
    }
    set_times(parent, &above)
}

/// Changes the bytes of a file in its place: bits rot without a trace.
pub fn rot(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    quietly(path, |path| {
        let mut bytes = at(path, fs::read(path))?;
        let before = bytes.clone();
        change(&mut bytes);
        if bytes == before {
            return Err(format!("{}: nothing would change", path.display()));
        }
        at(path, fs::write(path, bytes))
    })
}

/// Other bytes, of the same number.
pub fn flip(path: &Path) -> Result<()> {
    rot(path, |bytes| {
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x20;
        }
    })
}

/// Empties a file, as a power cut does to one that was never synced.
pub fn empty(path: &Path) -> Result<()> {
    rot(path, Vec::clear)
}

/// The first half stays.
pub fn cut(path: &Path) -> Result<()> {
    rot(path, |bytes| bytes.truncate(bytes.len() / 2))
}

/// As many NULs.
pub fn nul(path: &Path) -> Result<()> {
    rot(path, |bytes| bytes.fill(0))
}

pub fn remove(path: &Path) -> Result<()> {
    quietly(path, |path| at(path, fs::remove_file(path)))
}

pub fn remove_all(path: &Path) -> Result<()> {
    quietly(path, |path| at(path, fs::remove_dir_all(path)))
}

/// A symlink with another text in the place of one.
pub fn relink(path: &Path, to: impl AsRef<Path>) -> Result<()> {
    quietly(path, |path| {
        let meta = at(path, fs::symlink_metadata(path))?;
        at(path, fs::remove_file(path))?;
        at(path, symlink(to, path))?;
        at(path, std::os::unix::fs::lchown(path, Some(meta.uid()), Some(meta.gid())))
    })
}

/// The lines of a tar-split.
pub fn lines(split: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    let file = at(split, fs::File::open(split))?;
    at(split, flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text))?;
    Ok(text.lines().map(str::to_owned).collect())
}
