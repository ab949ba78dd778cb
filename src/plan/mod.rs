//! What a transaction does, step by step; shared by commit and recovery.
//!
//! [`build`] decides everything, purely, under the store locks; [`World`] runs the steps. Commit and recovery run
//! the same idempotent [`Step::apply`]: there is no second implementation of "finish". The order of steps lives in
//! `build` alone.

mod act;
mod build;
mod bury;
mod change;
mod codec;
mod edit;
mod heal;
mod holder;
mod layers;
mod mend;
mod names;
mod preview;
mod removal;
mod resolve;
mod run;
mod step;

pub use act::seal_stage;
pub use build::{Built, DiskFacts, ImageFacts, Inputs, PlanError, Ready, build};
pub use change::{
    Change, DataPut, ImageChange, ImagePut, Intent, LayerPut, LayerRemoval, NameClaim, Prune, SeveralNames, Source, StagedData,
    WantedImage, WantedLayer,
};
pub use codec::{CodecError, decode, encode};
pub use edit::{Around, AsPlanned, edit, resolve_light};
pub use holder::Holder;
pub use mend::{Mend, STAGING_LOCK, StrayPlace, gone_stage, mend_stage, temp_lock};
pub use names::{Renamed, renamed};
pub use preview::{Preview, Previewed, preview};
pub use run::{StepError, World};
pub use step::{Place, Step, Table};
