//! Whether a store in which nothing runs any more is what the models of its writers say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Soak;
use super::model::{State, named};
use super::schedule::IMAGES;
use crate::oracle::{self, Said};

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_default()
}

/// What podman left half made or half deleted, and says so itself.
fn incomplete(record: &Value) -> bool {
    record["flags"]["incomplete"] == Value::Bool(true)
}

/// Every layer below this one, and it.
fn chain<'a>(layers: &'a BTreeMap<String, Value>, top: &'a str) -> Vec<&'a str> {
    std::iter::successors(Some(top), |id| layers.get(*id).map(|layer| text(layer, "parent"))).take_while(|id| !id.is_empty()).collect()
}

/// The layers of an image that are not there or incomplete.
fn half<'a>(layers: &'a BTreeMap<String, Value>, image: &'a Value) -> Vec<&'a str> {
    chain(layers, text(image, "layer")).into_iter().filter(|id| layers.get(*id).is_none_or(incomplete)).collect()
}

/// A table by id; two records of one id are an error.
fn table(root: &Path, path: &str) -> Result<BTreeMap<String, Value>, String> {
    let list = oracle::table(&root.join(path))?;
    let count = list.len();
    let map: BTreeMap<_, _> = list.into_iter().map(|record| (text(&record, "id").to_owned(), record)).collect();
    if map.len() == count { Ok(map) } else { Err(format!("{path}: {} ids for {count} records", map.len())) }
}

impl Soak {
    /// How many of podman's images name layers that are not there or incomplete.
    fn broken_theirs(&self) -> Result<u64, String> {
        let root = self.place.root();
        let (layers, images) = (table(&root, "overlay-layers/layers.json")?, table(&root, "overlay-images/images.json")?);
        let theirs = images.iter().filter(|(id, _)| self.images.number(id).is_none());
        Ok(theirs.filter(|(_, image)| !half(&layers, image).is_empty()).count() as u64)
    }

    /// Our images as a reader sees them: each whole, down to the bytes of its layers.
    fn look(&self) -> Result<Said, String> {
        let root = self.place.root();
        let (layers, images) = (table(&root, "overlay-layers/layers.json")?, table(&root, "overlay-images/images.json")?);
        for (id, image) in images.iter().filter(|(id, _)| self.images.number(id).is_some()) {
            let half = half(&layers, image);
            if !half.is_empty() {
                return Err(format!("image {id}: its layers {half:?} are not there or incomplete"));
            }
        }
        let theirs = |record: &Value| {
            let id = text(record, "id");
            incomplete(record) || images.contains_key(id) && self.images.number(id).is_none()
        };
        oracle::read_but(&root, &theirs)
    }

