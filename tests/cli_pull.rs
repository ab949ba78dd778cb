//! What `pull` promises: which images it takes, what it says, how it ends.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use common::fixture;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::Digest;
use cstor_rs::pull::{Presence, PullOptions, present};
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{SyncMode, TxnOptions};
use registry::{Compression, Fault, ImageSpec};
use serde_json::{Value, json};
use world::{World, lines, said};

/// A record that breaks `podman images` is mended by the next pull, whatever stands in the files.
#[test]
fn a_pull_mends_a_damaged_record() {
    let world = World::new();
    world.push("one");
    assert!(world.pull(&["--quiet"], &["one"]).status.success());
    let table = world.root().join("overlay-images/images.json");
    let good: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
    type Damage = fn(&mut serde_json::Map<String, Value>);
    let damages: &[(&str, Damage)] = &[
        ("metadata that is not JSON", |image| drop(image.insert("metadata".into(), "x".into()))),
        ("no big-data-names", |image| drop(image.remove("big-data-names"))),
        ("no big-data-sizes", |image| drop(image.remove("big-data-sizes"))),
        ("no big-data-digests", |image| drop(image.remove("big-data-digests"))),
        ("a wrong size", |image| image["big-data-sizes"]["manifest"] = 7.into()),
    ];
    for (what, damage) in damages {
        let mut bad = good.clone();
        damage(bad[0].as_object_mut().unwrap());
        fs::write(&table, serde_json::to_vec(&bad).unwrap()).unwrap();
        let output = world.pull(&["--json"], &["one"]);
        assert!(output.status.success(), "{what}: {}", said(&output));
        let pulled: Value = serde_json::from_str(&lines(&output)[0]).unwrap();
        assert!(pulled["transaction"].is_string(), "{what}: {pulled}");
        let mended: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
        assert_eq!(mended, good, "{what}");
        let again: Value = serde_json::from_str(&lines(&world.pull(&["--json"], &["one"]))[0]).unwrap();
        assert!(again["transaction"].is_null(), "{what}: the second pull has nothing to do");
    }
}

#[test]
fn digests_are_written_to_the_file() {
    let world = World::new();
    let one = world.push("one");
    let file = world.temp.path().join("digests");
    assert!(world.pull(&["--digestfile", file.to_str().unwrap()], &["one"]).status.success());
    assert_eq!(fs::read_to_string(file).unwrap(), format!("{}\n", one.manifest));
}

#[test]
fn policies_are_those_of_podman() {
    let world = World::new();
    let old = world.push("one");
    assert_eq!(world.pull(&["--policy", "never"], &["one"]).status.code(), Some(1), "it is not there");
    assert_eq!(lines(&world.pull(&["--policy", "missing"], &["one"])), [old.config.hex()]);
    let newer = ImageSpec::new().layer(registry::tar(&[("newer", b"1")]), Compression::Gzip);
    let new = world.registry.add_image("one", "latest", &newer);
    world.registry.forget();
    for policy in ["missing", "never"] {
        assert_eq!(lines(&world.pull(&["--policy", policy], &["one"])), [old.config.hex()], "{policy}");
    }
    assert_eq!(world.registry.log(), Vec::<String>::new(), "nothing was asked of the registry");
    assert_eq!(lines(&world.pull(&["--policy", "newer"], &["one"])), [new.config.hex()]);
    assert_eq!(lines(&world.pull(&["--policy", "always"], &["one"])), [new.config.hex()]);
    world.registry.script("manifests", 100, Fault::Status(500, "down"));
    assert_eq!(lines(&world.pull(&["--policy", "newer"], &["one"])), [new.config.hex()], "what is there will do");
    assert_eq!(world.pull(&["--policy", "always"], &["one"]).status.code(), Some(1));
}

fn of_platform(world: &World, name: &str, platform: &str) -> registry::Pushed {
    let layer = registry::tar(&[(name, platform.as_bytes())]);
    world.registry.add_image(name, "latest", &ImageSpec::new().platform(platform).layer(layer, Compression::Gzip))
}

