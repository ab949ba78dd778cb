//! `cstor-rs fsck`

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cstor_rs::fsck::{self, Finding, FsckError, Level, Outcome, Progress, Summary, Supply};
use cstor_rs::ids::ImageId;
use cstor_rs::pull::Refetch;
use cstor_rs::registry::{Options as RegistryOptions, Place};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::change::image_ref;
use super::network::Access;
use super::out::{stdout, tell};
use super::values::duration;
use super::{Context, bits, exit, signals};

/// Find what is damaged, and heal it in place
///
/// Exit codes add up: 0 clean, 1 damage that is all healed, 2 something was dropped, 4 damage remains, 8 something could not be
/// checked, 16 usage, 32 stopped by time or signal, 64 something was busy.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How deep to look: structure and metadata, or every byte too
    #[arg(long, value_enum, default_value_t = Depth::Quick)]
    level: Depth,
    /// Heal what the store itself holds the knowledge for
    #[arg(long)]
    repair: bool,
    /// Heal also what needs bytes: from the image's registry, or from oci:DIR, oci-archive:FILE, docker-archive:FILE, a registry
    #[arg(long, value_name = "SOURCE", num_args = 0..=1, require_equals = true)]
    refetch: Option<Option<String>>,
    /// Drop what cannot be healed
    #[arg(long)]
    prune: bool,
    /// Only this image; may be given several times
    #[arg(long = "image", value_name = "REF")]
    images: Vec<String>,
    /// Stop the full check after this time; the next one goes on from there
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration)]
    max_time: Option<Duration>,
    /// Read only layers that are new since the last clean point
    #[arg(long)]
    since_clean: bool,
    /// Check this many layers at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Layers may lie in this store too, which is only read; those of storage.conf are known
    #[arg(long = "additional-store", value_name = "DIR")]
    additional_stores: Vec<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// Print one JSON object for each finding, and a summary last
    #[arg(long)]
    json: bool,
    /// Print findings only
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Depth {
    Quick,
    Full,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let stop = signals::listen().context("listen for signals")?;
    let supply = match &args.refetch {
        Some(source) => match refetch(args, source.as_deref(), &stop) {
            Ok(supply) => Some(supply),
            Err(error) => {
                tell(format_args!("error: {}", exit::chain(&error)));
                return Ok(ExitCode::from(bits::USAGE));
            }
        },
        None => None,
    };
    let shown = Shown::new(args.quiet || args.json);
    let options = fsck::Options {
        level: match args.level {
            Depth::Quick => Level::Quick,
            Depth::Full => Level::Full,
        },
        repair: args.repair || args.refetch.is_some() || args.prune,
        prune: args.prune,
        images: images(context, &args.images)?,
        max_time: args.max_time,
        since_clean: args.since_clean,
        additional: context.config.additional.iter().chain(&args.additional_stores).cloned().collect(),
        jobs: args.jobs.and_then(|jobs| NonZeroUsize::new(jobs.into())).unwrap_or(fsck::Options::default().jobs),
        wait: context.lock_timeout,
        interrupt: Some(stop.flag.clone()),
        progress: &shown,
    };
    let mut printed = Ok(());
    let mut tell_one = |finding: &Finding| {
        if printed.is_ok() {
            printed = if args.json { print_json(finding) } else { print(finding) };
        }
    };
    let store = context.options().interrupt(stop.flag.clone());
    let result = fsck::run(&store, &options, supply.as_ref().map(|supply| supply as &dyn Supply), &mut tell_one);
    shown.end();
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => return failed(error, args),
    };
    printed?;
    let code = summary.exit_code();
    if args.json {
        summary_json(&summary, code)?
    } else {
        summary_text(&summary)?
    }
    Ok(ExitCode::from(code))
}

/// Nothing could be looked at.
fn failed(error: FsckError, args: &Args) -> anyhow::Result<ExitCode> {
    let code = if error.is_busy() { bits::BUSY } else { bits::UNCHECKED };
    let code = if signals::received().is_some() { bits::STOPPED } else { code };
    let text = exit::chain(&error.into());
    tell(format_args!("error: {text}"));
    if args.json {
        writeln!(stdout(), "{}", json!({"summary": {"error": text, "exit": code}}))?;
    }
    Ok(ExitCode::from(code))
}

fn refetch(args: &Args, source: Option<&str>, stop: &signals::Stop) -> anyhow::Result<Refetch> {
    let options = RegistryOptions { cancel: stop.network.clone(), ..args.access.options()? };
    let place = match source {
        Some(text) => Some(Place::find(text, &options.system)?),
        None => None,
    };
    Ok(Refetch::new(options, place))
}

/// The ids of the images that were named.
fn images(context: &Context, refs: &[String]) -> anyhow::Result<Vec<ImageId>> {
    if refs.is_empty() {
        return Ok(Vec::new());
    }
    let snapshot = context.reader()?.read()?.context("there is no store")?;
    refs.iter().map(|text| Ok(snapshot.tables().images.find(&image_ref(text)?)?.id)).collect()
}

