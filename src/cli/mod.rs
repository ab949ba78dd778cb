//! Arguments, exit codes, and one file per command. stdout carries results, stderr the rest.

mod apply;
mod bits;
mod change;
mod exit;
mod filter;
mod fsck;
mod images;
mod info;
mod journal;
mod layer;
mod layers;
mod network;
mod out;
mod progress;
mod prune;
mod pull;
mod recover;
mod rmi;
mod settle;
mod signals;
mod tag;
mod values;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Parser, Subcommand};
use cstor_rs::config::{Config, Environment, Overrides};
use cstor_rs::store::{Store, StoreOptions};

/// Read and write podman's image store with the guarantees of a database
#[derive(Parser)]
#[command(name = "cstor-rs", version, propagate_version = true)]
struct Args {
    /// Use the store in this directory
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Use this directory for what lasts until the next boot
    #[arg(long, global = true, value_name = "DIR")]
    runroot: Option<PathBuf>,
    /// Wait this many seconds for a lock that another process holds
    #[arg(long, global = true, value_name = "SECONDS", default_value = "60", allow_negative_numbers = true, value_parser = values::duration)]
    lock_timeout: Duration,
    /// Log this much: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    log_level: tracing_subscriber::filter::LevelFilter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pull images; each in its own transaction, or all in one
    Pull(pull::Args),
    /// List images
    Images(images::Args),
    /// List layers
    Layers(layers::Args),
    /// Pull, tag, untag and remove images in one transaction
    Apply(apply::Args),
    /// Give an image more names
    Tag(tag::TagArgs),
    /// Take names from an image
    Untag(tag::UntagArgs),
    /// Remove images
    Rmi(rmi::Args),
    /// Make and remove layers
    Layer(layer::Args),
    /// Remove what nobody wants
    Prune(prune::Args),
    /// Find what is damaged, and heal it in place
    Fsck(fsck::Args),
    /// Make what other programs pulled durable: verify it, bring it to the medium, seal it
    Settle(settle::Args),
    /// Finish or take back what a crash left half done
    Recover(recover::Args),
    /// List the journal's segments
    Journal(journal::Args),
    /// Describe the store
    Info(info::Args),
}

/// Where the store lies.
pub(crate) struct Context {
    config: Config,
    lock_timeout: Duration,
}

impl Context {
    fn options(&self) -> StoreOptions {
        StoreOptions::new(&self.config.graphroot, &self.config.runroot).wait(self.lock_timeout)
    }

    /// Opens the store for writing: recovers first. Waiting for a lock ends when the flag is true.
    fn store_with(&self, interrupt: Option<Arc<AtomicBool>>) -> anyhow::Result<Store> {
        let options = self.options();
        let store = Store::open(match interrupt {
            Some(flag) => options.interrupt(flag),
            None => options,
        })?;
        for (txn, outcome) in &store.recovered().ended {
            out::tell(format_args!("recovered: transaction {txn} {}", recover::say(*outcome)));
        }
        for (txn, why) in &store.recovered().pending {
            out::tell(format_args!("warning: transaction {txn} is still waiting to be recovered: {why}"));
        }
        for (txn, why) in &store.recovered().left {
            out::tell(format_args!("warning: what transaction {txn} left could not be removed: {why}"));
        }
        Ok(store)
    }

    /// Opens the store for looking: nothing is changed.
    fn reader(&self) -> anyhow::Result<Store> {
        Ok(Store::open_read_only(self.options())?)
    }
}

pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return bits::refuse(&error),
    };
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_max_level(args.log_level).with_writer(|| out::Stderr).with_ansi(ansi).init();
    if bits::are_of(&args.command) { bits::report(run(args)) } else { exit::report(run(args)) }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let additional = matches!(args.command, Command::Fsck(_));
    let overrides = Overrides { root: args.root, runroot: args.runroot, additional };
    let context = Context { config: Config::load(&Environment::of_process(), &overrides)?, lock_timeout: args.lock_timeout };
    match args.command {
        Command::Pull(args) => pull::run(&context, &args),
        Command::Images(args) => images::run(&context, &args),
        Command::Layers(args) => layers::run(&context, &args),
        Command::Apply(args) => apply::run(&context, &args),
        Command::Tag(args) => tag::tag(&context, &args),
        Command::Untag(args) => tag::untag(&context, &args),
        Command::Rmi(args) => rmi::run(&context, &args),
        Command::Layer(args) => layer::run(&context, &args),
        Command::Prune(args) => prune::run(&context, &args),
        Command::Fsck(args) => fsck::run(&context, &args),
        Command::Settle(args) => settle::run(&context, &args),
        Command::Recover(args) => recover::run(&context, &args),
        Command::Journal(args) => journal::run(&context, &args),
        Command::Info(args) => info::run(&context, &args),
    }
}
