use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio_util::sync::CancellationToken;

use super::super::find::Found;
use super::super::{Pull, PullError, PullOptions};
use crate::ids::{Digest, ImageId};
use crate::registry::{Descriptor, ImageSource, Platform, RegistryError, Resolved};
use crate::store::{Store, StoreOptions};
use crate::txn::{ImageSpec, TxnOptions};

/// A registry with two layers: the first fails once somebody waits for the second, and that one never comes.
struct Stuck {
    network: CancellationToken,
    waiting: Mutex<Option<Sender<()>>>,
    begun: Mutex<Receiver<()>>,
}

struct Silence {
    network: CancellationToken,
    waiting: Option<Sender<()>>,
}

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        // The other side goes on once this sender is gone.
        drop(self.waiting.take());
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(self.network.cancelled());
        Err(io::Error::other(RegistryError::Cancelled))
    }
}

impl ImageSource for Stuck {
    fn manifest(&self, _: &Platform) -> Result<Resolved, RegistryError> {
        Err(RegistryError::Cancelled)
    }

    fn config(&self, _: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        Err(RegistryError::Cancelled)
    }

    fn blob_from(&self, blob: &Descriptor, _: u64) -> Result<Box<dyn Read + Send>, RegistryError> {
        if blob.size == 2 {
            return Ok(Box::new(Silence { network: self.network.clone(), waiting: self.waiting.lock().unwrap().take() }));
        }
        // An error here says that the reader of the second layer waits.
        self.begun.lock().unwrap().recv().unwrap_err();
        Err(RegistryError::NotFound { what: "the first layer".into(), host: "here".into(), said: String::new() })
    }
}

/// What comes of the fetch, with the caller's own wish to end it.
fn fetch(cancelled: bool) -> PullError {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::new(temp.path().join("root"), temp.path().join("run"))).unwrap();
    let options = PullOptions::default();
    let network = options.registry.cancel.child_token();
    let (waiting, begun) = channel();
    let source = Stuck { network: network.clone(), waiting: Mutex::new(Some(waiting)), begun: Mutex::new(begun) };
    let layer = |size: u8| Descriptor { media_type: String::new(), digest: Digest::of(&[size]), size: size.into() };
    let (config, manifest) = (b"{}".to_vec(), b"{}".to_vec());
    let found = Found {
        reference: "stuck".into(),
        source: Box::new(source),
        layers: vec![layer(1), layer(2)],
        digest: Digest::of(&manifest),
        id: ImageId::of_config(&Digest::of(&config)),
        spec: ImageSpec {
            config,
            manifest,
            index: None,
            diff_ids: vec![Digest::of(b"one"), Digest::of(b"two")],
            names: vec![],
            created: None,
        },
    };
    let txn = store.begin(TxnOptions::default()).unwrap();
    let cancelled = AtomicBool::new(cancelled);
    let pull = Pull { store: &store, options: &options, network: &network, progress: &(), cancelled: &cancelled };
    let error = pull.fetch_layers(&txn, None, &[found]).unwrap_err();
    assert!(!options.registry.cancel.is_cancelled(), "the next pull has a network");
    error
}

/// The error is that of the layer that failed, not of the one that was stopped for it. If the wait is not ended, this never ends.
#[test]
fn a_layer_that_fails_wakes_the_reader_that_waits_for_another() {
    let error = fetch(false);
    assert!(matches!(&error, PullError::Source { source, .. } if matches!(**source, RegistryError::NotFound { .. })), "{error:?}");
}

#[test]
fn who_wanted_the_end_is_told_of_it_and_of_nothing_else() {
    assert!(matches!(fetch(true), PullError::Cancelled));
}
