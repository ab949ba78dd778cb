//! `cstor-rs images`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::metadata::Image;
use serde_json::{Value, json};

use super::Context;
use super::filter::{self, Filter, Subject};
use super::out::stdout;

/// List images
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print an array of objects
    #[arg(long)]
    json: bool,
    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// List only what agrees: reference=PATTERN, dangling=BOOL, id=PREFIX
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter::of_images)]
    filter: Vec<Filter>,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let snapshot = context.reader()?.read()?;
    let mut out = stdout();
    let Some(snapshot) = snapshot else {
        if args.json {
            writeln!(out, "[]")?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let listed = |image: &&Image| {
        let subject = Subject { id: image.id_text(), names: image.names(), dangling: image.names().is_empty() };
        filter::lets_through(&args.filter, &subject)
    };
    if args.json {
        let list: Vec<Value> = snapshot
            .images()
            .filter(listed)
            .map(|image| {
                json!({
                    "id": image.id_text(), "names": image.names(), "digest": image.digest().map(ToString::to_string), "created": image.created(),
                    "size": snapshot.image_bytes(image), "layer": image.layer().map(ToString::to_string), "read_only": false,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cut = |id: &str| if args.no_trunc { id.to_owned() } else { id.chars().take(12).collect() };
    for image in snapshot.images().filter(listed) {
        if args.quiet {
            writeln!(out, "{}", cut(image.id_text()))?;
            continue;
        }
        let size = snapshot.image_bytes(image).map_or("unknown".to_owned(), |bytes| indicatif::HumanBytes(bytes).to_string());
        let none = ["<none>".to_owned()];
        let names = if image.names().is_empty() { none.as_slice() } else { image.names() };
        for name in names {
            write!(out, "{name}\t{}\t{size}", cut(image.id_text()))?;
            if args.digests {
                write!(out, "\t{}", image.digest().map_or("<none>", |digest| digest.as_str()))?;
            }
            writeln!(out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
