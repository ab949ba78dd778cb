//! Finishing or taking back what a crash left.
//!
//! Recovery costs O(journal): it reads the segments and what they name, never the store. It may be interrupted at
//! any point and run again. Markers decide, not guesses: a prepared table exists if and only if its rename has not
//! happened.
//!
//! Invariants:
//! - R1: before the pivot always back, from it on always forward; the one exception is `Decision::Abandon`.
//! - R2: a segment goes last: it exists as long as anything it names can exist in staging.
//! - R3: one syncfs first: what is found applied in the page cache is not yet on the medium.
//! - R4: nothing that got another owner since is touched.
//! - R5: under the store locks only what decides; trees of any size are removed without them.

mod decide;
mod inspect;
mod pass;
mod pins;
mod report;
mod signs;
mod sweep;

pub use decide::{Decision, decide};
pub use inspect::{SegmentInfo, leftovers, segments};
pub use pass::{Pass, RecoveryError, candidates, run, run_locked};
pub use pins::Pins;
pub use report::{Outcome, Report};
pub use sweep::{SweepError, side_strays, sweep, tidy_tempdirs};
