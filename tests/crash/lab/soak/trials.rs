//! The trials of the soak: one of a fixed seed beside the host's podman, any seed and any podman in a campaign, and what shows
//! that the judge sees.

use std::io::Write;

use libtest_mimic::{Failed, Trial};

use super::Soak;
use super::controls::controls;
use super::schedule::Round;
use crate::peers::{Peer, skip};

/// Rounds of the soak in the suite, beside the host's podman and beside each of the others.
const ROUNDS: u64 = 10;
const ROUNDS_OF_OTHERS: u64 = 3;
const SEED: u64 = 1;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("soak::a_seed_gives_one_schedule", || {
            one_schedule();
            Ok(())
        }),
        Trial::test("soak::the_judge_sees_what_others_break", controls),
    ];
    trials.extend([4, 5, 6].map(|major| Trial::test(format!("soak::podman_{major}"), move || soak(major))));
    trials
}

fn one_schedule() {
    let draw = |seed| (0..20).map(|round| Round::drawn(seed, round)).collect::<Vec<_>>();
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let rounds = draw(7);
    assert!(rounds.windows(2).all(|two| two[0] != two[1]), "rounds repeat");
}

/// A directory in lowercase: podman makes names of the paths that it pulls from.
fn directory(name: &str) -> tempfile::TempDir {
    let prefix = format!("cstor-soak-{}-{name}", std::process::id());
    tempfile::Builder::new().prefix(&prefix).rand_bytes(0).tempdir().unwrap()
}

/// Says it, and keeps it in the campaign's file of results, where there is one.
fn record(line: &str) {
    println!("{line}");
    if let Some(results) = std::env::var_os("CSTOR_LAB_RESULTS") {
        let mut file = std::fs::File::options().create(true).append(true).open(results).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

fn soak(major: u32) -> Result<(), Failed> {
    let peer = Peer::all().into_iter().find(|peer| peer.major() == major);
    match (&peer, major) {
        (None, 4) => skip("podman in the soak", "no podman 4 works here: only writers of ours take part"),
        (None, _) => {
            skip("soak", &format!("no podman {major} works here"));
            return Ok(());
        }
        _ => {}
    }
    let seed = number("CSTOR_LAB_SEED").unwrap_or(SEED);
    let rounds = number("CSTOR_LAB_ROUNDS").unwrap_or(if major == 4 { ROUNDS } else { ROUNDS_OF_OTHERS });
    let temp = directory(&format!("{major}"));
    let name = peer.as_ref().map_or_else(|| "no podman".to_owned(), |peer| peer.name.clone());
    let mut soak = Soak::begun(temp.path(), peer);
    if let Err(report) = soak.run(seed, rounds) {
        record(&format!("{}, {name}: FAILED", report.lines().next().unwrap_or_default()));
        let kept = temp.keep();
        return Err(format!(
            "{report}the store is kept in {}\nthe same schedule: CSTOR_LAB_SEED={seed} CSTOR_LAB_ROUNDS={rounds}",
            kept.display()
        )
        .into());
    }
    let figures = &soak.figures;
    let line = format!(
        "soak: seed {seed}, {} rounds, {} operations, {} kills ({} of podman), 0 failures, {name}",
        figures.rounds, figures.operations, figures.kills, figures.podman_kills
    );
    record(&line);
    println!(
        "ours ended {:?}; transactions cut short {:?}, {} of them left to the judge's recovery; podman failed {:?}, {} times an image of its was broken; fsck found of its {:?}",
        figures.ends, figures.cut, figures.recovered, figures.podman_failed, figures.podman_broken, figures.findings
    );
    assert!(figures.kills > 0, "nobody was killed");
    Ok(())
}
