//! `cstor-rs layers`

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use cstor_rs::metadata::Layer;
use serde_json::{Value, json};

use super::Context;
use super::filter::{self, Filter, Subject};
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
    /// Show the digests of the uncompressed tars
    #[arg(long)]
    digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// List only what agrees: dangling=BOOL (needed by no image), id=PREFIX
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter::of_layers)]
    filter: Vec<Filter>,
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
    let listed = |layer: &&Layer| {
        let subject = Subject { id: layer.id_text(), names: layer.names(), dangling: !users.contains_key(layer.id_text()) };
        filter::lets_through(&args.filter, &subject)
    };
    let layers = snapshot.layers().filter(listed);
    if args.json {
        let list: Vec<Value> = layers.map(|layer| object(layer, users.get(layer.id_text()))).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cut = |id: &str| if args.no_trunc { id.to_owned() } else { id.chars().take(12).collect() };
    for layer in layers {
        if args.quiet {
            writeln!(out, "{}", cut(layer.id_text()))?;
            continue;
        }
        let size = u64::try_from(layer.diff_size()).map_or("unknown".to_owned(), |n| indicatif::HumanBytes(n).to_string());
        let parent = layer.parent().map_or("-".to_owned(), |parent| cut(parent.as_str()));
        let images = users.get(layer.id_text()).map_or(0, Vec::len);
        write!(out, "{}\t{parent}\t{size}\t{images} images", cut(layer.id_text()))?;
        if args.digests {
            write!(out, "\t{}", layer.diff_digest().map_or("<none>", |digest| digest.as_str()))?;
        }
        writeln!(out, "{}", if layer.incomplete() { "\tincomplete" } else { "" })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn object(layer: &Layer, users: Option<&Vec<&str>>) -> Value {
    json!({
        "id": layer.id_text(), "parent": layer.parent().map(ToString::to_string), "names": layer.names(), "created": layer.created(),
        "diff_digest": layer.diff_digest().map(ToString::to_string), "compressed_digest": layer.compressed_diff_digest().map(ToString::to_string),
        "diff_size": layer.diff_size(), "images": users.map_or(&[][..], Vec::as_slice),
        "flags": if layer.incomplete() { vec!["incomplete"] } else { vec![] },
    })
}
