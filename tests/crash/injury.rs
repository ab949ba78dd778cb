//! What fsck repairs in the crash tests: a small store, an injury, and what the repair has to come to.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cstor_rs::fsck::{Supply, SupplyError, WantedDocument, WantedLayer};
use cstor_rs::ids::{Digest, LayerId};
use cstor_rs::store::Store;
use serde_json::Value;

use crate::fixture::{self, Image, Layer, Member, image, layer};
use crate::work::{id_of, options};

/// In what a healed store may differ from the one before the injury.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exempt {
    /// Layer records were rebuilt from nothing.
    pub layers: bool,
    /// Image records were.
    pub images: bool,
    /// A layer has a new LINKID.
    pub links: bool,
}

const EQUAL: Exempt = Exempt { layers: false, images: false, links: false };

/// What the repair comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The store is what it was.
    Whole,
    /// The damage stays, and the seal of the layer is gone.
    Unsealed,
    /// An image is dropped.
    Dropped,
}

/// An injury and its repair.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub exempt: Exempt,
    /// Whether bytes can be fetched.
    pub supplied: bool,
    pub end: End,
    /// Bytes that no repair may lose.
    pub kept: Option<&'static [u8]>,
    hurt: fn(&Place),
}

const fn case(name: &'static str, hurt: fn(&Place)) -> Case {
    Case { name, exempt: EQUAL, supplied: false, end: End::Whole, kept: None, hurt }
}

const fn exempting(name: &'static str, exempt: Exempt, hurt: fn(&Place)) -> Case {
    Case { exempt, ..case(name, hurt) }
}

const fn keeping(name: &'static str, exempt: Exempt, kept: &'static [u8], hurt: fn(&Place)) -> Case {
    Case { kept: Some(kept), ..exempting(name, exempt, hurt) }
}

const fn supplied(name: &'static str, hurt: fn(&Place)) -> Case {
    Case { supplied: true, ..case(name, hurt) }
}

/// What is no image any more, and may be all that tells of one.
const DOCUMENT: &[u8] = b"a document of an image that nobody knows";

pub const ALL: &[Case] = &[
    exempting("relinked", Exempt { links: true, ..EQUAL }, |place| {
        fs::remove_file(place.short(0)).unwrap();
        empty(&place.dir(0).join("link"));
        [1, 2].iter().for_each(|upper| empty(&place.dir(*upper).join("lower")));
    }),
    case("structure", |place| {
        fs::write(place.dir(1).join("lower"), "l/WRONGWRONGWRONGWRONGWRONGW").unwrap();
        let short = place.short(2);
        fs::remove_file(&short).unwrap();
        symlink("../nowhere/diff", &short).unwrap();
        symlink("../nobody/diff", place.root.join("overlay/l/STRAYSTRAYSTRAYSTRAYSTRAYS")).unwrap();
    }),
    case("short_names", |place| fs::remove_dir_all(place.root.join("overlay/l")).unwrap()),
    supplied("documents", |place| {
        let config = format!("sha256:{}", id_of(&other()));
        fs::remove_file(place.document(&one(), "manifest")).unwrap();
        fs::remove_file(place.document(&other(), &crate::oracle::data_file(&config))).unwrap();
    }),
    keeping("attributes", EQUAL, EXTRA, |place| {
        let diff = place.dir(0).join("diff");
        let (tool, link) = (diff.join("bin/tool"), diff.join("bin/sh"));
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o600)).unwrap();
        rustix::fs::lsetxattr(&tool, "trusted.note", b"a note", rustix::fs::XattrFlags::empty()).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&tool).unwrap().set_modified(old).unwrap();
        fs::remove_file(&link).unwrap();
        symlink("elsewhere", &link).unwrap();
        let more = place.more().join("file");
        fs::create_dir(place.more()).unwrap();
        fs::write(&more, EXTRA).unwrap();
        for path in [&more, &place.more()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o750)).unwrap();
            rustix::fs::lsetxattr(path, "trusted.note", b"of nobody", rustix::fs::XattrFlags::empty()).unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
            fs::File::open(path).unwrap().set_modified(old).unwrap();
        }
    }),
    case("twin", |place| fs::write(place.dir(0).join("diff/etc/twin"), "other bytes").unwrap()),
    supplied("contents", |place| empty(&place.dir(1).join("diff/app/one"))),
    supplied("directory", |place| {
        fs::remove_file(place.short(0)).unwrap();
        fs::remove_dir_all(place.dir(0)).unwrap();
    }),
    supplied("split", |place| fs::remove_file(place.split(0)).unwrap()),
    Case {
        supplied: true,
        ..keeping("split_and_more", EQUAL, EXTRA, |place| {
            fs::remove_file(place.split(0)).unwrap();
            fs::write(place.dir(0).join("diff/etc/more"), EXTRA).unwrap();
        })
    },
    keeping("orphans", EQUAL, DOCUMENT, |place| {
        let dir = place.root.join("overlay").join(NOBODY);
        fs::create_dir_all(dir.join("diff")).unwrap();
        fs::write(dir.join("diff/half"), "half").unwrap();
        fs::write(dir.join("link"), LINK).unwrap();
        symlink(format!("../{NOBODY}/diff"), place.root.join("overlay/l").join(LINK)).unwrap();
        fs::write(place.root.join(format!("overlay-layers/{NOBODY}.tar-split.gz")), "half").unwrap();
        fs::create_dir(place.root.join("overlay-images").join(NOBODY)).unwrap();
        fs::write(place.root.join("overlay-images").join(NOBODY).join("manifest"), DOCUMENT).unwrap();
    }),
    exempting("layers_lost", Exempt { layers: true, ..EQUAL }, |place| empty(&place.layers())),
    exempting("images_lost", Exempt { images: true, ..EQUAL }, |place| empty(&place.images())),
    keeping("tables_lost", Exempt { layers: true, images: true, links: false }, GARBLED, |place| {
        fs::write(place.layers(), GARBLED).unwrap();
        empty(&place.images());
    }),
    exempting("records", Exempt { layers: true, images: true, links: false }, |place| {
        let gone = place.chain[2].as_str().to_owned();
        edit(&place.layers(), |table| table.retain(|layer| layer["id"] != gone.as_str()));
        edit(&place.layers(), |table| table[0]["flags"] = serde_json::json!({"incomplete": true}));
        edit(&place.images(), |table| table[0]["names"].as_array_mut().unwrap().push("localhost/other:1".into()));
    }),
    Case { end: End::Unsealed, ..case("unsealed", |place| empty(&place.dir(1).join("diff/app/one"))) },
    Case {
        end: End::Dropped,
        exempt: Exempt { links: true, ..EQUAL },
        ..case("dropped", |place| {
            fs::remove_file(place.short(1)).unwrap();
            fs::remove_dir_all(place.dir(1)).unwrap();
        })
    },
];

