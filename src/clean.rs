//! The clean point: which layers were sound and on the medium at which moment. `settle` and a full fsck that finds nothing
//! write it, `fsck --since-clean` looks only at what is not in it, and the next settle syncs nothing if nothing was written
//! since.
//!
//! `cstor-rs/clean` is one JSON object:
//!
//! | key | value |
//! |---|---|
//! | `version` | 1 |
//! | `time` | when it was written, RFC 3339; for people |
//! | `tables` | what layers.json and images.json were when all of both, and of the images' documents, was brought to the medium: of each the token in its lock file (hex), inode number and time of change. Missing where it is not known |
//! | `layers` | the LINKID of each clean layer by its id |
//!
//! Invariants:
//! - C1: a layer is written into it only after its contents were verified and synced. It is clean as long as it has that
//!   LINKID and its seal holds: who replaces `diff/` ends the one or the other.
//! - C2: it names no more layers than layers.json did when it was written.
//! - C3: one that cannot be read, or is of another version, says that nothing is clean. It is never an error.
//! - C4: it is replaced whole, under layers.lock.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::fsio::{self, Dir, optional};
use crate::ids::{LayerId, LinkId};
use crate::layout::{CLEAN, IMAGES_JSON, LAYERS_JSON, Layout, NEW_CLEAN, OWN};
use crate::lock::{LayersGuard, StoreReadGuard};
use crate::metadata::{Layers, go_time, moment};

/// A larger file is not read: half a million layers have room in it.
const LIMIT: u64 = 64 << 20;
const VERSION: u32 = 1;
/// The length of a token in bytes.
const TOKEN: usize = 64;

/// What the tables were at one moment, without their contents: equal if nobody has written either in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    layers: SeenTable,
    images: SeenTable,
}

/// A table and its lock file. The token alone would do but for a writer that died between table and token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenTable {
    token: String,
    inode: u64,
    mtime: (i64, u32),
}

impl Seen {
    /// What the tables are while `locked` is held; `None` where they do not tell, as in a new store.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn of(layout: &Layout, locked: &StoreReadGuard) -> fsio::Result<Option<Self>> {
        let [layers, images] = locked.tokens()?;
        let table = |dir: &Dir, name: &str, token: &[u8]| -> fsio::Result<Option<SeenTable>> {
            let meta = dir.meta(name)?.filter(|_| token.len() == TOKEN);
            Ok(meta.map(|meta| SeenTable { token: data_encoding::HEXLOWER.encode(token), inode: meta.inode, mtime: meta.mtime }))
        };
        let (layers, images) = (table(&layout.layers, LAYERS_JSON, &layers)?, table(&layout.images, IMAGES_JSON, &images)?);
        Ok(layers.zip(images).map(|(layers, images)| Self { layers, images }))
    }
}

/// A clean point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanPoint {
    /// When it was written.
    pub time: SystemTime,
    /// The tables that are on the medium, with all documents, if that is known of any.
    pub tables: Option<Seen>,
    layers: BTreeMap<LayerId, LinkId>,
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    version: u32,
    time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tables: Option<Seen>,
    layers: BTreeMap<LayerId, LinkId>,
}

