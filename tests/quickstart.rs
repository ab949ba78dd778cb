//! The README's second command does what it says, for root and for others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "common/skip.rs"]
mod skip;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Cargo builds the examples with the tests and puts them beside them.
fn built() -> PathBuf {
    example("quickstart")
}

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: `cargo test` builds it, `cargo test --test quickstart` alone does not", path.display());
    path
}

fn check(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let count = |part: &str| text.matches(part).count();
    assert_eq!(count("signal: 9"), 2, "{text}");
    assert_eq!(count(r#"says "intent""#), 2, "{text}");
    assert_eq!(count("RolledForward"), 1, "{text}");
    assert_eq!(count("RolledBack"), 1, "{text}");
    assert_eq!(count("the store has 3 layers and 2 images"), 2, "{text}");
    assert_eq!(count("   layer "), 3, "{text}");
    assert!(text.contains("0 layers fetched"), "{text}");
}

#[test]
fn the_quickstart_pulls_crashes_recovers_checks_and_lists() {
    check(&mut Command::new(built()));
}

#[test]
fn the_quickstart_runs_for_a_user_who_is_not_root() {
    if !rustix::process::geteuid().is_root() {
        skip::skipped("this test is not run by root, so the other one was this one");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let copy = temp.path().join("quickstart");
    std::fs::copy(built(), &copy).unwrap();
    check(Command::new(copy).uid(65534).gid(65534).env("TMPDIR", temp.path()).current_dir(temp.path()));
}

#[test]
fn the_examples_of_the_library_run() {
    let run = |name: &str, args: &[&str]| {
        let output = Command::new(example(name)).args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let batch = run("batch", &[]);
    assert!(batch.contains("the second release: 1 images and 1 layers made, 1 images and 1 layers removed"), "{batch}");
    assert!(batch.contains("refused: image localhost/nobody:1 is not known"), "{batch}");
    assert_eq!(run("embed", &[]), "there is no store yet\n");
    // Over a store with an image: listed, named, pinned.
    let temp = tempfile::tempdir().unwrap();
    let (root, runroot) = (temp.path().join("root"), temp.path().join("run"));
    let store = cstor_rs::store::Store::open(cstor_rs::store::StoreOptions::new(&root, &runroot)).unwrap();
    fixture::pull(&store, &[fixture::image("localhost/here:1", vec![fixture::base()])]).unwrap();
    let said = run("embed", &[root.to_str().unwrap(), runroot.to_str().unwrap(), "localhost/here:1"]);
    assert!(said.contains("durable: ") && said.contains("localhost/kept:latest") && said.contains("pinned "), "{said}");
    assert_eq!(store.pins().unwrap().len(), 1);
}
