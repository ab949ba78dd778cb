//! What a pull tells while it runs.

use crate::ids::{Digest, LayerId};
use crate::registry::Platform;

/// What happens during a pull.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An image's manifest and config are here.
    Resolved {
        /// The image's name.
        name: &'a str,
        /// The number of its layers.
        layers: usize,
    },
    /// An image is made for another platform than this machine's; none was asked for, so it is taken.
    OtherPlatform {
        /// The image's name.
        name: &'a str,
        /// The platform it is for, as it says.
        seen: &'a str,
        /// The platform of this machine.
        wanted: &'a Platform,
    },
    /// A layer is in the store already.
    Present {
        /// The layer's blob.
        blob: &'a Digest,
    },
    /// So much of the batch is about to be fetched.
    Fetching {
        /// The number of layers.
        layers: usize,
        /// The sum of their blobs in bytes.
        bytes: u64,
    },
    /// A layer is about to be fetched.
    Started {
        /// The layer; two layers may come from one blob.
        layer: &'a LayerId,
        /// The layer's blob.
        blob: &'a Digest,
        /// Its length in bytes.
        bytes: u64,
    },
    /// More bytes of a layer have been unpacked.
    Progress {
        /// The layer.
        layer: &'a LayerId,
        /// The layer's blob.
        blob: &'a Digest,
        /// Compressed bytes so far.
        bytes: u64,
    },
    /// A layer is staged.
    Finished {
        /// The layer.
        layer: &'a LayerId,
        /// The layer's blob.
        blob: &'a Digest,
    },
    /// Everything is staged; the rest takes milliseconds and the sync.
    Committing,
}

/// Who is told of a pull's progress; called from several threads.
pub trait Progress: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}
