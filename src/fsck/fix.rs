//! What is to be done about a finding.

use crate::ids::{ImageId, LayerId, LinkId};
use crate::plan::Mend;

/// A repair, as a check proposes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Fix {
    /// Nothing that fsck does.
    #[default]
    None,
    /// The journal's dead transactions are ended.
    Recover,
    /// The lock files get their tokens.
    Locks,
    /// The tables are rebuilt, or put right.
    Tables,
    /// What stands around a layer's contents.
    Around {
        /// The layer.
        id: LayerId,
        /// The LINKID that it has or gets.
        link: LinkId,
    },
    /// A document is copied from another that has the same bytes, or fetched.
    Document {
        /// The image.
        image: ImageId,
        /// The key.
        key: String,
        /// The file of the same image that has the bytes.
        twin: Option<String>,
    },
    /// The contents of a layer.
    Contents {
        /// The layer.
        id: LayerId,
    },
    /// A change that needs nothing staged.
    Mend(Mend),
    /// An image that cannot be healed goes.
    DropImage {
        /// Its id.
        id: ImageId,
    },
}

/// The order of repairs: each finds what it needs put right by those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Places,
    Tables,
    Journal,
    Structure,
    Documents,
    Contents,
    Orphans,
    Never,
}

impl Fix {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Locks => Phase::Places,
            Self::Tables => Phase::Tables,
            Self::Recover => Phase::Journal,
            Self::Around { .. } | Self::Mend(Mend::DropLink { .. }) => Phase::Structure,
            Self::Document { .. } => Phase::Documents,
            Self::Contents { .. } => Phase::Contents,
            Self::Mend(_) => Phase::Orphans,
            Self::None | Self::DropImage { .. } => Phase::Never,
        }
    }
}
