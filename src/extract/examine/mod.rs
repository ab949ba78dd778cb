//! Every difference between a layer on disk and its tar-split.
//!
//! ```text
//! tar-split -> members -> compared with what lstat tells -> bodies hashed   one pass over a layer as most are
//!           -> plan -> members compared again                               two more, without contents, if anything differs
//! ```
//!
//! A member may differ because a later one of the same tar made it so: only the plan tells, and only a layer in which
//! something differs pays for it. Nothing is opened but directories and regular files, links are followed on the way
//! to a member's directory alone and never out of the layer, and an error of the disk ends the work: it is no finding.
//!
//! Not compared: mode, owner and times of the root (its parent layer's and every mount change them), of directories that
//! the tar does not name, and of whiteouts; attributes that the kernel or the storage library puts on files.

mod attributes;
mod bodies;
mod extras;
mod findings;
mod hope;
mod keys;
mod look;
mod mend;
mod pass;
mod plan;
mod put;
mod shares;

pub use findings::{Difference, DifferenceKind, Examined};
pub use mend::{Mended, mend_attributes};

use std::sync::atomic::AtomicBool;

use bodies::Bodies;
use findings::Findings;
use hope::Hope;
use pass::{Judge, Looked, Pass};
use plan::Plan;

use super::path::Cleaned;
use super::verify::{from_start, verdict, words};
use crate::fsio::{self, Dir, File};
use crate::ids::Digest;
use crate::tarsplit::{self, Piece, Pieces, SplitError};

/// How to examine a layer.
pub struct Examine<'a> {
    /// What the tar must hash to, where it is known.
    pub diff_id: Option<&'a Digest>,
    /// Whether files are read; without, lstat(2) tells all that is compared: names, lengths and attributes.
    pub contents: bool,
    /// The most differences that are kept.
    pub limit: usize,
    /// Told how many bytes of the tar and how many files are done.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Ends the work soon once true.
    pub stop: &'a AtomicBool,
}

/// Compares a layer's `diff/` with its tar-split: each file is read once, and memory is some 20 to 50 bytes a name.
/// `None`: stopped.
///
/// # Errors
///
/// Those of the disk (EIO), and what does not let a file be looked at (permissions, out of memory or descriptors).
pub fn examine(diff: &Dir, split: &File, how: &Examine<'_>) -> fsio::Result<Option<Examined>> {
    let mut bodies = Bodies::new(how.contents, how.progress, how.stop, how.limit);
    let mut pass = Pass::new(diff, Judge::Each(Box::<Hope>::default()), 0)?;
    let end = run(&mut pass, split, &mut bodies)?;
    let files = pass.files;
    if bodies.is_stopped() {
        return Ok(None);
    }
    let bytes = bodies.bytes();
    let (judge, mut doubts) = pass.into_parts();
    let (mut found, tar_digest) = bodies.finish();
    if let Err(why) = end {
        found.add(DifferenceKind::SplitUnreadable, b"", "a tar-split", why);
        return Ok(Some(examined(found, files, bytes, None)));
    }
    let stopped = || how.stop.load(std::sync::atomic::Ordering::Relaxed);
    if let Judge::Each(hope) = &judge
        && !hope.is_lost()
        && doubts.is_empty()
        && !extras::find(diff, hope.keys(), |chain| hope.has(chain), stopped, &mut doubts)?
    {
        return Ok(None);
    }
    let is_lost = matches!(&judge, Judge::Each(hope) if hope.is_lost());
    drop(judge);
    if is_lost || !doubts.is_empty() {
        let Some(differences) = by_plan(diff, split, how)? else { return Ok(None) };
        found.append(differences);
    }
    if let (Some(seen), Some(wanted)) = (&tar_digest, how.diff_id)
        && seen != wanted
    {
        found.add(DifferenceKind::SplitDigest, b"", wanted.to_string(), seen.to_string());
    }
    Ok(Some(examined(found, files, bytes, tar_digest)))
}

fn examined(found: Findings, files: u64, bytes: u64, tar_digest: Option<Digest>) -> Examined {
    let (differences, more) = found.into_parts();
    Examined { differences, more, files, bytes, tar_digest }
}

/// Compares every member for itself and reads the bodies. `Err`: why the tar-split cannot be read.
fn run(pass: &mut Pass<'_>, split: &File, bodies: &mut Bodies<'_>) -> fsio::Result<Result<(), String>> {
    let mut pieces = Pieces::new(from_start(split));
    let (mut index, mut looked, mut name) = (0u32, Looked::Nothing, Vec::new());
    loop {
        let piece = match pieces.next() {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return unreadable(error).map(Err),
        };
        if bodies.is_stopped() {
            return Ok(Ok(()));
        }
        match piece {
            Piece::Bytes(bytes) => bodies.segment(&bytes, pass.files),
            Piece::Member(entry) => {
                name.clone_from(&entry.name);
                looked = pass.member(index, *entry)?;
                index = index.saturating_add(1);
            }
            Piece::Body { size, crc } => {
                let path = || look::bytes(&Cleaned::of(&name).unwrap_or_default());
                match std::mem::replace(&mut looked, Looked::Nothing) {
                    Looked::There(there) => bodies.file(&there, size, crc, &path(), pass.files)?,
                    Looked::Reported => bodies.lost(size, pass.files),
                    // The root, or a name that another member has by now: no writer leaves such a body to the disk.
                    Looked::Nothing => {
                        let why = "no file: other members have this name";
                        bodies.findings.add(DifferenceKind::FileMissing, &path(), format!("a file of {size} bytes"), why);
                        bodies.lost(size, pass.files);
                    }
                }
            }
        }
    }
}

/// Compares every member with what all of them come to. `None`: stopped.
fn by_plan(diff: &Dir, split: &File, how: &Examine<'_>) -> fsio::Result<Option<Findings>> {
    let stopped = || how.stop.load(std::sync::atomic::Ordering::Relaxed);
    let mut plan = Plan::default();
    // Read through once already.
    for (index, entry) in (0..).zip(tarsplit::plain_headers(from_start(split)).flatten()) {
        if stopped() {
            return Ok(None);
        }
        plan.apply(diff, index, &entry)?;
    }
    let mut pass = Pass::new(diff, Judge::All(&plan), how.limit)?;
    for (index, entry) in (0..).zip(tarsplit::plain_headers(from_start(split)).flatten()) {
        if stopped() {
            return Ok(None);
        }
        pass.member(index, entry)?;
    }
    let (_, mut found) = pass.into_parts();
    let whole = extras::find(diff, plan.keys(), |chain| plan.has(chain), stopped, &mut found)?;
    Ok(whole.then_some(found))
}

/// Why a tar-split cannot be read, in words; errors of the disk are errors.
fn unreadable(error: SplitError) -> fsio::Result<String> {
    Ok(verdict(error)?.unwrap_or_else(|error| words(&error)))
}
