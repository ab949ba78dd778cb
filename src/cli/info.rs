//! `cstor-rs info`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::recovery;
use serde_json::json;

use super::Context;
use super::out::stdout;

/// Describe the store
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let store = context.reader()?;
    let snapshot = store.read()?;
    let segments = match store.layout()? {
        Some(layout) => recovery::segments(&layout)?,
        None => Vec::new(),
    };
    let waiting = segments.iter().filter(|segment| !segment.alive).count();
    let (images, layers) = snapshot.as_ref().map_or((0, 0), |s| (s.images().count(), s.layers().count()));
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"), "graphroot": store.graphroot(), "runroot": store.runroot(), "driver": "overlay",
        "exists": snapshot.is_some(), "images": images, "layers": layers,
        "transactions_alive": segments.len() - waiting, "recoveries_waiting": waiting,
    });
    let mut out = stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
    } else if let Some(object) = value.as_object() {
        for (key, value) in object {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(out, "{key}: {text}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
