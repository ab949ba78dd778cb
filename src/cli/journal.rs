//! `cstor-rs journal`

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use cstor_rs::ids::TxnId;
use cstor_rs::recovery::{self, SegmentInfo};
use serde_json::{Value, json};

use super::Context;
use super::out::stdout;

/// List the journal's segments, or show one
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Print an array of objects
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    show: Option<Sub>,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Show one segment
    Show {
        /// The transaction
        txn: TxnId,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.show {
        None => list(context, args.json),
        Some(Sub::Show { txn, json }) => show(context, txn, *json),
    }
}

fn show(context: &Context, txn: &TxnId, as_json: bool) -> anyhow::Result<ExitCode> {
    let segments = segments(context)?;
    let Some(segment) = segments.iter().find(|segment| segment.txn == *txn) else {
        bail!("the journal has no transaction {txn}; `journal` lists those it has");
    };
    let mut out = stdout();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&object(segment))?)?;
    } else {
        print(&mut out, segment)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn segments(context: &Context) -> anyhow::Result<Vec<SegmentInfo>> {
    Ok(match context.reader()?.layout()? {
        Some(layout) => recovery::segments(&layout)?,
        None => Vec::new(),
    })
}

fn print(out: &mut impl Write, segment: &SegmentInfo) -> std::io::Result<()> {
    let owner = if segment.alive { "its owner lives" } else { "its owner is dead" };
    writeln!(out, "{} {} ({owner})", segment.txn, segment.state)?;
    segment.steps.iter().try_for_each(|step| writeln!(out, "    {step}"))
}

/// Prints what lies in the journal; nothing is changed.
pub(super) fn list(context: &Context, as_json: bool) -> anyhow::Result<ExitCode> {
    let segments = segments(context)?;
    let mut out = stdout();
    if as_json {
        let list: Vec<Value> = segments.iter().map(object).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for segment in &segments {
        print(&mut out, segment)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn object(segment: &SegmentInfo) -> Value {
    json!({
        "transaction": segment.txn, "state": segment.state, "alive": segment.alive, "pid": segment.pid,
        "images": segment.images, "layers": segment.layers, "steps": segment.steps,
    })
}
