//! Injuries that are found and healed while podman pulls, tags and removes another image in the same store.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::command::fsck;
use crate::injury::{self, EQUAL, Repair, Target};
use crate::matrix::assert_sound;
use crate::peers::{Peer, run, skip};
use crate::place::{Place, registry};
use crate::registry::{Compression, ImageSpec, tar};
use crate::snapshot::Snapshot;

/// Those that podman itself neither heals nor makes worse.
const INJURIES: &[&str] = &[
    "mode",
    "xattr-lost",
    "symlink-missing",
    "extra-file",
    "hard-link-broken",
    "file-with-twin-flipped",
    "manifest-missing",
    "lower-empty",
    "file-flipped",
    "split-missing",
    "config-garbled",
    "orphan-staged-splits",
];

/// How often podman may be in the way.
const TRIES: usize = 20;

pub fn healed() {
    let Some(host) = Peer::host() else { return skip("podman beside fsck", "there is none") };
    let place = Place::ours(true);
    let own = ImageSpec::new().layer(tar(&[("third", b"3")]), Compression::Gzip);
    registry().add_image("beside/third", "latest", &own);
    let third = registry().reference("beside/third:latest");
    let podman = |args: &[&str]| run(&mut place.peer(&host, "podman", args));
    let round = || {
        podman(&["pull", "--quiet", "--tls-verify=false", &third]);
        podman(&["tag", &third, "localhost/another:1"]);
        podman(&["rmi", "--force", &third, "localhost/another:1"]);
    };
    // What podman adds to a store is there before.
    round();
    let before = Snapshot::of(&place.root());
    let target = Target::find(&place.root()).unwrap();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                round();
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        });
        let healed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Until podman was there, too, on whatever machine.
            while rounds.load(Ordering::SeqCst) < 3 && !beside.is_finished() {
                INJURIES.iter().for_each(|name| heal(&place, &target, name));
            }
        }));
        stop.store(true, Ordering::SeqCst);
        beside.join().unwrap();
        healed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(rounds.load(Ordering::SeqCst) > 2, "podman was not there");
    let differences = before.differences(&Snapshot::of(&place.root()), EQUAL);
    let theirs = |line: &&String| !line.starts_with("other ") || line.starts_with("other overlay-images/");
    assert_eq!(differences.iter().filter(theirs).collect::<Vec<_>>(), [""; 0]);
    assert_sound(&place, "after podman beside fsck");
}

fn heal(place: &Place, target: &Target, name: &str) {
    let injury = injury::named(name).unwrap();
    (injury.hurt)(target).unwrap();
    let mut args = vec!["--level", "full", "--repair"];
    if let Repair::Refetch(_) = injury.repair {
        args.extend(["--refetch", "--tls-verify=false"]);
    }
    for _ in 0..TRIES {
        let said = fsck(place, &args, name);
        let code = said.code.unwrap();
        let own: Vec<_> = said.findings.iter().filter(|finding| injury.codes.contains(&finding["code"].as_str().unwrap())).collect();
        if own.iter().all(|finding| finding["result"] == "healed") && code & 1 == 1 {
            return;
        }
        assert_eq!(code & !(1 | 4 | 64), 0, "{name}: {said:#?}");
    }
    panic!("{name}: not healed in {TRIES} runs");
}
