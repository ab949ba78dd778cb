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
            _ => None,
        });
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
