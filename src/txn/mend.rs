//! What fsck changes: ordinary changes of a transaction, and tables rewritten whole.
//!
//! A table that is lost or contradicts itself is replaced by one rename, under all three locks and without a segment: what was
//! there before is damaged, what is there afterwards is whole, and there is nothing between the two to recover.

use crate::fsio::{self, Dir, optional};
use crate::ids::{Digest, ImageId, LayerId, LinkId, TxnId};
use crate::layout::{EDITED_IMAGES, EDITED_LAYERS, IMAGES_JSON, LAYERS_JSON, LOST_AND_FOUND, Layout, Tables, split_name};
use crate::lock::{StoreLocks, Wait};
use crate::metadata::{self, Images, Layers, Loose, MAX_TABLE_BYTES};
use crate::overlay::{Ancestry, read_link_id};
use crate::plan::{Change, Mend, Source, WantedLayer, gone_stage, mend_stage};

use super::begin::Declared;
use super::{TxnError, WriteTxn};

/// The deepest chain that is walked; a ring in a hostile table must end.
const CHAIN_MAX: usize = 500;

/// The files around a layer's contents that are to be replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Whether `link` is.
    pub link: bool,
    /// The text of `lower`, if it is.
    pub lower: Option<String>,
    /// The text of `lower-layers`, if it is.
    pub lower_layers: Option<String>,
    /// Files among these that are one too many.
    pub gone: Vec<&'static str>,
    /// Directories, of `work` and `empty`, that are missing.
    pub made: Vec<&'static str>,
}

