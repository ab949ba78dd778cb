//! Copies of what is in a layer and is not the layer's: in `cstor-rs/lost+found`, durable before it goes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Timespec, Timestamps};
use rustix::io::Errno;

use crate::fsio::{self, Dir, Kind, Purpose, Step, Walk};
use crate::ids::LayerId;
use crate::txn::{TxnError, WriteTxn};

/// Copies these names of a layer's contents.
pub(super) fn keep(txn: &WriteTxn, id: &LayerId, diff: &Dir, names: &[Vec<u8>]) -> Result<(), TxnError> {
    if names.is_empty() {
        return Ok(());
    }
    let lost = txn.lost_and_found()?;
    // A name of its own: nothing that was saved before is written over.
    let home = lost.mkdir(format!("{}-{}", id, txn.id()), 0o700)?;
    for name in names {
        let mut from = diff.clone();
        let mut to = home.clone();
        let mut parts = name.split(|b| *b == b'/').filter(|part| !part.is_empty()).map(OsStr::from_bytes).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                copy(&from, part, &to)?;
            } else {
                from = from.dir(part)?;
                to = to.ensure_dir(part, 0o700)?;
            }
        }
    }
    home.sync_tree()?;
    Ok(lost.sync()?)
}

fn copy(from: &Dir, name: &OsStr, to: &Dir) -> Result<(), TxnError> {
    let Some(meta) = from.meta(name)? else { return Ok(()) };
    if meta.kind != Kind::Dir {
        return leaf(from, name, meta.kind, to);
    }
    let mut stack = vec![to.mkdir(name, 0o700)?];
    let mut walk = Walk::new(from, name, Purpose::Keep)?;
    while let Some(step) = walk.next()? {
        match step {
            Step::Enter { name } => {
                if let Some(here) = stack.last() {
                    stack.push(here.mkdir(&name, 0o700)?);
                }
            }
            Step::Leaf { dir, name, kind } => {
                if let Some(here) = stack.last() {
                    leaf(&dir, &name, kind, here)?;
                }
            }
            Step::Leave { dir, place } => {
                if let Some(here) = stack.pop() {
                    if let Some((above, name)) = &place {
                        xattrs(above, name, |key, value| here.set_xattr_self(key, value))?;
                    }
                    let meta = dir.own_meta()?;
                    here.chown_self(meta.uid, meta.gid)?;
                    here.chmod_self(meta.mode)?;
                    here.set_times_self(&times(meta.mtime))?;
                }
            }
        }
    }
    Ok(())
}

fn leaf(from: &Dir, name: &OsStr, kind: Kind, to: &Dir) -> Result<(), TxnError> {
    let Some(meta) = from.meta(name)? else { return Ok(()) };
    match kind {
        Kind::File => {
            let source = from.file(name)?;
            let mut copy = to.create(name, 0o600)?;
            let mut buffer = vec![0; 128 << 10];
            let mut at = 0;
            loop {
                let got = source.read_at(at, &mut buffer)?;
                if got == 0 {
                    break;
                }
                copy.append(buffer.get(..got).unwrap_or_default())?;
                at += got as u64;
            }
        }
        Kind::Symlink => to.symlink(from.read_link(name)?, name)?,
        Kind::Char => to.mknod(name, FileType::CharacterDevice, meta.mode, meta.rdev)?,
        Kind::Block => to.mknod(name, FileType::BlockDevice, meta.mode, meta.rdev)?,
        Kind::Fifo => to.mknod(name, FileType::Fifo, meta.mode, (0, 0))?,
        // A socket is nothing without its process.
        Kind::Socket | Kind::Unknown | Kind::Dir => return Ok(()),
    }
    to.chown(name, meta.uid, meta.gid)?;
    if kind != Kind::Symlink {
        to.chmod(name, meta.mode)?;
    }
    xattrs(from, name, |key, value| to.set_xattr(name, key, value))?;
    Ok(to.set_times(name, &times(meta.mtime))?)
}

/// Copies the extended attributes of a name, after its owner: chown(2) takes capabilities away. The label is that of where the
/// copy lies, and what the filesystem there does not keep is not worth more than the bytes.
fn xattrs(from: &Dir, name: &OsStr, set: impl Fn(&[u8], &[u8]) -> fsio::Result<()>) -> Result<(), TxnError> {
    for key in from.xattr_names(name)?.into_iter().filter(|key| key != b"security.selinux") {
        let Some(value) = from.xattr(name, &key)? else { continue };
        match set(&key, &value) {
            Err(error) if error.is(Errno::OPNOTSUPP) || error.is(Errno::PERM) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an attribute of what is kept in lost+found is lost");
            }
            other => other?,
        }
    }
    Ok(())
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}
