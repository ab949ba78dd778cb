//! What the commands that change images and layers have in common.

use std::process::ExitCode;

use anyhow::bail;
use cstor_rs::metadata::ImageRef;
use cstor_rs::pull::PullError;
use cstor_rs::reference::Reference;
use cstor_rs::registry::{SystemFiles, candidates};
use cstor_rs::store::Store;
use cstor_rs::txn::{Prepared, Receipt, TxnError, TxnOptions, WriteTxn};

use super::exit::Outcome;
use super::out::tell;
use super::{Context, exit, signals};

/// A store that there must be: these commands make none. A signal ends waiting for its locks.
pub(super) fn existing(context: &Context) -> anyhow::Result<Store> {
    if context.reader()?.layout()?.is_none() {
        bail!("there is no store at {}; the first pull makes one", context.config.graphroot.display());
    }
    context.store_with(Some(signals::listen()?.flag))
}

/// What a person calls an image.
pub(super) fn image_ref(text: &str) -> anyhow::Result<ImageRef> {
    Ok(ImageRef::Typed { text: text.to_owned(), names: candidates(text, &SystemFiles::of_process())? })
}

/// A name that an image is to get: without a registry it means localhost, as for `podman tag`.
pub(super) fn new_name(text: &str) -> anyhow::Result<String> {
    Ok(Reference::local(text)?.stored_name())
}

/// One transaction that stages nothing by itself; `None` where the store says all of this already.
pub(super) fn transact(store: &Store, changes: impl FnOnce(&WriteTxn) -> Result<(), TxnError>) -> anyhow::Result<Option<Receipt>> {
    let txn = store.begin(TxnOptions::default()).map_err(PullError::from)?;
    changes(&txn).map_err(PullError::from)?;
    commit(txn)
}

/// Prepares and commits.
pub(super) fn commit(txn: WriteTxn) -> anyhow::Result<Option<Receipt>> {
    match txn.prepare().map_err(PullError::from)? {
        Prepared::Ready(prepared) => Ok(Some(prepared.commit().map_err(PullError::from)?)),
        Prepared::Nothing => Ok(None),
        Prepared::NeedLayers(..) => Err(PullError::Vanishing { rounds: 1 }.into()),
    }
}

/// Each item for itself: what fails is told, and the others go on; behind a signal none is begun.
pub(super) fn each<T>(items: &[T], mut one: impl FnMut(&T) -> anyhow::Result<()>) -> ExitCode {
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items {
        if signals::received().is_some() {
            outcomes.push(Outcome::Cancelled);
            continue;
        }
        outcomes.push(match one(item) {
            Ok(()) => Outcome::Done,
            Err(error) => {
                tell(format_args!("error: {}", exit::chain(&error)));
                Outcome::of(&error)
            }
        });
    }
    ExitCode::from(exit::code(&outcomes, signals::received()))
}
