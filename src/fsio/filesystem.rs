//! What can be relied on of the filesystem below a directory.

use rustix::fs as sys;

use super::dir::Dir;
use super::{At, Error, Result};

/// Filesystems of the kernel's own whose syncfs(2) brings everything to the medium and tells of write errors: their
/// numbers in statfs(2), from linux/magic.h and their own headers.
const KNOWN: [u64; 7] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
];

impl Dir {
    /// Whether one syncfs of this filesystem may stand for an fsync of everything on it: a filesystem that is known to do
    /// so, on Linux 5.8 or newer, where syncfs tells of write errors.
    ///
    /// # Errors
    ///
    /// That of fstatfs(2).
    pub fn syncfs_is_enough(&self) -> Result<bool> {
        let at = At { dir: self.path(), name: std::path::Path::new("") };
        let stat = rustix::io::retry_on_intr(|| sys::fstatfs(self)).map_err(|e| Error::new("fstatfs", at, e))?;
        // The kernel's number has 32 bits; some targets sign-extend it.
        let magic = stat.f_type as u64 & 0xffff_ffff;
        Ok(is_enough(rustix::system::uname().release().to_str().unwrap_or_default(), magic))
    }

    /// How many more bytes this user may write to this filesystem, as far as it tells.
    ///
    /// # Errors
    ///
    /// That of fstatvfs(3).
    pub fn free_bytes(&self) -> Result<u64> {
        let at = At { dir: self.path(), name: std::path::Path::new("") };
        let stat = rustix::io::retry_on_intr(|| sys::fstatvfs(self)).map_err(|e| Error::new("fstatvfs", at, e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn is_enough(release: &str, magic: u64) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8) && KNOWN.contains(&magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_and_unknown_filesystems_are_not_trusted() {
        for (release, magic, want) in [
            ("5.8.0", 0xef53, true),
            ("5.7.19-rc1", 0xef53, false),
            ("6.1.0-39-amd64", 0x5846_5342, true),
            ("10.0", 0x9123_683e, true),
            ("4.19.0", 0xef53, false),
            ("6.12.1", 0x6573_5546, false),
            ("6.12.1", 0x794c_7630, false),
            ("", 0xef53, false),
        ] {
            assert_eq!(is_enough(release, magic), want, "{release} {magic:x}");
        }
    }
}
