//! `cstor-rs pull`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use cstor_rs::pull::{PullError, PullOptions, Pulled, pull};
use cstor_rs::registry::{Login, Options, Place, Platform};
use cstor_rs::store::Store;
use cstor_rs::txn::{SyncMode, TxnOptions};
use serde_json::json;

use super::progress::Shown;
use super::{Context, exit, signals};

/// Pull images
#[derive(clap::Args)]
pub(crate) struct Args {
    /// NAME, docker://NAME or oci:DIR[:TAG]
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
    /// Pull all of them in one transaction, or none
    #[arg(long)]
    atomic: bool,
    /// Verify the registry's certificate; false allows any, and plain http
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    tls_verify: bool,
    /// Read credentials from this file only
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Use these credentials
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
    /// Choose this image of an index
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Fetch and unpack this many layers at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
    /// Retry a failed request this often
    #[arg(long, value_name = "N", default_value_t = 3)]
    retry: u32,
    /// Wait this many seconds before the first retry
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    retry_delay: f64,
    /// Give a request up when nothing has come for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    idle_timeout: f64,
    /// Refuse layers that unpack to more than this many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 40)]
    max_layer_size: u64,
    /// Ask the registry always, only if the name is not in the store, for something newer if it answers, or never
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

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let places = parse_all(args)?;
    let mut options = options(args)?;
    let stop = signals::listen().context("listen for signals")?;
    options.registry.cancel = stop.network.clone();
    let store = context.store_with(Some(stop.flag.clone()))?;
    let shown = Shown::new(args.quiet, args.json);
    let mut worst = 0u8;
    let mut digests = Vec::new();
    let batches: Vec<&[Place]> = if args.atomic { vec![&places] } else { places.chunks(1).collect() };
    for batch in batches {
        if signals::received().is_some() {
            break;
        }
        let pulled = match args.policy {
            Policy::Always => pull(&store, batch, &options, &shown, &stop.flag),
            Policy::Missing | Policy::Never => match present(&store, batch)? {
                Some(list) => Ok(list),
                None if args.policy == Policy::Never => {
                    let names: Vec<String> = batch.iter().map(ToString::to_string).collect();
                    eprintln!("error: {} is not in the store, and --policy never forbids to pull it", names.join(" "));
                    worst = worst.max(exit::FAILED);
                    continue;
                }
                None => pull(&store, batch, &options, &shown, &stop.flag),
            },
            // A registry that does not answer is no reason to fail where there is something to go on with.
            Policy::Newer => match pull(&store, batch, &options, &shown, &stop.flag) {
                Err(error @ PullError::Source { .. }) => match present(&store, batch)? {
                    Some(list) => {
                        shown.clear();
                        eprintln!("warning: {}", exit::chain(&error.into()));
                        Ok(list)
                    }
                    None => Err(error),
                },
                other => other,
            },
        };
        match pulled {
            Ok(list) => {
                shown.clear();
                for one in &list {
                    print(one, args.json)?;
                    digests.push(one.digest.to_string());
                }
            }
            Err(error) => {
                shown.clear();
                let error = anyhow::Error::from(error);
                eprintln!("error: {}", exit::chain(&error));
                worst = worst.max(exit::code_of(&error));
            }
        }
    }
    if let Some(path) = &args.digestfile {
        let mut text = digests.join("\n");
        text.push('\n');
        fs_err::write(path, text)?;
    }
    if let Some(signal) = signals::received() {
        worst = 128 + signal;
    }
    Ok(ExitCode::from(worst))
}

/// What the store has under these names, if it has all of them.
fn present(store: &Store, places: &[Place]) -> anyhow::Result<Option<Vec<Pulled>>> {
    let Some(snapshot) = store.read()? else { return Ok(None) };
    let mut list = Vec::new();
    for place in places {
        let Place::Registry(reference) = place else { return Ok(None) };
        let name = reference.stored_name();
        let found = snapshot.image_by_name(&name).and_then(|image| Some((image.id()?.clone(), image.digest()?.known()?.clone())));
        let Some((id, digest)) = found else { return Ok(None) };
        list.push(Pulled { id, name: Some(name), digest, txn: None, fetched: 0 });
    }
    Ok(Some(list))
}

/// All references are read before any is pulled: a typing error in the last one must not cost the first.
fn parse_all(args: &Args) -> anyhow::Result<Vec<Place>> {
    args.references.iter().map(|text| text.parse::<Place>().with_context(|| format!("reference {text:?}"))).collect()
}

fn options(args: &Args) -> anyhow::Result<PullOptions> {
    let login = args.creds.as_deref().map(|text| Login::parse(text).context("--creds wants USER:PASSWORD")).transpose()?;
    let platform = match &args.platform {
        Some(text) => text.parse().context("--platform")?,
        None => Platform::host(),
    };
    let stall = Duration::try_from_secs_f64(args.idle_timeout).context("--idle-timeout")?;
    let delay = Duration::try_from_secs_f64(args.retry_delay).context("--retry-delay")?;
    Ok(PullOptions {
        registry: Options {
            tls_verify: args.tls_verify,
            login,
            authfile: args.authfile.clone(),
            retries: args.retry,
            retry_delay: delay,
            stall,
            ..Options::default()
        },
        platform,
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
    })
}

fn print(one: &Pulled, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let object = json!({
            "id": one.id, "name": one.name, "digest": one.digest, "transaction": one.txn, "layers_fetched": one.fetched,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{}", one.id)?;
    }
    Ok(())
}
