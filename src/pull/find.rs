//! From a reference to one image: manifest and config, nothing fetched yet.

use std::collections::HashMap;

use super::{Event, Progress, PullError, PullOptions};
use crate::ids::{Digest, ImageId};
use crate::registry::{Descriptor, ImageConfig, ImageSource, Place, Platform, RegistryError, config, plain};
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

/// Finds the image of one reference.
pub(super) fn resolve(place: &Place, options: &PullOptions, progress: &dyn Progress) -> Result<Found, PullError> {
    let reference = place.to_string();
    let wrap = |source| PullError::Source { reference: reference.clone(), source: Box::new(source) };
    let opened = place.open(&options.registry).map_err(wrap)?;
    let resolved = opened.source.manifest(&options.wanted_platform()).map_err(wrap)?;
    let bytes = opened.source.config(&resolved.image.config).map_err(wrap)?;
    let count = resolved.image.layers.len();
    let parsed = config::parse(&bytes, count)
        .map_err(|source| wrap(RegistryError::Content { what: format!("config {}", resolved.image.config.digest), source }))?;
    if parsed.diff_ids.len() != count {
        return Err(PullError::NoDiffIds { reference, layers: count });
    }
    check_platform(&reference, &parsed, resolved.index.is_some(), options, progress)?;
    progress.event(Event::Resolved { name: &reference, layers: count });
    let id = ImageId::of_config(&Digest::of(&bytes));
    let digest = resolved.digest().clone();
    let spec = ImageSpec {
        config: bytes,
        manifest: resolved.image.raw,
        index: resolved.index.map(|index| index.raw),
        diff_ids: parsed.diff_ids,
        names: opened.names,
        created: parsed.created,
    };
    Ok(Found { reference, source: opened.source, layers: resolved.image.layers, digest, spec, id })
}

/// An image for another platform: refused where one was asked for, else no more than worth a word, as for podman.
fn check_platform(
    reference: &str,
    config: &ImageConfig,
    chosen: bool,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<(), PullError> {
    let seen = config.platform();
    let wanted = options.wanted_platform();
    if seen.as_ref().is_some_and(|seen| wanted.rank(seen).is_some()) {
        return Ok(());
    }
    let refuse = |seen| Err(PullError::OtherPlatform { reference: reference.to_owned(), seen, wanted: wanted.to_string() });
    match (seen, options.platform.is_some()) {
        (Some(seen), true) => refuse(shown(&seen)),
        // Of an image that says nothing the index it was chosen from does.
        (None, true) if !chosen => refuse("a platform that it does not name".to_owned()),
        (Some(seen), false) => {
            progress.event(Event::OtherPlatform { name: reference, seen: &shown(&seen), wanted: &wanted });
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

/// A platform in an image's own words, fit for a message.
pub(super) fn shown(platform: &Platform) -> String {
    plain(&platform.to_string(), 100)
}

/// Refuses a name that two images of the batch would take: which of them got it would be chance.
pub(super) fn check_names(found: &[Found]) -> Result<(), PullError> {
    let mut holders: HashMap<&str, &Found> = HashMap::new();
    for one in found {
        for name in &one.spec.names {
            let holder = holders.entry(name).or_insert(one);
            if holder.id != one.id {
                let (first, second) = (holder.reference.clone(), one.reference.clone());
                return Err(PullError::NameTwice { name: name.clone(), first, second });
            }
        }
    }
    Ok(())
}
