//! The contents of layers: put right from what the store has, or fetched.
//!
//! A layer is staged whole, its digest proves it, and its `diff` is exchanged: nothing in a `diff` that others may share or hold
//! open is written to.

use std::collections::HashSet;
use std::io::{BufWriter, Read};
use std::os::unix::ffi::OsStringExt;

use super::donors::Donors;
use super::extras;
use crate::causes::in_one_line;
use crate::extract;
use crate::fsck::examine::{self, Seen, topmost};
use crate::fsck::finding::Repair;
use crate::fsck::run::Run;
use crate::fsck::supply::WantedLayer;
use crate::fsck::survey::{Links, Survey, directory};
use crate::fsio::{Dir, File};
use crate::ids::{Digest, LayerId, LinkId};
use crate::layout::{Tables, split_name};
use crate::metadata::Loose;
use crate::plan::Mend;
use crate::txn::{LayerSpec, TxnError, WriteTxn};

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fsck) enum Layered {
    /// It is healed.
    Healed,
    /// It needs bytes that the store does not have, and none were to be fetched.
    NeedsBytes,
    /// Bytes were to be fetched, and were not to be had.
    NotFetched(String),
}

/// A layer to be healed.
struct Patient<'a> {
    run: &'a Run<'a>,
    survey: &'a Survey,
    id: &'a LayerId,
    diff_id: Digest,
    link: LinkId,
    incomplete: bool,
    /// What is left of it.
    diff: Option<Dir>,
    split: Option<File>,
}

/// Heals one layer, by what `seen` says of it; `None`: its directory, its contents or its tar-split are not there.
///
/// # Errors
///
/// A layer in use, the disk, a transaction that cannot go on. It is then as it was.
pub(in crate::fsck) fn mend_layer(run: &Run<'_>, survey: &Survey, id: &LayerId, seen: Option<&Seen>) -> Result<Layered, TxnError> {
    let record = survey.record(id);
    let described = survey.described.get(id);
    let diff_id = described.map(|d| &d.diff_id).or(record.and_then(|record| record.diff_digest()).and_then(Loose::known)).cloned();
    let Some(diff_id) = diff_id else {
        return Err(TxnError::Broken { id: id.clone(), why: "nothing tells the digest of its tar".to_owned() });
    };
    let dir = directory(&run.layout.overlay, id.as_str())?;
    let diff = match &dir {
        Some(dir) => directory(dir, "diff")?,
        None => None,
    };
    let link = match Links::new(&run.layout, survey).of(id)?.1 {
        Some(link) => link,
        None => LinkId::random().map_err(crate::txn::random_failed)?,
    };
    let patient = Patient {
        run,
        survey,
        id,
        diff_id,
        link,
        incomplete: record.is_some_and(|record| record.incomplete()),
        diff,
        split: run.layout.layers.file(split_name(id)).ok(),
    };
    patient.heal(seen)
}

