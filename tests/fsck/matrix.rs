//! The matrix: what is found, what heals it, what the store is then.

use std::collections::BTreeSet;
use std::path::Path;

use crate::command::{Said, fsck};
use crate::injury::{At, Fetch, Injury, Level, Repair, Target, collect};
use crate::place::Place;
use crate::snapshot::{Snapshot, exactly};

/// What "damage remains" adds to the exit code.
pub const REMAINS: i32 = 4;

/// A store with one injury, and what it was.
pub struct Hurt {
    pub place: Place,
    pub before: Snapshot,
}

impl Hurt {
    /// Nothing where the store has nothing of the kind.
    pub fn new(place: Place, injury: &Injury) -> Result<Self, String> {
        let target = Target::find(&place.root()).unwrap();
        let before = Snapshot::of(&place.root());
        (injury.hurt)(&target).map_err(|why| format!("{}: {why}", injury.name))?;
        Ok(Self { place, before })
    }

    pub fn differences(&self, injury: &Injury) -> Vec<String> {
        self.before.differences(&Snapshot::of(&self.place.root()), injury.exempt)
    }

    /// Fails where the store is not what it was.
    pub fn assert_healed(&self, injury: &Injury, how: &str) {
        let differences = self.differences(injury);
        assert!(differences.is_empty(), "{}: not what it was after {how}:\n{}", injury.name, differences.join("\n"));
    }
}

