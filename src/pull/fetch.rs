//! Fetching and staging the layers that the store lacks, several at once.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::find::Found;
use super::{Event, Progress, PullError, PullOptions};
use crate::registry::Descriptor;
use crate::txn::{LayerSpec, WriteTxn};

/// A layer to be fetched.
struct Job<'a> {
    image: &'a Found,
    descriptor: &'a Descriptor,
    spec: LayerSpec,
}

/// Declares every image and stages the layers the store lacks, several at once. Returns how many.
pub(super) fn fetch_layers(
    txn: &WriteTxn,
    found: &[Found],
    options: &PullOptions,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<usize, PullError> {
    let tables = txn.tables()?;
    let mut jobs = VecDeque::new();
    let mut seen = HashSet::new();
    for image in found {
        let states = txn.declare(&tables, &image.spec.diff_ids)?;
        for (state, descriptor) in states.into_iter().zip(&image.layers) {
            if !state.needed {
                progress.event(Event::Present { blob: &descriptor.digest });
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
    let count = jobs.len();
    let jobs = Mutex::new(jobs);
    let failed: Mutex<Option<PullError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while let Some(job) = next(&jobs) {
                    if cancelled.load(Ordering::Acquire) || txn.is_cancelled() {
                        return;
                    }
                    if let Err(error) = fetch_one(txn, &job, progress, cancelled) {
                        // The first error is the cause; the others are its echo.
                        txn.cancel();
                        lock(&failed).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    if cancelled.load(Ordering::Acquire) {
        return Err(PullError::Cancelled);
    }
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(count),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn next<'a>(jobs: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    lock(jobs).pop_front()
}

fn fetch_one(txn: &WriteTxn, job: &Job<'_>, progress: &dyn Progress, cancelled: &AtomicBool) -> Result<(), PullError> {
    let blob = &job.descriptor.digest;
    progress.event(Event::Started { blob, bytes: job.descriptor.size });
    let wrap = |source| PullError::Source { reference: job.image.reference.clone(), source: Box::new(source) };
    let reader = job.image.source.blob(job.descriptor).map_err(wrap)?;
    let reader = Cancellable { reader, cancelled };
    txn.stage_layer(&job.spec, reader, &|bytes| progress.event(Event::Progress { blob, bytes }))?;
    progress.event(Event::Finished { blob });
    Ok(())
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
