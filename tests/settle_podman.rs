//! Settling stores that podman has pulled into, and is pulling into: podman of three generations, by the command.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cstor_rs::fsio::{Hook, Op};
use cstor_rs::lock::{StoreLocks, Wait};
use cstor_rs::overlay::{Seal, TreeId};
use cstor_rs::settle::{Outcome, SettleOptions, settle};
use cstor_rs::store::{Store, StoreOptions};
use peers::{DockerRegistry, Peer, between_peers, docker_registry, push_small_image, run, run_text, skip};
use serde_json::{Value, json};

struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn runroot(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    fn podman(&self, peer: &Peer, args: &[&str]) -> String {
        between_peers(&self.root());
        run_text(peer.command("podman", &self.root(), &self.runroot()).args(args))
    }

    fn settling(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.runroot()).args(["--lock-timeout", "60", "settle"]).args(args);
        command
    }

    /// The exit code, the outcome of each layer, and the summary.
    fn settle(&self, args: &[&str]) -> (i32, BTreeMap<String, String>, Value) {
        let output = self.settling(&["--json"]).args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summary = lines.pop().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))["summary"].take();
        assert_eq!(summary["exit"], output.status.code().unwrap());
        let layers = lines.iter().filter(|line| line["layer"].is_string());
        let layers =
            layers.map(|line| (line["layer"].as_str().unwrap().to_owned(), line["outcome"].as_str().unwrap().to_owned())).collect();
        (output.status.code().unwrap(), layers, summary)
    }

    fn layers(&self) -> Vec<Value> {
        serde_json::from_slice(&fs::read(self.root().join("overlay-layers/layers.json")).unwrap()).unwrap()
    }

    /// Every seal there is holds, and its layer is whole. Gives how many there are.
    fn true_seals(&self) -> usize {
        let mut seals = 0;
        for record in self.layers() {
            let id = record["id"].as_str().unwrap();
            let dir = self.root().join("overlay").join(id);
            let Ok(bytes) = fs::read(dir.join("cstor-rs.seal")) else { continue };
            let seal = Seal::parse(&bytes).unwrap();
            assert_eq!(seal.diff_id.as_str(), record["diff-digest"], "{id}");
            assert_eq!(seal.link.as_str(), fs::read_to_string(dir.join("link")).unwrap(), "{id}");
            assert_eq!(seal.tree, tree_of(&dir.join("diff")), "{id}");
            let split = self.root().join(format!("overlay-layers/{id}.tar-split.gz"));
            assert_eq!(oracle::reassembled(&split, &dir.join("diff")).unwrap(), record["diff-digest"], "{id}");
            seals += 1;
        }
        seals
    }
}

fn tree_of(dir: &Path) -> TreeId {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let stat = rustix::fs::statx(CWD, dir, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME).unwrap();
    TreeId { inode: stat.stx_ino, birth: Some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)) }
}

/// What every test here needs; else the reason is printed and the test is over.
fn ready() -> Option<(Vec<Peer>, DockerRegistry, String)> {
    let peers = Peer::all();
    if peers.is_empty() {
        skip("settle", "no podman works here");
        return None;
    }
    let registry = docker_registry()?;
    let image = push_small_image(&registry)?;
    Some((peers, registry, image))
}

