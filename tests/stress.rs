//! Many programs on one store at once: our threads, each with a handle of its own, processes of our command, a podman, skopeo,
//! buildah; in three rounds, one for each
//! generation of podman, because they do not share their databases. No lost update, no dangling reference, no error but those
//! that somebody else's removal explains.
//!
//! Bounded by a count of operations; `CSTOR_STRESS_OPERATIONS` sets another one for a long run.

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
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cstor_rs::ids::Digest;
use cstor_rs::metadata::{ImageRef, LookupError};
use cstor_rs::plan::{PlanError, SeveralNames};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{Prepared, TxnError, TxnOptions, WriteTxn};
use fixture::{Failure, Image, Member, image, layer};
use peers::{Peer, between_peers, skip};

/// Operations of each of our workers.
const OPERATIONS: u64 = 40;

#[derive(Default)]
struct Figures {
    operations: AtomicU64,
    /// Refused because somebody else removed or holds what was meant.
    conflicts: AtomicU64,
    peer_operations: AtomicU64,
    peer_conflicts: AtomicU64,
    /// The longest time from `prepare` to the end of `commit`, waiting for others included, in microseconds.
    longest: AtomicU64,
}

fn base() -> fixture::Layer {
    layer(&[Member::Dir("bin", 0o755), Member::File("bin/true", 0o755, b"\x7fELF")])
}

fn app(name: &str) -> Image {
    let text = name.as_bytes();
    image(&format!("localhost/{name}:1"), vec![base(), layer(&[Member::File(name, 0o644, text)])])
}

fn named(name: &str) -> ImageRef {
    ImageRef::Name(format!("localhost/{name}:1"))
}

fn open(top: &Path) -> Store {
    Store::open(StoreOptions::new(top.join("root"), top.join("run"))).unwrap()
}

/// Commits, and notes how long it took.
fn commit(figures: &Figures, txn: WriteTxn) -> Result<(), Failure> {
    let start = Instant::now();
    let done = match txn.prepare()? {
        Prepared::Ready(prepared) => prepared.commit().map(drop).map_err(Failure::Commit),
        Prepared::Nothing | Prepared::NeedLayers(..) => Ok(()),
    };
    figures.longest.fetch_max(u64::try_from(start.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
    done
}

/// Whether somebody else's doing explains it.
fn expected(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Txn(TxnError::Plan(
            PlanError::Lookup(LookupError::Unknown { .. }) | PlanError::ImageInUse { .. } | PlanError::LayerInUse { .. }
        ))
    )
}

/// One of ours: pulls and removes an image that others pull and remove too, and moves names that are its own.
fn worker(top: &Path, number: u64, operations: u64, figures: &Figures) {
    let store = open(top);
    let own = format!("localhost/owner-{number}:1");
    let mut has = false;
    for n in 0..operations {
        let shared = app(&format!("shared{}", (n + number) % 3));
        let result = match n % 4 {
            0 => fixture::pull(&store, std::slice::from_ref(&shared)).map(drop),
            1 => (|| {
                let txn = store.begin(TxnOptions::default())?;
                if has {
                    txn.untag(named("kept"), std::slice::from_ref(&own))?
                } else {
                    txn.tag(named("kept"), &own)?
                }
                commit(figures, txn)?;
                has = !has;
                Ok(())
            })(),
            2 => (|| {
                let txn = store.begin(TxnOptions::default())?;
                txn.remove_image(ImageRef::Name(shared.name.clone()), SeveralNames::Remove)?;
                commit(figures, txn)
            })(),
            // A batch: an image of its own comes, the one before goes, its own name stays what it is.
            _ => {
                let (new, old) = (app(&format!("w{number}n{n}")), format!("localhost/w{number}n{}:1", n.wrapping_sub(4)));
                let there = store.read().unwrap().unwrap().image_by_name(&old).is_some();
                let gone = |txn: &WriteTxn| {
                    if there {
                        txn.remove_image(ImageRef::Name(old.clone()), SeveralNames::Remove)?;
                    }
                    Ok(())
                };
                fixture::change_with(&store, &[new], gone, TxnOptions::default()).map(drop)
            }
        };
        figures.operations.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) => {}
            Err(failure) if expected(&failure) => drop(figures.conflicts.fetch_add(1, Ordering::Relaxed)),
            Err(failure) => panic!("worker {number}, operation {n}: {failure:?}"),
        }
        // Nobody else touches these names: what this worker did last is what there is.
        let snapshot = store.read().unwrap().unwrap();
        let kept = snapshot.image_by_name("localhost/kept:1").expect("nobody removes it");
        assert_eq!(kept.names().contains(&own), has, "worker {number}, operation {n}: a lost update");
    }
}

