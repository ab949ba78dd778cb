//! What is on a disk, and what was done to it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

pub const BLOCK: usize = 4096;
/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

type Block = Arc<[u8; BLOCK]>;

/// The contents of a disk; what was never written is zeroes. A copy costs a pointer a block.
#[derive(Clone, Default)]
pub struct Medium {
    blocks: HashMap<u64, Block>,
}

impl Medium {
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (block, at, range) in pieces(offset, length) {
            if let Some(held) = self.blocks.get(&block) {
                let len = range.len();
                bytes[range].copy_from_slice(&held[at..at + len]);
            }
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (block, at, range) in pieces(offset, bytes.len()) {
            let part = &bytes[range];
            if part.len() == BLOCK {
                if part.iter().all(|b| *b == 0) {
                    self.blocks.remove(&block);
                } else {
                    self.blocks.insert(block, Arc::new(part.try_into().unwrap()));
                }
            } else {
                let held = self.blocks.entry(block).or_insert_with(|| Arc::new([0; BLOCK]));
                Arc::make_mut(held)[at..at + part.len()].copy_from_slice(part);
            }
        }
    }

    pub fn zero(&mut self, offset: u64, length: u64) {
        let whole = |block: &u64| block * BLOCK as u64 >= offset && (block + 1) * BLOCK as u64 <= offset + length;
        if length > 1 << 24 {
            // A discard of most of the disk: by what is there, not by what is not.
            self.blocks.retain(|block, _| !whole(block));
            let (end, size) = (offset + length, BLOCK as u64);
            let head = (size - offset % size) % size;
            self.write(offset, &vec![0; usize::try_from(head).unwrap()]);
            let tail = end % size;
            self.write(end - tail, &vec![0; usize::try_from(tail).unwrap()]);
        } else {
            self.write(offset, &vec![0; usize::try_from(length).unwrap()]);
        }
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Write(offset, bytes) => self.write(*offset, bytes),
            Event::Zero(offset, length) => self.zero(*offset, *length),
            Event::Flush | Event::Mark(_) => {}
        }
    }

    /// One number for what these blocks hold.
    pub fn fingerprint(&self, blocks: &[u64]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for block in blocks {
            (block, self.blocks.get(block)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Every block that is not zeroes, for a file that shows the state later.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.blocks.iter().map(|(block, bytes)| (block * BLOCK as u64, bytes.as_slice()))
    }
}

/// A range by blocks: block, where in it, and which part of the range.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let here = offset + done as u64;
        let at = usize::try_from(here % BLOCK as u64).unwrap();
        let len = (BLOCK - at).min(length - done);
        done += len;
        Some((here / BLOCK as u64, at, done - len..done))
    })
}

/// What came to a disk.
#[derive(Clone)]
pub enum Event {
    Write(u64, Arc<[u8]>),
    /// A discard, or zeroes: what was there is gone.
    Zero(u64, u64),
    /// All that was written before is on the medium.
    Flush,
    /// What the workload says.
    Mark(Mark),
}

impl Event {
    /// The blocks it changes.
    pub fn blocks(&self) -> std::ops::Range<u64> {
        let (offset, length) = match self {
            Self::Write(offset, bytes) => (*offset, bytes.len() as u64),
            Self::Zero(offset, length) => (*offset, *length),
            Self::Flush | Self::Mark(_) => return 0..0,
        };
        offset / BLOCK as u64..(offset + length).div_ceil(BLOCK as u64)
    }

    pub fn changes(&self) -> bool {
        matches!(self, Self::Write(..) | Self::Zero(..))
    }
}

/// Where in a workload a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This operation has begun.
    Begun(usize),
    /// It has said that it is done.
    Acknowledged(usize),
}

/// An event, and when it came.
#[derive(Clone)]
pub struct Stamped {
    pub at: Duration,
    pub event: Event,
}
