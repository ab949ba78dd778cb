//! Bodies that a later member of the same tar replaced or removed: rare, kept until the tar-split has them.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io;

use super::ExtractError;
use super::error::member;
use super::path::Cleaned;
use crate::fsio::{self, Dir, File, Kind, Purpose, Step, Walk};
use crate::tarsplit::{Crc64, Entry, Recorded};

/// The most bodies kept, some 100 bytes of memory each. Go refuses the first one.
const MAX_BODIES: usize = 65_536;

/// The spilled bodies, by a hash of their path, in the order of their members.
pub(super) struct Spill {
    dir: Dir,
    count: usize,
    random: RandomState,
    bodies: HashMap<u64, VecDeque<usize>>,
    removed: bool,
}

impl Spill {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, count: 0, random: RandomState::new(), bodies: HashMap::new(), removed: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// Whether anything was removed, bodies or not: a link that goes leaves bodies behind that its name led to.
    pub(super) fn removed(&self) -> bool {
        self.removed
    }

    fn next(&mut self, path: &Cleaned) -> Result<String, ExtractError> {
        if self.count >= MAX_BODIES {
            return Err(ExtractError::TooManyReplaced { limit: MAX_BODIES });
        }
        self.bodies.entry(self.random.hash_one(path)).or_default().push_back(self.count);
        self.count += 1;
        Ok((self.count - 1).to_string())
    }

    /// A file for the body of a member that has no file on disk.
    pub(super) fn create(&mut self, entry: &Entry, path: &Cleaned) -> Result<File, ExtractError> {
        let name = self.next(path)?;
        self.dir.create_private(name, 0o600).map_err(member(entry))
    }

    /// Removes what stands under `name` in `parent`, on behalf of `entry`; every body in it comes here. Returns the number
    /// of names that went.
    pub(super) fn take(&mut self, entry: &Entry, parent: &Dir, path: &Cleaned, name: &OsStr) -> Result<u64, ExtractError> {
        let Some(meta) = parent.meta(name).map_err(member(entry))? else { return Ok(0) };
        self.removed = true;
        let mut here = path.clone().join(name);
        if meta.kind != Kind::Dir {
            return self.leaf(entry, parent, &here, name).map(|()| 1);
        }
        let mut gone = 0;
        let mut walk = Walk::new(parent, name, Purpose::Empty).map_err(member(entry))?;
        while let Some(step) = walk.next().map_err(member(entry))? {
            match step {
                Step::Enter { name } => here = here.join(&name),
                Step::Leaf { dir, name, .. } => {
                    here = here.join(&name);
                    self.leaf(entry, &dir, &here, &name)?;
                    gone += 1;
                    here.0.pop();
                }
                Step::Leave { place, .. } => {
                    here.0.pop();
                    place.map_or(Ok(()), |(parent, name)| parent.rmdir(name)).map_err(member(entry))?;
                    gone += 1;
                }
            }
        }
        Ok(gone)
    }

    fn leaf(&mut self, entry: &Entry, parent: &Dir, here: &Cleaned, name: &OsStr) -> Result<(), ExtractError> {
        let has_body = |meta: &fsio::Meta| meta.kind == Kind::File && meta.size > 0;
        // Below a path that no member can have by its own text lies what came through links: nobody would ask for it.
        if !here.is_nameable() || !parent.meta(name).map_err(member(entry))?.as_ref().is_some_and(has_body) {
            return parent.unlink(name).map_err(member(entry));
        }
        let to = self.next(here)?;
        parent.rename_new(name, &self.dir, to).map_err(member(entry))
    }

    /// The body of the next member with this name, if it was spilled.
    pub(super) fn earlier(&mut self, wanted: &Recorded<'_>) -> io::Result<Option<Body>> {
        let path = Cleaned::of(wanted.name).unwrap_or_default();
        let Some(queue) = self.bodies.get_mut(&self.random.hash_one(&path)) else { return Ok(None) };
        while let Some(number) = queue.pop_front() {
            let file = self.dir.file(number.to_string()).map_err(into_io)?;
            // What a hard link put under this name is the body of another member.
            if file.len().map_err(into_io)? == wanted.size && crc_of(&file).map_err(into_io)? == wanted.crc {
                return Ok(Some(Body(file)));
            }
        }
        Ok(None)
    }
}

fn crc_of(file: &File) -> fsio::Result<u64> {
    let (mut crc, mut at, mut buffer) = (Crc64::default(), 0, vec![0; 64 << 10]);
    loop {
        let got = file.read_at(at, &mut buffer)?;
        if got == 0 {
            return Ok(crc.value());
        }
        crc.update(buffer.get(..got).unwrap_or_default());
        at += got as u64;
    }
}

/// As an I/O error that still has the call and the path in it.
pub(super) fn into_io(error: fsio::Error) -> io::Error {
    io::Error::new(error.kind(), error)
}

/// A body being read.
pub(super) struct Body(pub File);

impl io::Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buf).map_err(|source| into_io(fsio::Error { call: "read", path: self.0.path(), source }))
    }
}
