//! The one error of this floor: which call failed on which path.

use std::io;
use std::path::PathBuf;

use super::hook::At;

/// A system call that failed, with the path it was made for.
#[derive(Debug, thiserror::Error)]
#[error("{call} {}", path.display())]
pub struct Error {
    /// The verb, named after its system call.
    pub call: &'static str,
    /// The path as the caller knows it.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// The result of every verb.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `call` on `at`.
    pub fn new(call: &'static str, at: At<'_>, source: impl Into<io::Error>) -> Self {
        Self { call, path: at.path(), source: source.into() }
    }

    /// The kind of the cause.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the cause is this errno.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }

    /// Whether nothing has this name.
    pub fn not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

/// `None` where nothing has this name, every other error as it is.
///
/// # Errors
///
/// Any error but ENOENT.
pub fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
