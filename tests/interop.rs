//! The same store under the other programs: podman of three generations, skopeo, Debian's docker-registry.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/peers.rs"]
mod peers;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use cstor_rs::extract::{self, Examine};
use cstor_rs::fsio::{Dir, Seam};
use cstor_rs::ids::Digest;
use peers::{DockerRegistry, Peer, between_peers, docker_registry, push_small_image, run, run_text, skip};
use serde_json::Value;

/// A store in a temporary directory.
struct Store {
    temp: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn runroot(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    /// Our own program on it.
    fn ours(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.runroot()).args(args);
        command
    }

    fn pull(&self, image: &str) -> String {
        run_text(&mut self.ours(&["pull", "--quiet", "--tls-verify=false", image]))
    }

    fn peer(&self, peer: &Peer, program: &str, args: &[&str]) -> Command {
        let mut command = peer.command(program, &self.root(), &self.runroot());
        command.args(args);
        command
    }

    fn podman(&self, peer: &Peer, args: &[&str]) -> String {
        between_peers(&self.root());
        run_text(&mut self.peer(peer, "podman", args))
    }

    fn json(&self, table: &str) -> Vec<Value> {
        serde_json::from_slice(&fs::read(self.root().join(table)).unwrap()).unwrap()
    }

    fn layers(&self) -> Vec<Value> {
        self.json("overlay-layers/layers.json")
    }

    fn images(&self) -> Vec<Value> {
        self.json("overlay-images/images.json")
    }

    /// The LINKID of each layer.
    fn links(&self) -> BTreeMap<String, String> {
        let link = |id: &str| fs::read_to_string(self.root().join("overlay").join(id).join("link")).unwrap();
        self.layers().iter().map(|layer| (text(layer, "id"), link(&text(layer, "id")))).collect()
    }

    /// Everything outside of `cstor-rs/`, without the lock files' tokens.
    fn listing(&self) -> Vec<String> {
        let lines = oracle::listing(&self.root()).unwrap();
        lines.into_iter().filter(|line| !line.starts_with("./cstor-rs") && !line.contains(".lock ") && !line.starts_with(". ")).collect()
    }
}

fn text(record: &Value, key: &str) -> String {
    record[key].as_str().unwrap().to_owned()
}

/// What every test here needs; else the reason is printed and the test is over.
fn ready() -> Option<(Vec<Peer>, DockerRegistry, String)> {
    let peers = Peer::all();
    if peers.is_empty() {
        skip("interop", "no podman works here");
        return None;
    }
    let registry = docker_registry()?;
    let image = push_small_image(&registry)?;
    Some((peers, registry, image))
}

fn failed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
    output
}

/// What an image says of itself through podman, without what two stores cannot have in common.
fn inspected(store: &Store, peer: &Peer, image: &str) -> Value {
    let text = store.podman(peer, &["image", "inspect", image]);
    let mut list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let image = list.remove(0);
    let strip = |value: &Value, root: &Path| -> Value {
        // Paths of the store, and the LINKIDs in them.
        let text = value.to_string().replace(&root.display().to_string(), "ROOT");
        serde_json::from_str(&text).unwrap()
    };
    strip(&image, &store.root())
}

#[test]
fn each_podman_sees_what_we_pulled_as_what_it_pulls_itself() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let (ours, theirs) = (Store::new(), Store::new());
        let id = ours.pull(&image);
        assert_eq!(theirs.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image]), id);
        let listed = |store: &Store| {
            store
                .podman(&peer, &["images", "--no-trunc", "--digests", "--format", "{{.ID}} {{.Repository}} {{.Tag}} {{.Digest}} {{.Size}}"])
        };
        assert_eq!(listed(&ours), listed(&theirs), "{}", peer.name);
        assert_eq!(inspected(&ours, &peer, &image), inspected(&theirs, &peer, &image), "{}", peer.name);
        assert_eq!(
            ours.podman(&peer, &["history", "--no-trunc", "--format", "json", &image]),
            theirs.podman(&peer, &["history", "--no-trunc", "--format", "json", &image])
        );
    }
}

