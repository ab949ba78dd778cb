//! `cstor-rs recover`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::recovery::Outcome;
use cstor_rs::store::Store;
use serde_json::{Value, json};

use super::out::stdout;
use super::{Context, exit};

/// Finish or take back what a crash left half done
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Say what waits in the journal, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// An outcome in words.
pub(super) fn say(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Dropped => "had not begun to change the store: its staging was removed",
        Outcome::RolledBack => "was rolled back",
        Outcome::RolledForward => "was finished",
        Outcome::Abandoned => "was given up, because a layer of its images is gone; its other layers stay",
        Outcome::CleanedUp => "had ended: what it left behind was removed",
        Outcome::SetAside => "has a damaged segment, which was set aside as .bad",
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        return super::journal::list(context, args.json);
    }
    let store = Store::open(context.options())?;
    let report = store.recovered();
    let mut out = stdout();
    if args.json {
        let ended: Vec<Value> = report
            .ended
            .iter()
            .map(|(txn, outcome)| json!({"transaction": txn, "outcome": format!("{outcome:?}"), "text": say(*outcome)}))
            .collect();
        let pending: Vec<Value> = report.pending.iter().map(|(txn, why)| json!({"transaction": txn, "why": why})).collect();
        writeln!(out, "{}", json!({"ended": ended, "pending": pending, "alive": report.alive}))?;
    } else {
        for (txn, outcome) in &report.ended {
            writeln!(out, "{txn} {}", say(*outcome))?;
        }
        for (txn, why) in &report.pending {
            writeln!(out, "{txn} still waits: {why}")?;
        }
        if report.ended.is_empty() && report.pending.is_empty() {
            writeln!(out, "nothing to recover")?;
        }
    }
    Ok(if report.pending.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}
