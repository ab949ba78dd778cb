//! What a store says, read by code that shares nothing with the library: plain std, a JSON parser, gzip, sha256.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a store says, without what differs between two runs of one transaction (times, LINKIDs).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Image id: its record, and each item of big data with the sha256 of its bytes.
    pub images: BTreeMap<String, (Value, BTreeMap<String, String>)>,
    /// Layer id: its record, and every file of its tree in words.
    pub layers: BTreeMap<String, (Value, Vec<String>)>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn table(path: &Path) -> Result<Vec<Value>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The bytes of a base64 text.
pub fn base64(text: &str) -> Result<Vec<u8>, String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let value = ALPHABET.iter().position(|a| *a == byte).ok_or("not base64")?;
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Ok(out)
}

/// A file of a layer, `..` and links in its path refused.
fn member(diff: &Path, name: &[u8]) -> Result<PathBuf, String> {
    let mut path = diff.to_owned();
    for part in name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err("a tar-split that leaves its layer".to_owned());
        }
        path.push(std::ffi::OsStr::from_bytes(part));
    }
    Ok(path)
}

/// The sha256 of the tar that a tar-split and a tree reassemble to.
pub fn reassembled(split: &Path, diff: &Path) -> Result<String, String> {
    let wrong = |why: String| format!("{}: {why}", split.display());
    let mut lines = String::new();
    let file = std::fs::File::open(split).map_err(|e| wrong(e.to_string()))?;
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut lines).map_err(|e| wrong(e.to_string()))?;
    let mut hash = Sha256::new();
    for (index, line) in lines.lines().enumerate() {
        let entry: Value = serde_json::from_str(line).map_err(|e| wrong(format!("line {index}: {e}")))?;
        if entry["position"].as_u64() != Some(index as u64) {
            return Err(wrong(format!("line {index} says it is {}", entry["position"])));
        }
        match entry["type"].as_u64() {
            Some(2) => hash.update(base64(entry["payload"].as_str().unwrap_or_default()).map_err(wrong)?),
            Some(1) => {
                let size = entry.get("size").and_then(Value::as_u64).unwrap_or(0);
                if size == 0 {
                    continue;
                }
                let name = match entry.get("name_raw").and_then(Value::as_str) {
                    Some(raw) => base64(raw).map_err(wrong)?,
                    None => text(&entry, "name").as_bytes().to_vec(),
                };
                let path = member(diff, &name)?;
                let mut body = std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let (mut seen, mut buffer) = (0, vec![0; 1 << 16]);
                loop {
                    let read = body.read(&mut buffer).map_err(|e| format!("{}: {e}", path.display()))?;
                    if read == 0 {
                        break;
                    }
                    hash.update(&buffer[..read]);
                    seen += read as u64;
                }
                if seen != size {
                    return Err(format!("{}: {seen} bytes, tar-split says {size}", path.display()));
                }
            }
            other => return Err(wrong(format!("line {index} has type {other:?}"))),
        }
    }
    Ok(format!("sha256:{}", hex(&hash.finalize())))
}

/// Every object below `dir`, one line each: path, mode, owner, mtime, kind, size or target, sha256 of the contents, attributes.
pub fn listing(dir: &Path) -> Result<Vec<String>, String> {
    exact_listing(dir, &BTreeSet::new())
}

/// As [`listing`], with the times of change and access to the nanosecond for the paths in `timed`, which are relative to `dir`.
pub fn exact_listing(dir: &Path, timed: &BTreeSet<PathBuf>) -> Result<Vec<String>, String> {
    let mut look = Look { top: dir, timed, times: BTreeMap::new(), lines: Vec::new() };
    look.walk(Path::new(".")).map_err(|error| format!("{}: {error}", dir.display()))?;
    look.lines.sort();
    Ok(look.lines)
}

struct Look<'a> {
    top: &'a Path,
    timed: &'a BTreeSet<PathBuf>,
    /// By inode, as they were first seen: reading the contents changes the access time.
    times: BTreeMap<u64, String>,
    lines: Vec<String>,
}

/// Every extended attribute.
pub fn xattrs(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 1 << 16];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut all = BTreeMap::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        all.insert(String::from_utf8_lossy(name).into_owned(), value[..len].to_vec());
    }
    Ok(all)
}

