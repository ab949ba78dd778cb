//! A registry as a source of one image.

use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use tokio::runtime::{Builder, Handle, Runtime};

use super::blob::BlobReader;
use super::blobs::absent;
use super::credentials::{self, Login};
use super::diff_ids::DiffIds;
use super::error::{RegistryError, Result};
use super::failure::{Again, Failure};
use super::http::Client;
use super::manifest::{self, ACCEPT, Descriptor, Document, MANIFEST_MAX};
use super::platform::Platform;
use super::source::{ImageSource, Resolved, resolve, verify};
use super::system::SystemFiles;
use crate::ids::Digest;
use crate::reference::Reference;
use tokio_util::sync::CancellationToken;

/// The longest pause between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// How to talk to a registry.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether TLS must be there and its certificate be trusted; without it any certificate will do, and http. `None`: it
    /// must, unless registries.conf calls the registry insecure.
    pub tls_verify: Option<bool>,
    /// The host's own files about registries, policy.json among them.
    pub system: SystemFiles,
    /// Credentials that go before those of any file.
    pub login: Option<Login>,
    /// The only file of credentials to read.
    pub authfile: Option<PathBuf>,
    /// How often a failed request is made again.
    pub retries: u32,
    /// The pause before the first retry; each further one is twice as long, at most 30 s.
    pub retry_delay: Duration,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
    /// How long nothing may come on an open connection.
    pub stall: Duration,
    /// How long a manifest, a config, a token or an error page may take in all; `None`: five times `stall`.
    pub small_deadline: Option<Duration>,
    /// A blob must bring [`Options::blob_floor`] bytes in each such time of waiting for it, or the connection counts
    /// as stalled and is resumed; `None`: four times `stall`.
    pub blob_window: Option<Duration>,
    /// The fewest bytes that a blob must bring in each [`Options::blob_window`]; 0: any pace will do.
    pub blob_floor: u64,
    /// Once cancelled, every request ends at once with [`RegistryError::Cancelled`].
    pub cancel: CancellationToken,
    /// The runtime to use; without one each registry starts its own of two threads.
    pub runtime: Option<Handle>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls_verify: None,
            system: SystemFiles::of_process(),
            login: None,
            authfile: None,
            retries: 3,
            retry_delay: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            small_deadline: None,
            blob_window: None,
            blob_floor: 256 << 10,
            cancel: CancellationToken::new(),
            runtime: None,
        }
    }
}

/// One image in one registry.
pub struct Registry {
    shared: Arc<Shared>,
    reference: Reference,
    diff_ids: DiffIds,
}

/// The client and what runs it.
pub(super) struct Shared {
    pub(super) client: Arc<Client>,
    pub(super) handle: Handle,
    pub(super) cancel: CancellationToken,
    own: Option<Runtime>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A plain drop would wait, and panic inside an async task.
        if let Some(runtime) = self.own.take() {
            runtime.shutdown_background();
        }
    }
}

