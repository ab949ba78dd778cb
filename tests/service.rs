//! A running `podman system service` keeps the tables in memory: it sees what we change at its next request, because of the
//! token in the lock file, and does not write its old tables over ours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/peers.rs"]
mod peers;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use cstor_rs::metadata::ImageRef;
use cstor_rs::plan::SeveralNames;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{TxnError, TxnOptions, WriteTxn};
use fixture::{Member, image, layer};
use peers::{Peer, between_peers, skip};
use serde_json::Value;

/// The service, which goes with the test.
struct Service {
    child: Child,
    socket: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Service {
    fn start(peer: &Peer, top: &Path) -> Self {
        let socket = top.join("podman.sock");
        let url = format!("unix://{}", socket.display());
        let mut command = peer.command("podman", &top.join("root"), &top.join("run"));
        let child = command.args(["system", "service", "--time", "0", &url]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut service = Self { child, socket };
        while UnixStream::connect(&service.socket).is_err() {
            assert!(service.child.try_wait().unwrap().is_none(), "{}: the service has ended", peer.name);
            std::thread::yield_now();
        }
        service
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(stream, "{method} /v4.0.0/libpod{path} HTTP/1.0\r\nHost: d\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// All names it lists.
    fn names(&self) -> BTreeSet<String> {
        let (status, body) = self.ask("GET", "/images/json?all=true");
        assert_eq!(status, 200, "{body}");
        let list: Vec<Value> = serde_json::from_str(&body).unwrap();
        list.iter()
            .flat_map(|image| image["Names"].as_array().cloned().unwrap_or_default())
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    }
}

fn change(top: &Path, changes: impl Fn(&WriteTxn) -> Result<(), TxnError>) {
    let store = Store::open(StoreOptions::new(top.join("root"), top.join("run"))).unwrap();
    let txn = store.begin(TxnOptions::default()).unwrap();
    changes(&txn).unwrap();
    fixture::commit(txn).unwrap().expect("something changes");
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("localhost/{name}:1")).collect()
}

#[test]
fn a_running_service_sees_our_changes_at_once_and_keeps_them() {
    let peers = Peer::all();
    if peers.is_empty() {
        return skip("service", "no podman works here");
    }
    for peer in peers {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path();
        let on_base = |name: &str| {
            let base = layer(&[Member::Dir("bin", 0o755), Member::File("bin/true", 0o755, b"\x7fELF")]);
            image(&format!("localhost/{name}:1"), vec![base, layer(&[Member::File(name, 0o644, name.as_bytes())])])
        };
        let store = Store::open(StoreOptions::new(top.join("root"), top.join("run"))).unwrap();
        fixture::pull(&store, &[on_base("a"), on_base("b")]).unwrap();
        between_peers(&top.join("root"));
        let service = Service::start(&peer, top);
        assert_eq!(service.names(), set(&["a", "b"]), "{}", peer.name);
        // An edit without a journal, a removal, a pull: each seen by the next request.
        change(top, |txn| txn.tag(ImageRef::Name("localhost/a:1".into()), "localhost/ours:1"));
        assert_eq!(service.names(), set(&["a", "b", "ours"]), "{}", peer.name);
        change(top, |txn| txn.remove_image(ImageRef::Name("localhost/b:1".into()), SeveralNames::Keep));
        assert_eq!(service.names(), set(&["a", "ours"]), "{}", peer.name);
        fixture::pull(&store, &[on_base("c")]).unwrap();
        assert_eq!(service.names(), set(&["a", "ours", "c"]), "{}", peer.name);
        // What it writes now it writes over our tables, not over those it began with.
        for (n, name) in ["a", "c"].iter().enumerate() {
            change(top, |txn| txn.tag(ImageRef::Name(format!("localhost/{name}:1")), &format!("localhost/late{n}:1")));
            let (status, body) = service.ask("POST", &format!("/images/localhost%2F{name}:1/tag?repo=localhost/theirs{n}&tag=1"));
            assert_eq!(status, 201, "{}: {body}", peer.name);
        }
        let all = set(&["a", "ours", "c", "late0", "late1", "theirs0", "theirs1"]);
        assert_eq!(service.names(), all, "{}", peer.name);
        let names: BTreeSet<String> = store.read().unwrap().unwrap().images().flat_map(|image| image.names().to_vec()).collect();
        assert_eq!(names, all, "{}", peer.name);
        let said = oracle::read(&top.join("root")).unwrap();
        assert_eq!(said.images.len(), 2, "{}", peer.name);
        oracle::data_agrees(&said).unwrap();
    }
}
