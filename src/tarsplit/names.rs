//! Pure: no I/O. Which cleaned paths a tar has named so far, in about 16 bytes each.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// Tables grow one at a time, so that growing never doubles the whole set.
const SHARDS: usize = 64;

/// Passes keys through that are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        // Only u64 keys come here; anything else must still be a hash of its bytes.
        for &byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(byte));
        }
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Keys = HashSet<u64, BuildHasherDefault<Identity>>;

/// A 64-bit hash of where `name` lies in a layer, keyed at random so that nobody can aim at collisions.
///
/// `a`, `./a`, `/a`, `a/` and `../a` are one path, as they are when extracted inside a root.
fn key(random: &RandomState, name: &[u8]) -> u64 {
    // `..` looks at what is before it, so the parts are needed; a name has at most 1 MiB.
    let mut hasher = random.build_hasher();
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    for part in parts {
        hasher.write(part);
        hasher.write_u8(b'/');
    }
    hasher.finish()
}

/// The set of names seen. A collision makes a name look repeated, which costs a few bytes and no exactness.
pub(super) struct Names {
    random: RandomState,
    shards: Vec<Keys>,
    repeated: Keys,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { random: RandomState::new(), shards: (0..SHARDS).map(|_| Keys::default()).collect(), repeated: Keys::default() }
    }

    /// Takes `name` in and says whether it was there.
    pub(super) fn insert(&mut self, name: &[u8]) -> bool {
        let key = key(&self.random, name);
        // The tables use the top seven and the low bits of a key; the shard comes from the middle.
        let shard = (key >> 40) as usize % SHARDS;
        let repeated = self.shards.get_mut(shard).is_some_and(|keys| !keys.insert(key));
        if repeated {
            self.repeated.insert(key);
        }
        repeated
    }

    pub(super) fn into_repeated(self) -> Repeated {
        Repeated { random: self.random, keys: self.repeated }
    }
}

/// The cleaned paths that a tar names more than once.
///
/// It knows them by hash: by a chance of about 1 in 10^8 per million members it holds a path that is not repeated.
pub struct Repeated {
    random: RandomState,
    keys: Keys,
}

impl std::fmt::Debug for Repeated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repeated({})", self.keys.len())
    }
}

impl Repeated {
    /// Whether the tar has several members at the path of `name`.
    pub fn contains(&self, name: &[u8]) -> bool {
        !self.keys.is_empty() && self.keys.contains(&key(&self.random, name))
    }

    /// Whether no path is named twice.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_place_are_one_name() {
        let mut names = Names::new();
        assert!(!names.insert(b"a/b"));
        for same in [&b"a/b"[..], b"/a/b", b"./a//b/", b"../a/b", b"a/c/../b", b"x/../a/b/."] {
            assert!(names.insert(same), "{}", same.escape_ascii());
        }
        for other in [&b"ab"[..], b"a", b"a/b/c", b"", b"a/b\0"] {
            assert!(!names.insert(other), "{}", other.escape_ascii());
        }
        assert!(names.insert(b"./") && names.insert(b"..") && names.insert(b"/"));
        let repeated = names.into_repeated();
        assert!(repeated.contains(b"/a/b") && repeated.contains(b".") && !repeated.contains(b"ab"));
    }

    #[test]
    fn i3_a_million_names_cost_less_than_20_million_bytes() {
        let mut names = Names::new();
        for number in 0..1_000_000u32 {
            assert!(!names.insert(format!("usr/share/{number}").as_bytes()));
        }
        // hashbrown: a power of two of buckets of 8 bytes and a control byte each, full at 7/8.
        let buckets: usize = names.shards.iter().map(|keys| (keys.capacity() * 8 / 7).next_power_of_two()).sum();
        assert!(buckets * 9 < 20_000_000, "{buckets} buckets");
    }
}