/// Bytes that are no clean point of this version.
#[derive(Debug, thiserror::Error)]
#[error("the clean point is not readable")]
pub struct CleanError(#[from] serde_json::Error);

impl CleanPoint {
    /// One that says nothing yet.
    pub fn new(time: SystemTime) -> Self {
        Self { time, tables: None, layers: BTreeMap::new() }
    }

    /// Notes a layer that is sound and on the medium (C1).
    pub fn insert(&mut self, id: LayerId, link: LinkId) {
        self.layers.insert(id, link);
    }

    /// Takes a layer out.
    pub fn remove(&mut self, id: &LayerId) {
        self.layers.remove(id);
    }

    /// Takes out what is no layer of the store any more (C2).
    pub fn keep(&mut self, layers: &Layers) {
        self.layers.retain(|id, _| layers.get(id).is_some());
    }

    /// Whether the layer was clean under this LINKID. It is so still only if its seal holds.
    pub fn has(&self, id: &LayerId, link: &LinkId) -> bool {
        self.layers.get(id) == Some(link)
    }

    /// The layers with their LINKIDs.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = (&LayerId, &LinkId)> {
        self.layers.iter()
    }

    /// Whether both say the same of the store, whenever they were written.
    pub fn says_as(&self, other: &Self) -> bool {
        self.tables == other.tables && self.layers == other.layers
    }

    /// The bytes of the file.
    ///
    /// # Errors
    ///
    /// Never in practice: every field has a JSON form.
    pub fn encode(&self) -> Result<Vec<u8>, CleanError> {
        let encoded = Encoded { version: VERSION, time: go_time(self.time), tables: self.tables.clone(), layers: self.layers.clone() };
        Ok(serde_json::to_vec(&encoded)?)
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    ///
    /// For anything that is not a clean point of version 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, CleanError> {
        let encoded: Encoded = serde_json::from_slice(bytes)?;
        let refuse = |why: &str| CleanError(serde::de::Error::custom(why));
        if encoded.version != VERSION {
            return Err(refuse("another version"));
        }
        let time = moment(&encoded.time).ok_or_else(|| refuse("its time is none"))?;
        Ok(Self { time, tables: encoded.tables, layers: encoded.layers })
    }

    /// The store's clean point, if it has one (C3).
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn load(layout: &Layout) -> fsio::Result<Option<Self>> {
        let Some(own) = optional(layout.root.dir(OWN))? else { return Ok(None) };
        let bytes = match own.read(CLEAN, LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.not_found() => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData || error.is(Errno::LOOP) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the clean point says nothing");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match Self::parse(&bytes) {
            Ok(point) => Ok(Some(point)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the clean point says nothing");
                Ok(None)
            }
        }
    }

    /// Makes it the store's: a temporary file, fdatasync, rename, fsync. The lock keeps two writers apart (C4); who wants
    /// what the last one wrote loads it under the same lock.
    ///
    /// # Errors
    ///
    /// Those of the disk; the old one is then still there.
    pub fn store(&self, layout: &Layout, _locked: &LayersGuard) -> fsio::Result<()> {
        let own = layout.root.ensure_dir(OWN, 0o700)?;
        let failed = |error: CleanError| fsio::Error { call: "encode", path: own.path().join(CLEAN), source: std::io::Error::other(error) };
        own.replace(NEW_CLEAN, CLEAN, &self.encode().map_err(failed)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn layer(c: &str) -> (LayerId, LinkId) {
        (c.repeat(64).parse().unwrap(), c.to_uppercase().repeat(26).parse().unwrap())
    }

    fn point() -> CleanPoint {
        let mut point = CleanPoint::new(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let table = |token: &str| SeenTable { token: token.to_owned(), inode: 7, mtime: (-1, 999) };
        point.tables = Some(Seen { layers: table("0a"), images: table("0b") });
        for (id, link) in ["a", "b"].map(layer) {
            point.insert(id, link);
        }
        point
    }

    #[test]
    fn the_bytes_are_these() {
        let (a, b) = (layer("a"), layer("b"));
        let text = format!(
            r#"{{"version":1,"time":"2023-11-14T22:13:20Z","tables":{{"layers":{{"token":"0a","inode":7,"mtime":[-1,999]}},"images":{{"token":"0b","inode":7,"mtime":[-1,999]}}}},"layers":{{"{}":"{}","{}":"{}"}}}}"#,
            a.0, a.1, b.0, b.1
        );
        assert_eq!(String::from_utf8(point().encode().unwrap()).unwrap(), text);
        assert_eq!(CleanPoint::parse(text.as_bytes()).unwrap(), point());
    }

    #[test]
    fn c1_a_layer_is_known_by_its_linkid() {
        let (mut point, a, b) = (point(), layer("a"), layer("b"));
        assert!(point.has(&a.0, &a.1));
        assert!(!point.has(&a.0, &b.1));
        point.remove(&a.0);
        assert!(!point.has(&a.0, &a.1));
        assert_eq!(point.layers().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [b.0]);
    }

    #[test]
    fn c2_layers_that_are_gone_go() {
        let mut point = point();
        let table = format!(r#"[{{"id":"{}"}}]"#, layer("b").0);
        point.keep(&Layers::parse(table.as_bytes()).unwrap());
        assert_eq!(point.layers().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [layer("b").0]);
    }

    #[test]
    fn c3_what_is_no_clean_point_is_refused() {
        let good = String::from_utf8(point().encode().unwrap()).unwrap();
        let id = layer("a").0.to_string();
        for bad in [
            String::new(),
            "[]".to_owned(),
            good[..good.len() - 1].to_owned(),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace("2023-11-14T22:13:20Z", "yesterday"),
            good.replace(&id, "../../etc"),
            good.replace(&layer("a").1.to_string(), "l"),
        ] {
            assert!(CleanPoint::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
