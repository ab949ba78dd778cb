//! stdout and stderr, which may be closed or full: nothing here panics for that, and a pull is not ended by it.

use std::fmt::Display;
use std::io::{self, StdoutLock, Write};

/// Writes one line to stderr. Where nobody reads it there is no other place to say so, and nothing else changes.
pub(super) fn tell(text: impl Display) {
    // Whole, so that no other thread writes in between.
    Stderr.write_all(format!("{text}\n").as_bytes()).unwrap_or(());
}

/// The stderr that never fails, for logs too: a log that panicked would take its thread with it.
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(buf).unwrap_or(());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What stands in every error of [`stdout`].
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written")]
struct OutputError(#[source] io::Error);

/// Where results go. Its errors say that they are of standard output.
pub(super) struct Stdout(StdoutLock<'static>);

pub(super) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

fn named(source: io::Error) -> io::Error {
    io::Error::new(source.kind(), OutputError(source))
}

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

/// Whether whoever read our results wanted no more of them, as `head` does: no reason for a word.
pub(super) fn nobody_reads(error: &anyhow::Error) -> bool {
    let ours = |error: &&io::Error| error.get_ref().is_some_and(|inner| inner.is::<OutputError>());
    error.downcast_ref::<io::Error>().filter(ours).is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
