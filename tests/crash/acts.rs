//! Tier acts: podman works on the store between the crash and the recovery. What it made is never touched, what it
//! removed does not come back half, and no image names what is not there.
//!
//! The model podman edits tables and directories as podman does under its locks, which the dead transaction holds no more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cstor_rs::store::Store;
use serde_json::Value;

use crate::hooks::Stop;
use crate::oracle;
use crate::power;
use crate::stop::{reopen, run_to};
use crate::work::{Expected, Work, options, temp};

/// What podman does, by name.
type Act = (&'static str, fn(&mut Podman));

const ACTS: &[Act] = &[
    ("removes directories without a record", Podman::collect_garbage),
    ("removes directories without a record and dies half-way", Podman::collect_garbage_half),
    ("pulls the same images", Podman::pull),
    ("pulls their layers and dies", Podman::pull_layers),
    ("removes the images", Podman::remove_images),
    ("removes layers that no image needs", Podman::check_and_repair),
    ("gives the names to another image", Podman::retag),
    ("removes the images and what of their layers has no children", Podman::remove_images_above_children),
    ("pulls the same images by another manifest", Podman::pull_other_manifest),
    ("starts a container", Podman::start_container),
    ("removes layers that no image needs, pulls them again and dies", Podman::pull_layers_anew),
    ("signs every image", Podman::sign),
    ("gives every image one more name", Podman::name_more),
    ("removes the images and pulls them again", Podman::pull_anew),
];

/// The store, and a template: the same store after the transaction, from which a pull by podman is made.
struct Podman {
    root: PathBuf,
    template: PathBuf,
    made: Made,
}

/// What podman made and expects to find again.
#[derive(Default)]
struct Made {
    /// How often it pulled.
    pulls: usize,
    /// Layer, LINKID, files.
    layers: BTreeMap<String, (String, Vec<String>)>,
    /// Images with the names they were given.
    images: BTreeMap<String, BTreeSet<String>>,
    /// Those of them that were there before podman pulled them.
    united: BTreeSet<String>,
    /// Images with the metadata and the signatures they were given.
    signed: BTreeMap<String, Value>,
    /// The image that a container was made from.
    container_of: Option<String>,
    /// Layers under a container, with the inode number of their contents.
    used: BTreeMap<String, u64>,
}

fn load(root: &Path, table: &str) -> Vec<Value> {
    match std::fs::read(root.join(table)) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => vec![],
    }
}

fn save(root: &Path, table: &str, records: &[Value]) {
    std::fs::write(root.join(table), serde_json::to_vec(records).unwrap()).unwrap();
}

const LAYERS: &str = "overlay-layers/layers.json";
const IMAGES: &str = "overlay-images/images.json";

fn id(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}

fn names(record: &Value) -> BTreeSet<String> {
    record["names"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Not by a process of its own: for a moment it would hold the locks of every store that other tests have open.
fn copy(from: &Path, to: &Path) {
    let meta = std::fs::symlink_metadata(from).unwrap();
    let kind = meta.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from).unwrap(), to).unwrap();
    } else if kind.is_dir() {
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
        std::fs::set_permissions(to, meta.permissions()).unwrap();
    } else if kind.is_file() {
        std::fs::copy(from, to).unwrap();
    } else {
        let (mode, device) = (rustix::fs::Mode::from_raw_mode(meta.mode()), meta.rdev());
        rustix::fs::mknodat(rustix::fs::CWD, to, rustix::fs::FileType::from_raw_mode(meta.mode()), mode, device).unwrap();
    }
}

fn remove(path: &Path) {
    let gone = if path.is_dir() && !path.is_symlink() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => {}
    }
}

/// The `l/` entry of a layer, if its `link` names one.
fn unlink(root: &Path, layer: &Path) {
    match std::fs::read_to_string(layer.join("link")) {
        Ok(link) if !link.is_empty() => remove(&root.join("overlay/l").join(link)),
        _ => {}
    }
}

impl Podman {
    /// A store that is not there yet is made first.
    fn exists(&self) -> bool {
        ["overlay/l", "overlay-layers", "overlay-images", "overlay-containers"].iter().all(|dir| self.root.join(dir).is_dir())
    }

