//! Who uses layers and images: containers and mounts, gathered once, asked as often as one likes.
//!
//! Invariants:
//! - U1: gathering looks at every record once and goes from a layer to its parent once, asking does neither, however deep
//!   the chains and however many their users.
//! - U2: whoever uses a layer uses all it is built on. Chains that run in circles and ids that come twice, each with
//!   a parent of its own, end too.
//! - U3: of several users the first is named: containers, volatile containers, mounts that podman counts, mounts of
//!   the kernel, each in the order of its file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::unix::fs::MetadataExt;

use super::{Layout, Tables};
use crate::fsio;
use crate::ids::{ImageId, LayerId, LinkId};

/// Somebody who uses a layer or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A container, running or not.
    Container {
        /// Its id.
        id: String,
        /// What the storage knows it by; podman's own name may be another.
        name: String,
    },
    /// A mount.
    Mount {
        /// Where.
        path: String,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { name, .. } => write!(f, "container {name}"),
            Self::Mount { path } => write!(f, "the mount at {path}"),
        }
    }
}

/// A layer directory of the store that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The directory's name in `overlay/`.
    pub layer: String,
    /// Where it is mounted, as the kernel writes it.
    pub path: String,
}

/// All users of one moment's tables.
#[derive(Debug, Clone, Default)]
pub struct Users {
    users: Vec<User>,
    /// The first user of a layer itself, and of it or one built on it.
    layers: HashMap<String, usize>,
    families: HashMap<String, usize>,
    images: HashMap<String, Vec<usize>>,
    /// How often a layer was come by while gathering.
    #[cfg(test)]
    visits: usize,
}

impl Users {
    /// Gathers the users out of the tables, and out of the mounts that the kernel knows.
    pub fn new(tables: &Tables, mounted: impl IntoIterator<Item = Mounted>) -> Self {
        let mut parents: HashMap<&str, Vec<&str>> = HashMap::new();
        for layer in tables.layers.iter().chain(tables.volatile.iter()).filter(|layer| layer.parent().is_some()) {
            parents.entry(layer.id_text()).or_default().push(layer.parent_text());
        }
        let mut users = Self::default();
        for container in tables.containers.iter().chain(tables.volatile_containers.iter()) {
            let user = users.add(User::Container { id: container.id().to_owned(), name: container.display_name().to_owned() });
            if let Some(layer) = container.layer() {
                users.take(layer.as_str(), user, &parents);
            }
            // As Go does, which finds a container by any of the three.
            for name in container.names().iter().map(String::as_str).chain([container.id()]) {
                users.layers.entry(name.to_owned()).or_insert(user);
            }
            if let Some(image) = container.image() {
                users.images.entry(image.as_str().to_owned()).or_default().push(user);
            }
        }
        let counted = tables.mounts.iter().filter(|mount| mount.count() > 0);
        let counted = counted.map(|mount| Mounted { layer: mount.id().to_string(), path: mount.path().to_owned() });
        for Mounted { layer, path } in counted.chain(mounted) {
            let user = users.add(User::Mount { path });
            users.take(&layer, user, &parents);
        }
        users
    }

    fn add(&mut self, user: User) -> usize {
        self.users.push(user);
        self.users.len() - 1
    }

    /// A user takes a layer, and with it everything it is built on that nobody has taken before. What is taken was
    /// taken with all below it, so that nothing below is come by again.
    fn take<'a>(&mut self, layer: &'a str, user: usize, parents: &HashMap<&'a str, Vec<&'a str>>) {
        self.layers.entry(layer.to_owned()).or_insert(user);
        let mut next = vec![layer];
        while let Some(layer) = next.pop() {
            #[cfg(test)]
            (self.visits += 1);
            if !self.families.contains_key(layer) {
                self.families.insert(layer.to_owned(), user);
                next.extend(parents.get(layer).into_iter().flatten());
            }
        }
    }

    /// Who uses this layer itself: the container whose layer it is or whose id or name it has, or a mount.
    pub fn of_layer(&self, id: &LayerId) -> Option<&User> {
        self.users.get(*self.layers.get(id.as_str())?)
    }

    /// Who uses this layer or one that is built on it, directly or not.
    pub fn of_family(&self, id: &LayerId) -> Option<&User> {
        self.users.get(*self.families.get(id.as_str())?)
    }

    /// The containers that were made from this image.
    pub fn of_image(&self, id: &ImageId) -> impl Iterator<Item = &User> {
        self.images.get(id.as_str()).into_iter().flatten().filter_map(|user| self.users.get(*user))
    }
}

