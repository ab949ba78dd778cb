//! Rounds of looking and repairing: each puts right what the next relies on.

use std::collections::{HashMap, HashSet};

use super::check;
use super::code::Code;
use super::examine::{self, Verdict};
use super::finding::{Finding, Key, Outcome, Repair};
use super::fix::{Fix, Phase};
use super::options::FsckError;
use super::repair::{self, Corrections, Layered};
use super::run::Run;
use super::survey::Survey;
use crate::ids::LayerId;
use crate::txn::TxnError;

/// The most rounds.
const ROUNDS: usize = 24;

/// Looks and repairs until nothing more can be done without reading contents.
pub(super) fn rounds(run: &Run<'_>) -> Result<Vec<Finding>, FsckError> {
    let mut tried: HashMap<Key, Finding> = HashMap::new();
    let mut order: Vec<Key> = Vec::new();
    let mut round = 0;
    loop {
        let (survey, mut findings) = check::quick(&run.layout, &run.elsewhere, &run.wait())?;
        let wanted = run.wanted_layers(&survey);
        findings.retain(|finding| run.concerns(&wanted, finding));
        let now: HashSet<Key> = findings.iter().map(Finding::key).collect();
        for (key, finding) in tried.iter_mut().filter(|(key, _)| !now.contains(key)) {
            tracing::debug!(?key, "is not found any more");
            finding.result = Outcome::Healed;
            finding.why = None;
        }
        let is_open = |finding: &Finding| run.may(finding) && !tried.contains_key(&finding.key());
        let recovers = survey.tables().is_some() && findings.iter().any(|finding| finding.fix == Fix::Recover && is_open(finding));
        let phase = match findings.iter().filter(|finding| is_open(finding)).map(|finding| finding.fix.phase()).min() {
            Some(phase) if round < ROUNDS && !run.is_stopped() => phase,
            _ => return Ok(merge(findings, tried, order)),
        };
        // Where the tables can be read, what the journal has begun is ended before they are put right.
        let phase = if phase == Phase::Tables && recovers { Phase::Journal } else { phase };
        let mut chosen: Vec<&mut Finding> =
            findings.iter_mut().filter(|finding| finding.fix.phase() == phase && is_open(finding)).collect();
        if phase == Phase::Contents {
            layers(run, &survey, &mut chosen);
        } else {
            repair::run(run, phase, &mut chosen);
        }
        let done: Vec<Finding> = chosen.into_iter().map(|finding| finding.clone()).collect();
        order.extend(done.iter().map(Finding::key));
        tried.extend(done.into_iter().map(|finding| (finding.key(), finding)));
        round += 1;
    }
}

/// What was healed, and what is there still, with what was tried.
fn merge(findings: Vec<Finding>, mut tried: HashMap<Key, Finding>, order: Vec<Key>) -> Vec<Finding> {
    let mut list: Vec<Finding> = Vec::new();
    let there: HashSet<Key> = findings.iter().map(Finding::key).collect();
    for key in order {
        if !there.contains(&key)
            && let Some(finding) = tried.remove(&key)
        {
            list.push(finding);
        }
    }
    for mut finding in findings {
        if let Some(before) = tried.remove(&finding.key()) {
            finding.result = if before.result == Outcome::Found { Outcome::Failed } else { before.result };
            finding.why = before.why;
            if finding.result == Outcome::Healed {
                finding.result = Outcome::Failed;
                finding.why = Some("it was healed and is damaged again".to_owned());
            }
            // Bytes were needed, and none were to be fetched: nothing was tried.
            if finding.why.is_none() && finding.repair == Repair::Refetch {
                finding.result = Outcome::Found;
            }
        }
        list.push(finding);
    }
    list
}

/// Layers whose directory, contents or tar-split are gone, or that are flagged incomplete.
fn layers(run: &Run<'_>, survey: &Survey, findings: &mut [&mut Finding]) {
    let mut done: HashMap<LayerId, (Outcome, Option<String>)> = HashMap::new();
    // Those below first: a layer is made anew on the one it is built on.
    let depth = |finding: &&mut Finding| {
        let id = finding.layer_id();
        let record = id.as_ref().and_then(|id| survey.record(id));
        let described =
            id.as_ref().and_then(|id| survey.described.get(id)).and_then(|d| d.parent.as_ref()).and_then(|id| survey.record(id));
        record.or(described).and_then(|record| survey.below(record)).map_or(0, |below| below.len())
    };
    findings.sort_by_key(depth);
    for finding in findings {
        let Some(id) = finding.layer_id() else { continue };
        if let Some((result, why)) = done.get(&id) {
            finding.result = *result;
            finding.why.clone_from(why);
            continue;
        }
        let (result, why) = match incomplete_or_lost(run, survey, &id, finding.code) {
            Ok(Layered::Healed) => (Outcome::Healed, None),
            Ok(Layered::NeedsBytes) => (Outcome::Found, None),
            Ok(Layered::NotFetched(why)) => (Outcome::Failed, Some(why)),
            Err(error) => {
                repair::fail(finding, &error);
                (finding.result, finding.why.clone())
            }
        };
        // Whether it is healed the next look tells.
        finding.result = if result == Outcome::Healed { Outcome::Found } else { result };
        finding.why.clone_from(&why);
        done.insert(id, (finding.result, why));
    }
}

fn incomplete_or_lost(run: &Run<'_>, survey: &Survey, id: &LayerId, code: Code) -> Result<Layered, TxnError> {
    // The layer may have been put right by the repair of one above or below it.
    let fresh;
    let survey = if survey.record(id).is_none() || code == Code::LayerLost {
        fresh = Survey::read(&run.layout, &run.elsewhere)?;
        &fresh
    } else {
        survey
    };
    let seen = match examine::layer(run, survey, id) {
        Verdict::Seen(identity, seen) if seen.is_sound() && code == Code::LayerIncomplete => {
            return complete(run, identity).map(|()| Layered::Healed);
        }
        Verdict::Seen(_, seen) => Some(seen),
        Verdict::Failed(error) => return Err(error.into()),
        Verdict::Stopped | Verdict::Passed => None,
    };
    let healed = repair::mend_layer(run, survey, id, seen.as_deref())?;
    if healed == Layered::Healed
        && code == Code::LayerIncomplete
        && let Verdict::Seen(identity, seen) = examine::layer(run, &Survey::read(&run.layout, &run.elsewhere)?, id)
        && seen.is_sound()
    {
        complete(run, identity)?;
    }
    Ok(healed)
}

/// The layer is complete, whatever its flag says.
fn complete(run: &Run<'_>, identity: examine::Identity) -> Result<(), TxnError> {
    let Some(link) = identity.link else { return Ok(()) };
    repair::correct(run, &Corrections { complete: vec![(identity.id, link)], ..Corrections::default() })
}
