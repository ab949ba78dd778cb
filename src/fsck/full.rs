//! The full check: every layer read, and what differs put right.

use std::collections::HashSet;

use super::code::{Code, Level};
use super::examine::{self, Verdict};
use super::finding::{Finding, Key, Outcome, Repair};
use super::fix::Fix;
use super::options::{FsckError, Summary};
use super::repair::{self, Corrections, Layered};
use super::run::Run;
use super::state::State;
use super::survey::Survey;
use crate::ids::LayerId;
use crate::txn::TxnError;

/// The full check.
pub(super) fn check(run: &Run<'_>, known: &[Finding], summary: &mut Summary) -> Result<Vec<Finding>, FsckError> {
    if run.how.level != Level::Full {
        return Ok(Vec::new());
    }
    let survey = &Survey::read(&run.layout, &run.elsewhere).map_err(TxnError::from)?;
    let damaged: HashSet<LayerId> = known.iter().filter(|f| matches!(f.fix, Fix::Contents { .. })).filter_map(Finding::layer_id).collect();
    // A look at some images neither goes on with a check of all nor ends it.
    let some = !run.how.images.is_empty();
    let mut state = if some && !run.how.since_clean { State::default() } else { State::load(&run.layout).unwrap_or_default() };
    let wanted = run.wanted_layers(survey);
    let mut seen = HashSet::new();
    let ids: Vec<LayerId> = survey
        .records()
        .filter(|record| !record.incomplete() && record.diff_digest().is_some())
        .filter_map(|record| record.id().cloned())
        .filter(|id| !damaged.contains(id) && (run.how.images.is_empty() || wanted.contains(id)) && seen.insert(id.clone()))
        .filter(|id| !state.is_done(run, id))
        .collect();
    // What an earlier run of this check has found damaged is said again, after all that was not read yet.
    let (again, ids): (Vec<LayerId>, Vec<LayerId>) = ids.into_iter().partition(|id| state.is_damaged(id));
    let bytes = ids.iter().chain(&again).filter_map(|id| survey.record(id)).filter_map(|r| u64::try_from(r.diff_size()).ok()).sum();
    run.how.progress.begin(ids.len() + again.len(), bytes);
    let mut list = Vec::new();
    let mut verdicts = examine::layers(run, survey, &ids, false);
    if !again.is_empty() && !verdicts.values().any(|verdict| matches!(verdict, Verdict::Stopped)) {
        // They are few, or the store is lost: however late it is, or no run would ever be the last.
        verdicts.extend(examine::layers(run, survey, &again, true));
    }
    for id in ids.iter().chain(&again) {
        match verdicts.remove(id) {
            Some(Verdict::Seen(identity, seen)) => {
                summary.layers += 1;
                summary.bytes += seen.bytes;
                if seen.is_sound() {
                    state.done(&identity);
                } else {
                    state.damaged(id);
                    list.extend(heal(run, survey, id, &seen));
                }
            }
            Some(Verdict::Stopped) | None => summary.stopped = true,
            Some(Verdict::Passed) => {}
            Some(Verdict::Failed(error)) => {
                list.push(Finding::report(Code::CheckFailed, "check the medium").layer(id).seen(error.to_string()));
            }
        }
    }
    list.extend(sizes(run));
    list.retain(|finding| run.concerns(&wanted, finding));
    for finding in &mut list {
        finding.images = finding.layer_id().map(|id| survey.images_on(&id)).unwrap_or_default();
    }
    if some {
        return Ok(list);
    }
    state.end(run, summary.stopped, list.iter().chain(known).all(|f| !f.is_damage() || f.result == Outcome::Healed))?;
    Ok(list)
}

/// The findings of one layer, and what became of them.
fn heal(run: &Run<'_>, survey: &Survey, id: &LayerId, seen: &examine::Seen) -> Vec<Finding> {
    let mut findings = examine::findings(id, seen);
    if !run.how.repair {
        return findings;
    }
    let why = match repair::mend_layer(run, survey, id, Some(seen)) {
        Ok(Layered::Healed | Layered::NeedsBytes) => None,
        Ok(Layered::NotFetched(why)) => Some(why),
        Err(error) => {
            findings.iter_mut().for_each(|finding| repair::fail(finding, &error));
            return findings;
        }
    };
    // Not seen, not healed (F3).
    let after = match examine::layer(run, survey, id) {
        Verdict::Seen(_, after) => Ok(examine::findings(id, &after).iter().map(Finding::key).collect::<HashSet<Key>>()),
        Verdict::Failed(error) => Err(error.to_string()),
        Verdict::Stopped | Verdict::Passed => {
            Err("it was repaired, and not read again: stopped, or changed by another program; run fsck again".to_owned())
        }
    };
    for finding in &mut findings {
        match &after {
            Ok(still) if !still.contains(&finding.key()) => finding.result = Outcome::Healed,
            // Bytes are needed, and none were to be fetched: nothing was tried.
            Ok(_) if finding.repair == Repair::Refetch && why.is_none() && run.supply.is_none() => {}
            Ok(_) => {
                finding.result = Outcome::Failed;
                finding.why = why.clone();
            }
            Err(unread) => {
                finding.result = Outcome::Failed;
                finding.why = Some(unread.clone());
            }
        }
    }
    findings
}

/// Records that say another length than the layer has.
fn sizes(run: &Run<'_>) -> Vec<Finding> {
    let wrong = run.take_sizes();
    let mut findings: Vec<Finding> = wrong
        .iter()
        .map(|(id, said, seen)| {
            Finding::new(Code::LayerRecordWrong, Repair::Offline, Fix::Tables, "put diff-size right")
                .layer(id)
                .at("overlay-layers/layers.json")
                .expected(format!("diff-size {seen}"))
                .seen(format!("diff-size {said}"))
        })
        .collect();
    if run.how.repair && !findings.is_empty() {
        let corrections = Corrections { sizes: wrong.into_iter().map(|(id, _, seen)| (id, seen)).collect(), ..Corrections::default() };
        let result = repair::correct(run, &corrections);
        for finding in &mut findings {
            match &result {
                Ok(()) => finding.result = Outcome::Healed,
                Err(error) => repair::fail(finding, error),
            }
        }
    }
    findings
}
