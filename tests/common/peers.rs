//! The other programs on the same store: podman, buildah and skopeo of every version at hand, Debian's
//! docker-registry, and a small image that really runs. `scripts/test` provides them.
//!
//! What is missing is said on the real stderr (libtest does not capture it) and the test that needs it ends early.

#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::{env, thread};

/// One generation of podman and its family, run through `scripts/peer-run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// As it calls itself: "podman 4.3".
    pub name: String,
    /// "host", or the root that the programs live in.
    root: PathBuf,
}

impl Peer {
    /// Every peer that works here, the host's own first; the others are named with the reason.
    pub fn all() -> Vec<Self> {
        static ALL: OnceLock<Vec<Peer>> = OnceLock::new();
        ALL.get_or_init(Self::find).clone()
    }

    /// The programs of this machine, if they work.
    pub fn host() -> Option<Self> {
        Self::all().into_iter().find(|peer| peer.root == Path::new("host"))
    }

    fn find() -> Vec<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("podman", "private mounts need the root user");
            return Vec::new();
        }
        let cache = env::var_os("CSTOR_PEERS").map_or_else(|| PathBuf::from("/var/tmp/cstor-rs-peers"), PathBuf::from);
        let mut peers = Vec::new();
        for root in [PathBuf::from("host"), cache.join("5"), cache.join("6")] {
            match Self::probe(&root) {
                Ok(peer) => peers.push(peer),
                Err(reason) => skip(&format!("podman of {}", root.display()), &reason),
            }
        }
        peers
    }

    fn probe(root: &Path) -> Result<Self, String> {
        if root != Path::new("host") && !root.is_dir() {
            return Err("scripts/peers has not built it".to_owned());
        }
        let temp = tempfile::tempdir().map_err(|e| e.to_string())?;
        let output = peer_run(root, temp.path()).args(["podman", "--version"]).output().map_err(|e| format!("scripts/peer-run: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.trim().strip_prefix("podman version ").and_then(|v| v.rsplit_once('.')).map(|(major_minor, _)| major_minor);
        match version {
            Some(version) if output.status.success() => Ok(Self { name: format!("podman {version}"), root: root.to_owned() }),
            _ => Err(format!("it does not start here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    /// The major version: 4, 5, 6.
    pub fn major(&self) -> u32 {
        self.name.trim_start_matches("podman ").split('.').next().unwrap().parse().unwrap()
    }

    /// `program` of this peer on the store `root`; podman, buildah and the storage CLI get the flags, and every program
    /// a storage.conf that names the store, so that skopeo's `containers-storage:NAME` is this one.
    ///
    /// `root` and `runroot` are absolute and under the directory of temporary files. Beside `runroot` this makes
    /// `<runroot>.<peer>`: the peer's own /run.
    pub fn command(&self, program: &str, root: &Path, runroot: &Path) -> Command {
        assert!(root.is_absolute() && runroot.is_absolute(), "stores of peers are named absolutely");
        let mut own = runroot.as_os_str().to_owned();
        own.push(format!(".{}", self.name.replace(' ', "-")));
        let own = PathBuf::from(own);
        fs::create_dir_all(&own).unwrap();
        let conf = own.join("storage.conf");
        let text = format!("[storage]\ndriver = \"overlay\"\ngraphroot = {root:?}\nrunroot = {runroot:?}\n");
        // Two commands may start at once: written whole, then renamed in.
        let fresh = own.join(format!("storage.conf.{:?}", thread::current().id()));
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &conf).unwrap();

        let mut command = peer_run(&self.root, &own);
        command.env("CONTAINERS_STORAGE_CONF", &conf).arg(program);
        match program {
            "podman" | "buildah" => {
                command.arg("--root").arg(root).arg("--runroot").arg(runroot).args(["--storage-driver", "overlay"]);
            }
            "containers-storage" => {
                command.arg("--graph").arg(root).arg("--run").arg(runroot).args(["--storage-driver", "overlay"]);
            }
            _ => {}
        }
        command
    }
}

fn peer_run(root: &Path, run: &Path) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/peer-run"));
    command.stdin(Stdio::null()).env("RUNDIR", run).arg(root);
    for name in ["CONTAINER_HOST", "CONTAINERS_CONF", "STORAGE_DRIVER", "STORAGE_OPTS", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command
}

/// Says on the real stderr that `what` is not tested here.
pub fn skip(what: &str, reason: &str) {
    std::io::stderr().write_all(format!("skipped {what}: {reason}\n").as_bytes()).unwrap();
}

/// The command's output, which must have ended well.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// The command's standard output as text without the last line end; it must have ended well.
pub fn run_text(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap().trim_end().to_owned()
}

/// Takes away what makes one podman refuse the store of another: podman 6 a root with `libpod/bolt_state.db`,
/// podman 4 one whose `defaultNetworkBackend` says netavark.
pub fn between_peers(root: &Path) {
    for name in ["libpod/bolt_state.db", "defaultNetworkBackend"] {
        match fs::remove_file(root.join(name)) {
            Ok(()) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{name}: {e}"),
        }
    }
}

/// Debian's docker-registry on a free port of the loopback, its data in a directory that goes with it.
pub struct DockerRegistry {
    /// "127.0.0.1:PORT".
    pub address: String,
    child: Child,
    _data: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts a registry; nothing, with the reason printed, where docker-registry is not installed.
pub fn docker_registry() -> Option<DockerRegistry> {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {:?}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:0\n",
        data.path().join("data")
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            skip("docker-registry", &e.to_string());
            return None;
        }
    };
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // It says which port the system gave it once it listens.
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, behind) = line.split_once("listening on ")?;
        Some(behind.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect::<String>())
    });
    // Nobody may find its stderr full.
    thread::spawn(move || lines.for_each(drop));
    let registry = DockerRegistry { address: address.unwrap_or_default(), child, _data: data };
    assert!(!registry.address.is_empty(), "docker-registry ended before it listened");
    Some(registry)
}

