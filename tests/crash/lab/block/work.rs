//! What the command does while the power may go: operations one after the other, each acknowledged by its exit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::{self, Image};
use crate::image::{Layout, above, every_kind, two_layers};
use crate::peers::Peer;

/// The images, on a disk whose power stays.
pub struct Ground {
    pub temp: tempfile::TempDir,
    pub layout: Layout,
}

/// One thing that is done to a store.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Our command with these arguments.
    Ours(Vec<String>),
    /// A program of somebody else.
    Peer(Peer, &'static str, Vec<String>),
    /// A finished store is copied in, and then synced or not: what shows that the judge sees.
    Copied { sync: bool },
}

impl Operation {
    /// Does it in this runroot.
    pub fn run(&self, ground: &Ground, root: &Path, runroot: &Path) -> Result<Output, String> {
        self.command(ground, root, runroot).output().map_err(|error| format!("{self}: {error}"))
    }

    /// What does it.
    pub fn command(&self, ground: &Ground, root: &Path, runroot: &Path) -> Command {
        match self {
            Self::Ours(args) => command(root, runroot, args),
            Self::Peer(peer, program, args) => {
                let mut command = peer.command(program, root, runroot);
                command.args(args);
                command
            }
            Self::Copied { sync } => {
                let mut command = Command::new("sh");
                let script = if *sync { "cp -a \"$1\" \"$2\" && sync -f \"$2\"" } else { "cp -a \"$1\" \"$2\"" };
                command.args(["-c", script, "sh"]).arg(ground.store()).arg(root);
                command
            }
        }
    }

    /// The same, which must end well.
    pub fn done(&self, ground: &Ground, root: &Path, runroot: &Path) -> Result<(), String> {
        let output = self.run(ground, root, runroot)?;
        // fsck says with 1 that it healed all it found.
        let healed = matches!(self, Self::Ours(args) if args[0] == "fsck") && output.status.code() == Some(1);
        if output.status.success() || healed {
            return Ok(());
        }
        Err(format!("{self}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(args) => write!(f, "cstor-rs {}", args.join(" ")),
            Self::Peer(peer, program, args) => write!(f, "{program} of {} {}", peer.name, args.join(" ")),
            Self::Copied { sync } => write!(f, "cp -a{}", if *sync { " and sync" } else { "" }),
        }
    }
}

impl Ground {
    pub fn new() -> Self {
        // podman makes a name of the path, and names have no capitals.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("cstor-rs-lab-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let temp = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
        let layout = Layout::of(temp.path().join("layout"), &images());
        let apply = [
            format!("[[change]]\npull = \"{}\"\n", layout.reference("five")),
            "[[change]]\ntag = { image = \"four\", name = \"current\" }\n".to_owned(),
            "[[change]]\nrm = \"three\"\n".to_owned(),
        ];
        std::fs::write(temp.path().join("apply.toml"), apply.concat()).unwrap();
        Self { temp, layout }
    }

    /// A finished store of one image, made when it is first asked for.
    fn store(&self) -> PathBuf {
        let store = self.temp.path().join("store");
        if !store.exists() {
            let output = run(&store, &["pull", "-q", &self.layout.reference("one")]);
            assert!(output.status.success(), "{output:?}");
        }
        store
    }

