//! From a reference to one image: manifest and config, nothing fetched yet.

use super::{Event, Progress, PullError, PullOptions};
use crate::ids::{Digest, ImageId};
use crate::registry::{Descriptor, ImageSource, Place, RegistryError, config};
use crate::txn::ImageSpec;

/// One image, found and not yet fetched.
pub(super) struct Found {
    pub(super) reference: String,
    pub(super) source: Box<dyn ImageSource>,
    pub(super) layers: Vec<Descriptor>,
    pub(super) digest: Digest,
    pub(super) spec: ImageSpec,
    pub(super) id: ImageId,
}

pub(super) fn resolve(place: &Place, options: &PullOptions, progress: &dyn Progress) -> Result<Found, PullError> {
    let reference = place.to_string();
    let wrap = |source| PullError::Source { reference: reference.clone(), source: Box::new(source) };
    let opened = place.open(&options.registry).map_err(wrap)?;
    let resolved = opened.source.manifest(&options.platform).map_err(wrap)?;
    let bytes = opened.source.config(&resolved.image.config).map_err(wrap)?;
    let count = resolved.image.layers.len();
    let parsed = config::parse(&bytes, count)
        .map_err(|source| wrap(RegistryError::Content { what: format!("config {}", resolved.image.config.digest), source }))?;
    if parsed.diff_ids.len() != count {
        return Err(PullError::NoDiffIds { reference, layers: count });
    }
    progress.event(Event::Resolved { name: &reference, layers: count });
    let id = ImageId::of_config(&Digest::of(&bytes));
    let digest = resolved.digest().clone();
    let spec = ImageSpec {
        config: bytes,
        manifest: resolved.image.raw,
        index: resolved.index.map(|index| index.raw),
        diff_ids: parsed.diff_ids,
        names: opened.name.into_iter().collect(),
        created: parsed.created,
    };
    Ok(Found { reference, source: opened.source, layers: resolved.image.layers, digest, spec, id })
}
