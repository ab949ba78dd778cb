//! Walking a whole tree with a bounded number of descriptors, whatever its depth and width.
//!
//! There is no recursion, and no handle is kept for every level: those far above the current directory are given up
//! and come back through `..`, which must lead to the very inode that the walk came from. So a directory that is
//! moved away meanwhile ends the walk, and the walk never goes on somewhere else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as sys, RawDir};
use rustix::io::Errno;

use super::{Dir, Kind, Result};

/// Handles kept open on the way to the current directory.
const HANDLES: usize = 32;
/// Bytes of names that are read at once; of a directory that is larger only the current part is in memory.
const BATCH_BYTES: usize = 32 << 10;

/// What the caller does to the tree while it walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing is added or removed.
    Keep,
    /// Everything that the walk comes to is removed.
    Empty,
}

/// What the walk has come to.
#[derive(Debug)]
pub enum Step {
    /// Anything but a directory.
    Leaf {
        /// The directory it is in.
        dir: Dir,
        /// Its name there.
        name: OsString,
        /// Its kind.
        kind: Kind,
    },
    /// A directory, before anything in it; the top is not announced.
    Enter {
        /// Its name.
        name: OsString,
    },
    /// A directory, after everything in it.
    Leave {
        /// The directory.
        dir: Dir,
        /// Where it lies and what it is called there; `None` for the top of [`Walk::of`].
        place: Option<(Dir, OsString)>,
    },
}

struct Frame {
    name: OsString,
    /// Device and inode: what `..` of a child must lead to.
    id: ((u32, u32), u64),
    /// `None` for a level far above the current one.
    dir: Option<Dir>,
    /// Where to read on after the handle was given up.
    position: u64,
    todo: Vec<(OsString, Kind)>,
    ended: bool,
}

/// A walk in progress. Names come sorted within each part of a directory that is read at once.
pub struct Walk {
    parent: Option<Dir>,
    purpose: Purpose,
    frames: Vec<Frame>,
    buffer: Vec<u8>,
}

impl Walk {
    /// Walks the directory `name` in `parent`.
    ///
    /// # Errors
    ///
    /// Those of openat2(2).
    pub fn new(parent: &Dir, name: &OsStr, purpose: Purpose) -> Result<Self> {
        let mut walk = Self { parent: Some(parent.clone()), purpose, frames: Vec::new(), buffer: Vec::with_capacity(BATCH_BYTES) };
        walk.enter(parent, name)?;
        Ok(walk)
    }

    /// Walks `top` itself.
    ///
    /// # Errors
    ///
    /// Those of openat(2).
    pub fn of(top: &Dir, purpose: Purpose) -> Result<Self> {
        let mut walk = Self { parent: None, purpose, frames: Vec::new(), buffer: Vec::with_capacity(BATCH_BYTES) };
        walk.push(top.again()?, OsStr::new(""))?;
        Ok(walk)
    }

    /// The next step, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Those of openat2(2) and getdents64(2); a mount point inside ends it with EXDEV.
    #[allow(clippy::should_implement_trait)] // fallible: `while let Some(..) = ..next()?` reads better
    pub fn next(&mut self) -> Result<Option<Step>> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            let Some(dir) = frame.dir.clone() else { return Ok(None) };
            match frame.todo.pop() {
                Some((name, Kind::Dir)) => match self.enter(&dir, &name) {
                    // Somebody else removes it too.
                    Err(error) if self.purpose == Purpose::Empty && error.not_found() => {}
                    entered => {
                        entered?;
                        return Ok(Some(Step::Enter { name }));
                    }
                },
                Some((name, kind)) => return Ok(Some(Step::Leaf { dir, name, kind })),
                None if !frame.ended => match batch(&dir, &mut self.buffer) {
                    Err(error) if self.purpose == Purpose::Empty && error.not_found() => frame.ended = true,
                    read => (frame.todo, frame.ended) = read?,
                },
                None => return self.leave(dir).map(Some),
            }
        }
    }

    fn enter(&mut self, parent: &Dir, name: &OsStr) -> Result<()> {
        let dir = match parent.dir_same_mount(name) {
            // A mode without r or x stops everybody but root: rootless users own the tree, so open it up.
            Err(error) if self.purpose == Purpose::Empty && error.is(Errno::ACCESS) => {
                parent.chmod(name, 0o700)?;
                parent.dir_same_mount(name)?
            }
            other => other?,
        };
        self.push(dir, name)
    }

    fn push(&mut self, dir: Dir, name: &OsStr) -> Result<()> {
        let meta = dir.own_meta()?;
        if self.purpose == Purpose::Empty && meta.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
            dir.chmod_self(0o700)?;
        }
        let id = (meta.device, meta.inode);
        self.frames.push(Frame { name: name.to_owned(), id, dir: Some(dir), position: 0, todo: Vec::new(), ended: false });
        let far = self.frames.len().checked_sub(HANDLES + 1).and_then(|at| self.frames.get_mut(at));
        if let Some(frame) = far
            && let Some(dir) = frame.dir.take()
            && self.purpose == Purpose::Keep
        {
            frame.position = sys::tell(&dir).map_err(|e| dir.error("lseek", e))?;
        }
        Ok(())
    }

    fn leave(&mut self, dir: Dir) -> Result<Step> {
        let name = self.frames.pop().map(|frame| frame.name).unwrap_or_default();
        let Some(above) = self.frames.last_mut() else {
            return Ok(Step::Leave { dir, place: self.parent.clone().map(|parent| (parent, name)) });
        };
        let parent = match above.dir.clone() {
            Some(parent) => parent,
            None => {
                let parent = dir.up()?;
                let meta = parent.own_meta()?;
                if (meta.device, meta.inode) != above.id {
                    return Err(dir.error("openat2", io::Error::other("the directory was moved while its tree was walked")));
                }
                // What is emptied is read again from its start: positions are not kept by every filesystem when names go.
                if self.purpose == Purpose::Keep {
                    sys::seek(&parent, sys::SeekFrom::Start(above.position)).map_err(|e| parent.error("lseek", e))?;
                } else {
                    above.ended = false;
                }
                above.dir = Some(parent.clone());
                parent
            }
        };
        Ok(Step::Leave { dir, place: Some((parent, name)) })
    }
}

/// The next part of a directory, sorted, and whether it is the last one.
fn batch(dir: &Dir, buffer: &mut Vec<u8>) -> Result<(Vec<(OsString, Kind)>, bool)> {
    let mut list = Vec::new();
    let mut raw = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut ended = false;
    loop {
        match raw.next() {
            None => ended = true,
            Some(Err(error)) => return Err(dir.error("readdir", error)),
            Some(Ok(entry)) => {
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    list.push((OsStr::from_bytes(name).to_owned(), Kind::from(entry.file_type())));
                }
            }
        }
        if ended || raw.is_buffer_empty() {
            break;
        }
    }
    // Some filesystems do not say what an entry is. What is gone by now stays in the list: the caller meets ENOENT.
    for (name, kind) in list.iter_mut().filter(|(_, kind)| *kind == Kind::Unknown) {
        *kind = dir.meta(&*name)?.map_or(Kind::Unknown, |meta| meta.kind);
    }
    list.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok((list, ended))
}
