//! `cstor-rs layer create|rm`

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use cstor_rs::ids::LayerId;
use cstor_rs::pull::PullError;
use cstor_rs::txn::TxnOptions;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

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

fn create(context: &Context, tar: &Path, parent: Option<&LayerId>) -> anyhow::Result<ExitCode> {
    let stop = signals::listen()?;
    let tar: OwnedFd = match tar.to_str() {
        Some("-") => std::io::stdin().as_fd().try_clone_to_owned()?,
        _ => fs_err::File::open(tar).context("cannot read the tar")?.into_parts().0.into(),
    };
    let store = context.store_with(Some(stop.flag.clone()))?;
    let txn = store.begin(TxnOptions::default()).map_err(PullError::from)?;
    let reader = Interruptible { file: tar.into(), stop: stop.flag.clone() };
    let staged = txn.stage_new_layer(parent, reader, &|_| {});
    if stop.flag.load(Ordering::Acquire) {
        // Dropped, the transaction takes itself back.
        return Err(PullError::Cancelled.into());
    }
    let id = staged.map_err(PullError::from)?;
    commit(txn)?;
    writeln!(stdout(), "{id}")?;
    Ok(ExitCode::SUCCESS)
}

/// A stream that ends with an error soon after a signal, also while nothing comes.
struct Interruptible {
    file: std::fs::File,
    stop: Arc<AtomicBool>,
}

impl Read for Interruptible {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if self.stop.load(Ordering::Acquire) {
                return Err(std::io::Error::other("ended by a signal"));
            }
            let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&wait)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.file.read(buf),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
