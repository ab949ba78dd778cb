//! A store in words, for "equal to before the injury"; plain system calls, a JSON parser, gzip, sha256.
//!
//! What stands in `cstor-rs/` but for dead transactions, seals, `merged` and the tokens of locks are left out. Times are compared of what the layer's tar
//! lists, nothing else of a layer having a time but that of its making.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::Value;

use crate::injury::Exempt;
use crate::oracle::{base64, sha256, xattrs};

/// A store in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// What there is, each under a name of its own.
    facts: BTreeMap<String, String>,
    /// When each entry of a tree was changed.
    times: BTreeMap<String, String>,
    /// The entries that the layer's tar gives a time.
    listed: BTreeSet<String>,
    /// Whether names that are lost can come back.
    history: bool,
    pub layers: BTreeMap<String, Value>,
    pub images: BTreeMap<String, Value>,
}

type Result<T> = std::io::Result<T>;

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Snapshot {
    /// Reads a store; what cannot be read is said among the facts.
    pub fn of(root: &Path) -> Self {
        let mut all = Self { history: root.join("cstor-rs/history").is_file(), ..Self::default() };
        all.read(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        all
    }

    fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.insert(name.into(), value.into());
    }

    fn read(&mut self, root: &Path) -> Result<()> {
        for name in names(root)? {
            match name.as_str() {
                "cstor-rs" => self.own(&root.join(name))?,
                "overlay" => self.overlay(&root.join("overlay"))?,
                "overlay-layers" => self.layers(root)?,
                "overlay-images" => self.images(root)?,
                other => self.other(root, other)?,
            }
        }
        Ok(())
    }

    /// Of ours, what transactions leave behind that did not end.
    fn own(&mut self, dir: &Path) -> Result<()> {
        for part in ["journal", "stage", "trash"] {
            if dir.join(part).is_dir() {
                for name in names(&dir.join(part))? {
                    self.fact(format!("own {part}/{name}"), "is there");
                }
            }
        }
        Ok(())
    }

    /// A file or directory that is nobody's but podman's.
    fn other(&mut self, root: &Path, name: &str) -> Result<()> {
        let path = root.join(name);
        let meta = fs::symlink_metadata(&path)?;
        // Locks are told by their name; whoever opens a store makes those that are missing but two.
        if name.ends_with(".lock") {
            if name.ends_with("layers.lock") || name.ends_with("images.lock") {
                self.fact(format!("lock {name}"), if meta.len() == 0 || meta.len() >= 64 { "sound" } else { "short" });
            }
            return Ok(());
        }
        let described = describe(&path, &meta)?;
        self.fact(format!("other {name}"), described);
        if meta.is_dir() {
            for inner in names(&path)? {
                self.other(root, &format!("{name}/{inner}"))?;
            }
        }
        Ok(())
    }

    fn table(&mut self, path: &Path, what: &str) -> Result<BTreeMap<String, Value>> {
        let parsed: std::result::Result<Vec<Value>, _> = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let records = parsed.unwrap_or_else(|why| {
            self.fact(format!("table {what}"), why);
            Vec::new()
        });
        let order: Vec<&str> = records.iter().map(|record| text(record, "id")).collect();
        self.fact(format!("order {what}"), order.join(" "));
        Ok(records.iter().map(|record| (text(record, "id").to_owned(), record.clone())).collect())
    }

    fn overlay(&mut self, dir: &Path) -> Result<()> {
        for name in names(dir)? {
            let path = dir.join(&name);
            match name.as_str() {
                "l" => {
                    for link in names(&path)? {
                        let to = fs::read_link(path.join(&link)).map_or_else(|_| "no link".to_owned(), |to| to.display().to_string());
                        self.fact(format!("l {link}"), to);
                    }
                }
                id if id.len() == 64 => self.layer_dir(&path, id)?,
                // Made at need, and left empty.
                "tempdirs" | "staging" if names(&path)?.is_empty() => {}
                other => self.fact(format!("overlay {other}"), "is there"),
            }
        }
        Ok(())
    }

    fn layer_dir(&mut self, dir: &Path, id: &str) -> Result<()> {
        let meta = fs::symlink_metadata(dir)?;
        let described = describe(dir, &meta)?;
        self.fact(format!("layer {id}"), described);
        if !meta.is_dir() {
            return Ok(());
        }
        for name in names(dir)? {
            let path = dir.join(&name);
            let meta = fs::symlink_metadata(&path)?;
            match name.as_str() {
                "diff" => self.tree(&path, id)?,
                "cstor-rs.seal" | "merged" | "merged.1" => {}
                "link" | "lower" | "lower-layers" if meta.is_file() => {
                    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                    self.fact(format!("{name} {id}"), text);
                    self.fact(format!("mode of {name} {id}"), format!("{:o}", meta.mode()));
                }
                _ => {
                    let described = describe(&path, &meta)?;
                    self.fact(format!("part {name} {id}"), described);
                }
            }
        }
        Ok(())
    }

    fn tree(&mut self, diff: &Path, id: &str) -> Result<()> {
        let mut inodes = BTreeMap::new();
        self.walk(diff, Path::new("."), id, &mut inodes)
    }

    fn walk(&mut self, diff: &Path, at: &Path, id: &str, inodes: &mut BTreeMap<u64, String>) -> Result<()> {
        let path = diff.join(at);
        let meta = fs::symlink_metadata(&path)?;
        let mut described = describe(&path, &meta)?;
        if !meta.is_dir() && meta.nlink() > 1 {
            let first = inodes.entry(meta.ino()).or_insert_with(|| at.display().to_string());
            write!(described, " {} names, the first is {first}", meta.nlink()).unwrap();
        }
        let key = format!("tree {id} {}", at.display());
        self.times.insert(key.clone(), format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()));
        self.facts.insert(key, described);
        if meta.is_dir() {
            for name in raw_names(&path)? {
                self.walk(diff, &at.join(name), id, inodes)?;
            }
        }
        Ok(())
    }

    fn layers(&mut self, root: &Path) -> Result<()> {
        let dir = root.join("overlay-layers");
        self.layers = self.table(&dir.join("layers.json"), "layers.json")?;
        for name in names(&dir)? {
            let path = dir.join(&name);
            match name.as_str() {
                "layers.json" => {}
                "tmp" if names(&path)?.is_empty() => {}
                split if split.ends_with(".tar-split.gz") => self.split(&path, split.trim_end_matches(".tar-split.gz"))?,
                other => self.other(root, &format!("overlay-layers/{other}"))?,
            }
        }
        Ok(())
    }

    /// One tar-split can be written in more ways than one: what it says counts, not its gzip, spaces, or Go's empty last segment.
    fn split(&mut self, path: &Path, id: &str) -> Result<()> {
        let mut lines = Vec::new();
        let unpacked = flate2::read::MultiGzDecoder::new(fs::File::open(path)?).read_to_end(&mut lines);
        if let Err(error) = unpacked {
            self.fact(format!("split {id}"), format!("damaged: {error}"));
        }
        let mut said = String::new();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(entry) = serde_json::from_slice::<Value>(line) else {
                said.push_str("no JSON\n");
                continue;
            };
            let name = match entry.get("name_raw").and_then(Value::as_str) {
                Some(raw) => String::from_utf8_lossy(&base64(raw).unwrap_or_default()).into_owned(),
                None => text(&entry, "name").to_owned(),
            };
            if entry["type"] == 1 && name != "." && name != "./" {
                let plain: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
                self.listed.insert(format!("tree {id} {}", [&["."][..], &plain].concat().join("/")));
            }
            if entry["type"] == 1 || !text(&entry, "payload").is_empty() {
                let size = entry["size"].as_u64().unwrap_or(0);
                writeln!(said, "{} {name} {size} {}", entry["type"], entry["payload"]).unwrap();
            }
        }
        self.facts.entry(format!("split {id}")).or_insert_with(|| sha256(said.as_bytes()));
        Ok(())
    }

    fn images(&mut self, root: &Path) -> Result<()> {
        let dir = root.join("overlay-images");
        self.images = self.table(&dir.join("images.json"), "images.json")?;
        for name in names(&dir)?.iter().filter(|name| *name != "images.json") {
            self.other(root, &format!("overlay-images/{name}"))?;
        }
        Ok(())
    }

    /// What differs, without how.
    pub fn differing(&self, after: &Self, exempt: Exempt) -> BTreeSet<String> {
        self.differences(after, exempt).into_iter().map(|line| line.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// In what `after` differs from this, but for what is exempt; a line each.
    pub fn differences(&self, after: &Self, exempt: Exempt) -> Vec<String> {
        let (before, after) = (self.normal(exempt, self), after.normal(exempt, self));
        let mut lines = Vec::new();
        for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            match (before.get(key), after.get(key)) {
                (was, is) if was == is => {}
                (Some(was), Some(is)) => lines.push(format!("{key}\n    was {was}\n    is  {is}")),
                (Some(was), None) => lines.push(format!("{key}\n    was {was}\n    is  not there")),
                (None, is) => lines.push(format!("{key}\n    was not there\n    is  {}", is.map_or("", String::as_str))),
            }
        }
        lines
    }

    /// Everything that counts, as it was in `sound`.
    fn normal(&self, exempt: Exempt, sound: &Self) -> BTreeMap<String, String> {
        let mut facts = self.facts.clone();
        for (id, record) in &self.layers {
            facts.insert(format!("layers.json {id}"), shown(record, exempt.layers));
        }
        for (id, record) in &self.images {
            // Where no history holds them nobody knows the names any more.
            facts.insert(format!("images.json {id}"), shown_image(record, exempt.images, sound.history));
        }
        if exempt.layers {
            facts.remove("order layers.json");
        }
        if exempt.images {
            facts.remove("order images.json");
        }
        for (key, time) in self.times.iter().filter(|(key, _)| sound.listed.contains(*key)) {
            facts.insert(format!("time {key}"), time.clone());
        }
        for id in sound.layers.keys() {
            let key = format!("lower-layers {id}");
            // podman 5 and older write none; whoever makes the directory anew may.
            if !sound.facts.contains_key(&key) && facts.get(&key) == Some(&sound.chain(id)) {
                facts.remove(&key);
                facts.remove(&format!("mode of {key}"));
            }
        }
        if exempt.links { self.without_links(facts) } else { facts }
    }

    /// The layers below one, nearest first.
    fn chain(&self, id: &str) -> String {
        let (mut chain, mut next) = (Vec::new(), self.layers.get(id).map_or("", |layer| text(layer, "parent")));
        while let Some(layer) = self.layers.get(next) {
            chain.push(next);
            next = text(layer, "parent");
        }
        chain.join(":")
    }

    /// Each LINKID by the layer that it is of.
    fn without_links(&self, facts: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let of = |link: &str| match self.facts.get(&format!("l {link}")) {
            Some(target) => format!("the LINKID of {}", target.trim_start_matches("../").trim_end_matches("/diff")),
            None => link.to_owned(),
        };
        let each = |text: &str| {
            let links: Vec<String> = text.split(':').map(|part| of(part.strip_prefix("l/").unwrap_or(part))).collect();
            links.join(":")
        };
        let plain = |(key, value): (String, String)| match key.split_once(' ') {
            Some(("l", link)) => (format!("l {}", of(link)), value),
            Some(("link" | "lower", _)) => (key, each(&value)),
            _ => (key, value),
        };
        facts.into_iter().map(plain).collect()
    }
}