    fn orphans(&self) -> Vec<PathBuf> {
        let known: BTreeSet<String> = load(&self.root, LAYERS).iter().map(id).collect();
        let Ok(list) = std::fs::read_dir(self.root.join("overlay")) else { return vec![] };
        let dirs = list.map(|entry| entry.unwrap().path());
        dirs.filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.len() == 64 && !known.contains(&name)
        })
        .collect()
    }

    fn collect_garbage(&mut self) {
        for dir in self.orphans() {
            unlink(&self.root, &dir);
            remove(&dir);
        }
    }

    fn collect_garbage_half(&mut self) {
        for dir in self.orphans() {
            remove(&dir.join("link"));
            for entry in std::fs::read_dir(dir.join("diff")).into_iter().flatten() {
                remove(&entry.unwrap().path());
            }
        }
    }

    fn pull_layers(&mut self) {
        if !self.exists() {
            return;
        }
        self.made.pulls += 1;
        let mut layers = load(&self.root, LAYERS);
        let overlay = self.root.join("overlay");
        for (count, record) in load(&self.template, LAYERS).into_iter().enumerate() {
            let layer = id(&record);
            if layers.iter().any(|there| id(there) == layer) {
                continue;
            }
            // A directory that stands in the way is removed with the link it has.
            let dir = overlay.join(&layer);
            unlink(&self.root, &dir);
            remove(&dir);
            // In the alphabet of Go's LINKIDs, and never one that was there before.
            let number = format!("{:020}", 100 * self.made.pulls + count);
            let letters: String = number.bytes().map(|digit| char::from(b'A' + (digit - b'0'))).collect();
            let link = format!("PODMAN{letters}");
            std::fs::create_dir(&dir).unwrap();
            copy(&self.template.join("overlay").join(&layer).join("diff"), &dir.join("diff"));
            std::fs::create_dir(dir.join("work")).unwrap();
            std::fs::write(dir.join("link"), &link).unwrap();
            std::os::unix::fs::symlink(format!("../{layer}/diff"), overlay.join("l").join(&link)).unwrap();
            match record["parent"].as_str() {
                None => std::fs::create_dir(dir.join("empty")).unwrap(),
                Some(parent) => {
                    let above = std::fs::read_to_string(overlay.join(parent).join("link")).unwrap();
                    let further = std::fs::read_to_string(overlay.join(parent).join("lower")).map(|t| format!(":{t}")).unwrap_or_default();
                    std::fs::write(dir.join("lower"), format!("l/{above}{further}")).unwrap();
                }
            }
            let split = format!("overlay-layers/{layer}.tar-split.gz");
            remove(&self.root.join(&split));
            copy(&self.template.join(&split), &self.root.join(&split));
            self.made.layers.insert(layer, (link, oracle::listing(&dir.join("diff")).unwrap()));
            layers.push(record);
            save(&self.root, LAYERS, &layers);
        }
    }

    fn pull(&mut self) {
        if !self.exists() {
            return;
        }
        self.pull_layers();
        let mut images = load(&self.root, IMAGES);
        for record in load(&self.template, IMAGES) {
            let wanted = names(&record);
            for there in &mut images {
                if id(there) != id(&record) {
                    let kept: Vec<String> = names(there).difference(&wanted).cloned().collect();
                    there["names"] = serde_json::json!(kept);
                }
            }
            let dir = Path::new("overlay-images").join(id(&record));
            match images.iter_mut().find(|there| id(there) == id(&record)) {
                Some(there) => {
                    let all: Vec<String> = names(there).union(&wanted).cloned().collect();
                    there["names"] = serde_json::json!(all);
                    // As c/image does: what the image has of big data stays, what is pulled is written over it.
                    for key in record["big-data-names"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()) {
                        let file = dir.join(oracle::data_file(key));
                        remove(&self.root.join(&file));
                        copy(&self.template.join(&file), &self.root.join(&file));
                        let keys = there["big-data-names"].as_array_mut().unwrap();
                        if !keys.iter().any(|there| there == key) {
                            keys.push(serde_json::json!(key));
                        }
                        for map in ["big-data-sizes", "big-data-digests"] {
                            there[map][key] = record[map][key].clone();
                        }
                    }
                    self.made.united.insert(id(&record));
                }
                None => {
                    images.push(record.clone());
                    remove(&self.root.join(&dir));
                    copy(&self.template.join(&dir), &self.root.join(&dir));
                }
            }
            self.made.images.insert(id(&record), wanted);
        }
        save(&self.root, IMAGES, &images);
    }

    fn drop_layers(&mut self, unwanted: impl Fn(&str) -> bool) {
        let (gone, kept): (Vec<Value>, Vec<Value>) = load(&self.root, LAYERS).into_iter().partition(|layer| unwanted(&id(layer)));
        save(&self.root, LAYERS, &kept);
        for layer in gone {
            let dir = self.root.join("overlay").join(id(&layer));
            unlink(&self.root, &dir);
            remove(&dir);
            remove(&self.root.join(format!("overlay-layers/{}.tar-split.gz", id(&layer))));
        }
    }

    fn check_and_repair(&mut self) {
        if !self.exists() {
            return;
        }
        let layers = load(&self.root, LAYERS);
        let parents: BTreeMap<String, String> =
            layers.iter().filter_map(|layer| Some((id(layer), layer["parent"].as_str()?.to_owned()))).collect();
        let mut needed = BTreeSet::new();
        for image in load(&self.root, IMAGES) {
            let mut next = image["layer"].as_str().map(str::to_owned);
            while let Some(layer) = next {
                next = parents.get(&layer).cloned();
                needed.insert(layer);
            }
        }
        self.drop_layers(|layer| !needed.contains(layer));
    }

    fn remove_images(&mut self) {
        if !self.exists() {
            return;
        }
        let ours: BTreeSet<String> = load(&self.template, IMAGES).iter().map(id).collect();
        let (gone, kept): (Vec<Value>, Vec<Value>) = load(&self.root, IMAGES).into_iter().partition(|image| ours.contains(&id(image)));
        save(&self.root, IMAGES, &kept);
        for image in gone {
            remove(&self.root.join("overlay-images").join(id(&image)));
        }
        self.check_and_repair();
    }

    /// As `podman rmi` does it: a layer with children stays, whatever becomes of the image.
    fn remove_images_above_children(&mut self) {
        if !self.exists() {
            return;
        }
        for image in load(&self.root, IMAGES) {
            let kept: Vec<Value> = load(&self.root, IMAGES).into_iter().filter(|other| id(other) != id(&image)).collect();
            save(&self.root, IMAGES, &kept);
            remove(&self.root.join("overlay-images").join(id(&image)));
            let mut next = image["layer"].as_str().map(str::to_owned);
            while let Some(layer) = next {
                let layers = load(&self.root, LAYERS);
                let child = layers.iter().any(|other| other["parent"].as_str() == Some(&layer));
                let used = kept.iter().any(|other| other["layer"].as_str() == Some(&layer));
                if child || used {
                    break;
                }
                next = layers.iter().find(|record| id(record) == layer).and_then(|record| Some(record["parent"].as_str()?.to_owned()));
                self.drop_layers(|gone| gone == layer);
            }
        }
    }

    /// The config is the same, and so is the image's id; the manifest has other bytes.
    fn pull_other_manifest(&mut self) {
        if !self.exists() {
            return;
        }
        self.pull();
        let mut images = load(&self.root, IMAGES);
        let ours: BTreeSet<String> = load(&self.template, IMAGES).iter().map(id).collect();
        for image in images.iter_mut().filter(|image| ours.contains(&id(image))) {
            let dir = self.root.join("overlay-images").join(id(image));
            let mut manifest = std::fs::read(dir.join("manifest")).unwrap();
            let old = format!("manifest-{}", cstor_rs::ids::Digest::of(&manifest));
            manifest.push(b' ');
            let digest = cstor_rs::ids::Digest::of(&manifest).to_string();
            let new = format!("manifest-{digest}");
            remove(&dir.join(oracle::data_file(&old)));
            std::fs::write(dir.join(oracle::data_file(&new)), &manifest).unwrap();
            std::fs::write(dir.join("manifest"), &manifest).unwrap();
            for key in image["big-data-names"].as_array_mut().unwrap() {
                if key.as_str() == Some(&old) {
                    *key = serde_json::json!(new);
                }
            }
            let size = manifest.len();
            for (table, value) in [("big-data-sizes", serde_json::json!(size)), ("big-data-digests", serde_json::json!(digest))] {
                image[table].as_object_mut().unwrap().remove(&old);
                image[table][&new] = value.clone();
                image[table]["manifest"] = value;
            }
        }
        save(&self.root, IMAGES, &images);
    }

    fn pull_layers_anew(&mut self) {
        self.check_and_repair();
        self.pull_layers();
    }

    /// Under the same ids and names, and all of it made anew.
    fn pull_anew(&mut self) {
        self.remove_images_above_children();
        self.pull();
    }

    fn name_more(&mut self) {
        let mut images = load(&self.root, IMAGES);
        for (n, image) in images.iter_mut().enumerate() {
            let name = format!("localhost/podmans-{n}:1");
            let all: Vec<String> = names(image).into_iter().chain([name.clone()]).collect();
            image["names"] = serde_json::json!(all);
            self.made.images.insert(id(image), BTreeSet::from([name]));
        }
        save(&self.root, IMAGES, &images);
    }

    /// As `podman image sign` would: another item under the key, another record of it, other metadata.
    fn sign(&mut self) {
        let mut images = load(&self.root, IMAGES);
        for image in &mut images {
            let bytes = format!("podman's signature of {}", id(image));
            let dir = self.root.join("overlay-images").join(id(image));
            for key in ["signatures", "obsolete"] {
                let names = image["big-data-names"].as_array_mut().unwrap();
                if !names.iter().any(|name| name == key) {
                    names.push(serde_json::json!(key));
                }
                std::fs::write(dir.join(key), &bytes).unwrap();
                image["big-data-sizes"][key] = serde_json::json!(bytes.len());
                image["big-data-digests"][key] = serde_json::json!(cstor_rs::ids::Digest::of(bytes.as_bytes()));
            }
            image["metadata"] = serde_json::json!("{\"podman\":1}");
            self.made.signed.insert(id(image), image["big-data-digests"]["signatures"].clone());
        }
        save(&self.root, IMAGES, &images);
    }

    /// On the first image there is; its layers are mounted from then on.
    fn start_container(&mut self) {
        let images = load(&self.root, IMAGES);
        let Some(image) = images.first() else { return };
        let top = image["layer"].as_str().unwrap().to_owned();
        let layers = load(&self.root, LAYERS);
        let mut next = Some(top.clone());
        while let Some(layer) = next {
            if let Ok(meta) = std::fs::metadata(self.root.join("overlay").join(&layer).join("diff")) {
                self.made.used.insert(layer.clone(), meta.ino());
            }
            next = layers.iter().find(|record| id(record) == layer).and_then(|record| Some(record["parent"].as_str()?.to_owned()));
        }
        self.made.container_of = Some(id(image));
        // The container's own layer is volatile: podman keeps it in another table.
        let own = "c".repeat(64);
        let created = "2026-01-02T03:04:05Z";
        save(&self.root, "overlay-layers/volatile-layers.json", &[serde_json::json!({"id": own, "parent": top, "created": created})]);
        let container = serde_json::json!({
            "id": "d".repeat(64), "names": ["keeper"], "image": id(image), "layer": own, "created": created, "flags": {"Volatile": true},
        });
        save(&self.root, "overlay-containers/volatile-containers.json", &[container]);
    }

    fn retag(&mut self) {
        let mut images = load(&self.root, IMAGES);
        if !self.exists() || images.is_empty() {
            return;
        }
        let wanted: BTreeSet<String> = load(&self.template, IMAGES).iter().flat_map(names).collect();
        for image in &mut images {
            image["names"] = serde_json::json!([]);
        }
        let third = "f".repeat(64);
        let first = id(&images[0]);
        let Some(mut record) = load(&self.template, IMAGES).into_iter().find(|image| id(image) == first) else { return };
        record["id"] = serde_json::json!(third);
        record["names"] = serde_json::json!(wanted);
        let dir = self.root.join("overlay-images");
        std::fs::create_dir(dir.join(&third)).unwrap();
        for key in record["big-data-names"].as_array().unwrap() {
            let file = oracle::data_file(key.as_str().unwrap());
            copy(&self.template.join("overlay-images").join(&first).join(&file), &dir.join(&third).join(&file));
        }
        images.push(record);
        save(&self.root, IMAGES, &images);
        self.made.images.insert(third, wanted);
    }
}