#[test]
fn what_each_podman_pulled_is_sealed_and_stays_podmans() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let place = Place::new();
        let name = &peer.name;
        place.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image]);
        // A container, whose own layer is no image's. Not run: what podman leaves in the background then still writes to its database.
        place.podman(&peer, &["create", "--network=none", "--name", "kept", &image, "/bin/true"]);
        let (code, layers, summary) = place.settle(&[]);
        let sealed = |word: &str| -> BTreeMap<String, String> { layers.keys().map(|id| (id.clone(), word.to_owned())).collect() };
        assert_eq!((code, &layers, &summary["synced"]), (0, &sealed("sealed"), &json!(true)), "{name}: {summary}");
        assert_eq!((layers.len(), place.true_seals()), (2, 2), "{name}");
        let before = oracle::listing(&place.root()).unwrap();
        let (code, again, summary) = place.settle(&[&image]);
        assert_eq!((code, again, &summary["synced"]), (0, sealed("already_sealed"), &json!(false)), "{name}: {summary}");
        assert_eq!(oracle::listing(&place.root()).unwrap(), before, "{name}: the second one changes something");

        // Podman finds everything as before, and takes the seals away with the layers.
        let motd = place.podman(&peer, &["run", "--rm", "--network=none", &image, "/bin/cat", "/etc/motd"]);
        assert_eq!(motd, "a second layer", "{name}");
        let images = place.podman(&peer, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(images, image, "{name}");
        place.podman(&peer, &["rm", "--force", "kept"]);
        place.podman(&peer, &["rmi", &image]);
        for id in layers.keys() {
            assert!(!place.root().join("overlay").join(id).exists(), "{name}: {id} is still there");
        }
        // Pulled again they are other layers.
        place.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image]);
        assert_eq!(place.true_seals(), 0, "{name}");
        assert_eq!(place.settle(&[]).1, sealed("sealed"), "{name}");
        place.podman(&peer, &["rmi", &image]);
        let (code, layers, _) = place.settle(&[]);
        assert_eq!((code, layers.len()), (0, 0), "{name}");
        let clean: Value = serde_json::from_slice(&fs::read(place.root().join("cstor-rs/clean")).unwrap()).unwrap();
        assert_eq!(clean["layers"], json!({}), "{name}");
    }
}

#[test]
fn a_rotten_file_is_damage_and_the_other_layer_is_sealed() {
    let Some((peers, _registry, image)) = ready() else { return };
    let (place, peer) = (Place::new(), &peers[0]);
    place.podman(peer, &["pull", "--quiet", "--tls-verify=false", &image]);
    let top = place.layers().iter().find(|layer| layer["parent"].is_string()).unwrap()["id"].as_str().unwrap().to_owned();
    let motd = place.root().join("overlay").join(&top).join("diff/etc/motd");
    fs::write(&motd, "a second Layer\n").unwrap();
    let (code, layers, summary) = place.settle(&[]);
    assert_eq!((code, &summary["layers"]), (4, &json!({"sealed": 1, "damaged": 1})), "{summary}");
    assert_eq!((layers[&top].as_str(), place.true_seals()), ("damaged", 1));
    let said = place.settling(&[&image, "none.such/image:1"]).output().unwrap();
    assert_eq!(said.status.code(), Some(4 + 8));
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(out.contains(&format!("{top} damaged: ")) && out.contains("etc/motd"), "{out}");
    assert!(err.contains("image none.such/image:1 is not known"), "{err}");
}

/// Runs podman once, before the first syncfs: when all is verified and nothing is sealed.
struct Between {
    commands: std::sync::Mutex<Vec<Command>>,
    done: AtomicUsize,
}

impl Hook for Between {
    fn before(&self, op: &Op<'_>) -> std::io::Result<()> {
        if matches!(op, Op::SyncFs(_)) && self.done.fetch_add(1, Ordering::SeqCst) == 0 {
            self.commands.lock().unwrap().iter_mut().for_each(|command| drop(run(command)));
        }
        Ok(())
    }
}

#[test]
fn s1_podman_removes_or_replaces_a_layer_between_verifying_and_sealing() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        for again in [false, true] {
            let place = Place::new();
            let podman = |args: &[&str]| {
                let mut command = peer.command("podman", &place.root(), &place.runroot());
                command.args(args);
                command
            };
            run(&mut podman(&["pull", "--quiet", "--tls-verify=false", &image]));
            let mut commands = vec![podman(&["rmi", &image])];
            if again {
                commands.push(podman(&["pull", "--quiet", "--tls-verify=false", &image]));
            }
            let hook = Arc::new(Between { commands: commands.into(), done: AtomicUsize::new(0) });
            let store = Store::open(StoreOptions::new(place.root(), place.runroot()).hook(hook.clone())).unwrap();
            let settled = settle(&store, &[], &SettleOptions::default()).unwrap();
            assert_eq!((hook.done.load(Ordering::SeqCst), settled.layers.len()), (1, 2));
            for layer in &settled.layers {
                let right = match &layer.outcome {
                    Outcome::Gone => !again,
                    Outcome::Busy { .. } => again,
                    _ => false,
                };
                assert!(right, "{}, again {again}: {layer:?}", peer.name);
            }
            assert_eq!(place.true_seals(), 0, "{}, again {again}", peer.name);
            assert_eq!(place.settle(&[]).0, 0);
            assert_eq!(place.true_seals(), if again { 2 } else { 0 });
        }
    }
}

