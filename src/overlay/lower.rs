//! Pure: no I/O. What `lower` and `lower-layers` of a layer say.

use std::sync::Arc;

use crate::ids::{LayerId, LinkId};

/// The ancestors of a layer, nearest first, each with its LINKID. A child's ancestry shares its parent's: the layers of an
/// image together need room in the number of layers, not in its square.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ancestry(Option<Arc<Parent>>);

#[derive(Debug, PartialEq, Eq)]
struct Parent {
    id: LayerId,
    link: LinkId,
    above: Ancestry,
}

impl Ancestry {
    fn iter(&self) -> impl Iterator<Item = &Parent> {
        std::iter::successors(self.0.as_deref(), |parent| parent.above.0.as_deref())
    }

    /// The nearest ancestor.
    pub fn parent(&self) -> Option<&LayerId> {
        self.0.as_ref().map(|parent| &parent.id)
    }

    /// The text of `lower`: `l/<LINKID>` joined by colons, nearest first, no newline (podman of every version).
    pub fn lower(&self) -> String {
        let parts: Vec<String> = self.iter().map(|parent| format!("l/{}", parent.link)).collect();
        parts.join(":")
    }

    /// The text of `lower-layers`: ids joined by colons, nearest first (storage 1.63 and newer, where it wins over `lower`).
    pub fn lower_layers(&self) -> String {
        let parts: Vec<&str> = self.iter().map(|parent| parent.id.as_str()).collect();
        parts.join(":")
    }

    /// The ancestry of a child of `parent`, whose own ancestry this is.
    pub fn child_of(&self, parent: LayerId, link: LinkId) -> Self {
        Self(Some(Arc::new(Parent { id: parent, link, above: self.clone() })))
    }

    /// Whether there are no ancestors: a base layer has neither file.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_parent_comes_first() {
        let (a, b): (LayerId, LayerId) = ("a".repeat(64).parse().unwrap(), "b".repeat(64).parse().unwrap());
        let (x, y): (LinkId, LinkId) = ("X".repeat(26).parse().unwrap(), "Y".repeat(26).parse().unwrap());
        let one = Ancestry::default().child_of(a.clone(), x.clone());
        let two = one.child_of(b.clone(), y.clone());
        assert_eq!(two.lower(), format!("l/{y}:l/{x}"));
        assert_eq!(two.lower_layers(), format!("{b}:{a}"));
        assert!(Ancestry::default().is_empty());
    }
}
