//! What a leftover takes on the disk.

use std::os::unix::ffi::OsStrExt;

use crate::fsio::{Dir, Purpose, Step, Walk};

/// The names that are looked at before the size is given as it stands: of a hostile tree, too, soon.
const NAMES_MAX: u64 = 1 << 20;

/// The lengths of the files in a tree, in bytes; what cannot be read counts nothing.
pub(super) fn of_tree(dir: &Dir) -> u64 {
    let mut bytes = 0u64;
    let mut names = 0u64;
    let Ok(mut walk) = Walk::of(dir, Purpose::Keep) else { return 0 };
    while let Ok(Some(step)) = walk.next() {
        if let Step::Leaf { dir, name, .. } = &step
            && !name.as_bytes().is_empty()
            && let Ok(Some(meta)) = dir.meta(name)
        {
            bytes = bytes.saturating_add(meta.size);
        }
        names += 1;
        if names > NAMES_MAX {
            break;
        }
    }
    bytes
}
