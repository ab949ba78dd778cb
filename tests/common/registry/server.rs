//! The HTTP side: one thread accepts, one thread serves each connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use cstor_rs::ids::Digest;
use data_encoding::BASE64;

use super::{Access, Fault, Inner, Request, State};

const HEAD_MAX: u64 = 64 << 10;

pub(super) fn start() -> (Arc<Inner>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let inner = Arc::new(Inner { state: Mutex::new(State::default()), stop: Condvar::new(), asked: Condvar::new(), address });
    let own = inner.clone();
    let accept = thread::spawn(move || {
        for connection in listener.incoming() {
            let mut state = own.state.lock().unwrap();
            if state.stopped {
                return;
            }
            let Ok(connection) = connection else { continue };
            connection.set_nodelay(true).unwrap();
            state.connections.push(connection.try_clone().unwrap());
            let inner = own.clone();
            state.threads.push(thread::spawn(move || {
                // A client may go away at any time.
                drop(serve(&inner, &connection));
                drop(connection.shutdown(std::net::Shutdown::Both));
            }));
        }
    });
    (inner, accept)
}

fn serve(inner: &Inner, connection: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_request(&mut reader)? {
        let (answer, fault) = {
            let mut state = inner.state.lock().unwrap();
            state.requests.push(request.clone());
            inner.asked.notify_all();
            let fault = state.rules.iter_mut().find(|r| r.times > 0 && request.path.contains(&r.path_part)).map(|r| {
                r.times -= 1;
                r.fault.clone()
            });
            (state.answer(&request, &inner.address.to_string()), fault)
        };
        let head = request.method == "HEAD";
        if !send(inner, connection, &request, answer, fault, head)? {
            return Ok(());
        }
    }
    Ok(())
}

/// `None` at the end of the connection, and for what is not HTTP (a TLS hello).
fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    if reader.fill_buf()?.first().is_none_or(|b| !b.is_ascii_uppercase()) {
        return Ok(None);
    }
    let mut head = Read::by_ref(reader).take(HEAD_MAX);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let mut body = vec![0; headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0usize).min(1 << 20)];
    reader.read_exact(&mut body)?;
    let get = |name: &str| headers.get(name).cloned();
    Ok(Some(Request { method, path, range: get("range"), authorization: get("authorization"), headers, body }))
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
}

impl Answer {
    fn new(status: u16, content_type: &str, body: Arc<Vec<u8>>) -> Self {
        Self { status, headers: vec![("Content-Type".into(), content_type.into())], body }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let page = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Self::new(status, "application/json", Arc::new(page.to_string().into_bytes()))
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value.into());
        self
    }

    fn set(&mut self, name: &str, value: String) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value));
    }
}