pub const NOBODY: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const LINK: &str = "E2E3E4E5E6E7E2E3E4E5E6E7E2";

/// What is in a layer and is not the layer's.
const EXTRA: &[u8] = b"nobody knows";

/// A table that somebody may want to look at.
const GARBLED: &[u8] = b"[{\"id\": garbled";

fn empty(path: &Path) {
    fs::File::options().write(true).truncate(true).open(path).unwrap();
}

fn edit(path: &Path, change: impl Fn(&mut Vec<Value>)) {
    let mut table: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut table);
    fs::write(path, serde_json::to_vec(&table).unwrap()).unwrap();
}

/// Contents that two layers have.
const SHARED: &[u8] = b"the same in two layers\n";

fn low() -> Layer {
    layer(&[
        Member::Dir("bin", 0o755),
        Member::File("bin/tool", 0o4755, &[7; 700]),
        Member::Symlink("bin/sh", "tool"),
        Member::Dir("etc", 0o755),
        Member::File("etc/twin", 0o644, SHARED),
    ])
}

fn high(tag: &str) -> Layer {
    layer(&[Member::Dir("app", 0o755), Member::File(&format!("app/{tag}"), 0o644, tag.as_bytes()), Member::File("app/twin", 0o600, SHARED)])
}

fn one() -> Image {
    image("localhost/app:latest", vec![low(), high("one")])
}

fn other() -> Image {
    image("localhost/other:1", vec![low(), high("two")])
}

/// The store, with the ids of its layers: the shared one, and one for each image.
pub struct Place {
    pub root: PathBuf,
    chain: [LayerId; 3],
}

impl Place {
    /// A sound store, nothing of which is sealed but for who asks.
    pub fn sound(top: &Path, sealed: bool) -> Self {
        fixture::pull(&Store::open(options(top, None)).unwrap(), &[one(), other()]).unwrap().unwrap();
        let base = LayerId::chain(None, &low().diff_id);
        let upper = |tag: &str| LayerId::chain(Some(&base), &high(tag).diff_id);
        let place = Self { root: top.join("root"), chain: [base.clone(), upper("one"), upper("two")] };
        if !sealed {
            (0..3).for_each(|layer| fs::remove_file(place.seal(layer)).unwrap());
        }
        place
    }

    fn dir(&self, layer: usize) -> PathBuf {
        self.root.join("overlay").join(self.chain[layer].as_str())
    }

    pub fn seal(&self, layer: usize) -> PathBuf {
        self.dir(layer).join("cstor-rs.seal")
    }

    /// Where a directory that is not the layer's is put.
    pub fn more(&self) -> PathBuf {
        self.dir(0).join("diff/more")
    }

    fn short(&self, layer: usize) -> PathBuf {
        self.root.join("overlay/l").join(fs::read_to_string(self.dir(layer).join("link")).unwrap())
    }

    fn split(&self, layer: usize) -> PathBuf {
        self.root.join(format!("overlay-layers/{}.tar-split.gz", self.chain[layer]))
    }

    fn document(&self, image: &Image, file: &str) -> PathBuf {
        self.root.join("overlay-images").join(id_of(image).as_str()).join(file)
    }

    fn layers(&self) -> PathBuf {
        self.root.join("overlay-layers/layers.json")
    }

    fn images(&self) -> PathBuf {
        self.root.join("overlay-images/images.json")
    }
}

impl Case {
    pub fn named(name: &str) -> Self {
        *ALL.iter().find(|case| case.name == name).unwrap()
    }

    pub fn hurt(&self, place: &Place) {
        (self.hurt)(place);
    }
}

/// The bytes of both images.
pub struct Bytes(BTreeMap<String, Vec<u8>>);

impl Bytes {
    pub fn all() -> Self {
        let mut all = BTreeMap::new();
        for image in [one(), other()] {
            for bytes in [&image.config, &image.manifest].into_iter().chain(image.layers.iter().map(|layer| &layer.blob)) {
                all.insert(Digest::of(bytes).to_string(), bytes.clone());
            }
        }
        Self(all)
    }
}

impl Supply for Bytes {
    fn layer(&self, wanted: &WantedLayer) -> Result<Option<Box<dyn Read + Send>>, SupplyError> {
        let found = wanted.blobs.iter().find_map(|(digest, _)| self.0.get(digest.as_str()));
        Ok(found.map(|bytes| Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>))
    }

    fn document(&self, wanted: &WantedDocument) -> Result<Option<Vec<u8>>, SupplyError> {
        Ok(self.0.get(wanted.digest.as_str()).cloned())
    }
}
