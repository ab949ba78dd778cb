//! Exit codes: 0 done, 1 failed and changed nothing, 2 usage, 3 in doubt, 64 busy, 130 and 143 by signal.

use std::process::ExitCode;

use cstor_rs::pull::PullError;
use cstor_rs::settle::SettleError;
use cstor_rs::store::StoreError;

use super::out::{nobody_reads, tell};
use super::signals;

/// At least one item failed, and each that failed changed nothing.
pub(super) const FAILED: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// The commit may or may not be durable; the next open decides.
const IN_DOUBT: u8 = 3;
/// Something was held by somebody else.
const BUSY: u8 = 64;

/// What is wrong with the command line; for what clap may not print, such as credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) &'static str);

/// How one item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It failed and changed nothing.
    Failed,
    /// It failed because somebody else held something.
    Busy,
    /// It may or may not be done.
    InDoubt,
    /// It was taken back, or not begun, because of a signal.
    Cancelled,
}

impl Outcome {
    /// What an error means for the item that it ended.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        let (in_doubt, cancelled, busy) = if let Some(pull) = error.downcast_ref::<PullError>() {
            (pull.in_doubt(), pull.is_cancelled(), pull.is_busy())
        } else if let Some(store) = error.downcast_ref::<StoreError>() {
            (false, store.is_cancelled(), store.is_busy())
        } else if let Some(settle) = error.downcast_ref::<SettleError>() {
            (false, settle.is_cancelled(), settle.is_busy())
        } else {
            (false, false, false)
        };
        match () {
            () if in_doubt => Self::InDoubt,
            () if cancelled => Self::Cancelled,
            () if busy => Self::Busy,
            () => Self::Failed,
        }
    }
}

/// The exit code of all items together. A doubt goes before everything: no other code tells that the store may have changed.
/// Then a signal, if it kept anything from being done; then a failure; busy only if nothing failed for another reason.
pub(super) fn code(outcomes: &[Outcome], signal: Option<u8>) -> u8 {
    let any = |wanted| outcomes.contains(&wanted);
    match signal {
        _ if any(Outcome::InDoubt) => IN_DOUBT,
        Some(signal) if any(Outcome::Cancelled) => 128 + signal,
        _ if any(Outcome::Failed) || any(Outcome::Cancelled) => FAILED,
        _ if any(Outcome::Busy) => BUSY,
        _ => 0,
    }
}

/// Prints an error with its causes, and turns it into the exit code.
pub(super) fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if nobody_reads(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {}", chain(&error)));
            ExitCode::from(if error.is::<Usage>() { USAGE } else { code(&[Outcome::of(&error)], signals::received()) })
        }
    }
}

/// An error and its causes in one line, each said once.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let one = cause.to_string();
        if text.ends_with(&one) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&one);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_goes_before_a_signal_before_a_failure_before_busy() {
        use Outcome::{Busy, Cancelled, Done, Failed, InDoubt};
        let table: &[(&[Outcome], Option<u8>, u8)] = &[
            (&[], None, 0),
            (&[Done], None, 0),
            (&[Done], Some(2), 0),
            (&[Done, Failed], None, 1),
            (&[Busy, Done], None, 64),
            (&[Busy, Failed], None, 1),
            (&[Failed, Busy], None, 1),
            (&[InDoubt, Busy], None, 3),
            (&[Busy, InDoubt], None, 3),
            (&[InDoubt, Failed], None, 3),
            (&[InDoubt], Some(2), 3),
            (&[InDoubt, Cancelled], Some(15), 3),
            (&[Done, Cancelled], Some(2), 130),
            (&[Cancelled], Some(15), 143),
            (&[Failed, Cancelled], Some(2), 130),
            (&[Busy, Cancelled], Some(2), 130),
            (&[Failed], Some(2), 1),
            (&[Busy], Some(2), 64),
            (&[Cancelled], None, 1),
        ];
        for (outcomes, signal, want) in table {
            assert_eq!(code(outcomes, *signal), *want, "{outcomes:?} {signal:?}");
        }
    }

    #[test]
    fn every_kind_of_error_has_its_outcome() {
        use cstor_rs::lock::LockError;
        use cstor_rs::txn::{CommitError, TxnError};
        let txn: cstor_rs::ids::TxnId = "0".repeat(32).parse().unwrap();
        let source = || Box::new(std::io::Error::other("x"));
        let busy = || LockError::Busy { path: "l".into(), holder: "h".into(), waited_ms: 1 };
        let given_up = || LockError::Cancelled { path: "l".into() };
        let tables = |error| StoreError::from(cstor_rs::layout::TablesError::from(error));
        let table: Vec<(anyhow::Error, Outcome)> = vec![
            (PullError::from(CommitError::InDoubt { txn: txn.clone(), source: source() }).into(), Outcome::InDoubt),
            (PullError::from(CommitError::RolledBack { txn, source: source() }).into(), Outcome::Failed),
            (PullError::from(TxnError::from(busy())).into(), Outcome::Busy),
            (PullError::from(TxnError::from(given_up())).into(), Outcome::Cancelled),
            (PullError::Cancelled.into(), Outcome::Cancelled),
            (tables(busy()).into(), Outcome::Busy),
            (tables(given_up()).into(), Outcome::Cancelled),
            (PullError::from(tables(given_up())).into(), Outcome::Cancelled),
            (SettleError::from(busy()).into(), Outcome::Busy),
            (SettleError::from(tables(given_up())).into(), Outcome::Cancelled),
            (SettleError::NoSync.into(), Outcome::Failed),
            (anyhow::anyhow!("else"), Outcome::Failed),
        ];
        for (error, want) in table {
            assert_eq!(Outcome::of(&error), want, "{error:?}");
        }
    }
}
