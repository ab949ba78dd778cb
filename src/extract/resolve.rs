//! From a member's path to the directory it lies in, confined to the layer's root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::path::Cleaned;
use crate::fsio::{self, Dir};

/// Opens a directory below `root`, links followed with the layer's root as `/`.
pub(super) fn open_in(root: &Dir, path: &Cleaned) -> fsio::Result<Dir> {
    if path.0.is_empty() { Ok(root.clone()) } else { root.dir_in_root(&path.path()) }
}

/// Opens a directory below `root` and makes what is missing of it: mode 0755, owned by root, as Go makes it. `names`
/// counts what was made.
pub(super) fn make_in(root: &Dir, path: &Cleaned, names: &mut u64) -> fsio::Result<Dir> {
    let mut dir = root.clone();
    for (depth, part) in path.0.iter().enumerate() {
        let name = OsStr::from_bytes(part);
        dir = match dir.dir(name) {
            Err(error) if error.not_found() => {
                let made = make(&dir, name)?;
                *names += 1;
                made
            }
            // A link: where it leads is said by the layer's root only. One that leads nowhere is an error, as in Go.
            Err(error) if error.is(Errno::LOOP) || error.is(Errno::NOTDIR) => open_in(root, &path.prefix(depth + 1))?,
            other => other?,
        };
    }
    Ok(dir)
}

/// mkdir(2) hands the setgid bit and the group of a setgid directory down. Go changes the owner and leaves the bit.
pub(super) fn make(parent: &Dir, name: &OsStr) -> fsio::Result<Dir> {
    const SETGID: u32 = 0o2000;
    let inherited = parent.own_meta()?.mode & SETGID;
    let dir = parent.mkdir(name, 0o755 | inherited)?;
    if inherited != 0 {
        dir.chown_self(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())?;
    }
    Ok(dir)
}

/// Links that are followed on one path: the kernel's own limit.
const LINKS: usize = 40;

/// Where a path leads below `root` once every link on it is followed; what is not there is kept as it is.
pub(super) fn canonical(root: &Dir, path: &Cleaned) -> fsio::Result<Cleaned> {
    let mut todo: Vec<Vec<u8>> = path.0.iter().rev().cloned().collect();
    let (mut done, mut links) = (Cleaned::default(), 0);
    // The directory at `done`, so that a component costs two calls whatever the depth; `None` where there is none.
    let mut here = Some(root.clone());
    while let Some(part) = todo.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.0.pop();
                here = there(open_in(root, &done))?;
                continue;
            }
            _ => {}
        }
        let name = OsStr::from_bytes(&part);
        let text = match here.as_ref().map(|dir| there(dir.read_link(name))).transpose()?.flatten() {
            Some(text) if links < LINKS && done.is_nameable() => text,
            _ => {
                here = here.map(|dir| there(dir.dir(name))).transpose()?.flatten();
                done.0.push(part);
                continue;
            }
        };
        links += 1;
        if text.is_absolute() {
            (done, here) = (Cleaned::default(), Some(root.clone()));
        }
        todo.extend(text.as_os_str().as_bytes().rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
    }
    Ok(done)
}

/// `None` for what is not there, or is no link or no directory.
fn there<T>(result: fsio::Result<T>) -> fsio::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.not_found() => Ok(None),
        Err(error) if [Errno::INVAL, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG].into_iter().any(|errno| error.is(errno)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsio::Seam;

    #[test]
    fn links_lead_where_the_kernel_goes_with_the_root_as_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        for (name, text) in [
            ("l", "a"),
            ("abs", "/a/b"),
            ("a/up", "../.."),
            ("a/b/x", "../up/a"),
            ("loop", "loop"),
            ("gone", "no/where"),
            ("out", "../../etc"),
        ] {
            std::os::unix::fs::symlink(text, at(name)).unwrap();
        }
        let root = Dir::open(temp.path(), Seam::default()).unwrap();
        for (name, want) in [
            ("l/f", "a/f"),
            ("l/b/new/x", "a/b/new/x"),
            ("abs/x/b", "a/b"),
            ("a/up/l", "a"),
            ("loop/f", "loop/f"),
            ("gone/f", "no/where/f"),
            ("out", "etc"),
            ("a/b", "a/b"),
        ] {
            let seen = canonical(&root, &Cleaned::of(name.as_bytes()).unwrap()).unwrap();
            assert_eq!(seen.path(), std::path::PathBuf::from(want), "{name}");
        }
    }
}
