//! The lock files of the store.

use super::Quick;
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::fsio::{self, Kind};

/// The length of a LastWrite token in bytes. No bytes at all are "nothing was written yet".
const TOKEN: u64 = 64;

impl Quick<'_> {
    pub(super) fn locks(&mut self) -> fsio::Result<()> {
        let dirs = [
            (self.layout.layers.clone(), "overlay-layers", "layers.lock", "layers.json"),
            (self.layout.images.clone(), "overlay-images", "images.lock", "images.json"),
        ];
        for (dir, part, lock, table) in dirs {
            let path = format!("{part}/{lock}");
            let found = |code| {
                Finding::new(code, Repair::Offline, Fix::Locks, "write the lock's token").at(path.clone()).expected("a file of 64 bytes")
            };
            match dir.meta(lock)? {
                None if dir.meta(table)?.is_some() => self.push(found(Code::LockMissing)),
                None => {}
                Some(meta) if meta.kind != Kind::File => self.push(
                    Finding::report(Code::LockBad, "remove it by hand: nothing can be locked")
                        .at(path.clone())
                        .seen(format!("{:?}", meta.kind)),
                ),
                Some(meta) if meta.size > 0 && meta.size < TOKEN => {
                    self.push(found(Code::LockBad).seen(format!("{} bytes", meta.size)));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
