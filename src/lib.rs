//! Reads and writes the containers-storage of podman, buildah, skopeo and CRI-O (overlay driver) with the
//! guarantees of a database: every change is a journaled transaction that a crash cannot leave half done.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod causes;
pub mod clean;
pub mod config;
pub mod extract;
pub mod fsck;
pub mod fsio;
pub mod history;
pub mod ids;
pub mod journal;
pub mod layout;
pub mod lock;
pub mod metadata;
pub mod overlay;
pub mod partial;
pub mod pins;
pub mod plan;
pub mod podman_db;
#[cfg(feature = "registry")]
pub mod pull;
pub mod read;
pub mod recovery;
pub mod reference;
#[cfg(feature = "registry")]
pub mod registry;
pub mod settle;
pub mod store;
pub mod tarsplit;
pub mod txn;