/// Makes a runnable image of two layers (a static busybox; a few files beside it) with the host's buildah, without a
/// network, and pushes it to `registry` as `small:latest`. Returns its reference.
pub fn push_small_image(registry: &DockerRegistry) -> Option<String> {
    let host = Peer::host()?;
    let temp = tempfile::tempdir().unwrap();
    let rootfs = temp.path().join("rootfs");
    if let Err(reason) = busybox_rootfs(&rootfs) {
        skip("the small image", &reason);
        return None;
    }
    let more = temp.path().join("more");
    fs::create_dir_all(more.join("etc")).unwrap();
    fs::write(more.join("etc/motd"), "a second layer\n").unwrap();

    let (root, runroot) = (temp.path().join("root"), temp.path().join("run"));
    let buildah = |args: &[&str]| run_text(host.command("buildah", &root, &runroot).args(args));
    let reference = format!("{}/small:latest", registry.address);
    let first = buildah(&["from", "scratch"]);
    buildah(&["copy", "--quiet", &first, rootfs.to_str().unwrap(), "/"]);
    buildah(&["config", "--cmd", "/bin/true", "--env", "PATH=/bin", &first]);
    let base = buildah(&["commit", "--quiet", "--rm", &first]);
    let second = buildah(&["from", "--pull-never", &base]);
    buildah(&["copy", "--quiet", &second, more.to_str().unwrap(), "/"]);
    buildah(&["commit", "--quiet", "--rm", &second, &reference]);
    buildah(&["push", "--quiet", "--tls-verify=false", &reference]);
    Some(reference)
}

/// A root file system of busybox alone.
fn busybox_rootfs(rootfs: &Path) -> Result<(), String> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
    let busybox = busybox.ok_or("no busybox is installed")?;
    let bin = rootfs.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(rootfs.join("etc")).unwrap();
    fs::copy(busybox, bin.join("busybox")).unwrap();
    for name in ["cat", "sh", "true"] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
    let alone = Command::new("chroot").arg(rootfs).arg("/bin/true").output().map_err(|e| format!("chroot: {e}"))?;
    if alone.status.success() { Ok(()) } else { Err(format!("{busybox} is not static")) }
}