/// A podman that lists, tags, untags and removes beside us. It names an image that nobody else names: podman 4.3 tags by reading
/// all names, adding one and setting them all, under two locks, and so takes back what others name in between.
fn podman(top: &Path, peer: &Peer, operations: u64, figures: &Figures) {
    let (root, run_root) = (top.join("root"), top.join("run"));
    let own = format!("localhost/podman-{}:1", peer.major());
    let mut has = false;
    for n in 0..operations {
        let shared = format!("localhost/shared{}:1", n % 3);
        if n % 4 == 0 {
            let dir = top.join(format!("podman-{}-{n}", peer.major()));
            layout(&dir, &app(&format!("shared{}", n % 3)));
            let source = format!("oci:{}:1", dir.display());
            run(figures, peer.command("podman", &root, &run_root).args(["pull", "--quiet", &source]), &GONE);
        }
        let args: Vec<&str> = match n % 4 {
            0 => vec!["images", "--all", "--quiet"],
            1 if has => vec!["untag", "localhost/podmans:1", &own],
            1 => vec!["tag", "localhost/podmans:1", &own],
            2 => vec!["rmi", &shared],
            _ => vec!["image", "inspect", "localhost/podmans:1"],
        };
        let output = peer.command("podman", &root, &run_root).args(&args).output().unwrap();
        figures.peer_operations.fetch_add(1, Ordering::Relaxed);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            has ^= n % 4 == 1;
        } else {
            // What podman says where something went between its looking and its doing.
            let explained = ["not known", "no such image", "No such image", "image used by", "does not exist", "layer has children"];
            // Of its own names nothing may get in the way.
            assert!(n % 4 != 1 && explained.iter().any(|part| text.contains(part)), "{} {args:?}: {text}", peer.name);
            figures.peer_conflicts.fetch_add(1, Ordering::Relaxed);
        }
        let snapshot = open(top).read().unwrap().unwrap();
        let kept = snapshot.image_by_name("localhost/podmans:1").expect("nobody removes it");
        assert_eq!(kept.names().contains(&own), has, "{} {args:?}: a lost update", peer.name);
    }
}

/// What podman and skopeo say where a layer that they have just looked at goes with the image of somebody else.
const GONE: [&str; 6] = ["not known", "does not exist", "no such file", "layer in use", "image used", "identifier is not"];

/// Runs a program, whose failures must be explained by what others removed or hold. Whether it did what it was to do.
fn run(figures: &Figures, command: &mut Command, explained: &[&str]) -> bool {
    let output = command.output().unwrap();
    figures.peer_operations.fetch_add(1, Ordering::Relaxed);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        assert!(explained.iter().any(|part| text.contains(part)), "{command:?}: {text}");
        figures.peer_conflicts.fetch_add(1, Ordering::Relaxed);
    }
    output.status.success()
}

/// Processes of our own command.
fn ours(top: &Path, round: usize, operations: u64, figures: &Figures) {
    let own = format!("localhost/process-{round}:1");
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(top.join("root")).arg("--runroot").arg(top.join("run")).args(args);
        command
    };
    for n in 0..operations {
        let shared = format!("localhost/shared{}:1", n % 3);
        assert!(run(figures, &mut command(&["tag", "localhost/kept:1", &own]), &[]));
        run(figures, &mut command(&["rmi", &shared]), &["is not known", "in use by"]);
        assert!(run(figures, &mut command(&["prune"]), &[]));
        let listed = command(&["images", "--json"]).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains(&own), "{own}: a lost update");
        assert!(run(figures, &mut command(&["untag", "localhost/kept:1", &own]), &[]));
    }
}

/// An image as an OCI layout on disk.
fn layout(dir: &Path, image: &Image) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    image.layers.iter().for_each(|layer| blob(&layer.blob));
    blob(&image.config);
    blob(&image.manifest);
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let manifest = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&image.manifest), "size": image.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    });
    std::fs::write(dir.join("index.json"), serde_json::json!({"schemaVersion": 2, "manifests": [manifest]}).to_string()).unwrap();
}

/// skopeo gives the image that nobody removes more names, none of which may get lost, and copies in those that others remove.
fn skopeo(top: &Path, peer: &Peer, round: usize, operations: u64, figures: &Figures) -> Vec<String> {
    let store = format!("containers-storage:[overlay@{0}/root+{0}/run]", top.display());
    let copy = |from: &str, to: &str, explained: &[&str]| {
        let mut command = peer.command("skopeo", &top.join("root"), &top.join("run"));
        run(figures, command.args(["--insecure-policy", "copy", "--quiet", from, to]), explained)
    };
    let kept = format!("oci:{}/layout-{round}:kept", top.display());
    assert!(copy(&format!("{store}localhost/kept:1"), &kept, &[]));
    let mut names = Vec::new();
    for n in 0..operations {
        let name = format!("localhost/skopeo-{round}-{n}:1");
        assert!(copy(&kept, &format!("{store}{name}"), &[]));
        names.push(name);
        let shared = app(&format!("shared{}", n % 3));
        let dir = top.join(format!("shared-{round}-{n}"));
        layout(&dir, &shared);
        copy(&format!("oci:{}:1", dir.display()), &format!("{store}{}", shared.name), &GONE);
    }
    names
}

