//! `--sync files`: for kernels and filesystems where syncfs does not report errors.

use crate::fsio::{self, Dir};

/// fsync of every regular file and every directory of a tree, children first.
pub(super) fn sync_tree(dir: &Dir) -> fsio::Result<()> {
    dir.sync_tree()
}
