//! Running `cstor-rs fsck`, never for ever, and reading what it says.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::place::Place;

/// Longer than any of these runs takes on the slowest machine: what is still there then hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a run ended and what it said.
#[derive(Debug)]
pub struct Said {
    /// The exit code; nothing where a signal ended it.
    pub code: Option<i32>,
    pub findings: Vec<Value>,
    pub summary: Value,
    pub stderr: String,
}

impl Said {
    /// What was found, as a set.
    pub fn codes(&self) -> BTreeSet<String> {
        self.findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
    }
}

/// Waits for a child that must end by itself; kills it and fails where it does not.
pub fn end_of(command: &mut Command, what: &str) -> ExitStatus {
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let fd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let timeout = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout)).unwrap() == 0 {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{what}: {command:?} did not end");
    }
    child.wait().unwrap()
}

/// `cstor-rs fsck --json` with these arguments.
pub fn fsck(place: &Place, args: &[&str], what: &str) -> Said {
    let mut command = place.command(&["fsck", "--json"]);
    command.args(args);
    run(place, command, what)
}

/// The same of any command of ours that prints findings.
pub fn run(place: &Place, mut command: Command, what: &str) -> Said {
    let (out, err) = (place.temp.path().join("stdout"), place.temp.path().join("stderr"));
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let status = end_of(&mut command, what);
    let stderr = String::from_utf8_lossy(&fs::read(&err).unwrap()).into_owned();
    assert!(!stderr.contains("panicked at"), "{what}: {stderr}");
    let text = fs::read_to_string(&out).unwrap();
    let parse = |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {error}: {line}\n{stderr}")) };
    let (summaries, findings): (Vec<Value>, Vec<Value>) = text.lines().map(parse).partition(|line| line.get("summary").is_some());
    let last = text.lines().last().map(parse).unwrap_or_default();
    let said = Said { code: status.code(), findings, summary: last["summary"].clone(), stderr };
    // What cannot even begin says why, and has nothing to sum up.
    let begun = |code: i32| code & 16 == 0 && (code != 8 || !summaries.is_empty());
    if status.code().is_some_and(begun) {
        assert_eq!(summaries.len(), 1, "{what}: one summary, at the end: {said:?}");
        assert_eq!(said.summary["exit"].as_i64(), said.code.map(i64::from), "{what}: {said:?}");
    }
    said
}
