//! The exit codes of `fsck` and `settle`, which add up as those of fsck(8) do.

use std::process::ExitCode;

use clap::CommandFactory;

use super::exit::{Outcome, Usage, chain};
use super::out::{nobody_reads, tell};
use super::{Args, Command};

/// Nothing is wrong.
pub(super) const CLEAN: u8 = 0;
/// Damage was found, and all of it healed without loss.
#[allow(dead_code)] // settle heals nothing
pub(super) const HEALED: u8 = 1;
/// Something damaged was dropped.
#[allow(dead_code)] // settle drops nothing
pub(super) const DROPPED: u8 = 2;
/// Damage remains.
pub(super) const DAMAGED: u8 = 4;
/// Something could not be checked.
pub(super) const UNCHECKED: u8 = 8;
/// The command line makes no sense.
pub(super) const USAGE: u8 = 16;
/// Stopped by a signal or by its time; what is left to do is done the next time.
pub(super) const STOPPED: u8 = 32;
/// Something was held by somebody else and left as it was.
pub(super) const BUSY: u8 = 64;

/// The commands whose codes these are.
const COMMANDS: &[&str] = &["fsck", "settle"];

/// Whether a command has these codes.
pub(super) fn are_of(command: &Command) -> bool {
    matches!(command, Command::Settle(_) | Command::Fsck(_))
}

/// Prints an error with its causes, and turns it into the exit code: what ended early has not checked everything.
pub(super) fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if nobody_reads(&error) => ExitCode::from(CLEAN),
        Err(error) => {
            tell(format_args!("error: {}", chain(&error)));
            ExitCode::from(match Outcome::of(&error) {
                _ if error.is::<Usage>() => USAGE,
                Outcome::Busy => BUSY,
                Outcome::Cancelled => STOPPED,
                _ => UNCHECKED,
            })
        }
    }
}

/// Ends a command line that clap refuses, or answers with help: as clap does, but for the code of these commands.
pub(super) fn refuse(error: &clap::Error) -> ExitCode {
    // Where nobody reads it there is no other place to say so.
    error.print().unwrap_or(());
    let code = u8::try_from(error.exit_code()).unwrap_or(USAGE);
    let given = || Args::command().ignore_errors(true).try_get_matches().ok()?.subcommand_name().map(str::to_owned);
    match code {
        0 => ExitCode::SUCCESS,
        _ if given().is_some_and(|name| COMMANDS.contains(&name.as_str())) => ExitCode::from(USAGE),
        code => ExitCode::from(code),
    }
}
