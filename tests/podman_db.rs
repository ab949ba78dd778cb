//! podman's names of containers, from the databases that each podman makes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::fixture::{self, app};
use cstor_rs::podman_db::{Names, container_names};
use cstor_rs::store::{Store, StoreOptions};
use peers::{Peer, run_text, skip};

const IMAGE: &str = "localhost/one:1";

/// A store with one image that podman can make containers of.
struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { temp: tempfile::tempdir().unwrap() };
        let store = Store::open(StoreOptions::new(place.root(), place.runroot())).unwrap();
        fixture::pull(&store, &[fixture::image(IMAGE, vec![app("one")])]).unwrap().unwrap();
        place
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn runroot(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    fn podman(&self, peer: &Peer, args: &[&str]) -> String {
        run_text(peer.command("podman", &self.root(), &self.runroot()).args(args))
    }

    /// The names, asked for without a change in any directory that a database may lie in.
    fn names(&self, ids: &[&str]) -> Names {
        let before = self.listing();
        let names = container_names(&self.root(), &self.runroot(), ids, Duration::from_secs(5));
        assert_eq!(self.listing(), before);
        names
    }

    /// Each file with its length and the time of its last change.
    fn listing(&self) -> BTreeMap<PathBuf, (u64, Option<std::time::SystemTime>)> {
        let dirs = [self.root(), self.runroot(), self.root().join("libpod")];
        let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
        let listed = entries.map(|entry| {
            let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
            (path, (meta.len(), meta.modified().ok()))
        });
        listed.collect()
    }
}

/// The peers whose default is SQLite; where there is none, that is said and the test is over.
fn with_sqlite() -> Vec<Peer> {
    let peers: Vec<Peer> = Peer::all().into_iter().filter(|peer| peer.major() >= 5).collect();
    if peers.is_empty() {
        skip("podman_db", "no podman of version 5 or newer works here");
    }
    peers
}

#[test]
fn the_name_is_the_one_that_podman_knows_now() {
    for peer in with_sqlite() {
        let place = Place::new();
        let keeper = place.podman(&peer, &["create", "--name", "keeper", IMAGE]);
        let other = place.podman(&peer, &["create", "--name", "other_1.x", IMAGE]);
        assert!(place.root().join("db.sql").is_file(), "{}", peer.name);
        let ids = [keeper.as_str(), other.as_str(), "unknown"];
        let told = |names: &Names| {
            assert!(names.unasked().is_empty(), "{}: {:?}", peer.name, names.unasked());
            ids.map(|id| names.get(id).map(str::to_owned))
        };
        assert_eq!(told(&place.names(&ids)), [Some("keeper".into()), Some("other_1.x".into()), None], "{}", peer.name);
        place.podman(&peer, &["rename", "keeper", "renamed"]);
        place.podman(&peer, &["rm", "other_1.x"]);
        assert_eq!(told(&place.names(&ids)), [Some("renamed".into()), None, None], "{}", peer.name);
        // The database works for podman as before.
        assert_eq!(place.podman(&peer, &["ps", "--all", "--format", "{{.Names}}"]), "renamed");
    }
}

#[test]
fn a_transient_store_has_its_database_in_the_run_root() {
    for peer in with_sqlite() {
        let place = Place::new();
        let id = place.podman(&peer, &["--transient-store", "create", "--name", "fleeting", IMAGE]);
        assert_eq!([place.root(), place.runroot()].map(|dir: PathBuf| dir.join("db.sql").is_file()), [false, true], "{}", peer.name);
        let names = place.names(&[&id]);
        assert_eq!((names.get(&id), names.unasked().len()), (Some("fleeting"), 0), "{}", peer.name);
    }
}

#[test]
fn a_boltdb_store_gives_no_name_and_no_reason() {
    let Some(peer) = Peer::all().into_iter().find(|peer| peer.major() == 4) else {
        return skip("podman_db", "no podman 4 works here");
    };
    let place = Place::new();
    let id = place.podman(&peer, &["create", "--name", "keeper", IMAGE]);
    let has = |name: &str| Path::new(&place.root()).join(name).is_file();
    assert_eq!([has("libpod/bolt_state.db"), has("db.sql")], [true, false]);
    let names = place.names(&[&id]);
    assert_eq!((names.len(), names.unasked().len()), (0, 0));
}