#[test]
fn an_image_of_another_platform_is_refused_when_asked_for_and_warned_of_otherwise() {
    let world = World::new();
    let odd = of_platform(&world, "odd", "plan9/mips");
    let output = world.pull(&["--platform", "linux/arm64"], &["odd"]);
    assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{}", said(&output));
    assert!(said(&output).contains("plan9/mips") && said(&output).contains("linux/arm64"), "{}", said(&output));
    assert_eq!(world.json(&["images", "--json"]), json!([]));
    // The registry may be asked for nothing but what it has: without --platform it is taken, with a word.
    let output = world.pull(&[], &["odd"]);
    assert_eq!(lines(&output), [odd.config.hex()]);
    assert!(said(&output).contains("warning: ") && said(&output).contains("plan9/mips"), "{}", said(&output));
    assert_eq!(lines(&world.pull(&["--platform", "plan9/mips"], &["odd"])), [odd.config.hex()]);
    // What is there is asked the same.
    for (policy, words) in [("never", ["plan9/mips", "linux/arm64"]), ("missing", ["plan9/mips", "linux/arm64"])] {
        let output = world.pull(&["--policy", policy, "--platform", "linux/arm64"], &["odd"]);
        assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{policy}: {}", said(&output));
        assert!(words.iter().all(|word| said(&output).contains(word)), "{policy}: {}", said(&output));
        assert_eq!(lines(&world.pull(&["--policy", policy, "--platform", "plan9/mips"], &["odd"])), [odd.config.hex()], "{policy}");
    }
    world.registry.script("manifests", 100, Fault::Status(500, "down"));
    assert_eq!(world.pull(&["--policy", "newer", "--platform", "linux/arm64"], &["odd"]).status.code(), Some(1));
    assert_eq!(lines(&world.pull(&["--policy", "newer", "--platform", "plan9/mips"], &["odd"])), [odd.config.hex()]);
}

#[test]
fn variants_of_a_platform_are_told_apart() {
    let world = World::new();
    for (has, wants, good) in
        [("linux/arm/v7", "linux/arm/v6", false), ("linux/arm/v6", "linux/arm/v7", true), ("linux/arm64", "linux/arm64/v8", true)]
    {
        of_platform(&world, "arm", has);
        let output = world.pull(&["--platform", wants], &["arm"]);
        assert_eq!(output.status.success(), good, "{wants} of {has}: {}", said(&output));
    }
}

