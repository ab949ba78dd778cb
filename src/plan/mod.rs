//! What a transaction does, step by step; shared by commit and recovery.
//!
//! [`build`] decides everything, purely, under the store locks; [`World`] runs the steps. Commit and recovery run
//! the same idempotent [`Step::apply`]: there is no second implementation of "finish". The order of steps lives in
//! `build` alone.

mod act;
mod build;
mod change;
mod codec;
mod heal;
mod run;
mod step;

pub use act::seal_stage;
pub use build::{Built, DiskFacts, ImageFacts, Inputs, PlanError, Ready, build, put_images};
pub use change::{ImagePut, Intent, LayerPut, NameClaim, Source, StagedData, WantedImage, WantedLayer};
pub use codec::{CodecError, decode, encode};
pub use run::{StepError, World};
pub use step::{Place, Step, Table};
