//! Two injuries at once, drawn by a seed that is printed: what heals each alone heals both.

use crate::command::fsck;
use crate::injury::{self, Exempt, Injury, Repair, Target};
use crate::matrix::assert_sound;
use crate::place::Place;
use crate::snapshot::Snapshot;

/// The numbers after a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Pairs that once lost something.
const ALWAYS: &[(&str, &str)] = &[
    // Documents without a record are an image's as long as any of them, or the history, says which: they are no orphans.
    ("config-missing", "images-table-garbled"),
    ("layer-lost-with-its-entry", "images-table-no-records"),
    // What a rebuilt record lacks because a document or a tar-split was damaged too comes with that.
    ("layers-table-missing", "manifests-garbled"),
    ("layers-record-missing-middle", "config-missing"),
    ("layers-table-missing", "split-missing"),
    ("journal-killed-before-tables", "images-table-nul"),
];

/// So many pairs as `CSTOR_FSCK_PAIRS` says, drawn from `CSTOR_FSCK_SEED`.
pub fn drawn() -> Vec<(&'static Injury, &'static Injury)> {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let mut draw = Draw(number("CSTOR_FSCK_SEED", 4));
    let all: Vec<&Injury> = injury::all().filter(|one| matches!(one.repair, Repair::Offline | Repair::Refetch(_))).collect();
    let mut one = || all[draw.below(all.len())];
    let mut pairs: Vec<_> = ALWAYS.iter().map(|(a, b)| (injury::named(a).unwrap(), injury::named(b).unwrap())).collect();
    for _ in 0..number("CSTOR_FSCK_PAIRS", 60) {
        let (a, b) = (one(), one());
        if a.name != b.name && !pairs.iter().any(|(x, y)| (x.name, y.name) == (a.name, b.name)) {
            pairs.push((a, b));
        }
    }
    pairs
}

pub fn healed(a: &Injury, b: &Injury) {
    let place = Place::ours(true);
    let target = Target::find(&place.root()).unwrap();
    let before = Snapshot::of(&place.root());
    (a.hurt)(&target).unwrap();
    // The first may have taken away some of what the second would hurt.
    if let Err(why) = (b.hurt)(&target) {
        println!("{}, after {}: {why}", b.name, a.name);
    }
    let exempt = both(a.exempt, b.exempt);
    let what = format!("{} and {}", a.name, b.name);
    let looked = fsck(&place, &["--level", "full"], &what);
    assert_eq!(looked.code, Some(4), "{what}: {looked:#?}");
    // What a repair brings to light is healed by the next: a layer without record has contents that nobody looked at.
    let mut ends = Vec::new();
    for _ in 0..3 {
        let said = fsck(&place, &["--level", "full", "--repair", "--refetch", "--tls-verify=false"], &what);
        ends.push(said.code);
        if said.code == Some(0) {
            break;
        }
        assert_eq!(said.code, Some(1), "{what}: {said:#?}");
    }
    assert_eq!(ends.last(), Some(&Some(0)), "{what}: not healed once and for all: {ends:?}");
    let differences = before.differences(&Snapshot::of(&place.root()), exempt);
    assert!(differences.is_empty(), "{what}: not what it was:\n{}", differences.join("\n"));
    assert_sound(&place, &what);
}

fn both(a: Exempt, b: Exempt) -> Exempt {
    Exempt { layers: a.layers || b.layers, images: a.images || b.images, links: a.links || b.links }
}
