//! What the members of a tar come to when one is applied after the other, without a disk.
//!
//! Needed where a path is named twice, where a member lies behind a link of the layer, and to tell for something that
//! differs whether a later member made it so. About 40 bytes a path.

use std::collections::HashMap;

use super::keys::Keys;
use crate::extract::path::{Cleaned, Whiteout};
use crate::extract::resolve;
use crate::fsio::{self, Dir};
use crate::tarsplit::{Entry, EntryKind};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A directory that only the paths of others name.
    Implied,
    Dir,
    Link,
    Leaf,
    Whiteout,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The last member that put something here or changed its attributes.
    any: u32,
    /// The last member, plus one, that took away what was here; 0 for none.
    removal: u32,
    /// Members that share this one's inode; 0 for none.
    group: u32,
    what: What,
    opaque: bool,
    /// Several members gave the directory attributes.
    merged: bool,
}

impl Node {
    fn new(index: u32, removal: u32, what: What) -> Self {
        Self { any: index, removal, group: 0, what, opaque: false, merged: false }
    }
}

/// What becomes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A later member removed it, or it never came to be.
    Gone,
    /// It is there; a later member gave its attributes.
    Superseded,
    /// It is there, and its header says what it is.
    Last { opaque: Option<bool>, merged: bool },
    /// It is one of several names.
    Shared(u32),
}

/// The outcome of a whole tar.
#[derive(Default)]
pub(super) struct Plan {
    keys: Keys,
    nodes: HashMap<u64, Node>,
    /// The last member of each group: what its header says holds for all names of the inode.
    groups: Vec<u32>,
    /// Whether members lie behind links, and whether links were replaced: where such a link led is not known any more.
    behind_links: bool,
    links_gone: bool,
}

impl Plan {
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The last member of a group.
    pub(super) fn last_of(&self, group: u32) -> u32 {
        (group as usize).checked_sub(1).and_then(|at| self.groups.get(at)).copied().unwrap_or_default()
    }

    /// Whether a link of the layer is on the way to a path.
    fn is_behind_link(&self, path: &Cleaned) -> bool {
        let mut chain = self.keys.chain(path);
        chain.pop();
        chain.iter().any(|key| self.nodes.get(key).is_some_and(|node| node.what == What::Link))
    }

    /// The path that a member's name leads to: where links of the layer are on the way, what is on disk says where.
    fn place(&self, root: &Dir, path: Cleaned) -> fsio::Result<Cleaned> {
        if !self.is_behind_link(&path) {
            return Ok(path);
        }
        let Some((parent, name)) = path.split() else { return Ok(Cleaned::default()) };
        Ok(resolve::canonical(root, &parent)?.join(&name))
    }

    /// The node at a path, if no later member removed what it lies in.
    fn alive(&self, chain: &[u64]) -> Option<&Node> {
        let (own, above) = chain.split_last()?;
        let node = self.nodes.get(own)?;
        let removed = above.iter().any(|key| self.nodes.get(key).is_none_or(|above| above.removal > node.any.saturating_add(1)));
        (!removed).then_some(node)
    }

    /// Whether something of the tar stands at a path, or may.
    pub(super) fn has(&self, chain: &[u64]) -> bool {
        self.behind_links && self.links_gone || self.alive(chain).is_some()
    }

    /// Applies a member.
    pub(super) fn apply(&mut self, root: &Dir, index: u32, entry: &Entry) -> fsio::Result<()> {
        let Some((parent, name)) = Cleaned::of(&entry.name).and_then(Cleaned::split) else { return Ok(()) };
        if entry.kind == EntryKind::GlobalHeader {
            return Ok(());
        }
        let plain = parent.clone().join(&name);
        let (name, what) = match Whiteout::parse(&name) {
            Some(Whiteout::Of(hidden)) => (hidden.to_owned(), What::Whiteout),
            _ => (name, Self::what(entry)),
        };
        let path = parent.join(&name);
        self.behind_links |= self.is_behind_link(&path);
        let chain = self.keys.chain(&self.place(root, path)?);
        let Some((own, above)) = chain.split_last() else { return Ok(()) };
        if !self.imply(index, &chain) {
            return Ok(());
        }
        if name == ".wh..wh..opq" || what == What::Whiteout {
            // Where overlay is a program (fuse-overlayfs), it is a file.
            if let Some(own) = self.keys.chain(&self.place(root, plain)?).pop() {
                self.nodes.entry(own).or_insert(Node::new(index, 0, What::Leaf));
            }
        }
        if name == ".wh..wh..opq" {
            if let Some(node) = above.last().and_then(|key| self.nodes.get_mut(key)) {
                node.opaque = true;
            }
            return Ok(());
        }
        let before = self.alive(&chain).copied();
        self.links_gone |= before.is_some_and(|node| node.what == What::Link);
        let merges = what == What::Dir && before.is_some_and(|node| matches!(node.what, What::Implied | What::Dir));
        let mut node = Node::new(index, index.saturating_add(1), what);
        if let Some(old) = before.filter(|_| merges) {
            node = Node { removal: old.removal, opaque: old.opaque, merged: old.what == What::Dir, ..node };
        }
        if entry.kind == EntryKind::HardLink && what != What::Whiteout {
            (node.group, node.what) = self.share(root, index, entry)?;
        }
        self.nodes.insert(*own, node);
        Ok(())
    }