/// The layers of this store that are mounted, in every mount namespace that this process can see: below their own directory, or
/// as part of an overlay. A store that others read as an additional one is mounted by them, and only the kernel knows.
///
/// # Errors
///
/// An unreadable `/proc/self/mountinfo`; what is unreadable of other processes is passed over.
pub fn mounted(layout: &Layout) -> fsio::Result<Vec<Mounted>> {
    let path = "/proc/self/mountinfo";
    let own = fs_err::read(path).map_err(|source| fsio::Error { call: "read", path: path.into(), source })?;
    let overlay = layout.overlay.path().display().to_string();
    // A LINKID is the layer's that its entry in `l/` leads to.
    let owner = |link: &LinkId| {
        let target = layout.links.read_link(link.as_str()).ok()?;
        target.to_str()?.strip_prefix("../")?.strip_suffix("/diff").map(str::to_owned)
    };
    // Several stores hold layers of one id, and copies of a store even those of one LINKID. What cannot be looked at from here may
    // be this store under another name.
    let here = fs_err::metadata(layout.overlay.path()).map(|meta| (meta.dev(), meta.ino())).ok();
    let is_ours = |root: &str, home: &str| {
        let there = fs_err::metadata(format!("{root}{}", unescape(home))).map(|meta| (meta.dev(), meta.ino())).ok();
        there.is_none() || here.is_none() || there == here
    };
    let mut list = parse(&own, &overlay, owner, |home| is_ours("", home));
    for process in other_namespaces() {
        if let Ok(text) = fs_err::read(format!("{process}/mountinfo")) {
            // Paths there begin at that process's root.
            list.extend(parse(&text, &overlay, owner, |home| is_ours(&format!("{process}/root"), home)));
        }
    }
    Ok(list)
}

/// What the kernel writes instead of these characters.
const ESCAPES: [(char, &str); 4] = [('\\', "\\134"), (' ', "\\040"), ('\t', "\\011"), ('\n', "\\012")];

fn unescape(path: &str) -> String {
    // The backslash last: it is part of the others.
    ESCAPES.iter().rev().fold(path.to_owned(), |path, (char, code)| path.replace(code, &char.to_string()))
}

/// The `overlay/` that a part of an overlay's options lies in: its own path tells, or, where that is relative, the mount point.
fn home_of<'a>(part: &'a str, word: &str, point: &'a str) -> Option<&'a str> {
    if part.starts_with('/') {
        let before = part.get(..part.find(word)?)?.strip_suffix('/')?;
        return Some(before.strip_suffix("/l").unwrap_or(before));
    }
    point.strip_suffix("/merged")?.rsplit_once('/').map(|(home, _)| home)
}

/// A process in each mount namespace but our own: its directory in `/proc`.
fn other_namespaces() -> Vec<String> {
    let namespace = |process: &str| fs_err::metadata(format!("/proc/{process}/ns/mnt")).map(|meta| (meta.dev(), meta.ino())).ok();
    let own = namespace("self");
    let mut seen = BTreeMap::new();
    for process in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        if let Some(namespace) = namespace(pid).filter(|namespace| Some(*namespace) != own) {
            seen.entry(namespace).or_insert_with(|| format!("/proc/{pid}"));
        }
    }
    seen.into_values().collect()
}

/// The layers in a text such as mountinfo(5): mounts below `overlay`, and what overlays name in their options, by the layer's
/// id or by its LINKID, of a store that `is_ours` says may be this one.
fn parse(text: &[u8], overlay: &str, owner: impl Fn(&LinkId) -> Option<String>, is_ours: impl Fn(&str) -> bool) -> Vec<Mounted> {
    // Other people's mount points may be no UTF-8; they are none of this store's layers.
    let text = String::from_utf8_lossy(text);
    // As the kernel writes it there.
    let overlay = ESCAPES.iter().fold(overlay.to_owned(), |path, (char, code)| path.replace(*char, code));
    let mut list = Vec::new();
    for line in text.lines() {
        let Some(point) = line.split(' ').nth(4) else { continue };
        let mut add = |layer: String| list.push(Mounted { layer, path: point.to_owned() });
        if let Some(member) = point.strip_prefix(&overlay).and_then(|rest| rest.strip_prefix('/')?.split('/').next()) {
            add(member.to_owned());
        }
        let options = line.split_once(" - overlay ").map_or("", |(_, rest)| rest);
        for part in options.split([',', ':', '=']) {
            for word in part.split(|c: char| !c.is_ascii_alphanumeric()) {
                let layer = match word.parse::<LinkId>() {
                    Ok(link) => owner(&link),
                    Err(_) => word.parse::<LayerId>().is_ok().then(|| word.to_owned()),
                };
                if let Some(layer) = layer
                    && home_of(part, word, point).is_none_or(&is_ours)
                {
                    add(layer);
                }
            }
        }
    }
    list
}

#[cfg(test)]
mod tests;
