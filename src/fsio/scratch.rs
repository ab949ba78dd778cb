//! Files without a name, for what is too large for memory and of no use to anybody else.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::hook::{At, Op};
use super::{Dir, Error, File, Result, Seam};

/// Where large temporary files go, as containers/image decides it: /tmp is often memory.
fn place() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// A new file without a name in `$TMPDIR`, else in /var/tmp, open for reading and writing, and that directory.
///
/// It goes with its last descriptor, however the process ends.
///
/// # Errors
///
/// That of open(2).
pub fn scratch(seam: Seam) -> Result<(File, Dir)> {
    let path = place();
    // Its user may have it elsewhere.
    let path = std::fs::canonicalize(&path).map_err(|source| Error { call: "realpath", path, source })?;
    let dir = Dir::open(&path, seam.clone())?;
    let at = At { dir: &path, name: Path::new("(unnamed)") };
    let op = Op::Create(at, 0o600);
    seam.hook.before(&op).map_err(|e| Error::new("create", at, e))?;
    let fd: OwnedFd = tempfile::tempfile_in(&path).map_err(|e| Error::new("create", at, e))?.into();
    seam.hook.done(&op);
    Ok((dir.file_of(fd, at), dir))
}
