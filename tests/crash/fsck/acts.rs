//! podman acts between a repair that is cut short and the recovery: what it made stays, what it removed stays away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cstor_rs::store::Store;
use serde_json::{Value, json};

use super::{End, Expected, look, repair, stride};
use crate::hooks::Stop;
use crate::injury::{Case, NOBODY};
use crate::oracle;
use crate::work::{options, temp};

const LAYERS: &str = "overlay-layers/layers.json";
const IMAGES: &str = "overlay-images/images.json";

/// What podman did, and what must be so afterwards.
#[derive(Default)]
struct Done {
    /// The images there are, with their names.
    images: BTreeMap<String, BTreeSet<String>>,
    /// Layers under a container, with the inode numbers of their contents, and all that these are.
    used: BTreeMap<String, (u64, Vec<String>)>,
    /// An image that was pulled by another manifest: its id, and that.
    manifest: Option<(String, Vec<u8>)>,
    /// Whether it may have taken what a repair needs.
    takes: bool,
    /// What stands under ids that nobody had before.
    owned: Vec<String>,
}

type Act = (&'static str, fn(&Path, &mut Vec<Value>, &mut Vec<Value>) -> Done);

const ACTS: &[Act] = &[
    ("removes an image", remove_image),
    ("gives the names to another image", retag),
    ("starts a container", start_container),
    ("removes directories without a record", collect_garbage),
    ("pulls an image by another manifest", pull_other_manifest),
    ("makes a layer and an image of ids that nobody had", own_orphans),
];

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_default()
}

fn gone(path: &Path) {
    let done = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    done.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }).unwrap();
}

fn drop_layer(root: &Path, id: &str) {
    let dir = root.join("overlay").join(id);
    if let Ok(link) = fs::read_to_string(dir.join("link"))
        && link.len() == 26
    {
        gone(&root.join("overlay/l").join(link));
    }
    gone(&dir);
    gone(&root.join(format!("overlay-layers/{id}.tar-split.gz")));
}

fn remove_image(root: &Path, images: &mut Vec<Value>, layers: &mut Vec<Value>) -> Done {
    let Some(image) = images.pop() else { return Done::default() };
    gone(&root.join("overlay-images").join(text(&image, "id")));
    let mut next = text(&image, "layer").to_owned();
    while !next.is_empty() {
        let needed = layers.iter().any(|layer| text(layer, "parent") == next) || images.iter().any(|other| text(other, "layer") == next);
        if needed {
            break;
        }
        let parent = layers.iter().find(|layer| text(layer, "id") == next).map(|layer| text(layer, "parent").to_owned());
        layers.retain(|layer| text(layer, "id") != next);
        drop_layer(root, &next);
        next = parent.unwrap_or_default();
    }
    Done { takes: true, ..Done::default() }
}

fn retag(_: &Path, images: &mut Vec<Value>, _: &mut Vec<Value>) -> Done {
    let all: Vec<Value> = images.iter().flat_map(|image| image["names"].as_array().cloned().unwrap_or_default()).collect();
    let unique: BTreeSet<String> = all.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    for (n, image) in images.iter_mut().enumerate() {
        image["names"] = if n == 0 { json!(unique) } else { json!([]) };
    }
    Done::default()
}

