//! `cstor-rs pull`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cstor_rs::pull::{Presence, PullError, PullOptions, Pulled, present, pull};
use cstor_rs::registry::{Login, Options, Place, Platform};
use cstor_rs::store::Store;
use cstor_rs::txn::{SyncMode, TxnOptions};
use serde_json::json;

use super::exit::Outcome;
use super::out::{nobody_reads, stdout, tell};
use super::progress::Shown;
use super::values::duration;
use super::{Context, exit, signals};

/// Pull images
#[derive(clap::Args)]
pub(crate) struct Args {
    /// NAME, docker://NAME or oci:DIR[:TAG]
    #[arg(required = true, value_name = "REF", value_parser = reference)]
    references: Vec<String>,
    /// Pull all of them in one transaction, or none
    #[arg(long)]
    atomic: bool,
    /// Verify the registry's certificate; false allows any, and plain http [default: true, unless registries.conf calls the
    /// registry insecure]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tls_verify: Option<bool>,
    /// Read credentials from this file only
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Use these credentials
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
    /// Choose this image of an index, and refuse an image for another platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Fetch and unpack this many layers at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
    /// Retry a failed request this often
    #[arg(long, value_name = "N", default_value_t = 3)]
    retry: u32,
    /// Wait this long before the first retry: seconds, or a time like 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "1", allow_negative_numbers = true, value_parser = duration)]
    retry_delay: Duration,
    /// Give a request up when nothing has come for this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", allow_negative_numbers = true, value_parser = duration)]
    idle_timeout: Duration,
    /// Refuse layers that unpack to more than this many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 40)]
    max_layer_size: u64,
    /// Ask the registry always, only if the image is not in the store, for something newer if it answers, or never
    ///
    /// An image counts as in the store if it has the name and the platform, if one is asked for, and nothing of it is missing;
    /// the contents of layers that another program wrote are verified by `always` only.
    #[arg(long, value_enum, default_value_t = Policy::Always)]
    policy: Policy,
    /// Bring contents to the medium by syncfs, file by file, or not at all
    #[arg(long, value_enum, default_value_t = Sync::Fs)]
    sync: Sync,
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sync {
    Fs,
    Files,
    None,
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
    let mut options = options(args)?;
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

fn options(args: &Args) -> Result<PullOptions, exit::Usage> {
    // Not by clap, which would print them.
    let login = match args.creds.as_deref() {
        Some(text) => Some(Login::parse(text).ok_or(exit::Usage("--creds wants USER:PASSWORD"))?),
        None => None,
    };
    Ok(PullOptions {
        registry: Options {
            tls_verify: args.tls_verify,
            login,
            authfile: args.authfile.clone(),
            retries: args.retry,
            retry_delay: args.retry_delay,
            stall: args.idle_timeout,
            ..Options::default()
        },
        platform: args.platform.clone(),
        jobs: args.jobs.into(),
        txn: TxnOptions {
            sync: match args.sync {
                Sync::Fs => SyncMode::Filesystem,
                Sync::Files => SyncMode::Files,
                Sync::None => SyncMode::None,
            },
            max_layer_bytes: args.max_layer_size,
            ..TxnOptions::default()
        },
        ..PullOptions::default()
    })
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