fn check(root: &Path, podman: &Podman, expected: &Expected, what: &str) {
    let (known, repairs) = (&expected.known, expected.before.is_err());
    match oracle::read(root) {
        Ok(said) => oracle::data_agrees(&said).unwrap_or_else(|why| panic!("{what}: {why}")),
        // The store was damaged before, and neither podman nor a transaction that goes back mends it.
        Err(why) => assert!(repairs, "{what}: {why}"),
    }
    let mut left = oracle::leftovers(root, known);
    left.retain(|path| !path.ends_with("volatile-layers.json"));
    if repairs {
        // Podman does not find the entry of a layer whose `link` is damaged when it removes the layer.
        left.retain(|path| !path.starts_with("overlay/l"));
    }
    assert_eq!(left, Vec::<PathBuf>::new(), "{what}: left behind");
    for (layer, (link, files)) in &podman.made.layers {
        let dir = root.join("overlay").join(layer);
        assert_eq!(std::fs::read_to_string(dir.join("link")).ok().as_ref(), Some(link), "{what}: podman's layer {layer}");
        assert_eq!(&oracle::listing(&dir.join("diff")).unwrap(), files, "{what}: podman's layer {layer}");
        assert!(load(root, LAYERS).iter().any(|record| id(record) == *layer), "{what}: the record of podman's layer {layer}");
    }
    for (layer, inode) in &podman.made.used {
        let seen = std::fs::metadata(root.join("overlay").join(layer).join("diff")).map(|meta| meta.ino()).ok();
        assert_eq!(seen, Some(*inode), "{what}: the contents of layer {layer}, which a container uses");
    }
    if let Some(image) = &podman.made.container_of {
        assert!(load(root, IMAGES).iter().any(|record| id(record) == *image), "{what}: image {image}, which a container uses");
    }
    for (image, digest) in &podman.made.signed {
        let images = load(root, IMAGES);
        // One that the transaction removes goes, whoever signed it.
        let Some(record) = images.iter().find(|record| id(record) == *image) else { continue };
        for key in ["signatures", "obsolete"] {
            assert_eq!(record["big-data-digests"][key], *digest, "{what}: {key} of podman's in {image}");
        }
        assert_eq!(record["metadata"], serde_json::json!("{\"podman\":1}"), "{what}: podman's metadata of {image}");
    }
    for (image, wanted) in &podman.made.images {
        let images = load(root, IMAGES);
        let Some(record) = images.iter().find(|record| id(record) == *image) else {
            // Podman found it there and changed nothing: a transaction past its pivot removes what it was to remove.
            let goes = podman.made.united.contains(image) && !expected.after.images.contains_key(image);
            assert!(goes, "{what}: podman's image {image}");
            continue;
        };
        let has = names(record);
        let lost: Vec<&String> = wanted.difference(&has).collect();
        // A transaction that was past its pivot moves the names it was to move, from where it saw them.
        let moved = |name: &str| {
            let holder = images.iter().find(|record| names(record).contains(name));
            holder.is_some_and(|holder| expected.after.images.get(&id(holder)).is_some_and(|(after, _)| names(after).contains(name)))
        };
        let before = expected.before.as_ref().ok().and_then(|said| said.images.get(image));
        let had = |name: &str| before.is_some_and(|(record, _)| names(record).contains(name));
        assert!(lost.iter().all(|name| had(name) && moved(name)), "{what}: podman's image {image} lost {lost:?}: {record}");
    }
}

