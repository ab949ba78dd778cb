//! `cstor-rs apply`

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use cstor_rs::plan::{Change, Renamed, SeveralNames};
use cstor_rs::pull::{Applied, Item, Planned, PullOptions, apply, plan_apply};
use cstor_rs::registry::Place;
use indicatif::HumanBytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::change::{image_ref, new_name};
use super::network::Network;
use super::out::stdout;
use super::progress::Shown;
use super::{Context, signals};

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Pull, tag, untag and remove images as a file says, all in one transaction
///
/// The file is TOML: `[[change]]` tables, done in their order, each with one of
///   pull = "REF"
///   tag = { image = "REF", name = "NAME" }
///   untag = { image = "REF", name = "NAME" }    (all names without one)
///   rm = "REF", or rm = { image = "REF", force = true }
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The file; `-` is standard input
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    network: Network,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    /// Print a JSON object, and events on stderr
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    change: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Entry {
    Pull(String),
    Tag(Named),
    Untag(Unnamed),
    Rm(Removal),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    image: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unnamed {
    image: String,
    name: Option<String>,
}

/// A text, or a table with `image` and `force`.
struct Removal {
    image: String,
    force: bool,
}

impl<'de> Deserialize<'de> for Removal {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            image: String,
            #[serde(default)]
            force: bool,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Removal;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an image, or a table with `image` and `force`")
            }

            fn visit_str<E>(self, image: &str) -> Result<Removal, E> {
                Ok(Removal { image: image.to_owned(), force: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Removal, A::Error> {
                let Table { image, force } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Removal { image, force })
            }
        }
        input.deserialize_any(Either)
    }
}

impl Args {
    fn is_stdin(&self) -> bool {
        self.file.to_str() == Some("-")
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let mut options = args.network.options()?;
    let text = read(args)?;
    let name = if args.is_stdin() { "standard input".to_owned() } else { args.file.display().to_string() };
    let plan: Plan = toml::from_str(&text).with_context(|| format!("{name} is not a list of changes"))?;
    let mut items = Vec::with_capacity(plan.change.len());
    for (n, entry) in plan.change.into_iter().enumerate() {
        items.push(item(entry, &options).with_context(|| format!("{name}, change {}", n + 1))?);
    }
    let stop = signals::listen().context("listen for signals")?;
    options.registry.cancel = stop.network.clone();
    let shown = Shown::new(args.quiet, args.json);
    if args.dry_run {
        let planned = plan_apply(&context.reader()?, &items, &options, &shown, &stop.flag)?;
        shown.clear();
        print_plan(&planned, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store_with(Some(stop.flag.clone()))?;
    let applied = apply(&store, &items, &options, &shown, &stop.flag)?;
    shown.clear();
    print_done(&applied, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn read(args: &Args) -> anyhow::Result<String> {
    let mut text = String::new();
    let reader: Box<dyn Read> = if args.is_stdin() { Box::new(std::io::stdin()) } else { Box::new(fs_err::File::open(&args.file)?) };
    reader.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        bail!("{} is longer than {}", args.file.display(), HumanBytes(FILE_MAX));
    }
    Ok(text)
}

fn item(entry: Entry, options: &PullOptions) -> anyhow::Result<Item> {
    Ok(match entry {
        Entry::Pull(text) => Item::Pull(Place::find(&text, &options.registry.system)?),
        Entry::Tag(Named { image, name }) => Item::Change(Change::Tag { image: image_ref(&image)?, names: vec![new_name(&name)?] }),
        Entry::Untag(Unnamed { image, name }) => {
            let names = name.iter().map(|name| new_name(name)).collect::<anyhow::Result<_>>()?;
            Item::Change(Change::Untag { image: image_ref(&image)?, names })
        }
        Entry::Rm(Removal { image, force }) => {
            let names = if force { SeveralNames::Untag } else { SeveralNames::Keep };
            Item::Change(Change::RemoveImage { image: image_ref(&image)?, names })
        }
    })
}

fn renamed(list: &[Renamed]) -> Vec<Value> {
    list.iter().map(|one| json!({"image": one.image, "got": one.got, "lost": one.lost})).collect()
}

fn print_plan(planned: &Planned, as_json: bool) -> std::io::Result<()> {
    let (mut out, changes) = (stdout(), &planned.changes);
    if as_json {
        let pulls: Vec<Value> = planned
            .pulls
            .iter()
            .map(|pull| {
                let fetch: Vec<Value> = pull.fetch.iter().map(|(id, bytes)| json!({"layer": id, "bytes": bytes})).collect();
                json!({"id": pull.id, "name": pull.name, "digest": pull.digest, "fetch": fetch, "present": pull.present})
            })
            .collect();
        let object = json!({
            "dry_run": true, "pulls": pulls, "renamed": renamed(&changes.renamed),
            "removed_images": changes.removed_images, "removed_layers": changes.removed_layers,
        });
        return writeln!(out, "{}", serde_json::to_string_pretty(&object)?);
    }
    for pull in &planned.pulls {
        let bytes = pull.fetch.iter().map(|(_, bytes)| bytes).sum();
        let name = pull.name.as_deref().unwrap_or("<none>");
        writeln!(out, "pull {name} {}: {} layers to fetch ({}), {} there", pull.id, pull.fetch.len(), HumanBytes(bytes), pull.present)?;
    }
    print_names(&mut out, &changes.renamed)?;
    changes.removed_images.iter().try_for_each(|id| writeln!(out, "remove image {id}"))?;
    changes.removed_layers.iter().try_for_each(|id| writeln!(out, "remove layer {id}"))
}

fn print_names(out: &mut impl Write, list: &[Renamed]) -> std::io::Result<()> {
    for one in list {
        one.got.iter().try_for_each(|name| writeln!(out, "Tagged: {name} {}", one.image))?;
        one.lost.iter().try_for_each(|name| writeln!(out, "Untagged: {name} {}", one.image))?;
    }
    Ok(())
}

fn print_done(applied: &Applied, as_json: bool) -> std::io::Result<()> {
    let mut out = stdout();
    if as_json {
        let pulled: Vec<Value> = applied.pulled.iter().map(|one| json!({"id": one.id, "name": one.name, "digest": one.digest})).collect();
        let receipt = applied.receipt.as_ref();
        let object = json!({
            "transaction": receipt.map(|receipt| &receipt.txn), "pulled": pulled,
            "renamed": receipt.map_or(vec![], |receipt| renamed(&receipt.renamed)),
            "removed_images": receipt.map_or(vec![], |receipt| receipt.removed_images.clone()),
            "removed_layers": receipt.map_or(vec![], |receipt| receipt.removed_layers.clone()),
        });
        return writeln!(out, "{}", serde_json::to_string_pretty(&object)?);
    }
    applied.pulled.iter().try_for_each(|one| writeln!(out, "{}", one.id))?;
    let Some(receipt) = &applied.receipt else { return Ok(()) };
    print_names(&mut out, &receipt.renamed)?;
    receipt.removed_images.iter().try_for_each(|id| writeln!(out, "Deleted: {id}"))
}
