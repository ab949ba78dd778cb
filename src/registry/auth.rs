//! Answering a registry's challenge: Basic, or a token from the server it names.
//!
//! Only the registry's own challenges come here (R3), and a token server's redirects are not followed.

use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::credentials::Login;
use super::error::RegistryError;
use super::failure::{Failure, host_of, status_error};
use super::http::Client;

/// The largest answer of a token server, in bytes.
const ANSWER_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// The `Authorization` header that answers the challenges of a 401; `refused` is the error if none can be.
    pub(super) async fn answer(&self, what: &str, headers: &[String], refused: RegistryError) -> Result<HeaderValue, Failure> {
        let challenges: Vec<Challenge> = headers.iter().flat_map(|h| challenge::parse(h)).collect();
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            return self.token(what, bearer).await;
        }
        let basic = challenges.iter().any(|c| c.scheme == "basic");
        match self.login.as_ref().and_then(Login::basic) {
            Some(header) if basic => secret(&header).ok_or(Failure::last(refused)),
            _ => Err(Failure::last(refused)),
        }
    }

    async fn token(&self, what: &str, bearer: &Challenge) -> Result<HeaderValue, Failure> {
        let bad = |status: &str, host: &str, text: &str| {
            let (what, host) = (format!("token for {what}"), host.to_owned());
            Failure::last(RegistryError::Server { what, host, status: status.to_owned(), said: super::plain(text, 200) })
        };
        let realm = bearer.param("realm").unwrap_or_default();
        let url = Url::parse(realm).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
        let mut url = url.ok_or_else(|| bad("a challenge without a usable realm", &self.host, realm))?;
        let server = host_of(&url);
        let service = bearer.param("service").filter(|s| !s.is_empty());
        let default_scope = format!("repository:{}:pull", self.path);
        let scope = bearer.param("scope").filter(|s| !s.is_empty()).unwrap_or(&default_scope);
        let mut query = vec![("scope", scope)];
        query.extend(service.map(|s| ("service", s)));
        let request = match &self.login {
            Some(Login::Identity(token)) => {
                query.extend([("grant_type", "refresh_token"), ("client_id", "cstor-rs"), ("refresh_token", token)]);
                let mut form = Url::parse("http://form/").map_err(|e| bad("no form", &server, &e.to_string()))?;
                form.query_pairs_mut().extend_pairs(&query);
                let body = form.query().unwrap_or_default().to_owned();
                self.tokens.post(url).header("Content-Type", "application/x-www-form-urlencoded").body(body)
            }
            login => {
                url.query_pairs_mut().extend_pairs(&query);
                match login.as_ref().and_then(Login::basic).as_deref().and_then(secret) {
                    Some(basic) => self.tokens.get(url).header("Authorization", basic),
                    None => self.tokens.get(url),
                }
            }
        };
        let asked = format!("token for {what}");
        let mut response = self.send(&asked, request).await?;
        if response.status() != StatusCode::OK {
            let words = self.said(&mut response).await;
            return Err(status_error(&asked, &server, &response, words));
        }
        let body = self.body(&asked, &mut response, ANSWER_MAX).await?;
        // The parser's own words could quote the token.
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| bad("something that is not a token", &server, ""))?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).filter(|t| !t.is_empty());
        let header = token.and_then(|t| secret(&format!("Bearer {t}")));
        header.ok_or_else(|| bad("something without a usable token", &server, ""))
    }
}

/// A header that no log shows.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
