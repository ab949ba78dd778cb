//! Real processes on the store of a soak, and how each of them ends.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use super::schedule::{Kill, Sign};
use crate::peers::Peer;

/// Nothing here takes so long unless it waits for ever.
const HANGS: Duration = Duration::from_secs(300);

/// Where the store is, and who works on it beside us.
pub struct Place {
    pub top: PathBuf,
    pub peer: Option<Peer>,
    outputs: AtomicUsize,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Ended {
    pid: i32,
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Whether the journal still has a transaction of it: how far that had come, in the journal's words.
    pub fn transaction(&self, place: &Place) -> Result<Option<String>, String> {
        let journal = place.run(place.ours(["journal", "--json"]), None)?;
        let list: Vec<Value> = serde_json::from_str(&journal.out).map_err(|error| format!("journal: {error}: {}", journal.line()))?;
        let own = list.iter().find(|segment| segment["pid"] == self.pid);
        Ok(own.and_then(|segment| segment["state"].as_str()).map(str::to_owned))
    }

    /// How it ended, in one line.
    pub fn line(&self) -> String {
        let how = self.status.code().map_or_else(|| format!("signal {:?}", self.status.signal()), |code| format!("exit {code}"));
        let said: Vec<&str> = self.err.lines().take(3).collect();
        format!("{how} {}", said.join(" | ")).trim_end().to_owned()
    }
}

impl Place {
    pub fn new(top: PathBuf, peer: Option<Peer>) -> Self {
        std::fs::create_dir(top.join("out")).unwrap();
        Self { top, peer, outputs: AtomicUsize::new(0) }
    }

    pub fn root(&self) -> PathBuf {
        self.top.join("root")
    }

    /// Our command on this store.
    pub fn ours<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.top.join("run")).args(args);
        command
    }

    /// podman on this store, where there is one.
    pub fn podman<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Option<Command> {
        let mut command = self.peer.as_ref()?.command("podman", &self.root(), &self.top.join("run"));
        command.args(args);
        Some(command)
    }

    /// Whether a transaction of this process has come so far.
    fn shows(&self, pid: Pid, sign: Sign) -> bool {
        let root = self.root();
        let list = std::fs::read_dir(root.join("cstor-rs/journal")).into_iter().flatten().flatten();
        let pid = pid.as_raw_nonzero().get().to_le_bytes();
        let own = list.filter_map(|entry| std::fs::read(entry.path()).ok()).find(|bytes| bytes.get(52..56) == Some(pid.as_slice()));
        match (own, sign) {
            (Some(_), Sign::Segment) => true,
            // Behind the header there may be nothing but space kept for what is to come.
            (Some(bytes), Sign::Intent) => bytes.iter().skip(HEADER).any(|byte| *byte != 0),
            (None, Sign::Segment) => false,
            (None, Sign::Intent) => root.join("overlay-images/.tmp-images.json.cstor-rs").exists(),
        }
    }

    /// Waits for a sign of this process; whether it has ended without one.
    fn ends_before(&self, handle: &OwnedFd, pid: Pid, sign: Sign) -> bool {
        loop {
            if wait(handle, LOOK) {
                return true;
            }
            if self.shows(pid, sign) {
                return false;
            }
        }
    }

    /// Runs it to its end, or until it is killed, with all that it started.
    pub fn run(&self, mut command: Command, kill: Option<Kill>) -> Result<Ended, String> {
        let number = self.outputs.fetch_add(1, Ordering::Relaxed);
        let [out, err] = ["out", "err"].map(|kind| self.top.join("out").join(format!("{number}.{kind}")));
        command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).process_group(0);
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let ended = match kill {
            None => wait(&handle, HANGS),
            Some(Kill::Started(time)) => wait(&handle, time),
            Some(Kill::Came(sign, time)) => self.ends_before(&handle, pid, sign) || wait(&handle, time),
        };
        if !ended {
            kill_process_group(pid, Signal::KILL).unwrap();
        }
        let status = child.wait().unwrap();
        let text = |path: &Path| {
            let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
            std::fs::remove_file(path).unwrap();
            text
        };
        let ended_so = Ended { pid: pid.as_raw_nonzero().get(), status, out: text(&out), err: text(&err) };
        if !ended && kill.is_none() {
            return Err(format!("{command:?} had not ended after {HANGS:?}: {}", ended_so.line()));
        }
        Ok(ended_so)
    }
}

/// How often it is looked for signs.
const LOOK: Duration = Duration::from_micros(100);

/// Bytes of a segment's header; at 52 the pid.
const HEADER: usize = 68;

/// Whether the process ended within this time.
fn wait(handle: &OwnedFd, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    loop {
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&time)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