impl Registry {
    /// Makes a client for the registry of `reference`.
    ///
    /// Nothing is asked of it yet, except without TLS verification: then https and http are tried in turn. What the
    /// host's policy.json and registries.conf do not allow is not done.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Forbidden`], [`RegistryError::Configuration`], [`RegistryError::Credentials`], [`RegistryError::Client`], and without TLS verification
    /// [`RegistryError::Unreachable`] and its like.
    pub fn connect(reference: Reference, options: &Options) -> Result<Self> {
        let forbidden = |why| RegistryError::Forbidden { name: reference.to_string(), why };
        if let Some(policy) = options.system.policy()? {
            policy.check(&reference).map_err(forbidden)?;
        }
        let endpoint = options.system.registries()?.endpoint(&reference).map_err(forbidden)?;
        let verify = options.tls_verify.unwrap_or(!endpoint.insecure);
        let options = Options { tls_verify: Some(verify), ..options.clone() };
        let login = match &options.login {
            Some(login) => Some(login.clone()),
            None => credentials::find(options.authfile.as_deref(), endpoint.reference.host(), endpoint.reference.path())?,
        };
        let own = match options.runtime {
            Some(_) => None,
            None => Some(
                Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_name("registry")
                    .enable_all()
                    .build()
                    .map_err(|e| RegistryError::Client { source: e.into() })?,
            ),
        };
        let handle = match (&options.runtime, &own) {
            (Some(handle), _) => handle.clone(),
            (None, Some(runtime)) => runtime.handle().clone(),
            (None, None) => return Err(RegistryError::Client { source: "no runtime".into() }),
        };
        let mut client = Client::new(&endpoint.reference, &options, login)?;
        if !verify {
            client = wait(&handle, &options.cancel, async move {
                let mut backoff = Backoff::new(&client);
                while let Err(failure) = client.choose_scheme().await {
                    backoff.pause("the API", failure).await?;
                }
                Ok(client)
            })?;
        }
        Ok(Self {
            shared: Arc::new(Shared { client: Arc::new(client), handle, cancel: options.cancel.clone(), own }),
            reference,
            diff_ids: DiffIds::default(),
        })
    }

    /// The name it was connected for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn diff_ids(&self) -> &DiffIds {
        &self.diff_ids
    }

    /// What the reference stands for: an image or an index.
    pub(super) fn named(&self) -> Result<Document> {
        self.document(self.reference.target(), self.reference.digest().map(|d| (d.clone(), None)))
    }

    /// What an index lists.
    pub(super) fn listed(&self, entry: &Descriptor) -> Result<Document> {
        self.document(entry.digest.as_str(), Some((entry.digest.clone(), Some(entry.size))))
    }

    /// The length of a blob as the registry announces it, if it has the blob; the body is not waited for.
    pub(super) fn blob_bytes(&self, digest: &Digest) -> Result<Option<u64>> {
        let client = self.shared.client.clone();
        let (what, path) = (format!("blob {digest}"), format!("blobs/{digest}"));
        absent(wait(&self.shared.handle, &self.shared.cancel, async move {
            let mut backoff = Backoff::new(&client);
            loop {
                let failure = match client.get(&what, &path, "*/*", 0).await {
                    Ok(response) if response.status() == StatusCode::OK => match response.content_length() {
                        Some(length) => return Ok(length),
                        None => client.refusal(&what, &response, "it does not say how long it is".into()),
                    },
                    Ok(response) => client.refusal(&what, &response, String::new()),
                    Err(failure) => failure,
                };
                backoff.pause(&what, failure).await?;
            }
        }))
    }

    /// The bytes of a manifest or index, digest verified, if the registry has it.
    pub(super) fn raw_manifest(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let client = self.shared.client.clone();
        let (what, path, digest) = (format!("manifest {digest}"), format!("manifests/{digest}"), digest.clone());
        absent(wait(&self.shared.handle, &self.shared.cancel, async move {
            let (raw, _, _) = whole(&client, &what, &path, ACCEPT, limit).await?;
            verify(&what, &client.host, &digest, &raw)?;
            Ok(raw)
        }))
    }

    /// A manifest or index by tag or digest.
    fn document(&self, target: &str, known: Option<(Digest, Option<u64>)>) -> Result<Document> {
        let client = self.shared.client.clone();
        let what = match &known {
            None => format!("manifest {}", self.reference),
            Some((digest, _)) => format!("manifest {}/{}@{digest}", self.reference.host(), self.reference.path()),
        };
        let path = format!("manifests/{target}");
        wait(&self.shared.handle, &self.shared.cancel, async move {
            let limit = known.as_ref().and_then(|(_, size)| *size).unwrap_or(MANIFEST_MAX);
            let (raw, content_type, said) = whole(&client, &what, &path, ACCEPT, limit).await?;
            match &known {
                Some((digest, size)) => {
                    full(&client, &what, *size, &raw)?;
                    verify(&what, &client.host, digest, &raw)?;
                }
                // By tag nothing is known but what the registry itself says.
                None => said.iter().try_for_each(|digest| verify(&what, &client.host, digest, &raw))?,
            }
            manifest::parse(&raw, content_type.as_deref()).map_err(|source| RegistryError::Content { what, source })
        })
    }
}

