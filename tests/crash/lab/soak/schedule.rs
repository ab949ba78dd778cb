//! What is done in a soak, drawn from a seed: which operations, on which images, and when each process is killed.

use std::time::Duration;

use crate::rng::Rng;

/// How many writers of ours there are, and how many images each owns.
pub const WRITERS: usize = 3;
pub const IMAGES: usize = 3;
/// How many images podman owns.
pub const THEIRS: usize = 3;
/// Names that a writer moves between its images.
const EXTRA: u64 = 2;

/// What the seed of a round draws.
pub struct Draws(Rng);

impl Draws {
    /// The draws of one round: a round can be drawn without those before it.
    pub fn of(seed: u64, round: u64) -> Self {
        let mut rng = Rng::new(seed ^ round.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        Self(rng)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0.next() % end
    }

    /// A time between 2^low and 2^high microseconds, every doubling as likely as the others.
    fn time(&mut self, low: u64, high: u64) -> Duration {
        let least = 1 << (low + self.below(high - low));
        Duration::from_micros(least + self.below(least))
    }

    /// In so many of a hundred cases.
    fn sometimes(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What one process of ours does. Images are numbers among all of ours, names are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Pull(Vec<usize>),
    Atomic(Vec<usize>),
    /// One transaction: pulls an image, gives it a name, removes another image.
    Apply {
        pull: usize,
        name: String,
        remove: usize,
    },
    /// Gives an image a name, and takes it from whatever of this writer has it.
    Tag(usize, String),
    Untag(usize, String),
    /// By its main name: an image that has more only loses this one.
    Remove(usize),
    /// By its id, whatever it is called.
    RemoveWhole(usize),
    Prune,
    Settle,
    Recover,
    Repair,
}

/// What one podman does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Theirs {
    Pull(usize),
    Remove(usize),
    Tag(usize),
    Images,
    /// An image of ours.
    Inspect(usize),
}

/// What shows how far a transaction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It has a segment in the journal: it stages.
    Segment,
    /// Its intent is written, or an edit without a segment has a new table: it commits.
    Intent,
}

/// When a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// So long after its start.
    Started(Duration),
    /// So long after its transaction had come so far; never, where it does not.
    Came(Sign, Duration),
}

/// One process, and when it is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<T> {
    pub act: T,
    pub kill: Option<Kill>,
}

/// One round: what each writer does, one after the other, and what two podmans do meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub writers: Vec<Vec<Step<Act>>>,
    pub podmans: Vec<Vec<Step<Theirs>>>,
}

impl Round {
    pub fn drawn(seed: u64, round: u64) -> Self {
        let mut draws = Draws::of(seed, round);
        let writers = (0..WRITERS).map(|writer| (0..4).map(|_| ours(&mut draws, writer)).collect()).collect();
        let writing = (0..2).map(|_| theirs(&mut draws)).collect();
        let reading = (0..2).map(|_| reader(&mut draws)).collect();
        Self { writers, podmans: vec![writing, reading] }
    }

    /// Whether somebody may remove images without names.
    pub fn prunes(&self) -> bool {
        self.writers.iter().flatten().any(|step| step.act == Act::Prune)
    }
}

fn ours(draws: &mut Draws, writer: usize) -> Step<Act> {
    let first = writer * IMAGES;
    let image = first + draws.below(IMAGES as u64) as usize;
    let other = first + (image - first + 1 + draws.below(IMAGES as u64 - 1) as usize) % IMAGES;
    let name = format!("localhost/w{writer}x{}:1", draws.below(EXTRA));
    let act = match draws.below(100) {
        0..18 => Act::Pull(vec![image]),
        18..26 => Act::Pull(vec![image, other]),
        26..38 => Act::Atomic(vec![image, other]),
        38..50 => Act::Apply { pull: image, name, remove: other },
        50..60 => Act::Tag(image, name),
        60..66 => Act::Untag(image, name),
        66..76 => Act::Remove(image),
        76..84 => Act::RemoveWhole(image),
        84..88 => Act::Prune,
        88..92 => Act::Settle,
        92..96 => Act::Recover,
        _ => Act::Repair,
    };
    let started = Kill::Started(draws.time(10, 17));
    let (staging, commits) = (Kill::Came(Sign::Segment, draws.time(5, 16)), Kill::Came(Sign::Intent, draws.time(3, 14)));
    let kill = [started, staging, commits, commits][draws.below(4) as usize];
    Step { act, kill: draws.sometimes(55).then_some(kill) }
}

fn theirs(draws: &mut Draws) -> Step<Theirs> {
    let image = draws.below(THEIRS as u64) as usize;
    let act = match draws.below(10) {
        0..5 => Theirs::Pull(image),
        5..8 => Theirs::Remove(image),
        _ => Theirs::Tag(image),
    };
    let kill = Kill::Started(draws.time(15, 18));
    Step { act, kill: draws.sometimes(40).then_some(kill) }
}

fn reader(draws: &mut Draws) -> Step<Theirs> {
    let image = draws.below((WRITERS * IMAGES) as u64) as usize;
    let act = if draws.below(2) == 0 { Theirs::Images } else { Theirs::Inspect(image) };
    let kill = Kill::Started(draws.time(15, 17));
    Step { act, kill: draws.sometimes(20).then_some(kill) }
}