impl State {
    fn answer(&mut self, request: &Request, host: &str) -> Answer {
        let path = request.path.split('?').next().unwrap();
        if path == "/token" {
            return self.token(request);
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Answer::error(404, "NOT_FOUND", "no such path") };
        if let Some(refused) = self.refuse(request, host) {
            return refused;
        }
        if rest.is_empty() {
            return Answer::new(200, "application/json", Arc::new(b"{}".to_vec()));
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            return match self.blobs.get(digest) {
                Some(bytes) => Answer::new(200, "application/octet-stream", bytes.clone()).with("Docker-Content-Digest", digest),
                None => Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
            };
        }
        let found = rest.split_once("/manifests/").and_then(|(name, target)| self.manifests.get(&format!("{name}/{target}")));
        match found {
            Some((media_type, bytes)) => {
                Answer::new(200, media_type, bytes.clone()).with("Docker-Content-Digest", Digest::of(bytes).to_string())
            }
            None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    /// A 401 with its challenge, unless the request may pass.
    fn refuse(&mut self, request: &Request, host: &str) -> Option<Answer> {
        let sent = request.authorization.as_deref().unwrap_or_default();
        let challenge = match self.access.as_ref()? {
            Access::Open => return None,
            Access::Basic(user, password) if sent == basic(user, password) => return None,
            Access::Basic(..) => r#"Basic realm="embedded""#.to_owned(),
            Access::Bearer(_) => {
                let token = sent.strip_prefix("Bearer ").unwrap_or_default();
                if let Some(left) = self.tokens.get_mut(token).filter(|left| **left > 0) {
                    *left -= 1;
                    return None;
                }
                let name = request.path.strip_prefix("/v2/").unwrap_or_default();
                let name = name.split("/manifests/").next().unwrap_or(name).split("/blobs/").next().unwrap_or(name);
                format!(r#"Bearer realm="http://{host}/token",service="embedded",scope="repository:{name}:pull""#)
            }
        };
        Some(Answer::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", challenge))
    }

    fn token(&mut self, request: &Request) -> Answer {
        let Some(Access::Bearer(user)) = &self.access else { return Answer::error(404, "NOT_FOUND", "no tokens here") };
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let query = request.path.split_once('?').map_or(form.as_str(), |(_, q)| q);
        if !query.contains("service=embedded") || !query.contains("scope=repository") {
            return Answer::error(400, "BAD_REQUEST", "service and scope are missing");
        }
        let good = user.is_none_or(|(user, password)| {
            request.authorization.as_deref() == Some(&*basic(user, password)) || query.contains(&format!("refresh_token={password}"))
        });
        if !good {
            return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
        }
        let token = format!("token-{}", self.tokens.len());
        self.tokens.insert(token.clone(), self.token_uses.unwrap_or(u32::MAX));
        // Servers use either name; ours takes turns.
        let key = if self.tokens.len() % 2 == 1 { "token" } else { "access_token" };
        let page = serde_json::json!({key: token, "expires_in": 60});
        Answer::new(200, "application/json", Arc::new(page.to_string().into_bytes()))
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

/// Sends the answer with its fault; whether the connection can go on.
fn send(inner: &Inner, mut to: &TcpStream, request: &Request, mut answer: Answer, fault: Option<Fault>, head: bool) -> io::Result<bool> {
    let mut range = request.range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let (mut length, mut stop, mut stall, mut chunked) = (None, usize::MAX, false, None);
    match fault {
        None => {}
        Some(Fault::StallBeforeHeaders) => return stalled(inner),
        Some(Fault::Status(status, text)) => answer = Answer::new(status, "text/plain", Arc::new(text.into())),
        Some(Fault::StatusWith(status, (name, value), text)) => {
            answer = Answer::new(status, "text/plain", Arc::new(text.into())).with(name, value);
        }
        Some(Fault::Challenge(challenge, text)) => {
            answer = Answer::new(401, "text/plain", Arc::new(text.into())).with("WWW-Authenticate", challenge);
        }
        Some(Fault::Redirect(address)) => answer = Answer::new(307, "text/plain", Arc::default()).with("Location", address),
        Some(Fault::StallAfter(bytes)) => (stop, stall) = (bytes, true),
        Some(Fault::CloseAfter(bytes)) => stop = bytes,
        Some(Fault::WrongBytes) => {
            let mut body = answer.body.to_vec();
            *body.last_mut().unwrap() ^= 1;
            answer.body = Arc::new(body);
        }
        Some(Fault::Body(body)) => answer.body = Arc::new(body),
        Some(Fault::ContentLength(said)) => length = Some(said),
        Some(Fault::Chunked(more)) => chunked = Some(more),
        Some(Fault::IgnoreRange) => range = None,
        Some(Fault::ContentRange(said)) => {
            answer.status = 206;
            answer.set("Content-Range", said.to_owned());
        }
        Some(Fault::ContentType(said)) => answer.set("Content-Type", said.to_owned()),
        Some(Fault::DigestHeader(said)) => answer.set("Docker-Content-Digest", said),
    }
    let whole = answer.body.len();
    let mut first = 0;
    if let Some(from) = range.filter(|_| answer.status == 200) {
        first = from.min(whole);
        if from < whole {
            answer.status = 206;
            answer.set("Content-Range", format!("bytes {from}-{}/{whole}", whole - 1));
        } else {
            answer.status = 416;
            answer.set("Content-Range", format!("bytes */{whole}"));
        }
    }
    let bytes = answer.body.clone();
    let body = &bytes[first..];
    let mut lines = format!("HTTP/1.1 {} Embedded\r\n", answer.status);
    match chunked {
        Some(_) => answer.set("Transfer-Encoding", "chunked".into()),
        None => answer.set("Content-Length", length.unwrap_or(body.len() as u64).to_string()),
    }
    for (name, value) in &answer.headers {
        lines.push_str(&format!("{name}: {value}\r\n"));
    }
    lines.push_str("\r\n");
    to.write_all(lines.as_bytes())?;
    if head {
        return Ok(true);
    }
    if let Some(more) = chunked {
        for part in [body, &more[..]].into_iter().filter(|p| !p.is_empty()) {
            write!(to, "{:x}\r\n", part.len())?;
            to.write_all(part)?;
            to.write_all(b"\r\n")?;
        }
        to.write_all(b"0\r\n\r\n")?;
        return Ok(true);
    }
    to.write_all(&body[..stop.min(body.len())])?;
    if stall {
        return stalled(inner);
    }
    Ok(stop >= body.len() && length.is_none())
}

/// Holds the connection open until the registry stops.
fn stalled(inner: &Inner) -> io::Result<bool> {
    let state = inner.state.lock().unwrap();
    drop(inner.stop.wait_while(state, |s| !s.stopped).unwrap());
    Ok(false)
}
