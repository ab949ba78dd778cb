//! What an acknowledged image is after a power cut, for every program alike: a pull of one image into a new store, the exit, and
//! then the power goes some time later.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::device::Bench;
use super::filesystem::Filesystem;
use super::judge::differs;
use super::medium::Medium;
use super::record::Recording;
use super::states::{CUTS, States};
use super::work::{Ground, Operation, Work, podman_pull, pull};
use crate::oracle::{self, Said};
use crate::peers::Peer;
use crate::rng::Rng;

/// How long after the exit the power may go: the kernel writes by itself what is 30 seconds old, and XFS its log 30 seconds later.
pub const TAIL: Duration = Duration::from_secs(60);

/// What has become of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is there, byte for byte.
    Whole,
    /// The store does not have it, and is whole otherwise.
    Lost,
    /// The store says that it has it, and some of it is missing or another.
    Broken,
    /// A table of the store cannot be read.
    Unreadable,
    /// The file system does not mount.
    Unmountable,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Lost => "lost",
            Self::Broken => "broken",
            Self::Unreadable => "unreadable",
            Self::Unmountable => "unmountable",
        }
    }
}

/// One of the programs that are compared.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    peer: Option<Peer>,
    syncs: bool,
}

impl Program {
    /// Ours, every podman that is here, the newest as it can be set to sync, and skopeo.
    pub fn all() -> Vec<Self> {
        let mut programs = vec![Self { name: "cstor-rs".to_owned(), peer: None, syncs: false }];
        for peer in Peer::all() {
            programs.push(Self { name: peer.name.clone(), peer: Some(peer.clone()), syncs: false });
            if peer.major() >= 6 {
                programs.push(Self { name: format!("{} sync=filesystem", peer.name), peer: Some(peer), syncs: true });
            }
        }
        programs.extend(Peer::host().map(|peer| Self { name: "skopeo".to_owned(), peer: Some(peer), syncs: false }));
        programs
    }

    fn operation(&self, ground: &Ground) -> Operation {
        match &self.peer {
            None => pull(ground, &["one"], &[]),
            Some(peer) if self.name == "skopeo" => {
                let to = "containers-storage:localhost/one:latest".to_owned();
                Operation::Peer(peer.clone(), "skopeo", vec!["copy".to_owned(), "-q".to_owned(), ground.layout.reference("one"), to])
            }
            Some(peer) if self.syncs => {
                let Operation::Peer(peer, program, args) = podman_pull(ground, peer, "one") else { unreachable!("podman is a peer") };
                let option = ["--storage-opt".to_owned(), "overlay.sync=filesystem".to_owned()];
                Operation::Peer(peer, program, option.into_iter().chain(args).collect())
            }
            Some(peer) => podman_pull(ground, peer, "one"),
        }
    }
}

/// What one power cut made of it.
#[derive(Debug, Clone, Copy)]
pub struct Drawn {
    /// Seconds behind the exit; less than nothing where it had not come to that.
    pub seconds: f64,
    pub outcome: Outcome,
}

/// Draws `wanted` power cuts behind the exit, at times evenly spread, and a third as many in the middle of it.
pub fn run(bench: &Bench, fs: Filesystem, program: &Program, seed: u64, wanted: usize) -> Result<Vec<Drawn>, String> {
    let ground = Ground::new();
    let work = Work { promised: 1, ..Work::of("pull", vec![program.operation(&ground)]) };
    let recording = Recording::of(bench, fs, &work, &ground, TAIL)?;
    let mut rng = Rng::new(seed);
    // Moments, not different states: what is asked is how many of them are bad, and in most of them nothing new has come.
    let states = States::of(&recording.start, &recording.log, fs.unit);
    let mut drawn = Vec::new();
    let position = recording.promised();
    let exit = recording.log[position - 1].at;
    let whole = &recording.said[1];
    for index in 0..wanted + wanted / 3 {
        let (at, seconds) = if index < wanted {
            let time = exit + TAIL.mul_f64((index as f64 + 0.5) / wanted as f64);
            (recording.log.iter().take_while(|stamped| stamped.at <= time).count().max(position), (time - exit).as_secs_f64())
        } else {
            (1 + rng.below(position - 1), -1.0)
        };
        let cut = CUTS[rng.below(CUTS.len())];
        let (outcome, why) = look(bench, fs, &states.state(at, cut, &mut rng).0.medium, whole);
        if index + 1 == wanted && outcome != Outcome::Whole {
            println!("{} on {}, {seconds:.1} s behind the exit still {}: {why}", program.name, fs.name, outcome.word());
        }
        drawn.push(Drawn { seconds, outcome });
    }
    Ok(drawn)
}

/// What a disk still has of the image of this store, and why it is no more.
fn look(bench: &Bench, fs: Filesystem, medium: &Medium, whole: &Said) -> (Outcome, String) {
    let mounted = match fs.mount(bench, &fs.disk(medium.clone())) {
        Ok(mounted) => mounted,
        Err(why) => return (Outcome::Unmountable, why),
    };
    let root = mounted.root();
    let images = match (records(&root.join("overlay-images/images.json")), records(&root.join("overlay-layers/layers.json"))) {
        (Ok(images), Ok(_)) => images,
        (Err(why), _) | (_, Err(why)) => return (Outcome::Unreadable, why),
    };
    let listed = |id: &String| images.iter().any(|image| image["id"].as_str() == Some(id));
    if !whole.images.keys().all(listed) {
        return (Outcome::Lost, "it is not listed".to_owned());
    }
    match oracle::read(&root) {
        Err(why) => (Outcome::Broken, why),
        Ok(said) => {
            let images = whole.images.iter().all(|(id, image)| said.images.get(id) == Some(image));
            let layers = whole.layers.iter().all(|(id, layer)| said.layers.get(id) == Some(layer));
            if images && layers { (Outcome::Whole, String::new()) } else { (Outcome::Broken, differs(whole, &said)) }
        }
    }
}

fn records(path: &Path) -> Result<Vec<Value>, String> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}
