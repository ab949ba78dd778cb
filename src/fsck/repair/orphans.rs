//! What nothing needs: moved out of the way in one transaction, removed after it.

use super::commit;
use crate::fsck::finding::Finding;
use crate::fsck::fix::Fix;
use crate::fsck::run::Run;
use crate::plan::Mend;
use crate::txn::TxnError;

pub(super) fn mend(run: &Run<'_>, findings: &mut [&mut Finding]) -> Result<(), TxnError> {
    let txn = run.begin()?;
    for finding in findings {
        match finding.fix.clone() {
            Fix::BuryLayer { id, link } => txn.mend(Mend::BuryLayer { id, link }),
            Fix::BuryImage { id } => txn.mend(Mend::BuryImage { id }),
            Fix::Stray { place, name } => txn.mend(Mend::Stray { place, name }),
            _ => {}
        }
    }
    commit(txn)
}
