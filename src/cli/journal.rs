//! `cstor-rs journal`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::recovery::{self, SegmentInfo};
use serde_json::{Value, json};

use super::Context;

/// List the journal's segments
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print an array of objects
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    list(context, args.json)
}

/// Prints what lies in the journal; nothing is changed.
pub(super) fn list(context: &Context, as_json: bool) -> anyhow::Result<ExitCode> {
    let segments = match context.reader()?.layout()? {
        Some(layout) => recovery::segments(&layout)?,
        None => Vec::new(),
    };
    let mut out = std::io::stdout().lock();
    if as_json {
        let list: Vec<Value> = segments.iter().map(object).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for segment in &segments {
        let owner = if segment.alive { "its owner lives" } else { "its owner is dead" };
        writeln!(out, "{} {} ({owner})", segment.txn, segment.state)?;
        for step in &segment.steps {
            writeln!(out, "    {step}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn object(segment: &SegmentInfo) -> Value {
    json!({
        "transaction": segment.txn, "state": segment.state, "alive": segment.alive, "pid": segment.pid,
        "images": segment.images, "layers": segment.layers, "steps": segment.steps,
    })
}
