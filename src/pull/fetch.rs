//! Fetching and staging the layers that the store lacks, several at once.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::find::Found;
use super::{Event, Pull, PullError};
use crate::registry::Descriptor;
use crate::txn::{LayerSpec, WriteTxn};

/// A layer to be fetched.
struct Job<'a> {
    image: &'a Found,
    descriptor: &'a Descriptor,
    spec: LayerSpec,
}

impl Pull<'_> {
    /// Declares every image and stages the layers the store lacks, several at once. Returns how many.
    pub(super) fn fetch_layers(&self, txn: &WriteTxn, found: &[Found]) -> Result<usize, PullError> {
        let jobs = self.jobs(txn, found)?;
        let count = jobs.len();
        let bytes = jobs.iter().fold(0u64, |sum, job| sum.saturating_add(job.descriptor.size));
        if count > 0 {
            self.progress.event(Event::Fetching { layers: count, bytes });
        }
        let jobs = Mutex::new(jobs);
        let failed: Mutex<Option<PullError>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.options.jobs.clamp(1, count.max(1)) {
                scope.spawn(|| self.work(txn, &jobs, &failed));
            }
        });
        if self.is_cancelled() {
            return Err(PullError::Cancelled);
        }
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(count),
        }
    }

    fn jobs<'a>(&self, txn: &WriteTxn, found: &'a [Found]) -> Result<VecDeque<Job<'a>>, PullError> {
        let tables = txn.tables()?;
        let mut jobs = VecDeque::new();
        let mut seen = HashSet::new();
        for image in found {
            let states = txn.declare(&tables, &image.spec.diff_ids)?;
            for (state, descriptor) in states.into_iter().zip(&image.layers) {
                if !state.needed {
                    self.progress.event(Event::Present { blob: &descriptor.digest });
                } else if seen.insert(state.id.clone()) {
                    let spec = LayerSpec {
                        id: state.id,
                        diff_id: state.diff_id,
                        blob: Some(descriptor.digest.clone()),
                        blob_bytes: Some(descriptor.size),
                    };
                    jobs.push_back(Job { image, descriptor, spec });
                }
            }
        }
        Ok(jobs)
    }

    /// Does jobs until there are none, or one of them fails anywhere.
    fn work(&self, txn: &WriteTxn, jobs: &Mutex<VecDeque<Job<'_>>>, failed: &Mutex<Option<PullError>>) {
        while let Some(job) = next(jobs) {
            if self.is_cancelled() || txn.is_cancelled() {
                return;
            }
            if let Err(error) = self.fetch_one(txn, &job) {
                // The first error is the cause, the others are its echo: it is noted before anything is stopped.
                lock(failed).get_or_insert(error);
                txn.cancel();
                // A reader that waits for the network would see the cancelled transaction only when more comes.
                self.network.cancel();
                return;
            }
        }
    }

    fn fetch_one(&self, txn: &WriteTxn, job: &Job<'_>) -> Result<(), PullError> {
        let (layer, blob) = (&job.spec.id, &job.descriptor.digest);
        self.progress.event(Event::Started { layer, blob, bytes: job.descriptor.size });
        let wrap = |source| PullError::Source { reference: job.image.reference.clone(), source: Box::new(source) };
        let reader = job.image.source.blob(job.descriptor).map_err(wrap)?;
        let reader = Cancellable { reader, cancelled: self.cancelled };
        txn.stage_layer(&job.spec, reader, &|bytes| self.progress.event(Event::Progress { layer, blob, bytes }))?;
        self.progress.event(Event::Finished { layer, blob });
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next<'a>(jobs: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    lock(jobs).pop_front()
}

/// Ends a stream as soon as the pull is cancelled.
struct Cancellable<'a> {
    reader: Box<dyn Read + Send>,
    cancelled: &'a AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(std::io::Error::other("cancelled"));
        }
        self.reader.read(buf)
    }
}

#[cfg(test)]
mod tests;
