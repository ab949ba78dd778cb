//! The attributes that a tar's headers give an inode, and how what is on disk differs.

use rustix::fs::Timestamps;
use rustix::io::Errno;

use super::findings::{DifferenceKind, Findings};
use crate::extract::error::shown;
use crate::extract::times;
use crate::extract::tree::applies;
use crate::fsio::{self, Kind, Meta};
use crate::tarsplit::{Entry, EntryKind};

const CAPABILITY: &[u8] = b"security.capability";
const ACL: &[u8] = b"system.posix_acl_";

/// What an inode should be.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    pub owner: (u32, u32),
    /// None for symbolic links.
    pub mode: Option<u32>,
    /// None where the headers do not tell.
    pub times: Option<Timestamps>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether other members may have given further attributes.
    pub may_have_more: bool,
    /// Whether a member makes the directory opaque; `None`: see the marks that are there.
    pub opaque: Option<bool>,
}

impl Attributes {
    /// What a header alone says, for something of this kind.
    pub(super) fn of(entry: &mut Entry, kind: Kind) -> Self {
        let hard_link = entry.kind == EntryKind::HardLink;
        let times = match kind {
            Kind::Dir => Some(times::of_dir(entry)),
            // Go leaves a link that has a second name its times.
            Kind::Symlink if hard_link => None,
            Kind::Symlink => Some(times::of_link(entry)),
            _ => Some(times::of_file(entry)),
        };
        Self {
            owner: (entry.uid, entry.gid),
            mode: (kind != Kind::Symlink).then_some(entry.mode),
            times,
            xattrs: std::mem::take(&mut entry.xattrs),
            may_have_more: false,
            opaque: None,
        }
    }

    /// What a whiteout gets besides its owner.
    pub(super) fn of_whiteout(owner: (u32, u32)) -> Self {
        Self { owner, mode: Some(0), times: None, xattrs: Vec::new(), may_have_more: true, opaque: None }
    }

    /// What a further name's header makes of the shared inode.
    pub(super) fn overlay(&mut self, over: Self) {
        // The change of an owner drops it, as it does while the layer is unpacked.
        self.xattrs.retain(|(key, _)| key != CAPABILITY || self.owner == over.owner);
        self.xattrs.retain(|(key, _)| over.xattrs.iter().all(|(new, _)| new != key));
        self.xattrs.extend(over.xattrs);
        self.owner = over.owner;
        self.mode = over.mode.or(self.mode);
        self.times = over.times.or(self.times.take());
    }
}

/// What of a layer this process and this filesystem can keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeps {
    pub is_root: bool,
    /// Whether times have whole seconds only.
    pub seconds: bool,
}

impl Keeps {
    pub(super) fn of(diff: &fsio::Dir) -> fsio::Result<Self> {
        // A filesystem without times of birth may be one of whole seconds; one that has them tells by their fraction.
        let seconds = diff.own_meta()?.birth.is_none_or(|(_, nanos)| nanos == 0);
        Ok(Self { is_root: fsio::is_initial_root(), seconds })
    }

    /// Whether an attribute that a layer gives must be on disk: in a user namespace the kernel may have refused it.
    pub(super) fn must_be_there(self, key: &[u8]) -> bool {
        applies(key, self.is_root) && (self.is_root || key.starts_with(b"user."))
    }

    fn is_time(self, wanted: (i64, i64), seen: (i64, u32)) -> bool {
        // Filesystems cut times off at the ends of what they can say, the narrowest at 32 bits.
        const FIRST: i64 = i32::MIN as i64;
        const LAST: i64 = i32::MAX as i64;
        let nanos = i64::from(seen.1);
        wanted.0 == seen.0 && (wanted.1 == nanos || self.seconds && nanos == 0)
            || wanted.0 < FIRST && (wanted.0..=FIRST).contains(&seen.0) && nanos == 0
            || wanted.0 > LAST && (LAST..=wanted.0).contains(&seen.0) && nanos == 0
    }
}

/// Attributes that the kernel, a security module or the storage library puts on files, whatever the tar says.
fn is_of_the_system(key: &[u8]) -> bool {
    const KEYS: [&[u8]; 4] = [b"security.selinux", b"security.ima", b"security.evm", b"security.apparmor"];
    const STARTS: [&[u8]; 6] =
        [b"security.SMACK64", b"trusted.overlay.", b"user.overlay.", b"user.containers.", b"user.fuseoverlayfs.", ACL];
    KEYS.contains(&key) || STARTS.iter().any(|start| key.starts_with(start))
}

