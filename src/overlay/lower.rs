//! Pure: no I/O. What `lower` and `lower-layers` of a layer say.

use crate::ids::{LayerId, LinkId};

/// The ancestors of a layer, nearest first, each with its LINKID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ancestry(pub Vec<(LayerId, LinkId)>);

impl Ancestry {
    /// The text of `lower`: `l/<LINKID>` joined by colons, nearest first, no newline (podman of every version).
    pub fn lower(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|(_, link)| format!("l/{link}")).collect();
        parts.join(":")
    }

    /// The text of `lower-layers`: ids joined by colons, nearest first (storage 1.63 and newer, where it wins over `lower`).
    pub fn lower_layers(&self) -> String {
        let parts: Vec<&str> = self.0.iter().map(|(id, _)| id.as_str()).collect();
        parts.join(":")
    }

    /// The ancestry of a child of `parent`, whose own ancestry this is.
    pub fn child_of(&self, parent: LayerId, link: LinkId) -> Self {
        let mut list = Vec::with_capacity(self.0.len() + 1);
        list.push((parent, link));
        list.extend(self.0.iter().cloned());
        Self(list)
    }

    /// Whether there are no ancestors: a base layer has neither file.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