/// Settling goes on beside podman; whatever it meets, no seal lies, and in the end all is sealed.
#[test]
fn podman_pulls_while_the_store_is_settled() {
    let Some((peers, _registry, image)) = ready() else { return };
    let (place, peer) = (Place::new(), &peers[0]);
    place.podman(peer, &["pull", "--quiet", "--tls-verify=false", &image]);
    let (mut rounds, mut codes) = (0, BTreeMap::<i32, usize>::new());
    std::thread::scope(|scope| {
        let puller = scope.spawn(|| {
            for _ in 0..3 {
                for args in [&["rmi", &image][..], &["pull", "--quiet", "--tls-verify=false", &image]] {
                    run(peer.command("podman", &place.root(), &place.runroot()).args(args));
                }
            }
        });
        while !puller.is_finished() || rounds < 3 {
            let (code, ..) = place.settle(&[]);
            *codes.entry(code).or_default() += 1;
            rounds += 1;
        }
        puller.join().unwrap();
    });
    println!("{rounds} rounds: {codes:?}");
    // Clean, or it was changed while it was verified.
    assert!(codes.keys().all(|code| [0, 64].contains(code)), "{codes:?}");
    assert_eq!(place.settle(&[]).0, 0);
    assert_eq!(place.true_seals(), 2);
}

#[test]
fn exit_codes_are_those_of_fsck() {
    let Some((peers, _registry, image)) = ready() else { return };
    let (place, peer) = (Place::new(), &peers[0]);
    let code = |command: &mut Command| command.output().unwrap().status.code();
    assert_eq!(code(&mut place.settling(&[])), Some(8), "no store");
    place.podman(peer, &["pull", "--quiet", "--tls-verify=false", &image]);
    for usage in [&["--bogus"][..], &["--jobs", "0"], &["--sync", "none"]] {
        assert_eq!(code(&mut place.settling(usage)), Some(16), "{usage:?}");
    }
    assert_eq!(code(&mut place.settling(&["--help"])), Some(0));
    let layout = Store::open(StoreOptions::new(place.root(), place.runroot())).unwrap().layout().unwrap().unwrap();
    let held = StoreLocks::write_layers(&layout.layers, &Wait::limit(Duration::ZERO)).unwrap();
    let mut busy = place.settling(&["--lock-timeout", "0"]);
    assert_eq!(code(&mut busy), Some(64), "a lock is held");
    // It waits for the lock; a signal ends that.
    let mut waiting = place.settling(&["--json"]).args(["--log-level", "warn"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(waiting.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("waiting for a lock")), "it does not wait");
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    lines.for_each(drop);
    assert_eq!(waiting.wait().unwrap().code(), Some(32), "stopped by a signal");
    drop(held);
    assert_eq!(code(&mut place.settling(&["--sync", "files", "--jobs", "1"])), Some(0));
    assert_eq!(place.true_seals(), 2);
}

/// Nothing but images.json has the names that podman gave. A settled store has them in its history.
#[test]
fn names_that_podman_gave_come_back_after_a_lost_table() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let (place, name) = (Place::new(), &peer.name);
        place.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image]);
        let table = place.root().join("overlay-images/images.json");
        let before: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
        assert_eq!(place.settle(&[]).0, 0, "{name}");
        // What podman does after a settle is known after the next.
        place.podman(&peer, &["tag", &image, "localhost/second:1"]);
        assert_eq!(place.settle(&[]).0, 0, "{name}");
        let tagged: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
        assert_ne!(before, tagged, "{name}");
        fs::write(&table, "").unwrap();
        let mut fsck = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        fsck.arg("--root").arg(place.root()).arg("--runroot").arg(place.runroot()).args(["fsck", "--repair", "--json"]);
        let output = fsck.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        let healed: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
        assert_eq!(healed, tagged, "{name}");
        let images = place.podman(&peer, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert!(images.contains("localhost/second:1") && images.contains(&image), "{name}: {images}");
    }
}
