//! `cstor-rs layer create|rm`

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use cstor_rs::ids::LayerId;
use cstor_rs::pull::PullError;
use cstor_rs::txn::TxnOptions;

use super::change::{commit, each, existing, transact};
use super::out::stdout;
use super::{Context, signals};

/// Make and remove layers
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a layer of a tar, plain or compressed with gzip or zstd, and print its id
    Create {
        /// The tar; `-` is standard input
        #[arg(default_value = "-")]
        tar: PathBuf,
        /// The layer below it
        #[arg(long, value_name = "ID")]
        parent: Option<LayerId>,
    },
    /// Remove layers that nothing needs
    Rm {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        layers: Vec<LayerId>,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Create { tar, parent } => create(context, tar, parent.as_ref()),
        Action::Rm { layers } => {
            let store = existing(context)?;
            Ok(each(layers, |id| {
                transact(&store, |txn| txn.remove_layer(id))?;
                Ok(writeln!(stdout(), "{id}")?)
            }))
        }
    }
}

fn create(context: &Context, tar: &PathBuf, parent: Option<&LayerId>) -> anyhow::Result<ExitCode> {
    let reader: Box<dyn Read + Send> = match tar.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(fs_err::File::open(tar).context("cannot read the tar")?),
    };
    let stop = signals::listen()?;
    let store = context.store_with(Some(stop.flag))?;
    let txn = store.begin(TxnOptions::default()).map_err(PullError::from)?;
    let id = txn.stage_new_layer(parent, reader, &|_| {}).map_err(PullError::from)?;
    commit(txn)?;
    writeln!(stdout(), "{id}")?;
    Ok(ExitCode::SUCCESS)
}
