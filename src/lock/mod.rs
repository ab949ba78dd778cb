//! Locks that exclude Go's, and the LastWrite token.
//!
//! Several locks are taken only through [`StoreLocks`], in Go's order layers, images, containers. There is no upgrade
//! from shared to exclusive: OFD locks have no deadlock detection, and two that upgrade hang. There is no timed wait
//! in the kernel, so waiting polls with 1 to 20 ms of jitter.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fsio::{self, Dir, File, LockOwner, optional};
use crate::ids::random_bytes;

/// The lock of layers.json, beside it.
pub const LAYERS_LOCK: &str = "layers.lock";
/// The lock of images.json, beside it.
pub const IMAGES_LOCK: &str = "images.lock";
/// The lock of containers.json, beside it.
pub const CONTAINERS_LOCK: &str = "containers.lock";

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LockError {
    #[error("{} is held by {holder} for more than {waited_ms} ms; wait for it to end, or end it", path.display())]
    Busy { path: PathBuf, holder: String, waited_ms: u128 },
    #[error("cancelled while waiting for {}", path.display())]
    Cancelled { path: PathBuf },
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error("no random bytes for a lock token")]
    Random(#[source] std::io::Error),
}

/// How long to wait for a lock, and when to stop waiting.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'a> {
    limit: Duration,
    interrupt: Option<&'a AtomicBool>,
}

impl<'a> Wait<'a> {
    /// Waits this long at most.
    pub fn limit(limit: Duration) -> Self {
        Self { limit, interrupt: None }
    }

    /// Waits this long at most, and gives up soon after `interrupt` is true.
    pub fn new(limit: Duration, interrupt: Option<&'a AtomicBool>) -> Self {
        Self { limit, interrupt }
    }
}

/// One lock file, locked. Dropping it releases.
#[derive(Debug)]
struct Held {
    file: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Unlock, then close: after close alone a forked child still holds it.
        if let Err(error) = self.file.unlock() {
            tracing::error!(error = &error as &dyn std::error::Error, "a lock could not be released");
        }
    }
}

/// A reader needs no right to write: what it cannot lock on a read-only filesystem nobody changes.
fn open(dir: &Dir, name: &str, exclusive: bool) -> fsio::Result<File> {
    if !exclusive && let Some(file) = optional(dir.file(name))? {
        return Ok(file);
    }
    dir.file_or_create(name, 0o644)
}

fn take(dir: &Dir, name: &str, exclusive: bool, wait: &Wait<'_>) -> Result<Held, LockError> {
    let file = open(dir, name, exclusive)?;
    let start = Instant::now();
    let mut told = false;
    loop {
        if file.try_lock(exclusive)? {
            return Ok(Held { file });
        }
        let waited = start.elapsed();
        if wait.interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Acquire)) {
            return Err(LockError::Cancelled { path: file.path() });
        }
        if waited >= wait.limit {
            return Err(LockError::Busy { path: file.path(), holder: describe(&file), waited_ms: waited.as_millis() });
        }
        if !told && waited >= Duration::from_secs(1) {
            told = true;
            tracing::warn!(path = %file.path().display(), holder = describe(&file), "waiting for a lock");
        }
        let [jitter] = random_bytes::<1>().map_err(LockError::Random)?;
        std::thread::sleep(Duration::from_millis(1 + u64::from(jitter) % 20).min(wait.limit.saturating_sub(waited)));
    }
}

/// Who holds a lock, in words.
fn describe(file: &File) -> String {
    let pid = match file.lock_owner() {
        Ok(Some(LockOwner::Process(pid))) => Some(pid),
        Ok(Some(LockOwner::Description)) => find_description(file),
        _ => None,
    };
    match pid {
        Some(pid) => {
            let command = fs_err::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", command.trim_end())
        }
        None => "another process".to_owned(),
    }
}

/// The process with an OFD lock on this inode, from `/proc/*/fdinfo`.
fn find_description(file: &File) -> Option<i32> {
    let (_, inode) = file.links_and_inode().ok()?;
    let want = format!(":{inode} ");
    for process in fs_err::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(infos) = fs_err::read_dir(process.path().join("fdinfo")) else { continue };
        for info in infos.flatten() {
            let Ok(text) = fs_err::read_to_string(info.path()) else { continue };
            if text.lines().any(|line| line.starts_with("lock:") && line.contains("OFDLCK") && line.contains(&want)) {
                return Some(pid);
            }
        }
    }
    None
}

static WRITES: AtomicU64 = AtomicU64::new(0);

/// A LastWrite token: time in ns, a counter, the pid, 44 random bytes.
fn token() -> Result<[u8; 64], LockError> {
    let mut token = [0u8; 64];
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    let random = random_bytes::<44>().map_err(LockError::Random)?;
    let parts: [&[u8]; 4] =
        [&nanos.to_le_bytes(), &WRITES.fetch_add(1, Ordering::Relaxed).to_le_bytes(), &std::process::id().to_le_bytes(), &random];
    let mut rest = token.as_mut_slice();
    for part in parts {
        let (head, tail) = rest.split_at_mut(part.len());
        head.copy_from_slice(part);
        rest = tail;
    }
    Ok(token)
}