/// What `missing` and `never` answer from the store is whole, or it is not called there.
#[test]
fn an_incomplete_image_is_not_called_present() {
    type Damage = fn(&Path, &str, &[String]);
    let damages: &[(&str, Damage, &str)] = &[
        ("no manifest", |root, image, _| fs::remove_file(root.join("overlay-images").join(image).join("manifest")).unwrap(), "manifest"),
        (
            "a manifest cut short",
            |root, image, _| fs::write(root.join("overlay-images").join(image).join("manifest"), b"{").unwrap(),
            "manifest",
        ),
        (
            "another config",
            |root, image, _| {
                let dir = root.join("overlay-images").join(image);
                let config = fs::read_dir(&dir)
                    .unwrap()
                    .map(|e| e.unwrap().path())
                    .find(|p| {
                        p.file_name().unwrap().to_str().unwrap().starts_with('=') && fs::read(p).unwrap().windows(6).any(|w| w == b"rootfs")
                    })
                    .unwrap();
                let mut bytes = fs::read(&config).unwrap();
                let at = bytes.windows(4).position(|w| w == b"2024").unwrap();
                bytes[at] = b'3';
                fs::write(config, bytes).unwrap();
            },
            "config",
        ),
        ("no link", |root, _, layers| fs::remove_file(root.join("overlay").join(&layers[0]).join("link")).unwrap(), "link"),
        (
            "no tar-split",
            |root, _, layers| fs::remove_file(root.join("overlay-layers").join(format!("{}.tar-split.gz", layers[1]))).unwrap(),
            "tar-split",
        ),
        ("no diff", |root, _, layers| fs::remove_dir_all(root.join("overlay").join(&layers[1]).join("diff")).unwrap(), "diff"),
        (
            "an incomplete layer",
            |root, _, layers| {
                let path = root.join("overlay-layers/layers.json");
                let mut list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                let layer = list.as_array_mut().unwrap().iter_mut().find(|l| l["id"] == layers[1].as_str()).unwrap();
                layer["flags"] = json!({"incomplete": true});
                fs::write(&path, serde_json::to_vec(&list).unwrap()).unwrap();
            },
            "incomplete",
        ),
        (
            "no record of a layer",
            |root, _, layers| {
                let path = root.join("overlay-layers/layers.json");
                let mut list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                list.as_array_mut().unwrap().retain(|l| l["id"] != layers[1].as_str());
                fs::write(&path, serde_json::to_vec(&list).unwrap()).unwrap();
            },
            "layers.json",
        ),
    ];
    for (what, damage, word) in damages {
        let world = World::new();
        let one = world.push("one");
        assert!(world.pull(&["--quiet"], &["one"]).status.success());
        let list = world.json(&["layers", "--json"]);
        let list = list.as_array().unwrap();
        let base = list.iter().find(|layer| layer["parent"].is_null()).unwrap();
        let top = list.iter().find(|layer| layer["parent"] == base["id"]).unwrap();
        let layers = [base, top].map(|layer| layer["id"].as_str().unwrap().to_owned());
        damage(&world.root(), one.config.hex(), &layers);
        let output = world.pull(&["--policy", "never"], &["one"]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
        assert!(said(&output).contains(word), "{what}: no {word:?} in: {}", said(&output));
        let output = world.pull(&["--policy", "missing"], &["one"]);
        assert_eq!(lines(&output), [one.config.hex()], "{what}: {}", said(&output));
        let output = world.pull(&["--policy", "never"], &["one"]);
        assert_eq!(lines(&output), [one.config.hex()], "{what}: {}", said(&output));
    }
}

/// Counts the syncs.
#[derive(Default)]
struct Count(Mutex<BTreeMap<&'static str, usize>>);

impl Hook for Count {
    fn before(&self, op: &Op<'_>) -> std::io::Result<()> {
        let kind = match op {
            Op::SyncFs(_) => "filesystem",
            Op::SyncData(_) | Op::SyncFile(_) => "file",
            Op::SyncDir(_) => "directory",
            _ => "change",
        };
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
        Ok(())
    }
}

/// Whoever wrote it last may have synced nothing: what is called there must outlast a power cut.
#[test]
fn what_is_called_present_is_on_the_medium() {
    let world = World::new();
    let one = world.push("one");
    assert!(world.pull(&["--quiet"], &["one"]).status.success());
    let place = [world.registry.reference("one:latest").parse().unwrap()];
    let look = |sync| {
        let count = Arc::new(Count::default());
        let store = Store::open(StoreOptions::new(world.root(), world.temp.path().join("run")).hook(count.clone())).unwrap();
        let options = PullOptions { txn: TxnOptions { sync, ..TxnOptions::default() }, ..PullOptions::default() };
        let Presence::Complete(list) = present(&store, &place, &options).unwrap() else { panic!("it is there") };
        assert_eq!((list[0].id.as_str(), &list[0].digest, &list[0].txn), (one.config.hex(), &one.manifest, &None));
        let count = count.0.lock().unwrap();
        count.clone()
    };
    // layers.json, images.json, config and two manifests; their three directories.
    let tables = BTreeMap::from([("file", 5), ("directory", 3)]);
    assert_eq!(look(SyncMode::Filesystem), tables);
    assert_eq!(look(SyncMode::None), BTreeMap::new());
    // As podman leaves it.
    for layer in fs::read_dir(world.root().join("overlay")).unwrap().map(|entry| entry.unwrap().path().join("cstor-rs.seal")) {
        if layer.exists() {
            fs::remove_file(layer).unwrap();
        }
    }
    assert_eq!(look(SyncMode::Filesystem), BTreeMap::from([("file", 5), ("directory", 3), ("filesystem", 1)]));
}

/// An OCI layout of one image under this tag.
fn lay_out(dir: &Path, tag: &str, image: &fixture::Image) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    for bytes in image.layers.iter().map(|layer| &layer.blob).chain([&image.config, &image.manifest]) {
        fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    }
    let entry = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&image.manifest), "size": image.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    });
    fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string()).unwrap();
}

