//! A hook that does something once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use cstor_rs::fsio::{Hook, Op};

/// Calls a function once, before the first change that it is meant for.
pub struct Once<F, G> {
    pub when: F,
    pub what: G,
    /// How many changes it was meant for have come.
    pub done: AtomicUsize,
}

impl<F: Fn(&Op<'_>) -> bool + Send + Sync, G: Fn() + Send + Sync> Hook for Once<F, G> {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if (self.when)(op) && self.done.fetch_add(1, Ordering::SeqCst) == 0 {
            (self.what)();
        }
        Ok(())
    }
}
