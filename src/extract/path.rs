//! Pure: no I/O. Names of tar members as paths below the layer's root.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A cleaned path: components without `.`, `..` and empty ones. `..` at the root stays at the root, as in a chroot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub(super) struct Cleaned(pub Vec<Vec<u8>>);

impl Cleaned {
    /// Cleans a name lexically, as Go's filepath.Clean does below a root.
    pub(super) fn of(name: &[u8]) -> Self {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for part in name.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                _ => parts.push(part.to_vec()),
            }
        }
        Self(parts)
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

    /// Its length as a path, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|part| part.len() + 1).sum()
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

/// Whether the root itself is meant: `/` is applied, `.` and `./` are skipped (c/storage does the same).
pub(super) fn is_applied_root(name: &[u8]) -> bool {
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
            assert_eq!(Cleaned::of(name.as_bytes()).path(), PathBuf::from(want), "{name}");
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
