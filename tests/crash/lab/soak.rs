//! The soak: several writers of ours and two podmans on one store, killed at random; a model of what must be there of our images.
//!
//! A seed gives the schedule: what each process does, on which images, and how long after its start it is killed. How the processes
//! meet is the machine's affair, so a failure comes with its state: the store is kept, and the journal printed.
//!
//! Each writer owns images that nobody else pulls, names or removes; the layers belong to all of them, and to podman's images. What
//! podman loses of its own when it is killed is its own affair.

mod controls;
mod images;
mod judge;
mod model;
mod process;
mod report;
mod schedule;
mod trials;

use std::collections::BTreeMap;
use std::path::Path;

use images::Images;
use model::{End, Model};
use process::{Ended, Place};
use schedule::{Act, Kill, Round, Step, Theirs, WRITERS};

use crate::peers::Peer;

pub use trials::trials;

/// What a soak did.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    rounds: u64,
    operations: u64,
    kills: u64,
    podman_kills: u64,
    /// Operations of podman that failed without having been killed, by what it said.
    podman_failed: BTreeMap<String, u64>,
    /// Operations of ours by how they ended.
    ends: BTreeMap<End, u64>,
    /// Transactions of killed processes of ours, by how far they had come.
    cut: BTreeMap<String, u64>,
    /// Images of podman's seen with layers missing or incomplete, in all rounds together.
    podman_broken: u64,
    /// Transactions that were left to the judge's recovery: nobody else had met them.
    recovered: u64,
    /// What fsck found of podman's.
    findings: BTreeMap<String, u64>,
}

/// One store, and what is known of it.
pub struct Soak {
    place: Place,
    images: Images,
    models: Vec<Model>,
    figures: Figures,
    /// The operations of the last two rounds.
    log: Vec<String>,
}

/// What one thread did in a round.
#[derive(Default)]
struct Done {
    log: Vec<String>,
    kills: u64,
    failed: Vec<String>,
    ends: Vec<End>,
    cut: Vec<String>,
}

impl Done {
    fn note(&mut self, who: &str, what: &dyn std::fmt::Debug, kill: Option<Kill>, ended: &Ended) {
        let when = kill.map_or_else(String::new, |kill| format!(", to be killed {kill:?}"));
        self.log.push(format!("{who}: {what:?}{when}: {}", ended.line()));
        self.kills += u64::from(ended.killed());
    }
}

impl Soak {
    pub fn begun(top: &Path, peer: Option<Peer>) -> Self {
        let images = Images::made(top);
        let place = Place::new(top.to_owned(), peer);
        Self { place, images, models: vec![Model::empty(); WRITERS], figures: Figures::default(), log: Vec::new() }
    }

    /// Whatever fails is told with everything that is known of it.
    pub fn run(&mut self, seed: u64, rounds: u64) -> Result<(), String> {
        // Some commands want a store that is there.
        let first = self.act(&mut Model::empty(), 0, &Step { act: Act::Pull(vec![0]), kill: None }, &mut Done::default());
        first.and_then(|()| self.models[0].ended(&Act::Pull(vec![0]), End::Done)).map_err(|why| self.report(seed, 0, &why))?;
        for number in 0..rounds {
            self.round(&Round::drawn(seed, number)).map_err(|why| self.report(seed, number, &why))?;
            if number % 4 == 3 || number + 1 == rounds {
                self.check().map_err(|why| self.report(seed, number, &why))?;
            }
        }
        Ok(())
    }

    /// Everybody at once, and once all have ended the judgement.
    fn round(&mut self, round: &Round) -> Result<(), String> {
        let mut models = self.models.clone();
        let prunes = round.prunes();
        let soak = &*self;
        let results: Vec<(Done, Result<(), String>)> = std::thread::scope(|scope| {
            let writers = round.writers.iter().zip(&mut models).enumerate();
            let writers: Vec<_> =
                writers.map(|(number, (steps, model))| scope.spawn(move || soak.writer(number, steps, model, prunes))).collect();
            let podmans: Vec<_> = round.podmans.iter().map(|steps| scope.spawn(move || soak.podman(steps))).collect();
            writers.into_iter().chain(podmans).map(|thread| thread.join().unwrap()).collect()
        });
        self.models = models;
        let begins = self.log.iter().rposition(|line| line.is_empty()).unwrap_or(0);
        self.log.drain(..begins);
        self.log.push(String::new());
        self.figures.rounds += 1;
        let mut whole = Ok(());
        for (index, (done, result)) in results.into_iter().enumerate() {
            self.figures.operations += done.log.len() as u64;
            self.figures.kills += done.kills;
            self.figures.podman_kills += if index < WRITERS { 0 } else { done.kills };
            done.failed.into_iter().for_each(|why| *self.figures.podman_failed.entry(why).or_insert(0) += 1);
            done.ends.into_iter().for_each(|end| *self.figures.ends.entry(end).or_insert(0) += 1);
            done.cut.into_iter().for_each(|state| *self.figures.cut.entry(state).or_insert(0) += 1);
            self.log.extend(done.log);
            whole = whole.and(result);
        }
        whole?;
        self.figures.recovered += self.judge()?;
        Ok(())
    }

