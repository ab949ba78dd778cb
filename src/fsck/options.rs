//! What a run is told, and what it says when it is over.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::code::{Code, Level};
use super::finding::{Finding, Outcome};
use crate::ids::ImageId;
use crate::layout::LayoutError;
use crate::txn::TxnError;

/// Told how far a run is. Called from several threads.
pub trait Progress: Sync {
    /// The full check begins: so many layers, and about so many bytes.
    fn begin(&self, _layers: usize, _bytes: u64) {}
    /// So many more bytes and files are checked.
    fn checked(&self, _bytes: u64, _files: u64) {}
    /// So many more bytes of a layer that is being healed are there.
    fn repaired(&self, _bytes: u64) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}

/// What to look at, and what to do about it.
#[derive(Clone)]
pub struct Options<'a> {
    /// How deep to look.
    pub level: Level,
    /// Whether to repair what the store itself can heal.
    pub repair: bool,
    /// Whether to drop what cannot be healed.
    pub prune: bool,
    /// Only these images, and the layers they are made of; all, if there is none.
    pub images: Vec<ImageId>,
    /// When to stop the full check; the next run goes on from there.
    pub max_time: Option<Duration>,
    /// Whether to pass over, in the full check, the layers that were clean at the last clean point.
    pub since_clean: bool,
    /// Additional image stores: read only.
    pub additional: Vec<PathBuf>,
    /// How many layers are checked at once.
    pub jobs: NonZeroUsize,
    /// How long to wait for a lock that somebody else holds.
    pub wait: Duration,
    /// Once true, the run ends soon.
    pub interrupt: Option<Arc<AtomicBool>>,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            level: Level::Quick,
            repair: false,
            prune: false,
            images: Vec::new(),
            max_time: None,
            since_clean: false,
            additional: Vec::new(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            wait: Duration::from_secs(60),
            interrupt: None,
            progress: &Silent,
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Damage that was found.
    pub damaged: u64,
    /// Of that, healed without loss.
    pub healed: u64,
    /// Of that, dropped.
    pub dropped: u64,
    /// Of that, still there because something was in use.
    pub busy: u64,
    /// What is worth knowing and no damage.
    pub notes: u64,
    /// Layers that were read whole.
    pub layers: u64,
    /// Bytes of their tars.
    pub bytes: u64,
    /// Whether something could not be looked at or asked.
    pub unchecked: bool,
    /// Whether it was stopped by time or by a signal.
    pub stopped: bool,
}

impl Summary {
    /// Damage that is still there.
    pub fn remaining(&self) -> u64 {
        self.damaged.saturating_sub(self.healed).saturating_sub(self.dropped)
    }

    /// Counts a finding, once it is known what became of it.
    pub(super) fn count(&mut self, finding: &Finding) {
        if finding.code == Code::CheckFailed {
            self.unchecked = true;
            return;
        }
        if !finding.is_damage() {
            self.notes += 1;
            return;
        }
        self.damaged += 1;
        match finding.result {
            Outcome::Healed => self.healed += 1,
            Outcome::Dropped => self.dropped += 1,
            Outcome::Busy => self.busy += 1,
            Outcome::Found | Outcome::Failed => {}
        }
    }

    /// The exit code, as fsck(8) adds it up: 1 all damage healed, 2 something dropped, 4 damage remains, 8 could not check,
    /// 32 stopped, 64 something was busy.
    pub fn exit_code(&self) -> u8 {
        let bits = [
            (1, self.healed > 0 && self.remaining() == 0),
            (2, self.dropped > 0),
            (4, self.remaining() > 0),
            (8, self.unchecked),
            (32, self.stopped),
            (64, self.busy > 0),
        ];
        bits.iter().filter(|(_, set)| *set).map(|(bit, _)| bit).sum()
    }
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FsckError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Txn(#[from] TxnError),
}

impl FsckError {
    /// Whether somebody held a lock for too long.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Txn(error) if error.is_busy())
    }
}
