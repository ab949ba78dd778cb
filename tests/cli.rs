//! What the command promises to those who call it: stdout, stderr, JSON, exit codes.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::fixture;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::store::{Store, StoreOptions};
use registry::{Compression, Fault, ImageSpec, Pushed, Registry};
use serde_json::Value;

struct World {
    temp: tempfile::TempDir,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), registry: Registry::start() }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.temp.path().join("run")).args(args);
        command.output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn push(&self, name: &str) -> Pushed {
        let base = registry::tar(&[("base", &[1; 5000])]);
        let own = registry::tar(&[("own", name.as_bytes())]);
        self.registry.add_image(name, "latest", &ImageSpec::new().layer(base, Compression::Gzip).layer(own, Compression::Zstd))
    }

    fn pull(&self, args: &[&str], names: &[&str]) -> Output {
        let references: Vec<String> = names.iter().map(|name| self.registry.reference(&format!("{name}:latest"))).collect();
        let mut all = vec!["pull", "--tls-verify=false", "--retry", "0"];
        all.extend(args);
        all.extend(references.iter().map(String::as_str));
        self.run(&all)
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pull_prints_ids_on_stdout_and_the_rest_on_stderr() {
    let world = World::new();
    let (one, two) = (world.push("one"), world.push("two"));
    let output = world.pull(&[], &["one", "two"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lines(&output), [one.config.hex(), two.config.hex()]);
    let text = said(&output);
    assert!(text.contains("fetching") && !text.contains('\u{1b}') && !text.contains('\r'), "plain lines in a pipe: {text:?}");
    let quiet = world.pull(&["--quiet"], &["one"]);
    assert_eq!((lines(&quiet), said(&quiet)), (vec![one.config.hex().to_owned()], String::new()));
}

#[test]
fn one_that_fails_does_not_keep_the_others() {
    let world = World::new();
    let (one, three) = (world.push("one"), world.push("three"));
    let output = world.pull(&[], &["one", "missing", "three"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(lines(&output), [one.config.hex(), three.config.hex()]);
    assert!(said(&output).contains("missing:latest"));
    assert_eq!(world.json(&["images", "--json"]).as_array().unwrap().len(), 2);
}

#[test]
fn atomic_is_all_or_none_in_one_transaction() {
    let world = World::new();
    let three = world.push("three");
    world.push("one");
    let output = world.pull(&["--atomic"], &["one", "missing", "three"]);
    assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{}", said(&output));
    assert_eq!(world.ok(&["images"]), "");
    // A blob that fails in the middle of the batch: the same.
    world.registry.script(format!("blobs/{}", three.layers[1]), 1, Fault::WrongBytes);
    assert_eq!(world.pull(&["--atomic"], &["one", "three"]).status.code(), Some(1));
    assert_eq!(world.json(&["images", "--json"]), serde_json::json!([]));
    let output = world.pull(&["--atomic", "--json"], &["one", "three"]);
    assert!(output.status.success(), "{}", said(&output));
    let objects: Vec<Value> = lines(&output).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0]["transaction"], objects[1]["transaction"]);
    assert_eq!(objects[0]["layers_fetched"], 3, "the shared layer once");
}

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
fn images_and_layers_say_what_the_contract_says() {
    let world = World::new();
    let (one, two) = (world.push("one"), world.push("two"));
    assert!(world.pull(&["--quiet"], &["one", "two"]).status.success());
    let images = world.json(&["images", "--json"]);
    let image = images.as_array().unwrap().iter().find(|image| image["id"] == one.config.hex()).unwrap();
    let keys: Vec<&str> = image.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "names", "digest", "created", "size", "layer", "read_only"]);
    assert_eq!(image["names"][0].as_str(), Some(world.registry.reference("one:latest").as_str()));
    assert_eq!(image["digest"].as_str(), Some(one.manifest.as_str()));
    assert_eq!(image["created"].as_str().map(|text| text.starts_with("2024-05-01T12:00:00")), Some(true));
    assert_eq!((image["size"].as_u64(), image["read_only"].as_bool()), (Some(6656 + 2048), Some(false)));
    let layers = world.json(&["layers", "--json"]);
    let layers = layers.as_array().unwrap();
    assert_eq!(layers.len(), 3);
    let base = layers.iter().find(|layer| layer["parent"].is_null()).unwrap();
    let keys: Vec<&str> = base.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "parent", "names", "created", "diff_digest", "compressed_digest", "diff_size", "images", "flags"]);
    assert_eq!(base["diff_digest"].as_str(), Some(one.diff_ids[0].as_str()));
    assert_eq!(base["compressed_digest"].as_str(), Some(one.layers[0].as_str()));
    assert_eq!(base["diff_size"].as_u64(), Some(6656));
    let users: std::collections::BTreeSet<&str> = base["images"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(users, [one.config.hex(), two.config.hex()].into());

    let row = |args: &[&str]| world.ok(args).lines().find(|line| line.contains("one")).map(str::to_owned).unwrap_or_default();
    assert!(row(&["images"]).contains(&one.config.hex()[..12]) && !row(&["images"]).contains(one.config.hex()));
    assert!(row(&["images", "--no-trunc"]).contains(one.config.hex()));
    assert!(row(&["images", "--digests"]).contains(one.manifest.as_str()));
    assert_eq!(world.ok(&["images", "--quiet", "--no-trunc"]).lines().count(), 2);
    assert_eq!(world.ok(&["layers", "--quiet"]).lines().count(), 3);
}

