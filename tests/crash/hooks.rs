//! What stands between the store and the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cstor_rs::fsio::{Hook, Op};

use crate::steps::{self, Tier};

/// Fails every change from number `at` on, as if the program had stopped there.
pub struct Stop {
    at: usize,
    seen: AtomicUsize,
    /// What is stopped, where it is to be noted which step was.
    operation: Option<String>,
}

impl Stop {
    pub fn at(at: usize) -> Arc<Self> {
        Arc::new(Self { at, seen: AtomicUsize::new(0), operation: None })
    }

    /// The same, and it is noted before which step of this operation it was.
    pub fn of(operation: &str, at: usize) -> Arc<Self> {
        Arc::new(Self { at, seen: AtomicUsize::new(0), operation: Some(operation.to_owned()) })
    }

    /// Whether it was reached.
    pub fn stopped(&self) -> bool {
        self.seen.load(Ordering::SeqCst) > self.at
    }
}

impl Hook for Stop {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        if number == self.at
            && let (Some(operation), Some(step)) = (&self.operation, steps::of_op(op))
        {
            steps::hit(Tier::Stop, operation, step);
        }
        if number >= self.at {
            return Err(io::Error::other(format!("stopped before {op:?}")));
        }
        Ok(())
    }
}

/// Fails one change, number `at`, and no other: what a disk does that is full for a moment, or that cannot write one block.
pub struct Once {
    at: usize,
    error: i32,
    seen: AtomicUsize,
}

impl Once {
    pub fn at(at: usize, error: rustix::io::Errno) -> Arc<Self> {
        Arc::new(Self { at, error: error.raw_os_error(), seen: AtomicUsize::new(0) })
    }

    /// Whether it was reached.
    pub fn failed(&self) -> bool {
        self.seen.load(Ordering::SeqCst) > self.at
    }
}

impl Hook for Once {
    fn before(&self, _: &Op<'_>) -> io::Result<()> {
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.at {
            return Err(io::Error::from_raw_os_error(self.error));
        }
        Ok(())
    }
}

/// SIGKILLs this process before change number `at`.
pub struct Kill {
    at: usize,
    seen: AtomicUsize,
}

impl Kill {
    pub fn at(at: usize) -> Arc<Self> {
        Arc::new(Self { at, seen: AtomicUsize::new(0) })
    }
}

impl Hook for Kill {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.at {
            if let Some(step) = steps::of_op(op) {
                println!("{}{step}", steps::WORD);
            }
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL)?;
            unreachable!("a killed process goes on");
        }
        Ok(())
    }
}
