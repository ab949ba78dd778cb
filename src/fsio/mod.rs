//! The only code that changes the disk: one verb per function, each through the [`Hook`].
//!
//! Directories are handles ([`Dir`]), names are relative to them and never contain a slash, links are never
//! followed. Files made here get exactly the mode that is asked for, whatever the umask. Every descriptor is
//! close-on-exec.
//!
//! Invariants:
//! - F1: no verb reaches the kernel before the hook has allowed it.
//! - F2: a failed sync poisons the seam, and no later sync is tried: after a failed fsync the kernel may have
//!   dropped the dirty pages, so a second one that succeeds proves nothing.

mod attributes;
mod dir;
mod error;
mod file;
mod filesystem;
mod hook;
mod meta;
mod names;
mod ofd;
mod privilege;
mod regular;
mod scratch;
mod tree;
mod walk;

pub use dir::{Dir, Mode};
pub use error::{Error, Result, optional};
pub use file::File;
pub use hook::{At, Hook, NoHook, Op};
pub use meta::{Kind, Meta};
pub use ofd::LockOwner;
pub use privilege::is_initial_root;
pub use scratch::scratch;
pub use walk::{Purpose, Step, Walk};

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The hook and the latch that every handle of one store shares.
#[derive(Clone)]
pub struct Seam {
    hook: Arc<dyn Hook>,
    poisoned: Arc<AtomicBool>,
}

impl Seam {
    /// A seam around `hook`.
    pub fn new(hook: Arc<dyn Hook>) -> Self {
        Self { hook, poisoned: Arc::new(AtomicBool::new(false)) }
    }

    /// Whether a sync has failed: what was written since the last good one may be lost.
    pub fn poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Runs one change under the hook.
    fn change<T>(&self, call: &'static str, at: At<'_>, op: Op<'_>, f: impl Fn() -> rustix::io::Result<T>) -> Result<T> {
        self.hook.before(&op).map_err(|e| Error::new(call, at, e))?;
        let value = rustix::io::retry_on_intr(f).map_err(|e| Error::new(call, at, e))?;
        self.hook.done(&op);
        Ok(value)
    }

    /// Runs one barrier under the hook; see F2.
    fn sync(&self, call: &'static str, at: At<'_>, op: Op<'_>, f: impl Fn() -> rustix::io::Result<()>) -> Result<()> {
        if self.poisoned() {
            let why = io::Error::other("an earlier sync failed; open the store again");
            return Err(Error::new(call, at, why));
        }
        let done = self.change(call, at, op, f);
        if done.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        done
    }
}

impl std::fmt::Debug for Seam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seam").field("poisoned", &self.poisoned()).finish_non_exhaustive()
    }
}

impl Default for Seam {
    fn default() -> Self {
        Self::new(Arc::new(NoHook))
    }
}

#[cfg(test)]
mod tests;
