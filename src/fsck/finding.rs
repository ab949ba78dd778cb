//! What fsck finds, says and does about it.

use super::Code;
use super::fix::Fix;
use crate::ids::{ImageId, LayerId};

/// What a repair takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// The store holds all that is needed: `--repair`.
    Offline,
    /// Bytes must come from elsewhere, by digest: `--refetch`.
    Refetch,
    /// It cannot be healed; it can be dropped: `--prune`.
    Prune,
    /// It is no damage.
    None,
    /// It is damage that fsck does not repair.
    Report,
}

impl Repair {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Refetch => "refetch",
            Self::Prune => "prune",
            Self::None => "none",
            Self::Report => "report",
        }
    }
}

/// What became of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was only looked at, or no repair was wanted that would help.
    Found,
    /// It is healed, without loss.
    Healed,
    /// It was dropped.
    Dropped,
    /// A repair was tried and did not help.
    Failed,
    /// Something was in use, and was left as it was.
    Busy,
}

impl Outcome {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Healed => "healed",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
            Self::Busy => "busy",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// The layer it is of.
    pub layer: Option<String>,
    /// The image it is of.
    pub image: Option<String>,
    /// The images that it touches: a name of each, or its id.
    pub images: Vec<String>,
    /// Where, from the graph root on.
    pub path: Option<String>,
    /// What should be there.
    pub expected: Option<String>,
    /// What is there.
    pub seen: Option<String>,
    /// Bytes that would be freed, of what nothing needs.
    pub bytes: Option<u64>,
    /// What a repair takes.
    pub repair: Repair,
    /// What was done, or would have to be.
    pub action: String,
    /// What became of it.
    pub result: Outcome,
    /// Why it was not healed.
    pub why: Option<String>,
    pub(super) fix: Fix,
}

impl Finding {
    pub(super) fn new(code: Code, repair: Repair, fix: Fix, action: impl Into<String>) -> Self {
        Self {
            code,
            layer: None,
            image: None,
            images: Vec::new(),
            path: None,
            expected: None,
            seen: None,
            bytes: None,
            repair,
            action: action.into(),
            result: Outcome::Found,
            why: None,
            fix,
        }
    }

    pub(super) fn report(code: Code, action: impl Into<String>) -> Self {
        Self::new(code, Repair::Report, Fix::None, action)
    }

    pub(super) fn layer(mut self, id: impl ToString) -> Self {
        self.layer = Some(id.to_string());
        self
    }

    pub(super) fn image(mut self, id: impl ToString) -> Self {
        self.image = Some(id.to_string());
        self
    }

    pub(super) fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    pub(super) fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    pub(super) fn seen(mut self, text: impl Into<String>) -> Self {
        self.seen = Some(text.into());
        self
    }

    pub(super) fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// What tells it from every other finding of one moment.
    pub(super) fn key(&self) -> Key {
        Key { code: self.code, object: self.layer.clone().or_else(|| self.image.clone()), path: self.path.clone() }
    }

    /// Whether it says that something is damaged.
    pub fn is_damage(&self) -> bool {
        self.repair != Repair::None
    }

    /// The layer's id, if it is one.
    pub(super) fn layer_id(&self) -> Option<LayerId> {
        self.layer.as_ref()?.parse().ok()
    }

    /// The image's id, if it is one.
    pub(super) fn image_id(&self) -> Option<ImageId> {
        self.image.as_ref()?.parse().ok()
    }
}

/// What tells a finding from every other of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub code: Code,
    pub object: Option<String>,
    pub path: Option<String>,
}
