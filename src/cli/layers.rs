//! `cstor-rs layers`

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Context;
use super::out::stdout;

/// List layers
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print an array of objects
    #[arg(long)]
    json: bool,
    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = stdout();
    let Some(snapshot) = context.reader()?.read()? else {
        if args.json {
            writeln!(out, "[]")?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut users: HashMap<String, Vec<&str>> = HashMap::new();
    for image in snapshot.images() {
        let mut next = image.layer().cloned();
        // A chain is at most 500 long; a loop in a hostile table must end.
        let mut left = 1000;
        while let Some(id) = next.take_if(|_| left > 0) {
            left -= 1;
            next = id.known().and_then(|id| snapshot.layer(id)).and_then(|layer| layer.parent()).cloned();
            users.entry(id.to_string()).or_default().push(image.id_text());
        }
    }
    let list: Vec<Value> = snapshot
        .layers()
        .map(|layer| {
            json!({
                "id": layer.id_text(), "parent": layer.parent().map(ToString::to_string), "names": layer.names(), "created": layer.created(),
                "diff_digest": layer.diff_digest().map(ToString::to_string), "compressed_digest": layer.compressed_diff_digest().map(ToString::to_string),
                "diff_size": layer.diff_size(), "images": users.get(layer.id_text()).map_or_else(Vec::new, Clone::clone),
                "flags": if layer.incomplete() { vec!["incomplete"] } else { vec![] },
            })
        })
        .collect();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for layer in snapshot.layers() {
        if args.quiet {
            writeln!(out, "{}", layer.id_text())?;
            continue;
        }
        let size = u64::try_from(layer.diff_size()).map_or("unknown".to_owned(), |n| indicatif::HumanBytes(n).to_string());
        let parent = layer.parent().map_or("-", |p| p.as_str().get(..12).unwrap_or_default());
        let images = users.get(layer.id_text()).map_or(0, Vec::len);
        let flag = if layer.incomplete() { "\tincomplete" } else { "" };
        writeln!(out, "{}\t{parent}\t{size}\t{images} images{flag}", layer.id_text())?;
    }
    Ok(ExitCode::SUCCESS)
}
