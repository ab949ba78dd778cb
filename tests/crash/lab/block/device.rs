//! A disk of which everything is known: a file of a FUSE file system in this process, and a loop device lies on it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::medium::{Event, Mark, Medium, Stamped};

/// What a disk answers from some change on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot.
    Io,
    /// No room, as thin volumes say it.
    NoSpace,
    /// Half of a write, and then it cannot. (A short count is no error to the loop device of Linux 6.18: it says that all was
    /// written. A disk that lies so is not one that anybody can build on.)
    Short,
}

/// How often a fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub fault: Fault,
    /// The number of changes and flushes before it.
    pub after: usize,
    /// Whether it stays so.
    pub stays: bool,
}

pub struct Device {
    size: u64,
    state: Mutex<State>,
}

struct State {
    medium: Medium,
    log: Option<(Instant, Vec<Stamped>)>,
    plan: Option<Plan>,
    /// Changes and flushes since the plan was made.
    seen: usize,
    struck: usize,
}

impl Device {
    pub fn new(size: u64, medium: Medium) -> Arc<Self> {
        Arc::new(Self { size, state: Mutex::new(State { medium, log: None, plan: None, seen: 0, struck: 0 }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a log, and says what is there now.
    pub fn begin(&self) -> Medium {
        let mut state = self.state();
        state.log = Some((Instant::now(), Vec::new()));
        state.medium.clone()
    }

    /// Ends the log.
    pub fn end(&self) -> Vec<Stamped> {
        self.state().log.take().map(|(_, log)| log).unwrap_or_default()
    }

    pub fn mark(&self, mark: Mark) {
        self.state().note(Event::Mark(mark));
    }

    pub fn break_with(&self, plan: Option<Plan>) {
        let mut state = self.state();
        (state.plan, state.seen, state.struck) = (plan, 0, 0);
    }

    /// How many changes and flushes came since, and how many of them failed.
    pub fn seen(&self) -> (usize, usize) {
        let state = self.state();
        (state.seen, state.struck)
    }
}

impl State {
    fn note(&mut self, event: Event) {
        if let Some((begun, log)) = &mut self.log {
            log.push(Stamped { at: begun.elapsed(), event });
        }
    }

    fn change(&mut self, event: Event) {
        self.medium.apply(&event);
        self.note(event);
    }

    /// The fault that this change or flush meets.
    fn fault(&mut self) -> Option<Fault> {
        let plan = self.plan?;
        let at = self.seen;
        self.seen += 1;
        let strikes = at == plan.after || plan.stays && at > plan.after;
        self.struck += usize::from(strikes);
        strikes.then_some(plan.fault)
    }
}

/// The disks that are there, by the number that is their file's name.
#[derive(Default)]
struct Disks(Mutex<HashMap<u64, Arc<Device>>>);

impl Disks {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Device>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, ino: INodeNo) -> Option<Arc<Device>> {
        self.all().get(&u64::from(ino)).cloned()
    }
}

/// What the file system is called in the table of mounts.
pub const NAME: &str = "cstor-rs-lab";

/// The FUSE file system that shows them.
pub struct Bench {
    disks: Arc<Disks>,
    next: AtomicU64,
    session: Option<fuser::BackgroundSession>,
    dir: tempfile::TempDir,
}

impl Bench {
    /// Mounts it; an error where this machine or this user cannot.
    pub fn mount() -> io::Result<Self> {
        let (disks, dir) = (Arc::new(Disks::default()), tempfile::tempdir()?);
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName(NAME.to_owned()), MountOption::DefaultPermissions];
        let session = fuser::spawn_mount(Shown(Arc::clone(&disks)), dir.path(), &config)?;
        Ok(Self { disks, next: AtomicU64::new(2), session: Some(session), dir })
    }

    /// The file of a disk.
    pub fn plug(&self, device: &Arc<Device>) -> Plugged<'_> {
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        self.disks.all().insert(ino, Arc::clone(device));
        Plugged { bench: self, ino }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("{}: {error}", self.dir.path().display());
        }
    }
}

/// A disk while it can be reached.
pub struct Plugged<'a> {
    bench: &'a Bench,
    ino: u64,
}

impl Plugged<'_> {
    pub fn path(&self) -> PathBuf {
        self.bench.dir.path().join(self.ino.to_string())
    }
}

impl Drop for Plugged<'_> {
    fn drop(&mut self) {
        self.bench.disks.all().remove(&self.ino);
    }
}

struct Shown(Arc<Disks>);

const FOR_EVER: Duration = Duration::from_secs(1 << 20);

fn attributes(ino: u64, kind: FileType, size: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o600,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Shown {
    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        if ino == INodeNo::ROOT {
            return Some(FileAttr { perm: 0o700, ..attributes(1, FileType::Directory, 0) });
        }
        self.0.get(ino).map(|device| attributes(u64::from(ino), FileType::RegularFile, device.size))
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse().ok()).and_then(|ino| self.attributes(INodeNo(ino))) {
            Some(attributes) => reply.entry(&FOR_EVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&FOR_EVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Sizes stay, whatever a program that makes a file system asks.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&FOR_EVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing of it is kept by the kernel: what is written comes here at once, and in its order.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let Some(device) = self.0.get(ino) else { return reply.error(Errno::EIO) };
        let len = u64::from(size).min(device.size.saturating_sub(offset));
        let bytes = device.state().medium.read(offset, usize::try_from(len).unwrap_or_default());
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(device) = self.0.get(ino) else { return reply.error(Errno::EIO) };
        let mut state = device.state();
        match state.fault() {
            Some(Fault::Io) => reply.error(Errno::EIO),
            Some(Fault::NoSpace) => reply.error(Errno::ENOSPC),
            Some(Fault::Short) => {
                state.change(Event::Write(offset, data[..data.len() / 2].into()));
                reply.error(Errno::EIO);
            }
            None => {
                state.change(Event::Write(offset, data.into()));
                reply.written(u32::try_from(data.len()).unwrap_or_default());
            }
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let Some(device) = self.0.get(ino) else { return reply.error(Errno::EIO) };
        let mut state = device.state();
        match state.fault() {
            Some(Fault::NoSpace) => reply.error(Errno::ENOSPC),
            Some(_) => reply.error(Errno::EIO),
            None => {
                state.note(Event::Flush);
                reply.ok();
            }
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        const PUNCH_HOLE: i32 = 0x02;
        const ZERO_RANGE: i32 = 0x10;
        let Some(device) = self.0.get(ino) else { return reply.error(Errno::EIO) };
        if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
            device.state().change(Event::Zero(offset, length.min(device.size.saturating_sub(offset))));
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
