//! One registry's HTTP connection: requests with the right headers, and errors that say what failed.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, Url, redirect};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::credentials::Login;
use super::error::{RegistryError, colon, plain};
use super::failure::{Failure, SAID_MAX, any_cause, host_of, said, status_error};
use super::fetch::Options;
use super::pace::Pace;
use crate::causes::in_one_line;

const REDIRECTS_MAX: usize = 10;
/// The most of another host's name that an error shows, in characters.
const HOST_MAX: usize = 100;

/// A client for one repository of one registry.
pub(super) struct Client {
    pub(super) inner: reqwest::Client,
    /// For credentials: it follows no redirect, which could repeat the body of a POST elsewhere.
    pub(super) tokens: reqwest::Client,
    /// `HOST[:PORT]` as errors show it.
    pub(super) host: String,
    /// The repository.
    pub(super) path: String,
    pub(super) login: Option<Login>,
    pub(super) stall: Duration,
    small: Duration,
    pub(super) pace: Pace,
    scheme: &'static str,
    api_host: String,
    /// What answered the last challenge.
    auth: Mutex<Option<HeaderValue>>,
    pub(super) retries: u32,
    pub(super) delay: Duration,
}

impl Client {
    pub(super) fn new(reference: &super::Reference, options: &Options, login: Option<Login>) -> Result<Self, RegistryError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() && rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("another thread has installed the TLS provider");
        }
        let build = |redirects| build(reference, options, redirects).map_err(|e| RegistryError::Client { source: e.into() });
        Ok(Self {
            inner: build(redirect::Policy::limited(REDIRECTS_MAX))?,
            tokens: build(redirect::Policy::none())?,
            host: reference.host().to_owned(),
            path: reference.path().to_owned(),
            login,
            stall: options.stall,
            small: options.small_deadline.unwrap_or(options.stall.saturating_mul(5)),
            pace: Pace::new(options.blob_floor, options.blob_window.unwrap_or(options.stall.saturating_mul(4))),
            scheme: "https",
            api_host: reference.api_host().to_owned(),
            auth: Mutex::new(None),
            retries: options.retries,
            delay: options.retry_delay,
        })
    }

    /// Finds out whether a registry that need not be verified speaks https or http; https is tried first.
    pub(super) async fn choose_scheme(&mut self) -> Result<(), Failure> {
        self.scheme = "https";
        let Err(failure) = self.send("the API", self.inner.get(self.url("/v2/"))).await else { return Ok(()) };
        tracing::debug!(host = self.host, error = &*failure.error as &dyn StdError, "no https, trying http");
        self.scheme = "http";
        self.send("the API", self.inner.get(self.url("/v2/"))).await.map(|_| ())
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.api_host)
    }

    /// GETs an object of the repository; answers a challenge once; any status but 200, 206 and 416 is an error.
    pub(super) async fn get(&self, what: &str, path: &str, accept: &'static str, from: u64) -> Result<Response, Failure> {
        let url = self.url(&format!("/v2/{}/{path}", self.path));
        let mut challenged = false;
        loop {
            let used = self.auth.lock().await.clone();
            let mut request = self.inner.get(&url).header(ACCEPT, accept);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(value) = &used {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let mut response = self.send(what, request).await?;
            let status = response.status();
            if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
                return Ok(response);
            }
            let words = self.said(&mut response).await;
            let failure = self.refusal(what, &response, words);
            // What another host asks for, it does not get: its challenge names a token server of its own choice.
            if status != StatusCode::UNAUTHORIZED || challenged || self.other(&response).is_some() {
                return Err(failure);
            }
            challenged = true;
            let mut headers = challenges(&response);
            if headers.is_empty() {
                headers = self.root_challenges().await?;
            }
            // One answer serves all threads: whoever comes second finds another header than the one it used.
            let mut auth = self.auth.lock().await;
            if *auth == used {
                *auth = Some(self.answer(what, &headers, *failure.error).await?);
            }
        }
    }

    /// What the root of the API asks for, for a registry whose 401 does not say it.
    async fn root_challenges(&self) -> Result<Vec<String>, Failure> {
        let response = self.send("the API", self.inner.get(self.url("/v2/"))).await?;
        let own = response.status() == StatusCode::UNAUTHORIZED && self.other(&response).is_none();
        Ok(if own { challenges(&response) } else { Vec::new() })
    }

    /// The host that answered, if a redirect led to another one than the registry.
    fn other(&self, response: &Response) -> Option<String> {
        let own = Url::parse(&self.url("/v2/")).is_ok_and(|url| url.origin() == response.url().origin());
        (!own).then(|| plain(&host_of(response.url()), HOST_MAX))
    }

    /// The error for a status that is none of success, naming who answered.
    pub(super) fn refusal(&self, what: &str, response: &Response, said: String) -> Failure {
        let Some(target) = self.other(response) else { return status_error(what, &self.host, response, said) };
        match response.status() {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Failure::last(RegistryError::Redirected {
                what: what.to_owned(),
                host: self.host.clone(),
                target,
                answer: format!("{status}{}", colon(&said)),
            }),
            _ => status_error(what, &by_way_of(&target, &self.host), response, said),
        }
    }

    /// Sends a request and waits for the headers, not longer than a stall may last.
    pub(super) async fn send(&self, what: &str, request: RequestBuilder) -> Result<Response, Failure> {
        match timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.classify(what, 0, error)),
            Err(_) => Err(Failure::soon(self.stalled(what, 0))),
        }
    }

    /// The whole body of at most `max` bytes, in the time that a small object may take.
    pub(super) async fn body(&self, what: &str, response: &mut Response, max: u64) -> Result<Vec<u8>, Failure> {
        let too_long = |got: String| RegistryError::Length { what: what.to_owned(), host: self.host.clone(), declared: max, got };
        if let Some(length) = response.content_length().filter(|l| *l > max) {
            return Err(Failure::last(too_long(format!("{length} bytes announced"))));
        }
        let mut body = Vec::new();
        let begun = Instant::now();
        loop {
            let got = body.len() as u64;
            let left = self.small.saturating_sub(begun.elapsed());
            match timeout(self.stall.min(left), response.chunk()).await {
                Err(_) if left < self.stall => return Err(Failure::soon(self.slow(what, got, got, self.small))),
                Err(_) => return Err(Failure::soon(self.stalled(what, got))),
                Ok(Err(error)) => return Err(self.classify(what, got, error)),
                Ok(Ok(None)) => return Ok(body),
                Ok(Ok(Some(bytes))) if got + bytes.len() as u64 > max => {
                    return Err(Failure::last(too_long(format!("more than {max} bytes came"))));
                }
                Ok(Ok(Some(bytes))) => body.extend_from_slice(&bytes),
            }
        }
    }

    pub(super) fn stalled(&self, what: &str, got: u64) -> RegistryError {
        self.slow(what, got, 0, self.stall)
    }

    /// The other side's own words in an error page.
    pub(super) async fn said(&self, response: &mut Response) -> String {
        said(response, self.stall.min(self.small)).await
    }

    /// Only `sent` bytes came in `idle`.
    pub(super) fn slow(&self, what: &str, got: u64, sent: u64, idle: Duration) -> RegistryError {
        RegistryError::Stalled { what: what.to_owned(), host: self.host.clone(), got, sent, idle, tries: 1 }
    }

    /// Sorts what reqwest says. Its URL is cut off: a redirect's may hold a signature.
    pub(super) fn classify(&self, what: &str, got: u64, error: reqwest::Error) -> Failure {
        // Another host is one that the registry sent us to.
        let host = match error.url().map(host_of).filter(|h| !h.is_empty() && *h != self.api_host) {
            Some(other) => by_way_of(&plain(&other, HOST_MAX), &self.host),
            None => self.host.clone(),
        };
        let error = error.without_url();
        if error.is_redirect() {
            let said = plain(&in_one_line(&error), SAID_MAX);
            return Failure::last(RegistryError::Server { what: what.to_owned(), host, status: "a bad redirect".into(), said });
        }
        if error.is_builder() {
            let said = if self.scheme == "https" { "plain http is not used while TLS is verified" } else { "" };
            return Failure::last(RegistryError::Server { what: what.to_owned(), host, status: "a bad address".into(), said: said.into() });
        }
        if any_cause(&error, |c| c.is::<rustls::Error>()) {
            return Failure::last(RegistryError::Tls { host, source: error.into() });
        }
        // TCP does not end while it connects: it was TLS that the other side hung up on.
        if error.is_connect()
            && any_cause(&error, |c| c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof))
        {
            return Failure::soon(RegistryError::Tls { host, source: error.into() });
        }
        if error.is_connect() || error.is_timeout() {
            return Failure::soon(RegistryError::Unreachable { host, source: error.into() });
        }
        Failure::soon(RegistryError::Broken { what: what.to_owned(), host, got, tries: 1, source: error.into() })
    }
}

fn build(reference: &super::Reference, options: &Options, redirects: redirect::Policy) -> reqwest::Result<reqwest::Client> {
    let verify = options.tls_verify.unwrap_or(true);
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("cstor-rs/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .referer(false)
        .redirect(redirects)
        .connect_timeout(options.connect_timeout)
        // With verification on nothing goes over plain http, redirects and token servers included.
        .https_only(verify)
        .tls_danger_accept_invalid_certs(!verify);
    if is_loopback(reference.api_host()) {
        builder = builder.no_proxy();
    }
    builder.build()
}

fn by_way_of(other: &str, host: &str) -> String {
    format!("{other} (by way of {host})")
}

fn challenges(response: &Response) -> Vec<String> {
    response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|h| h.to_str().ok().map(str::to_owned)).collect()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or(inner),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_name_and_address() {
        for (host, want) in
            [("localhost:5000", true), ("127.0.0.9", true), ("[::1]:80", true), ("localhost.io", false), ("[fe80::1]", false)]
        {
            assert_eq!(is_loopback(host), want, "{host}");
        }
    }
}
