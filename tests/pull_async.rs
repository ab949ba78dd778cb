//! The library's asynchronous pull: what it pulls, and that a dropped future leaves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cstor_rs::pull::{PullOptions, pull_async};
use cstor_rs::registry::{Options, Place, SystemFiles};
use cstor_rs::store::{Store, StoreOptions};
use registry::{Compression, Fault, ImageSpec, Registry};

struct World {
    temp: tempfile::TempDir,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let world = Self { temp: tempfile::tempdir().unwrap(), registry: Registry::start() };
        let layer = registry::tar(&[("file", &[1; 50_000])]);
        world.registry.add_image("app", "latest", &ImageSpec::new().layer(layer, Compression::None));
        world
    }

    fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(StoreOptions::new(self.temp.path().join("root"), self.temp.path().join("run"))).unwrap())
    }

    fn place(&self) -> Place {
        Place::find(&self.registry.reference("app:latest"), &SystemFiles::default()).unwrap()
    }

    fn options() -> PullOptions {
        PullOptions { registry: Options { tls_verify: Some(false), retries: 0, ..Options::default() }, ..PullOptions::default() }
    }
}

/// On both kinds of runtime.
fn runtimes() -> [tokio::runtime::Runtime; 2] {
    [
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
    ]
}

#[test]
fn an_image_is_pulled() {
    for runtime in runtimes() {
        let world = World::new();
        let store = world.store();
        let pulled = runtime.block_on(pull_async(store.clone(), vec![world.place()], World::options(), Arc::new(()))).unwrap();
        assert_eq!(store.read().unwrap().unwrap().image(&pulled[0].id).unwrap().names(), [world.registry.reference("app:latest")]);
        oracle::read(&world.temp.path().join("root")).unwrap();
    }
}

#[test]
fn a_dropped_future_leaves_nothing() {
    for runtime in runtimes() {
        let world = World::new();
        world.registry.script("blobs", u32::MAX, Fault::StallAfter(10_000));
        let store = world.store();
        let pulling = pull_async(store.clone(), vec![world.place()], World::options(), Arc::new(()));
        runtime.block_on(async {
            let mut pulling = std::pin::pin!(pulling);
            // Polled until the registry has been asked for a layer, which it does not send to its end.
            loop {
                let asked = world.registry.log().iter().filter(|line| line.contains("blobs")).count() > 0;
                let once = std::future::poll_fn(|context| std::task::Poll::Ready(pulling.as_mut().poll(context)));
                assert!(once.await.is_pending());
                if asked {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        // Waits for the thread that the dropped future has cancelled.
        drop(runtime);
        let root = world.temp.path().join("root");
        assert!(oracle::read(&root).map(|said| said.images.is_empty() && said.layers.is_empty()).unwrap_or(true));
        assert_eq!(oracle::leftovers(&root, &BTreeSet::new()), Vec::<PathBuf>::new());
        assert!(store.read().unwrap().is_none_or(|snapshot| snapshot.images().count() == 0));
    }
}
