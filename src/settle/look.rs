//! Which layers are wanted, and what each of them is, found out under no lock.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{BrokenImage, Outcome, SettleError, Skip, documents};
use crate::causes::in_one_line;
use crate::fsio::optional;
use crate::ids::{Digest, LayerId, LinkId};
use crate::layout::{Layout, Tables, split_name};
use crate::metadata::{Image, Layer};
use crate::overlay::{Ancestry, Facts, TreeId, read_link_id};
use crate::store::Store;
use crate::txn::{Inspection, TxnError, inspect};

/// The deepest stack of layers that overlay mounts (storage 1.44 and newer).
const MAX_LAYERS: usize = 500;

/// The layers of the wanted images.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Parents before children, each once.
    order: Vec<LayerId>,
    /// What each is built on; the layer below that has no LINKID, if there is one.
    below: HashMap<LayerId, Result<Ancestry, LayerId>>,
    pub broken: Vec<BrokenImage>,
}

impl Wanted {
    pub(super) fn of(layout: &Layout, tables: &Tables, images: &[&Image]) -> Result<Self, SettleError> {
        let mut wanted = Self::default();
        for image in images {
            if let Some(why) = documents::fault(layout, image)? {
                wanted.broken.push(BrokenImage { id: image.id_text().to_owned(), why });
            }
            match wanted.chain(tables, image) {
                Ok(chain) => wanted.add(layout, chain)?,
                Err(why) => wanted.broken.push(BrokenImage { id: image.id_text().to_owned(), why }),
            }
        }
        Ok(wanted)
    }

    /// The layers of an image, base first.
    fn chain(&self, tables: &Tables, image: &Image) -> Result<Vec<LayerId>, String> {
        let mut chain = Vec::new();
        let mut next = image.layer().cloned();
        while let Some(loose) = next {
            let id = loose.known().ok_or("a layer of it has an id that is none")?;
            let record = tables.layers.get(id).ok_or_else(|| format!("its layer {id} is not in layers.json"))?;
            // Also where the chain runs in a circle.
            if chain.len() == MAX_LAYERS {
                return Err(format!("it has more than {MAX_LAYERS} layers"));
            }
            chain.push(id.clone());
            next = record.parent().cloned();
        }
        chain.reverse();
        Ok(chain)
    }

    fn add(&mut self, layout: &Layout, chain: Vec<LayerId>) -> Result<(), SettleError> {
        let mut ancestry = Ok(Ancestry::default());
        for id in chain {
            if !self.below.contains_key(&id) {
                self.order.push(id.clone());
                self.below.insert(id.clone(), ancestry.clone());
            }
            ancestry = match ancestry {
                Err(lost) => Err(lost),
                Ok(above) => match link_of(layout, &id)? {
                    Some(link) => Ok(above.child_of(id, link)),
                    None => Err(id),
                },
            };
        }
        Ok(())
    }
}

