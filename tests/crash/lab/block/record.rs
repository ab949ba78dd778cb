//! A run of a workload: every write that came to the disk, and what the store said after each operation.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::device::{Bench, Device};
use super::filesystem::{Filesystem, Mounted};
use super::medium::{Event, Mark, Medium, Stamped};
use super::work::{Ground, Work};
use crate::oracle::{self, Said};

/// What a disk saw.
pub struct Recording {
    pub fs: Filesystem,
    pub work: Work,
    pub start: Medium,
    pub log: Vec<Stamped>,
    /// Before the first operation, and after each.
    pub said: Vec<Said>,
}

impl Recording {
    /// Runs the workload on a new disk, and waits `tail` longer for what the kernel writes by itself.
    pub fn of(bench: &Bench, fs: Filesystem, work: &Work, ground: &Ground, tail: Duration) -> Result<Self, String> {
        let device = fs.make(bench)?;
        let mounted = fs.mount(bench, &device)?;
        let (root, runroot) = (mounted.root(), tempfile::tempdir().unwrap());
        for operation in &work.before {
            operation.done(ground, &root, runroot.path())?;
        }
        let whole = oracle::read(&root)?;
        (work.injure)(&root);
        mounted.sync();
        let start = device.begin();
        let mut said = vec![whole];
        for (index, operation) in work.operations.iter().enumerate() {
            device.mark(Mark::Begun(index));
            operation.done(ground, &root, runroot.path())?;
            device.mark(Mark::Acknowledged(index));
            said.push(oracle::read(&root)?);
        }
        wait(tail);
        Ok(Self { fs, work: work.clone(), start, log: device.end(), said })
    }

    /// The number of events after which something is promised.
    pub fn promised(&self) -> usize {
        let Some(last) = self.work.promised.checked_sub(1) else { return 0 };
        1 + self.log.iter().position(|stamped| matches!(stamped.event, Event::Mark(Mark::Acknowledged(index)) if index == last)).unwrap()
    }
}

/// Lets time pass: what is waited for is the kernel's clock, which writes what is some seconds old.
pub fn wait(time: Duration) {
    if !time.is_zero() {
        let (_never, clock) = std::sync::mpsc::channel::<()>();
        assert!(clock.recv_timeout(time).is_err());
    }
}

/// What comes to a disk while `act` is at work on it.
pub fn logged<T>(device: &Arc<Device>, mounted: &Mounted<'_>, act: impl FnOnce(&Path) -> T) -> (Medium, Vec<Stamped>, T) {
    let start = device.begin();
    let done = act(&mounted.root());
    (start, device.end(), done)
}
