//! Whether every member of a layer's tar is on disk as its header says.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::error::shown;
use super::path::{Cleaned, Whiteout};
use super::suspects::Suspects;
use super::tree::{applies, opaque_key};
use super::verify::{Cursor, Seen, from_start, verdict, words};
use crate::fsio::{self, Dir, File, Kind, Meta};
use crate::tarsplit::{self, Entry, EntryKind};

/// Compares all that headers say but times and contents. `None`: sound.
pub(super) fn compare(diff: &Dir, split: &File) -> fsio::Result<Option<String>> {
    let mut headers = tarsplit::headers(from_start(split));
    for entry in &mut headers {
        if let Err(error) = entry {
            return Ok(Some(verdict(error)?.unwrap_or_else(|error| words(&error))));
        }
    }
    let repeated = headers.into_repeated();
    let mut check =
        Check { cursor: Cursor::new(diff), is_root: fsio::is_initial_root(), suspects: Suspects::default(), shared: HashMap::new() };
    for (index, entry) in (0..).zip(tarsplit::plain_headers(from_start(split))) {
        // Read through once already.
        let Ok(entry) = entry else { continue };
        check.member(index, &entry)?;
        if check.suspects.is_full()
            && let Some(why) = check.suspects.judge(split, &repeated)?
        {
            return Ok(Some(why));
        }
    }
    check.shared()?;
    check.suspects.judge(split, &repeated)
}

/// What the headers of an inode with several names come to, the later ones over the earlier.
struct Shared {
    index: u64,
    path: Cleaned,
    owner: (u32, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Check<'a> {
    cursor: Cursor<'a>,
    is_root: bool,
    suspects: Suspects,
    /// By inode; only those whose headers give attributes.
    shared: HashMap<u64, Shared>,
}

impl Check<'_> {
    fn member(&mut self, index: u64, entry: &Entry) -> fsio::Result<()> {
        let Some(path) = Cleaned::of(&entry.name).filter(|_| entry.kind != EntryKind::GlobalHeader) else { return Ok(()) };
        // The root's own mode may be that of its parent layer's, and mounting changes its owner.
        let Some((parent, name)) = path.clone().split() else { return Ok(()) };
        let message = |why: &str| format!("{} {why}", shown(&entry.name));
        match Whiteout::parse(&name) {
            Some(Whiteout::Opaque) => {
                let value = match self.cursor.dir(&parent)? {
                    Ok(dir) => dir.xattr_self(opaque_key(self.is_root))?,
                    // What is below something that is no directory any more was hidden with it.
                    Err(Seen::Blocked) => return Ok(()),
                    Err(_) => None,
                };
                if value.as_deref() != Some(b"y") {
                    self.suspects.add(index, &parent, false, message("is not on its directory: what lies below is not hidden"));
                }
            }
            Some(Whiteout::Of(hidden)) => {
                let hides = match self.cursor.look(&parent, hidden)? {
                    Seen::There(_, meta) => meta.kind == Kind::Char && meta.rdev == (0, 0),
                    Seen::Blocked => true,
                    Seen::Nothing | Seen::NoParent => false,
                };
                if !hides {
                    self.suspects.add(index, &parent.join(hidden), true, message("is not hidden"));
                }
            }
            None => {
                if let Some(why) = self.differs(index, entry, &parent, &name)? {
                    self.suspects.add(index, &path, false, message(&why));
                }
            }
        }
        Ok(())
    }

