//! Repairs: findings turned into changes, and these committed like anyone else's.

mod contents;
mod documents;
mod donors;
mod extras;
mod images;
mod orphans;
mod structure;
mod tables;

pub(super) use contents::{Layered, mend_layer};
pub(super) use tables::Corrections;

use super::finding::{Finding, Outcome};
use super::fix::Phase;
use super::run::Run;

use crate::causes::in_one_line;
use crate::layout::{Layout, Route};
use crate::lock::Wait;
use crate::recovery;
use crate::txn::{self, Prepared, TxnError, TxnOptions, WriteTxn};

/// Repairs what one phase is about. Whether it helped is told by the next look.
pub(super) fn run(run: &Run<'_>, phase: Phase, findings: &mut [&mut Finding]) {
    let done = match phase {
        Phase::Places => txn::renew_locks(&run.layout, &run.wait()),
        Phase::Tables => tables::mend(run, &Corrections::default()),
        Phase::Journal => journal(run),
        Phase::Structure => structure::mend(run, findings),
        Phase::Documents => documents::mend(run, findings),
        Phase::Orphans => orphans::mend(run, findings),
        Phase::Contents | Phase::Never => Ok(()),
    };
    if let Err(error) = done {
        for finding in findings {
            fail(finding, &error);
        }
    }
}

/// Says why a finding stays.
pub(super) fn fail(finding: &mut Finding, error: &TxnError) {
    finding.result = if error.is_busy() { Outcome::Busy } else { Outcome::Failed };
    finding.why = Some(in_one_line(error));
}

/// Puts records right that reading their layers has told more of.
pub(super) fn correct(run: &Run<'_>, corrections: &Corrections) -> Result<(), TxnError> {
    tables::mend(run, corrections)
}

/// Prepares and commits.
pub(super) fn commit(txn: WriteTxn) -> Result<(), TxnError> {
    match txn.prepare()? {
        Prepared::Ready(prepared) => prepared.commit().map(drop).map_err(|error| Box::new(error).into()),
        Prepared::Nothing => Ok(()),
        Prepared::NeedLayers(_, layers) => {
            let id = layers.into_iter().next();
            Err(id.map_or(TxnError::Cancelled, |id| TxnError::NotStaged { id }))
        }
    }
}

impl Run<'_> {
    /// A transaction on the store that is repaired.
    pub(super) fn begin(&self) -> Result<WriteTxn, TxnError> {
        let options = TxnOptions { wait: self.how.wait, interrupt: self.how.interrupt.clone(), ..TxnOptions::default() };
        WriteTxn::begin(&self.layout, options)
    }

    /// How long to wait for a lock.
    pub(super) fn wait(&self) -> Wait<'_> {
        Wait::new(self.how.wait, self.how.interrupt.as_deref())
    }
}

fn journal(run: &Run<'_>) -> Result<(), TxnError> {
    let strays = recovery::side_strays(&run.layout)?;
    let report = recovery::run(&run.layout, &run.wait())?;
    if let Some((txn, why)) = report.pending.into_iter().next() {
        return Err(TxnError::Pending { what: format!("transaction {txn}"), why });
    }
    sweep(&run.layout, strays)
}

/// Removes what dead transactions left beside the tables.
fn sweep(layout: &Layout, strays: Vec<crate::ids::TxnId>) -> Result<(), TxnError> {
    if strays.is_empty() {
        return Ok(());
    }
    let route = Route::open(layout)?;
    for txn in strays {
        recovery::sweep(layout, &route, &txn).map_err(recovery::RecoveryError::from)?;
    }
    Ok(())
}
