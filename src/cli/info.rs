//! `cstor-rs info`

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use cstor_rs::lock::holders;
use cstor_rs::partial;
use cstor_rs::read::Snapshot;
use cstor_rs::recovery;
use serde_json::{Value, json};

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
    let layout = store.layout()?;
    let (segments, held) = match &layout {
        Some(layout) => (recovery::segments(layout)?, holders(&layout.layers, &layout.images, &layout.containers)?),
        None => (Vec::new(), Vec::new()),
    };
    let kept = layout.as_ref().map_or_else(|| Ok(partial::Usage::default()), partial::usage)?;
    let waiting = segments.iter().filter(|segment| !segment.alive).count();
    let snapshot = match store.read() {
        Ok(snapshot) => snapshot,
        // Then who holds what is what people want to know.
        Err(error) if error.is_busy() => None,
        Err(error) => return Err(error.into()),
    };
    let count = |n: fn(&Snapshot) -> u64| match &snapshot {
        Some(snapshot) => Some(n(snapshot)),
        None => layout.is_none().then_some(0),
    };
    let known = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let size = snapshot.as_ref().map(|s| s.layers().fold(0u64, |sum, layer| sum.saturating_add(known(layer.diff_size()))));
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"), "graphroot": store.graphroot(), "runroot": store.runroot(), "driver": "overlay",
        "exists": layout.is_some(), "backing_filesystem": layout.as_ref().and_then(|layout| filesystem(layout.root.path())),
        "images": count(|s| s.images().count() as u64), "layers": count(|s| s.layers().count() as u64), "layers_size": size,
        "partial_blobs": kept.blobs, "partial_size": kept.bytes,
        "transactions_alive": segments.len() - waiting, "recoveries_waiting": waiting,
        "locks": held.iter().map(|(lock, holder)| json!({"lock": lock, "holder": holder})).collect::<Vec<_>>(),
    });
    let mut out = stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "locks") {
        let text = match value {
            Value::Null => "unknown".to_owned(),
            value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        };
        writeln!(out, "{key}: {text}")?;
    }
    for (lock, holder) in held {
        writeln!(out, "{lock}: held by {holder}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The kind of filesystem that a directory lies on, as mountinfo has it.
fn filesystem(dir: &Path) -> Option<String> {
    let (major, minor) = {
        let device = fs_err::metadata(dir).ok()?.dev();
        (rustix::fs::major(device), rustix::fs::minor(device))
    };
    let device = format!("{major}:{minor}");
    let text = fs_err::read_to_string("/proc/self/mountinfo").ok()?;
    let kind = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == device).then(|| filesystem.split(' ').next().map(str::to_owned))?
    };
    text.lines().find_map(kind)
}