#[test]
fn two_images_cannot_take_one_name_in_one_transaction() {
    let world = World::new();
    let place = |dir: &str| format!("oci:{}:app", world.temp.path().join(dir).display());
    for (dir, tag) in [("a", "one"), ("b", "two")] {
        lay_out(&world.temp.path().join(dir), "app", &fixture::image("app", vec![fixture::app(tag)]));
    }
    let (a, b) = (place("a"), place("b"));
    let output = world.run(&["pull", "--atomic", &a, &b]);
    assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{}", said(&output));
    for word in ["localhost/app:latest", &a, &b] {
        assert!(said(&output).contains(word), "no {word:?} in: {}", said(&output));
    }
    assert_eq!(world.json(&["images", "--json"]), json!([]));
    // The same image twice is no contradiction, and one after the other the last has the name.
    assert_eq!(lines(&world.run(&["pull", "--atomic", &a, &a])).len(), 2);
    let ids = lines(&world.run(&["pull", &a, &b]));
    let holder = world.json(&["images", "--json"]);
    let holder = holder.as_array().unwrap().iter().find(|image| image["names"] == json!(["localhost/app:latest"])).unwrap();
    assert_eq!(holder["id"].as_str(), Some(ids[1].as_str()));
}

/// A pipe that nobody reads any more.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_stderr_that_nobody_reads_does_no_harm() {
    for args in [&[][..], &["--json"], &["--quiet"]] {
        for level in ["warn", "trace"] {
            let world = World::new();
            let (one, two) = (world.push("one"), world.push("two"));
            let mut command = world.pulling(args, &["one", "two"]);
            let output = command.args(["--log-level", level]).stderr(broken_pipe()).stdout(Stdio::piped()).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{args:?} {level}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains(one.config.hex()) && text.contains(two.config.hex()), "{args:?} {level}: {text}");
            // An error that nobody reads has its code all the same.
            assert_eq!(world.pulling(args, &["missing"]).stderr(broken_pipe()).status().unwrap().code(), Some(1), "{args:?} {level}");
        }
    }
}

