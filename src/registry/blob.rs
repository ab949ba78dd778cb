//! A blob as a blocking stream: a task fetches and resumes, a bounded channel hands the bytes over.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::bytes::Bytes;

use super::error::{RegistryError, Result};
use super::failure::Failure;
use super::fetch::{Backoff, Shared};
use super::http::Client;
use super::manifest::Descriptor;

/// The most bytes that are fetched and not yet read.
const ROOM: usize = 1 << 20;
/// A connection that brought this much was worth it: the count of attempts begins anew.
const PROGRESS: u64 = 1 << 20;

/// What the task tells the reader.
enum Word {
    /// The registry has begun to send the blob.
    Open,
    Bytes(Bytes),
    Failed(RegistryError),
}

/// The reader of one blob; dropping it ends the fetch.
pub(super) struct BlobReader {
    words: Receiver<Word>,
    room: Arc<Semaphore>,
    current: Bytes,
    /// Bytes that the reader has not been given yet.
    left: u64,
    what: String,
    failed: bool,
    task: AbortHandle,
    /// Keeps the runtime alive.
    _shared: Arc<Shared>,
}

impl BlobReader {
    /// Starts to fetch from this byte on and waits until the registry begins to send.
    pub(super) fn open(shared: Arc<Shared>, blob: &Descriptor, from: u64) -> Result<Self> {
        let from = from.min(blob.size);
        let (sender, words) = channel();
        let room = Arc::new(Semaphore::new(ROOM));
        let what = format!("blob {}", blob.digest);
        let mut fetch = Fetch {
            client: shared.client.clone(),
            blob: blob.clone(),
            what: what.clone(),
            at: from,
            ranges: true,
            whole: false,
            opened: false,
            words: sender,
            room: room.clone(),
        };
        let cancel = shared.cancel.clone();
        let task = shared.handle.spawn(async move {
            let words = fetch.words.clone();
            if cancel.run_until_cancelled(fetch.run()).await.is_none() && words.send(Word::Failed(RegistryError::Cancelled)).is_err() {
                tracing::debug!("cancelled after its reader had gone");
            }
        });
        let task = task.abort_handle();
        let reader = Self { words, room, current: Bytes::new(), left: blob.size - from, what, failed: false, task, _shared: shared };
        match reader.words.recv() {
            Ok(Word::Failed(error)) => Err(error),
            Ok(_) => Ok(reader),
            Err(_) => Err(RegistryError::Client { source: "the download task ended".into() }),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(io::Error::other(format!("{}: an earlier read failed", self.what)));
        }
        // At the end too the task has the last word: it may have seen a byte too many.
        while self.current.is_empty() {
            match self.words.recv() {
                Ok(Word::Bytes(bytes)) => self.current = bytes,
                Ok(Word::Open) => {}
                Ok(Word::Failed(error)) => {
                    self.failed = true;
                    return Err(io::Error::other(error));
                }
                Err(_) if self.left == 0 => return Ok(0),
                Err(_) => {
                    self.failed = true;
                    return Err(io::Error::other(format!("{}: the download task ended", self.what)));
                }
            }
        }
        let count = buf.len().min(self.current.len());
        let part = self.current.split_to(count);
        for (to, from) in buf.chunks_mut(count).zip(std::iter::once(&part)) {
            to.copy_from_slice(from);
        }
        self.left = self.left.saturating_sub(count as u64);
        self.room.add_permits(count);
        Ok(count)
    }
}

impl Drop for BlobReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Fetch {
    client: Arc<Client>,
    blob: Descriptor,
    what: String,
    /// Bytes handed over.
    at: u64,
    /// Whether to ask for ranges; not again after the registry got one wrong.
    ranges: bool,
    /// Whether a first request with a range was already made again without.
    whole: bool,
    opened: bool,
    words: Sender<Word>,
    room: Arc<Semaphore>,
}

impl Fetch {
    async fn run(&mut self) {
        let mut backoff = Backoff::new(&self.client);
        loop {
            let before = self.at;
            let Err(failure) = self.attempt().await else { return };
            if self.without_range(&failure) {
                continue;
            }
            if self.at - before >= PROGRESS {
                backoff = Backoff::new(&self.client);
            }
            if let Err(error) = backoff.pause(&self.what, failure).await {
                // The reader may be gone; then nobody wants to know.
                if self.words.send(Word::Failed(error)).is_err() {
                    tracing::debug!(blob = %self.blob.digest, "failed after its reader had gone");
                }
                return;
            }
        }
    }

    /// Whether the very first request failed by its range, as it seems: what another pull left here is no reason to fail,
    /// or to use up an attempt, where without it nothing would.
    fn without_range(&mut self, failure: &Failure) -> bool {
        let refused = matches!(&*failure.error, RegistryError::Server { .. });
        let first = !self.opened && self.at > 0 && (refused || !self.ranges) && !self.whole;
        if first {
            tracing::debug!(blob = %self.blob.digest, from = self.at, error = &*failure.error as &dyn std::error::Error, "without a range");
            (self.ranges, self.whole) = (false, true);
        }
        first
    }

