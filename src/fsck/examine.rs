//! The full check of layers: several at once, each file read once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Finding;
use super::code::Code;
use super::finding::Repair;
use super::fix::Fix;
use super::run::Run;
use super::survey::{Survey, directory};
use crate::extract::{self, Difference, DifferenceKind, Examine, Examined};
use crate::fsio::{self, Dir, File};
use crate::ids::{Digest, LayerId, LinkId};
use crate::layout::split_name;
use crate::metadata::Loose;
use crate::overlay::{TreeId, read_link_id};

/// The most differences of one layer that are listed; the rest is counted.
const LIMIT: usize = 1 << 16;

pub(super) use crate::extract::Difference as Damage;
pub(super) use crate::extract::Examined as Seen;

impl Seen {
    /// Whether the tar-split itself is damaged.
    pub(super) fn split_is_damaged(&self) -> bool {
        self.differences.iter().any(|one| matches!(one.kind, DifferenceKind::SplitUnreadable | DifferenceKind::SplitDigest))
    }

    /// Whether nothing differs.
    pub(super) fn is_sound(&self) -> bool {
        self.differences.is_empty() && self.more == 0
    }
}

impl Damage {
    pub(super) fn needs_bytes(&self) -> bool {
        self.kind.needs_bytes()
    }

    pub(super) fn is_extra(&self) -> bool {
        self.kind == DifferenceKind::Extra
    }
}

/// A layer that is examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub id: LayerId,
    pub link: Option<LinkId>,
    pub tree: TreeId,
}

/// A layer opened to be read.
struct Opened {
    identity: Identity,
    diff: Dir,
    split: File,
    diff_id: Digest,
    mapped: bool,
    /// The length of its tar by the record, in bytes.
    size: i64,
}

/// What the examination of a layer came to.
pub(super) enum Verdict {
    /// It was read to its end.
    Seen(Identity, Box<Seen>),
    /// It was not begun, or not finished: the time is up, or a signal came.
    Stopped,
    /// It is no image's layer, or was changed or removed meanwhile: nothing to say.
    Passed,
    /// It cannot be read.
    Failed(fsio::Error),
}

/// In what the contents of a layer are not what a tar-split says that is not the layer's yet; `None`: it was stopped.
pub(super) fn against(run: &Run<'_>, diff: &Dir, split: &File, diff_id: &Digest) -> fsio::Result<Option<Seen>> {
    read(run, diff, split, diff_id, false)
}

/// Whether all but the contents of files is what a tar-split says: they are not read.
pub(super) fn is_as_headers_say(run: &Run<'_>, diff: &Dir, split: &File) -> fsio::Result<bool> {
    let how = Examine { diff_id: None, contents: false, limit: 1, progress: &|_, _| {}, stop: &run.stop };
    Ok(extract::examine(diff, split, &how)?.is_some_and(|seen| seen.is_sound()))
}

fn read(run: &Run<'_>, diff: &Dir, split: &File, diff_id: &Digest, mapped: bool) -> fsio::Result<Option<Seen>> {
    let (bytes, files) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = |done: u64, seen: u64| {
        let (done, seen) = (usize::try_from(done).unwrap_or(usize::MAX), usize::try_from(seen).unwrap_or(usize::MAX));
        let more = done.saturating_sub(bytes.swap(done, Ordering::Relaxed));
        let files = seen.saturating_sub(files.swap(seen, Ordering::Relaxed));
        run.how.progress.checked(more as u64, files as u64);
    };
    let how = Examine { diff_id: Some(diff_id), contents: true, limit: LIMIT, progress: &progress, stop: &run.stop };
    let mut seen = extract::examine(diff, split, &how)?;
    if let Some(seen) = seen.as_mut().filter(|_| mapped) {
        // An id mapping gave its files other owners, and only it knows which.
        seen.differences.retain(|one| one.kind != DifferenceKind::Owner);
    }
    Ok(seen)
}

/// The names that are not the layer's, without those in a directory that is one of them.
pub(super) fn topmost(seen: &Seen) -> Vec<Vec<u8>> {
    let extra: HashSet<&[u8]> = seen.differences.iter().filter(|one| one.is_extra()).map(|one| one.path.as_slice()).collect();
    let within = |path: &[u8]| {
        let mut at = path;
        while let Some(slash) = at.iter().rposition(|b| *b == b'/') {
            at = at.get(..slash).unwrap_or_default();
            if extra.contains(at) {
                return true;
            }
        }
        false
    };
    seen.differences.iter().filter(|one| one.is_extra() && !within(&one.path)).map(|one| one.path.clone()).collect()
}

