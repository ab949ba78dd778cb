//! `cstor-rs settle`

use std::io::Write;
use std::process::ExitCode;

use cstor_rs::settle::{self, Outcome, SettleOptions, Settled, SettledLayer};
use cstor_rs::txn::SyncMode;
use serde_json::{Map, Value, json};

use super::change::{existing, image_ref};
use super::out::stdout;
use super::{Context, bits, signals};

/// Make what other programs pulled durable: verify it, bring it to the medium, seal it
///
/// Exit codes add up: 0 all is sound and on the medium, 4 something is damaged, 8 something could not be verified,
/// 16 usage, 32 stopped by a signal, 64 something was busy.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The images; all there are unless told
    #[arg(value_name = "REF")]
    images: Vec<String>,
    /// Verify this many layers at once
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// How contents reach the medium: one syncfs for each filesystem, or every file by itself
    #[arg(long, value_name = "HOW", default_value = "fs")]
    sync: Sync,
    /// Print one JSON object for each layer, and one for all of them at the end
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sync {
    Fs,
    Files,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let refs = args.images.iter().map(|text| image_ref(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let store = existing(context)?;
    let sync = match args.sync {
        Sync::Fs => SyncMode::Filesystem,
        Sync::Files => SyncMode::Files,
    };
    let settled = settle::settle(&store, &refs, &SettleOptions { jobs: args.jobs.into(), sync })?;
    let code = code(&settled, signals::received().is_some());
    if args.json {
        print_json(&settled, code)?
    } else {
        print(&settled)?
    }
    Ok(ExitCode::from(code))
}

/// What an outcome adds to the exit code.
fn bit(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::AlreadySealed | Outcome::Sealed | Outcome::Gone => bits::CLEAN,
        Outcome::Damaged { .. } => bits::DAMAGED,
        Outcome::Skipped { .. } | Outcome::Failed { .. } => bits::UNCHECKED,
        Outcome::Busy { .. } => bits::BUSY,
        Outcome::Stopped => bits::STOPPED,
    }
}

fn code(settled: &Settled, signalled: bool) -> u8 {
    let layers = settled.layers.iter().fold(bits::CLEAN, |sum, layer| sum | bit(&layer.outcome));
    let broken = if settled.broken.is_empty() { bits::CLEAN } else { bits::DAMAGED };
    let unknown = if settled.unknown.is_empty() { bits::CLEAN } else { bits::UNCHECKED };
    let unnoted = match settled.noted {
        true => bits::CLEAN,
        false if signalled => bits::STOPPED,
        false => bits::BUSY,
    };
    layers | broken | unknown | unnoted
}

/// An outcome as `--json` has it; these do not change.
fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::AlreadySealed => "already_sealed",
        Outcome::Sealed => "sealed",
        Outcome::Damaged { .. } => "damaged",
        Outcome::Busy { .. } => "busy",
        Outcome::Skipped { .. } => "skipped",
        Outcome::Failed { .. } => "failed",
        Outcome::Gone => "gone",
        Outcome::Stopped => "stopped",
    }
}

fn why(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Damaged { why } | Outcome::Failed { why } => Some(why.clone()),
        Outcome::Busy { who } => Some(who.clone()),
        Outcome::Skipped { why } => Some(why.to_string()),
        Outcome::AlreadySealed | Outcome::Sealed | Outcome::Gone | Outcome::Stopped => None,
    }
}

/// How many layers ended in each way, in the order in which the first of each comes.
fn counts(layers: &[SettledLayer]) -> Vec<(&'static str, u64)> {
    let mut counts: Vec<(&'static str, u64)> = Vec::new();
    for layer in layers {
        let word = word(&layer.outcome);
        match counts.iter_mut().find(|(seen, _)| *seen == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    counts
}

fn print_json(settled: &Settled, code: u8) -> anyhow::Result<()> {
    let mut out = stdout();
    for image in &settled.broken {
        writeln!(out, "{}", json!({"image": image.id, "outcome": "damaged", "why": image.why}))?;
    }
    for layer in &settled.layers {
        let (outcome, why) = (word(&layer.outcome), why(&layer.outcome));
        writeln!(out, "{}", json!({"layer": layer.id, "link": layer.link, "outcome": outcome, "why": why}))?;
    }
    let layers: Map<String, Value> = counts(&settled.layers).into_iter().map(|(word, count)| (word.to_owned(), count.into())).collect();
    let unknown: Vec<String> = settled.unknown.iter().map(ToString::to_string).collect();
    let (images, synced, noted) = (&settled.images, settled.synced, settled.noted);
    let summary = json!({"images": images, "layers": layers, "unknown": unknown, "synced": synced, "noted": noted, "exit": code});
    Ok(writeln!(out, "{}", json!({"summary": summary}))?)
}

fn print(settled: &Settled) -> anyhow::Result<()> {
    let mut out = stdout();
    for error in &settled.unknown {
        super::out::tell(format_args!("error: {error}"));
    }
    for image in &settled.broken {
        writeln!(out, "image {} is damaged: {}", image.id, image.why)?;
    }
    for layer in &settled.layers {
        let word = word(&layer.outcome).replace('_', " ");
        match why(&layer.outcome) {
            Some(why) => writeln!(out, "{} {word}: {why}", layer.id)?,
            None => writeln!(out, "{} {word}", layer.id)?,
        }
    }
    let counts: Vec<String> = counts(&settled.layers).iter().map(|(word, count)| format!("{count} {}", word.replace('_', " "))).collect();
    let layers = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
    if !settled.noted {
        super::out::tell("warning: the clean point could not be written, a lock is held; settle again");
    }
    Ok(writeln!(out, "{} layers of {} images{layers}", settled.layers.len(), settled.images.len())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cstor_rs::metadata::LookupError;
    use cstor_rs::settle::{BrokenImage, Skip};

    #[test]
    fn codes_add_up() {
        let why = || "x".to_owned();
        let table: Vec<(Vec<Outcome>, u8)> = vec![
            (vec![], 0),
            (vec![Outcome::Sealed, Outcome::AlreadySealed, Outcome::Gone], 0),
            (vec![Outcome::Sealed, Outcome::Damaged { why: why() }], 4),
            (vec![Outcome::Skipped { why: Skip::IdMapped }], 8),
            (vec![Outcome::Failed { why: why() }], 8),
            (vec![Outcome::Busy { who: why() }], 64),
            (vec![Outcome::Stopped], 32),
            (vec![Outcome::Stopped, Outcome::Damaged { why: why() }, Outcome::Failed { why: why() }, Outcome::Busy { who: why() }], 108),
        ];
        let layer = |outcome| SettledLayer { id: "a".repeat(64).parse().unwrap(), link: None, outcome };
        for (outcomes, want) in table {
            let text = format!("{outcomes:?}");
            let settled = Settled { layers: outcomes.into_iter().map(layer).collect(), noted: true, ..Settled::default() };
            assert_eq!(code(&settled, false), want, "{text}");
        }
        let noted = Settled { noted: true, ..Settled::default() };
        let broken = Settled { broken: vec![BrokenImage { id: why(), why: why() }], ..noted.clone() };
        assert_eq!(code(&broken, false), 4);
        assert_eq!(code(&Settled { unknown: vec![LookupError::Unknown { text: why() }], ..noted }, false), 8);
        assert_eq!((code(&Settled::default(), false), code(&Settled::default(), true)), (64, 32));
    }
}
