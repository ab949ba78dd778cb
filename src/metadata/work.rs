//! Pure: no I/O. Counts the work on tables, for the tests that hold it linear. Costs nothing outside of tests.

/// One record is looked at.
#[cfg(not(test))]
pub(super) fn look() {}

/// The text of one record is parsed.
#[cfg(not(test))]
pub(super) fn parse(_bytes: usize) {}

#[cfg(test)]
pub(crate) use counting::{Work, count, look, parse};

#[cfg(test)]
mod counting {
    use std::cell::Cell;

    /// What was done with records.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Work {
        /// Records that were looked at, a record as often as it was.
        pub looks: usize,
        /// Records whose text was parsed.
        pub parses: usize,
        /// The sum of their lengths in bytes.
        pub parsed_bytes: usize,
    }

    const NONE: Work = Work { looks: 0, parses: 0, parsed_bytes: 0 };

    thread_local! {
        // Tests run beside each other, each in its own thread.
        static WORK: Cell<Work> = const { Cell::new(NONE) };
    }

    pub(crate) fn look() {
        WORK.with(|work| work.set(Work { looks: work.get().looks + 1, ..work.get() }));
    }

    pub(crate) fn parse(bytes: usize) {
        WORK.with(|work| {
            let Work { looks, parses, parsed_bytes } = work.get();
            work.set(Work { looks, parses: parses + 1, parsed_bytes: parsed_bytes + bytes });
        });
    }

    /// Does something and says how much work it was.
    pub(crate) fn count<T>(act: impl FnOnce() -> T) -> (T, Work) {
        WORK.with(|work| work.set(NONE));
        let done = act();
        (done, WORK.with(Cell::get))
    }
}
