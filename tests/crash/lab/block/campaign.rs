//! The long run: batches of states, one line of results each, and the next run goes on behind them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::baseline::{self, Program};
use super::device::Bench;
use super::filesystem::{self, Filesystem};
use super::record::Recording;
use super::work::{Ground, Work};
use super::{acts, bench, faults, states};
use crate::peers::Peer;

/// What is wanted of each kind.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    states: u64,
    baseline: usize,
    faults: u64,
    acts: u64,
}

const STATES_OF_A_BATCH: usize = 250;
const FAULTS_OF_A_BATCH: usize = 50;
const ACTS_OF_A_BATCH: usize = 25;

/// `campaign --results FILE [--minutes N] [--states N] [--baseline N] [--faults N] [--acts N]`.
pub fn main(args: &[String]) -> ExitCode {
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let number = |name: &str, usual: u64| option(name).map_or(usual, |text| text.parse().unwrap());
    let Some(results) = option("--results") else {
        eprintln!("campaign --results FILE [--minutes N] [--states N] [--baseline N] [--faults N] [--acts N]");
        return ExitCode::from(2);
    };
    let wanted = Wanted {
        states: number("--states", 10_000),
        baseline: usize::try_from(number("--baseline", 300)).unwrap(),
        faults: number("--faults", 600),
        acts: number("--acts", 300),
    };
    let end = Instant::now() + Duration::from_secs(60 * number("--minutes", 60 * 24));
    let campaign = Campaign { results: PathBuf::from(results), file: Mutex::new(()), wanted, end, failed: AtomicBool::new(false) };
    // The pulls that are compared wait for the kernel's clock most of the time: they have a thread of their own.
    std::thread::scope(|scope| {
        scope.spawn(|| campaign.compare());
        campaign.cut();
    });
    if campaign.failed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Campaign {
    results: PathBuf,
    file: Mutex<()>,
    wanted: Wanted,
    end: Instant,
    failed: AtomicBool,
}

impl Campaign {
    fn over(&self) -> bool {
        Instant::now() >= self.end || self.failed.load(Ordering::Relaxed)
    }

    fn note(&self, line: &Value) {
        let _held = self.file.lock().unwrap();
        let mut file = std::fs::File::options().create(true).append(true).open(&self.results).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        if line["kind"] == "baseline" {
            println!("{} on {}: {} states", line["program"], line["fs"], line["drawn"].as_array().map_or(0, Vec::len));
        } else {
            println!("{line}");
        }
    }

    /// The batches that are there already of a kind and file system, and their sum.
    fn done(&self, kind: &str, fs: &str) -> (u64, u64) {
        let lines = lines(&self.results);
        let matching = lines.iter().filter(|line| line["kind"] == kind && line["fs"] == fs);
        matching.fold((0, 0), |(batches, sum), line| {
            (batches + 1, sum + line["states"].as_u64().unwrap_or(0) + line["second"].as_u64().unwrap_or(0))
        })
    }

    /// States of ours, errors of the disk, podman in between: file system by file system, batch by batch.
    fn cut(&self) {
        let (Some(bench), peers) = (bench(filesystem::EXT4), Peer::all()) else { return };
        let share = filesystem::ALL.len() as u64;
        loop {
            let mut idle = true;
            for fs in filesystem::ALL {
                for (kind, wanted) in [("states", self.wanted.states), ("faults", self.wanted.faults), ("acts", self.wanted.acts)] {
                    let (batches, sum) = self.done(kind, fs.name);
                    if sum >= wanted.div_ceil(share) || kind == "acts" && peers.is_empty() {
                        continue;
                    }
                    if self.over() {
                        return;
                    }
                    idle = false;
                    match batch(&bench, *fs, kind, batches, &peers) {
                        Ok(line) => self.note(&line),
                        Err(why) => {
                            self.note(&json!({"kind": "failure", "of": kind, "fs": fs.name, "batch": batches, "why": why}));
                            self.failed.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    /// Every program on every file system.
    fn compare(&self) {
        let Some(bench) = bench(filesystem::EXT4) else { return };
        for program in Program::all() {
            // All file systems at once: most of it is waiting.
            std::thread::scope(|scope| {
                for fs in filesystem::ALL {
                    let (program, bench) = (&program, &bench);
                    scope.spawn(move || self.compare_one(bench, *fs, program));
                }
            });
        }
    }

    fn compare_one(&self, bench: &Bench, fs: Filesystem, program: &Program) {
        let known = |line: &Value| line["kind"] == "baseline" && line["program"] == program.name.as_str() && line["fs"] == fs.name;
        if self.over() || lines(&self.results).iter().any(known) {
            return;
        }
        match baseline::run(bench, fs, program, 1, self.wanted.baseline) {
            Ok(drawn) => {
                let drawn: Vec<Value> = drawn.iter().map(|one| json!([(one.seconds * 10.0).round() / 10.0, one.outcome.word()])).collect();
                self.note(&json!({"kind": "baseline", "program": program.name, "fs": fs.name, "drawn": drawn}));
            }
            Err(why) => {
                self.note(&json!({"kind": "failure", "of": "baseline", "program": program.name, "fs": fs.name, "why": why}));
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// One batch, on a recording of its own.
fn batch(bench: &Bench, fs: Filesystem, kind: &str, number: u64, peers: &[Peer]) -> Result<Value, String> {
    let (ground, seed) = (Ground::new(), 1000 + number);
    let record = |work: &Work| Recording::of(bench, fs, work, &ground, Duration::ZERO);
    match kind {
        "states" => {
            let works = [Some(Work::walk(&ground)), Some(Work::repair(&ground)), peers.first().map(|peer| Work::settle(&ground, peer))];
            // Twice as many of the walk as of the others.
            let work = works[[0, 1, 0, 2][usize::try_from(number % 4).unwrap()]].clone().unwrap_or_else(|| Work::walk(&ground));
            let counts = states(bench, &ground, &record(&work)?, seed, STATES_OF_A_BATCH)?;
            Ok(json!({
                "kind": kind, "fs": fs.name, "work": work.name, "seed": seed, "states": counts.states, "second": counts.second,
                "within": counts.within, "recovered": counts.recovered, "unmountable": counts.unmountable,
            }))
        }
        "faults" => {
            let met = faults::run(bench, &ground, &record(&Work::walk(&ground))?, seed, FAULTS_OF_A_BATCH)?;
            Ok(json!({
                "kind": kind, "fs": fs.name, "seed": seed, "states": met.faults, "refused": met.refused, "done": met.done,
                "unmountable": met.unmountable,
            }))
        }
        _ => {
            let acted = acts::run(bench, &ground, &record(&Work::walk(&ground))?, peers, seed, ACTS_OF_A_BATCH)?;
            Ok(json!({
                "kind": kind, "fs": fs.name, "seed": seed, "states": acted.acts, "killed": acted.killed, "waiting": acted.waiting,
            }))
        }
    }
}

/// The results that are there.
pub fn lines(results: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(results).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
