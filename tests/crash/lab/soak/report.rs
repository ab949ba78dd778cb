//! What a failed soak says: everything that is needed to look for the reason without running it again.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::Soak;
use crate::oracle;

impl Soak {
    /// The state and the journal decoded, as they are now.
    pub fn state(&self) -> String {
        let root = self.place.root();
        let mut text = String::new();
        for (what, args) in [("journal", vec!["journal".to_owned()]), ("images", vec!["images".into(), "--no-trunc".into()])] {
            writeln!(text, "{what}:\n{}", self.say(args)).unwrap();
        }
        let segments: Vec<Value> = serde_json::from_str(&self.say(vec!["journal".into(), "--json".into()])).unwrap_or_default();
        for txn in segments.iter().filter_map(|segment| segment["transaction"].as_str()) {
            writeln!(text, "journal show {txn}:\n{}", self.say(vec!["journal".into(), "show".into(), txn.into(), "--json".into()]))
                .unwrap();
        }
        for path in ["overlay-layers/layers.json", "overlay-images/images.json"] {
            let bytes = std::fs::read(root.join(path)).unwrap_or_default();
            writeln!(text, "{path}: {}", String::from_utf8_lossy(&bytes)).unwrap();
        }
        for dir in ["cstor-rs", "overlay-layers", "overlay-images", "overlay/l"] {
            writeln!(text, "{dir}:").unwrap();
            for line in oracle::listing(&root.join(dir)).unwrap_or_default() {
                writeln!(text, "  {line}").unwrap();
            }
        }
        writeln!(text, "overlay: {:?}", names(&root.join("overlay"))).unwrap();
        text
    }

    fn say(&self, args: Vec<String>) -> String {
        let ended = self.place.ours(args).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr))
    }

    /// The whole report.
    pub fn report(&self, seed: u64, round: u64, why: &str) -> String {
        let mut text = format!("soak: seed {seed}, round {round}: {why}\n");
        for (writer, model) in self.models.iter().enumerate() {
            writeln!(text, "of writer {writer} there may be {:?}", model.states).unwrap();
        }
        for (number, id) in self.images.ids.iter().enumerate() {
            writeln!(text, "image {number} is {id}").unwrap();
        }
        text.push_str("operations of this round and the one before:\n");
        self.log.iter().for_each(|line| writeln!(text, "  {line}").unwrap());
        text + &self.state()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let list = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
