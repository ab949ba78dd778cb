//! Bodies that a later member of the same tar replaced or removed: rare, kept until the tar-split has them.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::path::Cleaned;
use crate::fsio::{self, Dir, File, Kind};

/// The spilled bodies, by path, in the order of their members.
pub(super) struct Spill {
    dir: Dir,
    count: u64,
    bodies: HashMap<Cleaned, VecDeque<String>>,
}

impl Spill {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, count: 0, bodies: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    fn next(&mut self, path: Cleaned) -> String {
        let name = self.count.to_string();
        self.count += 1;
        self.bodies.entry(path).or_default().push_back(name.clone());
        name
    }

    /// A file for the body of a member that has no file on disk.
    pub(super) fn create(&mut self, path: Cleaned) -> fsio::Result<File> {
        let name = self.next(path);
        self.dir.create_private(name, 0o600)
    }

    /// Removes what stands under `name` in `parent`; every body in it comes here.
    pub(super) fn take(&mut self, parent: &Dir, path: &Cleaned, name: &OsStr) -> fsio::Result<()> {
        let Some(meta) = parent.meta(name)? else { return Ok(()) };
        let mut here = path.clone();
        here.0.push(name.as_bytes().to_vec());
        match meta.kind {
            Kind::File if meta.size > 0 => {
                let to = self.next(here);
                parent.rename_new(name, &self.dir, to)
            }
            Kind::Dir => {
                // Depth first; the depth is that of the tar's own paths.
                let dir = parent.dir(name)?;
                for child in dir.names()? {
                    self.take(&dir, &here, &child)?;
                }
                parent.rmdir(name)
            }
            _ => parent.unlink(name),
        }
    }

    /// The body of the next member with this name, if it was spilled.
    pub(super) fn earlier(&mut self, name: &[u8]) -> io::Result<Option<Body>> {
        let path = Cleaned::of(name);
        let Some(queue) = self.bodies.get_mut(&path) else { return Ok(None) };
        match queue.pop_front() {
            Some(file) => Ok(Some(Body(self.dir.file(file).map_err(io::Error::other)?))),
            None => Ok(None),
        }
    }
}

/// A body being read.
pub(super) struct Body(pub File);

impl io::Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buf)
    }
}
