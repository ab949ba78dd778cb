//! Pure: no I/O and no clock. Whether a download goes on fast enough.

use std::time::Duration;

/// So many bytes must come in each stretch of so much waiting; a registry that gives a byte now and then could hold
/// a pull for ever otherwise. Only time spent waiting for the registry counts, not that of a slow reader.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    floor: u64,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(floor: u64, window: Duration) -> Self {
        Self { floor, window, waited: Duration::ZERO, bytes: 0 }
    }

    /// The length of a stretch.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// How long may be waited now; without a floor always.
    pub(super) fn left(&self) -> Duration {
        if self.floor == 0 { Duration::MAX } else { self.window.saturating_sub(self.waited) }
    }

    /// Bytes that came in this stretch.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes that came after a wait; a stretch that has enough begins anew.
    pub(super) fn add(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
        if self.bytes >= self.floor {
            *self = Self::new(self.floor, self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stretch_must_bring_its_bytes() {
        let secs = Duration::from_secs;
        let mut pace = Pace::new(100, secs(240));
        // A byte every 59 s, as a hostile registry may have it: no wait is long, and all together are.
        for n in 1..=4 {
            pace.add(secs(59), 1);
            assert_eq!((pace.left(), pace.bytes()), (secs(240 - 59 * n), n));
        }
        pace.add(secs(59), 1);
        assert_eq!((pace.left(), pace.bytes()), (Duration::ZERO, 5));
        let mut pace = Pace::new(100, secs(240));
        for _ in 0..1000 {
            pace.add(secs(100), 50);
            assert_eq!((pace.left(), pace.bytes()), (secs(140), 50));
            pace.add(secs(139), 50);
            assert_eq!((pace.left(), pace.bytes()), (secs(240), 0));
        }
    }
}