    fn writer(&self, number: usize, steps: &[Step<Act>], model: &mut Model, prunes: bool) -> (Done, Result<(), String>) {
        let mut done = Done::default();
        for step in steps {
            if prunes {
                model.prunable();
            }
            if let Err(why) = self.act(model, number, step, &mut done) {
                return (done, Err(format!("writer {number}: {why}")));
            }
        }
        if prunes {
            model.prunable();
        }
        (done, Ok(()))
    }

    /// One process of ours.
    fn act(&self, model: &mut Model, writer: usize, step: &Step<Act>, done: &mut Done) -> Result<(), String> {
        let ended = self.place.run(self.place.ours(self.arguments(writer, &step.act)), step.kill)?;
        done.note(&format!("writer {writer}"), &step.act, step.kill, &ended);
        let end = match (ended.status.code(), &step.act) {
            (None, _) if ended.killed() => End::Killed,
            (Some(0), _) => End::Done,
            // Healed; there is something of podman's; something of podman's was busy.
            (Some(code), Act::Repair | Act::Settle) if code & !(1 | 4 | 64) == 0 => End::Done,
            (Some(1), _) if ["is not known", "is not called"].iter().any(|part| ended.err.contains(part)) => End::Refused,
            _ => return Err(format!("{:?}: {} {}", step.act, ended.line(), ended.out)),
        };
        if end == End::Killed {
            done.cut.extend(ended.transaction(&self.place)?);
        }
        done.ends.push(end);
        model.ended(&step.act, end)
    }

    fn arguments(&self, writer: usize, act: &Act) -> Vec<String> {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let id = |image: &usize| self.images.ids[*image].as_str();
        let pull = |first: &[&str], list: &[usize]| {
            let mut all = words(first);
            all.extend(list.iter().map(|image| self.images.ours(*image)));
            all
        };
        match act {
            Act::Pull(list) => pull(&["pull", "--quiet"], list),
            Act::Atomic(list) => pull(&["pull", "--quiet", "--atomic"], list),
            Act::Apply { pull, name, remove } => {
                let file = self.place.top.join(format!("apply{writer}.toml"));
                let text = format!(
                    "[[change]]\npull = {:?}\n[[change]]\ntag = {{ image = {:?}, name = {name:?} }}\n[[change]]\nrm = {{ image = {:?}, force = true }}\n",
                    self.images.ours(*pull),
                    model::main_name(*pull),
                    id(remove)
                );
                std::fs::write(&file, text).unwrap();
                words(&["apply", "--quiet", file.to_str().unwrap()])
            }
            Act::Tag(image, name) => words(&["tag", id(image), name]),
            Act::Untag(image, name) => words(&["untag", id(image), name]),
            Act::Remove(image) => words(&["rmi", &model::main_name(*image)]),
            Act::RemoveWhole(image) => words(&["rmi", "--force", id(image)]),
            Act::Prune => words(&["prune", "--image-age", "0s"]),
            Act::Settle => words(&["settle"]),
            Act::Recover => words(&["recover"]),
            Act::Repair => words(&["fsck", "--repair", "--quiet"]),
        }
    }

    /// One podman after the other; what they say where something went between their looking and their doing is only counted.
    fn podman(&self, steps: &[Step<Theirs>]) -> (Done, Result<(), String>) {
        let mut done = Done::default();
        for step in steps {
            let name = |image: &usize| self.images.their_name(*image);
            let args = match &step.act {
                Theirs::Pull(image) => vec!["pull".to_owned(), "--quiet".to_owned(), self.images.theirs(*image)],
                Theirs::Remove(image) => vec!["rmi".to_owned(), "--force".to_owned(), name(image)],
                Theirs::Tag(image) => vec!["tag".to_owned(), name(image), format!("localhost/theirs{image}:more")],
                Theirs::Images => vec!["images".to_owned(), "--all".to_owned()],
                Theirs::Inspect(image) => vec!["image".to_owned(), "inspect".to_owned(), self.images.ids[*image].clone()],
            };
            let Some(command) = self.place.podman(args) else { break };
            match self.place.run(command, step.kill) {
                Ok(ended) => {
                    done.note("podman", &step.act, step.kill, &ended);
                    if !ended.killed() && !ended.status.success() {
                        let act = format!("{:?}", step.act);
                        let why = ended.err.lines().last().unwrap_or_default().rsplit(": ").next().unwrap_or_default();
                        done.failed.push(format!("{} {why}", act.split('(').next().unwrap_or_default()));
                    }
                }
                Err(why) => return (done, Err(why)),
            }
        }
        (done, Ok(()))
    }
}