impl Look<'_> {
    fn time(&mut self, at: &Path, meta: &std::fs::Metadata) -> String {
        // Directories are listed and links followed after unpacking: an access in the last hour is one of those.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        let access = match meta.atime() {
            _ if meta.is_dir() => String::new(),
            at if (at - now).abs() < 3600 => " now".to_owned(),
            at => format!(" {at}.{:09}", meta.atime_nsec()),
        };
        let exact = format!("{}.{:09}{access}", meta.mtime(), meta.mtime_nsec());
        let first = self.times.entry(meta.ino()).or_insert(exact).clone();
        if self.timed.contains(at.strip_prefix(".").unwrap_or(at)) {
            return first;
        }
        // What no tar entry gave a time has the time of its making; the fixtures' times are whole seconds.
        if meta.mtime_nsec() == 0 { meta.mtime().to_string() } else { "now".to_owned() }
    }

    fn walk(&mut self, at: &Path) -> std::io::Result<()> {
        let path = self.top.join(at);
        let meta = std::fs::symlink_metadata(&path)?;
        let time = self.time(at, &meta);
        let kind = meta.file_type();
        let what = if kind.is_symlink() {
            format!("link to {}", std::fs::read_link(&path)?.display())
        } else if kind.is_file() {
            format!("file {} {}", meta.len(), sha256(&std::fs::read(&path)?))
        } else if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {}", meta.rdev())
        };
        let mode = if kind.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        let mut line = format!("{} {mode:o} {}:{} {time} {what}", at.display(), meta.uid(), meta.gid());
        for (name, value) in xattrs(&path)? {
            write!(line, " {name}={}", hex(&value)).unwrap();
        }
        self.lines.push(line);
        if kind.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                self.walk(&at.join(entry?.file_name()))?;
            }
        }
        Ok(())
    }
}

/// The file that a big data key lies in: the key itself if it is plain, else `=` and its base64.
pub fn data_file(key: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    if key != "." && key != ".." && key.chars().all(plain) {
        return key.to_owned();
    }
    let mut out = String::from("=");
    for chunk in key.as_bytes().chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |w, (i, b)| w | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            out.push(if i <= chunk.len() { char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]) } else { '=' });
        }
    }
    out
}

/// Reads the whole store as a reader would, and fails where an image or a layer with a record is not complete.
pub fn read(root: &Path) -> Result<Said, String> {
    read_but(root, &|_| false)
}

/// The same without the records of layers and images that are somebody else's affair; a layer of theirs is there for who names it.
pub fn read_but(root: &Path, theirs: &dyn Fn(&Value) -> bool) -> Result<Said, String> {
    let layers = table(&root.join("overlay-layers/layers.json"))?;
    let images = table(&root.join("overlay-images/images.json"))?;
    let by_id: BTreeMap<&str, &Value> = layers.iter().map(|layer| (text(layer, "id"), layer)).collect();
    let mut said = Said::default();
    for (id, layer) in by_id.iter().filter(|(_, layer)| !theirs(layer)) {
        let lines = whole_layer(root, id, layer, &by_id).map_err(|why| format!("layer {id}: {why}"))?;
        let mut record = (*layer).clone();
        record.as_object_mut().ok_or("a layer that is no object")?.remove("created");
        said.layers.insert((*id).to_owned(), (record, lines));
    }
    let mut names = BTreeSet::new();
    for image in images.iter().filter(|image| !theirs(image)) {
        let id = text(image, "id");
        let mut next = text(image, "layer");
        while !next.is_empty() {
            let layer = by_id.get(next).ok_or_else(|| format!("image {id} names layer {next}, which is not there"))?;
            next = text(layer, "parent");
        }
        for name in image["names"].as_array().into_iter().flatten() {
            if !names.insert(name.to_string()) {
                return Err(format!("two images are called {name}"));
            }
        }
        let mut data = BTreeMap::new();
        for key in image["big-data-names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let path = root.join("overlay-images").join(id).join(data_file(key));
            let bytes = std::fs::read(&path).map_err(|e| format!("image {id}: big data {key}: {}: {e}", path.display()))?;
            data.insert(key.to_owned(), sha256(&bytes));
        }
        said.images.insert(id.to_owned(), (image.clone(), data));
    }
    Ok(said)
}

/// Whether the big data of every image is what its record says. Between barrier E and the exchange of replaced items
/// it need not be.
pub fn data_agrees(said: &Said) -> Result<(), String> {
    for (id, (record, data)) in &said.images {
        for (key, seen) in data {
            let want = record["big-data-digests"][key].as_str().unwrap_or_default();
            if want != format!("sha256:{seen}") {
                return Err(format!("image {id}: {key} is {seen}, the record says {want}"));
            }
        }
    }
    Ok(())
}

fn link_id(dir: &Path) -> Result<String, String> {
    let link = std::fs::read_to_string(dir.join("link")).map_err(|e| format!("{}/link: {e}", dir.display()))?;
    if link.len() == 26 { Ok(link) } else { Err(format!("{}/link has {} bytes", dir.display(), link.len())) }
}

