//! A tracer: sees every system call of a command, of all its threads and of what it starts, and kills it before the k-th that
//! changes something.
//!
//! Calls are counted over the whole process; strace counts those of each thread by itself. Who is killed at the entry to a call does
//! not do it, so that a kill before each call and one before the end (`exit_group` is counted) is every state a kill can leave.

mod calls;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use calls::Call;

/// What became of a command.
#[derive(Debug)]
pub struct Traced {
    /// The calls that change something and were let go, in their order.
    pub calls: Vec<String>,
    /// How many threads made them.
    pub threads: usize,
    /// The call it was killed before.
    pub killed_before: Option<String>,
    /// How it ended by itself.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Why nothing can be traced here, if so.
pub fn impossible() -> Option<String> {
    match trace(&["true".to_owned()], None) {
        Ok(seen) if seen.code == Some(0) && seen.calls.last().map(String::as_str) == Some("exit_group") => None,
        Ok(seen) => Some(format!("a traced program ends otherwise: {seen:?}")),
        Err(error) => Some(format!("ptrace: {error}")),
    }
}

/// Waits for a line, so that it is traced before it becomes the command.
const GATE: &str = "read go && exec \"$@\" </dev/null";

/// Runs the command and kills it before its change number `at`, if it comes so far.
// Waited for by `waitpid`, for whatever thread.
#[expect(clippy::zombie_processes)]
pub fn trace(argv: &[String], at: Option<usize>) -> nix::Result<Traced> {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut gate = Command::new("sh");
    gate.args(["-c", GATE, "sh"]).args(argv).stdin(Stdio::piped());
    gate.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = gate.spawn().unwrap();
    let leader = Pid::from_raw(child.id().try_into().unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    let mut stdin = child.stdin.take().unwrap();
    if let Err(error) = ptrace::seize(leader, options) {
        // At the end of its input it does nothing.
        drop(stdin);
        child.wait().unwrap();
        return Err(error);
    }
    stdin.write_all(b"go\n").unwrap();
    drop(stdin);
    let mut tracer = Tracer { leader, at, calls: Vec::new(), threads: BTreeSet::new(), killed_before: None, code: None };
    tracer.follow()?;
    let Tracer { calls, threads, killed_before, code, .. } = tracer;
    Ok(Traced { calls, threads: threads.len(), killed_before, code, stdout: whole(out), stderr: whole(err) })
}

fn whole(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

struct Tracer {
    leader: Pid,
    at: Option<usize>,
    calls: Vec<String>,
    threads: BTreeSet<i32>,
    killed_before: Option<String>,
    code: Option<i32>,
}

impl Tracer {
    /// Until nothing of it lives.
    fn follow(&mut self) -> nix::Result<()> {
        // Other trials trace in other threads of this process: each waits for its own alone.
        let own = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(own)) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => self.code = Some(code),
                Ok(WaitStatus::PtraceSyscall(tid)) => self.stopped(tid)?,
                // Any signal but SIGTRAP of an event is the program's own.
                Ok(WaitStatus::Stopped(tid, signal)) => self.go_on(tid, Some(signal))?,
                Ok(WaitStatus::PtraceEvent(tid, ..)) => self.go_on(tid, None)?,
                Ok(_) => {}
            }
        }
    }

    fn stopped(&mut self, tid: Pid) -> nix::Result<()> {
        match ptrace::syscall_info(tid) {
            Ok(info) if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY => {}
            Ok(_) | Err(Errno::ESRCH) => return self.go_on(tid, None),
            Err(error) => return Err(error),
        }
        let process = Path::new("/proc").join(tid.to_string());
        // Killed with another thread: there is nothing to read any more.
        let Ok(text) = std::fs::read_to_string(process.join("syscall")) else { return self.go_on(tid, None) };
        let word = |at: u64| ptrace::read(tid, at as ptrace::AddressType).map_or(u64::MAX, |word| word as u64);
        if self.killed_before.is_none()
            && let Some(call) = Call::parse(&text)
            && call.changes(&process, word)
        {
            if self.at == Some(self.calls.len()) {
                self.killed_before = Some(call.name());
                gone(kill(self.leader, Signal::SIGKILL))?;
            } else {
                self.calls.push(call.name());
                self.threads.insert(tid.as_raw());
            }
        }
        self.go_on(tid, None)
    }

    fn go_on(&self, tid: Pid, signal: Option<Signal>) -> nix::Result<()> {
        // What it had started goes too.
        gone(if self.killed_before.is_some() { kill(tid, Signal::SIGKILL) } else { ptrace::syscall(tid, signal) })
    }
}

/// It may be gone by the time.
fn gone(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}
