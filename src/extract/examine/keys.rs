//! Pure: no I/O. Paths by their hash: of a million some 20 MB are kept, and not 100.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::extract::path::Cleaned;

/// Hashes paths, keyed at random so that nobody can aim at collisions.
#[derive(Default)]
pub(super) struct Keys {
    random: RandomState,
}

/// The path that a hash is made of, one name after the other.
#[derive(Clone)]
pub(super) struct Running<H>(H);

impl<H: Hasher + Clone> Running<H> {
    /// The hash of this path and `name` in it.
    pub(super) fn enter(&self, name: &[u8]) -> (Self, u64) {
        let mut hasher = self.0.clone();
        hasher.write(name);
        hasher.write_u8(b'/');
        let key = hasher.finish();
        (Self(hasher), key)
    }
}

impl Keys {
    /// The layer's root.
    pub(super) fn root(&self) -> Running<<RandomState as BuildHasher>::Hasher> {
        Running(self.random.build_hasher())
    }

    /// The hashes of all that a path leads through, the topmost first, its own last; none for the root.
    pub(super) fn chain(&self, path: &Cleaned) -> Vec<u64> {
        let mut at = self.root();
        let mut chain = Vec::with_capacity(path.0.len());
        for part in &path.0 {
            let (next, key) = at.enter(part);
            chain.push(key);
            at = next;
        }
        chain
    }
}