    /// One request, from where the last one ended.
    async fn attempt(&mut self) -> std::result::Result<(), Failure> {
        let from = if self.ranges { self.at } else { 0 };
        let client = self.client.clone();
        let mut response = client.get(&self.what, &format!("blobs/{}", self.blob.digest), "*/*", from).await?;
        let mut skip = self.begin(&response, from)?;
        if !self.opened {
            self.opened = true;
            self.say(Word::Open)?;
        }
        let mut pace = client.pace.clone();
        while self.at < self.blob.size || response.content_length().is_none() {
            let (begun, left) = (Instant::now(), pace.left());
            let slow = || Failure::soon(client.slow(&self.what, self.at, pace.bytes(), pace.window()));
            if left.is_zero() && self.at < self.blob.size {
                return Err(slow());
            }
            let got = match timeout(client.stall.min(left), response.chunk()).await {
                Err(_) if left < client.stall => Err(slow()),
                Err(_) => Err(Failure::soon(client.stalled(&self.what, self.at))),
                Ok(Err(error)) => Err(client.classify(&self.what, self.at, error)),
                Ok(Ok(got)) => Ok(got),
            };
            // All bytes are here, so it does not matter how a connection without a length ends.
            let mut bytes = match got {
                Ok(Some(bytes)) => bytes,
                Ok(None) | Err(_) if self.at == self.blob.size => return Ok(()),
                Ok(None) => return Err(self.broken("the body ended early")),
                Err(failure) => return Err(failure),
            };
            pace.add(begun.elapsed(), bytes.len() as u64);
            let again = skip.min(bytes.len() as u64);
            skip -= again;
            bytes = bytes.split_off(usize::try_from(again).unwrap_or(bytes.len()));
            if bytes.len() as u64 > self.blob.size - self.at {
                return Err(self.length(format!("more than {} bytes came", self.blob.size)));
            }
            self.hand_over(bytes).await?;
        }
        Ok(())
    }

    /// Judges the headers; returns how many bytes of the body we already have.
    fn begin(&mut self, response: &Response, from: u64) -> std::result::Result<u64, Failure> {
        let wanted = self.blob.size - from;
        match response.status() {
            StatusCode::OK => {
                if let Some(length) = response.content_length().filter(|l| *l != self.blob.size) {
                    return Err(self.length(format!("Content-Length is {length}")));
                }
                Ok(self.at)
            }
            StatusCode::PARTIAL_CONTENT if from > 0 && self.right_range(response, from) => {
                match response.content_length().filter(|l| *l > wanted) {
                    Some(length) => Err(self.length(format!("Content-Length is {length} from byte {from} on"))),
                    None => Ok(0),
                }
            }
            status if from > 0 => {
                // It cannot be trusted with ranges: the next attempt reads from the beginning and skips.
                self.ranges = false;
                Err(self.broken(&format!("it answered {status} with a wrong range when resumed at byte {from}")))
            }
            status => {
                let (what, host) = (self.what.clone(), self.client.host.clone());
                Err(Failure::last(RegistryError::Server { what, host, status: status.to_string(), said: "no range was asked for".into() }))
            }
        }
    }

    /// Whether `Content-Range: bytes FROM-TO/TOTAL` is what was asked for.
    fn right_range(&self, response: &Response, from: u64) -> bool {
        let header = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let parse = |text: &str| {
            let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
            let (first, last) = range.split_once('-')?;
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.to_owned()))
        };
        header.and_then(parse).is_some_and(|(first, last, total)| {
            first == from && last >= first && last < self.blob.size && (total == "*" || total == self.blob.size.to_string())
        })
    }

    /// Waits until there is room and gives the bytes to the reader.
    async fn hand_over(&mut self, mut bytes: Bytes) -> std::result::Result<(), Failure> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(ROOM / 4));
            let permits = u32::try_from(part.len()).unwrap_or(u32::MAX);
            match self.room.acquire_many(permits).await {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(self.gone()),
            }
            self.at += part.len() as u64;
            self.say(Word::Bytes(part))?;
        }
        Ok(())
    }

    fn say(&self, word: Word) -> std::result::Result<(), Failure> {
        self.words.send(word).map_err(|_| self.gone())
    }

    fn gone(&self) -> Failure {
        Failure::last(RegistryError::Client { source: "the reader has gone".into() })
    }

    fn broken(&self, why: &str) -> Failure {
        let (what, host) = (self.what.clone(), self.client.host.clone());
        Failure::soon(RegistryError::Broken { what, host, got: self.at, tries: 1, source: why.into() })
    }

    fn length(&self, got: String) -> Failure {
        let (what, host) = (self.what.clone(), self.client.host.clone());
        Failure::last(RegistryError::Length { what, host, declared: self.blob.size, got })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ids::Digest;
    use crate::registry::Options;

    #[test]
    fn a_slow_reader_holds_the_fetch_back() {
        let options = Options { tls_verify: Some(false), ..Options::default() };
        let client = Client::new(&"127.0.0.1:1/a".parse().unwrap(), &options, None).unwrap();
        let (words, heard) = channel();
        let room = Arc::new(Semaphore::new(ROOM));
        let blob = Descriptor { media_type: String::new(), digest: Digest::of(b""), size: u64::MAX };
        let mut fetch = Fetch {
            client: Arc::new(client),
            blob,
            what: String::new(),
            at: 0,
            ranges: true,
            whole: false,
            opened: true,
            words,
            room: room.clone(),
        };
        let mut sent = pin!(fetch.hand_over(Bytes::from(vec![0; ROOM + 1])));
        let mut context = Context::from_waker(Waker::noop());
        assert!(sent.as_mut().poll(&mut context).is_pending());
        let held: usize = heard.try_iter().map(|w| if let Word::Bytes(b) = w { b.len() } else { 0 }).sum();
        assert_eq!(held, ROOM);
        room.add_permits(1);
        assert!(matches!(sent.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    }
}