    fn differs(&mut self, index: u64, entry: &Entry, parent: &Cleaned, name: &OsStr) -> fsio::Result<Option<String>> {
        let Seen::There(dir, meta) = self.cursor.look(parent, name)? else {
            let device = matches!(entry.kind, EntryKind::Char | EntryKind::Block);
            return Ok((!device || self.is_root).then(|| "is missing".to_owned()));
        };
        let kind = match entry.kind {
            EntryKind::File => Kind::File,
            EntryKind::Dir => Kind::Dir,
            EntryKind::Symlink => Kind::Symlink,
            EntryKind::Char => Kind::Char,
            EntryKind::Block => Kind::Block,
            EntryKind::Fifo => Kind::Fifo,
            // Whatever it links to.
            EntryKind::HardLink | EntryKind::GlobalHeader => {
                self.share(index, entry, parent, name, &meta);
                return Ok(None);
            }
        };
        if meta.kind != kind {
            return Ok(Some(format!("is a {:?}, the layer has a {kind:?}", meta.kind)));
        }
        if kind == Kind::Symlink && dir.read_link(name)?.as_os_str().as_bytes() != entry.link {
            return Ok(Some("links to somewhere else".to_owned()));
        }
        if matches!(kind, Kind::Char | Kind::Block) && meta.rdev != entry.device {
            return Ok(Some("is another device".to_owned()));
        }
        if kind == Kind::File && meta.size != entry.size {
            return Ok(Some("has another size".to_owned()));
        }
        // A hard link's header sets the owner and mode of the shared inode.
        if kind != Kind::Dir && meta.links > 1 {
            self.share(index, entry, parent, name, &meta);
            return Ok(None);
        }
        if (meta.uid, meta.gid) != (entry.uid, entry.gid) {
            return Ok(Some(format!("is owned by {}:{} instead of {}:{}", meta.uid, meta.gid, entry.uid, entry.gid)));
        }
        if kind != Kind::Symlink && meta.mode != entry.mode {
            return Ok(Some(format!("has mode {:04o} instead of {:04o}", meta.mode, entry.mode)));
        }
        lacks(&dir, name, entry.xattrs.iter().filter(|(key, _)| self.must_be_there(key)))
    }

    /// Whether an attribute that a layer gives must be on disk: in a user namespace the kernel may have refused it.
    fn must_be_there(&self, key: &[u8]) -> bool {
        applies(key, self.is_root) && (self.is_root || key.starts_with(b"user."))
    }

    /// Takes note of what a header does to the attributes of an inode that has several names.
    fn share(&mut self, index: u64, entry: &Entry, parent: &Cleaned, name: &OsStr, meta: &Meta) {
        let owner = (entry.uid, entry.gid);
        let mut given: Vec<_> = entry.xattrs.iter().filter(|(key, _)| self.must_be_there(key)).cloned().collect();
        if let Some(known) = self.shared.get_mut(&meta.inode) {
            // The change of an owner drops it, as it does while the layer is unpacked.
            known.xattrs.retain(|(key, _)| key != b"security.capability" || known.owner == owner);
            known.xattrs.retain(|(key, _)| given.iter().all(|(over, _)| over != key));
            known.xattrs.append(&mut given);
            known.owner = owner;
        } else if !given.is_empty() {
            let path = parent.clone().join(name);
            self.shared.insert(meta.inode, Shared { index, path, owner, xattrs: given });
        }
    }

    fn shared(&mut self) -> fsio::Result<()> {
        let mut all: Vec<Shared> = std::mem::take(&mut self.shared).into_values().collect();
        all.sort_unstable_by_key(|shared| shared.index);
        for shared in all {
            let Some((parent, name)) = shared.path.clone().split() else { continue };
            let Ok(dir) = self.cursor.dir(&parent)? else { continue };
            if let Some(why) = lacks(&dir, &name, shared.xattrs.iter())? {
                let message = format!("{} {why}", shown(shared.path.path().as_os_str().as_bytes()));
                self.suspects.add(shared.index, &shared.path, false, message);
            }
        }
        Ok(())
    }
}

/// The first attribute that is not there with its value.
fn lacks<'a>(dir: &Dir, name: &OsStr, xattrs: impl Iterator<Item = &'a (Vec<u8>, Vec<u8>)>) -> fsio::Result<Option<String>> {
    for (key, value) in xattrs {
        match dir.kept_xattr(name, key) {
            Ok(Some(seen)) if seen == *value => {}
            // A namespace that the filesystem or the kernel does not keep.
            Err(error) if error.is(Errno::OPNOTSUPP) => {}
            Ok(_) => return Ok(Some(format!("lacks its attribute {}", shown(key)))),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