/// Whether an attribute is an opaque mark.
pub(super) fn is_opaque_mark(key: &[u8]) -> bool {
    key == b"trusted.overlay.opaque" || key == b"user.overlay.opaque"
}

/// The rules of an access control list, without what the kernel writes as it likes: ids of rules that have none.
fn acl_rules(value: &[u8]) -> Option<Vec<[u8; 8]>> {
    const VERSION: [u8; 4] = [2, 0, 0, 0];
    let (rules, []) = value.strip_prefix(&VERSION)?.as_chunks::<8>() else { return None };
    let plain = |rule: &[u8; 8]| match *rule {
        [2 | 8, 0, ..] => *rule,
        [tag, high, low, bits, ..] => [tag, high, low, bits, 0, 0, 0, 0],
    };
    let mut rules: Vec<[u8; 8]> = rules.iter().map(plain).collect();
    rules.sort_unstable();
    Some(rules)
}

pub(super) fn is_value(key: &[u8], wanted: &[u8], seen: Option<&[u8]>) -> bool {
    if !key.starts_with(ACL) {
        return seen == Some(wanted);
    }
    match (acl_rules(wanted), seen) {
        // The kernel keeps a list that says no more than the mode as the mode.
        (Some(rules), None) => rules.len() <= 3,
        (wanted, Some(seen)) => wanted.is_some() && wanted == acl_rules(seen),
        (None, None) => false,
    }
}

/// Adds to `findings` how the inode at `path` differs from `wanted`; `names` and `value` read its extended attributes.
pub(super) fn compare(
    wanted: &Attributes,
    meta: &Meta,
    keeps: Keeps,
    path: &[u8],
    names: &[Vec<u8>],
    value: impl Fn(&[u8]) -> fsio::Result<Option<Vec<u8>>>,
    findings: &mut Findings,
) -> fsio::Result<()> {
    let owner = |(uid, gid): (u32, u32)| format!("{uid}:{gid}");
    if (meta.uid, meta.gid) != wanted.owner {
        findings.add(DifferenceKind::Owner, path, owner(wanted.owner), owner((meta.uid, meta.gid)));
    }
    if let Some(mode) = wanted.mode.filter(|_| meta.kind != Kind::Symlink) {
        // An access control list sets the bits of the group, too.
        let mask = if wanted.xattrs.iter().any(|(key, _)| key == b"system.posix_acl_access") { 0o7000 } else { 0o7777 };
        if meta.mode & mask != mode & mask {
            findings.add(DifferenceKind::Mode, path, format!("{mode:04o}"), format!("{:04o}", meta.mode));
        }
    }
    if let Some(times) = &wanted.times {
        let mtime = (times.last_modification.tv_sec, times.last_modification.tv_nsec);
        if !keeps.is_time(mtime, meta.mtime) {
            findings.add(
                DifferenceKind::Mtime,
                path,
                format!("{}.{:09}", mtime.0, mtime.1),
                format!("{}.{:09}", meta.mtime.0, meta.mtime.1),
            );
        }
    }
    for (key, given) in wanted.xattrs.iter().filter(|(key, _)| keeps.must_be_there(key)) {
        match value(key) {
            // A namespace that the filesystem or the kernel does not keep.
            Err(error) if error.is(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
            Ok(seen) if is_value(key, given, seen.as_deref()) => {}
            Ok(seen) => findings.add(DifferenceKind::Xattr, path, said(key, Some(given)), said(key, seen.as_deref())),
        }
    }
    for key in names.iter().filter(|key| is_extra(wanted, key)) {
        findings.add(DifferenceKind::Xattr, path, said(key, None), said(key, value(key)?.as_deref()));
    }
    Ok(())
}

/// Whether the tar gives no attribute of this name though one is there.
pub(super) fn is_extra(wanted: &Attributes, key: &[u8]) -> bool {
    let given = wanted.xattrs.iter().any(|(known, _)| known == key);
    if is_opaque_mark(key) {
        return wanted.opaque == Some(false) && !given;
    }
    !given && !wanted.may_have_more && !is_of_the_system(key)
}

fn said(key: &[u8], value: Option<&[u8]>) -> String {
    value.map_or_else(|| format!("no {}", shown(key)), |value| format!("{}={}", shown(key), shown(value)))
}
