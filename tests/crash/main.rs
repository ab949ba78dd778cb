//! Crash tests: every point at which a transaction or its recovery can end, with independent oracles.
//!
//! | tier | how |
//! |---|---|
//! | stop | every change from the k-th on fails; the store is opened again, recovery itself stopped at every j |
//! | errno | one change fails, with ENOSPC, EIO, EDQUOT, EMFILE or EINTR |
//! | acts | the same, and podman acts between the crash and the recovery |
//! | kill, recovery_kill | this binary runs itself and is SIGKILLed before the k-th change |
//! | power | the log of changes on a model disk: what a power cut may leave, and a second one while recovery runs |
//! | foreign | the same for what podman wrote and never synced, and a transaction builds on |
//! | sync | each sync taken away on that disk: a test that does not fail then proves nothing |
//! | settle | all of these for what settling seals |
//! | fsck | all of these for what fsck repairs |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod acts;
mod disk;
#[path = "../common/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod fsck;
mod hooks;
mod injury;
mod kill;
#[path = "../common/oracle.rs"]
mod oracle;
mod power;
mod settle;
#[path = "../fsck/snapshot.rs"]
#[allow(dead_code)]
mod snapshot;
mod steps;
mod stop;
mod work;

use libtest_mimic::{Arguments, Trial};

fn main() -> std::process::ExitCode {
    if let Some(code) = kill::child().or_else(fsck::child).or_else(settle::child) {
        return code;
    }
    power::hush_caught_panics();
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for work in work::ALL {
        let trial = |tier: &str, run: fn(&work::Work)| {
            let work = *work;
            Trial::test(format!("{tier}::{}", work.name), move || {
                run(&work);
                Ok(())
            })
        };
        trials.push(trial("stop", stop::everywhere));
        trials.push(trial("stop_recovery", stop::recovery_everywhere));
        trials.push(trial("errno", stop::one_error_everywhere));
        trials.push(trial("acts", acts::between));
        trials.push(trial("kill", kill::everywhere));
        trials.push(trial("recovery_kill", kill::recovery_everywhere));
        trials.push(trial("power", power::everywhere));
        trials.push(trial("power_recovery", power::recovery_everywhere));
        trials.push(trial("sync", power::every_sync_counts));
    }
    let shared = work::Work::named("shared");
    trials.push(Trial::test("acts_recovery::shared", move || {
        acts::between_steps_of_recovery(&shared);
        Ok(())
    }));
    let verified = work::Work::named("verified");
    trials.push(Trial::test("power_foreign::verified", move || {
        power::foreign_contents_are_synced(&verified);
        Ok(())
    }));
    for (name, run) in settle::ALL {
        trials.push(Trial::test(format!("{name}::settle"), move || {
            run();
            Ok(())
        }));
    }
    for case in injury::ALL {
        for (tier, run) in fsck::TIERS {
            trials.push(Trial::test(format!("fsck_{tier}::{}", case.name), move || {
                run(case);
                Ok(())
            }));
        }
    }
    // A child that is just being made holds, until it runs its program, every lock that this process has: to another trial the
    // owner of a dead segment seems to live. Those that make children come by themselves.
    let (children, others): (Vec<Trial>, Vec<Trial>) = trials.into_iter().partition(|trial| trial.name().contains("kill::"));
    let (first, second) = (libtest_mimic::run(&args, others), libtest_mimic::run(&args, children));
    // With CSTOR_STEPS_WRITE a part of the trials adds to the list; else it says nothing of it.
    let all = args.filter.is_none() && args.skip.is_empty() && !args.list && std::env::var_os("CSTOR_CRASH_ALL").is_some();
    let writes = std::env::var_os("CSTOR_STEPS_WRITE").is_some();
    let reached = !(all || writes) || steps::all_reached(all);
    if first.has_failed() || second.has_failed() || !reached { std::process::ExitCode::from(101) } else { std::process::ExitCode::SUCCESS }
}