    fn what(entry: &Entry) -> What {
        match entry.kind {
            EntryKind::Dir => What::Dir,
            EntryKind::Symlink => What::Link,
            _ => What::Leaf,
        }
    }

    /// Makes the directories that a path leads through. `false`: something else is on the way, and hides what is below.
    fn imply(&mut self, index: u32, chain: &[u64]) -> bool {
        let Some((_, above)) = chain.split_last() else { return true };
        // The last removal of anything so far on the way: what is older than that is gone.
        let mut removal = 0;
        for key in above {
            match self.nodes.get(key).filter(|node| removal <= node.any.saturating_add(1)) {
                // Behind a link that leads nowhere, its name is all that is known.
                Some(node) if matches!(node.what, What::Implied | What::Dir | What::Link) => removal = removal.max(node.removal),
                Some(_) => return false,
                None => {
                    self.nodes.insert(*key, Node::new(index, 0, What::Implied));
                }
            }
        }
        true
    }

    /// Puts a hard link into the group of its target; what the target is, the link is too.
    fn share(&mut self, root: &Dir, index: u32, entry: &Entry) -> fsio::Result<(u32, What)> {
        let Some(target) = Cleaned::of(&entry.link) else { return Ok((0, What::Leaf)) };
        let chain = self.keys.chain(&self.place(root, target)?);
        let Some(node) = self.alive(&chain).copied() else { return Ok((0, What::Leaf)) };
        let group = if node.group == 0 {
            self.groups.push(index);
            let group = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
            if let Some(target) = chain.last().and_then(|own| self.nodes.get_mut(own)) {
                target.group = group;
            }
            group
        } else {
            node.group
        };
        if let Some(last) = (group as usize).checked_sub(1).and_then(|at| self.groups.get_mut(at)) {
            *last = index;
        }
        Ok((group, node.what))
    }

    /// What became of the member `index`, whose path leads to `parent` and `name`.
    pub(super) fn role(&self, root: &Dir, index: u32, path: &Cleaned) -> fsio::Result<Role> {
        let chain = self.keys.chain(&self.place(root, path.clone())?);
        let Some((own, above)) = chain.split_last() else { return Ok(Role::Gone) };
        let later = |key: &u64| self.nodes.get(key).is_none_or(|node| node.removal > index.saturating_add(1));
        let Some(node) = self.nodes.get(own) else { return Ok(Role::Gone) };
        if above.iter().any(later) || later(own) || node.any < index {
            return Ok(Role::Gone);
        }
        Ok(match node.group {
            0 if node.any == index => Role::Last { opaque: Some(node.opaque), merged: node.merged },
            0 => Role::Superseded,
            group => Role::Shared(group),
        })
    }

    /// Whether the opaque mark that the member `index` put on the directory `path` is still due.
    pub(super) fn opaque(&self, root: &Dir, index: u32, path: &Cleaned) -> fsio::Result<bool> {
        let chain = self.keys.chain(&self.place(root, path.clone())?);
        Ok(chain
            .iter()
            .all(|key| self.nodes.get(key).is_some_and(|node| node.removal <= index && !matches!(node.what, What::Leaf | What::Whiteout))))
    }

    /// Whether two paths are names of one inode when all is done.
    pub(super) fn linked(&self, root: &Dir, target: Cleaned, group: u32) -> fsio::Result<bool> {
        let chain = self.keys.chain(&self.place(root, target)?);
        Ok(group != 0 && self.alive(&chain).is_some_and(|node| node.group == group))
    }
}
