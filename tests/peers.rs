//! The harness for the other programs: each peer starts, pulls from a registry into a store of its own and runs
//! what it pulled. Nothing of cstor-rs takes part; when this fails, look at `scripts/` first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "common/peers.rs"]
mod peers;

use peers::{Peer, between_peers, docker_registry, push_small_image, run, run_text, skip};

#[test]
fn each_peer_pulls_and_runs_the_small_image() {
    let peers = Peer::all();
    if peers.is_empty() {
        return skip("peers", "none works here");
    }
    let Some(registry) = docker_registry() else { return };
    let Some(image) = push_small_image(&registry) else { return };
    for peer in peers {
        let temp = tempfile::tempdir().unwrap();
        let (root, runroot) = (temp.path().join("root"), temp.path().join("run"));
        let podman = |args: &[&str]| run_text(peer.command("podman", &root, &runroot).args(args));

        let version = run_text(peer.command("podman", &root, &runroot).arg("--version"));
        assert!(version.starts_with(&peer.name.replace(' ', " version ")), "{version}");
        let id = podman(&["pull", "--quiet", "--tls-verify=false", &image]);
        assert_eq!(podman(&["images", "--quiet", "--no-trunc"]), format!("sha256:{id}"));
        run(peer.command("podman", &root, &runroot).args(["run", "--rm", "--network=none", &image]));
        let motd = podman(&["run", "--rm", "--network=none", &image, "/bin/cat", "/etc/motd"]);
        assert_eq!(motd, "a second layer", "{}", peer.name);
    }
}

#[test]
fn skopeo_of_each_peer_writes_to_the_store_that_podman_reads() {
    let Some(registry) = docker_registry() else { return };
    let Some(image) = push_small_image(&registry) else { return };
    for peer in Peer::all() {
        let temp = tempfile::tempdir().unwrap();
        let (root, runroot) = (temp.path().join("root"), temp.path().join("run"));
        let (from, to) = (format!("docker://{image}"), format!("containers-storage:{image}"));
        run(peer.command("skopeo", &root, &runroot).args(["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
        let names = run_text(peer.command("podman", &root, &runroot).args(["images", "--format", "{{.Repository}}:{{.Tag}}"]));
        assert_eq!(names, image, "{}", peer.name);
    }
}

#[test]
fn one_store_goes_from_peer_to_peer() {
    let Some(registry) = docker_registry() else { return };
    let Some(image) = push_small_image(&registry) else { return };
    let temp = tempfile::tempdir().unwrap();
    let (root, runroot) = (temp.path().join("root"), temp.path().join("run"));
    let (mut there, mut back) = (Peer::all(), Peer::all());
    back.reverse();
    there.append(&mut back);
    for (turn, peer) in there.iter().enumerate() {
        between_peers(&root);
        let podman = |args: &[&str]| run_text(peer.command("podman", &root, &runroot).args(args));
        if turn == 0 {
            podman(&["pull", "--quiet", "--tls-verify=false", &image]);
        }
        podman(&["run", "--rm", "--network=none", &image, "/bin/true"]);
    }
}