impl Patient<'_> {
    fn heal(&self, seen: Option<&Seen>) -> Result<Layered, TxnError> {
        if let Some(seen) = seen
            && let (Some(diff), Some(split)) = (&self.diff, &self.split)
            && !seen.split_is_damaged()
        {
            let lost: HashSet<Vec<u8>> = seen.differences.iter().filter(|one| one.needs_bytes()).map(|one| one.path.clone()).collect();
            if lost.is_empty() && self.mend_in_place(diff, split, seen)? {
                return Ok(Layered::Healed);
            }
            // More was found than is listed: all of it comes from the rebuilt tar, or nothing does.
            if seen.more == 0
                && let Some(donors) = Donors::find(&self.run.layout, self.survey, self.id, split, &lost)?
            {
                match self.rebuild(diff, split, &donors, seen) {
                    // The headers in the tar-split are not those of the layer.
                    Err(TxnError::Extract { .. } | TxnError::DiffId { .. }) => {}
                    other => return other.map(|()| Layered::Healed),
                }
            }
        }
        let fetched = self.refetch(seen)?;
        if let Some(seen) = seen
            && fetched != Layered::Healed
            && let (Some(diff), Some(split)) = (&self.diff, &self.split)
            && !seen.split_is_damaged()
            && examine::findings(self.id, seen).iter().any(|finding| finding.repair == Repair::Offline)
        {
            // What the store itself knows is put right, whatever is to be fetched another day.
            self.mend_in_place(diff, split, seen)?;
        }
        Ok(fetched)
    }

    /// Attributes, links, devices and names, in one step that is worked out from the tar-split. `false`: not all of it can be.
    fn mend_in_place(&self, diff: &Dir, split: &File, seen: &Seen) -> Result<bool, TxnError> {
        if self.incomplete || self.survey.record(self.id).is_none_or(|record| record.has_id_maps()) {
            return Ok(false);
        }
        let tables = self.tables()?;
        if let Some(user) = tables.user_of(&self.run.layout, self.id)? {
            return Err(TxnError::InUse { id: self.id.clone(), why: "it is damaged".to_owned(), user });
        }
        let txn = self.run.begin()?;
        extras::keep(&txn, self.id, diff, &topmost(seen))?;
        let remove = seen.differences.iter().filter(|one| one.is_extra()).map(|one| one.path.clone()).collect();
        txn.mend(Mend::Attributes { id: self.id.clone(), link: self.link.clone(), remove });
        super::commit(txn)?;
        Ok(crate::fsck::examine::is_as_headers_say(self.run, diff, split)?)
    }

    fn tables(&self) -> Result<Tables, TxnError> {
        self.survey.tables().ok_or_else(|| TxnError::Broken { id: self.id.clone(), why: "a table cannot be read".to_owned() })
    }

    fn declare(&self) -> Result<WriteTxn, TxnError> {
        let txn = self.run.begin()?;
        let tables =
            self.survey.tables().ok_or_else(|| TxnError::Broken { id: self.id.clone(), why: "a table cannot be read".to_owned() })?;
        let parent = self.survey.described.get(self.id).and_then(|described| described.parent.clone());
        txn.declare_heal(&tables, self.id, parent.as_ref(), &self.link, "it is damaged", self.incomplete)?;
        Ok(txn)
    }

    /// The tar from the tar-split, the files that are sound, and donors for those that are not.
    fn rebuild(&self, diff: &Dir, split: &File, donors: &Donors, seen: &Seen) -> Result<(), TxnError> {
        let txn = self.declare()?;
        let failed = |source: std::io::Error| TxnError::Disk(crate::fsio::Error { call: "pipe", path: diff.path().to_owned(), source });
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                let written = extract::write_tar(diff, split, |name| donors.get(name), BufWriter::with_capacity(128 << 10, writer));
                if let Err(error) = written {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the tar of a damaged layer cannot be put together");
                }
            });
            let staged = self.stage(&txn, reader);
            // A reader that gave up has closed the pipe: the writer ends.
            if writing.join().is_err() {
                return Err(TxnError::Cancelled);
            }
            staged
        })?;
        self.finish(txn, Some(seen), Some(seen))
    }

    fn stage(&self, txn: &WriteTxn, tar: impl Read + Send) -> Result<(), TxnError> {
        let spec = LayerSpec { id: self.id.clone(), diff_id: self.diff_id.clone(), blob: None, blob_bytes: None };
        txn.stage_layer(&spec, tar, &|bytes| self.run.how.progress.repaired(bytes))
    }

    /// Keeps what is nobody's, by what is `known` of the contents, and commits.
    fn finish(&self, txn: WriteTxn, seen: Option<&Seen>, known: Option<&Seen>) -> Result<(), TxnError> {
        if let Some(split) = &self.split
            && !self.split_is_gone(seen)
        {
            // It says the same as the one that was made now, in its writer's words.
            txn.keep_split(self.id, split)?;
        }
        if let (Some(diff), Some(known)) = (&self.diff, known) {
            let names: Vec<Vec<u8>> = if known.more > 0 {
                // What is too much may be among what is counted and not listed.
                diff.names()?.into_iter().map(OsStringExt::into_vec).collect()
            } else {
                topmost(known)
            };
            extras::keep(&txn, self.id, diff, &names)?;
        }
        super::commit(txn)
    }

    fn refetch(&self, seen: Option<&Seen>) -> Result<Layered, TxnError> {
        let Some(supply) = self.run.supply else {
            self.unseal()?;
            return Ok(Layered::NeedsBytes);
        };
        let described = self.survey.described.get(self.id);
        let record = self.survey.record(self.id);
        let mut blobs: Vec<(Digest, u64)> =
            described.iter().flat_map(|d| d.blobs.iter().map(|blob| (blob.digest.clone(), blob.size))).collect();
        if let Some(digest) = record.and_then(|record| record.compressed_diff_digest()).and_then(Loose::known)
            && blobs.iter().all(|(known, _)| known != digest)
        {
            blobs.push((digest.clone(), record.and_then(|record| u64::try_from(record.compressed_size()).ok()).unwrap_or(0)));
        }
        let images = self.run.every_name_on(self.survey, self.id);
        let wanted = WantedLayer { diff_id: self.diff_id.clone(), blobs, images };
        let blob = match supply.layer(&wanted) {
            Ok(Some(blob)) => blob,
            Ok(None) => {
                self.unseal()?;
                let nameless = wanted.images.is_empty();
                let next =
                    if nameless { "; no image on it has a name that says where to ask: name a source, --refetch=SOURCE" } else { "" };
                return Ok(Layered::NotFetched(format!("no source has layer {}{next}", self.diff_id)));
            }
            Err(error) => {
                self.run.could_not_check();
                self.unseal()?;
                return Ok(Layered::NotFetched(in_one_line(&*error)));
            }
        };
        let txn = self.declare()?;
        if let Err(error) = self.stage(&txn, blob) {
            drop(txn);
            self.unseal()?;
            return match error {
                TxnError::Extract { .. } | TxnError::DiffId { .. } | TxnError::BlobDigest { .. } => {
                    self.run.could_not_check();
                    Ok(Layered::NotFetched(in_one_line(&error)))
                }
                other => Err(other),
            };
        }
        let against;
        let known = match &self.diff {
            // Until now nothing told what is the layer's and what is somebody else's.
            Some(diff) if self.split_is_gone(seen) => {
                let (_, split) = txn.staged_contents(self.id)?;
                against = examine::against(self.run, diff, &split, &self.diff_id)?.ok_or(TxnError::Cancelled)?;
                // Only the tar-split was lost: the contents that are there are kept.
                if against.is_sound() && record.is_some() && !self.incomplete {
                    txn.keep_contents(self.id)?;
                    super::commit(txn)?;
                    return Ok(Layered::Healed);
                }
                Some(&against)
            }
            _ => seen,
        };
        self.finish(txn, seen, known)?;
        Ok(Layered::Healed)
    }

    fn split_is_gone(&self, seen: Option<&Seen>) -> bool {
        self.split.is_none() || seen.is_none_or(Seen::split_is_damaged)
    }

    /// A seal would tell the next pull that the layer is sound.
    fn unseal(&self) -> Result<(), TxnError> {
        let Some(dir) = directory(&self.run.layout.overlay, self.id.as_str())? else { return Ok(()) };
        if dir.meta(crate::overlay::SEAL)?.is_none() {
            return Ok(());
        }
        let txn = self.run.begin()?;
        txn.mend(Mend::Unseal { id: self.id.clone(), link: self.link.clone() });
        super::commit(txn)
    }
}
