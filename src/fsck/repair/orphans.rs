//! What nothing needs: moved out of the way in one transaction, removed after it. Documents of an image, which are small and may
//! be all that tells of it, are copied to `cstor-rs/lost+found` first.

use super::commit;
use crate::fsck::finding::Finding;
use crate::fsck::fix::Fix;
use crate::fsck::run::Run;
use crate::fsck::survey::{directory, document};
use crate::fsio::Kind;
use crate::ids::ImageId;
use crate::plan::Mend;
use crate::txn::{TxnError, WriteTxn};

pub(super) fn mend(run: &Run<'_>, findings: &mut [&mut Finding]) -> Result<(), TxnError> {
    let txn = run.begin()?;
    for finding in findings {
        if let Fix::Mend(mend) = &finding.fix {
            if let Mend::BuryImage { id } = mend {
                keep(run, &txn, id)?;
            }
            txn.mend(mend.clone());
        }
    }
    commit(txn)
}

fn keep(run: &Run<'_>, txn: &WriteTxn, id: &ImageId) -> Result<(), TxnError> {
    let Some(dir) = directory(&run.layout.images, id.as_str())? else { return Ok(()) };
    let lost = txn.lost_and_found()?;
    let home = lost.mkdir(format!("{id}-{}", txn.id()), 0o700)?;
    for (name, kind) in dir.entries()? {
        if kind == Kind::File
            && let Some(text) = name.to_str()
            && let Some(bytes) = document(&dir, text)?
        {
            home.create(text, 0o600)?.append(&bytes)?;
        }
    }
    home.sync_tree()?;
    Ok(lost.sync()?)
}