fn start_container(root: &Path, images: &mut Vec<Value>, layers: &mut Vec<Value>) -> Done {
    let Some(image) = images.first() else { return Done::default() };
    let (top, own) = (text(image, "layer").to_owned(), "c".repeat(64));
    let mut done = Done::default();
    let mut next = top.clone();
    while !next.is_empty() {
        let diff = root.join("overlay").join(&next).join("diff");
        if let Ok(meta) = fs::metadata(&diff) {
            done.used.insert(next.clone(), (meta.ino(), oracle::listing(&diff).unwrap()));
        }
        next = layers.iter().find(|layer| text(layer, "id") == next).map(|layer| text(layer, "parent").to_owned()).unwrap_or_default();
    }
    // Its layer is elsewhere: a store of its own keeps it, as far as these tables tell.
    let container =
        json!({"id": "d".repeat(64), "names": ["keeper"], "image": text(image, "id"), "layer": own, "created": "2026-01-02T03:04:05Z"});
    fs::write(root.join("overlay-containers/containers.json"), json!([container]).to_string()).unwrap();
    layers.push(json!({"id": own, "parent": top, "created": "2026-01-02T03:04:05Z"}));
    let dir = root.join("overlay").join(&own);
    for name in ["diff", "work", "merged"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let link = "CONTAINERCONTAINERCONTAINE";
    fs::write(dir.join("link"), link).unwrap();
    std::os::unix::fs::symlink(format!("../{own}/diff"), root.join("overlay/l").join(link)).unwrap();
    let above = |name: &str| fs::read_to_string(root.join("overlay").join(&top).join(name)).unwrap_or_default();
    let lower = [format!("l/{}", above("link")), above("lower")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":");
    fs::write(dir.join("lower"), lower).unwrap();
    done
}

fn collect_garbage(root: &Path, _: &mut Vec<Value>, layers: &mut Vec<Value>) -> Done {
    let known: BTreeSet<&str> = layers.iter().map(|layer| text(layer, "id")).collect();
    for entry in fs::read_dir(root.join("overlay")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.len() == 64 && !known.contains(name.as_str()) {
            drop_layer(root, &name);
        }
    }
    Done { takes: true, ..Done::default() }
}

/// The config is the same, and so is the image's id.
fn pull_other_manifest(root: &Path, images: &mut Vec<Value>, _: &mut Vec<Value>) -> Done {
    let Some(image) = images.first_mut() else { return Done::default() };
    let id = text(image, "id").to_owned();
    let dir = root.join("overlay-images").join(&id);
    let Some(file) = fs::read_dir(&dir).ok().and_then(|names| {
        names.map(|entry| entry.unwrap().path()).find(|path| path.file_name().unwrap().to_string_lossy().starts_with("=bWFuaWZlc3Qt"))
    }) else {
        return Done::default();
    };
    let bytes = [fs::read(file).unwrap(), b"\n".to_vec()].concat();
    let digest = cstor_rs::ids::Digest::of(&bytes);
    let key = format!("manifest-{digest}");
    fs::write(dir.join("manifest"), &bytes).unwrap();
    fs::write(dir.join(oracle::data_file(&key)), &bytes).unwrap();
    image["big-data-names"].as_array_mut().unwrap().push(json!(key));
    for name in ["manifest", &key] {
        image["big-data-sizes"][name] = json!(bytes.len());
        image["big-data-digests"][name] = json!(digest.as_str());
    }
    Done { manifest: Some((id, bytes)), ..Done::default() }
}

/// Of the layer nothing but its record tells whose it is: what stood in `link` is lost.
fn own_orphans(root: &Path, images: &mut Vec<Value>, layers: &mut Vec<Value>) -> Done {
    let manifest = format!("overlay-images/{NOBODY}/manifest");
    let owned = [format!("overlay/{NOBODY}/diff"), format!("overlay-layers/{NOBODY}.tar-split.gz"), manifest];
    if !owned.iter().any(|path| root.join(path).exists()) {
        return Done::default();
    }
    fs::create_dir_all(root.join(&owned[0])).unwrap();
    fs::write(root.join("overlay").join(NOBODY).join("link"), "").unwrap();
    fs::create_dir_all(root.join("overlay-images").join(NOBODY)).unwrap();
    for file in &owned[1..] {
        fs::write(root.join(file), "podman's").unwrap();
    }
    let created = "2026-01-02T03:04:05Z";
    layers.push(json!({"id": NOBODY, "created": created}));
    images.push(json!({
        "id": NOBODY, "layer": NOBODY, "names": ["localhost/podmans:1"], "created": created, "big-data-names": ["manifest"],
        "big-data-sizes": {"manifest": 8}, "big-data-digests": {"manifest": cstor_rs::ids::Digest::of(b"podman's").as_str()},
    }));
    Done { takes: true, owned: owned.to_vec(), ..Done::default() }
}

fn tables(root: &Path) -> Option<(Vec<Value>, Vec<Value>)> {
    let read = |table: &str| serde_json::from_slice::<Vec<Value>>(&fs::read(root.join(table)).ok()?).ok();
    Some((read(IMAGES)?, read(LAYERS)?))
}

fn named(images: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let names = |image: &Value| image["names"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
    images.iter().map(|image| (text(image, "id").to_owned(), names(image))).collect()
}

/// `None`: podman can read no such store, and does nothing.
fn act(act: &Act, root: &Path) -> Option<Done> {
    let (mut images, mut layers) = tables(root)?;
    if !root.join("overlay/l").is_dir() {
        return None;
    }
    let mut done = (act.1)(root, &mut images, &mut layers);
    fs::write(root.join(IMAGES), json!(images).to_string()).unwrap();
    fs::write(root.join(LAYERS), json!(layers).to_string()).unwrap();
    done.images = named(&images);
    Some(done)
}

pub fn between(case: &Case) {
    let expected = Expected::of(case);
    let mut acted = 0;
    for act_of in ACTS {
        for k in (0..).step_by(stride(5)) {
            let temp = temp();
            expected.hurt(case, temp.path());
            let stop = Stop::at(k);
            drop(repair(case, temp.path(), Some(stop.clone())));
            let what = format!("{}, stopped before change {k}, podman {}", case.name, act_of.0);
            if let Some(done) = act(act_of, &temp.path().join("root")) {
                acted += 1;
                judge(case, temp.path(), &done, &what);
            }
            if !stop.stopped() {
                break;
            }
        }
    }
    println!("{}: podman acted {acted} times", case.name);
    assert!(acted > 0, "{}: podman never acted", case.name);
}

fn judge(case: &Case, top: &Path, done: &Done, what: &str) {
    let root = top.join("root");
    let store = Store::open(options(top, None)).unwrap_or_else(|error| panic!("{what}: it does not open: {error:?}"));
    assert!(store.recovered().pending.is_empty(), "{what}: {:?}", store.recovered());
    let recovered = named(&tables(&root).unwrap().0);
    assert_eq!(recovered, done.images, "{what}: recovery changed what podman made");
    for path in &done.owned {
        assert!(root.join(path).exists(), "{what}: {path} is gone, and a record names it");
    }
    let used = |when: &str| {
        for (layer, (inode, listing)) in &done.used {
            let diff = root.join("overlay").join(layer).join("diff");
            let meta = fs::metadata(&diff);
            assert_eq!(meta.map(|meta| meta.ino()).ok(), Some(*inode), "{what}: {when}: the contents of a layer in use were exchanged");
            assert_eq!(oracle::listing(&diff).unwrap(), *listing, "{what}: {when}: a layer in use was changed");
        }
        if let Some((image, bytes)) = &done.manifest {
            match fs::read(root.join("overlay-images").join(image).join("manifest")) {
                Err(_) if case.end == End::Dropped => {}
                seen => assert_eq!(seen.unwrap(), *bytes, "{what}: {when}: podman's manifest was replaced"),
            }
        }
    };
    used("recovered");
    let (summary, findings) = repair(case, top, None).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    used("repaired");
    let images = named(&tables(&root).unwrap().0);
    // A record that was lost comes back, with the names that nobody has by now.
    for (id, names) in &done.images {
        let dropped = case.end == End::Dropped && !images.contains_key(id);
        assert!(dropped || images.get(id).is_some_and(|now| now.is_subset(names) || names.is_subset(now)), "{what}: {id}: {images:?}");
    }
    let may_remain = done.takes || !done.used.is_empty() || case.end == End::Unsealed;
    assert!(may_remain || summary.remaining() == 0, "{what}: {findings:#?}");
    let (after, still) = look(case, top, None, false).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(after.damaged, summary.remaining(), "{what}: {still:#?}");
}
