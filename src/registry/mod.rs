//! Images from registries and from layouts on disk.
//!
//! The parsers ([`mod@reference`], [`platform`], [`manifest`], [`config`], [`challenge`]) are pure and take bytes; the
//! transport ([`fetch`], [`layout`], [`docker_archive`]) gives whole verified documents and streams, behind one small
//! blocking trait ([`ImageSource`]); whoever knows a digest and no name asks through [`BlobSource`]. Everything that comes from outside is hostile: it has a limit, and the limit is checked
//! before anything of that size is allocated.
//!
//! Invariants:
//! - R1: a manifest or config is returned only after its bytes had the digest that was asked for.
//! - R2: a blob's stream gives exactly its declared size and then ends, or it gives an error; never a short end.
//!   Its digest is the reader's to check, in the same pass that unpacks it.
//! - R3: credentials and tokens go to the registry they are for and to the token server that it names itself; a
//!   host to which it redirects gets none and cannot ask for any. They never go into a log or an error.
//! - R4: whatever the registry does, a request ends: nothing for a stall, a small object that takes too long, a blob
//!   below the least pace.
//! - R5: an archive is never extracted: its members are found in one pass of limited number, and read where they stand.

mod archive;
mod auth;
mod blob;
mod blobs;
pub mod challenge;
pub mod config;
pub mod credentials;
mod diff_ids;
pub mod docker_archive;
mod docker_save;
mod error;
mod failure;
pub mod fetch;
mod http;
pub mod layout;
pub mod manifest;
mod media_type;
mod pace;
mod pick;
mod piece;
pub mod platform;
mod policy;
mod registries;
mod shape;
mod shapes;
mod source;
mod system;

pub use crate::reference::{self, Reference, ReferenceError};
pub use archive::ArchiveError;
pub use blobs::{BlobSource, open_blobs};
pub use config::ImageConfig;
pub use credentials::Login;
pub use docker_archive::DockerArchive;
pub use error::{RegistryError, plain};
pub use fetch::{Options, Registry};
pub use layout::Layout;
pub use manifest::{ContentError, Descriptor, ImageManifest, Index};
pub use pick::Pick;
pub use platform::Platform;
pub use source::{Found, ImageSource, Place, Resolved, candidates};
pub use system::SystemFiles;
