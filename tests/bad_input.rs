//! Hostile and unlucky input through the command: an error that names object and cause, the right exit code, and the store
//! byte for byte as before.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/skip.rs"]
mod skip;
mod tars;

use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cstor_rs::ids::Digest;
use registry::{Access, Compression, Fault, ImageSpec, Pushed, Registry};
use serde_json::json;
use tars::{dir, file, member, tar};

struct World {
    temp: tempfile::TempDir,
    registry: Registry,
}

impl World {
    /// A registry, and a store that holds one image.
    fn new() -> Self {
        let world = Self { temp: tempfile::tempdir().unwrap(), registry: Registry::start() };
        world.registry.add_image("kept", "latest", &ImageSpec::new().layer(tar(&[file("kept", b"kept")]), Compression::Gzip));
        let output = world.pull("kept:latest", &[]);
        assert!(output.status.success(), "{}", said(&output));
        world.registry.forget();
        world
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.temp.path().join("run"));
        if !args.contains(&"--lock-timeout") {
            command.args(["--lock-timeout", "0.2"]);
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    fn pulling(&self, name: &str, args: &[&str]) -> Command {
        let reference = if name.contains('/') { name.to_owned() } else { self.registry.reference(name) };
        let mut command = self.command(&["pull", "--tls-verify=false", "--retry", "1", "--retry-delay", "0s"]);
        command.args(args).arg(reference);
        command
    }

    fn pull(&self, name: &str, args: &[&str]) -> Output {
        self.pulling(name, args).output().unwrap()
    }

    /// Everything outside of `cstor-rs/`.
    fn store(&self) -> Vec<String> {
        outside(&self.root())
    }

    /// A pull that must fail, and what must hold then.
    fn refuses(&self, what: &str, code: i32, words: &[&str], run: impl FnOnce() -> Output) {
        // What an earlier case left of its downloads would spare this one its request.
        std::fs::remove_dir_all(self.root().join("cstor-rs/partial")).unwrap_or(());
        let before = self.store();
        let output = run();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{what}: {text}");
        assert!(text.contains("error: "), "{what}: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
        for word in words {
            assert!(text.contains(word), "{what}: no {word:?} in: {text}");
        }
        assert!(output.stdout.is_empty(), "{what}: on stdout: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(self.store(), before, "{what}: the store has changed");
        self.is_clean(what);
    }

    fn is_clean(&self, what: &str) {
        for dir in ["journal", "stage", "trash"] {
            let left: Vec<_> = fs::read_dir(self.root().join("cstor-rs").join(dir)).unwrap().map(|e| e.unwrap().path()).collect();
            assert_eq!(left, Vec::<PathBuf>::new(), "{what}");
        }
    }
}

fn outside(root: &Path) -> Vec<String> {
    oracle::listing(root).unwrap().into_iter().filter(|line| !line.starts_with("./cstor-rs")).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn small() -> ImageSpec {
    ImageSpec::new().layer(tar(&[file("a", b"some bytes")]), Compression::Gzip)
}

/// Pushes `bad:latest` with one layer of this tar.
fn push_tar(registry: &Registry, tar: &[u8]) -> Pushed {
    registry.add_image("bad", "latest", &ImageSpec::new().layer(tar, Compression::Gzip))
}

#[test]
fn what_a_registry_answers_wrongly_is_named_and_changes_nothing() {
    type Case = (&'static str, &'static [&'static str], fn(&Registry) -> &'static str, &'static [&'static str]);
    let cases: &[Case] = &[
        ("an unknown image", &[], |_| "nothing:latest", &["nothing:latest", "manifest"]),
        ("an unknown tag", &[], |_| "kept:v9", &["kept:v9", "not"]),
        ("401 without a challenge", &[], |r| one(r, "manifests", Fault::Status(401, "go away")), &["bad:latest", "go away", "--creds"]),
        ("403", &[], |r| one(r, "manifests", Fault::Status(403, "not you")), &["bad:latest", "not you"]),
        ("500 for ever", &[], |r| one(r, "manifests", Fault::Status(500, "oh dear")), &["bad:latest", "500", "oh dear"]),
        ("a manifest that is not JSON", &[], |r| one(r, "manifests", Fault::Body(b"<html>".to_vec())), &["bad:latest"]),
        ("an empty manifest", &[], |r| one(r, "manifests", Fault::Body(vec![])), &["bad:latest"]),
        ("a manifest of 5 MB", &[], |r| one(r, "manifests", Fault::Body(vec![b' '; 5 << 20])), &["bad:latest", "4194304"]),
        (
            "another digest in the header",
            &[],
            |r| one(r, "manifests", Fault::DigestHeader(Digest::of(b"x").to_string())),
            &["bad:latest", "sha256:"],
        ),
        ("a blob with another byte", &[], |r| one(r, "blobs", Fault::WrongBytes), &["sha256:"]),
        ("a blob that is too short", &[], |r| one(r, "blobs", Fault::CloseAfter(20)), &["sha256:"]),
        ("a blob that is too long", &[], |r| one(r, "blobs", Fault::Chunked(vec![0; 100])), &["sha256:"]),
        ("a length that is not the declared one", &[], |r| one(r, "blobs", Fault::ContentLength(5_000_000)), &["sha256:", "5000000"]),
        ("no blob", &[], |r| one(r, "blobs", Fault::Status(404, "gone")), &["sha256:"]),
        (
            "a registry that stalls before the headers",
            &["--idle-timeout", "0.2"],
            |r| one(r, "manifests", Fault::StallBeforeHeaders),
            &["bad:latest", "nothing"],
        ),
        (
            "a registry that stalls in a blob",
            &["--idle-timeout", "0.2"],
            |r| one(r, "blobs", Fault::StallAfter(30)),
            &["sha256:", "nothing"],
        ),
    ];
    let world = World::new();
    for (what, args, script, words) in cases {
        let name = script(&world.registry);
        world.refuses(what, 1, words, || world.pull(name, args));
        // The rules are used up by a good pull only after they are gone.
        world.registry.heal();
    }
    let output = world.pull("bad:latest", &[]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A good image whose answers go wrong for ever.
fn one(registry: &Registry, part: &str, fault: Fault) -> &'static str {
    let pushed = registry.add_image("bad", "latest", &small());
    let path = match part {
        "blobs" => format!("bad/blobs/{}", pushed.layers[0]),
        other => format!("bad/{other}"),
    };
    registry.script(path, 1000, fault);
    "bad:latest"
}

#[test]
fn the_policy_of_the_host_is_obeyed() {
    let world = World::new();
    push_tar(&world.registry, &tar(&[file("a", b"1")]));
    let reject = world.temp.path().join("policy.json");
    fs::write(&reject, r#"{"default":[{"type":"reject"}]}"#).unwrap();
    let none = world.temp.path().join("none.json");
    for (policy, words) in [(&reject, ["bad:latest is not accepted", "policy.json rejects it"]), (&none, ["none.json", "No such file"])] {
        world.refuses("a policy", 1, &words, || world.pulling("bad:latest", &[]).env("CONTAINERS_POLICY_JSON", policy).output().unwrap());
        assert_eq!(world.registry.requests(), []);
    }
    let blocked = world.temp.path().join("registries.conf");
    fs::write(&blocked, format!("[[registry]]\nlocation = '{}'\nblocked = true", world.registry.host())).unwrap();
    world.refuses("a blocked registry", 1, &["bad:latest is not accepted", "registries.conf blocks"], || {
        world.pulling("bad:latest", &[]).env("CONTAINERS_REGISTRIES_CONF", &blocked).output().unwrap()
    });
    assert_eq!(world.registry.requests(), []);
}

/// The same layer, byte for byte, in another blob of the same length: only the blob's own digest tells.
#[test]
fn a_blob_that_unpacks_to_the_right_layer_is_refused_all_the_same() {
    let world = World::new();
    let pushed = push_tar(&world.registry, &tar(&[file("a", b"some bytes")]));
    let path = format!("/v2/bad/blobs/{}", pushed.layers[0]);
    let mut other = Compression::Gzip.compress(&tar(&[file("a", b"some bytes")]));
    // The time in the gzip header.
    other[4..8].copy_from_slice(&[1, 2, 3, 4]);
    world.registry.script(&path, 99, Fault::Body(other));
    world.refuses("another blob of the same layer", 1, &["bad:latest: ", "has digest sha256:", "the manifest says"], || {
        world.pull("bad:latest", &[])
    });
}

#[test]
fn a_registry_that_is_down_is_named() {
    let mut world = World::new();
    let reference = world.registry.reference("kept:latest");
    world.registry.stop();
    let host = reference.split('/').next().unwrap().to_owned();
    world.refuses("down", 1, &[&host], || world.pull(&reference, &[]));
}

#[test]
fn credentials_are_asked_for_by_name() {
    let world = World::new();
    world.registry.guard(Access::Basic("me", "secret"));
    world.refuses("no credentials", 1, &["kept:latest", "denied", "--creds"], || world.pull("kept:latest", &[]));
    world.refuses("wrong credentials", 1, &["kept:latest", "denied", "--creds"], || world.pull("kept:latest", &["--creds", "me:wrong"]));
    let output = world.pull("kept:latest", &["--creds", "me:secret"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn what_an_image_says_of_itself_must_fit() {
    let world = World::new();
    let good = tar(&[file("a", b"some bytes")]);
    let gzip = Compression::Gzip.compress(&good);
    let config = |diff_ids: serde_json::Value| {
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string()
    };
    let layer = || ImageSpec::new().layer(&good, Compression::Gzip);
    let other = Digest::of(b"another tar");
    let deep = "[".repeat(100_000);
    let cases: Vec<(&str, ImageSpec, Vec<&str>)> = vec![
        ("a config that is not JSON", layer().config("no JSON"), vec!["config sha256:"]),
        ("a config nested too deep", layer().config(deep), vec!["config sha256:"]),
        ("a config that is no object", layer().config("[]"), vec!["config sha256:"]),
        ("labels that are a number", layer().config(r#"{"config":{"Labels":7}}"#), vec!["config sha256:", "config.Labels: is a number"]),
        (
            "a time that Go does not read",
            layer().config(r#"{"created":"2024-05-01 12:00:00Z","rootfs":{}}"#),
            vec!["bad:latest", "config sha256:", "created: is \"2024-05-01 12:00:00Z\", wanted a time in RFC 3339"],
        ),
        ("no diff_ids", layer().config(r#"{"os":"linux","architecture":"amd64"}"#), vec!["bad:latest", "diff_ids"]),
        ("too few diff_ids", layer().config(config(json!([]))), vec!["bad:latest", "diff_ids"]),
        ("too many diff_ids", layer().config(config(json!([Digest::of(&good), other]))), vec!["diff_ids"]),
        ("another diff_id", layer().config(config(json!([other]))), vec![other.as_str(), "config"]),
        ("a diff_id that is no digest", layer().config(config(json!(["sha256:../../etc"]))), vec!["config sha256:"]),
        (
            "a blob that is not gzip",
            ImageSpec::new().raw_layer(b"\x1f\x8bnonsense".to_vec(), other.clone(), Compression::Gzip),
            vec![other.as_str()],
        ),
        ("a blob that is garbage", ImageSpec::new().raw_layer(vec![0x55; 3000], other.clone(), Compression::Gzip), vec![other.as_str()]),
        (
            "gzip cut off",
            ImageSpec::new().raw_layer(gzip[..gzip.len() - 9].to_vec(), Digest::of(&good), Compression::Gzip),
            vec!["sha256:"],
        ),
        (
            "a zstd frame with a window of 2 GiB",
            ImageSpec::new().raw_layer(wide_zstd(), other.clone(), Compression::Zstd),
            vec![other.as_str(), "too much memory"],
        ),
        (
            "501 layers",
            (0..501).fold(ImageSpec::new(), |spec, n: u32| spec.layer(tar(&[file(&format!("f{n}"), b"")]), Compression::None)),
            vec!["layers: more than 500"],
        ),
        ("another platform in an index", ImageSpec::new().platform("plan9/mips").layer(&good, Compression::Gzip), vec!["bad:latest"]),
    ];
    for (what, spec, words) in cases {
        if what == "another platform in an index" {
            world.registry.add_index("bad", "latest", &[spec]);
        } else {
            world.registry.add_image("bad", "latest", &spec);
        }
        world.refuses(what, 1, &words, || world.pull("bad:latest", &[]));
    }
}

/// The header of a zstd frame that wants a window of 2 GiB, and an empty last block.
fn wide_zstd() -> Vec<u8> {
    vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00]
}

#[test]
fn manifests_of_other_kinds_are_refused_by_name() {
    let world = World::new();
    let digest = Digest::of(b"");
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let layer = |media: &str, size: i64| json!({"mediaType": media, "digest": digest, "size": size});
    let with = |layers: serde_json::Value| {
        let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2});
        json!({"schemaVersion": 2, "mediaType": oci, "config": config, "layers": layers}).to_string()
    };
    let cases = [
        (
            "schema 1",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            json!({"schemaVersion": 1, "name": "x"}).to_string(),
            "schema",
        ),
        ("an encrypted layer", oci, with(json!([layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", 5)])), "encrypted"),
        ("a layer of negative size", oci, with(json!([layer("application/vnd.oci.image.layer.v1.tar+gzip", -5)])), "size"),
        ("a layer of a type nobody knows", oci, with(json!([layer("application/x-tape", 5)])), "application/x-tape"),
        ("a helm chart", oci, with(json!([layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip", 5)])), "helm"),
        ("a digest with a path in it", oci, with(json!([])).replace(digest.as_str(), "sha256:../../../../etc/passwd"), "digest"),
        (
            "an index that names itself",
            "application/vnd.oci.image.index.v1+json",
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}).to_string(),
            "bad:latest",
        ),
    ];
    for (what, media, manifest, word) in cases {
        world.registry.add_manifest("bad", Some("latest"), media, manifest);
        world.refuses(what, 1, &["bad:latest", word], || world.pull("bad:latest", &[]));
    }
    let wanted = world.registry.reference(&format!("kept@{}", Digest::of(b"another")));
    world.refuses("another digest than asked for", 1, &["kept@sha256:"], || world.pull(&wanted, &[]));
    let real = push_tar(&world.registry, &tar(&[file("a", b"1")]));
    world.registry.script("manifests/sha256:", 1000, Fault::WrongBytes);
    let wanted = world.registry.reference(&format!("bad@{}", real.manifest));
    world.refuses("a manifest with other bytes than its digest", 1, &["bad@sha256:"], || world.pull(&wanted, &[]));
}

#[test]
fn a_tar_that_leaves_its_layer_or_cannot_be_kept_exactly_is_refused() {
    let world = World::new();
    let outside = world.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let away = outside.to_str().unwrap();
    let huge = vec![b'x'; 10 << 20];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a hard link to the outside", tar(&[member(b'1', b"l", b"").link(b"../../../../../../../../etc/passwd").build()])),
        ("a hard link to nothing", tar(&[member(b'1', b"l", b"").link(b"nothing").build()])),
        ("10 MB of PAX headers", tar(&[tars::pax(&[(b"comment", &huge)]), file("a", b"1")])),
        ("a PAX record with a wrong length", tar(&[member(b'x', b"p", b"999 path=x\n").build(), file("a", b"1")])),
        ("a size that is not a number", tar(&[member(b'0', b"f", b"1").field(124, b"zzzzzzzzzzz\0").build()])),
        ("a size of 8 EiB", tar(&[member(b'0', b"f", b"1").field(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff").build()])),
        ("a tar cut off in a file", tar(&[file("f", &[1; 5000])])[..2000].to_vec()),
        ("a checksum that is wrong", {
            let mut tar = tar(&[file("f", b"1")]);
            tar[150] ^= 1;
            tar
        }),
        ("a file below a file", tar(&[file("f", b"1"), file("f/g", b"2")])),
    ];
    for (what, tar) in cases {
        push_tar(&world.registry, &tar);
        world.refuses(what, 1, &["sha256:"], || world.pull("bad:latest", &[]));
    }
    // These stay inside, whatever they say.
    let inside: Vec<(&str, Vec<u8>, &str)> = vec![
        ("dot dot", tar(&[file("../../../../../../../../../../dotdot", b"1")]), "dotdot"),
        ("an absolute name", tar(&[file(&format!("{away}/absolute"), b"1")]), "absolute"),
        (
            "an absolute link as parent",
            tar(&[member(b'2', b"out", b"").link(away.as_bytes()).build(), dir(&away[1..]), file("out/linked", b"1")]),
            "linked",
        ),
        (
            "a link up as parent",
            tar(&[member(b'2', b"up", b"").link(b"../../../../../../../../..").build(), file("up/upped", b"1")]),
            "upped",
        ),
    ];
    for (what, tar, name) in inside {
        let pushed = push_tar(&world.registry, &tar);
        let output = world.pull("bad:latest", &[]);
        let text = said(&output);
        assert!(!text.contains("panicked"), "{what}: {text}");
        let diff = world.root().join("overlay").join(pushed.diff_ids[0].hex()).join("diff");
        let found = oracle::listing(&diff).map(|list| list.iter().any(|line| line.contains(name))).unwrap_or(false);
        assert!(found != text.contains("error: "), "{what}: neither kept inside nor refused: {text}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{what}: it reached the outside");
        assert!(!Path::new("/dotdot").exists() && !Path::new("/upped").exists(), "{what}");
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let world = World::new();
    let bomb = push_tar(&world.registry, &tar(&[file("zeroes", &vec![0; 30 << 20])]));
    let want = bomb.diff_ids[0].to_string();
    world.refuses("a bomb", 1, &[&want, "1000000"], || world.pull("bad:latest", &["--max-layer-size", "1000000"]));
}

#[test]
fn a_foreign_lock_is_waited_for_and_its_holder_named() {
    let world = World::new();
    push_tar(&world.registry, &tar(&[file("a", b"1")]));
    for lock in ["overlay-layers/layers.lock", "overlay-images/images.lock", "overlay-containers/containers.lock"] {
        let path = world.root().join(lock);
        // POSIX, as Go's: held by this process.
        let held = fs::File::options().read(true).write(true).open(&path).unwrap();
        let range = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
        nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETLK(&range)).unwrap();
        let holder = format!("process {} (", std::process::id());
        // What reads the store to compare it must not open and close the lock file: that would release it.
        let output = world.pull("bad:latest", &[]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(64), "{lock}: {text}");
        assert!(text.contains(&holder) && text.contains(lock), "{lock}: {text}");
        let output = world.command(&["images"]).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "images, {lock}: {}", said(&output));
        drop(held);
        world.is_clean(lock);
    }
    assert_eq!(world.store().iter().filter(|line| line.contains("/diff ")).count(), 1, "only the kept layer is there");
    assert!(world.pull("bad:latest", &[]).status.success());
}

#[test]
fn a_signal_takes_the_pull_back_at_once_though_the_registry_stalls() {
    for (signal, name, code) in [(rustix::process::Signal::INT, "SIGINT", 130), (rustix::process::Signal::TERM, "SIGTERM", 143)] {
        for part in ["manifests", "blobs"] {
            let world = World::new();
            let pushed =
                world.registry.add_image("bad", "latest", &ImageSpec::new().layer(tar(&[file("a", &noise(400_000))]), Compression::Gzip));
            match part {
                "blobs" => world.registry.script(format!("bad/blobs/{}", pushed.layers[0]), 1000, Fault::StallAfter(100_000)),
                _ => world.registry.script("bad/manifests", 1000, Fault::StallBeforeHeaders),
            };
            let before = world.store();
            let mut child = world.pulling("bad:latest", &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // The stall has begun once the registry has seen the request.
            world.registry.wait_for(|requests| requests.iter().any(|r| r.path.contains("bad/") && r.path.contains(part)));
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
            let mut text = String::new();
            BufReader::new(child.stderr.take().unwrap()).read_to_string(&mut text).unwrap();
            let status = child.wait().unwrap();
            assert_eq!((status.code(), status.signal()), (Some(code), None), "{name} in {part}: {text}");
            assert_eq!(world.store(), before, "{name} in {part}");
            if world.root().join("cstor-rs/journal").exists() {
                world.is_clean(name);
            }
        }
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

#[test]
fn tables_that_cannot_be_believed_are_errors_with_their_place() {
    type Case = (&'static str, &'static str, fn(&Path), &'static [&'static str]);
    let cases: &[Case] = &[
        ("zeroes in layers.json", "overlay-layers/layers.json", |p| fs::write(p, vec![0; 300]).unwrap(), &["byte 0"]),
        (
            "layers.json cut off",
            "overlay-layers/layers.json",
            |p| {
                let bytes = fs::read(p).unwrap();
                fs::write(p, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["byte "],
        ),
        (
            "garbage behind images.json",
            "overlay-images/images.json",
            |p| {
                let mut bytes = fs::read(p).unwrap();
                bytes.extend(b"]]");
                fs::write(p, bytes).unwrap();
            },
            &["byte "],
        ),
        ("an empty layers.json over layers", "overlay-layers/layers.json", |p| fs::write(p, b"").unwrap(), &["fsck"]),
        ("null for layers.json over layers", "overlay-layers/layers.json", |p| fs::write(p, b"null").unwrap(), &["fsck"]),
        ("no layers.json over layers", "overlay-layers/layers.json", |p| fs::remove_file(p).unwrap(), &["fsck"]),
        ("an empty images.json over images", "overlay-images/images.json", |p| fs::write(p, b"").unwrap(), &["fsck"]),
        ("an object for images.json", "overlay-images/images.json", |p| fs::write(p, b"{}").unwrap(), &[]),
    ];
    for (what, table, damage, words) in cases {
        let world = World::new();
        push_tar(&world.registry, &tar(&[file("a", b"1")]));
        damage(&world.root().join(table));
        let words: Vec<&str> = words.iter().chain([table]).copied().collect();
        world.refuses(what, 1, &words, || world.pull("bad:latest", &[]));
        for query in [&["images"][..], &["layers"], &["images", "--json"]] {
            world.refuses(&format!("{what}, {query:?}"), 1, &words, || world.command(query).output().unwrap());
        }
    }
}

#[test]
fn a_store_of_another_driver_or_owner_is_refused() {
    let world = World::new();
    let other = world.temp.path().join("vfs");
    fs::create_dir_all(other.join("vfs-layers")).unwrap();
    fs::create_dir_all(other.join("vfs-images")).unwrap();
    let before = outside(&other);
    let reference = world.registry.reference("kept:latest");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
    command.arg("--root").arg(&other).arg("--runroot").arg(world.temp.path().join("r2")).args(["pull", "--tls-verify=false", &reference]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("vfs"), "{}", said(&output));
    assert_eq!(outside(&other), before);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(world.root(), Some(65534), Some(65534)).unwrap();
        let output = world.pull("kept:latest", &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("65534"), "{}", said(&output));
    }
}

/// Mounts that go with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

fn mount(args: &[&str], at: &Path) -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("mounts need the root user");
        return None;
    }
    assert!(Command::new("mount").args(args).arg(at).status().unwrap().success(), "mount {args:?}");
    Some(Mounted(at.to_owned()))
}

#[test]
fn a_read_only_store_can_be_read_and_refuses_a_pull() {
    let world = World::new();
    push_tar(&world.registry, &tar(&[file("a", b"1")]));
    let root = world.root();
    let path = root.to_str().unwrap();
    let Some(_bound) = mount(&["--bind", path], &root) else { return };
    assert!(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&root).status().unwrap().success());
    world.refuses("read-only", 1, &["Read-only"], || world.pull("bad:latest", &[]));
    let output = world.command(&["images", "--quiet"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

/// A disk of every size from too small to begin with to large enough.
#[test]
fn a_full_disk_takes_the_pull_back_and_the_store_goes_on() {
    let files: Vec<Vec<u8>> = (0..40).map(|n| file(&format!("f{n}"), &noise(9000 + n))).collect();
    let mut done = (0, 0);
    for free in (0..30).map(|n| n * 24) {
        let world = World::new();
        let disk = world.temp.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let Some(_mounted) = mount(&["-t", "tmpfs", "-o", "size=4m", "none"], &disk) else { return };
        let root = disk.join("root");
        let pull = |name: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
            command.arg("--root").arg(&root).arg("--runroot").arg(world.temp.path().join("r2"));
            command.args(["pull", "--tls-verify=false", &world.registry.reference(name)]).output().unwrap()
        };
        world.registry.add_image("bad", "latest", &ImageSpec::new().layer(tar(&files), Compression::Gzip));
        assert!(pull("kept:latest").status.success());
        let before = outside(&root);
        // Fill it up to so many KiB.
        let stat = rustix::fs::statvfs(&disk).unwrap();
        let room = stat.f_bavail * stat.f_frsize;
        fs::write(disk.join("filler"), vec![1; usize::try_from(room.saturating_sub(free * 1024)).unwrap()]).unwrap();
        let output = pull("bad:latest");
        let text = said(&output);
        match output.status.code() {
            Some(0) => done.0 += 1,
            Some(1) => {
                done.1 += 1;
                assert!(text.contains("No space left"), "{free} KiB: {text}");
                assert_eq!(outside(&root), before, "{free} KiB");
                for dir in ["journal", "stage", "trash"] {
                    assert_eq!(fs::read_dir(root.join("cstor-rs").join(dir)).unwrap().count(), 0, "{free} KiB: {dir}");
                }
            }
            code => panic!("{free} KiB: {code:?}: {text}"),
        }
        fs::remove_file(disk.join("filler")).unwrap();
        let output = pull("bad:latest");
        assert!(output.status.success(), "{free} KiB, then room: {}", said(&output));
        oracle::read(&root).unwrap();
    }
    assert!(done.0 > 0 && done.1 > 5, "{done:?}: both ends must be met");
}

#[test]
fn options_of_a_configuration_that_are_not_supported_are_refused_by_name() {
    let world = World::new();
    let conf = world.temp.path().join("storage.conf");
    for (text, word) in [
        ("[storage]\ndriver = \"vfs\"\n", "vfs"),
        ("[storage]\ndriver = \"overlay\"\n[storage.options]\nadditionalimagestores = [\"/x\"]\n", "additionalimagestores"),
        ("[storage]\ndriver = \"overlay\"\n[storage.options.overlay]\nmount_program = \"/usr/bin/fuse-overlayfs\"\n", "mount_program"),
        ("[storage]\ndriver = \"overlay\"\n[storage.options]\nremap-uids = \"0:1:2\"\n", "remap-uids"),
        ("[storage\n", "storage.conf"),
    ] {
        // Named by --root a store is not that of the file, and the file's options are not its own, as with podman.
        let place = format!("[storage]\ngraphroot = {:?}\nrunroot = {:?}\n", world.root(), world.temp.path().join("run"));
        fs::write(&conf, text.replacen("[storage]\n", &place, 1)).unwrap();
        world.refuses(text, 1, &[word], || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
            command.env("CONTAINERS_STORAGE_CONF", &conf).arg("images").output().unwrap()
        });
    }
}

#[test]
fn nonsense_on_the_command_line_is_usage() {
    let world = World::new();
    let cases: &[&[&str]] = &[
        &["pull"],
        &["pull", "--jobs", "0", "a"],
        &["pull", "--sync", "maybe", "a"],
        &["pull", "--platform", "x", "a"],
        &["pull", "--retry-delay", "soon", "a"],
        &["pull", "--retry-delay", "-1", "a"],
        &["pull", "--idle-timeout", "inf", "a"],
        &["--lock-timeout", "-1", "images"],
        &["--lock-timeout", "nan", "images"],
        &["frobnicate"],
        &["images", "--nope"],
    ];
    for args in cases {
        world.refuses(&format!("{args:?}"), 2, &[], || world.command(args).output().unwrap());
    }
    for reference in ["localhost/UPPER", "a b", "host:port:port/x", "x@sha256:12", "", "dir:/x"] {
        world.refuses(reference, 2, &["reference"], || world.command(&["pull", "good", reference]).output().unwrap());
    }
    world.refuses("credentials", 2, &["--creds wants USER:PASSWORD"], || {
        let output = world.command(&["pull", "--creds", "secret", "a"]).output().unwrap();
        assert!(!said(&output).contains("secret"), "{}", said(&output));
        output
    });
}
