//! What cannot be healed and is dropped: images, and layers that are damaged and that no image is on.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, Outcome, Repair};
use super::fix::Fix;
use super::repair;
use super::run::{Run, name_of};
use super::survey::Survey;
use crate::ids::{ImageId, LayerId};
use crate::metadata::{ImageRef, Loose};
use crate::plan::SeveralNames;
use crate::txn::TxnError;

/// Drops what the findings that are not healed make useless.
pub(super) fn unhealed(run: &Run<'_>, findings: &mut [Finding]) {
    let Ok(survey) = Survey::read(&run.layout, &run.elsewhere) else { return };
    let mut images: BTreeMap<ImageId, Vec<usize>> = BTreeMap::new();
    let mut layers: BTreeMap<LayerId, Vec<usize>> = BTreeMap::new();
    for (at, finding) in findings.iter().enumerate() {
        if !is_hopeless(finding) {
            continue;
        }
        let on: BTreeSet<ImageId> = match (finding.image_id(), finding.layer_id()) {
            (Some(image), _) => [image].into(),
            (None, Some(layer)) => images_with(&survey, &layer),
            (None, None) => BTreeSet::new(),
        };
        if on.is_empty()
            && let Some(layer) = finding.layer_id().filter(|layer| survey.layers().get(layer).is_some())
        {
            layers.entry(layer).or_default().push(at);
        }
        for image in on.into_iter().filter(|image| survey.images().get(image).is_some()) {
            images.entry(image).or_default().push(at);
        }
    }
    for (image, at) in images {
        let action = format!("drop image {}", name_of(&survey, &image));
        let done = drop_image(run, &image);
        note(findings, &at, &action, &done);
    }
    for (layer, at) in layers {
        let done = drop_layer(run, &layer);
        note(findings, &at, "drop the layer: no image is on it", &done);
    }
}

/// Whether nothing but dropping is left: bytes are needed that were not to be had.
fn is_hopeless(finding: &Finding) -> bool {
    let open = matches!(finding.result, Outcome::Found | Outcome::Failed);
    open && match finding.repair {
        Repair::Prune => true,
        Repair::Refetch => true,
        Repair::Offline => finding.result == Outcome::Failed && matches!(finding.fix, Fix::Contents { .. }),
        Repair::Report => finding.layer.is_some() && finding.code == super::Code::LayerLost,
        Repair::None => false,
    }
}

fn images_with(survey: &Survey, layer: &LayerId) -> BTreeSet<ImageId> {
    let on = |image: &crate::metadata::Image| {
        let chain = image.id().and_then(|id| survey.documents.get(id)).is_some_and(|documents| documents.chain.contains(layer));
        let mut next = image.layer().and_then(Loose::known).cloned();
        let mut deep = 0;
        while let Some(id) = next {
            if id == *layer {
                return true;
            }
            deep += 1;
            next = survey.record(&id).filter(|_| deep < 1000).and_then(|record| record.parent()).and_then(Loose::known).cloned();
        }
        chain
    };
    survey.images().iter().filter(|image| on(image)).filter_map(|image| image.id().cloned()).collect()
}

fn drop_image(run: &Run<'_>, image: &ImageId) -> Result<(), TxnError> {
    let txn = run.begin()?;
    txn.remove_image(ImageRef::Id(image.clone()), SeveralNames::Remove)?;
    repair::commit(txn)
}

fn drop_layer(run: &Run<'_>, layer: &LayerId) -> Result<(), TxnError> {
    let txn = run.begin()?;
    txn.remove_layer(layer)?;
    repair::commit(txn)
}

fn note(findings: &mut [Finding], at: &[usize], action: &str, done: &Result<(), TxnError>) {
    for at in at {
        let Some(finding) = findings.get_mut(*at) else { continue };
        match done {
            Ok(()) => {
                action.clone_into(&mut finding.action);
                finding.result = Outcome::Dropped;
                finding.why = None;
            }
            Err(error) => repair::fail(finding, error),
        }
    }
}