fn set(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

/// A store that fsck has nothing to say about.
pub fn assert_sound(place: &Place, what: &str) {
    for level in [Level::Quick, Level::Full] {
        let said = fsck(place, &["--level", level.word()], what);
        assert!(said.findings.is_empty(), "{what}, {}: {:#?}", level.word(), said.findings);
        assert_eq!(said.code, Some(0), "{what}, {}: {said:?}", level.word());
    }
}

/// Every injury changes what [`Snapshot`] compares: else nothing here could fail.
pub fn bites(injury: &Injury) {
    let hurt = Hurt::new(Place::ours(true), injury).unwrap();
    assert!(!hurt.differences(injury).is_empty() || injury.repair == Repair::Harmless, "{}: nobody would see it", injury.name);
}

/// The injury is found at its level and above, under its codes and no others; the store is not touched.
pub fn found(injury: &Injury, place: Place) -> Result<(), String> {
    let hurt = Hurt::new(place, injury)?;
    let before = exactly(&hurt.place.root());
    let levels: &[Level] = if injury.level == Level::Quick { &[Level::Quick, Level::Full] } else { &[Level::Full] };
    for level in levels {
        let what = format!("{}, {}", injury.name, level.word());
        let said = fsck(&hurt.place, &["--level", level.word()], &what);
        assert_eq!(said.codes(), set(injury.codes), "{what}: {:#?}\n{}", said.findings, said.stderr);
        let damage = !matches!(injury.repair, Repair::Note | Repair::Harmless);
        assert_eq!(said.code, Some(if damage { REMAINS } else { 0 }), "{what}: {said:?}");
        let after = exactly(&hurt.place.root());
        let changed: Vec<_> = after.iter().filter(|(path, is)| before.get(*path) != Some(*is)).collect();
        assert!(changed.is_empty() && after.len() == before.len(), "{what}: only looking, it changed {changed:#?}");
    }
    Ok(())
}

/// The injury is healed as its class says.
pub fn healed(injury: &Injury, place: Place) -> Result<(), String> {
    let hurt = Hurt::new(place, injury)?;
    let place = &hurt.place;
    let repair = |more: &[&str]| fsck(place, &[&["--level", injury.level.word(), "--repair"], more].concat(), injury.name);
    match injury.repair {
        Repair::Offline => {
            let said = repair(&[]);
            assert_eq!(said.code, Some(1), "{}: {said:#?}", injury.name);
            if injury.codes == ["entry-extra"] {
                assert_found_again(place, injury.name);
            }
        }
        Repair::Refetch(_) => {
            let damaged = hurt.before.differing(&Snapshot::of(&place.root()), injury.exempt);
            let said = repair(&[]);
            assert_eq!(said.code.map(|code| code & REMAINS), Some(REMAINS), "{}: offline: {said:#?}", injury.name);
            assert_kept(&hurt, injury.name);
            // What cannot be healed is not made worse.
            let now = hurt.before.differing(&Snapshot::of(&place.root()), injury.exempt);
            let more: Vec<_> = now.difference(&damaged).collect();
            assert!(more.is_empty(), "{}: --repair alone damaged {more:#?}", injury.name);
            return refetched(&hurt, injury);
        }
        Repair::Prune => {
            let said = repair(&[]);
            assert_eq!(said.code, Some(REMAINS), "{}: without --prune: {said:#?}", injury.name);
            let said = repair(&["--prune"]);
            assert_eq!(said.code, Some(2), "{}: {said:#?}", injury.name);
        }
        Repair::Note | Repair::Harmless => {
            let was = Snapshot::of(&place.root());
            let said = repair(&[]);
            assert_eq!(said.code, Some(0), "{}: {said:#?}", injury.name);
            assert_eq!(was.differences(&Snapshot::of(&place.root()), injury.exempt), [""; 0], "{}", injury.name);
            return Ok(());
        }
    }
    hurt.assert_healed(injury, "--repair");
    assert_sound(place, injury.name);
    Ok(())
}

/// What was too much is not gone: it lies in lost+found, under its own name, with its bytes.
fn assert_found_again(place: &Place, what: &str) {
    let mut all = Vec::new();
    collect(&place.root().join("cstor-rs/lost+found"), &mut all).unwrap_or_else(|why| panic!("{what}: {why}"));
    let (path, meta) = all.iter().find(|(path, _)| path.ends_with("more")).unwrap_or_else(|| panic!("{what}: {all:?}"));
    let file = if meta.is_dir() { path.join("inside") } else { path.clone() };
    match std::fs::symlink_metadata(&file).unwrap() {
        meta if meta.is_symlink() => assert_eq!(std::fs::read_link(&file).unwrap(), Path::new("/etc/passwd"), "{what}"),
        meta if meta.is_file() => assert_eq!(std::fs::read(&file).unwrap(), b"nobody knows", "{what}"),
        meta => assert_eq!(std::os::unix::fs::MetadataExt::rdev(&meta), 0, "{what}"),
    }
}

/// No image is lost, whatever else.
fn assert_kept(hurt: &Hurt, what: &str) {
    let after = Snapshot::of(&hurt.place.root());
    for (id, was) in &hurt.before.images {
        let is = after.images.get(id).unwrap_or_else(|| panic!("{what}: image {id} is lost"));
        assert_eq!((&is["names"], &is["layer"]), (&was["names"], &was["layer"]), "{what}");
    }
}

/// Fetches from the registry that the image came from: what is damaged, and nothing more.
fn refetched(hurt: &Hurt, injury: &Injury) -> Result<(), String> {
    let place = &hurt.place;
    let said = refetch(hurt, injury, &["--refetch", "--tls-verify=false"]);
    assert_eq!(said.code, Some(1), "{}: refetch: {said:#?}", injury.name);
    if let (Repair::Refetch(what), true) = (injury.repair, place.counts) {
        assert_eq!(place.asked(), [digest_of(what, hurt)], "{}: that and no other was to be asked for", injury.name);
    }
    hurt.assert_healed(injury, "--refetch");
    assert_sound(place, injury.name);
    Ok(())
}

fn refetch(hurt: &Hurt, injury: &Injury, more: &[&str]) -> Said {
    fsck(&hurt.place, &[&["--level", injury.level.word(), "--repair"], more].concat(), injury.name)
}

/// In hexadecimal.
fn digest_of(what: Fetch, hurt: &Hurt) -> String {
    let pushed = &hurt.place.one;
    let digest = match what {
        Fetch::Config => &pushed.config,
        Fetch::Manifest => &pushed.manifest,
        Fetch::Layer(At::Base) => &pushed.layers[0],
        Fetch::Layer(At::Middle) => &pushed.layers[1],
        Fetch::Layer(At::Top) => &pushed.layers[2],
    };
    digest.hex().to_owned()
}

/// Heals what needs bytes from an OCI layout; the registry is not asked.
pub fn from_layout(injury: &Injury, place: Place) -> Result<(), String> {
    let hurt = Hurt::new(place, injury)?;
    let source = layout_source(&hurt.place.layout());
    let asked = hurt.place.all_requests();
    let said = refetch(&hurt, injury, &[&source]);
    assert_eq!(said.code, Some(1), "{}: {source}: {said:#?}", injury.name);
    hurt.assert_healed(injury, &source);
    assert_sound(&hurt.place, injury.name);
    assert_eq!(hurt.place.all_requests(), asked, "{}: the registry was not to be asked", injury.name);
    Ok(())
}

fn layout_source(dir: &Path) -> String {
    format!("--refetch=oci:{}", dir.display())
}