#[test]
fn each_podman_runs_saves_checks_and_removes_what_we_pulled() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let store = Store::new();
        store.pull(&image);
        let motd = store.podman(&peer, &["run", "--rm", "--network=none", &image, "/bin/cat", "/etc/motd"]);
        assert_eq!(motd, "a second layer", "{}", peer.name);
        let archive = store.temp.path().join("saved.tar");
        store.podman(&peer, &["save", "--quiet", "--format", "oci-archive", "--output", archive.to_str().unwrap(), &image]);
        let mut names = tar::Archive::new(fs::File::open(&archive).unwrap());
        let saved: BTreeSet<String> = names.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert!(saved.contains("index.json") && saved.iter().filter(|name| name.starts_with("blobs/sha256/")).count() >= 4, "{saved:?}");
        if peer.major() >= 5 {
            store.podman(&peer, &["system", "check"]);
        }
        store.podman(&peer, &["rmi", &image]);
        assert_eq!((store.layers(), store.images()), (vec![], vec![]), "{}", peer.name);
        assert_eq!(oracle::leftovers(&store.root(), &peers_own()), Vec::<PathBuf>::new(), "{}", peer.name);
    }
}

/// What podman itself leaves beside the tables.
fn peers_own() -> BTreeSet<PathBuf> {
    [
        "overlay/.has-mount-program",
        "overlay/backingFsBlockDev",
        "overlay/tempdirs",
        "overlay/staging",
        "overlay-layers/tmp",
        "overlay-layers/volatile-layers.json",
        "overlay-images/tmp",
    ]
    .into_iter()
    .map(PathBuf::from)
    .collect()
}

#[test]
fn skopeo_exports_what_we_pulled_bit_for_bit() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let store = Store::new();
        store.pull(&image);
        let (from, dir) = (format!("containers-storage:{image}"), store.temp.path().join("exported"));
        run(&mut store.peer(&peer, "skopeo", &["copy", "--quiet", "--dest-decompress", &from, &format!("dir:{}", dir.display())]));
        let exported: BTreeSet<String> =
            fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        for layer in store.layers() {
            let digest = text(&layer, "diff-digest");
            let bytes =
                fs::read(dir.join(digest.trim_start_matches("sha256:"))).unwrap_or_else(|_| panic!("{digest} is not in {exported:?}"));
            assert_eq!(cstor_rs::ids::Digest::of(&bytes).as_str(), digest, "{}", peer.name);
        }
        oracle::read(&store.root()).unwrap();
    }
}