fn whole_layer(root: &Path, id: &str, record: &Value, by_id: &BTreeMap<&str, &Value>) -> Result<Vec<String>, String> {
    let dir = root.join("overlay").join(id);
    let link = link_id(&dir)?;
    let short = root.join("overlay/l").join(&link);
    let target = std::fs::read_link(&short).map_err(|e| format!("{}: {e}", short.display()))?;
    if target != Path::new(&format!("../{id}/diff")) {
        return Err(format!("{} leads to {}", short.display(), target.display()));
    }
    let (mut lower, mut ids, mut next) = (Vec::new(), Vec::new(), text(record, "parent"));
    while !next.is_empty() {
        let parent = by_id.get(next).ok_or_else(|| format!("parent {next} is not there"))?;
        lower.push(format!("l/{}", link_id(&root.join("overlay").join(next))?));
        ids.push(next);
        next = text(parent, "parent");
    }
    for (name, want) in [("lower", lower.join(":")), ("lower-layers", ids.join(":"))] {
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(seen) if seen == want && !want.is_empty() => {}
            Ok(seen) => return Err(format!("{}: {seen:?}, not {want:?}", path.display())),
            Err(_) if want.is_empty() => {}
            Err(_) if name == "lower-layers" => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    for name in if ids.is_empty() { &["work", "empty"][..] } else { &["work"] } {
        if !dir.join(name).is_dir() {
            return Err(format!("{name}/ is missing"));
        }
    }
    let diff = dir.join("diff");
    let seen = reassembled(&root.join("overlay-layers").join(format!("{id}.tar-split.gz")), &diff)?;
    if seen != text(record, "diff-digest") {
        return Err(format!("reassembles to {seen}, the record says {}", record["diff-digest"]));
    }
    listing(&diff)
}

/// What a transaction must not leave: anything in journal/, stage/ or trash/, prepared tables, side staging, layer
/// directories, `l/` entries, tar-splits or image directories without a record, but those in `known`.
pub fn leftovers(root: &Path, known: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let ids = |path: &str| -> BTreeSet<String> {
        table(&root.join(path)).unwrap_or_default().iter().map(|record| text(record, "id").to_owned()).collect()
    };
    let (layers, images) = (ids("overlay-layers/layers.json"), ids("overlay-images/images.json"));
    let links: BTreeSet<String> = layers.iter().filter_map(|id| link_id(&root.join("overlay").join(id)).ok()).collect();
    let fixed = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let expected = |dir: &str, name: &str| match dir {
        "overlay" => name == "l" || layers.contains(name),
        // Of a layer whose `link` is damaged any entry may be the right one.
        "overlay/l" => {
            links.contains(name) || {
                let target = std::fs::read_link(root.join(dir).join(name)).unwrap_or_default();
                let id = target.to_string_lossy().trim_start_matches("../").trim_end_matches("/diff").to_owned();
                layers.contains(&id) && link_id(&root.join("overlay").join(&id)).is_err()
            }
        }
        "overlay-layers" => {
            fixed(&["layers.json", "layers.lock"]).contains(name)
                || name.strip_suffix(".tar-split.gz").is_some_and(|id| layers.contains(id))
        }
        "overlay-images" => fixed(&["images.json", "images.lock"]).contains(name) || images.contains(name),
        _ => false,
    };
    let mut left = Vec::new();
    for dir in ["cstor-rs/journal", "cstor-rs/stage", "cstor-rs/trash", "overlay", "overlay/l", "overlay-layers", "overlay-images"] {
        let Ok(list) = std::fs::read_dir(root.join(dir)) else { continue };
        for name in list.map(|entry| entry.unwrap().file_name()) {
            let path = Path::new(dir).join(&name);
            if !expected(dir, &String::from_utf8_lossy(&name.into_vec())) && !known.contains(&path) {
                left.push(path);
            }
        }
    }
    for id in &images {
        let dir = root.join("overlay-images").join(id);
        let Ok(list) = std::fs::read_dir(&dir) else { continue };
        let table = table(&root.join("overlay-images/images.json")).unwrap_or_default();
        let record = table.iter().find(|record| text(record, "id") == id).cloned().unwrap_or_default();
        let files: BTreeSet<String> =
            record["big-data-names"].as_array().into_iter().flatten().filter_map(Value::as_str).map(data_file).collect();
        for name in list.map(|entry| entry.unwrap().file_name()) {
            if !files.contains(&*name.to_string_lossy()) {
                left.push(Path::new("overlay-images").join(id).join(name));
            }
        }
    }
    left.sort();
    left
}
