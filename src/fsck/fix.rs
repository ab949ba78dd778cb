//! What is to be done about a finding.

use crate::ids::{ImageId, LayerId, LinkId};

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
    /// `overlay/l` is made anew.
    Links,
    /// The tables are rebuilt, or put right.
    Tables,
    /// What stands around a layer's contents.
    Around {
        /// The layer.
        id: LayerId,
        /// The LINKID that it has or gets.
        link: LinkId,
    },
    /// An entry of `l/` goes.
    DropLink {
        /// Its name.
        name: String,
        /// Where it leads.
        target: Option<Vec<u8>>,
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
    /// What no record names goes.
    BuryLayer {
        /// Its id.
        id: LayerId,
        /// Its LINKID.
        link: Option<LinkId>,
    },
    /// What no record names goes.
    BuryImage {
        /// Its id.
        id: ImageId,
    },
    /// A leftover of another program goes.
    Stray {
        /// Where it lies.
        place: StrayPlace,
        /// Its name.
        name: String,
    },
    /// An image that cannot be healed goes.
    DropImage {
        /// Its id.
        id: ImageId,
    },
}

pub(super) use crate::plan::StrayPlace;

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
            Self::Links | Self::Locks => Phase::Places,
            Self::Tables => Phase::Tables,
            Self::Recover => Phase::Journal,
            Self::Around { .. } | Self::DropLink { .. } => Phase::Structure,
            Self::Document { .. } => Phase::Documents,
            Self::Contents { .. } => Phase::Contents,
            Self::BuryLayer { .. } | Self::BuryImage { .. } | Self::Stray { .. } => Phase::Orphans,
            Self::None | Self::DropImage { .. } => Phase::Never,
        }
    }
}
