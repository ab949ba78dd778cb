//! Failed attempts: what the other side said, sorted by whether another attempt makes sense.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, Instant};

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode, Url};
use tokio::time::timeout;

use super::error::{RegistryError, plain};

/// How much of an error page is read, in bytes.
const ERROR_PAGE_MAX: usize = 16 << 10;
/// The most of a registry's own words that an error shows, in characters.
pub(super) const SAID_MAX: usize = 300;
/// The longest pause that a registry may ask for and get.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// An attempt that failed, and whether another one makes sense.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Box<RegistryError>,
    pub(super) again: Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After the usual pause.
    Soon,
    /// After the pause the registry asked for.
    After(Duration),
}

impl Failure {
    pub(super) fn last(error: RegistryError) -> Self {
        Self { error: error.into(), again: Again::Never }
    }

    pub(super) fn soon(error: RegistryError) -> Self {
        Self { error: error.into(), again: Again::Soon }
    }
}

/// `HOST[:PORT]` of an address.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The error for a status that is none of success; `said` are the registry's own words.
pub(super) fn status_error(what: &str, host: &str, response: &Response, said: String) -> Failure {
    let (what, host) = (what.to_owned(), host.to_owned());
    let status = response.status();
    let pause = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    let again = pause.map_or(Again::Soon, |p| Again::After(p.min(PAUSE_MAX)));
    match status {
        StatusCode::NOT_FOUND => Failure::last(RegistryError::NotFound { what, host, said }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::last(RegistryError::Unauthorized { what, host, said }),
        StatusCode::TOO_MANY_REQUESTS => Failure { error: RegistryError::RateLimited { what, host, said }.into(), again },
        status => {
            let again = if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT { again } else { Again::Never };
            Failure { error: RegistryError::Server { what, host, status: status.to_string(), said }.into(), again }
        }
    }
}

/// The registry's own words in an error page: its JSON errors, else the beginning of the text. The whole page has
/// this time.
pub(super) async fn said(response: &mut Response, time: Duration) -> String {
    let mut page = Vec::new();
    let begun = Instant::now();
    while let Ok(Ok(Some(bytes))) = timeout(time.saturating_sub(begun.elapsed()), response.chunk()).await {
        page.extend(bytes.iter().take(ERROR_PAGE_MAX.saturating_sub(page.len())));
        if page.len() >= ERROR_PAGE_MAX {
            break;
        }
    }
    words(&page)
}

fn words(page: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Page {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    if let Ok(page) = serde_json::from_slice::<Page>(page) {
        let item = |i: Item| [i.code, i.message].into_iter().flatten().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(": ");
        return plain(&page.errors.into_iter().map(item).collect::<Vec<_>>().join("; "), SAID_MAX);
    }
    let text = String::from_utf8_lossy(page);
    // A page for people is noise here.
    if text.trim_start().starts_with('<') { String::new() } else { plain(&text, SAID_MAX) }
}

/// Whether an error or one of its causes is of a kind.
pub(super) fn any_cause(error: &(dyn StdError + 'static), kind: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if kind(cause) {
            return true;
        }
        // An io::Error hides what it holds from source().
        let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = held.map(|h| h as &dyn StdError).or_else(|| cause.source());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_shown_short_and_plain() {
        assert_eq!(words(br#"{"errors":[{"code":"DENIED","message":"no\u001b[2J","detail":{}},{"message":"x"}]}"#), "DENIED: no[2J; x");
        assert_eq!(words(b"gone\r\n away"), "gone away");
        assert_eq!(words(b" <html>"), "");
        assert_eq!(words(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
