//! `cstor-rs fsck` against every injury of [`injury::all`].
//!
//! | trials | what |
//! |---|---|
//! | found | each is found at its level, under its code, and nothing is written |
//! | healed | each is healed as its class says, and the store is equal to the one before |
//!
//! `-- --list-injuries`, `-- --inflict NAME STORE`, `-- --layouts DIR`, `-- --snapshot STORE FILE`, `-- --same FILE STORE NAME` are for
//! `scripts/fsck-matrix`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod command;
#[path = "../common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod injury;
mod matrix;
#[path = "../common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "../common/peers.rs"]
mod peers;
mod place;
#[path = "../common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
mod snapshot;
#[path = "../tars/mod.rs"]
mod tars;
mod tool;

use injury::Repair;
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
    }
    trials
}
