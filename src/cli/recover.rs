//! `cstor-rs recover`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::ids::TxnId;
use cstor_rs::recovery::{self, Outcome};
use cstor_rs::store::Store;
use serde_json::{Value, json};

use super::out::stdout;
use super::{Context, exit};

/// Finish or take back what a crash left half done
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Say what would be done as far as the journal tells, and change nothing
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

fn say_would(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Dropped => "has not begun to change the store: its staging would be removed",
        Outcome::RolledBack => "would be rolled back",
        Outcome::RolledForward => "would be finished, or given up if a layer of its images is gone",
        Outcome::Abandoned => "would be given up, because a layer of its images is gone; its other layers would stay",
        Outcome::CleanedUp => "has ended: what it left behind would be removed",
        Outcome::SetAside => "has a damaged segment, which would be set aside as .bad",
    }
}

/// An outcome as `--json` has it; these do not change.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Dropped => "dropped",
        Outcome::RolledBack => "rolled_back",
        Outcome::RolledForward => "rolled_forward",
        Outcome::Abandoned => "abandoned",
        Outcome::CleanedUp => "cleaned_up",
        Outcome::SetAside => "set_aside",
    }
}

/// What was done, or would be.
#[derive(Default)]
struct Ends {
    ended: Vec<(TxnId, Outcome)>,
    pending: Vec<(TxnId, String)>,
    left: Vec<(TxnId, String)>,
    alive: Vec<TxnId>,
}

impl Ends {
    fn print(&self, key: &str, say: fn(Outcome) -> &'static str, as_json: bool) -> anyhow::Result<()> {
        let mut out = stdout();
        if as_json {
            let ended = self.ended.iter().map(|(txn, end)| json!({"transaction": txn, "outcome": word(*end), "text": say(*end)}));
            let why = |list: &[(TxnId, String)]| list.iter().map(|(txn, why)| json!({"transaction": txn, "why": why})).collect::<Vec<_>>();
            let ended: Vec<Value> = ended.collect();
            let object = json!({key: ended, "pending": why(&self.pending), "left": why(&self.left), "alive": self.alive});
            return Ok(writeln!(out, "{object}")?);
        }
        for (txn, outcome) in &self.ended {
            writeln!(out, "{txn} {}", say(*outcome))?;
        }
        for (txn, why) in &self.pending {
            writeln!(out, "{txn} still waits: {why}")?;
        }
        for (txn, why) in &self.left {
            writeln!(out, "{txn} has ended, but what it left cannot be removed: {why}")?;
        }
        for txn in &self.alive {
            writeln!(out, "{txn} is alive")?;
        }
        if self.ended.is_empty() && self.pending.is_empty() && self.left.is_empty() && self.alive.is_empty() {
            writeln!(out, "nothing to recover")?;
        }
        Ok(())
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        foretell(context)?.print("would_end", say_would, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = Store::open(context.options())?;
    let report = store.recovered().clone();
    let whole = report.pending.is_empty() && report.left.is_empty();
    let ends = Ends { ended: report.ended, pending: report.pending, left: report.left, alive: report.alive };
    ends.print("ended", say, args.json)?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn foretell(context: &Context) -> anyhow::Result<Ends> {
    let mut ends = Ends::default();
    let Some(layout) = context.reader()?.layout()? else { return Ok(ends) };
    for segment in recovery::segments(&layout)? {
        match segment.end {
            _ if segment.alive => ends.alive.push(segment.txn),
            Some(end) => ends.ended.push((segment.txn, end)),
            None => ends.pending.push((segment.txn, "its intent cannot be read".to_owned())),
        }
    }
    ends.ended.extend(recovery::leftovers(&layout)?.into_iter().map(|txn| (txn, Outcome::CleanedUp)));
    Ok(ends)
}