/// The store as it is after the transaction; of one that removes something, also as it is before: podman pulls that again.
fn templates(work: &Work) -> Vec<tempfile::TempDir> {
    let (before, after) = (temp(), temp());
    work.setup(before.path());
    work.setup(after.path());
    work.run(after.path(), None).unwrap();
    if work.removes { vec![before, after] } else { vec![after] }
}

fn act(act: &Act, root: &Path, template: &Path) -> Podman {
    let mut podman = Podman { root: root.join("root"), template: template.to_owned(), made: Made::default() };
    (act.1)(&mut podman);
    podman
}

/// Podman acts after the transaction was stopped before its change k.
pub fn between(work: &Work) {
    let (expected, templates, first) = (Expected::of(work), templates(work), power::staged(work));
    let (mut cases, stride) = (0, work.stride());
    for (deed, template) in ACTS.iter().flat_map(|deed| templates.iter().map(move |template| (deed, template))) {
        for k in (first..).step_by(stride) {
            let temp = temp();
            if run_to(work, temp.path(), k).is_none() {
                break;
            }
            let what = format!("{} stopped before change {k}, podman {}", work.name, deed.0);
            let podman = act(deed, temp.path(), &template.path().join("root"));
            reopen(temp.path(), &what);
            check(&podman.root, &podman, &expected, &what);
            cases += 1;
        }
    }
    println!("{}: {cases} cases", work.name);
    assert!(cases > work.least(100), "{cases} cases are too few to be true");
}

/// Podman acts between two steps of the recovery.
pub fn between_steps_of_recovery(work: &Work) {
    let (expected, templates, first) = (Expected::of(work), templates(work), power::intended(work));
    let mut cases = 0;
    for (deed, template) in ACTS.iter().flat_map(|deed| templates.iter().map(move |template| (deed, template))) {
        for k in first.. {
            let mut last = false;
            for j in 0.. {
                let temp = temp();
                last = run_to(work, temp.path(), k).is_none();
                let stop = Stop::at(j);
                drop(Store::open(options(temp.path(), Some(stop.clone()))));
                if last || !stop.stopped() {
                    break;
                }
                let what = format!("{} stopped before change {k}, its recovery before change {j}, podman {}", work.name, deed.0);
                let podman = act(deed, temp.path(), &template.path().join("root"));
                reopen(temp.path(), &what);
                check(&podman.root, &podman, &expected, &what);
                cases += 1;
            }
            if last {
                break;
            }
        }
    }
    println!("{}: {cases} cases", work.name);
    assert!(cases > work.least(100), "{cases} cases are too few to be true");
}
