//! The crash laboratory: the real command on real filesystems, cut short from outside.
//!
//! [`tests/crash/main.rs`](../main.rs) goes through every change by the hook in the library; here nothing of the library is asked.
//! What each tier does and how to run it for long is in docs/crash-testing.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod block;
#[path = "../../common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod image;
#[path = "../../common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "../../common/peers.rs"]
mod peers;
mod rng;
#[path = "../../common/skip.rs"]
mod skip;
mod soak;
mod syscalls;
mod tracer;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        Some("campaign") => return block::campaign::main(&words[2..]),
        Some("report") => return block::report::main(&words[2..]),
        _ => {}
    }
    let args = Arguments::from_args();
    let mut trials = vec![Trial::test("image::pulled", || {
        pulled();
        Ok(())
    })];
    trials.extend(block::trials());
    trials.extend(syscalls::trials());
    trials.extend(soak::trials());
    libtest_mimic::run(&args, trials).exit_code()
}

/// The image that the tiers pull has every kind of entry, no more than a hundred, and the command takes all of it.
fn pulled() {
    let temp = tempfile::tempdir().unwrap();
    let one = image::two_layers("one", 1);
    let entries: usize = one.layers.iter().map(|layer| tar::Archive::new(layer.tar.as_slice()).entries().unwrap().count()).sum();
    assert!((50..=100).contains(&entries), "{entries} entries");
    let layout = image::Layout::of(temp.path().join("layout"), std::slice::from_ref(&one));
    let root = temp.path().join("root");
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        let output = command.arg("--root").arg(&root).arg("--runroot").arg(temp.path().join("run")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    command(&["pull", &layout.reference("one")]);
    command(&["fsck", "--level", "full"]);
    let said = oracle::read(&root).unwrap();
    assert_eq!((said.images.len(), said.layers.len()), (1, 2));
}
