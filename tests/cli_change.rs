//! The commands that change what is there, through the binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::process::{Output, Stdio};

use cstor_rs::store::{Store, StoreOptions};
use serde_json::{Value, json};
use world::{World, lines, said};

/// A store with these images, each of a shared layer and one of its own.
fn with(names: &[&str]) -> World {
    let world = World::new();
    names.iter().for_each(|name| drop(world.push(name)));
    assert!(world.pull(&[], names).status.success());
    world
}

impl World {
    fn name(&self, name: &str) -> String {
        self.registry.reference(&format!("{name}:latest"))
    }

    fn images(&self) -> Vec<(String, BTreeSet<String>)> {
        let list = self.json(&["images", "--json"]);
        let names = |image: &Value| image["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        list.as_array().unwrap().iter().map(|image| (image["id"].as_str().unwrap().to_owned(), names(image))).collect()
    }

    fn id(&self, name: &str) -> String {
        let name = self.name(name);
        self.images().into_iter().find(|(_, names)| names.contains(&name)).unwrap().0
    }

    fn layers(&self) -> BTreeSet<String> {
        let list = self.json(&["layers", "--json"]);
        list.as_array().unwrap().iter().map(|layer| layer["id"].as_str().unwrap().to_owned()).collect()
    }

    fn fails(&self, code: i32, words: &str, args: &[&str]) {
        let before = (self.images(), self.layers());
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{args:?}: {}", said(&output));
        assert_eq!((self.images(), self.layers()), before, "{args:?}");
    }

    fn feed(&self, args: &[&str], bytes: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn images_get_and_lose_names() {
    let world = with(&["a", "b"]);
    let (a, b) = (world.name("a"), world.name("b"));
    world.ok(&["tag", &a, "stable", "localhost/other:2"]);
    assert_eq!(world.images()[0].1, set(&[&a, "localhost/stable:latest", "localhost/other:2"]));
    // In podman's order: what was given last comes first.
    assert_eq!(world.json(&["images", "--json"])[0]["names"], json!(["localhost/other:2", "localhost/stable:latest", a]));
    // By the id, by its beginning, by the end of the name; a name moves.
    let id = world.id("b");
    world.ok(&["tag", &id, "stable"]);
    assert_eq!(world.images()[1].1, set(&[&b, "localhost/stable:latest"]));
    world.ok(&["tag", &id[..20], "stable:2"]);
    world.ok(&["untag", "b:latest", "stable"]);
    assert_eq!(world.images()[1].1, set(&[&b, "localhost/stable:2"]));
    world.ok(&["untag", &id]);
    assert_eq!(world.images()[1].1, set(&[]));
    world.fails(1, "is not known", &["tag", "nobody", "x"]);
    world.fails(1, "is not called localhost/x:latest", &["untag", &a, "x"]);
    world.fails(1, "image reference", &["tag", &a, "UPPER"]);
    world.fails(2, "DST", &["tag", &a]);
}

#[test]
fn images_are_removed_as_podman_removes_them() {
    let world = with(&["a", "b", "c"]);
    let (a, id) = (world.name("a"), world.id("a"));
    world.ok(&["tag", &a, "second"]);
    world.fails(1, "several names", &["rmi", &id]);
    assert_eq!(world.ok(&["rmi", "second"]), "Untagged: localhost/second:latest\n");
    world.ok(&["tag", &a, "second"]);
    let layers = world.layers();
    let gone = world.ok(&["rmi", "--force", &id]);
    assert!(gone.contains(&format!("Untagged: {a}\n")) && gone.ends_with(&format!("Deleted: {id}\n")), "{gone}");
    assert_eq!(layers.difference(&world.layers()).count(), 1, "its own layer, not the shared one");
    world.fails(1, "is not known", &["rmi", &id]);
    world.ok(&["rmi", "--ignore", &id]);
    // Each for itself: one fails, the others go.
    let (b, c) = (world.id("b"), world.id("c"));
    let output = world.run(&["rmi", "--json", &b, "nobody", &c]);
    assert_eq!(output.status.code(), Some(1));
    let deleted: Vec<Value> = lines(&output).iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["deleted"].clone()).collect();
    assert_eq!(deleted, [json!([b]), json!([c])]);
    assert_eq!((world.images(), world.layers()), (vec![], BTreeSet::new()));
    assert_eq!(oracle::leftovers(&world.root(), &BTreeSet::new()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_a_container_uses_stays_and_the_code_says_busy() {
    let world = with(&["a"]);
    let container = json!([{"id": "c".repeat(64), "names": ["keeper"], "image": world.id("a"), "layer": "d".repeat(64), "created": "2026-01-02T03:04:05Z"}]);
    std::fs::write(world.root().join("overlay-containers/containers.json"), container.to_string()).unwrap();
    world.fails(64, "in use by container keeper", &["rmi", "--force", &world.name("a")]);
    assert_eq!(world.ok(&["prune", "--all", "--image-age", "0", "--layer-age", "0"]), "0 B freed\n");
    assert_eq!(world.images().len(), 1);
}

#[test]
fn layers_are_made_and_removed() {
    let world = World::new();
    let tar = registry::tar(&[("file", b"contents")]);
    let made = world.feed(&["layer", "create"], &tar);
    assert!(made.status.success(), "{}", said(&made));
    let base = lines(&made).remove(0);
    let file = world.temp.path().join("layer.tar");
    std::fs::write(&file, registry::tar(&[("other", b"more")])).unwrap();
    let top = world.ok(&["layer", "create", "--parent", &base, file.to_str().unwrap()]).trim().to_owned();
    assert_eq!(world.layers(), set(&[&base, &top]));
    oracle::read(&world.root()).unwrap();
    // Again it is the same layer.
    assert_eq!(lines(&world.feed(&["layer", "create"], &tar)), [base.as_str()]);
    world.fails(64, "which is built on it", &["layer", "rm", &base]);
    world.fails(1, "is not known", &["layer", "rm", &"0".repeat(64)]);
    let needed = with(&["a"]);
    let upper = needed.json(&["images", "--json"])[0]["layer"].as_str().unwrap().to_owned();
    needed.fails(64, "in use by image", &["layer", "rm", &upper]);
    world.fails(1, "is not known", &["layer", "create", "--parent", &"0".repeat(64), file.to_str().unwrap()]);
    let bad = world.feed(&["layer", "create"], &[1; 600]);
    assert_eq!(bad.status.code(), Some(1), "{}", said(&bad));
    assert_eq!(world.ok(&["layer", "rm", &top, &base]), format!("{top}\n{base}\n"));
    assert_eq!(world.layers(), BTreeSet::new());
    assert_eq!(oracle::leftovers(&world.root(), &BTreeSet::new()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_dry_run_of_a_prune_says_what_a_prune_then_does() {
    let world = with(&["a", "b", "c"]);
    let pinned = world.id("c");
    for name in ["b", "c"] {
        world.ok(&["untag", &world.name(name)]);
    }
    let store = Store::open(StoreOptions::new(world.root(), world.temp.path().join("run"))).unwrap();
    store.pin(&pinned.parse().unwrap(), &"test".parse().unwrap()).unwrap();
    let loose = lines(&world.feed(&["layer", "create"], &registry::tar(&[("loose", &[3; 2000])]))).remove(0);
    // What may just be in the making stays.
    assert_eq!(world.ok(&["prune"]), "0 B freed\n");
    let args = ["prune", "--json", "--image-age", "0", "--layer-age", "0"];
    let before = (world.images(), world.layers());
    let would = world.json(&[&args[..], &["--dry-run"]].concat());
    assert_eq!((world.images(), world.layers()), before);
    let did = world.json(&args);
    for key in ["images", "layers", "size"] {
        assert_eq!(would[key], did[key], "{key}");
    }
    assert_eq!(did["images"].as_array().unwrap().len(), 1);
    assert!(did["layers"].as_array().unwrap().iter().any(|layer| layer["id"] == loose.as_str()));
    let sum: u64 = did["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
    assert_eq!(did["size"].as_u64(), Some(sum));
    let left: BTreeSet<String> = world.images().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, set(&[&world.id("a"), &pinned]));
    let gone: BTreeSet<String> = did["layers"].as_array().unwrap().iter().map(|layer| layer["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(before.1.difference(&world.layers()).cloned().collect::<BTreeSet<_>>(), gone);
    oracle::read(&world.root()).unwrap();
}

/// Waits until something holds, without a word from the program.
fn until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn a_signal_takes_a_layer_back_though_nothing_comes_from_its_pipe() {
    let world = with(&["a"]);
    let before = world.layers();
    let mut child =
        world.command(&["layer", "create"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&registry::tar(&[("file", &[1; 3000])])[..1024]).unwrap();
    let stage = world.root().join("cstor-rs/stage");
    until(|| std::fs::read_dir(&stage).is_ok_and(|list| list.count() > 0));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(output.stdout.is_empty());
    assert_eq!(world.layers(), before);
    assert_eq!(oracle::leftovers(&world.root(), &BTreeSet::new()), Vec::<std::path::PathBuf>::new());
    drop(pipe);
}

#[test]
fn a_signal_ends_a_list_of_removals() {
    let world = with(&["a", "b"]);
    let before = world.images();
    let store = Store::open(StoreOptions::new(world.root(), world.temp.path().join("run"))).unwrap();
    let layout = store.layout().unwrap().unwrap();
    let wait = cstor_rs::lock::Wait::limit(std::time::Duration::ZERO);
    let held = cstor_rs::lock::StoreLocks::write_images(&layout.images, &wait).unwrap();
    let mut child =
        world.command(&["rmi", &world.name("a"), &world.name("b")]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It says whom it waits for.
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("waiting for a lock"));
    interrupt(&child);
    // Still held: the first removal is given up, the second not begun.
    let status = child.wait().unwrap();
    drop(held);
    assert_eq!(status.code(), Some(130), "{:?}", lines.collect::<Vec<_>>());
    assert_eq!(world.images(), before);
}

#[test]
fn an_image_is_found_by_what_registries_conf_searches() {
    let world = with(&["a", "b"]);
    world.ok(&["tag", &world.name("a"), "example.org/zed:1"]);
    world.ok(&["tag", &world.name("b"), "quay.io/zed:1"]);
    let conf = world.temp.path().join("registries.conf");
    std::fs::write(&conf, "unqualified-search-registries = [\"quay.io\", \"example.org\"]\n").unwrap();
    let run = |args: &[&str]| world.command(args).env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap();
    assert_eq!(lines(&run(&["rmi", "zed:1"])), ["Untagged: quay.io/zed:1"]);
    assert_eq!(lines(&run(&["rmi", "zed:1"])), ["Untagged: example.org/zed:1"]);
    // What cannot be read is said.
    std::fs::write(&conf, "unqualified-search-registries = 1\n").unwrap();
    let output = run(&["rmi", "zed:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("registries.conf"), "{}", said(&output));
}

#[test]
fn the_beginning_of_an_id_must_mean_one_image() {
    // Of seventeen ids two begin alike.
    let names: Vec<String> = (0..17).map(|n| format!("i{n}")).collect();
    let world = with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let ids: Vec<String> = world.images().into_iter().map(|(id, _)| id).collect();
    let two = ids.iter().find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1).unwrap();
    world.fails(1, "may be any of", &["rmi", &two[..1]]);
    world.fails(1, "may be any of", &["tag", &two[..1], "x"]);
    let printed = world.ok(&["rmi", &two[..20]]);
    assert!(printed.ends_with(&format!("Deleted: {two}\n")), "{printed}");
    assert_eq!(world.images().len(), 16);
}

#[test]
fn a_prune_takes_what_is_kept_of_downloads() {
    let world = with(&["a"]);
    let pushed = world.push("b");
    world.registry.script(pushed.layers[1].as_str(), u32::MAX, registry::Fault::CloseAfter(60));
    assert_eq!(world.pull(&[], &["b"]).status.code(), Some(1));
    let would = world.json(&["prune", "--json", "--dry-run"]);
    assert!(would["partial_blobs"].as_u64().unwrap() > 0, "{would}");
    let did = world.json(&["prune", "--json"]);
    assert_eq!((&would["partial_blobs"], &would["partial_size"]), (&did["partial_blobs"], &did["partial_size"]));
    let again = world.json(&["prune", "--json"]);
    assert_eq!((&again["partial_blobs"], &again["partial_size"]), (&json!(0), &json!(0)));
}

#[test]
fn without_a_store_none_is_made() {
    let world = World::new();
    let id = "0".repeat(64);
    for args in [&["tag", "a", "b"][..], &["untag", "a"], &["rmi", "a"], &["layer", "rm", &id], &["prune"]] {
        let output = world.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(said(&output).contains("there is no store"), "{args:?}: {}", said(&output));
        assert!(!world.root().exists(), "{args:?}");
    }
}
