//! Pure: no I/O. What transactions that could not be ended yet hold on to.

use std::collections::HashSet;

use crate::ids::{ImageId, LayerId};
use crate::plan::{Intent, NameClaim, Step};

/// The objects that pending transactions hold on to: no plan may touch them, so that pending intents are disjoint.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pins {
    /// Layers: new, reused, every parent in their chains, and those that are to go.
    pub layers: HashSet<LayerId>,
    /// Layers that are to go.
    pub going: HashSet<LayerId>,
    /// Images.
    pub images: HashSet<ImageId>,
    /// Names, and the images they are taken from.
    pub names: HashSet<String>,
    /// The highest sequence number among them.
    pub seq: u64,
    /// An intent that this program cannot read: it may hold on to anything.
    pub everything: bool,
}

impl Pins {
    pub(super) fn add(&mut self, intent: Option<&Intent>) {
        let Some(intent) = intent else {
            self.everything = true;
            return;
        };
        self.seq = self.seq.max(intent.seq);
        self.layers.extend(intent.layers.iter().map(|put| put.id.clone()));
        self.going.extend(intent.removals.iter().map(|gone| gone.id.clone()));
        self.layers.extend(self.going.iter().cloned());
        for step in &intent.steps {
            match step {
                Step::Heal { id, .. } | Step::Restore { id, .. } => drop(self.layers.insert(id.clone())),
                Step::Mend(mend) => {
                    self.layers.extend(mend.layer().cloned());
                    self.images.extend(mend.image().cloned());
                }
                _ => {}
            }
        }
        self.layers.extend(intent.puts().flat_map(|put| &put.chain).map(|(id, _)| id.clone()));
        for change in &intent.images {
            self.images.insert(change.id().clone());
            for claim in change.claims() {
                self.names.insert(claim.name.clone());
                self.images.extend(claim.from.clone());
            }
        }
    }

    /// What of an intent is held on to, in words.
    pub fn conflict(&self, intent: &Intent) -> Option<String> {
        if self.everything {
            return Some("an intent that this program cannot read".to_owned());
        }
        // A chain that is only built on may be shared; what it is made of may not change. One that is to go may not be built on.
        let healed = intent.steps.iter().filter_map(|step| match step {
            Step::Heal { id, .. } | Step::Restore { id, .. } | Step::Displace { id, .. } => Some(id),
            Step::Mend(mend) => mend.layer(),
            _ => None,
        });
        let mended = intent.steps.iter().filter_map(|step| match step {
            Step::Mend(mend) => mend.image(),
            _ => None,
        });
        if let Some(id) = mended.into_iter().find(|id| self.images.contains(*id)) {
            return Some(format!("image {id}"));
        }
        let gone = intent.removals.iter().map(|gone| &gone.id);
        let built_on = intent.puts().flat_map(|put| &put.chain).map(|(id, _)| id).filter(|id| self.going.contains(*id));
        let layers = intent.layers.iter().map(|put| &put.id).chain(healed).chain(gone).filter(|id| self.layers.contains(*id));
        if let Some(id) = layers.chain(built_on).next() {
            return Some(format!("layer {id}"));
        }
        for change in &intent.images {
            if self.images.contains(change.id()) {
                return Some(format!("image {}", change.id()));
            }
            let taken =
                |claim: &&NameClaim| self.names.contains(&claim.name) || claim.from.as_ref().is_some_and(|from| self.images.contains(from));
            if let Some(claim) = change.claims().iter().find(taken) {
                return Some(format!("the name {}", claim.name));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ImageChange, ImagePut, LayerPut, LayerRemoval};

    fn layer(c: &str) -> LayerId {
        c.repeat(64).parse().unwrap()
    }

    fn image(c: &str) -> ImageId {
        c.repeat(64).parse().unwrap()
    }

    fn put(id: &str, chain: &[&str], names: &[(&str, &str)]) -> Intent {
        let link = || "A".repeat(26).parse().unwrap();
        let claim = |(name, from): &(&str, &str)| NameClaim { name: (*name).to_owned(), from: Some(image(from)) };
        let put = ImagePut {
            id: image(id),
            record: String::new(),
            names: names.iter().map(claim).collect(),
            chain: chain.iter().map(|c| (layer(c), link())).collect(),
            data: vec![],
            seen: None,
        };
        Intent { images: vec![ImageChange::Put(put)], ..Intent::default() }
    }

    fn removing(c: &str) -> Intent {
        let removals = vec![LayerRemoval { id: layer(c), link: None }];
        Intent { images: vec![ImageChange::Remove { id: image(c), names: vec![], tree: None }], removals, ..Intent::default() }
    }

    /// What a pending transaction is to remove may neither be built on nor removed by another; what it only builds on may be
    /// built on, and not removed.
    #[test]
    fn what_a_pending_transaction_needs_or_removes_is_held() {
        let new = |c: &str| Intent {
            layers: vec![LayerPut { id: layer(c), link: "A".repeat(26).parse().unwrap(), record: String::new() }],
            ..Intent::default()
        };
        let only_layer = |c: &str| Intent { images: vec![], ..removing(c) };
        let (built, gone) = (put("a", &["1", "2"], &[("n", "b")]), removing("3"));
        let table: &[(&Intent, Intent, bool)] = &[
            (&built, put("c", &["1", "2"], &[]), false),
            (&built, only_layer("2"), true),
            (&built, new("1"), true),
            (&built, put("a", &[], &[]), true),
            (&built, put("c", &[], &[("n", "d")]), true),
            (&built, put("c", &[], &[("m", "b")]), true),
            (&built, put("c", &[], &[("m", "d")]), false),
            (&built, removing("b"), true),
            (&gone, put("c", &["3"], &[]), true),
            (&gone, only_layer("3"), true),
            (&gone, new("3"), true),
            (&gone, put("3", &[], &[]), true),
            (&gone, put("c", &["4"], &[]), false),
        ];
        for (pending, wanted, held) in table {
            let mut pins = Pins::default();
            pins.add(Some(pending));
            assert_eq!(pins.conflict(wanted).is_some(), *held, "{pending:?}\n{wanted:?}");
        }
        let mut pins = Pins::default();
        pins.add(None);
        assert!(pins.conflict(&Intent::default()).is_some());
    }
}
