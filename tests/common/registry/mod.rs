//! A registry inside the test process: images in memory, plain HTTP/1.1 on a loopback port, threads and nothing
//! more. It records what was asked of it, and misbehaves as its script says ([`Fault`]).
//!
//! Nothing here sleeps. A stall waits until the registry is dropped; the client has to give up by itself.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod image;
mod server;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use cstor_rs::ids::Digest;

pub use image::{Compression, ImageSpec, Pushed, tar};

/// One thing that goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another status with this body.
    Status(u16, &'static str),
    /// Another status with one more header, and this body.
    StatusWith(u16, (&'static str, &'static str), &'static str),
    /// Status 401 with this `WWW-Authenticate`, and these words.
    Challenge(String, &'static str),
    /// The connection stays open and nothing comes.
    StallBeforeHeaders,
    /// After this many bytes of the body nothing more comes.
    StallAfter(usize),
    /// The connection is closed after this many bytes of the body.
    CloseAfter(usize),
    /// The last byte of the body is another one.
    WrongBytes,
    /// Another body, with its own honest length.
    Body(Vec<u8>),
    /// The header says this length, the body is as it is.
    ContentLength(u64),
    /// No length, and these bytes behind the right ones.
    Chunked(Vec<u8>),
    /// The whole body with status 200, whatever range was asked for.
    IgnoreRange,
    /// Status 206 with this `Content-Range`.
    ContentRange(&'static str),
    /// Another `Content-Type`.
    ContentType(&'static str),
    /// Another `Docker-Content-Digest`.
    DigestHeader(String),
    /// Status 307 to this address.
    Redirect(String),
}

/// Who may read.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody.
    Open,
    /// This user and password, sent with every request.
    Basic(&'static str, &'static str),
    /// A token from `/token` of this registry, given to everybody or to this user and password.
    Bearer(Option<(&'static str, &'static str)>),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// GET, HEAD or POST.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Every header, names in lowercase.
    pub headers: HashMap<String, String>,
    /// What a POST carried.
    pub body: Vec<u8>,
}

struct Rule {
    path_part: String,
    times: u32,
    fault: Fault,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Arc<Vec<u8>>>,
    /// By `NAME/TAG` and by `NAME/DIGEST`: media type and bytes.
    manifests: HashMap<String, (String, Arc<Vec<u8>>)>,
    rules: Vec<Rule>,
    requests: Vec<Request>,
    access: Option<Access>,
    /// The tokens given out, and how often each may still be used.
    tokens: HashMap<String, u32>,
    token_uses: Option<u32>,
    stopped: bool,
    connections: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    state: Mutex<State>,
    /// Notified when the registry stops.
    stop: Condvar,
    /// Notified when something was asked.
    asked: Condvar,
    address: SocketAddr,
}

/// A running registry; dropping it ends its threads.
pub struct Registry {
    inner: Arc<Inner>,
    accept: Option<JoinHandle<()>>,
}

impl Registry {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let (inner, accept) = server::start();
        Self { inner, accept: Some(accept) }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.inner.address.to_string()
    }

    /// The reference of an image here: `127.0.0.1:PORT/NAME`, with what follows a name.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Keeps a blob.
    pub fn add_blob(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.state(|s| s.blobs.insert(digest.to_string(), Arc::new(bytes)));
        digest
    }

    /// Keeps a manifest under its digest and, if given, a tag.
    pub fn add_manifest(&self, name: &str, tag: Option<&str>, media_type: &str, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = Arc::new(bytes.into());
        let digest = Digest::of(&bytes);
        self.state(|s| {
            for target in [Some(digest.as_str()), tag].into_iter().flatten() {
                s.manifests.insert(format!("{name}/{target}"), (media_type.to_owned(), bytes.clone()));
            }
        });
        digest
    }

    /// The bytes of a blob that is kept.
    pub fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.state(|s| s.blobs.get(digest.as_str()).map(|bytes| bytes.to_vec()))
    }

    /// The bytes of a manifest that is kept under any name.
    pub fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        let end = format!("/{digest}");
        self.state(|s| s.manifests.iter().find(|(key, _)| key.ends_with(&end)).map(|(_, (_, bytes))| bytes.to_vec()))
    }

    /// The next `times` answers to paths that contain `path_part` go wrong like this. The first rule that
    /// matches and is not used up counts.
    pub fn script(&self, path_part: impl AsRef<str>, times: u32, fault: Fault) -> &Self {
        self.state(|s| s.rules.push(Rule { path_part: path_part.as_ref().to_owned(), times, fault }));
        self
    }

    /// Forgets the script: everything goes right again.
    pub fn heal(&self) {
        self.state(|s| s.rules.clear());
    }

    /// Waits until what was asked so far is so.
    pub fn wait_for(&self, done: impl Fn(&[Request]) -> bool) {
        let mut state = self.inner.state.lock().unwrap();
        while !done(&state.requests) {
            state = self.inner.asked.wait(state).unwrap();
        }
    }

    /// Lets in only who proves who it is.
    pub fn guard(&self, access: Access) -> &Self {
        self.state(|s| s.access = Some(access));
        self
    }

    /// Each token is good for this many requests.
    pub fn token_uses(&self, uses: u32) -> &Self {
        self.state(|s| s.token_uses = Some(uses));
        self
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state(|s| s.requests.clone())
    }

    /// `METHOD PATH` or `METHOD PATH RANGE` of what was asked so far, without the pings of `/v2/`.
    pub fn log(&self) -> Vec<String> {
        let line = |r: &Request| match &r.range {
            Some(range) => format!("{} {} {range}", r.method, r.path),
            None => format!("{} {}", r.method, r.path),
        };
        self.requests().iter().filter(|r| r.path != "/v2/").map(line).collect()
    }

    /// Forgets what was asked so far.
    pub fn forget(&self) {
        self.state(|s| s.requests.clear());
    }

    /// Closes the port and every connection: further ones are refused.
    pub fn stop(&mut self) {
        self.state(|s| {
            s.stopped = true;
            for connection in &s.connections {
                // One that the client has closed is not connected any more.
                drop(connection.shutdown(std::net::Shutdown::Both));
            }
        });
        self.inner.stop.notify_all();
        if let Some(accept) = self.accept.take() {
            // Wakes accept(), which then sees that it is over.
            drop(TcpStream::connect(self.inner.address));
            accept.join().unwrap();
        }
        let threads = self.state(|s| std::mem::take(&mut s.threads));
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.inner.state.lock().unwrap())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}