/// buildah makes containers on images that others remove, and removes them.
fn buildah(top: &Path, peer: &Peer, round: usize, operations: u64, figures: &Figures) {
    let command = |args: &[&str]| {
        let mut command = peer.command("buildah", &top.join("root"), &top.join("run"));
        command.args(args);
        command
    };
    for n in 0..operations {
        let (name, shared) = (format!("b-{round}-{n}"), format!("localhost/shared{}:1", n % 3));
        let explained = ["not known", "no such image", "image not known", "does not exist", "unable to find", "locating"];
        if run(figures, &mut command(&["from", "--pull-never", "--name", &name, &shared]), &explained) {
            assert!(run(figures, &mut command(&["rm", &name]), &[]));
        }
    }
}

#[test]
fn many_programs_work_on_one_store() {
    let operations = std::env::var("CSTOR_STRESS_OPERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(OPERATIONS);
    // In lowercase: podman makes a name of the path that it pulls from.
    let temp = tempfile::Builder::new().prefix(&format!("cstor-stress-{}", std::process::id())).rand_bytes(0).tempdir().unwrap();
    let top = temp.path();
    fixture::pull(&open(top), &[app("kept"), app("podmans")]).unwrap();
    let peers = Peer::all();
    if peers.is_empty() {
        return skip("stress", "no podman works here");
    }
    let figures = Figures::default();
    let begun = Instant::now();
    for (round, peer) in peers.iter().enumerate() {
        between_peers(&top.join("root"));
        let has = |program: &str| {
            let asked = peer.command(program, &top.join("root"), &top.join("run")).arg("--version").output();
            let has = asked.is_ok_and(|output| output.status.success());
            if !has {
                skip("stress", &format!("{} has no {program} here: it takes no part", peer.name));
            }
            has
        };
        let (has_skopeo, has_buildah) = (has("skopeo"), has("buildah"));
        let names = std::thread::scope(|scope| {
            let (figures, first) = (&figures, 10 * round as u64);
            for number in first..first + 4 {
                scope.spawn(move || worker(top, number, operations, figures));
            }
            scope.spawn(move || podman(top, peer, operations / 2, figures));
            scope.spawn(move || ours(top, round, operations / 8, figures));
            if has_buildah {
                scope.spawn(move || buildah(top, peer, round, operations / 8, figures));
            }
            has_skopeo.then(|| scope.spawn(move || skopeo(top, peer, round, operations / 4, figures)).join().unwrap())
        });
        let snapshot = open(top).read().unwrap().unwrap();
        let kept = snapshot.image_by_name("localhost/kept:1").unwrap();
        let lost: Vec<String> = names.unwrap_or_default().into_iter().filter(|name| !kept.names().contains(name)).collect();
        assert_eq!(lost, Vec::<String>::new(), "round {round}: names that skopeo gave");
        // In its own round: podman 5.4 calls the `overlay/tempdirs` that 6.1 leaves damage.
        let command = |args: &[&str]| {
            let output = peer.command("podman", &top.join("root"), &top.join("run")).args(args).output().unwrap();
            assert!(output.status.success(), "{} {args:?}: {}", peer.name, String::from_utf8_lossy(&output.stderr));
        };
        command(&["images", "--all"]);
        if peer.major() >= 5 {
            command(&["system", "check"]);
        }
    }
    let said = oracle::read(&top.join("root")).unwrap();
    oracle::data_agrees(&said).unwrap();
    let own: BTreeSet<PathBuf> =
        ["overlay/.has-mount-program", "overlay/tempdirs", "overlay/staging", "overlay-layers/volatile-layers.json", "overlay-layers/tmp"]
            .map(PathBuf::from)
            .into();
    assert_eq!(oracle::leftovers(&top.join("root"), &own), Vec::<PathBuf>::new());
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{} operations of our threads, {} conflicts; {} of other processes, {} conflicts; longest commit, waiting included, {:?}; lost updates 0; {:?}",
        count(&figures.operations),
        count(&figures.conflicts),
        count(&figures.peer_operations),
        count(&figures.peer_conflicts),
        Duration::from_micros(count(&figures.longest)),
        begun.elapsed()
    );
}