impl WriteTxn {
    /// Puts right what stands around a layer's contents, its entry in `l/` included. The layer keeps, or gets, this LINKID.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn mend_around(&self, id: &LayerId, link: &LinkId, files: &Around) -> Result<(), TxnError> {
        let dir = self.staging()?.stage.mkdir(mend_stage(id), 0o700)?;
        let own = files.link.then(|| link.as_str().to_owned());
        for (name, text) in [("link", &own), ("lower", &files.lower), ("lower-layers", &files.lower_layers)] {
            if let Some(text) = text {
                dir.create(name, 0o644)?.append(text.as_bytes())?;
            }
        }
        for name in &files.gone {
            dir.create(gone_stage(name), 0o600)?;
        }
        for name in &files.made {
            dir.mkdir(name, 0o700)?;
        }
        self.contents().changes.push(Change::Mend(Mend::Around { id: id.clone(), link: link.clone() }));
        Ok(())
    }

    /// Puts a document back that an image's record describes: `digest` is what the record says, or the id for a config.
    ///
    /// # Errors
    ///
    /// A key that has no file name, the disk.
    pub fn mend_document(&self, image: &ImageId, key: &str, bytes: &[u8]) -> Result<(), TxnError> {
        let file = metadata::big_data_file(key)?;
        let staging = self.staging()?;
        let side = match optional(staging.image_side.dir(image.as_str()))? {
            Some(side) => side,
            None => staging.image_side.mkdir(image.as_str(), 0o700)?,
        };
        side.create(&file, 0o600)?.append(bytes)?;
        let mend = Mend::Document { image: image.clone(), key: key.to_owned(), file, digest: Digest::of(bytes) };
        self.contents().changes.push(Change::Mend(mend));
        Ok(())
    }

    /// Replaces only the tar-split of a layer that was declared by [`WriteTxn::declare_heal`] and staged: its contents are sound.
    ///
    /// # Errors
    ///
    /// A layer that was not staged, the disk.
    pub fn keep_contents(&self, id: &LayerId) -> Result<(), TxnError> {
        let staging = self.staging()?;
        {
            let mut contents = self.contents();
            let declared = contents.declared.get(id).cloned().ok_or_else(|| TxnError::Undeclared { id: id.clone() })?;
            let wanted = contents.layers.get_mut(id).ok_or_else(|| TxnError::NotStaged { id: id.clone() })?;
            wanted.source = Source::Reused { link: declared.link.clone(), sealing: false };
            contents.changes.push(Change::Mend(Mend::Split { id: id.clone(), link: declared.link }));
        }
        Ok(staging.stage.remove_tree(id.as_str())?)
    }

    /// Stages a copy of this tar-split instead of the one that was made while a layer was staged.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn keep_split(&self, id: &LayerId, split: &fsio::File) -> Result<(), TxnError> {
        let side = &self.staging()?.layer_side;
        let name = split_name(id);
        side.unlink(&name)?;
        let mut copy = side.create(&name, 0o600)?;
        let mut buffer = vec![0; 128 << 10];
        let mut at = 0;
        loop {
            let got = split.read_at(at, &mut buffer)?;
            if got == 0 {
                return Ok(());
            }
            copy.append(buffer.get(..got).unwrap_or_default())?;
            at += got as u64;
        }
    }

    /// The contents and the tar-split of a layer that was staged and not committed yet.
    ///
    /// # Errors
    ///
    /// A layer that was not staged, the disk.
    pub fn staged_contents(&self, id: &LayerId) -> Result<(Dir, fsio::File), TxnError> {
        let staging = self.staging()?;
        Ok((staging.stage.dir(id.as_str())?.dir("diff")?, staging.layer_side.file(split_name(id))?))
    }

    /// Declares a layer of the store whose contents are to be exchanged for sound ones, which [`WriteTxn::stage_layer`] stages.
    /// It keeps, or gets, this LINKID. Of the layers below it only the LINKIDs are read: whether they are sound does not matter
    /// to it. A layer without a record is made anew on `parent`. `even_incomplete`: under a record that says incomplete, too.
    ///
    /// # Errors
    ///
    /// A chain that cannot be followed; a mount or container that uses the layer or one built on it.
    pub fn declare_heal(
        &self,
        tables: &Tables,
        id: &LayerId,
        parent: Option<&LayerId>,
        link: &LinkId,
        why: &str,
        even_incomplete: bool,
    ) -> Result<(), TxnError> {
        if let Some(user) = tables.user_of(&self.layout, id)? {
            return Err(TxnError::InUse { id: id.clone(), why: why.to_owned(), user });
        }
        let broken = |id: &LayerId, why: &str| TxnError::Broken { id: id.clone(), why: why.to_owned() };
        let mut below = Vec::new();
        let record = tables.layers.get(id);
        let mut next = match record {
            Some(record) => record.parent().cloned(),
            None => parent.map(|parent| Loose::Known(parent.clone())),
        };
        while let Some(loose) = next {
            let parent = loose.known().ok_or_else(|| broken(id, "the id of a layer below it is none"))?.clone();
            let record = tables.layers.get(&parent).ok_or_else(|| broken(&parent, "it has no record"))?;
            let diff_id = record.diff_digest().and_then(Loose::known).ok_or_else(|| broken(&parent, "its record has no diff-digest"))?;
            let link =
                read_link_id(&self.layout.overlay.dir(parent.as_str())?)?.ok_or_else(|| broken(&parent, "its link file is damaged"))?;
            if below.len() == CHAIN_MAX {
                return Err(TxnError::TooManyLayers { count: CHAIN_MAX + 1 });
            }
            below.push((parent, link, diff_id.clone()));
            next = record.parent().cloned();
        }
        let (mut ancestry, mut above) = (Ancestry::default(), None::<LayerId>);
        let mut contents = self.contents();
        for (parent, link, diff_id) in below.into_iter().rev() {
            if !contents.declared.contains_key(&parent) {
                let declared =
                    Declared { link: link.clone(), ancestry: ancestry.clone(), parent: above.clone(), heal: false, even_incomplete: false };
                let source = Source::Reused { link: link.clone(), sealing: false };
                contents.order.push(parent.clone());
                contents.declared.insert(parent.clone(), declared);
                contents.layers.insert(parent.clone(), WantedLayer { id: parent.clone(), parent: above, diff_id, source });
            }
            ancestry = ancestry.child_of(parent.clone(), link);
            above = Some(parent);
        }
        contents.order.push(id.clone());
        contents
            .declared
            .insert(id.clone(), Declared { link: link.clone(), ancestry, parent: above, heal: record.is_some(), even_incomplete });
        Ok(())
    }

    /// Adds a repair that needs nothing staged.
    pub fn mend(&self, mend: Mend) {
        self.contents().changes.push(Change::Mend(mend));
    }

    /// The directory for copies of what repairs take away, made if missing.
    /// # Errors
    ///
    /// Those of the disk.
    pub fn lost_and_found(&self) -> Result<Dir, TxnError> {
        Ok(self.layout.ensure_own(LOST_AND_FOUND)?)
    }
}

