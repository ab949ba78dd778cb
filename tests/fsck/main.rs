//! `cstor-rs fsck` against every injury of [`injury::all`].
//!
//! | trials | what |
//! |---|---|
//! | found | each is found at its level, under its code, and nothing is written |
//! | healed | each is healed as its class says, and the store is equal to the one before |
//! | layout | each that needs bytes, from an OCI layout |
//! | podman_found, podman_healed | the same on what podman pulled, which is unsealed |
//! | used | afterwards every podman runs and saves the images, and its own check is content |
//! | pair | two at once |
//! | beside | while podman works on the store |
//! | sound | stores that nothing is wrong with |
//! | trap, fifo | hostile stores |
//! | flags | what else is promised: `--prune`, `--image`, `--max-time`, what is busy |
//! | codes | that program, document and injuries have the same codes |
//! | bites | that each injury changes what the others compare |
//!
//! `-- --list-injuries`, `-- --inflict NAME STORE`, `-- --layouts DIR`, `-- --snapshot STORE FILE`, `-- --same FILE STORE NAME` are for
//! `scripts/fsck-matrix`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod beside;
mod codes;
mod command;
#[path = "../common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod flags;
mod hostile;
mod injury;
mod matrix;
#[path = "../common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
mod pairs;
#[path = "../common/peers.rs"]
mod peers;
mod place;
#[path = "../common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
mod snapshot;
mod sound;
#[path = "../tars/mod.rs"]
mod tars;
mod tool;
mod used;

use injury::{Injury, Repair};
use libtest_mimic::{Arguments, Trial};
use place::Place;

fn main() -> std::process::ExitCode {
    if let Some(code) = injury::journal::child().or_else(tool::run) {
        return code;
    }
    let args = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    let trials = if root { trials() } else { Vec::new() };
    if !root {
        peers::skip("fsck", "devices, owners and trusted attributes need the root user");
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, || {
        run();
        Ok(())
    })
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for injury in injury::all() {
        let name = injury.name;
        trials.push(trial(format!("bites::{name}"), || matrix::bites(injury)));
        trials.push(trial(format!("found::{name}"), || matrix::found(injury, Place::ours(true)).unwrap()));
        trials.push(trial(format!("healed::{name}"), || matrix::healed(injury, Place::ours(true)).unwrap()));
        if let Repair::Refetch(_) = injury.repair {
            trials.push(trial(format!("layout::{name}"), || matrix::from_layout(injury, Place::ours(true)).unwrap()));
        }
        trials.push(trial(format!("podman_found::{name}"), || podmans(injury, matrix::found)));
        trials.push(trial(format!("podman_healed::{name}"), || podmans(injury, matrix::healed)));
    }
    trials.extend(chosen().into_iter().map(|injury| trial(format!("used::{}", injury.name), || used::healed(injury))));
    for (a, b) in pairs::drawn() {
        trials.push(trial(format!("pair::{}+{}", a.name, b.name), || pairs::healed(a, b)));
    }
    for trap in hostile::ALL {
        trials.push(trial(format!("trap::{}", trap.name), || hostile::trapped(trap)));
    }
    for (name, path) in hostile::FIFOS {
        trials.push(trial(format!("fifo::{name}"), || hostile::fifo(name, *path)));
    }
    trials.push(trial("beside::podman", beside::healed));
    trials.push(trial("codes::documented", codes::documented));
    trials.push(trial("codes::known", codes::known));
    let flags: [(&str, fn()); 12] = [
        ("prune", flags::prune),
        ("prune_keeps_what_can_be_healed", flags::prune_keeps_what_can_be_healed),
        ("image", flags::image),
        ("max_time", flags::max_time),
        ("since_clean", flags::since_clean),
        ("offline_beside_lost_bytes", flags::offline_beside_lost_bytes),
        ("usage", flags::usage),
        ("text", flags::text),
        ("journal_forward", flags::journal_forward),
        ("busy", flags::busy),
        ("containers", flags::containers),
        ("live_staging", flags::live_staging),
    ];
    trials.extend(flags.map(|(name, run)| trial(format!("flags::{name}"), run)));
    let sound: [(&str, fn()); 8] = [
        ("ours", sound::ours),
        ("podman", sound::podman),
        ("every_podman_in_turn", sound::every_podman_in_turn),
        ("skopeo", sound::skopeo),
        ("buildah", sound::buildah),
        ("containers", sound::containers),
        ("awkward_tars", sound::awkward_tars),
        ("additional_store", sound::additional_store),
    ];
    trials.extend(sound.map(|(name, run)| trial(format!("sound::{name}"), run)));
    trials
}

/// On what podman pulled; not every injury is possible there.
fn podmans(injury: &Injury, run: fn(&Injury, Place) -> Result<(), String>) {
    match peers::Peer::host() {
        Some(host) => run(injury, Place::of(&host, true)).unwrap_or_else(|why| peers::skip("on podman's store", &why)),
        None => peers::skip("podman's store", "there is no podman"),
    }
}

/// The injuries after which podman is asked: one of each row; with `CSTOR_FSCK_ALL` every one that can be healed.
fn chosen() -> Vec<&'static Injury> {
    let mut rows = Vec::new();
    let mut chosen = |injury: &&Injury| {
        let healable = matches!(injury.repair, Repair::Offline | Repair::Refetch(_));
        let first = healable && !rows.contains(&injury.row);
        if healable {
            rows.push(injury.row);
        }
        first || healable && std::env::var_os("CSTOR_FSCK_ALL").is_some()
    };
    injury::all().filter(|injury| chosen(injury)).collect()
}
