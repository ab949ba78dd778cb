//! Making and reading `overlay/<id>/`.

use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Ancestry, Seal};
use crate::fsio::{self, Dir, Kind, optional};
use crate::ids::{LayerId, LinkId};

/// The identity of a directory tree on one filesystem: a tree made anew under the same name has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeId {
    /// Inode number of the tree's root.
    pub inode: u64,
    /// Birth time: seconds and nanoseconds, where the filesystem keeps it.
    pub birth: Option<(i64, u32)>,
}

impl TreeId {
    /// The identity of an open directory.
    ///
    /// # Errors
    ///
    /// That of statx(2).
    pub fn of(dir: &Dir) -> fsio::Result<Self> {
        let meta = dir.own_meta()?;
        Ok(Self { inode: meta.inode, birth: meta.birth })
    }
}

/// The LINKID of a layer directory: `Ok(None)` where there is no `link` or it is not readable as one.
///
/// # Errors
///
/// Those of the disk.
pub fn read_link_id(layer: &Dir) -> fsio::Result<Option<LinkId>> {
    match layer.read("link", 256) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok())),
        Err(error) if error.not_found() || error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a LINKID that a layer's `link` names is another layer's: its entry in `l/` leads there, and that layer says so too.
pub fn is_foreign(overlay: &Dir, links: &Dir, id: &LayerId, link: &LinkId) -> bool {
    let Ok(target) = links.read_link(link.as_str()) else { return false };
    let owner = target.to_str().and_then(|text| text.strip_prefix("../")?.strip_suffix("/diff")?.parse::<LayerId>().ok());
    match owner.filter(|owner| owner != id) {
        Some(owner) => overlay.dir(owner.as_str()).and_then(|dir| read_link_id(&dir)).is_ok_and(|seen| seen.as_ref() == Some(link)),
        None => false,
    }
}

/// What stands on disk under a layer's id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether anything stands at `overlay/<id>`.
    pub exists: bool,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its LINKID, if `link` is readable as one.
    pub link: Option<LinkId>,
    /// The identity of `diff/`, if it is a directory.
    pub tree: Option<TreeId>,
    /// The seal, if there is a readable one.
    pub seal: Option<Seal>,
    /// The text of `lower`, if there is one.
    pub lower: Option<String>,
    /// The text of `lower-layers`, if there is one.
    pub lower_layers: Option<String>,
    /// Whether `l/<link>` is a link to this layer's `diff`.
    pub linked: bool,
    /// Whether there is a `diff<N>`: older contents below `diff` that an id mapping made.
    pub rotated: bool,
}

impl Facts {
    /// Reads them. Nothing here follows a link or waits for a fifo.
    ///
    /// # Errors
    ///
    /// Those of the disk; what is missing is no error.
    pub fn read(overlay: &Dir, links: &Dir, id: &LayerId) -> fsio::Result<Self> {
        match overlay.meta(id.as_str())? {
            None => return Ok(Self::default()),
            Some(meta) if meta.kind != Kind::Dir => return Ok(Self { exists: true, ..Self::default() }),
            Some(_) => {}
        }
        let Some(dir) = optional(overlay.dir(id.as_str()))? else { return Ok(Self::default()) };
        // A LINKID is the layer's that its entry leads to: one that is another layer's says nothing here.
        let link = read_link_id(&dir)?.filter(|link| !is_foreign(overlay, links, id, link));
        let text = |name: &str| -> fsio::Result<Option<String>> {
            match dir.read(name, 1 << 20) {
                Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
                Err(error) if error.not_found() => Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP) => Ok(Some(String::new())),
                Err(error) => Err(error),
            }
        };
        let tree = match dir.meta("diff")? {
            Some(meta) if meta.kind == Kind::Dir => Some(TreeId { inode: meta.inode, birth: meta.birth }),
            _ => None,
        };
        let linked = match &link {
            Some(link) => match links.read_link(link.as_str()) {
                Ok(target) => target == link_target(id),
                Err(_) => false,
            },
            None => false,
        };
        let seal = match dir.read(super::SEAL, Seal::LIMIT) {
            Ok(bytes) => Seal::parse(&bytes).ok(),
            Err(error) if error.not_found() || error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP) => None,
            Err(error) => return Err(error),
        };
        let rotated = dir.names()?.iter().filter_map(|n| n.to_str()).any(is_rotated);
        Ok(Self {
            exists: true,
            directory: true,
            tree,
            seal,
            lower: text("lower")?,
            lower_layers: text("lower-layers")?,
            linked,
            rotated,
            link,
        })
    }

    /// Whether `lower` and `lower-layers` say just this ancestry (`lower-layers` may be absent: older podman).
    pub fn agrees(&self, ancestry: &Ancestry) -> bool {
        let want = |text: String| if ancestry.is_empty() { None } else { Some(text) };
        self.lower == want(ancestry.lower()) && (self.lower_layers.is_none() || self.lower_layers == want(ancestry.lower_layers()))
    }
}

fn is_rotated(name: &str) -> bool {
    name.strip_prefix("diff").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The text of the symlink `l/<LINKID>`: exactly `../<id>/diff`; the newest podman takes the id out of it.
pub fn link_target(id: &LayerId) -> PathBuf {
    PathBuf::from(format!("../{id}/diff"))
}

/// A layer directory being made.
#[derive(Debug, Clone)]
pub struct LayerDir {
    /// The directory.
    pub dir: Dir,
    /// `diff/`, where the contents go; mode 0755 until they are there.
    pub diff: Dir,
}

impl LayerDir {
    /// Makes `<name>/` with everything but contents: `diff`, `link`, `lower`, `lower-layers`, `work`, and `merged`
    /// or, without a parent, `empty` too.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn create(parent: &Dir, name: &str, link: &LinkId, ancestry: &Ancestry) -> fsio::Result<Self> {
        let dir = parent.mkdir(name, 0o700)?;
        let diff = dir.mkdir("diff", 0o755)?;
        dir.create("link", 0o644)?.append(link.as_str().as_bytes())?;
        dir.mkdir("work", 0o700)?;
        dir.mkdir("merged", 0o700)?;
        let made = Self { dir, diff };
        if ancestry.is_empty() {
            made.dir.mkdir("empty", 0o700)?;
        } else {
            made.dir.create("lower", 0o644)?.append(ancestry.lower().as_bytes())?;
            made.dir.create("lower-layers", 0o644)?.append(ancestry.lower_layers().as_bytes())?;
        }
        Ok(made)
    }

    /// The names that [`LayerDir::create`] makes.
    pub fn names(ancestry: &Ancestry) -> Vec<&'static str> {
        let own: &[&str] = if ancestry.is_empty() { &["empty"] } else { &["lower", "lower-layers"] };
        ["diff", "link", "work", "merged"].iter().chain(own).copied().collect()
    }

    /// Writes `lower` and `lower-layers` anew, durably: a parent got another LINKID after this layer was staged
    /// and synced.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn rewrite_lower(dir: &Dir, ancestry: &Ancestry) -> fsio::Result<()> {
        for (name, text) in [("lower", ancestry.lower()), ("lower-layers", ancestry.lower_layers())] {
            let temp = format!(".{name}.new");
            dir.write_temp(&temp, text.as_bytes(), 0o644)?;
            dir.rename(&temp, dir, name)?;
        }
        dir.sync()
    }
}
