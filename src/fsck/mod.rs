//! Finds what is damaged in a store, and heals it in place.
//!
//! ```text
//! look -> findings -> changes -> the same prepare and commit as anyone's -> look again
//! ```
//!
//! Looking changes nothing, and holds no lock for longer than it takes to look once more at what seems damaged. Every repair is
//! a transaction of the store: staged first, journaled, finished by the next open if it is cut short; a lost table is one rename.
//! No repair removes what anybody may still want: what has to go is copied to `cstor-rs/lost+found`, or nothing needs it, and an
//! image goes only with [`Options::prune`].
//!
//! Invariants:
//! - F1: what another program is just making is no finding: what seems damaged is looked at again under shared locks, and
//!   contents are judged only if the layer was the same before and after they were read.
//! - F2: contents are exchanged whole, proved by the layer's digest; nothing in a `diff` that is in use is touched.
//! - F3: a finding is called healed when the next look does not have it any more, and for no other reason.

mod check;
mod code;
mod drop;
mod elsewhere;
mod examine;
mod finding;
mod fix;
mod full;
mod options;
mod repair;
mod rounds;
mod run;
mod size;
mod split;
mod state;
mod supply;
mod survey;

pub use code::{Code, Level};
pub use finding::{Finding, Outcome, Repair};
pub use options::{FsckError, Options, Progress, Silent, Summary};
pub use run::run;
pub use supply::{Supply, SupplyError, WantedDocument, WantedLayer};
