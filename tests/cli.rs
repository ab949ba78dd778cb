//! What the command promises to those who call it: stdout, stderr, JSON, exit codes.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/world.rs"]
mod world;

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::fixture;
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::store::{Store, StoreOptions};
use registry::Fault;
use serde_json::Value;
use world::{World, lines, said};

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
    let base = base["id"].as_str().unwrap();
    assert!(world.ok(&["layers", "--no-trunc"]).contains(base) && !world.ok(&["layers"]).contains(base));
    assert!(world.ok(&["layers", "--digests"]).contains(one.diff_ids[0].as_str()));

    let filtered = |filters: &[&str]| {
        let args = filters.iter().flat_map(|filter| ["--filter", filter]);
        world
            .ok(&["images", "--quiet", "--no-trunc"].into_iter().chain(args).collect::<Vec<_>>())
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(filtered(&["reference=one"]), [one.config.hex()]);
    assert_eq!(filtered(&["reference=*/one:latest", "dangling=false"]), [one.config.hex()]);
    assert_eq!(filtered(&[&format!("id={}", &two.config.hex()[..12])]), [two.config.hex()]);
    assert_eq!(filtered(&["dangling=true"]), Vec::<String>::new());
    assert_eq!(world.json(&["images", "--json", "--filter", "reference=two"])[0]["id"].as_str(), Some(two.config.hex()));
    assert_eq!(world.ok(&["layers", "--quiet", "--no-trunc", "--filter", &format!("id={}", &base[..20])]), format!("{base}\n"));
    assert_eq!(world.ok(&["layers", "--quiet", "--filter", "dangling=true"]), "");
    assert_eq!(world.run(&["images", "--filter", "label=x"]).status.code(), Some(2));
}

#[test]
fn info_says_what_is_there_and_who_holds_it() {
    let world = World::new();
    world.push("one");
    assert!(world.pull(&["--quiet"], &["one"]).status.success());
    let info = world.json(&["info", "--json"]);
    let seen = |info: &Value| [&info["exists"], &info["images"], &info["layers"], &info["layers_size"], &info["locks"]].map(Value::clone);
    use serde_json::json;
    assert_eq!(seen(&info), [json!(true), json!(1), json!(2), json!(6656 + 2048), json!([])]);
    assert!(info["backing_filesystem"].is_string() || info["backing_filesystem"].is_null(), "{info}");
    let held = std::fs::File::options().read(true).write(true).open(world.root().join("overlay-images/images.lock")).unwrap();
    let range = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETLK(&range)).unwrap();
    let info = world.json(&["--lock-timeout", "0", "info", "--json"]);
    assert_eq!(seen(&info)[1..4], [json!(null), json!(null), json!(null)], "not known while it is held");
    assert_eq!(info["locks"][0]["lock"], "images.lock");
    assert!(info["locks"][0]["holder"].as_str().unwrap().starts_with(&format!("process {} (", std::process::id())), "{info}");
    let text = world.ok(&["--lock-timeout", "0", "info"]);
    assert!(text.contains("images.lock: held by process") && text.contains("images: unknown"), "{text}");
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
    for (table, outcome, images) in [("layers.json", "rolled_back", 0), ("images.json", "rolled_forward", 1)] {
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
        let would = world.json(&["recover", "--dry-run", "--json"]);
        let ends = |list: &Value| (list[0]["transaction"].as_str().map(str::to_owned), list[0]["outcome"].as_str().map(str::to_owned));
        assert_eq!(ends(&would["would_end"]), (Some(txn.clone()), Some(outcome.to_owned())), "{would}");
        let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&would), ["would_end", "pending", "left", "alive"]);
        let text = world.ok(&["recover", "--dry-run"]);
        assert!(text.contains(&txn) && text.contains("would be"), "{text}");
        assert_eq!(world.json(&["journal", "--json"]), journal);

        let done = world.json(&["recover", "--json"]);
        assert_eq!(ends(&done["ended"]), (Some(txn), Some(outcome.to_owned())), "what was foretold");
        assert_eq!(keys(&done), ["ended", "pending", "left", "alive"]);
        assert_eq!(world.json(&["images", "--json"]).as_array().unwrap().len(), images);
        assert_eq!(world.json(&["journal", "--json"]), serde_json::json!([]));
        assert_eq!(world.ok(&["recover"]), "nothing to recover\n");
        assert_eq!(world.ok(&["recover", "--dry-run"]), "nothing to recover\n");
    }
}

