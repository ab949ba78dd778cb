//! File systems on such disks: made, mounted, taken down.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::device::{Bench, Device, Plugged};
use super::medium::{BLOCK, Medium, SECTOR};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    pub name: &'static str,
    make: &'static [&'static str],
    options: &'static str,
    mib: u64,
    /// What it takes to be written whole: btrfs has its superblock in one of its own sectors, which are 4096 bytes long.
    pub unit: usize,
}

pub const EXT4: Filesystem = Filesystem {
    name: "ext4",
    // Nothing is left to be made in the background, which would be in every log.
    make: &["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    options: "loop",
    mib: 640,
    unit: SECTOR,
};
pub const XFS: Filesystem =
    Filesystem { name: "xfs", make: &["mkfs.xfs", "-q", "-f", "-K"], options: "loop,nouuid", mib: 320, unit: SECTOR };
pub const BTRFS: Filesystem = Filesystem { name: "btrfs", make: &["mkfs.btrfs", "-q", "-f", "-K"], options: "loop", mib: 256, unit: BLOCK };

pub const ALL: &[Filesystem] = &[EXT4, XFS, BTRFS];

impl Filesystem {
    pub fn size(&self) -> u64 {
        self.mib << 20
    }

    /// A new one; why not, where its tools are missing.
    pub fn make(&self, bench: &Bench) -> Result<Arc<Device>, String> {
        let device = Device::new(self.size(), Medium::default());
        let plugged = bench.plug(&device);
        run(Command::new(self.make[0]).args(&self.make[1..]).arg(plugged.path()))?;
        Ok(device)
    }

    /// A disk with this on it.
    pub fn disk(&self, medium: Medium) -> Arc<Device> {
        Device::new(self.size(), medium)
    }

    /// Mounts it; the file system goes through its own journal.
    pub fn mount<'a>(&self, bench: &'a Bench, device: &Arc<Device>) -> Result<Mounted<'a>, String> {
        let plugged = bench.plug(device);
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mount = || run(Command::new("mount").args(["-t", self.name, "-o", self.options]).arg(plugged.path()).arg(dir.path()));
        // As at boot, and then as somebody does who wants the machine back: ext4 leaves to e2fsck what its journal does not have,
        // such as the half of a superblock.
        let mut mounted = mount();
        for how in ["-p", "-y"] {
            if mounted.is_err() && self.name == "ext4" {
                Command::new("e2fsck").arg(how).arg(plugged.path()).output().map_err(|error| format!("e2fsck: {error}"))?;
                mounted = mount();
            }
        }
        mounted?;
        Ok(Mounted { dir: Some(dir), _plugged: plugged })
    }
}

/// A mounted file system; it is unmounted in the end.
pub struct Mounted<'a> {
    dir: Option<tempfile::TempDir>,
    _plugged: Plugged<'a>,
}

impl Mounted<'_> {
    pub fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// All of it to the medium.
    pub fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(self.path())).unwrap();
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        // Whoever looked at it may have it open for a moment still: it is taken out of the tree then, and goes with its last user.
        if let Err(error) = run(Command::new("umount").arg(dir.path())).or_else(|_| run(Command::new("umount").arg("-l").arg(dir.path()))) {
            eprintln!("{error}");
            // What is below is another file system's: nothing of it is removed.
            drop(dir.keep());
        }
    }
}

/// Takes down what a laboratory that was killed has left: its file system answers nobody any more, and mkfs.btrfs, which looks at
/// every loop device, fails over it.
pub fn bury_dead() {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.split_once(' ').map(|(dir, _)| (line.split(' ').next().unwrap_or_default(), dir)))
        .collect();
    let quietly = |program: &str, args: &[&str]| drop(Command::new(program).args(args).output());
    for (_, bench) in mounts.iter().filter(|(source, _)| *source == super::device::NAME) {
        // What it said of itself before is remembered; of a name that is not there it is asked.
        let answer = rustix::fs::stat(Path::new(bench).join("none"));
        if answer.err() != Some(rustix::io::Errno::NOTCONN) {
            continue;
        }
        let loops = run(Command::new("losetup").args(["--noheadings", "--raw", "--output", "NAME,BACK-FILE"])).unwrap_or_default();
        for line in String::from_utf8_lossy(&loops).lines() {
            let Some((device, _)) = line.split_once(' ').filter(|(_, file)| file.starts_with(bench)) else { continue };
            mounts.iter().filter(|(source, _)| *source == device).for_each(|(_, dir)| quietly("umount", &["-l", dir]));
            quietly("losetup", &["-d", device]);
        }
        quietly("umount", &["-l", bench]);
    }
}

pub fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}