    /// What is there of each writer's images.
    fn seen(&self, said: &Said) -> Vec<State> {
        let mut states = vec![State::new(); self.models.len()];
        for (id, (record, _)) in &said.images {
            let Some(number) = self.images.number(id) else { continue };
            let names = record["names"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            states[number / IMAGES].insert(number, names);
        }
        states
    }

    fn agree(&mut self, said: &Said, narrow: bool) -> Result<(), String> {
        for (writer, seen) in self.seen(said).into_iter().enumerate() {
            let mut model = self.models[writer].clone();
            model.seen(&seen).map_err(|why| format!("of writer {writer} {why}"))?;
            if narrow {
                self.models[writer] = model;
            }
        }
        Ok(())
    }

    /// Before recovery, recovery, and what must hold behind it. Returns how many transactions recovery ended.
    pub fn judge(&mut self) -> Result<u64, String> {
        let before = self.look().map_err(|why| format!("before recovery: {why}"))?;
        self.agree(&before, false).map_err(|why| format!("before recovery {why}"))?;
        let ended = self.place.run(self.place.ours(["recover", "--json"]), None)?;
        let said: Value = serde_json::from_str(&ended.out).unwrap_or_default();
        let empty = |key: &str| said[key].as_array().is_some_and(Vec::is_empty);
        if !ended.status.success() || !["pending", "left", "alive"].into_iter().all(empty) {
            return Err(format!("recover: {} {}", ended.line(), ended.out));
        }
        let after = self.look().map_err(|why| format!("behind recovery: {why}"))?;
        let mut ours = after.clone();
        ours.images.retain(|id, _| self.images.number(id).is_some());
        oracle::data_agrees(&ours)?;
        for (writer, (before, after)) in self.seen(&before).iter().zip(self.seen(&after)).enumerate() {
            self.models[writer].recovered(before, &after).map_err(|why| format!("of writer {writer} {why}"))?;
        }
        self.agree(&after, true).map_err(|why| format!("behind recovery {why}"))?;
        let left = self.left();
        if !left.is_empty() {
            return Err(format!("behind recovery there is left {left:?}"));
        }
        self.figures.podman_broken += self.broken_theirs()?;
        Ok(said["ended"].as_array().map_or(0, Vec::len) as u64)
    }

    /// What stands there without a record, and podman cannot have left.
    fn left(&self) -> Vec<PathBuf> {
        let root = self.place.root();
        let mut left = oracle::leftovers(&root, &BTreeSet::new());
        if self.place.peer.is_some() {
            left.retain(|path| !theirs(&root, path));
        }
        left
    }

    /// A full check finds nothing of ours, podman sees every image of ours, and once more than that: what has no name goes.
    pub fn check(&mut self) -> Result<(), String> {
        self.fsck()?;
        self.podman_agrees()?;
        let prune = self.place.ours(["prune", "--image-age", "0s", "--layer-age", "0s"]);
        let ended = self.place.run(prune, None)?;
        if !ended.status.success() {
            return Err(format!("prune: {}", ended.line()));
        }
        for model in &mut self.models {
            model.states = model.states.iter().map(named).collect();
        }
        self.judge().map(drop).map_err(|why| format!("behind a prune alone: {why}"))
    }

    fn fsck(&mut self) -> Result<(), String> {
        let ended = self.place.run(self.place.ours(["fsck", "--level", "full", "--json"]), None)?;
        let lines: Vec<Value> =
            ended.out.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("fsck: {line}: {e}"))).collect::<Result<_, _>>()?;
        let needed = self.needed()?;
        for finding in lines.iter().filter(|line| line.get("code").is_some()) {
            let ours = |value: &Value| value.as_str().is_some_and(|id| self.images.number(id).is_some() || needed.contains(id));
            let touches =
                ours(&finding["image"]) || ours(&finding["layer"]) || finding["images"].as_array().into_iter().flatten().any(ours);
            let code = text(finding, "code");
            let theirs = self.place.peer.is_some() && !text(finding, "path").contains("cstor-rs") && THEIRS.contains(&code);
            if touches || !(theirs || code == "layer-unneeded") {
                return Err(format!("fsck: {finding}"));
            }
            *self.figures.findings.entry(code.to_owned()).or_insert(0) += 1;
        }
        let summary = lines.last().map(|line| line["summary"].clone()).unwrap_or_default();
        if summary["unchecked"] != Value::Bool(false) {
            return Err(format!("fsck: {} {summary}", ended.line()));
        }
        Ok(())
    }

    /// The layers that images of ours need.
    fn needed(&self) -> Result<BTreeSet<String>, String> {
        let said = self.look()?;
        let layers = said.layers.into_iter().map(|(id, (record, _))| (id, record)).collect();
        let ours = said.images.iter().filter(|(id, _)| self.images.number(id).is_some());
        Ok(ours
            .flat_map(|(_, (record, _))| chain(&layers, text(record, "layer")).into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect())
    }

    fn podman_agrees(&self) -> Result<(), String> {
        // A podman that is killed between two documents of its image lists no image at all from then on.
        let records = oracle::table(&self.place.root().join("overlay-images/images.json"))?;
        let half = |image: &Value| !image["big-data-names"].as_array().into_iter().flatten().any(|key| key == "manifest");
        if let Some(image) = records.iter().find(|image| self.images.number(text(image, "id")).is_none() && half(image)) {
            println!("podman left its own image {} half made, and says nothing of the others", text(image, "id"));
            return Ok(());
        }
        let Some(list) = self.place.podman(["images", "--all", "--no-trunc", "--format", "json"]) else { return Ok(()) };
        let ended = self.place.run(list, None)?;
        let wrong = |what: &str| format!("podman {what}: {}", ended.line());
        let listed: Vec<Value> = serde_json::from_str(&ended.out).map_err(|error| wrong(&format!("images: {error}")))?;
        let mut states = vec![State::new(); self.models.len()];
        for image in &listed {
            let Some(number) = self.images.number(text(image, "Id")) else { continue };
            let names = image["Names"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            states[number / IMAGES].insert(number, names);
        }
        for (model, seen) in self.models.iter().zip(&states) {
            model.clone().seen(seen).map_err(|why| wrong(&format!("images: {why}")))?;
        }
        let mut inspect = vec!["image", "inspect"];
        inspect.extend(states.iter().flat_map(State::keys).map(|number| self.images.ids[*number].as_str()));
        if inspect.len() > 2
            && let Some(command) = self.place.podman(&inspect)
        {
            let ended = self.place.run(command, None)?;
            if !ended.status.success() {
                return Err(format!("podman image inspect: {}", ended.line()));
            }
        }
        Ok(())
    }
}

/// What a killed podman leaves behind in a store, by fsck's names.
const THEIRS: [&str; 8] = [
    "layer-incomplete",
    "links-entry-dangling",
    "links-entry-duplicate",
    "orphan-image-data",
    "orphan-layer",
    "orphan-layer-data",
    "orphan-split",
    "orphan-temp-file",
];

/// Whether podman may have left this; ours have our name, or our seal.
fn theirs(root: &Path, path: &Path) -> bool {
    let ours = path.to_string_lossy().contains("cstor-rs") || root.join(path).join("cstor-rs.seal").exists();
    // `.tmp-layers.json.<txn>.N`: Go's have no second dot behind the suffix.
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prepared = [".tmp-layers.json.", ".tmp-images.json."].iter().any(|start| name.starts_with(start));
    !ours && !prepared
}
