//! Fetching and staging the layers that the store lacks, several at once.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::find::Found;
use super::{Event, Pull, PullError};
use crate::extract::ExtractError;
use crate::partial::{Cache, Partial, Tee};
use crate::registry::Descriptor;
use crate::txn::{LayerSpec, TxnError, WriteTxn};

/// How often a layer is fetched anew: once for kept bytes that were not the blob's, once for a disk that was too full.
const AGAIN: usize = 2;
/// What a full disk says, and a user's full share of it.
const FULL: [Errno; 2] = [Errno::NOSPC, Errno::DQUOT];

/// A layer to be fetched.
struct Job<'a> {
    image: &'a Found,
    descriptor: &'a Descriptor,
    spec: LayerSpec,
}

impl Pull<'_> {
    /// Declares every image and stages the layers the store lacks, several at once. Returns how many.
    pub(super) fn fetch_layers(&self, txn: &WriteTxn, cache: Option<&Cache>, found: &[Found]) -> Result<usize, PullError> {
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
                scope.spawn(|| self.work(txn, cache, &jobs, &failed));
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
    fn work(&self, txn: &WriteTxn, cache: Option<&Cache>, jobs: &Mutex<VecDeque<Job<'_>>>, failed: &Mutex<Option<PullError>>) {
        while let Some(job) = next(jobs) {
            if self.is_cancelled() || txn.is_cancelled() {
                return;
            }
            if let Err(error) = self.fetch_one(txn, cache, &job) {
                // The first error is the cause, the others are its echo: it is noted before anything is stopped.
                lock(failed).get_or_insert(error);
                txn.cancel();
                // A reader that waits for the network would see the cancelled transaction only when more comes.
                self.network.cancel();
                return;
            }
        }
    }

    fn fetch_one(&self, txn: &WriteTxn, cache: Option<&Cache>, job: &Job<'_>) -> Result<(), PullError> {
        let (layer, blob) = (&job.spec.id, &job.descriptor.digest);
        self.progress.event(Event::Started { layer, blob, bytes: job.descriptor.size });
        let cache = cache.filter(|_| job.image.source.is_remote());
        let mut left = AGAIN;
        while !self.stage(txn, cache, job, left > 0)? {
            left = left.saturating_sub(1);
        }
        self.progress.event(Event::Finished { layer, blob });
        Ok(())
    }

    /// Stages a layer from what is kept of its blob and from its source. `false`: that failed, perhaps by the fault of what
    /// was kept, which is gone now; to be done again. Never so unless there may be another time.
    fn stage(&self, txn: &WriteTxn, cache: Option<&Cache>, job: &Job<'_>, another: bool) -> Result<bool, PullError> {
        let (layer, blob, size) = (&job.spec.id, &job.descriptor.digest, job.descriptor.size);
        let mut partial = cache.and_then(|cache| cache.blob(blob, size));
        let kept = partial.as_ref().map_or(0, Partial::kept);
        if kept > 0 {
            tracing::info!(%blob, kept, size, "a part of the blob was kept by an earlier pull");
        }
        let wrap = |source| PullError::Source { reference: job.image.reference.clone(), source: Box::new(source) };
        let rest = match partial.is_some() && kept == size {
            true => None,
            false => Some(job.image.source.blob_from(job.descriptor, kept).map_err(wrap)?),
        };
        let reader = Cancellable { reader: Tee::new(partial.as_mut(), rest), cancelled: self.cancelled };
        let staged = txn.stage_layer(&job.spec, reader, &|bytes| self.progress.event(Event::Progress { layer, blob, bytes }));
        let Err(error) = staged else { return Ok(true) };
        let fault = fault(&error, partial.as_ref().is_some_and(Partial::is_unreadable));
        let again = match fault {
            Fault::None => false,
            Fault::Contents => {
                partial.iter_mut().for_each(Partial::forget);
                // The blob itself is as it should be there, whatever it unpacks to.
                kept > 0 && !matches!(error, TxnError::DiffId { .. })
            }
            Fault::Space => {
                partial.iter_mut().for_each(Partial::forget);
                cache.is_some_and(Cache::give_up) || partial.is_some()
            }
        };
        if !again || !another || self.is_cancelled() || txn.is_cancelled() {
            return Err(error.into());
        }
        tracing::warn!(%blob, kept, error = &error as &dyn Error, "what was kept of downloads is dropped, fetching the blob anew");
        Ok(false)
    }
}

/// What a layer could not be staged for, as far as it concerns what is kept of its blob.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Something else: the network, the caller's wish, the disk.
    None,
    /// The bytes are not what they should be, or could not be used: they are not worth keeping.
    Contents,
    /// The disk is full.
    Space,
}

fn fault(error: &TxnError, unreadable: bool) -> Fault {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = cause {
        let number = one.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        if number.is_some_and(|number| FULL.iter().any(|errno| errno.raw_os_error() == number)) {
            return Fault::Space;
        }
        cause = one.source();
    }
    match error {
        _ if unreadable => Fault::Contents,
        TxnError::Extract { source: ExtractError::Source(_) | ExtractError::Disk(_) | ExtractError::Cancelled, .. } => Fault::None,
        TxnError::Extract { .. } | TxnError::BlobDigest { .. } | TxnError::DiffId { .. } => Fault::Contents,
        _ => Fault::None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next<'a>(jobs: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    lock(jobs).pop_front()
}

/// Ends a stream as soon as the pull is cancelled.
struct Cancellable<'a, R> {
    reader: R,
    cancelled: &'a AtomicBool,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(std::io::Error::other("cancelled"));
        }
        self.reader.read(buf)
    }
}

#[cfg(test)]
mod tests;