fn print(finding: &Finding) -> std::io::Result<()> {
    let mut out = stdout();
    let object = match (&finding.layer, &finding.image) {
        (Some(layer), _) => format!(" layer {layer}"),
        (None, Some(image)) => format!(" image {image}"),
        (None, None) => String::new(),
    };
    writeln!(out, "{}{object}: {}", finding.code.as_str(), finding.path.as_deref().unwrap_or("the store"))?;
    for (word, text) in [("expected", &finding.expected), ("seen", &finding.seen)] {
        if let Some(text) = text {
            writeln!(out, "  {word}: {text}")?;
        }
    }
    if !finding.images.is_empty() {
        writeln!(out, "  touches: {}", finding.images.join(", "))?;
    }
    if let Some(bytes) = finding.bytes {
        writeln!(out, "  size: {}", HumanBytes(bytes))?;
    }
    let action = &finding.action;
    match (finding.result, &finding.why) {
        (Outcome::Healed, _) => writeln!(out, "  healed: {action}"),
        (Outcome::Dropped, _) => writeln!(out, "  dropped: {action}"),
        (Outcome::Busy, why) => writeln!(out, "  busy: {}", why.as_deref().unwrap_or("in use")),
        (Outcome::Failed, why) => {
            writeln!(out, "  not healed: {}\n  next: {}", why.as_deref().unwrap_or("the repair did not help"), next(finding))
        }
        (Outcome::Found, _) => writeln!(out, "  next: {}", next(finding)),
    }
}

/// What to do about a finding that is still there.
fn next(finding: &Finding) -> String {
    use fsck::Repair;
    let action = &finding.action;
    match finding.repair {
        Repair::Offline => format!("--repair: {action}"),
        Repair::Refetch => format!("--refetch: {action}; or --prune drops the images that it touches"),
        Repair::Prune => format!("--prune: {action}"),
        Repair::None | Repair::Report => action.clone(),
    }
}

fn print_json(finding: &Finding) -> std::io::Result<()> {
    let object = json!({
        "code": finding.code.as_str(), "level": finding.code.level().as_str(), "layer": finding.layer, "image": finding.image,
        "images": finding.images, "path": finding.path, "expected": finding.expected, "seen": finding.seen, "bytes": finding.bytes,
        "repair": finding.repair.as_str(), "action": finding.action, "result": finding.result.as_str(), "why": finding.why,
    });
    writeln!(stdout(), "{object}")
}

fn summary_json(summary: &Summary, code: u8) -> std::io::Result<()> {
    let object = json!({
        "damaged": summary.damaged, "healed": summary.healed, "dropped": summary.dropped, "remaining": summary.remaining(),
        "busy": summary.busy, "notes": summary.notes, "layers": summary.layers, "bytes": summary.bytes,
        "unchecked": summary.unchecked, "stopped": summary.stopped, "exit": code,
    });
    writeln!(stdout(), "{}", json!({"summary": object}))
}

fn summary_text(summary: &Summary) -> std::io::Result<()> {
    let mut out = stdout();
    if summary.layers > 0 {
        writeln!(out, "{} layers read, {}", summary.layers, HumanBytes(summary.bytes))?;
    }
    let stopped = if summary.stopped { "; stopped before the end, the next run goes on from here" } else { "" };
    let unchecked = if summary.unchecked { "; not everything could be checked" } else { "" };
    let what = match (summary.damaged, summary.remaining()) {
        (0, _) if summary.stopped || summary.unchecked => "nothing damaged was found".to_owned(),
        (0, _) => "clean".to_owned(),
        (found, 0) if summary.dropped == 0 => format!("{found} damaged, all healed"),
        (found, rest) => format!("{found} damaged, {} healed, {} dropped, {rest} remain", summary.healed, summary.dropped),
    };
    writeln!(out, "{what}{unchecked}{stopped}")
}

/// How far the check is, on stderr.
struct Shown {
    quiet: bool,
    terminal: bool,
    begun: Instant,
    bytes: AtomicU64,
    total: AtomicU64,
    files: AtomicU64,
    /// Seconds since it began at which a line was printed last.
    told: AtomicU64,
}

impl Shown {
    fn new(quiet: bool) -> Self {
        let zero = || AtomicU64::new(0);
        let terminal = std::io::stderr().is_terminal();
        Self { quiet, terminal, begun: Instant::now(), bytes: zero(), total: zero(), files: zero(), told: zero() }
    }

    fn end(&self) {
        if self.terminal && !self.quiet && self.told.load(Ordering::Relaxed) > 0 {
            tell("");
        }
    }
}

impl Progress for Shown {
    fn begin(&self, layers: usize, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        if !self.quiet {
            tell(format_args!("reading {layers} layers, {}", HumanBytes(bytes)));
        }
    }

    fn checked(&self, bytes: u64, files: u64) {
        let done = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let files = self.files.fetch_add(files, Ordering::Relaxed).saturating_add(files);
        let now = self.begun.elapsed().as_secs();
        // A terminal each second, a log every ten.
        let step = if self.terminal { 1 } else { 10 };
        let last = self.told.load(Ordering::Relaxed);
        if self.quiet || now < last + step || self.told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let total = self.total.load(Ordering::Relaxed).max(done);
        let left = Duration::from_secs_f64(self.begun.elapsed().as_secs_f64() * (total - done) as f64 / done.max(1) as f64);
        tell(format_args!("{files} files, {} of {}, {} left", HumanBytes(done), HumanBytes(total), HumanDuration(left)));
    }
}
