//! Programs that are wrong on purpose: a tier that passes them proves nothing. And one that is right: not everything fails.

use super::judge::{Place, Subject};
use super::{BOTH, Lab};
use crate::oracle::{self, Said};
use crate::tracer;

/// A script that moves a name from one image to another, or writes down images that lie there complete.
pub struct Control {
    pub name: &'static str,
    /// `$1` and `$2` are images.json and layers.json without the ending, `$3` and `$4` what they shall be, `$5` a name beside them.
    script: &'static str,
    /// Whether the tables are empty before.
    new: bool,
    /// What is found; `None` where it is right.
    found: Option<&'static str>,
}

const TOKEN: &str = "printf '%064d' 7 >\"$1.lock\"";

pub const ALL: &[Control] = &[
    Control { name: "renamed", script: "printf %s \"$3\" >\"$5\"; TOKEN; mv \"$5\" \"$1.json\"; echo done", new: false, found: None },
    Control {
        name: "in_place",
        script: "TOKEN; printf %s \"$3\" >\"$1.json\"; echo done",
        new: false,
        found: Some("images.json: EOF while parsing"),
    },
    Control {
        name: "without_token",
        script: "printf %s \"$3\" >\"$5\"; mv \"$5\" \"$1.json\"; echo done",
        new: false,
        found: Some("a table changed and its token did not"),
    },
    Control {
        name: "said_too_early",
        script: "printf %s \"$3\" >\"$5\"; TOKEN; echo done; mv \"$5\" \"$1.json\"",
        new: false,
        found: Some("it said it was done, and the store is as before"),
    },
    Control {
        name: "left_behind",
        script: "printf %s \"$3\" >\"$1.new\"; TOKEN; mv \"$1.new\" \"$1.json\"; echo done",
        new: false,
        found: Some("left behind: [\"overlay-images/images.new\"]"),
    },
    Control {
        name: "image_before_its_layers",
        script: "printf %s \"$3\" >\"$5\"; TOKEN; mv \"$5\" \"$1.json\"; printf %s \"$4\" >\"$5\"; mv \"$5\" \"$2.json\"; echo done",
        new: true,
        found: Some("which is not there"),
    },
];

fn table(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.root().join(format!("{name}.json"))).unwrap()
}

const TABLES: [&str; 2] = ["overlay-images/images", "overlay-layers/layers"];

/// Killed before its every call as the command is, and judged as it is.
pub fn run(control: &Control) {
    let lab = Lab::new();
    let target = Place::new();
    lab.run(&target, BOTH);
    let mut before = oracle::read(&target.root()).unwrap();
    if control.new {
        before = Said::default();
    } else {
        lab.run(&target, &["tag", "one", "kept"]);
    }
    let contents = TABLES.map(|name| table(&target, name));
    let script = control.script.replace("TOKEN", TOKEN);
    let argv = |place: &Place| {
        let path = |name: &str| place.root().join(name).to_str().unwrap().to_owned();
        let words = ["sh", "-ec", &script, "sh"].map(str::to_owned).into_iter();
        words.chain(TABLES.map(path)).chain(contents.clone()).chain([path("new")]).collect()
    };
    let prepare = |place: &Place| {
        lab.run(place, BOTH);
        for name in TABLES.iter().filter(|_| control.new) {
            std::fs::write(place.root().join(format!("{name}.json")), "[]").unwrap();
        }
    };
    let after = oracle::read(&target.root()).unwrap();
    let subject = Subject { prepare: &prepare, argv: &argv, again: &argv, again_code: 0, ends: None, before, after };
    let place = Place::new();
    prepare(&place);
    let calls = tracer::trace(&argv(&place), None).unwrap().calls;
    let failures: Vec<String> = (0..calls.len()).filter_map(|at| subject.killed(at).1.err()).collect();
    println!("control {}: {} calls, {} failures", control.name, calls.len(), failures.len());
    match control.found {
        None => assert_eq!(failures, Vec::<String>::new(), "{}: what is right is found wrong", control.name),
        Some(found) => assert!(failures.iter().any(|why| why.contains(found)), "{} passes: {failures:?}", control.name),
    }
}
