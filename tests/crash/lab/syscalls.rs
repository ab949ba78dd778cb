//! Tier syscall: the real command is SIGKILLed before its every system call that changes something, counted over all its threads.
//!
//! `cargo test` takes a sample; `CSTOR_LAB_ALL=1` takes every call. One line for each trial goes to stdout, and to the file that
//! `CSTOR_LAB_RESULTS` names.

mod control;
mod judge;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::fixture::image;
use crate::image::{Layout, above, every_kind, two_layers};
use crate::oracle;
use crate::skip;
use crate::tracer;
use judge::{Place, Subject};

/// A command that changes a store. `@NAME` is a reference to an image of the layout, `@plan` the file for `apply`.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    before: &'static [&'static [&'static str]],
    command: &'static [&'static str],
    /// Whether it has `--jobs`.
    parallel: bool,
    /// What it ends with where it was done already.
    again_code: i32,
    /// The fewest changes that can be true.
    least: usize,
}

const BOTH: &[&str] = &["pull", "--atomic", "@kept", "@one"];

const ALL: &[Work] = &[
    Work { name: "pull", before: &[], command: &["pull", "@one"], parallel: true, again_code: 0, least: 300 },
    Work {
        name: "batch",
        before: &[&["pull", "@kept"]],
        command: &["pull", "--atomic", "@one", "@two", "@three"],
        parallel: true,
        again_code: 0,
        least: 300,
    },
    APPLY,
    Work { name: "delete", before: &[BOTH], command: &["rmi", "--ignore", "one"], parallel: false, again_code: 0, least: 60 },
    Work {
        name: "prune",
        before: &[BOTH, &["untag", "one"]],
        command: &["prune", "--image-age=0s", "--layer-age=0s"],
        parallel: false,
        again_code: 0,
        least: 60,
    },
    Work { name: "retag", before: &[BOTH], command: &["tag", "one", "kept"], parallel: false, again_code: 0, least: 10 },
];

/// Pulls two, moves a name, removes one: what it removes is not there a second time.
const APPLY: Work = Work {
    name: "apply",
    before: &[&["pull", "--atomic", "@kept", "@old"]],
    command: &["apply", "@plan"],
    parallel: true,
    again_code: 1,
    least: 300,
};

/// What a recovery finds, in the order of a transaction's life.
const FOUND: &[&str] = &["dropped", "rolled_back", "rolled_forward", "cleaned_up"];

/// Of the kills that leave the same to be found, one.
#[derive(Clone, Copy)]
enum Which {
    First,
    Last,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// Going back has most to do after the last such kill, going on after the first.
const RECOVERIES: &[(&str, Which)] = &[
    ("dropped", Which::Last),
    ("rolled_back", Which::First),
    ("rolled_back", Which::Last),
    ("rolled_forward", Which::First),
    ("rolled_forward", Which::Last),
    ("cleaned_up", Which::First),
];

/// What all stores of a trial are made from.
struct Lab {
    temp: tempfile::TempDir,
    layout: Layout,
}

impl Lab {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let three = image("three", vec![every_kind(1), above("one"), above("three")]);
        let images = [two_layers("one", 1), two_layers("two", 1), three, two_layers("kept", 2), two_layers("old", 3)];
        let layout = Layout::of(temp.path().join("layout"), &images);
        let [two, three] = ["two", "three"].map(|name| layout.reference(name));
        let plan = format!(
            "[[change]]\npull = {two:?}\n[[change]]\npull = {three:?}\n[[change]]\ntag = {{ image = \"kept\", name = \"stable:1\" }}\n\
             [[change]]\nrm = \"old\"\n"
        );
        std::fs::write(temp.path().join("plan.toml"), plan).unwrap();
        Self { temp, layout }
    }

    fn words(&self, args: &[&str]) -> Vec<String> {
        let word = |arg: &&str| match arg.strip_prefix('@') {
            Some("plan") => self.temp.path().join("plan.toml").to_str().unwrap().to_owned(),
            Some(name) => self.layout.reference(name),
            None => (*arg).to_owned(),
        };
        args.iter().map(word).collect()
    }

    fn run(&self, place: &Place, args: &[&str]) {
        let words = self.words(args);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        place.ok(&words).unwrap();
    }

    fn prepare(&self, work: &Work, place: &Place) {
        work.before.iter().for_each(|args| self.run(place, args));
    }

    fn argv(&self, work: &Work, jobs: u8, place: &Place) -> Vec<String> {
        let mut words = self.words(work.command);
        if work.parallel {
            words.push(format!("--jobs={jobs}"));
        }
        place.argv(&words)
    }

    /// The changes of a run that nothing interrupts, and what the store says before and after it.
    fn whole(&self, work: &Work, jobs: u8) -> (Vec<String>, oracle::Said, oracle::Said) {
        let place = Place::new();
        self.prepare(work, &place);
        let before = oracle::read(&place.root()).unwrap();
        let seen = tracer::trace(&self.argv(work, jobs, &place), None).unwrap();
        assert_eq!(seen.code, Some(0), "{}: {seen:?}", work.name);
        // It and each of its workers, where it has some.
        assert_eq!((seen.threads > 1, seen.threads > 2), (work.parallel, jobs > 1), "{}: {} threads", work.name, seen.threads);
        let after = oracle::read(&place.root()).unwrap();
        assert_ne!(before.images, after.images, "{}", work.name);
        (seen.calls, before, after)
    }
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: String, run: Box<dyn Fn() + Send>| {
        trials.push(Trial::test(format!("syscalls::{name}"), move || {
            if let Some(reason) = impossible() {
                skip::skipped(&format!("system calls: {reason}"));
                return Ok(());
            }
            run();
            Ok(())
        }));
    };
    for work in ALL {
        for jobs in if work.parallel { &[1, 4][..] } else { &[1] } {
            add(format!("{}_jobs_{jobs}", work.name), Box::new(move || everywhere(work, *jobs)));
        }
    }
    for (found, most) in RECOVERIES {
        add(format!("recover_{found}_{}", most.name()), Box::new(|| recovery_everywhere(found, *most)));
    }
    for control in control::ALL {
        add(format!("control_{}", control.name), Box::new(|| control::run(control)));
    }
    trials
}

fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("the images have devices and owners, which takes the root user".to_owned());
    }
    tracer::impossible()
}

fn everywhere(work: &Work, jobs: u8) {
    let lab = Lab::new();
    let (calls, before, after) = lab.whole(work, jobs);
    assert!(calls.len() >= work.least, "{}: {} changes are too few to be true", work.name, calls.len());
    let argv = |place: &Place| lab.argv(work, jobs, place);
    let subject = Subject {
        prepare: &|place| lab.prepare(work, place),
        argv: &argv,
        again: &argv,
        again_code: work.again_code,
        ends: None,
        before,
        after,
    };
    go_through(&format!("{} jobs {jobs}", work.name), &calls, &subject);
}

/// `recover` killed before its every change, of a store that a kill of `apply` left in this state.
fn recovery_everywhere(found: &str, which: Which) {
    let lab = Lab::new();
    let (calls, before, after) = lab.whole(&APPLY, 1);
    let stage = |at: usize| {
        let place = Place::new();
        lab.prepare(&APPLY, &place);
        tracer::trace(&lab.argv(&APPLY, 1, &place), Some(at)).unwrap();
        let ended = oracle::read(&place.root()).unwrap() == after;
        finds(&place).map_or(if ended { FOUND.len() } else { 0 }, |found| stage_of(&found))
    };
    let wanted = stage_of(found);
    // A transaction goes through them in this order, so that halving finds where one begins.
    let begins = |wanted: usize| {
        let (mut low, mut high) = (0, calls.len());
        while low < high {
            let middle = low.midpoint(high);
            if stage(middle) < wanted { low = middle + 1 } else { high = middle }
        }
        low
    };
    let at = match which {
        Which::First => begins(wanted),
        Which::Last => begins(wanted + 1) - 1,
    };
    let prepare = |place: &Place| {
        lab.prepare(&APPLY, place);
        let seen = tracer::trace(&lab.argv(&APPLY, 1, place), Some(at)).unwrap();
        assert_eq!(finds(place).as_deref(), Some(found), "killed before call {at}: {seen:?}");
    };
    let subject = Subject {
        prepare: &prepare,
        argv: &|place| place.argv(&["recover".to_owned()]),
        again: &|place| lab.argv(&APPLY, 1, place),
        again_code: APPLY.again_code,
        ends: Some(wanted >= stage_of("rolled_forward")),
        before,
        after,
    };
    let place = Place::new();
    prepare(&place);
    let seen = tracer::trace(&place.argv(&["recover".to_owned()]), None).unwrap();
    assert!(seen.code == Some(0) && seen.calls.len() >= 10, "{seen:?}");
    go_through(&format!("recover_{found}_{} jobs 1", which.name()), &seen.calls, &subject);
}

fn stage_of(found: &str) -> usize {
    FOUND.iter().position(|known| *known == found).unwrap_or_else(|| panic!("a recovery finds {found}"))
}

/// What a recovery would do about the one transaction there is.
fn finds(place: &Place) -> Option<String> {
    let told: Value = serde_json::from_str(&place.ok(&["recover", "--dry-run", "--json"]).unwrap()).unwrap();
    let list = told["would_end"].as_array().unwrap();
    assert!(list.len() < 2 && told["pending"] == serde_json::json!([]), "{told}");
    list.first().map(|one| one["outcome"].as_str().unwrap().to_owned())
}

/// Kills before each of these calls, or before a sample of them. With several threads another run may have more or fewer: with
/// all, until one ends by itself.
fn go_through(what: &str, calls: &[String], subject: &Subject<'_>) {
    let mut names = BTreeMap::new();
    calls.iter().for_each(|name| *names.entry(name.as_str()).or_insert(0) += 1);
    let names: Vec<String> = names.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("{what}: {} changes: {}", calls.len(), names.join(", "));
    let (mut kills, mut failures) = (0, Vec::new());
    let all = std::env::var_os("CSTOR_LAB_ALL").is_some();
    let points: Box<dyn Iterator<Item = usize>> = if all { Box::new(0..) } else { Box::new(sample(calls).into_iter()) };
    for at in points {
        let (seen, result) = subject.killed(at);
        kills += usize::from(seen.killed_before.is_some());
        let before = seen.killed_before.as_deref().unwrap_or("none");
        if let Err(why) = result {
            failures.push(format!("{what} killed before call {at} ({before}): {why}"));
        }
        if all && seen.killed_before.is_none() {
            break;
        }
    }
    let line = format!("syscalls: {what}: {kills} kills, {} failures", failures.len());
    println!("{line}");
    record(&line);
    assert_eq!(failures, Vec::<String>::new());
}

/// While layers are unpacked the next call only adds one more file to what recovery removes: few there, more behind the syncfs that
/// the commit begins with, and the last.
fn sample(calls: &[String]) -> Vec<usize> {
    let commit = calls.iter().rposition(|name| name == "syncfs").unwrap_or(0);
    let each = |from: usize, to: usize, count: usize| (from..to).step_by((to - from).div_ceil(count).max(1));
    each(0, commit, 5).chain(each(commit, calls.len(), 12)).chain([calls.len() - 1]).collect()
}

fn record(line: &str) {
    let Some(path) = std::env::var_os("CSTOR_LAB_RESULTS").map(PathBuf::from) else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}