/// The keys of a layer's record that can be rebuilt.
const LAYER_KEYS: &[&str] =
    &["id", "parent", "compressed-diff-digest", "compressed-size", "diff-digest", "diff-size", "compression", "uidset", "gidset"];
const IMAGE_KEYS: &[&str] = &["id", "digest", "layer", "big-data-names", "big-data-sizes", "big-data-digests", "names"];

fn kept(record: &Value, keys: &[&str]) -> Value {
    let all = record.as_object().into_iter().flatten().filter(|(key, _)| keys.contains(&key.as_str()));
    // In one order, and lists sorted.
    let mut map: BTreeMap<String, Value> = all.map(|(key, value)| (key.clone(), value.clone())).collect();
    for list in map.values_mut().filter_map(Value::as_array_mut) {
        list.sort_by_key(ToString::to_string);
    }
    serde_json::to_value(map).unwrap()
}

fn shown(record: &Value, rebuilt: bool) -> String {
    if rebuilt { kept(record, LAYER_KEYS).to_string() } else { record.to_string() }
}

fn shown_image(record: &Value, rebuilt: bool, named: bool) -> String {
    if !rebuilt {
        return record.to_string();
    }
    let mut kept = kept(record, IMAGE_KEYS);
    if !named {
        kept.as_object_mut().unwrap().remove("names");
    }
    for key in ["big-data-sizes", "big-data-digests"] {
        let sorted: Option<BTreeMap<String, Value>> = kept.get(key).and_then(|map| serde_json::from_value(map.clone()).ok());
        kept[key] = serde_json::to_value(sorted).unwrap();
    }
    kept.to_string()
}

