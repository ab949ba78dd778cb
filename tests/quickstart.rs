//! The README's second command does what it says, for root and for others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/skip.rs"]
mod skip;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Cargo builds the examples with the tests and puts them beside them.
fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/quickstart");
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