fn ids(world: &World) -> Vec<String> {
    let mut ids: Vec<String> = world.ok(&["images", "--quiet", "--no-trunc"]).lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

fn sorted<const N: usize>(mut ids: [&str; N]) -> [&str; N] {
    ids.sort_unstable();
    ids
}

#[test]
fn a_stdout_that_nobody_reads_ends_a_query_quietly_and_no_pull() {
    let world = World::new();
    let (one, two) = (world.push("one"), world.push("two"));
    let digests = world.temp.path().join("digests");
    let quiet = |output: Output, what: &str| assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()), "{what}");
    let args = ["--quiet", "--digestfile", digests.to_str().unwrap()];
    quiet(
        world.pulling(&args, &["one", "two"]).stdout(broken_pipe()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap(),
        "pull",
    );
    assert_eq!(ids(&world), sorted([one.config.hex(), two.config.hex()]));
    assert_eq!(fs::read_to_string(&digests).unwrap(), format!("{}\n{}\n", one.manifest, two.manifest));
    for query in
        [&["images"][..], &["images", "--json"], &["layers"], &["layers", "--json"], &["info"], &["journal", "--json"], &["recover"]]
    {
        quiet(world.command(query).stdout(broken_pipe()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap(), query[0]);
    }
}

#[test]
fn a_stdout_that_is_full_is_said_and_the_pull_goes_on() {
    let world = World::new();
    let (one, two) = (world.push("one"), world.push("two"));
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let output = world.pulling(&["--quiet"], &["one", "two"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("standard output") && said(&output).contains("No space left"), "{}", said(&output));
    assert_eq!(ids(&world), sorted([one.config.hex(), two.config.hex()]));
    let output = world.command(&["images"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("standard output"), "{}", said(&output));
}

#[test]
fn a_digestfile_that_cannot_be_made_is_found_before_anything_is_pulled() {
    let world = World::new();
    world.push("one");
    let file = world.temp.path().join("nowhere/digests");
    let output = world.pull(&["--digestfile", file.to_str().unwrap()], &["one"]);
    assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{}", said(&output));
    assert!(said(&output).contains("nowhere/digests"), "{}", said(&output));
    assert!(!world.root().exists(), "nothing was changed");
}

#[test]
fn a_digestfile_that_becomes_full_does_not_end_the_pull() {
    let world = World::new();
    let (one, two) = (world.push("one"), world.push("two"));
    let output = world.pull(&["--digestfile", "/dev/full"], &["one", "two"]);
    assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![one.config.hex().to_owned(), two.config.hex().to_owned()]));
    assert!(said(&output).contains("/dev/full"), "{}", said(&output));
}

/// What `--tls-verify` does not say, registries.conf says; and what a name without a registry stands for.
#[test]
fn a_short_name_means_what_registries_conf_says() {
    let world = World::new();
    world.push("one");
    let host = world.registry.host().to_owned();
    let conf = world.temp.path().join("registries.conf");
    let insecure = format!("[[registry]]\nlocation = '{host}'\ninsecure = true\n");
    let pull = |text: &str| {
        fs::write(&conf, text).unwrap();
        world.command(&["pull", "--quiet", "--retry", "0", "one"]).env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap()
    };
    let several = pull("unqualified-search-registries = ['a.example', 'b.example']\n");
    assert_eq!(several.status.code(), Some(1), "{}", said(&several));
    assert!(said(&several).contains("a.example") && said(&several).contains("b.example"), "{}", said(&several));
    assert!(!world.root().exists(), "nothing was made");
    let verified = pull(&format!("unqualified-search-registries = ['{host}']\n"));
    assert_eq!(verified.status.code(), Some(1), "plain http is not used unless it is allowed: {}", said(&verified));
    let found = pull(&format!("unqualified-search-registries = ['{host}']\n{insecure}"));
    assert!(found.status.success(), "{}", said(&found));
    assert_eq!(world.json(&["images", "--json"])[0]["names"], json!([format!("{host}/one:latest")]));
    // What is said on the command line goes before what the file says.
    let mut asked = world.command(&["pull", "--quiet", "--retry", "0", "--tls-verify=true", "one"]);
    let asked = asked.env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{}", said(&asked));
}

/// Every name in a store with its mode; LINKIDs and transactions are random.
fn modes(root: &Path) -> BTreeMap<String, u32> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        found.insert(dir.strip_prefix(root).unwrap().display().to_string(), fs::metadata(&dir).unwrap().permissions().mode());
        for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                queue.push(path);
            } else if kind.is_file() {
                found.insert(path.strip_prefix(root).unwrap().display().to_string(), fs::metadata(&path).unwrap().permissions().mode());
            }
        }
    }
    found
}

#[test]
fn the_umask_changes_no_mode_in_the_store() {
    let mut seen: Vec<(&str, BTreeMap<String, u32>)> = Vec::new();
    let registry = World::new();
    // A member whose parents the tar does not list, and one of mode 0666.
    let layer = fixture::layer(&[fixture::Member::File("implied/parent/file", 0o666, b"x"), fixture::Member::Dir("open", 0o777)]);
    registry.registry.add_image("one", "latest", &ImageSpec::new().layer(&layer.tar, Compression::Gzip));
    for umask in ["022", "000", "077", "777"] {
        let world = World::new();
        let command = world.command(&["pull", "--quiet", "--tls-verify=false", &registry.registry.reference("one:latest")]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "umask $0; exec \"$@\"", umask]).arg(command.get_program()).args(command.get_args());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{umask}: {}", said(&output));
        seen.push((umask, modes(&world.root())));
    }
    let (_, first) = &seen[0];
    assert!(first.len() > 20, "{first:?}");
    for (umask, other) in &seen {
        assert_eq!(other, first, "umask {umask}");
    }
}
