//! `cstor-rs prune`

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use cstor_rs::ids::{ImageId, LayerId};
use cstor_rs::partial;
use cstor_rs::plan::Prune;
use cstor_rs::pull::PullError;
use cstor_rs::read::Snapshot;
use cstor_rs::txn::TxnOptions;
use indicatif::HumanBytes;
use serde_json::json;

use super::Context;
use super::change::{commit, existing};
use super::out::stdout;
use super::values::duration;

/// Remove images without a name, layers that nothing needs, and what is kept of downloads
///
/// Never what a container or a mount uses, or what is pinned.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Remove images with names too
    #[arg(long, short)]
    all: bool,
    /// Only say what would go, and how much that is
    #[arg(long)]
    dry_run: bool,
    /// Keep images whose documents changed less than this long ago
    #[arg(long, value_name = "TIME", default_value = "1m", allow_negative_numbers = true, value_parser = duration)]
    image_age: Duration,
    /// Keep layers that no image needs and that are younger than this
    #[arg(long, value_name = "TIME", default_value = "24h", allow_negative_numbers = true, value_parser = duration)]
    layer_age: Duration,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let store = existing(context)?;
    let (Some(layout), Some(before)) = (store.layout()?, store.read()?) else { bail!("the store is gone") };
    let txn = store.begin(TxnOptions::default()).map_err(PullError::from)?;
    txn.prune(Prune { named: args.all, image_age: args.image_age, layer_age: args.layer_age, ..Prune::new() });
    let (images, layers, downloads) = if args.dry_run {
        let preview = txn.preview(&[]).map_err(PullError::from)?;
        (preview.removed_images, preview.removed_layers, partial::usage(&layout)?)
    } else {
        let receipt = commit(txn)?;
        let downloads = partial::clear(&layout)?;
        receipt.map_or((vec![], vec![], downloads), |receipt| (receipt.removed_images, receipt.removed_layers, downloads))
    };
    print(args, &before, &images, &layers, downloads)?;
    Ok(ExitCode::SUCCESS)
}

/// The length of a layer's tar in bytes, where it is known.
fn size(before: &Snapshot, id: &LayerId) -> u64 {
    before.layer(id).and_then(|layer| u64::try_from(layer.diff_size()).ok()).unwrap_or(0)
}

fn print(args: &Args, before: &Snapshot, images: &[ImageId], layers: &[LayerId], downloads: partial::Usage) -> std::io::Result<()> {
    let mut out = stdout();
    let bytes = layers.iter().map(|id| size(before, id)).fold(0u64, u64::saturating_add);
    if args.json {
        let layers: Vec<_> = layers.iter().map(|id| json!({"id": id, "size": size(before, id)})).collect();
        let object = json!({
            "dry_run": args.dry_run, "images": images, "layers": layers, "size": bytes,
            "partial_blobs": downloads.blobs, "partial_size": downloads.bytes,
        });
        return writeln!(out, "{}", serde_json::to_string_pretty(&object)?);
    }
    for id in images {
        writeln!(out, "image {id}")?;
    }
    for id in layers {
        writeln!(out, "layer {id}\t{}", HumanBytes(size(before, id)))?;
    }
    if downloads.blobs > 0 {
        writeln!(out, "{} downloads\t{}", downloads.blobs, HumanBytes(downloads.bytes))?;
    }
    let would = if args.dry_run { "would be freed" } else { "freed" };
    writeln!(out, "{} {would}", HumanBytes(bytes.saturating_add(downloads.bytes)))
}