fn open(run: &Run<'_>, survey: &Survey, id: &LayerId) -> fsio::Result<Option<Opened>> {
    let Some(record) = survey.record(id) else { return Ok(None) };
    let described = survey.described.get(id).map(|described| &described.diff_id);
    let Some(diff_id) = described.or(record.diff_digest().and_then(Loose::known)) else { return Ok(None) };
    let Some(dir) = directory(&run.layout.overlay, id.as_str())? else { return Ok(None) };
    let Some(diff) = directory(&dir, "diff")? else { return Ok(None) };
    let split = match run.layout.layers.file(split_name(id)) {
        Ok(split) => split,
        Err(error) if error.not_found() || super::survey::is_no_file(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let identity = Identity { id: id.clone(), link: read_link_id(&dir)?, tree: TreeId::of(&diff)? };
    let size = record.diff_size();
    Ok(Some(Opened { identity, diff, split, diff_id: diff_id.clone(), mapped: record.has_id_maps(), size }))
}

/// Examines one layer.
pub(super) fn layer(run: &Run<'_>, survey: &Survey, id: &LayerId) -> Verdict {
    match try_layer(run, survey, id) {
        Ok(verdict) => verdict,
        // Removed while it was read.
        Err(error) if error.not_found() && run.layout.overlay.meta(id.as_str()).is_ok_and(|meta| meta.is_none()) => Verdict::Passed,
        Err(error) => Verdict::Failed(error),
    }
}

fn try_layer(run: &Run<'_>, survey: &Survey, id: &LayerId) -> fsio::Result<Verdict> {
    let Some(opened) = open(run, survey, id)? else { return Ok(Verdict::Passed) };
    let Some(mut seen) = read(run, &opened.diff, &opened.split, &opened.diff_id, opened.mapped)? else { return Ok(Verdict::Stopped) };
    if !seen.is_sound() {
        // Podman may have removed it meanwhile, and cstor-rs exchanged its contents.
        let same = open(run, survey, id)?.is_some_and(|now| now.identity == opened.identity);
        if !same || run.is_gone(id) {
            return Ok(Verdict::Passed);
        }
        // The tar-split of something else: what it says of the files means nothing.
        if let Ok(size) = u64::try_from(opened.size)
            && seen.bytes != size
            && !seen.split_is_damaged()
        {
            let (expected, found) = (format!("that of a tar of {size} bytes"), format!("that of a tar of {} bytes", seen.bytes));
            seen.differences.insert(0, Difference { kind: DifferenceKind::SplitDigest, path: Vec::new(), expected, seen: found });
        }
    } else if !opened.mapped && i64::try_from(seen.bytes).ok() != Some(opened.size) {
        run.sized(id, opened.size, seen.bytes);
    }
    Ok(Verdict::Seen(opened.identity, Box::new(seen)))
}

/// Examines layers, several at once, until the time is up, if that matters. One at least is read to its end, so that many short runs come to an
/// end too.
pub(super) fn layers(run: &Run<'_>, survey: &Survey, ids: &[LayerId], however_late: bool) -> HashMap<LayerId, Verdict> {
    // The largest first: the last one to be read is then a small one.
    let mut ids: Vec<&LayerId> = ids.iter().collect();
    ids.sort_by_key(|id| std::cmp::Reverse(survey.record(id).map_or(0, |record| record.diff_size())));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(HashMap::new());
    let late = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..run.how.jobs.get().min(ids.len()).max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(id) = ids.get(at).copied() else { return };
                    if at > 0 && !however_late && run.is_late() {
                        late.store(true, Ordering::Relaxed);
                    }
                    let verdict = if late.load(Ordering::Relaxed) || run.is_stopped() { Verdict::Stopped } else { layer(run, survey, id) };
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), verdict);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The findings of one layer.
pub(super) fn findings(id: &LayerId, seen: &Examined) -> Vec<Finding> {
    let fix = || Fix::Contents { id: id.clone() };
    if let Some(split) =
        seen.differences.iter().find(|one| matches!(one.kind, DifferenceKind::SplitUnreadable | DifferenceKind::SplitDigest))
    {
        // What is measured by it means nothing.
        return vec![finding(id, split, fix())];
    }
    // A file that is replaced gets its attributes too.
    let replaced: HashSet<&[u8]> = seen.differences.iter().filter(|one| one.needs_bytes()).map(|one| one.path.as_slice()).collect();
    let topmost: HashSet<Vec<u8>> = topmost(seen).into_iter().collect();
    let told = seen
        .differences
        .iter()
        .filter(|one| one.needs_bytes() || !replaced.contains(one.path.as_slice()))
        .filter(|one| !one.is_extra() || topmost.contains(&one.path));
    let mut list: Vec<Finding> = told.map(|one| finding(id, one, fix())).collect();
    if seen.more > 0 {
        list.push(
            Finding::new(Code::FileContent, Repair::Refetch, fix(), "fetch the layer")
                .layer(id)
                .at(format!("overlay/{id}/diff"))
                .seen(format!("{} further differences that are not listed", seen.more)),
        );
    }
    list
}

fn finding(id: &LayerId, one: &Difference, fix: Fix) -> Finding {
    use DifferenceKind as Kind;
    let code = match one.kind {
        Kind::SplitUnreadable | Kind::SplitDigest => Code::LayerSplitDamaged,
        Kind::Content | Kind::Size => Code::FileContent,
        Kind::FileMissing if one.seen.starts_with("a ") => Code::EntryType,
        Kind::FileMissing => Code::FileMissing,
        Kind::NameMissing if one.expected.starts_with("an opaque mark") => Code::EntryXattr,
        Kind::NameMissing => Code::EntryMissing,
        Kind::Kind => Code::EntryType,
        Kind::LinkTarget => Code::SymlinkTarget,
        Kind::Device => Code::EntryDevice,
        Kind::HardLink => Code::HardlinkBroken,
        Kind::Mode => Code::EntryMode,
        Kind::Owner => Code::EntryOwner,
        Kind::Mtime => Code::EntryMtime,
        Kind::Xattr => Code::EntryXattr,
        Kind::Extra => Code::EntryExtra,
    };
    let path = if code == Code::LayerSplitDamaged {
        format!("overlay-layers/{}", split_name(id))
    } else {
        format!("overlay/{id}/diff/{}", String::from_utf8_lossy(&one.path))
    };
    let (repair, action) = match (one.needs_bytes(), one.is_extra()) {
        (true, _) => (Repair::Refetch, "take it from another layer that has it, else fetch the layer"),
        (_, true) => (Repair::Offline, "move it to cstor-rs/lost+found"),
        _ => (Repair::Offline, "put it right by the tar's header"),
    };
    Finding::new(code, repair, fix, action).layer(id).at(path).expected(one.expected.clone()).seen(one.seen.clone())
}
