//! `apply`: many changes in one transaction, all or nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use registry::Fault;
use serde_json::{Value, json};
use world::{World, said};

fn apply(world: &World, args: &[&str], text: &str) -> Output {
    let file = world.temp.path().join("update.toml");
    std::fs::write(&file, text).unwrap();
    world.run(&[&["apply", "--tls-verify=false", "--retry", "0", "--quiet", file.to_str().unwrap()], args].concat())
}

fn name(world: &World, name: &str) -> String {
    world.registry.reference(&format!("{name}:latest"))
}

/// Names by image.
fn images(world: &World) -> BTreeMap<String, BTreeSet<String>> {
    let list = world.json(&["images", "--json"]);
    let names = |image: &Value| image["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    list.as_array().unwrap().iter().map(|image| (image["id"].as_str().unwrap().to_owned(), names(image))).collect()
}

fn tables(world: &World) -> [Vec<u8>; 2] {
    ["overlay-layers/layers.json", "overlay-images/images.json"].map(|table| std::fs::read(world.root().join(table)).unwrap())
}

/// An operating system and five applications; later three of them anew, a name that moves, two that go.
#[test]
fn an_update_happens_whole_or_not_at_all() {
    let world = World::new();
    let all = ["os", "a", "b", "c", "d", "e"];
    all.iter().for_each(|name| drop(world.push(name)));
    let pulls = |names: &[&str]| names.iter().map(|n| format!("[[change]]\npull = \"{}\"\n", name(&world, n))).collect::<String>();
    let text = pulls(&all) + &format!("[[change]]\ntag = {{ image = \"{}\", name = \"os:current\" }}\n", name(&world, "os"));
    world.registry.script("e/blobs", 1, Fault::Status(404, "gone"));
    let failed = apply(&world, &[], &text);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert_eq!(images(&world), BTreeMap::new(), "one is missing, and none is there");
    let done = apply(&world, &["--json"], &text);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(images(&world).len(), 6);
    let current = images(&world).into_iter().find(|(_, names)| names.contains("localhost/os:current")).unwrap();
    assert!(current.1.contains(&name(&world, "os")));
    // Again it says nothing new.
    let before = tables(&world);
    assert!(apply(&world, &[], &text).status.success());
    assert_eq!(tables(&world), before);

    ["f", "g", "h"].iter().for_each(|name| drop(world.push(name)));
    let update = pulls(&["f", "g", "h"])
        + &format!("[[change]]\ntag = {{ image = \"{}\", name = \"os:current\" }}\n", name(&world, "f"))
        + &format!("[[change]]\nrm = \"{}\"\n", name(&world, "a"))
        + &format!("[[change]]\nrm = {{ image = \"{}\", force = true }}\n", current.0)
        + &format!("[[change]]\nuntag = {{ image = \"{}\" }}\n", name(&world, "b"));
    // A dry run writes nothing and foretells it all.
    let foretold = apply(&world, &["--dry-run", "--json"], &update);
    assert!(foretold.status.success(), "{}", said(&foretold));
    assert_eq!(tables(&world), before);
    let foretold: Value = serde_json::from_slice(&foretold.stdout).unwrap();
    let done = apply(&world, &["--json"], &update);
    assert!(done.status.success(), "{}", said(&done));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    for key in ["renamed", "removed_images", "removed_layers"] {
        assert_eq!(foretold[key], done[key], "{key}");
    }
    let ids = |value: &Value| value.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&foretold["pulls"]), ids(&done["pulled"]));
    assert_eq!(foretold["pulls"][0]["present"], json!(1), "the shared layer");
    assert_eq!(done["removed_images"].as_array().unwrap().len(), 2);
    let now = images(&world);
    assert_eq!(now.len(), 7);
    assert!(now.values().any(|names| *names == BTreeSet::from([name(&world, "f"), "localhost/os:current".to_owned()])), "{now:?}");
    assert!(now.values().any(BTreeSet::is_empty), "{now:?}");
    oracle::data_agrees(&oracle::read(&world.root()).unwrap()).unwrap();
    assert_eq!(oracle::leftovers(&world.root(), &BTreeSet::new()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let world = World::new();
    world.push("a");
    assert!(world.pull(&[], &["a"]).status.success());
    let (a, before) = (name(&world, "a"), tables(&world));
    let cases: &[(&str, String, &str)] = &[
        ("no TOML", "[[change]\n".to_owned(), "line 1"),
        ("an unknown change", "[[change]]\npush = \"x\"\n".to_owned(), "push"),
        ("an unknown key", format!("[[change]]\ntag = {{ image = \"{a}\", nam = \"x\" }}\n"), "unknown field `nam`"),
        ("an unknown key of rm", format!("[[change]]\nrm = {{ image = \"{a}\", frce = true }}\n"), "unknown field `frce`"),
        ("a number", "[[change]]\nrm = 1\n".to_owned(), "an image, or a table"),
        ("two changes in one", format!("[[change]]\nrm = \"{a}\"\nuntag = {{ image = \"{a}\" }}\n"), "line 1"),
        ("made and removed", format!("[[change]]\npull = \"{a}\"\n[[change]]\nrm = \"{a}\"\n"), "both made and removed"),
        ("another table", "[[changes]]\npull = \"x\"\n".to_owned(), "changes"),
        ("a bad name", format!("[[change]]\ntag = {{ image = \"{a}\", name = \"A B\" }}\n"), "update.toml, change 1"),
        (
            "an unknown image behind a good change",
            format!("[[change]]\nuntag = {{ image = \"{a}\" }}\n[[change]]\nrm = \"nobody\"\n"),
            "not known",
        ),
    ];
    for (what, text, words) in cases {
        for args in [&[][..], &["--dry-run"]] {
            let output = apply(&world, args, text);
            assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
            assert!(said(&output).contains(words), "{what}: {}", said(&output));
            assert_eq!(tables(&world), before, "{what}");
        }
    }
}

/// Each pull has its place: a name that was taken away comes back, or goes for good.
#[test]
fn the_order_is_kept_also_when_an_image_is_pulled_twice() {
    for there in [false, true] {
        let world = World::new();
        world.push("a");
        if there {
            assert!(world.pull(&[], &["a"]).status.success());
        }
        let a = name(&world, "a");
        let pull = format!("[[change]]\npull = \"{a}\"\n");
        let untag = format!("[[change]]\nuntag = {{ image = \"{a}\" }}\n");
        for (text, names) in [(format!("{pull}{untag}{pull}"), vec![a.clone()]), (format!("{pull}{pull}{untag}"), vec![])] {
            let foretold = apply(&world, &["--dry-run", "--json"], &text);
            assert!(foretold.status.success(), "{}", said(&foretold));
            let done = apply(&world, &["--json"], &text);
            assert!(done.status.success(), "{}", said(&done));
            let [foretold, done]: [Value; 2] = [foretold, done].map(|output| serde_json::from_slice(&output.stdout).unwrap());
            assert_eq!(foretold["renamed"], done["renamed"]);
            assert_eq!(images(&world).into_values().collect::<Vec<_>>(), [names.into_iter().collect::<BTreeSet<_>>()]);
        }
    }
}

#[test]
fn without_a_store_a_dry_run_knows_what_apply_does_and_failing_makes_none() {
    let world = World::new();
    let pushed = world.push("a");
    let a = name(&world, "a");
    let pull = format!("[[change]]\npull = \"{a}\"\n");
    let unknown = format!("{pull}[[change]]\ntag = {{ image = \"nobody\", name = \"x\" }}\n");
    for args in [&["--dry-run"][..], &[]] {
        for text in ["[[change]]\nrm = \"nobody\"\n", &unknown] {
            let output = apply(&world, args, text);
            assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
            assert!(said(&output).contains("not known"), "{}", said(&output));
        }
        let empty = apply(&world, args, "change = []\n");
        assert!(empty.status.success(), "{}", said(&empty));
        assert!(!world.root().exists(), "{args:?}");
    }
    // Nor was any layer fetched for it.
    let log = world.registry.log();
    assert!(!pushed.layers.iter().any(|layer| log.iter().any(|line| line.contains(layer.as_str()))), "{log:?}");
    let text = format!("{pull}[[change]]\ntag = {{ image = \"{a}\", name = \"x\" }}\n");
    let foretold: Value = serde_json::from_slice(&apply(&world, &["--dry-run", "--json"], &text).stdout).unwrap();
    assert!(!world.root().exists());
    let mut child = world.command(&["apply", "--tls-verify=false", "--quiet", "--json", "-"]);
    let mut child = child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let done: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(foretold["renamed"], done["renamed"]);
    assert_eq!(images(&world).into_values().next().unwrap(), BTreeSet::from([a, "localhost/x:latest".to_owned()]));
}
