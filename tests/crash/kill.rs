//! Tier kill(k): a process of its own is SIGKILLed before its k-th change: nothing of its memory, no Drop, no unwinding.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use cstor_rs::store::Store;

use crate::hooks::Kill;
use crate::power;
use crate::steps;
use crate::stop::{check_after, reopen, run_to};
use crate::work::{Expected, Work, options, temp};

const CHILD: &str = "CSTOR_RS_CRASH_CHILD";

/// What a child only opens: recovery is all it does.
const RECOVERY: &str = "recovery";

/// What the re-executed binary does: `work k directory`.
pub fn child() -> Option<ExitCode> {
    let text = std::env::var(CHILD).ok()?;
    let mut parts = text.splitn(3, ' ');
    let (name, at, root) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    if name == RECOVERY {
        let opened = Store::open(options(Path::new(root), Some(Kill::at(at))));
        return Some(if opened.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let work = Work::named(name);
    Some(match work.run(Path::new(root), Some(Kill::at(at))) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

fn run_child(name: &str, k: usize, top: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap()).env(CHILD, format!("{name} {k} {}", top.display())).output().unwrap()
}

/// Recovery killed before its every change, from stores that were stopped where they leave the most to recover, and the least.
pub fn recovery_everywhere(work: &Work) {
    let expected = Expected::of(work);
    let changes = power::changes(work);
    let intended = power::intended(work);
    let mut kills = 0;
    // In the beginning, half staged, where the segment is made, and behind the intent every few changes; of a small one all. What is common to
    // all is looked at in some.
    let (staged, all) = (power::staged(work), std::env::var_os("CSTOR_CRASH_ALL").is_some());
    let stride = match work.name {
        // What is exchanged is so between two changes of a whole transaction.
        "healed" | "documents" => 1,
        _ if all => (changes / 40).max(3),
        _ => 24,
    };
    let early = if all && work.name == "one" { 0..30 } else { staged / 2..staged / 2 + 1 };
    let before = early.chain(if all && !work.removes { staged..intended + 1 } else { 0..0 });
    let points: BTreeSet<usize> =
        if work.small { (0..changes).collect() } else { before.chain((intended + 1..changes).step_by(stride)).collect() };
    for k in points {
        for j in 0.. {
            let temp = temp();
            if run_to(work, temp.path(), k).is_none() {
                break;
            }
            let what = format!("{} stopped before change {k}, its recovery killed before change {j}", work.name);
            let Output { status, stdout, .. } = run_child(RECOVERY, j, temp.path());
            steps::hit_by_child("recovery", &stdout);
            if status.success() {
                break;
            }
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{what}: ended otherwise");
            expected.readable(&temp.path().join("root")).unwrap_or_else(|why| panic!("{what}, unrecovered: {why}"));
            reopen(temp.path(), &what);
            check_after(&expected, temp.path(), false, &what);
            kills += 1;
        }
    }
    println!("{}: {kills} kills", work.name);
    assert!(kills > if work.small { 1 } else { 5 }, "{kills} kills are too few to be true");
}

pub fn everywhere(work: &Work) {
    let expected = Expected::of(work);
    for k in 0.. {
        let temp = temp();
        work.setup(temp.path());
        let Output { status, stdout, .. } = run_child(work.name, k, temp.path());
        steps::hit_by_child(work.name, &stdout);
        let what = format!("{} killed before change {k}", work.name);
        if status.success() {
            println!("{}: {k} changes", work.name);
            assert!(k > work.least(40), "{k} changes are too few to be true");
            break;
        }
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{what}: ended otherwise");
        let switched = expected.readable(&temp.path().join("root")).unwrap_or_else(|why| panic!("{what}, unrecovered: {why}"));
        reopen(temp.path(), &what);
        let after = check_after(&expected, temp.path(), false, &what);
        assert!(after || !switched, "{what}: was visible, and was taken back");
    }
}
