//! A store with two images over one base, the registry that they came from, and ways to make it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::oracle::sha256;
use crate::peers::{Peer, run};
use crate::registry::{Compression, ImageSpec, Pushed, Registry};
use crate::tars::{Member, member, pax, tar};

/// The registry of all tests; each has its own repositories in it.
pub fn registry() -> &'static Registry {
    static ONE: OnceLock<Registry> = OnceLock::new();
    ONE.get_or_init(Registry::start)
}

/// A header with these attributes.
fn entry(kind: u8, name: &str, mode: u32, owner: u32, body: &[u8]) -> Member {
    let field = |n: u32| format!("{n:07o}\0").into_bytes();
    let made = member(kind, name.as_bytes(), body).field(100, &field(mode)).field(108, &field(owner)).field(116, &field(owner));
    made.field(136, format!("{:011o}\0", 1_600_000_000).as_bytes())
}

fn dir(name: &str) -> Vec<u8> {
    entry(b'5', name, 0o755, 0, b"").build()
}

fn file(name: &str, body: &[u8]) -> Vec<u8> {
    entry(b'0', name, 0o644, 0, body).build()
}

fn link(kind: u8, name: &str, to: &str) -> Vec<u8> {
    entry(kind, name, 0o777, 0, b"").link(to.as_bytes()).build()
}

fn device(kind: u8, name: &str, major: &[u8], minor: &[u8]) -> Vec<u8> {
    entry(kind, name, 0o660, 0, b"").field(329, major).field(337, minor).build()
}

/// Bytes that do not repeat.
fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) | 0x5eed_0000;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn base() -> Vec<u8> {
    let mut parts = vec![
        dir("etc/"),
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        file("etc/gone", b"will be gone\n"),
        dir("opt/"),
        file("opt/hidden", b"will be hidden\n"),
        dir("srv/"),
        file("srv/twin", &noise(20_000, 3)),
        dir("bin/"),
    ];
    if let Some(bytes) = busybox() {
        parts.push(entry(b'0', "bin/busybox", 0o755, 0, bytes).build());
        parts.push(link(b'2', "bin/true", "busybox"));
    }
    tar(&parts)
}

fn busybox() -> Option<&'static [u8]> {
    static BYTES: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    BYTES.get_or_init(|| ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok())).as_deref()
}

/// A layer with everything that an injury can take away; with parents that are not listed only if `awkward`, because
/// podman 6.1 calls a sound layer damaged that has some.
fn middle(awkward: bool) -> Vec<u8> {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut parts = vec![
        dir("data/"),
        file("data/blob", &noise(300_000, 1)),
        file("data/text", b"some text\n"),
        file("data/nothing", b""),
        file("data/after", b"a header of its own before this\n"),
        file("data/tool", b"#!/bin/sh\n"),
        entry(b'1', "data/zlink", 0o644, 0, b"").link(b"data/tool").build(),
        pax(&[(b"SCHILY.xattr.security.capability", capability)]),
        entry(b'0', "data/capable", 0o755, 0, b"may open raw sockets\n").build(),
        pax(&[(b"SCHILY.xattr.user.note", b"a note"), (b"mtime", b"1600000000.123456789")]),
        file("data/noted", b"has a note\n"),
        entry(b'0', "data/theirs", 0o640, 1000, b"of somebody\n").build(),
        entry(b'0', "data/setuid", 0o4755, 0, b"runs as root\n").build(),
        entry(b'5', "tmp/", 0o1777, 0, b"").build(),
        dir("vacant/"),
        dir("links/"),
        link(b'2', "links/a", "../data/text"),
        link(b'2', "links/b", "/nowhere"),
        dir("dev/"),
        device(b'3', "dev/null", b"0000001\0", b"0000003\0"),
        device(b'4', "dev/loop", b"0000007\0", b"0000000\0"),
        entry(b'6', "dev/pipe", 0o600, 0, b"").build(),
        dir("etc/"),
        file("etc/.wh.gone", b""),
        dir("opt/"),
        file("opt/.wh..wh..opq", b""),
        dir("srv/"),
        file("srv/copy", &noise(20_000, 3)),
    ];
    if awkward {
        parts.push(file("usr/lib/unlisted/file", b"its parents are not listed\n"));
    }
    tar(&parts)
}

fn top(name: &str) -> Vec<u8> {
    tar(&[dir("app/"), file("app/name", name.as_bytes()), file(&format!("app/{name}"), &noise(5000, 9))])
}