/// The names in a directory, sorted.
fn raw_names(dir: &Path) -> Result<Vec<OsString>> {
    let names: Result<Vec<OsString>> = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}

/// The same where all are text.
fn names(dir: &Path) -> Result<Vec<String>> {
    Ok(raw_names(dir)?.into_iter().map(|name| name.into_string().unwrap_or_else(|name| panic!("{name:?} is no text"))).collect())
}

/// Kind, mode, owner, size, contents or target, device, attributes.
fn describe(path: &Path, meta: &Metadata) -> Result<String> {
    let kind = meta.file_type();
    let what = if kind.is_symlink() {
        format!("symlink to {}", fs::read_link(path)?.display())
    } else if kind.is_file() {
        format!("file of {} bytes {}", meta.len(), sha256(&fs::read(path)?))
    } else if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_char_device() || kind.is_block_device() {
        let word = if kind.is_block_device() { "block" } else { "character" };
        format!("{word} device {}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        "socket".to_owned()
    };
    let mut line = format!("{what} {:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
    for (name, value) in xattrs(path)?.iter().filter(|(name, _)| *name != "security.selinux") {
        write!(line, " {name}={}", data_encoding::HEXLOWER.encode(value)).unwrap();
    }
    Ok(line)
}

/// Every object below `root` with all that a change of anything would change; `cstor-rs/` and locks too.
pub fn exactly(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    exact_walk(root, Path::new("."), &mut all).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    all
}

fn exact_walk(root: &Path, at: &Path, all: &mut BTreeMap<String, String>) -> Result<()> {
    let path = root.join(at);
    let meta = fs::symlink_metadata(&path)?;
    let changed =
        format!("inode {} mtime {}.{:09} ctime {}.{:09}", meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    all.insert(at.display().to_string(), format!("{} {changed}", describe(&path, &meta)?));
    if meta.is_dir() {
        for name in raw_names(&path)? {
            exact_walk(root, &at.join(name), all)?;
        }
    }
    Ok(())
}