fn link_of(layout: &Layout, id: &LayerId) -> Result<Option<LinkId>, SettleError> {
    match layout.overlay.dir(id.as_str()) {
        Ok(dir) => Ok(read_link_id(&dir)?),
        Err(error) if error.not_found() || error.is(rustix::io::Errno::NOTDIR) || error.is(rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A layer that was verified, and what it was then: under the lock it must be that one still.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    pub diff_id: Digest,
    pub parent: String,
    pub link: LinkId,
    pub tree: TreeId,
}

/// What a layer is.
#[derive(Debug)]
pub(super) struct Look {
    pub id: LayerId,
    pub link: Option<LinkId>,
    /// What becomes of it if nothing more is done.
    pub outcome: Outcome,
    /// It is to be sealed.
    pub verified: Option<Verified>,
}

/// Looks at all of them, several at a time.
pub(super) fn all(store: &Store, layout: &Layout, tables: &Tables, wanted: &Wanted, jobs: usize) -> Vec<Look> {
    let next = AtomicUsize::new(0);
    let found: Mutex<HashMap<usize, Look>> = Mutex::default();
    let work = || {
        while !store.interrupted() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = wanted.order.get(index) else { return };
            let look = one(layout, tables, wanted, id);
            found.lock().unwrap_or_else(PoisonError::into_inner).insert(index, look);
        }
    };
    thread::scope(|scope| {
        for _ in 1..jobs.min(wanted.order.len()) {
            let spawned: io::Result<_> = thread::Builder::new().name("verify".to_owned()).spawn_scoped(scope, work);
            if let Err(error) = spawned {
                // Those that there are, and this one, do it all.
                tracing::debug!(error = &error as &dyn std::error::Error, "fewer layers are verified at once");
                break;
            }
        }
        work();
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let stopped = |id: &LayerId| Look { id: id.clone(), link: None, outcome: Outcome::Stopped, verified: None };
    wanted.order.iter().enumerate().map(|(index, id)| found.remove(&index).unwrap_or_else(|| stopped(id))).collect()
}

fn one(layout: &Layout, tables: &Tables, wanted: &Wanted, id: &LayerId) -> Look {
    let mut look = Look { id: id.clone(), link: None, outcome: Outcome::Gone, verified: None };
    let (Some(record), Some(below)) = (tables.layers.get(id), wanted.below.get(id)) else { return look };
    match judge(layout, tables, record, id, below) {
        Ok((link, outcome, verified)) => {
            look = Look { link, outcome, verified, ..look };
        }
        Err(error) => look.outcome = Outcome::Failed { why: in_one_line(&error) },
    }
    look
}

type Judged = (Option<LinkId>, Outcome, Option<Verified>);

fn judge(layout: &Layout, tables: &Tables, record: &Layer, id: &LayerId, below: &Result<Ancestry, LayerId>) -> Result<Judged, TxnError> {
    let skip = |why| Ok((None, Outcome::Skipped { why }, None));
    if record.incomplete() {
        return skip(Skip::Incomplete);
    }
    let facts = Facts::read(&layout.overlay, &layout.links, id)?;
    if record.has_id_maps() || facts.rotated {
        return skip(Skip::IdMapped);
    }
    let damaged = |why: String| Ok((facts.link.clone(), Outcome::Damaged { why }, None));
    let diff_id = match record.diff_digest() {
        Some(digest) => match digest.known() {
            Some(digest) => digest,
            None => return damaged(format!("its record in layers.json has the diff-digest {digest}, which is none")),
        },
        None if optional(layout.layers.file(split_name(id)))?.is_none() => return skip(Skip::NoTarSplit),
        None => return damaged("its record in layers.json names no diff-digest".to_owned()),
    };
    let ancestry = match below {
        Ok(ancestry) => ancestry,
        Err(parent) => return skip(Skip::Parent { parent: parent.clone() }),
    };
    let (link, tree) = (facts.link.clone(), facts.tree);
    // The seal is believed: it says that contents were verified, and are on the medium. To look again is for fsck.
    if let (Some(seal), Some(link), Some(tree)) = (&facts.seal, &link, &tree)
        && seal.holds(diff_id, link, tree)
        && facts.linked
        && facts.agrees(ancestry)
    {
        return Ok((Some(link.clone()), Outcome::AlreadySealed, None));
    }
    match inspect(layout, tables, id, diff_id, ancestry)? {
        Inspection::Absent => Ok((None, Outcome::Gone, None)),
        Inspection::Sealed { link } => Ok((Some(link), Outcome::AlreadySealed, None)),
        Inspection::Verified { link: seen } => match (link, tree) {
            // The tree as it was before it was verified: were it another by then, it is another under the lock, too.
            (Some(link), Some(tree)) if link == seen => {
                let verified = Verified { diff_id: diff_id.clone(), parent: record.parent_text().to_owned(), link: link.clone(), tree };
                Ok((Some(link), super::seal::replaced(), Some(verified)))
            }
            _ => Ok((Some(seen), super::seal::replaced(), None)),
        },
        Inspection::Damaged { link, why } => Ok((Some(link), Outcome::Damaged { why }, None)),
        Inspection::Broken { why } => Ok((link, Outcome::Damaged { why }, None)),
    }
}
