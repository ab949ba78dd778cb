//! Which system calls change something. Pure but for looking at what a descriptor is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use nix::libc;

/// A system call that is about to happen.
pub struct Call {
    pub number: i64,
    pub args: [u64; 6],
}

impl Call {
    /// From `/proc/PID/syscall`: the number, six arguments, stack and instruction.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
        }
        Some(Self { number, args })
    }

    pub fn name(&self) -> String {
        names().get(&self.number).map_or_else(|| format!("call {}", self.number), |(name, _)| (*name).to_owned())
    }

    /// Whether it may change a file, a lock or what others see, or ends the process. What is in no list counts: a kill too many
    /// costs its time and no more. `word` reads the memory of the caller.
    pub fn changes(&self, process: &Path, word: impl Fn(u64) -> u64) -> bool {
        let file = |fd: u64| {
            let target = std::fs::read_link(process.join(format!("fd/{fd}"))).unwrap_or_default();
            // Not a pipe, a socket or an event. Results count; how often progress is told is a matter of time.
            fd != 2 && target.is_absolute()
        };
        let makes = |flags: u64| {
            let flags = flags as i32;
            flags & (libc::O_CREAT | libc::O_TRUNC) != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
        };
        match names().get(&self.number).map_or(Kind::Changes, |(_, kind)| *kind) {
            Kind::Changes => true,
            Kind::Harmless => false,
            Kind::Writes => file(self.args[0]),
            Kind::Opens(at) => makes(self.args[at]),
            Kind::OpensHow => makes(word(self.args[2])),
            Kind::Controls(commands) => commands.contains(&(self.args[1] as u32)),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Changes,
    Harmless,
    /// Where the descriptor is a file.
    Writes,
    /// Where the flags, argument number so and so, make or empty a file.
    Opens(usize),
    /// The flags are the first word of a structure.
    OpensHow,
    /// Where the command is one of these.
    Controls(&'static [u32]),
}

const LOCKS: &[u32] =
    &[libc::F_OFD_SETLK as u32, libc::F_OFD_SETLKW as u32, libc::F_SETLK as u32, libc::F_SETLKW as u32, libc::F_SETLEASE as u32];

/// FICLONE and FICLONERANGE, FS_IOC_SETFLAGS: no crate here has the last for every architecture.
const CLONES: &[u32] = &[0x4004_9409, 0x4020_940d, 0x4008_6602];

fn names() -> &'static BTreeMap<i64, (&'static str, Kind)> {
    static NAMES: OnceLock<BTreeMap<i64, (&'static str, Kind)>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut all = BTreeMap::new();
        for (kind, list) in LISTS.iter().chain(OLD) {
            all.extend(list.iter().map(|(number, name)| (*number, (name.trim_start_matches("SYS_"), *kind))));
        }
        all
    })
}

type List = &'static [(i64, &'static str)];

macro_rules! calls {
    ($($name:ident)*) => { &[$((libc::$name as i64, stringify!($name))),*] };
}

const LISTS: &[(Kind, List)] = &[
    (
        Kind::Changes,
        calls! {
            SYS_mkdirat SYS_mknodat SYS_symlinkat SYS_linkat SYS_unlinkat SYS_renameat2 SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat
            SYS_utimensat SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_truncate
            SYS_ftruncate SYS_fallocate SYS_sync SYS_fsync SYS_fdatasync SYS_syncfs SYS_sync_file_range SYS_flock SYS_copy_file_range
            SYS_sendfile SYS_splice SYS_msync SYS_open_tree SYS_move_mount SYS_mount SYS_umount2 SYS_exit_group
        },
    ),
    (Kind::Writes, calls! { SYS_write SYS_pwrite64 SYS_writev SYS_pwritev SYS_pwritev2 }),
    (Kind::Opens(2), calls! { SYS_openat }),
    (Kind::OpensHow, calls! { SYS_openat2 }),
    (Kind::Controls(LOCKS), calls! { SYS_fcntl }),
    (Kind::Controls(CLONES), calls! { SYS_ioctl }),
    (
        Kind::Harmless,
        calls! {
            SYS_read SYS_pread64 SYS_readv SYS_preadv SYS_preadv2 SYS_close SYS_close_range SYS_fstat SYS_newfstatat SYS_statx SYS_lseek
            SYS_mmap SYS_mprotect SYS_munmap SYS_mremap SYS_madvise SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn
            SYS_sigaltstack SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_clone SYS_clone3 SYS_execve SYS_wait4
            SYS_waitid SYS_exit SYS_futex SYS_set_robust_list SYS_rseq SYS_set_tid_address SYS_getrandom SYS_getpid SYS_getppid
            SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getpgid SYS_uname SYS_prctl SYS_prlimit64 SYS_getcwd
            SYS_chdir SYS_fchdir SYS_umask SYS_readlinkat SYS_faccessat SYS_faccessat2 SYS_getdents64 SYS_statfs SYS_fstatfs
            SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_epoll_create1 SYS_epoll_ctl
            SYS_epoll_pwait SYS_ppoll SYS_pselect6 SYS_eventfd2 SYS_pipe2 SYS_socket SYS_socketpair SYS_connect SYS_sendto
            SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_getsockname SYS_getsockopt SYS_setsockopt SYS_shutdown SYS_dup SYS_dup3
            SYS_clock_gettime SYS_clock_nanosleep SYS_nanosleep SYS_sysinfo SYS_tgkill SYS_getrusage SYS_restart_syscall
            SYS_membarrier SYS_capget SYS_fadvise64 SYS_readahead
        },
    ),
];

/// What newer architectures have no more; what is left of these there counts without a name.
#[cfg(target_arch = "x86_64")]
const OLD: &[(Kind, List)] = &[
    (
        Kind::Changes,
        calls! {
            SYS_mkdir SYS_mknod SYS_symlink SYS_link SYS_unlink SYS_rmdir SYS_rename SYS_renameat SYS_chmod SYS_chown SYS_lchown
            SYS_creat SYS_utime SYS_utimes SYS_futimesat
        },
    ),
    (Kind::Opens(1), calls! { SYS_open }),
    (
        Kind::Harmless,
        calls! {
            SYS_stat SYS_lstat SYS_access SYS_readlink SYS_arch_prctl SYS_poll SYS_select SYS_epoll_wait SYS_epoll_create SYS_pipe
            SYS_dup2 SYS_fork SYS_vfork SYS_getdents SYS_time SYS_getpgrp SYS_alarm
        },
    ),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[(Kind, List)] = &[];
