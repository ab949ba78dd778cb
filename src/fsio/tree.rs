//! Removing whole trees, without ever leaving them.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::{Dir, Kind, Result};

impl Dir {
    /// Removes a name with everything below it. Missing is done.
    ///
    /// A mount point inside stops it with EXDEV or EBUSY and what is mounted there is not touched: renaming a
    /// layer succeeds while its `merged` is mounted, and a careless recursive delete would empty a container.
    ///
    /// # Errors
    ///
    /// Those of openat2(2), unlinkat(2) and getdents64(2).
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        match self.meta(name)? {
            None => return Ok(()),
            Some(meta) if meta.kind != Kind::Dir => return self.unlink(name),
            Some(_) => {}
        }
        // An explicit stack: the depth of a hostile tree must not be ours. Only the handles on the path to the
        // current directory are open, and of a path deeper than that only names are kept.
        let mut stack = vec![Frame::open(self, name)?];
        while let Some(frame) = stack.last_mut() {
            match frame.todo.pop() {
                Some((child, Kind::Dir)) => {
                    let next = Frame::open(&frame.dir, &child)?;
                    stack.push(next);
                }
                Some((child, _)) => match frame.dir.unlink(&child) {
                    Err(error) if !error.not_found() => return Err(error),
                    _ => {}
                },
                None => {
                    let Some(done) = stack.pop() else { break };
                    let parent = stack.last().map_or(self, |f| &f.dir);
                    match parent.rmdir(&done.name) {
                        Err(error) if !error.not_found() => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

struct Frame {
    dir: Dir,
    name: std::ffi::OsString,
    todo: Vec<(std::ffi::OsString, Kind)>,
}

impl Frame {
    fn open(parent: &Dir, name: &OsStr) -> Result<Self> {
        let dir = match parent.dir_same_mount(name) {
            // A mode without r or x stops everybody but root: rootless users own the tree, so open it up.
            Err(error) if error.is(Errno::ACCESS) => {
                parent.chmod(name, 0o700)?;
                parent.dir_same_mount(name)?
            }
            other => other?,
        };
        let meta = dir.own_meta()?;
        if meta.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
            dir.chmod_self(0o700)?;
        }
        let todo = dir.entries()?;
        Ok(Self { dir, name: name.to_owned(), todo })
    }
}