/// The two images.
fn specs(awkward: bool) -> &'static [ImageSpec; 2] {
    static SPECS: [OnceLock<[ImageSpec; 2]>; 2] = [OnceLock::new(), OnceLock::new()];
    SPECS[usize::from(awkward)].get_or_init(|| {
        let over = || ImageSpec::new().command(&["/bin/true"]).layer(base(), Compression::Gzip);
        [over().layer(middle(awkward), Compression::Gzip).layer(top("one"), Compression::Gzip), over().layer(top("two"), Compression::Gzip)]
    })
}

/// A store.
pub struct Place {
    pub temp: tempfile::TempDir,
    /// The repositories begin with this.
    prefix: String,
    pub one: Pushed,
    /// Whether nobody else asks for the same.
    pub counts: bool,
    /// How many requests had come when the store was made.
    since: usize,
}

impl Place {
    /// Images in the registry, and no store yet.
    pub fn empty(awkward: bool) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("p{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let [one, two] = specs(awkward);
        let pushed = registry().add_image(&format!("{prefix}/one"), "latest", one);
        registry().add_image(&format!("{prefix}/two"), "latest", two);
        Self { temp: tempfile::tempdir().unwrap(), prefix, one: pushed, counts: true, since: 0 }
    }

    /// A store that cstor-rs pulled into.
    pub fn ours(awkward: bool) -> Self {
        let mut place = Self::empty(awkward);
        run(place.command(&["pull", "--quiet", "--tls-verify=false"]).args(place.references()));
        place.since = place.all_requests().len();
        place
    }

    /// A store that a podman pulled into: copied from one that is made once, names and all.
    pub fn of(peer: &Peer, awkward: bool) -> Self {
        static MADE: std::sync::Mutex<Vec<(String, Place)>> = std::sync::Mutex::new(Vec::new());
        let mut made = MADE.lock().unwrap();
        let key = format!("{} {awkward}", peer.name);
        if !made.iter().any(|(name, _)| *name == key) {
            let place = Self::empty(awkward);
            for reference in place.references() {
                run(&mut place.peer(peer, "podman", &["pull", "--quiet", "--tls-verify=false", &reference]));
            }
            made.push((key.clone(), place));
        }
        let (_, template) = made.iter().find(|(name, _)| *name == key).unwrap();
        let temp = tempfile::tempdir().unwrap();
        run(Command::new("cp").arg("-a").arg(template.root()).arg(temp.path().join("root")));
        Self { temp, prefix: template.prefix.clone(), one: template.one.clone(), counts: false, since: 0 }
    }

    pub fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    pub fn references(&self) -> [String; 2] {
        ["one", "two"].map(|name| registry().reference(&format!("{}/{name}:latest", self.prefix)))
    }

    /// Our program on this store.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.temp.path().join("run")).args(args);
        command
    }

    /// Another program on this store.
    pub fn peer(&self, peer: &Peer, program: &str, args: &[&str]) -> Command {
        let mut command = peer.command(program, &self.root(), &self.temp.path().join("run"));
        command.args(args);
        command
    }

    /// The paths of what was asked for of this place's images.
    pub fn all_requests(&self) -> Vec<String> {
        let own = format!("/v2/{}/", self.prefix);
        registry().requests().into_iter().map(|request| request.path).filter(|path| path.starts_with(&own)).collect()
    }

    /// The digests that were asked for since the store was made, in hexadecimal, each once.
    pub fn asked(&self) -> Vec<String> {
        let paths = self.all_requests().into_iter().skip(self.since);
        let mut asked: Vec<String> = paths.filter_map(|path| Some(path.rsplit_once("/sha256:")?.1.to_owned())).collect();
        asked.sort();
        asked.dedup();
        asked
    }

    /// An OCI layout with the first image, under its tag.
    pub fn layout(&self) -> PathBuf {
        let dir = self.temp.path().join("layout");
        write_layout(&dir, 0, &self.one);
        dir
    }
}

/// Writes one of the images as an OCI layout, as the registry serves it.
pub fn write_layout(dir: &Path, which: usize, pushed: &Pushed) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for digest in pushed.layers.iter().chain([&pushed.config]) {
        fs::write(blobs.join(digest.hex()), registry().blob(digest).unwrap()).unwrap();
    }
    let manifest = registry().manifest(&pushed.manifest).unwrap();
    assert_eq!(sha256(&manifest), pushed.manifest.hex());
    fs::write(blobs.join(pushed.manifest.hex()), &manifest).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": pushed.manifest.as_str(), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": (["one", "two"][which])},
    }]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

/// Both images as layouts, `one` and `two`, below a directory: what a script pulls from.
pub fn write_layouts(dir: &Path, awkward: bool) {
    for (which, (name, spec)) in ["one", "two"].into_iter().zip(specs(awkward)).enumerate() {
        let pushed = registry().add_image(&format!("layouts/{name}"), "latest", spec);
        write_layout(&dir.join(name), which, &pushed);
    }
}
