//! What can be told without reading the contents of files.
//!
//! Looked at twice: without a lock, and what was found once more under shared locks, over tables read anew. What another program
//! is just making or removing is then either done or not begun, and no finding.

mod images;
mod journal;
mod layers;
mod links;
mod locks;
mod orphans;
mod strays;
mod tables;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};

use super::Finding;
use super::code::Code;
use super::elsewhere::Elsewhere;
use super::finding::Repair;
use super::fix::Fix;
use super::survey::{Links, Survey};
use crate::fsio::{self, Kind};
use crate::history::History;
use crate::ids::{ImageId, LayerId};
use crate::layout::Layout;
use crate::lock::{CONTAINERS_LOCK, IMAGES_LOCK, LAYERS_LOCK, StoreLocks, StoreReadGuard, Wait};
use crate::txn::TxnError;
pub(in crate::fsck) use journal::held;

/// One look at a store.
pub(super) struct Quick<'a> {
    layout: &'a Layout,
    survey: &'a Survey,
    links: Links<'a>,
    /// Only these objects.
    only: Option<&'a HashSet<String>>,
    /// What transactions in the journal hold on to.
    held: Held,
    findings: Vec<Finding>,
    /// Every layer that anything names, and what does.
    wanted: BTreeMap<LayerId, String>,
    history: OnceCell<History>,
}

/// What transactions in the journal hold on to, be their owners alive or not.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub layers: HashSet<LayerId>,
    /// Those of them that go when the journal is recovered.
    pub going_back: HashSet<LayerId>,
    pub images: HashSet<ImageId>,
}

/// Looks at a store: twice, where anything is found.
///
/// # Errors
///
/// A lock held too long, the disk.
pub(super) fn quick(layout: &Layout, elsewhere: &Elsewhere, wait: &Wait<'_>) -> Result<(Survey, Vec<Finding>), TxnError> {
    let survey = Survey::read(layout, elsewhere)?;
    let first = Quick::run(layout, &survey, None)?;
    if first.is_empty() {
        return Ok((survey, first));
    }
    let suspects: HashSet<String> = first.iter().map(object_of).collect();
    let locks = lock(layout, wait)?;
    let survey = Survey::read(layout, elsewhere)?;
    let second = Quick::run(layout, &survey, Some(&suspects));
    drop(locks);
    let mut findings = second?;
    findings.retain(|finding| first.iter().any(|seen| seen.key() == finding.key()));
    for finding in &mut findings {
        if let Some(id) = finding.layer_id() {
            finding.images = survey.images_on(&id);
        } else if let Some(image) = finding.image_id().and_then(|id| survey.images().get(&id)) {
            finding.images = vec![super::survey::called(image)];
        }
    }
    Ok((survey, findings))
}

/// All locks, shared. A lock that is not there nobody holds, and to take it would make it: looking changes nothing.
fn lock(layout: &Layout, wait: &Wait<'_>) -> Result<Option<StoreReadGuard>, TxnError> {
    for (dir, name) in [(&layout.layers, LAYERS_LOCK), (&layout.images, IMAGES_LOCK), (&layout.containers, CONTAINERS_LOCK)] {
        if dir.meta(name)?.is_none_or(|meta| meta.kind != Kind::File) {
            return Ok(None);
        }
    }
    Ok(Some(StoreLocks::read(&layout.layers, &layout.images, &layout.containers, wait)?))
}

/// What is looked at again when this was found.
fn object_of(finding: &Finding) -> String {
    finding.layer.clone().or_else(|| finding.image.clone()).or_else(|| finding.path.clone()).unwrap_or_default()
}

impl<'a> Quick<'a> {
    fn run(layout: &'a Layout, survey: &'a Survey, only: Option<&'a HashSet<String>>) -> fsio::Result<Vec<Finding>> {
        let held = journal::held(layout);
        let mut quick = Self {
            layout,
            survey,
            links: Links::new(layout, survey),
            only,
            held,
            findings: Vec::new(),
            wanted: BTreeMap::new(),
            history: OnceCell::new(),
        };
        quick.wanted = quick.wanted_layers();
        quick.journal();
        quick.locks()?;
        quick.tables();
        quick.link_entries()?;
        quick.layers();
        quick.needed()?;
        quick.images();
        quick.names();
        quick.containers();
        quick.orphans()?;
        quick.strays()?;
        quick.unneeded();
        Ok(quick.findings)
    }

    fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether this object is to be looked at.
    fn wants(&self, object: &str) -> bool {
        self.only.is_none_or(|only| only.contains(object))
    }

    /// Looks at one object; what cannot be read of it is said of it alone.
    fn object(&mut self, name: &str, layer: bool, look: impl FnOnce(&mut Self) -> fsio::Result<()>) {
        if !self.wants(name) {
            return;
        }
        let before = self.findings.len();
        if let Err(error) = look(self) {
            self.findings.truncate(before);
            let mut finding = Finding::report(Code::CheckFailed, "check the medium").seen(error.to_string());
            finding = if layer { finding.layer(name) } else { finding.image(name) };
            self.push(finding);
        }
    }

    /// A layer that nothing names: it has no record, and no transaction of ours is making it.
    fn is_stranger(&self, id: &LayerId) -> bool {
        self.survey.record(id).is_none() && !self.held.layers.contains(id)
    }
}

/// A finding that is mended offline by putting right what stands around a layer.
fn around(code: Code, id: &LayerId, link: &crate::ids::LinkId, action: &str) -> Finding {
    Finding::new(code, Repair::Offline, Fix::Around { id: id.clone(), link: link.clone() }, action).layer(id)
}
