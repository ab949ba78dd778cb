//! Exit codes: 0 done, 1 failed and changed nothing, 2 usage, 3 in doubt, 64 busy, 130 and 143 by signal.

use std::process::ExitCode;

use cstor_rs::config::ConfigError;
use cstor_rs::pull::PullError;
use cstor_rs::store::StoreError;

use super::signals;

/// At least one item failed, and each that failed changed nothing.
pub(super) const FAILED: u8 = 1;
/// The commit may or may not be durable; the next open decides.
pub(super) const IN_DOUBT: u8 = 3;
/// Something was held by somebody else.
pub(super) const BUSY: u8 = 64;

/// Prints an error with its causes, and turns it into the exit code.
pub(super) fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::from(code_of(&error))
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

/// The exit code that an error stands for.
pub(super) fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(signal) = signals::received() {
        return 128 + signal;
    }
    if error.is::<ConfigError>() {
        return FAILED;
    }
    if let Some(pull) = error.downcast_ref::<PullError>() {
        if pull.in_doubt() {
            return IN_DOUBT;
        }
        if pull.is_busy() {
            return BUSY;
        }
    }
    match error.downcast_ref::<StoreError>() {
        Some(store) if store.is_busy() => BUSY,
        _ => FAILED,
    }
}
