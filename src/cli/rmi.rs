//! `cstor-rs rmi`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::metadata::LookupError;
use cstor_rs::plan::{PlanError, SeveralNames};
use cstor_rs::pull::PullError;
use cstor_rs::txn::{Receipt, TxnError};
use serde_json::json;

use super::Context;
use super::change::{each, existing, image_ref, transact};
use super::out::stdout;

/// Remove images, each with the layers that nothing else needs
///
/// An image with several names that is called by one of them only loses that name.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "REF")]
    images: Vec<String>,
    /// Remove an image with several names that is called by its id
    #[arg(long, short)]
    force: bool,
    /// An image that is not there is no error
    #[arg(long, short)]
    ignore: bool,
    /// Print one JSON object for each image
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let store = existing(context)?;
    let names = if args.force { SeveralNames::Untag } else { SeveralNames::Keep };
    Ok(each(&args.images, |text| {
        let image = image_ref(text)?;
        match transact(&store, |txn| txn.remove_image(image, names)) {
            Ok(Some(receipt)) => Ok(print(&receipt, args.json)?),
            Ok(None) => Ok(()),
            Err(error) if args.ignore && is_unknown(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }))
}

fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(PullError::Txn(TxnError::Plan(PlanError::Lookup(LookupError::Unknown { .. })))))
}

/// As podman prints it.
fn print(receipt: &Receipt, as_json: bool) -> std::io::Result<()> {
    let mut out = stdout();
    let lost: Vec<&String> = receipt.renamed.iter().flat_map(|renamed| &renamed.lost).collect();
    if as_json {
        let object =
            json!({"untagged": lost, "deleted": receipt.removed_images, "layers": receipt.removed_layers, "transaction": receipt.txn});
        return writeln!(out, "{object}");
    }
    for name in lost {
        writeln!(out, "Untagged: {name}")?;
    }
    for image in &receipt.removed_images {
        writeln!(out, "Deleted: {image}")?;
    }
    Ok(())
}