/// Tables that take the place of what is there; `None`: it stays.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// layers.json
    pub layers: Option<Layers>,
    /// images.json
    pub images: Option<Images>,
}

/// Replaces tables by what `decide` makes of the store under all three locks. A table that could not be read is copied to
/// `cstor-rs/lost+found` first. Says whether anything was replaced.
///
/// # Errors
///
/// A lock held too long, what `decide` fails with, the disk. A table is then as it was, or replaced whole.
pub fn rewrite_tables<E: From<TxnError>>(
    layout: &Layout,
    wait: &Wait<'_>,
    decide: impl FnOnce(&Layout) -> Result<Rewrite, E>,
) -> Result<bool, E> {
    let locks = StoreLocks::write(&layout.layers, &layout.images, &layout.containers, wait);
    let mut locks = locks.map_err(TxnError::from)?;
    let rewrite = decide(layout)?;
    let txn = TxnId::random().map_err(super::stage::random_failed)?;
    let write = |dir: &Dir, temp: &str, name: &str, bytes: &[u8]| -> Result<(), TxnError> {
        keep_damaged(layout, dir, name, &txn)?;
        Ok(dir.write_temp(temp, bytes, 0o600).map(drop)?)
    };
    if let Some(layers) = &rewrite.layers {
        write(&layout.layers, EDITED_LAYERS, LAYERS_JSON, &layers.encode())?;
    }
    if let Some(images) = &rewrite.images {
        write(&layout.images, EDITED_IMAGES, IMAGES_JSON, &images.encode())?;
        layout.note_history(&txn, images).map_err(TxnError::from)?;
    }
    // Layers first: no image is to name one that is not there. The token before each rename, or readers trust a stale cache.
    if rewrite.layers.is_some() {
        locks.touch_layers().map_err(TxnError::from)?;
        layout.layers.rename(EDITED_LAYERS, &layout.layers, LAYERS_JSON).map_err(TxnError::from)?;
        layout.layers.sync().map_err(TxnError::from)?;
    }
    if rewrite.images.is_some() {
        locks.touch_images().map_err(TxnError::from)?;
        layout.images.rename(EDITED_IMAGES, &layout.images, IMAGES_JSON).map_err(TxnError::from)?;
        layout.images.sync().map_err(TxnError::from)?;
    }
    Ok(rewrite.layers.is_some() || rewrite.images.is_some())
}

/// Copies a table that is there and cannot be read: somebody may want to look at it.
fn keep_damaged(layout: &Layout, dir: &Dir, name: &str, txn: &TxnId) -> Result<(), TxnError> {
    let bytes = match dir.read(name, MAX_TABLE_BYTES) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        _ => return Ok(()),
    };
    let readable = if name == LAYERS_JSON { Layers::parse(&bytes).is_ok() } else { Images::parse(&bytes).is_ok() };
    if readable {
        return Ok(());
    }
    let lost = layout.ensure_own(LOST_AND_FOUND)?;
    Ok(lost.replace(".new", format!("{name}.{txn}"), &bytes, 0o600)?)
}

/// Gives lock files that are missing or too short their 64 bytes, under all three locks.
///
/// # Errors
///
/// A lock held too long, the disk.
pub fn renew_locks(layout: &Layout, wait: &Wait<'_>) -> Result<(), TxnError> {
    let mut locks = StoreLocks::write(&layout.layers, &layout.images, &layout.containers, wait)?;
    locks.touch_layers()?;
    locks.touch_images()?;
    Ok(())
}
