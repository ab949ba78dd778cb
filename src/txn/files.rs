//! `--sync files`: for kernels and filesystems where syncfs does not report errors.

use crate::fsio::{self, Dir, Kind};

/// fdatasync of every regular file and fsync of every directory of a tree, children first.
pub(super) fn sync_tree(dir: &Dir) -> fsio::Result<()> {
    for (name, kind) in dir.entries()? {
        match kind {
            Kind::Dir => sync_tree(&dir.dir(&name)?)?,
            // fsync and not fdatasync: owner, mode and times of the files are part of a layer.
            Kind::File => dir.file(&name)?.sync_all()?,
            _ => {}
        }
    }
    dir.sync()
}