/// Live transactions are none of recovery's business, and are no reason for a code of failure.
#[test]
fn a_transaction_that_lives_is_shown_as_that() {
    let world = World::new();
    let store = Store::open(StoreOptions::new(world.root(), world.temp.path().join("run"))).unwrap();
    let txn = store.begin(cstor_rs::txn::TxnOptions::default()).unwrap();
    txn.stage_empty_layer(None).unwrap();
    let alive = serde_json::json!([txn.id()]);
    let would = serde_json::json!({"would_end": [], "pending": [], "left": [], "alive": alive});
    assert_eq!(world.json(&["recover", "--dry-run", "--json"]), would);
    assert_eq!(world.ok(&["recover", "--dry-run"]), format!("{} is alive\n", txn.id()));
    assert_eq!(world.json(&["recover", "--json"]), serde_json::json!({"ended": [], "pending": [], "left": [], "alive": []}));
    txn.rollback().unwrap();
    // What lies in staging without a segment is dead.
    let name = "0123456789abcdef".repeat(2);
    std::fs::create_dir_all(world.root().join("cstor-rs/stage").join(&name).join("x")).unwrap();
    for (args, key) in [(&["recover", "--dry-run", "--json"][..], "would_end"), (&["recover", "--json"], "ended")] {
        let said = world.json(args);
        assert_eq!(
            (said[key][0]["transaction"].as_str(), said[key][0]["outcome"].as_str()),
            (Some(name.as_str()), Some("cleaned_up")),
            "{said}"
        );
    }
    assert_eq!(world.ok(&["recover"]), "nothing to recover\n");
}

/// A mount that goes with the test.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[test]
fn what_cannot_be_removed_is_said_and_is_a_failure_of_recover() {
    if !rustix::process::geteuid().is_root() {
        return skip::skipped("mounts need the root user");
    }
    let world = World::new();
    let store = Store::open(StoreOptions::new(world.root(), world.temp.path().join("run"))).unwrap();
    let txn = store.begin(cstor_rs::txn::TxnOptions::default()).unwrap();
    txn.stage_empty_layer(None).unwrap();
    let id = txn.id().to_string();
    let segment = world.root().join("cstor-rs/journal").join(format!("{id}.wal"));
    let bytes = std::fs::read(&segment).unwrap();
    txn.rollback().unwrap();
    // As if its owner had died; and somebody has mounted what it staged.
    std::fs::write(&segment, bytes).unwrap();
    let busy = world.root().join("cstor-rs/stage").join(&id).join("layer");
    std::fs::create_dir_all(&busy).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&busy).status().unwrap().success());
    let mounted = Mounted(busy);
    for args in [&["recover"][..], &["recover", "--json"]] {
        let output = world.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&id) && text.contains("cannot be removed"), "{args:?}: {text}{}", said(&output));
    }
    // It is in nobody's way.
    let one = world.push("one");
    let output = world.pull(&["--quiet"], &["one"]);
    assert_eq!(lines(&output), [one.config.hex()], "{}", said(&output));
    assert!(said(&output).contains(&format!("warning: what transaction {id} left")), "{}", said(&output));
    drop(mounted);
    assert!(world.ok(&["recover"]).contains(&id));
    assert_eq!(world.ok(&["recover"]), "nothing to recover\n");
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

/// As people have it who moved their store: `/var/lib/containers/storage` is a link to another disk.
#[test]
fn a_root_behind_a_link_is_the_store_it_leads_to() {
    let world = World::new();
    let one = world.push("one");
    let at = |path: &str| world.temp.path().join(path);
    std::fs::create_dir(at("disk")).unwrap();
    std::os::unix::fs::symlink(at("disk"), at("link")).unwrap();
    let reference = world.registry.reference("one:latest");
    for (root, real) in [("link/deep/root", "disk/deep/root"), ("link", "disk")] {
        for _ in 0..2 {
            let args = ["--root", at(root).to_str().unwrap(), "--runroot", at("link/run").to_str().unwrap()].map(str::to_owned);
            let run = |more: &[&str]| Command::new(env!("CARGO_BIN_EXE_cstor-rs")).args(&args).args(more).output().unwrap();
            let output = run(&["pull", "--quiet", "--tls-verify=false", &reference]);
            assert_eq!(lines(&output), [one.config.hex()], "{root}: {}", said(&output));
            assert_eq!(lines(&run(&["images", "--quiet", "--no-trunc"])), [one.config.hex()], "{root}");
        }
        assert!(at(real).join("overlay-images/images.json").exists(), "{real}");
    }
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
