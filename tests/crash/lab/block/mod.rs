//! Tier block: the power goes at the block device, under real file systems.

mod acts;
pub mod baseline;
pub mod campaign;
mod device;
mod faults;
mod filesystem;
mod judge;
mod medium;
mod plot;
mod record;
pub mod report;
mod states;
mod work;

use std::time::Duration;

use device::Bench;
use filesystem::Filesystem;
use judge::{Counts, Judge, draw};
use libtest_mimic::Trial;
use record::Recording;
use states::States;
use work::{Ground, Operation, Work, pull};

use crate::peers::Peer;
use crate::rng::Rng;
use crate::skip::skipped;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for fs in filesystem::ALL {
        let mut add = |name: &str, run: fn(Filesystem) -> Result<(), String>| {
            trials.push(Trial::test(format!("block::{}::{name}", fs.name), move || Ok(run(*fs)?)));
        };
        add("walk", |fs| sample(fs, |ground| Some(Work::walk(ground))));
        add("repair", |fs| sample(fs, |ground| Some(Work::repair(ground))));
        add("settle", |fs| sample(fs, |ground| Peer::host().map(|peer| Work::settle(ground, &peer))));
        add("control", control);
        add("faults", disk_errors);
        add("acts", podman_first);
    }
    trials
}

/// A bench where this file system can be made and mounted, or nothing and the reason on the standard error.
fn bench(fs: Filesystem) -> Option<Bench> {
    let skip = |why: &str| skipped(&format!("power cuts at block level on {}: {why}", fs.name));
    if !rustix::process::geteuid().is_root() {
        skip("mounting a loop device needs the root user");
        return None;
    }
    static DEAD: std::sync::Once = std::sync::Once::new();
    DEAD.call_once(filesystem::bury_dead);
    let bench = Bench::mount().map_err(|error| skip(&format!("FUSE: {error}"))).ok()?;
    let mounts = fs.make(&bench).and_then(|device| fs.mount(&bench, &device).map(drop));
    match mounts {
        Ok(()) => Some(bench),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

fn sample(fs: Filesystem, work: fn(&Ground) -> Option<Work>) -> Result<(), String> {
    let Some(bench) = bench(fs) else { return Ok(()) };
    let ground = Ground::new();
    let Some(work) = work(&ground) else { return Ok(()) };
    let recording = Recording::of(&bench, fs, &work, &ground, Duration::ZERO)?;
    let wanted = if std::env::var_os("CSTOR_CRASH_ALL").is_some() { 120 } else { 30 };
    let counts = states(&bench, &ground, &recording, 1, wanted)?;
    println!("{}, {}: {} events, {counts:?}", fs.name, work.name, recording.log.len());
    assert_eq!(counts.states, wanted, "the log has too few states to be true");
    Ok(())
}

/// Judges so many different states of a log.
fn states(bench: &Bench, ground: &Ground, recording: &Recording, seed: u64, wanted: usize) -> Result<Counts, String> {
    let (judge, mut rng) = (Judge { bench, ground, recording }, Rng::new(seed));
    let mut states = States::of(&recording.start, &recording.log, recording.fs.unit);
    let (mut counts, from) = (Counts::default(), recording.promised());
    for _ in 0..wanted * 20 {
        if counts.states == wanted {
            break;
        }
        if let Some(state) = draw(&mut states, from, &mut rng) {
            counts += judge.judge(&state, &mut rng, 2).map_err(|why| format!("seed {seed}: {why}"))?;
        }
    }
    Ok(counts)
}

fn walked<T>(fs: Filesystem, look: impl FnOnce(&Bench, &Ground, &Recording) -> Result<T, String>) -> Result<Option<T>, String> {
    let Some(bench) = bench(fs) else { return Ok(None) };
    let ground = Ground::new();
    let recording = Recording::of(&bench, fs, &Work::walk(&ground), &ground, Duration::ZERO)?;
    look(&bench, &ground, &recording).map(Some)
}

fn disk_errors(fs: Filesystem) -> Result<(), String> {
    let wanted = if std::env::var_os("CSTOR_CRASH_ALL").is_some() { 40 } else { 12 };
    if let Some(met) = walked(fs, |bench, ground, recording| faults::run(bench, ground, recording, 1, wanted))? {
        println!("{}: {met:?}", fs.name);
        assert_eq!(met.faults, wanted, "too few errors reached the disk");
        assert!(met.refused > 0, "no operation noticed an error");
    }
    Ok(())
}

fn podman_first(fs: Filesystem) -> Result<(), String> {
    let peers = Peer::all();
    if peers.is_empty() {
        return Ok(());
    }
    let wanted = if std::env::var_os("CSTOR_CRASH_ALL").is_some() { 12 } else { 4 };
    if let Some(acted) = walked(fs, |bench, ground, recording| acts::run(bench, ground, recording, &peers, 1, wanted))? {
        println!("{}: {acted:?}", fs.name);
        assert_eq!(acted.acts, wanted, "too few acts");
    }
    Ok(())
}

/// What shows that the judge sees: who acknowledges without a sync is caught, and who syncs before is not.
fn control(fs: Filesystem) -> Result<(), String> {
    let Some(bench) = bench(fs) else { return Ok(()) };
    let ground = Ground::new();
    let caught = |operation: Operation| -> Result<Option<String>, String> {
        let work = Work { promised: 1, ..Work::of("control", vec![operation]) };
        let recording = Recording::of(&bench, fs, &work, &ground, Duration::ZERO)?;
        let judge = Judge { bench: &bench, ground: &ground, recording: &recording };
        let (mut states, mut rng) = (States::of(&recording.start, &recording.log, fs.unit), Rng::new(1));
        let at = recording.promised();
        for cut in states::CUTS {
            if let Some(state) = states.draw(at, *cut, &mut rng)
                && let Err(why) = judge.look(&state, &mut rng, 0)
            {
                return Ok(Some(why));
            }
        }
        Ok(None)
    };
    // The fsync of a journal brings on btrfs what is older, contents too: there it is not said what a pull without syncs loses.
    let unsynced = (fs != filesystem::BTRFS).then_some(true);
    for (operation, wanted) in [
        (Operation::Copied { sync: false }, Some(true)),
        (Operation::Copied { sync: true }, Some(false)),
        (pull(&ground, &["one"], &["--sync", "none"]), unsynced),
        (pull(&ground, &["one"], &["--sync", "files"]), Some(false)),
        (pull(&ground, &["one"], &[]), Some(false)),
    ] {
        let name = operation.to_string();
        let seen = caught(operation)?;
        println!("{}, {name}: {}", fs.name, seen.as_deref().unwrap_or("nothing is lost"));
        assert!(wanted.is_none_or(|wanted| wanted == seen.is_some()), "{}, {name}: {seen:?}", fs.name);
    }
    Ok(())
}
