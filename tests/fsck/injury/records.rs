//! Injuries of single records.

use std::fs;

use serde_json::json;

use super::target::{At, Target, at, empty, remove, remove_all};
use super::{Fetch, IMAGES, Injury, LAYERS, Level, Repair};

const LACKS: &str = "layers.json lacks a layer that is on disk; dangling parent";
const NAMES: &str = "a name on two images";
const FLAG: &str = "incomplete flag";
const HOLLOW: &str = "image record without its documents";
const WRONG: &str = "a record that contradicts the images";

pub const ALL: &[Injury] = &[
    lacks("layers-record-missing-base", |t| Target::forget(&t.layers_json(), t.layer(At::Base))),
    lacks("layers-record-missing-middle", |t| Target::forget(&t.layers_json(), t.layer(At::Middle))),
    lacks("layers-record-missing-top", |t| Target::forget(&t.layers_json(), t.layer(At::Top))),
    lacks("layers-record-missing-all-of-one", |t| {
        [At::Base, At::Middle, At::Top].iter().try_for_each(|which| Target::forget(&t.layers_json(), t.layer(*which)))
    }),
    Injury::quick(LACKS, "layer-lost", &["layer-lost"], |t| {
        Target::forget(&t.layers_json(), t.layer(At::Middle))?;
        remove_all(&t.dir(At::Middle))?;
        remove(&t.split(At::Middle))
    })
    .refetch(Fetch::Layer(At::Middle))
    .exempt(LAYERS),
    Injury::quick(LACKS, "layer-lost-with-its-entry", &["layer-lost"], |t| {
        let entry = t.entry(At::Middle)?;
        Target::forget(&t.layers_json(), t.layer(At::Middle))?;
        remove_all(&t.dir(At::Middle))?;
        remove(&t.split(At::Middle))?;
        remove(&entry)
    })
    .refetch(Fetch::Layer(At::Middle))
    .exempt(super::Exempt { links: true, ..LAYERS }),
    Injury::quick(LACKS, "layer-lost-base", &["layer-lost"], |t| {
        Target::forget(&t.layers_json(), t.layer(At::Base))?;
        remove_all(&t.dir(At::Base))?;
        remove(&t.split(At::Base))
    })
    .refetch(Fetch::Layer(At::Base))
    .exempt(LAYERS),
    // The later record keeps the name: the earlier one gets that of the later.
    Injury::quick(NAMES, "name-on-two-images", &["name-duplicate"], |t| {
        Target::records(&t.images_json(), |images| {
            let named: Vec<usize> = (0..images.len()).filter(|i| images[*i]["names"][0].is_string()).collect();
            let [first, .., last] = named[..] else { return Err("no two images have names".to_owned()) };
            let name = images[last]["names"][0].clone();
            images[first]["names"].as_array_mut().ok_or("no names")?.push(name);
            Ok(())
        })
    }),
    Injury::quick(FLAG, "incomplete-sound", &["layer-incomplete"], |t| incomplete(t, At::Middle)),
    Injury::quick(FLAG, "incomplete-sound-top", &["layer-incomplete"], |t| incomplete(t, At::Top)),
    Injury::quick(FLAG, "incomplete-hollow", &["layer-incomplete"], |t| {
        incomplete(t, At::Middle)?;
        empty(&t.file()?)
    })
    .refetch(Fetch::Layer(At::Middle)),
    Injury::quick(FLAG, "incomplete-without-split", &["layer-incomplete"], |t| {
        incomplete(t, At::Middle)?;
        remove(&t.split(At::Middle))
    })
    .refetch(Fetch::Layer(At::Middle)),
    Injury::quick(HOLLOW, "image-record-hollow", &["image-record-hollow"], |t| {
        let id = "c".repeat(64);
        let dir = t.root.join("overlay-images").join(&id);
        at(&dir, fs::create_dir(&dir))?;
        let record = json!({"id": id, "layer": t.layer(At::Top), "metadata": "{}", "created": "2026-01-02T03:04:05Z"});
        Target::records(&t.images_json(), |images| {
            images.push(record);
            Ok(())
        })
    })
    .repair(Repair::Prune),
    Injury::quick(WRONG, "image-layer-wrong", &["image-layer-wrong"], |t| {
        let parent = t.layer(At::Middle).to_owned();
        Target::record(&t.images_json(), &t.image, |image| image["layer"] = json!(parent))
    })
    .exempt(IMAGES),
    Injury::quick(WRONG, "record-diff-digest-wrong", &["layer-record-wrong"], |t| {
        let wrong = format!("sha256:{}", "a".repeat(64));
        Target::record(&t.layers_json(), t.layer(At::Middle), |layer| layer["diff-digest"] = json!(wrong))
    }),
    Injury::quick(WRONG, "record-diff-digest-missing", &["layer-record-wrong"], |t| {
        Target::record(&t.layers_json(), t.layer(At::Middle), |layer| drop(layer.as_object_mut().map(|l| l.remove("diff-digest"))))
    })
    .exempt(LAYERS),
    Injury::quick(WRONG, "record-parent-wrong", &["layer-record-wrong"], |t| {
        let base = t.layer(At::Base).to_owned();
        Target::record(&t.layers_json(), t.layer(At::Top), |layer| layer["parent"] = json!(base))
    }),
    Injury {
        level: Level::Full,
        ..Injury::quick(WRONG, "record-diff-size-wrong", &["layer-record-wrong"], |t| {
            Target::record(&t.layers_json(), t.layer(At::Middle), |layer| layer["diff-size"] = json!(7))
        })
    },
];

const fn lacks(name: &'static str, hurt: super::Hurt) -> Injury {
    Injury::quick(LACKS, name, &["layer-record-missing"], hurt).exempt(LAYERS)
}

fn incomplete(t: &Target, which: At) -> super::target::Result<()> {
    Target::record(&t.layers_json(), t.layer(which), |layer| layer["flags"] = json!({"incomplete": true}))
}
