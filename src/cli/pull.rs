//! `cstor-rs pull`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use cstor_rs::pull::{Presence, PullError, PullOptions, Pulled, present, pull};
use cstor_rs::registry::Place;
use cstor_rs::store::Store;
use serde_json::json;

use super::exit::Outcome;
use super::network::Network;
use super::out::{nobody_reads, stdout, tell};
use super::progress::Shown;
use super::{Context, exit, signals};

/// Pull images
#[derive(clap::Args)]
pub(crate) struct Args {
    /// NAME, docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]
    #[arg(required = true, value_name = "REF", value_parser = reference)]
    references: Vec<String>,
    /// Pull all of them in one transaction, or none
    #[arg(long)]
    atomic: bool,
    #[command(flatten)]
    network: Network,
    /// Ask the registry always, only if the image is not in the store, for something newer if it answers, or never
    ///
    /// An image counts as in the store if it has the name and the platform, if one is asked for, and nothing of it is missing;
    /// the contents of layers that another program wrote are verified by `always` only.
    #[arg(long, value_enum, default_value_t = Policy::Always)]
    policy: Policy,
    /// Print the image id only
    #[arg(long, short)]
    quiet: bool,
    /// Print one JSON object for each image, and events on stderr
    #[arg(long)]
    json: bool,
    /// Write the digests to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    Always,
    Missing,
    Newer,
    Never,
}

/// Checked before anything is done; what a short name stands for says the host's configuration later.
fn reference(text: &str) -> Result<String, String> {
    match text.parse::<Place>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// An error with the images it is about: one of a layer or of the disk does not say for which.
fn named(batch: &[Place], error: String) -> String {
    let names: Vec<String> = batch.iter().map(ToString::to_string).collect();
    if names.iter().any(|name| error.contains(name.as_str())) { error } else { format!("{}: {error}", names.join(" ")) }
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let mut options = args.network.options()?;
    let find = |text: &String| Place::find(text, &options.registry.system);
    let places = args.references.iter().map(find).collect::<Result<Vec<Place>, _>>()?;
    // First: a file that cannot be made must be known before anything is changed.
    let mut results = Results::open(args)?;
    let stop = signals::listen().context("listen for signals")?;
    options.registry.cancel = stop.network.clone();
    let store = context.store_with(Some(stop.flag.clone()))?;
    let shown = Shown::new(args.quiet, args.json);
    let mut outcomes = Vec::new();
    let batches: Vec<&[Place]> = if args.atomic { vec![&places] } else { places.chunks(1).collect() };
    for batch in batches {
        if signals::received().is_some() {
            outcomes.push(Outcome::Cancelled);
            continue;
        }
        let pulled = one_batch(args.policy, &store, batch, &options, &shown, &stop.flag);
        shown.clear();
        outcomes.push(match pulled {
            Ok(list) => {
                list.iter().for_each(|one| results.put(one, args.json));
                Outcome::Done
            }
            Err(error) => {
                tell(format_args!("error: {}", named(batch, exit::chain(&error))));
                Outcome::of(&error)
            }
        });
    }
    if results.failed() {
        outcomes.push(Outcome::Failed);
    }
    Ok(ExitCode::from(exit::code(&outcomes, signals::received())))
}

fn one_batch(
    policy: Policy,
    store: &Store,
    batch: &[Place],
    options: &PullOptions,
    shown: &Shown,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<Pulled>> {
    let pull = || anyhow::Ok(pull(store, batch, options, shown, stop)?);
    match policy {
        Policy::Always => pull(),
        Policy::Missing | Policy::Never => match present(store, batch, options)? {
            Presence::Complete(list) => Ok(list),
            Presence::Missing { reference, why } if policy == Policy::Never => {
                bail!("{reference}: {why}, and --policy never forbids to pull it")
            }
            Presence::Missing { .. } => pull(),
        },
        // A registry that does not answer is no reason to fail where there is something to go on with.
        Policy::Newer => match pull() {
            Err(error) if matches!(error.downcast_ref(), Some(PullError::Source { .. })) => match present(store, batch, options)? {
                Presence::Complete(list) => {
                    shown.clear();
                    tell(format_args!("warning: {}", exit::chain(&error)));
                    Ok(list)
                }
                Presence::Missing { .. } => Err(error),
            },
            result => result,
        },
    }
}

/// Where results go: stdout and the file of digests. That one of them fails changes nothing about what was pulled, so it is
/// noted and the pull goes on.
struct Results {
    digests: Option<fs_err::File>,
    errors: Vec<anyhow::Error>,
}

impl Results {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let digests = args.digestfile.as_ref().map(fs_err::File::create).transpose()?;
        Ok(Self { digests, errors: Vec::new() })
    }

    fn put(&mut self, one: &Pulled, as_json: bool) {
        let printed = print(one, as_json);
        let noted = self.digests.as_mut().map_or(Ok(()), |file| writeln!(file, "{}", one.digest));
        self.errors.extend([printed, noted].into_iter().filter_map(Result::err).map(anyhow::Error::from));
    }

    /// Says once for each place what could not be written there.
    fn failed(&self) -> bool {
        let mut said: Vec<String> = self.errors.iter().filter(|error| !nobody_reads(error)).map(exit::chain).collect();
        said.dedup();
        said.iter().for_each(|text| tell(format_args!("error: {text}; what was pulled stays")));
        !said.is_empty()
    }
}

fn print(one: &Pulled, as_json: bool) -> std::io::Result<()> {
    let mut out = stdout();
    if as_json {
        let object = json!({
            "id": one.id, "name": one.name, "digest": one.digest, "transaction": one.txn, "layers_fetched": one.fetched,
        });
        writeln!(out, "{object}")
    } else {
        writeln!(out, "{}", one.id)
    }
}
