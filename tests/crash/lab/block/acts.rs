//! podman on a store between the power cut and our recovery, itself killed half-way at times.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::device::Bench;
use super::judge::{Judge, draw, recover, waits};
use super::record::{Recording, wait};
use super::states::{State, States};
use super::work::{Ground, Operation, podman_pull};
use crate::oracle::{self, Said};
use crate::peers::Peer;
use crate::rng::Rng;

/// What podman did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acted {
    pub acts: usize,
    pub killed: usize,
    /// With a transaction that waited to be recovered.
    pub waiting: usize,
}

/// So many states with a podman that comes first.
pub fn run(bench: &Bench, ground: &Ground, recording: &Recording, peers: &[Peer], seed: u64, wanted: usize) -> Result<Acted, String> {
    let (judge, mut rng, mut acted) = (Judge { bench, ground, recording }, Rng::new(seed), Acted::default());
    let mut states = States::of(&recording.start, &recording.log, recording.fs.unit);
    for _ in 0..wanted * 20 {
        if acted.acts == wanted {
            break;
        }
        let Some(state) = draw(&mut states, 0, &mut rng) else { continue };
        // Where nothing is under way podman's own work is all there is to see.
        if state.begun == state.acknowledged && !rng.once_in(4) {
            continue;
        }
        let peer = &peers[rng.below(peers.len())];
        let act = acts(ground, peer, recording, &state).swap_remove(rng.below(ACTS));
        let kill = rng.once_in(3).then(|| Duration::from_millis(rng.next() % 150));
        one(&judge, &state, &act, kill, &mut acted).map_err(|why| {
            let fs = recording.fs.name;
            format!("seed {seed}: {fs}: power lost after event {}, {:?}; then `{act}`, killed after {kill:?}: {why}", state.at, state.cut)
        })?;
    }
    Ok(acted)
}

const ACTS: usize = 6;

/// podman starts; pulls something new, and what was under way; removes; prunes; checks.
fn acts(ground: &Ground, peer: &Peer, recording: &Recording, state: &State) -> Vec<Operation> {
    let podman = |args: &[&str]| Operation::Peer(peer.clone(), "podman", args.iter().map(|arg| (*arg).to_owned()).collect());
    let said = &recording.said[state.acknowledged];
    let image = said.images.keys().next().cloned().unwrap_or_else(|| "none".to_owned());
    let check = if peer.major() > 4 { podman(&["system", "check", "--quick"]) } else { podman(&["info"]) };
    let acts = vec![
        podman(&["images", "-a"]),
        podman_pull(ground, peer, "six"),
        podman_pull(ground, peer, "one"),
        podman(&["rmi", "-f", &image]),
        podman(&["image", "prune", "-f"]),
        check,
    ];
    assert_eq!(acts.len(), ACTS);
    acts
}

/// What must be there in spite of this act: all that is there before and after the operation under way, but what podman removes.
fn wanted(recording: &Recording, state: &State, act: &Operation) -> Said {
    let (before, after) = (&recording.said[state.acknowledged], &recording.said[state.begun]);
    let mut wanted = Said::default();
    let text = act.to_string();
    for (id, image) in &before.images {
        let nameless = [Some(image), after.images.get(id)]
            .into_iter()
            .flatten()
            .any(|(record, _)| record["names"].as_array().is_none_or(Vec::is_empty));
        let removed = text.contains(" rmi ") && text.ends_with(id.as_str()) || text.contains(" prune ") && nameless;
        if after.images.contains_key(id) && !removed {
            wanted.images.insert(id.clone(), image.clone());
        }
    }
    wanted
}

fn one(judge: &Judge<'_>, state: &State, act: &Operation, kill: Option<Duration>, acted: &mut Acted) -> Result<(), String> {
    let (_device, mounted) = judge.mount(&state.medium)?;
    let (root, runroot) = (mounted.root(), tempfile::tempdir().unwrap());
    let waiting = waits(&root);
    let killed = match kill {
        None => {
            // What it says is its own affair: an image that is not there cannot be removed.
            act.run(judge.ground, &root, runroot.path())?;
            false
        }
        Some(after) => killed(act, judge.ground, &root, runroot.path(), after)?,
    };
    recover(&root)?;
    if killed {
        // What it left half made it takes away itself when it starts again.
        let Operation::Peer(peer, ..) = act else { unreachable!("podman acts") };
        Operation::Peer(peer.clone(), "podman", vec!["images".to_owned(), "-a".to_owned()]).done(judge.ground, &root, runroot.path())?;
        recover(&root)?;
    }
    let said = oracle::read(&root).map_err(|why| format!("after recovery: {why}"))?;
    for (id, (_, data)) in &wanted(judge.recording, state, act).images {
        let Some((record, seen)) = said.images.get(id) else { return Err(format!("image {id} is not there any more")) };
        for (key, digest) in data {
            if seen.get(key) != Some(digest) {
                return Err(format!("image {id}: {key} is {:?}, not {digest}; {record}", seen.get(key)));
            }
        }
    }
    let ours = |path: &std::path::PathBuf| path.starts_with("cstor-rs") || path.to_string_lossy().contains(".cstor-rs-");
    let left: Vec<_> = oracle::leftovers(&root, &BTreeSet::new()).into_iter().filter(ours).collect();
    if !left.is_empty() {
        return Err(format!("left over of ours: {left:?}"));
    }
    acted.acts += 1;
    acted.killed += usize::from(killed);
    acted.waiting += usize::from(waiting);
    Ok(())
}

/// Starts it, and kills it and what it started when the time has come; whether it had not ended before.
fn killed(act: &Operation, ground: &Ground, root: &Path, runroot: &Path, after: Duration) -> Result<bool, String> {
    use std::os::unix::process::CommandExt;
    let mut command = act.command(ground, root, runroot);
    let mut child: Child =
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| format!("{act}: {error}"))?;
    wait(after);
    let ended = child.try_wait().map_err(|error| error.to_string())?.is_some();
    if !ended {
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).map_err(|error| error.to_string())?;
        child.wait().map_err(|error| error.to_string())?;
    }
    Ok(!ended)
}
