//! Pure: no I/O. Who uses layers and images: containers and mounts. Read, never written.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ParseError;
use super::loose::{Loose, text_of};
use super::table::{Record, Table, decode};
use crate::ids::{ImageId, LayerId};

/// containers.json or volatile-containers.json.
pub type Containers = Table<Container>;
/// mountpoints.json of the runroot.
pub type Mountpoints = Table<Mountpoint>;

#[derive(Deserialize)]
struct ContainerKeys {
    id: Option<String>,
    names: Option<Vec<String>>,
    image: Option<String>,
    layer: Option<String>,
    metadata: Option<String>,
}

/// A container (spec section 2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    json: Box<str>,
    id: String,
    names: Vec<String>,
    image: Option<Loose<ImageId>>,
    layer: Option<Loose<LayerId>>,
    name: Option<String>,
}

impl Record for Container {
    type Id = String;

    fn from_json(json: &str) -> Result<Self, ParseError> {
        let keys: ContainerKeys = decode(json)?;
        // Whatever else the metadata says, it is not ours to judge.
        let metadata: Map<String, Value> = serde_json::from_str(&keys.metadata.unwrap_or_default()).unwrap_or_default();
        Ok(Self {
            json: json.into(),
            id: keys.id.unwrap_or_default(),
            names: keys.names.unwrap_or_default(),
            image: Loose::optional(keys.image),
            layer: Loose::optional(keys.layer),
            name: metadata.get("name").and_then(Value::as_str).map(str::to_owned),
        })
    }

    fn json(&self) -> &str {
        &self.json
    }

    fn key(&self) -> Option<&String> {
        Some(&self.id)
    }
}

impl Container {
    /// The id, any text.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The image it was made from.
    pub fn image(&self) -> Option<&Loose<ImageId>> {
        self.image.as_ref()
    }

    /// The text of the image's id, empty if there is none.
    pub fn image_text(&self) -> &str {
        text_of(self.image.as_ref())
    }

    /// Its own writable layer.
    pub fn layer(&self) -> Option<&Loose<LayerId>> {
        self.layer.as_ref()
    }

    /// What to call it: podman's name for it, else its first name, else its id.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().or(self.names.first().map(String::as_str)).unwrap_or(&self.id)
    }
}

#[derive(Deserialize)]
struct MountpointKeys {
    id: Option<String>,
    path: Option<String>,
    count: Option<i64>,
}

/// A mounted layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mountpoint {
    json: Box<str>,
    id: Loose<LayerId>,
    path: String,
    count: i64,
}

impl Record for Mountpoint {
    type Id = LayerId;

    fn from_json(json: &str) -> Result<Self, ParseError> {
        let keys: MountpointKeys = decode(json)?;
        Ok(Self {
            json: json.into(),
            id: Loose::new(&keys.id.unwrap_or_default()),
            path: keys.path.unwrap_or_default(),
            count: keys.count.unwrap_or_default(),
        })
    }

    fn json(&self) -> &str {
        &self.json
    }

    fn key(&self) -> Option<&LayerId> {
        self.id.known()
    }
}

impl Mountpoint {
    /// The layer.
    pub fn id(&self) -> &Loose<LayerId> {
        &self.id
    }

    /// Where it is mounted.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How many mounts are counted; 0 is none.
    pub fn count(&self) -> i64 {
        self.count
    }
}
