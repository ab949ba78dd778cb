//! What stands around the contents of layers.

use std::collections::{HashMap, HashSet};

use super::{commit, fail};
use crate::fsck::finding::Finding;
use crate::fsck::fix::Fix;
use crate::fsck::run::Run;
use crate::fsck::survey::{Links, Survey, directory, document};
use crate::fsio::Dir;
use crate::ids::{LayerId, LinkId};
use crate::metadata::Layer;
use crate::overlay::read_link_id;
use crate::txn::{Around, TxnError};

/// Everything in one transaction: a layer that gets another LINKID, and all that name it.
pub(super) fn mend(run: &Run<'_>, findings: &mut [&mut Finding]) -> Result<(), TxnError> {
    let survey = Survey::read(&run.layout, &run.elsewhere)?;
    let users = survey.users(&run.layout);
    let txn = run.begin()?;
    let mut links: HashMap<LayerId, LinkId> = HashMap::new();
    let mut around: HashSet<LayerId> = HashSet::new();
    let known = Links::new(&run.layout, &survey);
    for finding in findings.iter_mut() {
        match finding.fix.clone() {
            Fix::Mend(mend) => txn.mend(mend),
            Fix::Around { id, link } => {
                // A layer above that is mounted names the LINKID that is lost.
                let renames = known.of(&id)?.1.is_none();
                if renames && let Some(user) = users.as_ref().and_then(|users| users.of_family(&id)) {
                    let why = "its LINKID is lost".to_owned();
                    fail(finding, &TxnError::InUse { id, why, user: user.to_string() });
                    continue;
                }
                links.insert(id.clone(), link);
                around.insert(id.clone());
                if renames {
                    around.extend(above(&survey, &id));
                }
            }
            _ => {}
        }
    }
    let link_of = |id: &LayerId| -> Result<Option<LinkId>, TxnError> {
        match links.get(id) {
            Some(link) => Ok(Some(link.clone())),
            None => Ok(known.of(id)?.1),
        }
    };
    let mut ids: Vec<&LayerId> = around.iter().collect();
    ids.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    for id in ids {
        let Some(record) = survey.record(id) else { continue };
        let Some(link) = link_of(id)? else { continue };
        let Some(dir) = directory(&run.layout.overlay, id.as_str())? else { continue };
        let files = wanted(&survey, record, &dir, &link, &link_of)?;
        txn.mend_around(id, &link, &files)?;
    }
    commit(txn)
}

/// All layers that are built on this one.
fn above(survey: &Survey, id: &LayerId) -> Vec<LayerId> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut next = vec![id.clone()];
    while let Some(id) = next.pop() {
        for child in survey.children(&id).filter_map(Layer::id) {
            if seen.insert(child.clone()) {
                found.push(child.clone());
                next.push(child.clone());
            }
        }
    }
    found
}

/// The files around a layer that are not as they should be.
fn wanted(
    survey: &Survey,
    record: &Layer,
    dir: &Dir,
    link: &LinkId,
    link_of: &impl Fn(&LayerId) -> Result<Option<LinkId>, TxnError>,
) -> Result<Around, TxnError> {
    let mut files = Around { link: read_link_id(dir).ok().flatten().as_ref() != Some(link), ..Around::default() };
    if record.parent().is_none() && dir.meta("empty")?.is_none() {
        files.made.push("empty");
    }
    if dir.meta("work")?.is_none() {
        files.made.push("work");
    }
    let Some(below) = survey.below(record) else { return Ok(files) };
    let mut lower = Vec::with_capacity(below.len());
    for id in &below {
        match link_of(id)? {
            Some(link) => lower.push(format!("l/{link}")),
            None => return Ok(files),
        }
    }
    let lower = lower.join(":");
    let ids = below.iter().map(LayerId::as_str).collect::<Vec<_>>().join(":");
    let stands = |name: &str| -> Result<Option<Option<Vec<u8>>>, TxnError> {
        Ok(if dir.meta(name)?.is_some() { Some(document(dir, name)?) } else { None })
    };
    match stands("lower")? {
        Some(_) if lower.is_empty() => files.gone.push("lower"),
        None if lower.is_empty() => {}
        Some(Some(seen)) if seen == lower.as_bytes() => {}
        _ => files.lower = Some(lower),
    }
    match stands("lower-layers")? {
        None => {}
        Some(_) if ids.is_empty() => files.gone.push("lower-layers"),
        Some(Some(seen)) if seen == ids.as_bytes() => {}
        Some(_) => files.lower_layers = Some(ids),
    }
    Ok(files)
}
