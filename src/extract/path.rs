//! Pure: no I/O. Names of tar members as paths below the layer's root.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The longest path that a system call takes, the `/` before it counted: PATH_MAX without its NUL.
const PATH_BYTES: usize = 4095;

/// A cleaned path: components without `.`, `..` and empty ones. `..` at the root stays at the root, as in a chroot.
///
/// It is never longer than a system call takes: Go opens members by their whole path and refuses the rest, and here it
/// is the bound of all work that is done for one member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub(super) struct Cleaned(pub Vec<Vec<u8>>);

impl Cleaned {
    /// Cleans a name lexically, as Go's filepath.Clean does below a root; `None` if what is left is too long.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in name.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                _ => parts.push(part),
            }
        }
        let bytes: usize = parts.iter().map(|part| part.len() + 1).sum();
        (bytes <= PATH_BYTES).then(|| Self(parts.into_iter().map(<[u8]>::to_vec).collect()))
    }

    /// The parent's path and the last component; `None` for the root.
    pub(super) fn split(mut self) -> Option<(Self, OsString)> {
        let last = self.0.pop()?;
        Some((self, OsString::from_vec(last)))
    }

    /// The path, relative to the root; empty for the root.
    pub(super) fn path(&self) -> PathBuf {
        self.0.iter().map(|part| OsStr::from_bytes(part)).collect()
    }

    /// The path of its first `len` components.
    pub(super) fn prefix(&self, len: usize) -> Self {
        Self(self.0.iter().take(len).cloned().collect())
    }

    /// Whether a member can have this path; what lies behind links can be deeper.
    pub(super) fn is_nameable(&self) -> bool {
        let bytes: usize = self.0.iter().map(|part| part.len() + 1).sum();
        bytes <= PATH_BYTES
    }

    /// This path and a name in it.
    pub(super) fn join(mut self, name: &OsStr) -> Self {
        self.0.push(name.as_bytes().to_vec());
        self
    }
}

/// What a name means to overlay.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// `.wh..wh..opq`: the directory hides what lies below it.
    Opaque,
    /// `.wh.<name>`: the name is removed.
    Of(&'a OsStr),
}

impl<'a> Whiteout<'a> {
    pub(super) fn parse(name: &'a OsStr) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes == b".wh..wh..opq" {
            return Some(Self::Opaque);
        }
        bytes.strip_prefix(b".wh.").map(|rest| Self::Of(OsStr::from_bytes(rest)))
    }
}

/// Whether a name that cleans to the root means the root itself.
///
/// Go skips what filepath.Clean makes `.` of, such as `./` and `a/..`; `/` and what climbs above the root, such as `..`,
/// is applied to the root.
pub(super) fn is_applied_root(name: &[u8]) -> bool {
    let mut depth = 0usize;
    for part in name.split(|b| *b == b'/') {
        depth = match part {
            b"" | b"." => depth,
            b".." => match depth.checked_sub(1) {
                Some(less) => less,
                None => return true,
            },
            _ => depth + 1,
        };
    }
    name.first() == Some(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for (name, want) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/x", "etc/x"),
            ("../../etc", "etc"),
            ("a/../../b", "b"),
            ("./", ""),
            ("/", ""),
            ("a/..", ""),
        ] {
            assert_eq!(Cleaned::of(name.as_bytes()).map(|cleaned| cleaned.path()), Some(PathBuf::from(want)), "{name}");
        }
    }

    #[test]
    fn paths_longer_than_a_call_takes_are_none() {
        assert!(Cleaned::of("d/".repeat(2047).as_bytes()).is_some());
        assert_eq!(Cleaned::of("d/".repeat(2048).as_bytes()), None);
        assert_eq!(Cleaned::of(&[b'n'; 4095]), None);
        assert_eq!(Cleaned::of("d/../".repeat(5000).as_bytes()), Some(Cleaned::default()));
    }

    #[test]
    fn the_root_is_meant_by_what_climbs_and_by_its_own_name() {
        for name in ["/", "//", "/.", "..", "../", "../..", "a/../..", "../a/..", "/.."] {
            assert!(is_applied_root(name.as_bytes()), "{name}");
        }
        for name in ["", ".", "./", "a/..", "./a/../."] {
            assert!(!is_applied_root(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn whiteouts_are_told_by_their_name() {
        assert_eq!(Whiteout::parse(OsStr::new(".wh..wh..opq")), Some(Whiteout::Opaque));
        assert_eq!(Whiteout::parse(OsStr::new(".wh..wh.opq")), Some(Whiteout::Of(OsStr::new(".wh.opq"))));
        assert_eq!(Whiteout::parse(OsStr::new(".wh.x")), Some(Whiteout::Of(OsStr::new("x"))));
        assert_eq!(Whiteout::parse(OsStr::new(".wh..wh.plnk")), Some(Whiteout::Of(OsStr::new(".wh.plnk"))));
        assert_eq!(Whiteout::parse(OsStr::new(".whx")), None);
    }
}
