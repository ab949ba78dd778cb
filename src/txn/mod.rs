//! Transactions: stage without a store lock, prepare under the locks, commit.
//!
//! ```text
//! WriteTxn  --prepare-->  PreparedTxn  --commit-->  Receipt
//! (stages, no lock)       (all locks, intent durable)
//! ```
//!
//! The stages are types of their own, and each takes the one before it, so that misuse does not compile. What is not prepared
//! cannot be committed:
//!
//! ```compile_fail,E0599
//! fn misuse(txn: cstor_rs::txn::WriteTxn) {
//!     txn.commit();
//! }
//! ```
//!
//! what is prepared takes no more changes:
//!
//! ```compile_fail,E0599
//! fn misuse(prepared: cstor_rs::txn::PreparedTxn) {
//!     prepared.untag(cstor_rs::metadata::ImageRef::Name("localhost/a:1".into()), &[]);
//! }
//! ```
//!
//! and nothing is committed twice:
//!
//! ```compile_fail,E0382
//! fn misuse(prepared: cstor_rs::txn::PreparedTxn) {
//!     prepared.commit();
//!     prepared.commit();
//! }
//! ```
//!
//! A transaction that stages may be shared by threads, a prepared one may be sent to another; both clean up when dropped:
//!
//! ```
//! fn shared<T: Send + Sync>() {}
//! fn sent<T: Send>() {}
//! shared::<cstor_rs::store::Store>();
//! shared::<cstor_rs::txn::WriteTxn>();
//! sent::<cstor_rs::txn::PreparedTxn>();
//! ```
//!
//! Invariants:
//! - T1: no store lock is held while anything is downloaded, unpacked, verified or synced by syncfs.
//! - T2: whatever the intent names was synced by a syncfs that began after it was written or looked at.
//! - T3: dropping a transaction at any stage leaves the store as it was.

mod begin;
mod change;
mod commit;
mod create;
mod edit;
mod error;
mod exposed;
mod files;
mod inspect;
mod intent;
mod mend;
mod prepare;
mod preview;
mod ready;
mod receipt;
mod sight;
mod stage;
mod staging;

pub use begin::{SyncMode, TxnOptions, WriteTxn};
pub use commit::CommitError;
pub use create::NewImage;
pub use error::TxnError;
pub use inspect::{Inspection, inspect, inspect_to};
pub use mend::{Around, Rewrite, renew_locks, rewrite_tables};
pub use prepare::{Prepared, PreparedTxn};
pub use preview::preview_without_store;
pub use receipt::Receipt;
pub(crate) use stage::random_failed;
pub use stage::{ImageSpec, LayerSpec, StagedLayer};
pub(crate) use staging::{filesystems, reliable};
