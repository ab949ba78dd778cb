//! What can be wrong with a store: every row of the matrix in `docs/fsck.md`, every variant of a row an injury of its own.
//!
//! An injury is inflicted with plain system calls. Nothing here is cstor-rs but `journal`, whose injury is a killed pull.

mod devices;
mod entries;
mod files;
mod images;
pub mod journal;
mod layers;
mod links;
mod orphans;
mod records;
mod splits;
mod tables;
mod target;

pub use target::{At, Target, collect};

/// From which level on an injury is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// By looking at structure and metadata.
    Quick,
    /// By looking at every byte and attribute.
    Full,
}

impl Level {
    /// As `--level` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// What heals an injury.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// L: `--repair`, offline and without loss.
    Offline,
    /// N: `--refetch`, and exactly this is asked for.
    Refetch(Fetch),
    /// P: only `--prune`, which drops something.
    Prune,
    /// Nothing: it is told, and it is no damage.
    Note,
    /// Nothing: it is not even told.
    Harmless,
}

/// What a refetch asks for, of the image of the [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// The blob of one layer.
    Layer(At),
    Config,
    /// By digest.
    Manifest,
}

/// In what a healed store may differ from the one before the injury.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exempt {
    /// Layer records were rebuilt from nothing.
    pub layers: bool,
    /// Image records were; their names may be lost where no history holds them.
    pub images: bool,
    /// A layer has a new LINKID.
    pub links: bool,
}

/// In nothing.
pub const EQUAL: Exempt = Exempt { layers: false, images: false, links: false };
const LAYERS: Exempt = Exempt { layers: true, ..EQUAL };
const IMAGES: Exempt = Exempt { images: true, ..EQUAL };
const LINKS: Exempt = Exempt { links: true, ..EQUAL };

/// Why an injury was not inflicted: the store has nothing of the kind, or the disk says no.
pub type Hurt = fn(&Target) -> Result<(), String>;

/// One way in which a store can be damaged.
#[derive(Debug, Clone, Copy)]
pub struct Injury {
    /// As it is called on the command line and in the figures.
    pub name: &'static str,
    /// The row of the matrix.
    pub row: &'static str,
    pub level: Level,
    pub repair: Repair,
    /// The codes that are found, and no others.
    pub codes: &'static [&'static str],
    pub exempt: Exempt,
    pub hurt: Hurt,
}

impl Injury {
    /// One that stands out in structure and metadata, and is healed offline.
    const fn quick(row: &'static str, name: &'static str, codes: &'static [&'static str], hurt: Hurt) -> Self {
        Self { name, row, level: Level::Quick, repair: Repair::Offline, codes, exempt: EQUAL, hurt }
    }

    /// One that only a look at everything finds, and that is healed offline.
    const fn full(row: &'static str, name: &'static str, codes: &'static [&'static str], hurt: Hurt) -> Self {
        Self { level: Level::Full, ..Self::quick(row, name, codes, hurt) }
    }

    const fn refetch(self, what: Fetch) -> Self {
        Self { repair: Repair::Refetch(what), ..self }
    }

    const fn repair(self, repair: Repair) -> Self {
        Self { repair, ..self }
    }

    const fn exempt(self, exempt: Exempt) -> Self {
        Self { exempt, ..self }
    }

    /// L, N, P, or nothing to do.
    pub fn class(&self) -> &'static str {
        match self.repair {
            Repair::Offline => "L",
            Repair::Refetch(_) => "N",
            Repair::Prune => "P",
            Repair::Note => "note",
            Repair::Harmless => "none",
        }
    }
}

/// Every injury, in the order of the matrix.
pub fn all() -> impl Iterator<Item = &'static Injury> {
    let lists: [&[Injury]; 11] = [
        journal::ALL,
        links::ALL,
        tables::ALL,
        records::ALL,
        images::ALL,
        layers::ALL,
        splits::ALL,
        files::ALL,
        entries::ALL,
        devices::ALL,
        orphans::ALL,
    ];
    lists.into_iter().flatten()
}

/// The injury of this name.
pub fn named(name: &str) -> Option<&'static Injury> {
    all().find(|injury| injury.name == name)
}