    fn apply(&self) -> String {
        self.temp.path().join("apply.toml").display().to_string()
    }
}

/// one, two and five share a base; three and four have another one; six is whole by itself.
fn images() -> Vec<Image> {
    let (base, other) = (every_kind(1), every_kind(1000));
    let with = |name: &str, base: &fixture::Layer| fixture::image(name, vec![base.clone(), above(name)]);
    vec![with("one", &base), with("two", &base), with("three", &other), with("four", &other), with("five", &base), two_layers("six", 2000)]
}

/// The command on the store of a disk. What lasts until the next boot lies elsewhere, and is new after each power cut.
pub fn command(root: &Path, runroot: &Path, args: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
    command.arg("--root").arg(root).arg("--runroot").arg(runroot).args(args);
    command
}

/// The same, run to its end in a runroot of its own.
pub fn run(root: &Path, args: &[&str]) -> Output {
    let temp = tempfile::tempdir().unwrap();
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    command(root, temp.path(), &args).output().unwrap()
}

/// A workload.
#[derive(Clone)]
pub struct Work {
    pub name: String,
    /// What is there before, durable.
    pub before: Vec<Operation>,
    /// The operations, each one transaction.
    pub operations: Vec<Operation>,
    /// What is broken before, by files below the root.
    pub injure: fn(&Path),
    /// Whether the operations repair: what they leave half done is for the next of them, and no store of before or after.
    pub repairs: bool,
    /// How many operations must have been acknowledged before anything is promised.
    pub promised: usize,
}

fn words(text: &str) -> Operation {
    Operation::Ours(text.split(' ').map(str::to_owned).collect())
}

/// A pull of these images.
pub fn pull(ground: &Ground, names: &[&str], options: &[&str]) -> Operation {
    let options = options.iter().map(|option| (*option).to_owned());
    let names = names.iter().map(|name| ground.layout.reference(name));
    Operation::Ours(["pull".to_owned(), "-q".to_owned()].into_iter().chain(options).chain(names).collect())
}

/// podman's pull of an image.
pub fn podman_pull(ground: &Ground, peer: &Peer, name: &str) -> Operation {
    Operation::Peer(peer.clone(), "podman", vec!["pull".to_owned(), "-q".to_owned(), ground.layout.reference(name)])
}

impl Work {
    pub fn of(name: &str, operations: Vec<Operation>) -> Self {
        Self { name: name.to_owned(), before: Vec::new(), operations, injure: |_| {}, repairs: false, promised: 0 }
    }

    /// Every operation that changes images and layers.
    pub fn walk(ground: &Ground) -> Self {
        let operations = vec![
            pull(ground, &["one"], &[]),
            pull(ground, &["two"], &["--jobs", "4"]),
            words("tag one stable"),
            pull(ground, &["three", "four"], &["--atomic"]),
            words("tag two stable"),
            Operation::Ours(vec!["apply".to_owned(), ground.apply()]),
            words("untag two stable"),
            words("rmi one"),
            pull(ground, &["six"], &["--sync", "files"]),
            words("untag six"),
            words("prune --image-age 0s --layer-age 0s"),
            words("rmi four"),
            pull(ground, &["one"], &[]),
        ];
        Self::of("walk", operations)
    }

    /// Repairs from the images at hand: contents, attributes, links, documents.
    pub fn repair(ground: &Ground) -> Self {
        let repair = format!("fsck --level full -q --repair --refetch=oci:{}", ground.layout.0.display());
        let before = vec![pull(ground, &["one", "two", "three"], &["--atomic"])];
        Self { before, injure, repairs: true, ..Self::of("repair", vec![words(&repair)]) }
    }

    /// What podman pulled is settled; then the store goes on.
    pub fn settle(ground: &Ground, peer: &Peer) -> Self {
        let operations = vec![
            podman_pull(ground, peer, "one"),
            podman_pull(ground, peer, "three"),
            words("settle"),
            pull(ground, &["six"], &[]),
            words("settle"),
            words("untag six"),
            pull(ground, &["two"], &[]),
        ];
        Self { promised: 3, ..Self::of("settle", operations) }
    }
}

/// The directories of the layers, each with its `link`, in order of their names.
fn layers(root: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_dir(root.join("overlay")).unwrap().map(|entry| entry.unwrap());
    let mut dirs: Vec<PathBuf> = list.filter(|entry| entry.file_name().len() == 64).map(|entry| entry.path()).collect();
    dirs.sort();
    dirs
}

/// What a power cut, a fool and a cosmic ray do.
fn injure(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let layers = layers(root);
    let base = layers.iter().find(|dir| dir.join("diff/data/20000").exists()).unwrap();
    std::fs::File::create(base.join("diff/data/20000")).unwrap();
    std::fs::set_permissions(base.join("diff/bin/tool"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_file(base.join("diff/bin/sh")).unwrap();
    for dir in layers.iter().filter(|dir| dir.join("diff/app").exists()).take(2) {
        std::fs::File::create(dir.join("link")).unwrap();
    }
    let documents = std::fs::read_dir(root.join("overlay-images")).unwrap().map(|entry| entry.unwrap().path());
    let image = documents.filter(|path| path.is_dir()).min().unwrap();
    std::fs::remove_file(image.join("manifest")).unwrap();
    let entry = std::fs::read_dir(root.join("overlay/l")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    std::fs::remove_file(entry).unwrap();
}
