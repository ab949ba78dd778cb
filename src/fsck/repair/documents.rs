//! The documents of images.

use super::commit;
use crate::causes::in_one_line;
use crate::fsck::finding::{Finding, Outcome};
use crate::fsck::fix::Fix;
use crate::fsck::run::Run;
use crate::fsck::supply::WantedDocument;
use crate::fsck::survey::{config_key, directory, document};
use crate::ids::{Digest, ImageId};
use crate::txn::TxnError;

pub(super) fn mend(run: &Run<'_>, findings: &mut [&mut Finding]) -> Result<(), TxnError> {
    let txn = run.begin()?;
    for finding in findings.iter_mut() {
        let Fix::Document { image, key, twin } = finding.fix.clone() else { continue };
        let Some(digest) = finding.expected.as_ref().and_then(|text| text.parse::<Digest>().ok()) else { continue };
        let bytes = match twin {
            Some(twin) => copy(run, &image, &twin, &digest)?,
            None => fetch(run, finding, &image, &key, &digest),
        };
        if let Some(bytes) = bytes {
            txn.mend_document(&image, &key, &bytes)?;
        }
    }
    commit(txn)
}

fn copy(run: &Run<'_>, image: &ImageId, twin: &str, digest: &Digest) -> Result<Option<Vec<u8>>, TxnError> {
    let Some(dir) = directory(&run.layout.images, image.as_str())? else { return Ok(None) };
    Ok(document(&dir, twin)?.filter(|bytes| Digest::of(bytes) == *digest))
}

fn fetch(run: &Run<'_>, finding: &mut Finding, image: &ImageId, key: &str, digest: &Digest) -> Option<Vec<u8>> {
    let supply = run.supply?;
    let is_manifest = key.starts_with("manifest") && key != config_key(image);
    let wanted = WantedDocument { digest: digest.clone(), is_manifest, images: run.names_of(image) };
    let (result, why) = match supply.document(&wanted) {
        Ok(Some(bytes)) if Digest::of(&bytes) == *digest => return Some(bytes),
        Ok(Some(bytes)) => (Outcome::Failed, format!("the source gave {} instead of {digest}", Digest::of(&bytes))),
        Ok(None) => (Outcome::Failed, format!("the source does not have {digest}")),
        Err(error) => {
            run.could_not_check();
            (Outcome::Failed, in_one_line(&*error))
        }
    };
    finding.result = result;
    finding.why = Some(why);
    None
}