impl ImageSource for Registry {
    fn manifest(&self, wanted: &Platform) -> Result<Resolved> {
        resolve(&format!("manifest {}", self.reference), self.named()?, wanted, |chosen| self.listed(chosen))
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        let client = self.shared.client.clone();
        let what = format!("config {}", config.digest);
        let config = config.clone();
        wait(&self.shared.handle, &self.shared.cancel, async move {
            let (raw, _, _) = whole(&client, &what, &format!("blobs/{}", config.digest), "*/*", config.size).await?;
            full(&client, &what, Some(config.size), &raw)?;
            verify(&what, &client.host, &config.digest, &raw)?;
            Ok(raw)
        })
    }

    fn blob_from(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(BlobReader::open(self.shared.clone(), blob, from)?))
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// Counts attempts and waits between them.
pub(super) struct Backoff {
    left: u32,
    made: u32,
    delay: Duration,
}

impl Backoff {
    pub(super) fn new(client: &Client) -> Self {
        Self { left: client.retries, made: 1, delay: client.delay }
    }

    /// Waits before the next attempt, or gives the error back if there is none.
    pub(super) async fn pause(&mut self, what: &str, failure: Failure) -> Result<()> {
        let pause = match failure.again {
            Again::Never => return Err((*failure.error).after(self.made)),
            _ if self.left == 0 => return Err((*failure.error).after(self.made)),
            Again::Soon => self.delay.min(DELAY_MAX),
            Again::After(pause) => pause,
        };
        tracing::debug!(what, attempt = self.made, error = &*failure.error as &dyn std::error::Error, "trying again");
        self.left -= 1;
        self.made += 1;
        self.delay = self.delay.saturating_mul(2);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// A small object whole, with its Content-Type and the digest the registry says it has.
async fn whole(
    client: &Client,
    what: &str,
    path: &str,
    accept: &'static str,
    max: u64,
) -> Result<(Vec<u8>, Option<String>, Option<Digest>)> {
    let mut backoff = Backoff::new(client);
    loop {
        let attempt = async {
            let mut response = client.get(what, path, accept, 0).await?;
            if response.status() != StatusCode::OK {
                // A part, or no part, of something that was asked for whole.
                return Err(client.refusal(what, &response, String::new()));
            }
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let content_type = header(CONTENT_TYPE.as_str());
            let said = header("docker-content-digest").and_then(|d| d.parse().ok());
            let raw = client.body(what, &mut response, max).await?;
            Ok((raw, content_type, said))
        };
        match attempt.await {
            Ok(found) => return Ok(found),
            Err(failure) => backoff.pause(what, failure).await?,
        }
    }
}

/// Refuses a body shorter than declared; a longer one was stopped when it came.
fn full(client: &Client, what: &str, declared: Option<u64>, raw: &[u8]) -> Result<()> {
    match declared.filter(|d| *d != raw.len() as u64) {
        None => Ok(()),
        Some(declared) => {
            let got = format!("{} bytes came", raw.len());
            Err(RegistryError::Length { what: what.to_owned(), host: client.host.clone(), declared, got })
        }
    }
}

/// Runs a future on the runtime and waits for it in this thread.
///
/// Not `block_on`: that panics where the thread belongs to a runtime.
fn wait<T: Send + 'static>(
    handle: &Handle,
    cancel: &CancellationToken,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = channel();
    let cancel = cancel.clone();
    let task = handle.spawn(async move {
        let result = cancel.run_until_cancelled(future).await.unwrap_or(Err(RegistryError::Cancelled));
        if sender.send(result).is_err() {
            tracing::debug!("the caller has gone");
        }
    });
    let result = receiver.recv();
    if result.is_err() {
        task.abort();
    }
    result.unwrap_or_else(|_| Err(RegistryError::Client { source: "the network task ended".into() }))
}
