//! Pure: no I/O. Who needs a layer or an image, and which layers nothing needs.
//!
//! As Go decides it (spec section 9): a layer goes only when no layer is built on it, no image has it as its top or a
//! mapped layer, it is no container's, and nothing has it mounted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use crate::ids::LayerId;
use crate::layout::{Tables, User, Users};
use crate::metadata::{Images, Layers, Loose};

/// Who needs something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A container or a mount.
    User(User),
    /// An image.
    Image {
        /// Its id.
        id: String,
    },
    /// A layer that is built on it.
    Child {
        /// Its id.
        id: String,
    },
    /// The transaction itself makes or uses it.
    Transaction,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Image { id } => write!(f, "image {id}"),
            Self::Child { id } => write!(f, "layer {id}, which is built on it"),
            Self::Transaction => f.write_str("this very transaction"),
        }
    }
}

/// Everything that can need a layer, from all the tables.
pub(super) struct Needs<'a> {
    children: HashMap<&'a str, Vec<&'a str>>,
    images: HashMap<&'a str, &'a str>,
    users: &'a Users,
    wanted: HashSet<&'a str>,
}

impl<'a> Needs<'a> {
    /// `layers` and `images` as they will be; volatile layers and users as they are.
    pub(super) fn of(layers: &'a Layers, images: &'a Images, tables: &'a Tables, users: &'a Users) -> Self {
        let mut needs = Self { children: HashMap::new(), images: HashMap::new(), users, wanted: HashSet::new() };
        for layer in layers.iter().chain(tables.volatile.iter()).filter(|layer| !layer.parent_text().is_empty()) {
            needs.children.entry(layer.parent_text()).or_default().push(layer.id_text());
        }
        for image in images.iter() {
            for layer in image.layer().into_iter().chain(image.mapped_layers()) {
                needs.images.insert(layer.as_str(), image.id_text());
            }
        }
        needs
    }

    /// The same, with layers that the transaction itself uses.
    pub(super) fn wanting(mut self, wanted: impl IntoIterator<Item = &'a LayerId>) -> Self {
        self.wanted.extend(wanted.into_iter().map(LayerId::as_str));
        self
    }

    /// Who needs a layer, apart from the layers in `gone`.
    fn holder(&self, id: &LayerId, gone: &HashSet<&str>) -> Option<Holder> {
        let text = id.as_str();
        if self.wanted.contains(text) {
            return Some(Holder::Transaction);
        }
        if let Some(image) = self.images.get(text) {
            return Some(Holder::Image { id: (*image).to_owned() });
        }
        if let Some(child) = self.children.get(text).into_iter().flatten().find(|child| !gone.contains(*child)) {
            return Some(Holder::Child { id: (*child).to_owned() });
        }
        self.users.of_layer(id).map(|user| Holder::User(user.clone()))
    }

    /// Which of these layers nothing needs once those that go are gone: children before parents. And who needs the others.
    pub(super) fn sift(&self, layers: &Layers, candidates: &[LayerId]) -> (Vec<LayerId>, HashMap<LayerId, Holder>) {
        let among: HashSet<&LayerId> = candidates.iter().collect();
        let mut gone: HashSet<&str> = HashSet::new();
        let mut free = Vec::new();
        let mut kept = HashMap::new();
        let mut queue: VecDeque<&LayerId> = candidates.iter().collect();
        while let Some(id) = queue.pop_front() {
            if gone.contains(id.as_str()) {
                continue;
            }
            if let Some(holder) = self.holder(id, &gone) {
                kept.insert(id.clone(), holder);
                continue;
            }
            kept.remove(id);
            gone.insert(id.as_str());
            free.push(id.clone());
            // Its parent may have waited for it: looked at once per child.
            let parent = layers.get(id).and_then(|layer| layer.parent()).and_then(Loose::known);
            queue.extend(parent.and_then(|parent| among.get(parent)).copied());
        }
        (free, kept)
    }
}

/// The layers of images: mapped ones, and the chains from the top to the base, each once.
pub(super) fn chains_of<'a>(layers: &Layers, images: impl IntoIterator<Item = &'a crate::metadata::Image>) -> Vec<LayerId> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for image in images {
        for first in image.mapped_layers().iter().chain(image.layer()) {
            let mut next = first.known().cloned();
            while let Some(id) = next {
                let Some(layer) = layers.get(&id) else { break };
                // A chain that was walked before, or one that a hostile table closes to a ring.
                if !seen.insert(id.clone()) {
                    break;
                }
                next = layer.parent().and_then(Loose::known).cloned();
                list.push(id);
            }
        }
    }
    list
}
