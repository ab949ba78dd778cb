//! What a transaction would do, by the tables as they are: nothing is staged or written.

use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::{Tables, Users};
use crate::lock::StoreLocks;
use crate::plan::{self, Change, DiskFacts, ImageFacts, Inputs, Preview, Previewed, Source, WantedImage, WantedLayer};

use super::sight::Sight;
use super::{ImageSpec, TxnError, WriteTxn};

impl WriteTxn {
    /// What the transaction would do, by the tables as they are now. Nothing is locked for longer than it takes to look, and
    /// nothing staged. `images` are those that [`Change::Put`] names and that are not staged yet, each once.
    ///
    /// # Errors
    ///
    /// What would keep it from being prepared.
    pub fn preview(&self, images: &[ImageSpec]) -> Result<Preview, TxnError> {
        let changes = self.contents().changes.clone();
        let (layers, images) = planned(images)?;
        let wait = self.wait();
        let guard = StoreLocks::read(&self.layout.layers, &self.layout.images, &self.layout.containers, &wait)?;
        let tables = Tables::load(&self.layout)?;
        let mut sight = Sight::new(&self.layout, &changes, &images);
        sight.pins()?;
        let preview = loop {
            match plan::preview(&inputs(&tables, &sight.facts, &layers, &images, &changes))? {
                Previewed::Look(layers, images) => sight.look(&tables, &layers, &images)?,
                Previewed::Ready(preview) => break preview,
            }
        };
        drop(guard);
        Ok(preview)
    }
}

/// As [`WriteTxn::preview`], for a store that is not there yet: it is not made for that.
///
/// # Errors
///
/// What would keep these changes from being prepared.
pub fn preview_without_store(changes: &[Change], images: &[ImageSpec]) -> Result<Preview, TxnError> {
    changes.iter().try_for_each(super::change::check)?;
    let (layers, images) = planned(images)?;
    let tables = Tables::default();
    let mut disk = DiskFacts { users: Some(Users::default()), ..DiskFacts::default() };
    loop {
        match plan::preview(&inputs(&tables, &disk, &layers, &images, changes))? {
            Previewed::Look(_, images) => disk.images.extend(images.into_iter().map(|id| (id, ImageFacts::default()))),
            Previewed::Ready(preview) => return Ok(preview),
        }
    }
}

fn inputs<'a>(
    tables: &'a Tables,
    disk: &'a DiskFacts,
    layers: &'a [WantedLayer],
    images: &'a [WantedImage],
    changes: &'a [Change],
) -> Inputs<'a> {
    Inputs { tables, disk, seq: 0, wanted_layers: layers, wanted_images: images, changes }
}

/// Images that are only planned: of their layers nothing but the ids counts.
fn planned(specs: &[ImageSpec]) -> Result<(Vec<WantedLayer>, Vec<WantedImage>), TxnError> {
    let (mut layers, mut images) = (Vec::new(), Vec::new());
    for spec in specs {
        let mut parent: Option<LayerId> = None;
        for diff_id in &spec.diff_ids {
            let id = LayerId::chain(parent.as_ref(), diff_id);
            let source = Source::Reused { link: LinkId::random().map_err(super::stage::random_failed)?, sealing: false };
            layers.push(WantedLayer { id: id.clone(), parent: parent.replace(id), diff_id: diff_id.clone(), source });
        }
        let record = spec.record()?;
        let id = ImageId::of_config(&Digest::of(&spec.config));
        images.push(WantedImage { id, record: record.json().to_owned(), chain: vec![], data: vec![] });
    }
    Ok((layers, images))
}