/// The one way to hold several locks of a store.
#[derive(Debug, Clone, Copy)]
pub struct StoreLocks;

/// All three locks, exclusive.
#[derive(Debug)]
pub struct StoreWriteGuard {
    layers: Held,
    images: Held,
    _containers: Held,
}

/// All three locks, shared.
#[derive(Debug)]
pub struct StoreReadGuard {
    held: [Held; 3],
}

impl StoreReadGuard {
    /// What layers.lock and images.lock say of the last write of their tables; empty where nobody has written yet.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn tokens(&self) -> fsio::Result<[Vec<u8>; 2]> {
        let [layers, images, _] = &self.held;
        let read = |held: &Held| {
            let mut token = [0u8; 64];
            let got = held.file.read_at(0, &mut token)?;
            Ok(token.get(..got).unwrap_or_default().to_vec())
        };
        Ok([read(layers)?, read(images)?])
    }
}

/// layers.lock, exclusive.
#[derive(Debug)]
pub struct LayersGuard {
    _layers: Held,
}

/// images.lock, exclusive.
#[derive(Debug)]
pub struct ImagesGuard {
    images: Held,
}

impl ImagesGuard {
    /// Writes a new token into images.lock: before images.json is renamed.
    ///
    /// # Errors
    ///
    /// Those of the disk and of the random source.
    pub fn touch(&mut self) -> Result<(), LockError> {
        Ok(self.images.file.write_token(&token()?)?)
    }
}

impl StoreLocks {
    /// Takes all three locks exclusively.
    ///
    /// # Errors
    ///
    /// [`LockError::Busy`] when one is held for longer than `wait` allows.
    pub fn write(layers: &Dir, images: &Dir, containers: &Dir, wait: &Wait<'_>) -> Result<StoreWriteGuard, LockError> {
        let layers = take(layers, LAYERS_LOCK, true, wait)?;
        let images = take(images, IMAGES_LOCK, true, wait)?;
        Ok(StoreWriteGuard { layers, images, _containers: take(containers, CONTAINERS_LOCK, true, wait)? })
    }

    /// Takes all three locks shared: keep it short, even a shared hold stops every podman command.
    ///
    /// # Errors
    ///
    /// As [`StoreLocks::write`].
    pub fn read(layers: &Dir, images: &Dir, containers: &Dir, wait: &Wait<'_>) -> Result<StoreReadGuard, LockError> {
        let layers = take(layers, LAYERS_LOCK, false, wait)?;
        let images = take(images, IMAGES_LOCK, false, wait)?;
        Ok(StoreReadGuard { held: [layers, images, take(containers, CONTAINERS_LOCK, false, wait)?] })
    }

    /// Takes layers.lock alone, exclusively.
    ///
    /// # Errors
    ///
    /// As [`StoreLocks::write`].
    pub fn write_layers(layers: &Dir, wait: &Wait<'_>) -> Result<LayersGuard, LockError> {
        Ok(LayersGuard { _layers: take(layers, LAYERS_LOCK, true, wait)? })
    }

    /// Takes images.lock alone, exclusively. Nothing else may be locked while it is held: layers.lock comes before it.
    ///
    /// # Errors
    ///
    /// As [`StoreLocks::write`].
    pub fn write_images(images: &Dir, wait: &Wait<'_>) -> Result<ImagesGuard, LockError> {
        Ok(ImagesGuard { images: take(images, IMAGES_LOCK, true, wait)? })
    }
}

/// Which of the store's locks somebody holds at this moment, each with its holder in words. Takes nothing.
///
/// # Errors
///
/// Those of the disk.
pub fn holders(layers: &Dir, images: &Dir, containers: &Dir) -> fsio::Result<Vec<(&'static str, String)>> {
    let mut list = Vec::new();
    for (dir, name) in [(layers, LAYERS_LOCK), (images, IMAGES_LOCK), (containers, CONTAINERS_LOCK)] {
        if let Some(file) = optional(dir.file(name))?
            && file.lock_owner()?.is_some()
        {
            list.push((name, describe(&file)));
        }
    }
    Ok(list)
}

impl StoreWriteGuard {
    /// Writes a new token into layers.lock: before layers.json is renamed.
    ///
    /// # Errors
    ///
    /// Those of the disk and of the random source.
    pub fn touch_layers(&mut self) -> Result<(), LockError> {
        Ok(self.layers.file.write_token(&token()?)?)
    }

    /// Writes a new token into images.lock: before images.json is renamed.
    ///
    /// # Errors
    ///
    /// Those of the disk and of the random source.
    pub fn touch_images(&mut self) -> Result<(), LockError> {
        Ok(self.images.file.write_token(&token()?)?)
    }
}
