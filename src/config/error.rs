//! Why a configuration is not used.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A storage.conf or a drop-in.
    File(PathBuf),
    /// A variable of the environment.
    Variable(&'static str),
    /// An option of the command line.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Option(name) => write!(f, "option {name}"),
        }
    }
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file or directory that exists, or that was named, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{} is not valid TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what.
        source: Box<toml::de::Error>,
    },
    /// A key has a value of the wrong type.
    #[error("{origin}: {key} is not {want}")]
    Type {
        /// Where it is set.
        origin: Origin,
        /// The key with its tables.
        key: String,
        /// The type it should have.
        want: &'static str,
    },
    /// A setting under which the store would be another one than we read and write.
    #[error("{origin} sets {key} to {value}: {why}; {remedy}")]
    Unsupported {
        /// Where it is set.
        origin: Origin,
        /// The key with its tables.
        key: String,
        /// The value, shortened.
        value: String,
        /// Why it is refused.
        why: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A path names a variable that is not set.
    #[error("{origin}: {key} names ${name}, which is not set; set it or write the path out")]
    Unset {
        /// Where the path is set.
        origin: Origin,
        /// The key with its tables.
        key: String,
        /// The variable.
        name: String,
    },
    /// A path does not begin at the root.
    #[error("{origin}: {key} is {value:?}; an absolute path is needed")]
    Relative {
        /// Where the path is set.
        origin: Origin,
        /// The key with its tables.
        key: String,
        /// The path.
        value: PathBuf,
    },
    /// An unprivileged user's default path cannot be told.
    #[error("no {what}: neither {variables} is set; set one, or give --root and --runroot")]
    NoHome {
        /// `graphroot` or the like.
        what: &'static str,
        /// The variables that would tell.
        variables: &'static str,
    },
}