#[test]
fn looking_at_a_store_that_is_not_there_makes_none() {
    let world = World::new();
    assert_eq!(world.ok(&["images"]), "");
    assert_eq!(world.json(&["images", "--json"]), serde_json::json!([]));
    assert_eq!(world.json(&["layers", "--json"]), serde_json::json!([]));
    assert_eq!(world.json(&["journal", "--json"]), serde_json::json!([]));
    assert_eq!(world.json(&["info", "--json"])["exists"], false);
    assert_eq!(world.ok(&["recover"]), "nothing to recover\n");
    assert!(!world.root().exists());
}

/// Fails every change from the rename of one table on.
struct StopBefore(&'static str, AtomicBool);

impl Hook for StopBefore {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if matches!(op, Op::Rename(from, to) if to.name == Path::new(self.0) && !from.name.to_string_lossy().ends_with(".scratch")) {
            self.1.store(true, Ordering::SeqCst);
        }
        if self.1.load(Ordering::SeqCst) { Err(io::Error::other("stopped")) } else { Ok(()) }
    }
}

#[test]
fn what_a_crash_left_is_shown_and_recovered() {
    for (table, outcome, images) in [("layers.json", "RolledBack", 0), ("images.json", "RolledForward", 1)] {
        let world = World::new();
        let options =
            StoreOptions::new(world.root(), world.temp.path().join("run")).hook(Arc::new(StopBefore(table, AtomicBool::default())));
        let image = fixture::image("localhost/one:1", vec![fixture::base(), fixture::app("one")]);
        fixture::pull(&Store::open(options).unwrap(), std::slice::from_ref(&image)).unwrap_err();

        let journal = world.json(&["journal", "--json"]);
        let segment = &journal[0];
        assert_eq!((segment["state"].as_str(), segment["alive"].as_bool()), (Some("intent"), Some(false)), "{journal}");
        assert_eq!((segment["pid"].as_u64(), segment["images"].as_array().unwrap().len()), (Some(u64::from(std::process::id())), 1));
        let txn = segment["transaction"].as_str().unwrap().to_owned();
        let text = world.ok(&["journal"]);
        assert!(text.contains(&txn) && text.contains("its owner is dead") && text.contains("PlaceLayer"), "{text}");
        let shown = world.json(&["journal", "show", &txn, "--json"]);
        assert_eq!(shown["transaction"].as_str(), Some(txn.as_str()));
        assert_eq!(world.run(&["journal", "show", &"0".repeat(32)]).status.code(), Some(1));
        assert_eq!(world.json(&["info", "--json"])["recoveries_waiting"], 1);
        // Looking changes nothing.
        world.ok(&["recover", "--dry-run"]);
        assert_eq!(world.json(&["journal", "--json"]), journal);

        let done = world.json(&["recover", "--json"]);
        assert_eq!((done["ended"][0]["transaction"].as_str(), done["ended"][0]["outcome"].as_str()), (Some(txn.as_str()), Some(outcome)));
        assert_eq!(world.json(&["images", "--json"]).as_array().unwrap().len(), images);
        assert_eq!(world.json(&["journal", "--json"]), serde_json::json!([]));
        assert_eq!(world.ok(&["recover"]), "nothing to recover\n");
    }
}

#[test]
fn a_pull_says_what_it_recovered_first() {
    let world = World::new();
    let options =
        StoreOptions::new(world.root(), world.temp.path().join("run")).hook(Arc::new(StopBefore("images.json", AtomicBool::default())));
    fixture::pull(&Store::open(options).unwrap(), &[fixture::image("localhost/one:1", vec![fixture::base()])]).unwrap_err();
    world.push("two");
    let output = world.pull(&["--quiet"], &["two"]);
    assert!(output.status.success() && said(&output).contains("recovered: transaction"), "{}", said(&output));
    assert_eq!(world.json(&["images", "--json"]).as_array().unwrap().len(), 2);
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

#[test]
fn help_and_version_are_there() {
    let world = World::new();
    assert!(world.ok(&["--version"]).starts_with("cstor-rs "));
    for command in ["pull", "images", "layers", "recover", "journal", "info"] {
        assert!(world.ok(&["--help"]).contains(command));
        assert!(world.ok(&[command, "--help"]).contains("Usage: cstor-rs"), "{command}");
    }
}
