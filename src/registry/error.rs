//! The errors of this floor, grouped by what a caller can do about them.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use super::archive::ArchiveError;
use super::manifest::ContentError;
use crate::reference::ReferenceError;
use crate::{fsio, ids::Digest};

/// A cause whose type does not matter to the caller.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is not one; nothing was asked of anybody.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// There is no such image, tag or blob.
    #[error("{what} not found on {host}{}", colon(said))]
    NotFound {
        /// The object that was asked for.
        what: String,
        /// The registry or directory.
        host: String,
        /// The registry's own words, sanitised; may be empty.
        said: String,
    },
    /// The registry wants other credentials (401, 403).
    #[error("{what}: access denied by {host}{}; log in to it, or give --creds or --authfile", colon(said))]
    Unauthorized {
        /// The object that was asked for.
        what: String,
        /// The registry or its token server.
        host: String,
        /// The registry's own words, sanitised; may be empty.
        said: String,
    },
    /// The registry sent us to another host, and that one refused us (401, 403).
    #[error("{what}: {host} redirected to {target}, which answered {answer}; only {host} is given its credentials")]
    Redirected {
        /// The object that was asked for.
        what: String,
        /// The registry.
        host: String,
        /// The host that refused.
        target: String,
        /// The HTTP status, and that host's own words, sanitised.
        answer: String,
    },
    /// The registry wants us to come back later (429).
    #[error("{what}: {host} limits requests{}; try again later or log in", colon(said))]
    RateLimited {
        /// The object that was asked for.
        what: String,
        /// The registry.
        host: String,
        /// The registry's own words, sanitised; may be empty.
        said: String,
    },
    /// No connection: unknown host, connection refused, no route, no answer in time.
    #[error("registry {host} cannot be reached; check the name, the network and that it is running")]
    Unreachable {
        /// The registry.
        host: String,
        /// What failed.
        source: Cause,
    },
    /// A connection, but no TLS on it that can be trusted.
    #[error(
        "registry {host}: TLS failed; if its certificate is signed by an authority of your own, make that known to the system; if nobody need be sure who it is, use --tls-verify=false, or insecure = true in registries.conf"
    )]
    Tls {
        /// The registry.
        host: String,
        /// What failed.
        source: Cause,
    },
    /// The registry keeps the connection open and sends nothing, or too little.
    #[error("{what}: {host} sent {} {} s after {got} bytes{}", amount(*sent), seconds(idle), tried(*tries))]
    Stalled {
        /// The object that was being fetched.
        what: String,
        /// The registry.
        host: String,
        /// Bytes received so far.
        got: u64,
        /// Bytes that came in this time.
        sent: u64,
        /// How long nothing, or no more than that, came.
        idle: Duration,
        /// How many attempts were made.
        tries: u32,
    },
    /// The connection broke in the middle.
    #[error("{what}: the connection to {host} broke after {got} bytes{}", tried(*tries))]
    Broken {
        /// The object that was being fetched.
        what: String,
        /// The registry.
        host: String,
        /// Bytes received so far.
        got: u64,
        /// How many attempts were made.
        tries: u32,
        /// What failed.
        source: Cause,
    },
    /// The registry failed (5xx) or gave an answer that makes no sense here.
    #[error("{what}: {host} answered {status}{}", colon(said))]
    Server {
        /// The object that was asked for.
        what: String,
        /// The registry.
        host: String,
        /// The HTTP status, or what stands for it.
        status: String,
        /// The registry's own words, sanitised; may be empty.
        said: String,
    },
    /// The object is not what was asked for: its bytes have another digest.
    #[error("{what} from {host} has digest {got}, wanted {wanted}; the registry or something on the way damaged it")]
    Digest {
        /// The object.
        what: String,
        /// The registry or directory.
        host: String,
        /// The digest it should have.
        wanted: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// The object's length is not the declared one.
    #[error("{what} from {host}: {got}, expected {declared} bytes; refused")]
    Length {
        /// The object.
        what: String,
        /// The registry or directory.
        host: String,
        /// The declared length.
        declared: u64,
        /// What was seen.
        got: String,
    },
    /// The object arrived whole and is not acceptable.
    #[error("{what} refused")]
    Content {
        /// The object.
        what: String,
        /// What is wrong with it.
        source: ContentError,
    },
    /// This host does not accept the image, or not by this name: policy.json or registries.conf says so.
    #[error("{name} is not accepted: {why}")]
    Forbidden {
        /// The image.
        name: String,
        /// The file and what it says.
        why: String,
    },
    /// A file of the host's about registries cannot be used.
    #[error("{path}: {why}")]
    Configuration {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of credentials cannot be used.
    #[error("credentials file {path}: {why}")]
    Credentials {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A local source cannot be read.
    #[error("{what} cannot be read")]
    Local {
        /// The object.
        what: String,
        /// The system call and path.
        source: fsio::Error,
    },
    /// A local archive is not one that can be used.
    #[error("{archive} cannot be used")]
    Archive {
        /// The archive's kind and path.
        archive: String,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// The caller wanted no more of it.
    #[error("cancelled")]
    Cancelled,
    /// The system gave us no threads, sockets or TLS to work with.
    #[error("the network client cannot start")]
    Client {
        /// What failed.
        source: Cause,
    },
}

/// The result of this floor.
pub type Result<T> = std::result::Result<T, RegistryError>;

impl RegistryError {
    /// The error of this floor inside what a blob's reader returned, if it is one.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The same error, counted as the last of `tries` attempts.
    pub(super) fn after(mut self, count: u32) -> Self {
        if let Self::Stalled { tries, .. } | Self::Broken { tries, .. } = &mut self {
            *tries = count;
        }
        self
    }
}

pub(super) fn colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn seconds(idle: &Duration) -> f64 {
    idle.as_secs_f64()
}

fn amount(sent: u64) -> String {
    if sent > 0 { format!("only {sent} bytes in") } else { "nothing for".into() }
}

fn tried(tries: u32) -> String {
    if tries > 1 { format!(", attempt {tries}") } else { String::new() }
}

/// Makes foreign text fit for a terminal: one line, no control or direction characters, at most `max` characters.
pub fn plain(text: &str, max: usize) -> String {
    let hidden =
        |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let mut line = String::new();
    let mut count = 0;
    // Blank runs become one blank, so that nothing can push the rest off the screen.
    for c in text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !hidden(*c)) {
        if c == ' ' && (line.is_empty() || line.ends_with(' ')) {
            continue;
        }
        if count == max {
            line.push('…');
            break;
        }
        line.push(c);
        count += 1;
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        assert_eq!(plain("a\x1b[31mb\r\n\t c\u{202e}d\u{7}", 100), "a[31mb cd");
        assert_eq!(plain(&"x".repeat(500), 3), "xxx…");
        assert_eq!(plain(" \n ", 5), "");
    }
}