#[test]
fn what_podman_and_skopeo_pulled_is_verified_sealed_and_reused() {
    let Some((peers, _registry, image)) = ready() else { return };
    for (peer, puller) in peers.into_iter().flat_map(|peer| [(peer.clone(), "podman"), (peer, "skopeo")]) {
        let store = Store::new();
        let id = if puller == "podman" {
            store.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image])
        } else {
            let (from, to) = (format!("docker://{image}"), format!("containers-storage:{image}"));
            run(&mut store.peer(&peer, "skopeo", &["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
            text(&store.images()[0], "id")
        };
        let listed: Vec<Value> = serde_json::from_str(&run_text(&mut store.ours(&["images", "--json"]))).unwrap();
        assert_eq!((listed.len(), text(&listed[0], "id")), (1, id.clone()), "{}", peer.name);
        assert_eq!(listed[0]["names"], serde_json::json!([image]));
        let layers: Vec<Value> = serde_json::from_str(&run_text(&mut store.ours(&["layers", "--json"]))).unwrap();
        let ids = |list: &[Value]| list.iter().map(|layer| text(layer, "id")).collect::<BTreeSet<_>>();
        assert_eq!(ids(&layers), ids(&store.layers()));

        let (links, tables) = (store.links(), (store.layers(), store.images()));
        let pulled: Value = serde_json::from_str(&run_text(&mut store.ours(&["pull", "--json", "--tls-verify=false", &image]))).unwrap();
        assert_eq!((text(&pulled, "id"), pulled["layers_fetched"].as_u64()), (id.clone(), Some(0)), "{}", peer.name);
        assert_eq!(store.links(), links, "{}", peer.name);
        assert_eq!(store.layers(), tables.0, "{}", peer.name);
        for layer in links.keys() {
            assert!(store.root().join("overlay").join(layer).join("cstor-rs.seal").exists(), "{}: layer {layer} is not sealed", peer.name);
        }
        let before = store.listing();
        assert_eq!(store.pull(&image), id);
        assert_eq!(store.listing(), before, "{}: the second pull changed the store", peer.name);
        store.podman(&peer, &["run", "--rm", "--network=none", &image, "/bin/true"]);
    }
}

/// What an examination of every layer of a store finds.
fn found(store: &Store) -> Vec<String> {
    let open = |path: PathBuf| Dir::open(&path, Seam::default()).unwrap();
    let mut list = Vec::new();
    for layer in store.layers() {
        let id = text(&layer, "id");
        let diff_id: Digest = text(&layer, "diff-digest").parse().unwrap();
        let split = open(store.root().join("overlay-layers")).file(format!("{id}.tar-split.gz")).unwrap();
        let stop = AtomicBool::new(false);
        let how = Examine { diff_id: Some(&diff_id), contents: true, limit: 100, progress: &|_, _| {}, stop: &stop };
        let seen = extract::examine(&open(store.root().join("overlay").join(&id).join("diff")), &split, &how).unwrap().unwrap();
        assert!(!seen.differences.is_empty() || seen.tar_digest == Some(diff_id));
        list.extend(seen.differences.into_iter().map(|one| format!("{one:?}")));
    }
    list
}

#[test]
fn what_each_podman_skopeo_and_buildah_wrote_is_found_sound() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let store = Store::new();
        let podman = |args: &[&str]| run(&mut store.peer(&peer, "podman", args));
        podman(&["pull", "--quiet", "--tls-verify=false", &image]);
        assert_eq!(found(&store), [] as [String; 0], "{}: pulled", peer.name);
        // Mounted once, with a container; then with an image built on it: a whiteout, an opaque directory, links.
        podman(&["run", "--rm", "--network=none", &image, "/bin/true"]);
        let work = "\
            cp -a /bin /b && rm -r /bin && mkdir /bin && \
            cp -a /b/. /bin && rm /etc/motd && \
            echo new >/etc/new && ln -s new /etc/link && ln /etc/new /etc/hard && chmod 4711 /etc/new && mkfifo /b/fifo";
        podman(&["run", "--name", "built", "--network=none", &image, "/bin/sh", "-c", work]);
        podman(&["commit", "--quiet", "built", "localhost/built"]);
        podman(&["rm", "built"]);
        assert!(store.layers().len() > 2, "{}: nothing was built", peer.name);
        assert_eq!(found(&store), [] as [String; 0], "{}: built", peer.name);

        let copied = Store::new();
        let (from, to) = (format!("docker://{image}"), format!("containers-storage:{image}"));
        run(&mut copied.peer(&peer, "skopeo", &["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
        assert_eq!(found(&copied), [] as [String; 0], "{}: copied by skopeo", peer.name);
        copied.pull(&image);
        assert_eq!(found(&copied), [] as [String; 0], "{}: after a pull of ours", peer.name);
    }
}

type Damage = (&'static str, fn(&Path));

/// Ways in which a layer is found after a power cut or worse.
const DAMAGE: &[Damage] = &[
    ("a file is empty", |layer| fs::write(layer.join("diff/etc/motd"), b"").unwrap()),
    ("a file has other bytes", |layer| fs::write(layer.join("diff/etc/motd"), b"A second layer\n").unwrap()),
    ("a file is gone", |layer| fs::remove_file(layer.join("diff/etc/motd")).unwrap()),
    ("a file has another mode", |layer| {
        fs::set_permissions(layer.join("diff/etc/motd"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }),
    ("lower is empty", |layer| fs::write(layer.join("lower"), b"").unwrap()),
    ("link is empty", |layer| fs::write(layer.join("link"), b"").unwrap()),
    ("its directory is gone", |layer| fs::remove_dir_all(layer).unwrap()),
    ("the contents are gone", |layer| fs::remove_dir_all(layer.join("diff")).unwrap()),
];

fn top(store: &Store) -> PathBuf {
    let id = text(&store.images()[0], "layer");
    store.root().join("overlay").join(id)
}

#[test]
fn a_damaged_layer_of_podman_is_healed_in_place() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        for (what, damage) in DAMAGE {
            let what = format!("{}, {what}", peer.name);
            let store = Store::new();
            store.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image]);
            let (links, top) = (store.links(), top(&store));
            damage(&top);
            store.pull(&image);
            assert_eq!(store.links(), links, "{what}");
            assert_eq!(fs::read(top.join("diff/etc/motd")).unwrap(), b"a second layer\n", "{what}");
            assert!(top.join("cstor-rs.seal").exists(), "{what}");
            let said = oracle::read(&store.root()).unwrap_or_else(|why| panic!("{what}: {why}"));
            oracle::data_agrees(&said).unwrap_or_else(|why| panic!("{what}: {why}"));
            store.podman(&peer, &["run", "--rm", "--network=none", &image, "/bin/cat", "/etc/motd"]);
        }
    }
}

#[test]
fn a_damaged_layer_under_a_container_is_left_alone_and_named() {
    let Some((peers, _registry, image)) = ready() else { return };
    for peer in peers {
        let store = Store::new();
        store.podman(&peer, &["pull", "--quiet", "--tls-verify=false", &image]);
        store.podman(&peer, &["create", "--name", "keeper", "--network=none", &image]);
        fs::write(top(&store).join("diff/etc/motd"), b"").unwrap();
        let before = store.listing();
        let output = failed(&mut store.ours(&["pull", "--tls-verify=false", &image]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{}: {said}", peer.name);
        assert!(said.contains("container keeper"), "{}: {said}", peer.name);
        assert_eq!(store.listing(), before, "{}", peer.name);
    }
}

/// The image with one more layer, pushed under the same name.
fn push_newer(image: &str) {
    let host = Peer::host().unwrap();
    let store = Store::new();
    let buildah = |args: &[&str]| run_text(&mut store.peer(&host, "buildah", args));
    let file = store.temp.path().join("newer");
    fs::write(&file, "newer\n").unwrap();
    let container = buildah(&["from", "--tls-verify=false", image]);
    buildah(&["copy", "--quiet", &container, file.to_str().unwrap(), "/etc/newer"]);
    buildah(&["commit", "--quiet", "--rm", &container, image]);
    buildah(&["push", "--quiet", "--tls-verify=false", image]);
}

#[test]
fn a_name_moves_to_the_newer_image_as_podman_moves_it() {
    let Some((peers, _registry, image)) = ready() else { return };
    let stores: Vec<(Peer, Store, Store)> = peers.into_iter().map(|peer| (peer, Store::new(), Store::new())).collect();
    let pull_both = |peer: &Peer, ours: &Store, theirs: &Store| {
        ours.pull(&image);
        theirs.podman(peer, &["pull", "--quiet", "--tls-verify=false", &image]);
    };
    for (peer, ours, theirs) in &stores {
        pull_both(peer, ours, theirs);
    }
    push_newer(&image);
    for (peer, ours, theirs) in &stores {
        pull_both(peer, ours, theirs);
        let said = |store: &Store| -> BTreeMap<String, (Value, Value)> {
            store.images().iter().map(|image| (text(image, "id"), (image["names"].clone(), image["names-history"].clone()))).collect()
        };
        assert_eq!(said(ours), said(theirs), "{}", peer.name);
        assert_eq!(ours.images().len(), 2);
        ours.podman(peer, &["run", "--rm", "--network=none", &image, "/bin/cat", "/etc/newer"]);
    }
}

#[test]
fn every_form_of_an_image_is_pulled_and_runs() {
    let Some((peers, registry, image)) = ready() else { return };
    let host = Peer::host().unwrap();
    let scratch = Store::new();
    let (docker, zstd) = (format!("{}/docker:latest", registry.address), format!("{}/zstd:latest", registry.address));
    let copy = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2"];
    run(scratch.peer(&host, "skopeo", &copy).args([format!("docker://{image}"), format!("docker://{docker}")]));
    let id = run_text(&mut scratch.peer(&host, "buildah", &["pull", "--quiet", "--tls-verify=false", &image]));
    // buildah remembers which gzip blobs the registry has, and would name them again.
    let cache = "/var/lib/containers/cache";
    fs::create_dir_all(cache).unwrap();
    let mut push = Command::new("unshare");
    let inner = scratch.peer(&host, "buildah", &["push", "--quiet", "--tls-verify=false", "--compression-format", "zstd", &id]);
    push.args(["-m", "sh", "-c", "[ ! -d \"$0\" ] || mount -t tmpfs none \"$0\"; exec \"$@\""])
        .arg(cache)
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => push.env(name, value),
            None => push.env_remove(name),
        };
    }
    run(push.arg(format!("docker://{zstd}")));
    let forms = [image.clone(), docker, zstd];
    for form in forms {
        for peer in &peers {
            let store = Store::new();
            store.pull(&form);
            oracle::read(&store.root()).unwrap();
            let manifest: Value = serde_json::from_slice(
                &fs::read(store.root().join("overlay-images").join(text(&store.images()[0], "id")).join("manifest")).unwrap(),
            )
            .unwrap();
            let docker = text(&manifest, "mediaType").contains("docker");
            assert_eq!(docker, form.contains("/docker:"), "{form}: {manifest}");
            if form.contains("/zstd:") {
                // 4 is zstd in Go's numbering.
                assert!(store.layers().iter().all(|layer| layer["compression"] == 4), "{:?}", store.layers());
            }
            store.podman(peer, &["run", "--rm", "--network=none", &form, "/bin/true"]);
        }
    }
}

#[test]
fn ten_processes_of_ours_and_of_podman_pull_at_once_and_everything_is_whole() {
    let Some((peers, registry, image)) = ready() else { return };
    let host = Peer::host().unwrap();
    let scratch = Store::new();
    let mut names = vec![image.clone()];
    for name in ["second", "third"] {
        let to = format!("{}/{name}:latest", registry.address);
        let tls = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
        run(scratch.peer(&host, "skopeo", &tls).args([format!("docker://{image}"), format!("docker://{to}")]));
        push_newer(&to);
        names.push(to);
    }
    for peer in peers {
        let store = Store::new();
        let children: Vec<std::process::Child> = (0..10)
            .map(|n| {
                let name = &names[n / 2 % names.len()];
                let mut command = if n % 2 == 0 {
                    store.ours(&["pull", "--quiet", "--tls-verify=false", name])
                } else {
                    store.peer(&peer, "podman", &["pull", "--quiet", "--tls-verify=false", name])
                };
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}: {}", peer.name, String::from_utf8_lossy(&output.stderr));
        }
        let said = oracle::read(&store.root()).unwrap_or_else(|why| panic!("{}: {why}", peer.name));
        oracle::data_agrees(&said).unwrap();
        let seen: BTreeSet<String> = store
            .images()
            .iter()
            .flat_map(|image| image["names"].as_array().cloned().unwrap_or_default())
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(seen, names.iter().cloned().collect(), "{}", peer.name);
        for name in &names {
            store.podman(&peer, &["run", "--rm", "--network=none", name, "/bin/true"]);
            store.pull(name);
        }
        let before = store.listing();
        for name in &names {
            store.pull(name);
        }
        assert_eq!(store.listing(), before, "{}: nothing was left to do", peer.name);
        for dir in ["journal", "stage", "trash"] {
            assert_eq!(fs::read_dir(store.root().join("cstor-rs").join(dir)).unwrap().count(), 0, "{}: {dir}", peer.name);
        }
    }
}
