//! What shows that the judge sees: an acknowledged image is broken behind everybody's back.

use std::path::Path;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::model::{End, main_name};
use super::schedule::{Act, Step};
use super::{Done, Soak};
use crate::oracle;

/// What is broken, how, and what the judge says.
type Control = (&'static str, fn(&mut Soak), &'static str);

const CONTROLS: [Control; 9] = [
    ("a file of its layer", |soak| remove(&soak.top_layer().join("diff/app/ours0")), "before recovery: layer "),
    ("a byte of a file", |soak| std::fs::write(soak.top_layer().join("diff/app/ours0"), [7; 9000]).unwrap(), "before recovery: layer "),
    ("its record", |soak| soak.edit("overlay-images/images.json", Vec::clear), "before recovery of writer 0 there is {}"),
    (
        "its name",
        |soak| soak.edit("overlay-images/images.json", |all| all[0]["names"] = json!([])),
        "before recovery of writer 0 there is {0: {}}",
    ),
    (
        "the end of its layer",
        |soak| soak.edit("overlay-layers/layers.json", |all| all[1]["flags"] = json!({"incomplete": true})),
        "before recovery: image ",
    ),
    ("its layer's record", |soak| soak.edit("overlay-layers/layers.json", |all| drop(all.remove(0))), "before recovery: "),
    ("its config", |soak| soak.garble_config(), "image "),
    ("nothing, and a layer of ours stands there without a record", Soak::stray, "behind recovery there is left [\"overlay/stray\"]"),
    (
        "nothing, and it was removed",
        |soak| soak.told(&Act::RemoveWhole(0)),
        "before recovery of writer 0 there is {0: {\"localhost/ours0:latest\"}}",
    ),
];

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

impl Soak {
    fn edit(&self, table: &str, change: impl Fn(&mut Vec<Value>)) {
        let path = self.place.root().join(table);
        let mut all = oracle::table(&path).unwrap();
        change(&mut all);
        std::fs::write(path, serde_json::to_vec(&all).unwrap()).unwrap();
    }

    fn top_layer(&self) -> std::path::PathBuf {
        let images = oracle::table(&self.place.root().join("overlay-images/images.json")).unwrap();
        self.place.root().join("overlay").join(images[0]["layer"].as_str().unwrap())
    }

    fn garble_config(&self) {
        let dir = self.place.root().join("overlay-images").join(&self.images.ids[0]);
        let key = oracle::data_file(&format!("sha256:{}", self.images.ids[0]));
        std::fs::write(dir.join(key), b"{}").unwrap();
    }

    fn stray(&mut self) {
        let stray = self.place.root().join("overlay/stray");
        std::fs::create_dir(&stray).unwrap();
        std::fs::copy(self.top_layer().join("cstor-rs.seal"), stray.join("cstor-rs.seal")).unwrap();
    }

    /// As if a process had acknowledged this.
    fn told(&mut self, act: &Act) {
        self.models[0].ended(act, End::Done).unwrap();
    }
}

/// A store with one acknowledged image, which the judge finds well.
fn acknowledged(top: &Path) -> Soak {
    let mut soak = Soak::begun(top, None);
    let mut model = soak.models[0].clone();
    soak.act(&mut model, 0, &Step { act: Act::Pull(vec![0]), kill: None }, &mut Done::default()).unwrap();
    soak.models[0] = model;
    assert_eq!(soak.judge(), Ok(0));
    assert_eq!(soak.check(), Ok(()));
    soak
}

pub fn controls() -> Result<(), Failed> {
    for (what, injure, says) in CONTROLS {
        let temp = tempfile::tempdir()?;
        let mut soak = acknowledged(temp.path());
        injure(&mut soak);
        let said = soak.judge();
        let fits = said.as_ref().is_err_and(|why| why.starts_with(says));
        assert!(fits, "{what} is gone, and the judge says {said:?}");
        let report = soak.report(7, 3, &said.unwrap_err());
        for part in ["soak: seed 7, round 3: ", "journal:\n", "overlay-images/images.json: ", &main_name(0)] {
            assert!(report.contains(part), "{what}: the report lacks {part:?}: {report}");
        }
    }
    let temp = tempfile::tempdir()?;
    let mut soak = acknowledged(temp.path());
    // What only fsck sees: the judge does not look at times and attributes.
    let file = std::fs::File::open(soak.top_layer().join("diff/app/ours0"))?;
    file.set_modified(std::time::UNIX_EPOCH)?;
    assert_eq!(soak.judge(), Ok(0));
    assert!(soak.check().is_err_and(|why| why.starts_with("fsck: ") && why.contains("entry-mtime")));
    // What a process says counts too.
    for (act, end) in [(Act::Tag(0, "localhost/x:1".to_owned()), End::Refused), (Act::Remove(1), End::Done)] {
        assert!(soak.models[0].ended(&act, end).is_err(), "{act:?} may not end with {end:?}");
    }
    // Behind a kill both may be, and nothing else.
    soak.models[0].ended(&Act::Atomic(vec![1, 2]), End::Killed)?;
    assert_eq!(soak.models[0].states.len(), 2);
    // Of which the later one is not taken back.
    let (Some(before), Some(after)) = (soak.models[0].states.first(), soak.models[0].states.last()) else { panic!("no states") };
    assert_eq!((before.len(), after.len()), (1, 3));
    assert_eq!(soak.models[0].recovered(before, after), Ok(()));
    assert!(soak.models[0].recovered(after, before).is_err());
    Ok(())
}
