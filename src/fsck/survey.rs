//! What a store holds at one moment: its tables as far as they can be read, the layers that its images are made of, and the names
//! in its directories.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use super::elsewhere::Elsewhere;
use crate::fsio::{self, Dir, Kind};
use crate::history::History;
use crate::ids::{Digest, ImageId, LayerId, LinkId};
use crate::layout::{Layout, Tables, TablesError, Users};
use crate::metadata::{ConfigLayers, Image, Images, Layer, Layers, LoadError, Loose, big_data_file};
use crate::overlay::{is_foreign, read_link_id};

/// The largest document that is read, in bytes.
pub(super) const DOCUMENT_MAX: u64 = 64 << 20;
/// The deepest stack of layers; a ring in a hostile table must end.
pub(super) const CHAIN_MAX: usize = 500;

/// A layer as the images on it describe it.
#[derive(Debug, Clone)]
pub(super) struct Described {
    /// The layer below.
    pub parent: Option<LayerId>,
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The blobs that it may come as, by the manifests there are.
    pub blobs: Vec<Blob>,
    /// The images on it.
    pub images: Vec<ImageId>,
}

/// A compressed layer as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// What an image's data directory tells of it.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    /// Its layers by its config, base first.
    pub chain: Vec<LayerId>,
    /// The config's `created`.
    pub created: Option<String>,
}

/// A store at one moment.
pub(super) struct Survey {
    pub layers: Result<Layers, LoadError>,
    pub images: Result<Images, LoadError>,
    /// Without layers and images.
    pub others: Result<Tables, TablesError>,
    /// The layers of all images whose config is there.
    pub described: HashMap<LayerId, Described>,
    /// The images whose config is there, on disk, recorded or not.
    pub documents: BTreeMap<ImageId, Documents>,
    /// What other stores hold.
    pub elsewhere: Elsewhere,
    /// By layer, the entries of `l/` that lead to it.
    pub leads: HashMap<LayerId, Vec<LinkId>>,
    no_layers: Layers,
    no_images: Images,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    #[serde(default)]
    size: i64,
    #[serde(rename = "mediaType", default)]
    media_type: String,
}

/// The key of an image's config.
pub(super) fn config_key(id: &ImageId) -> String {
    format!("sha256:{id}")
}

/// Reads a document; `None` where no regular file of a believable length is.
pub(super) fn document(dir: &Dir, file: &str) -> fsio::Result<Option<Vec<u8>>> {
    match dir.read(file, DOCUMENT_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.not_found() || is_no_file(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether something else than a readable regular file stands there.
pub(super) fn is_no_file(error: &fsio::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == std::io::ErrorKind::InvalidData || [Errno::LOOP, Errno::ISDIR, Errno::NOTDIR, Errno::NXIO].iter().any(|e| error.is(*e))
}

/// Opens a directory; `None` where none stands.
pub(super) fn directory(parent: &Dir, name: &str) -> fsio::Result<Option<Dir>> {
    match parent.dir(name) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.not_found() || is_no_file(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Survey {
    /// Reads it. Consistent where the caller holds the store locks.
    pub fn read(layout: &Layout, elsewhere: &Elsewhere) -> fsio::Result<Self> {
        let mut survey = Self {
            layers: layout.load_layers(),
            images: layout.load_images(),
            others: Tables::load_users(layout),
            described: HashMap::new(),
            documents: BTreeMap::new(),
            elsewhere: elsewhere.clone(),
            leads: HashMap::new(),
            no_layers: Layers::default(),
            no_images: Images::default(),
        };
        survey.read_links(layout)?;
        for (name, kind) in layout.images.entries()? {
            if kind == Kind::Dir
                && let Some(id) = name.to_str().and_then(|name| name.parse::<ImageId>().ok())
                && let Some(dir) = directory(&layout.images, id.as_str())?
            {
                survey.read_documents(&id, &dir)?;
            }
        }
        Ok(survey)
    }

    fn read_links(&mut self, layout: &Layout) -> fsio::Result<()> {
        for (name, kind) in layout.links.entries()? {
            if kind != Kind::Symlink {
                continue;
            }
            let Some(link) = name.to_str().and_then(|name| name.parse::<LinkId>().ok()) else { continue };
            let Ok(target) = layout.links.read_link(&name) else { continue };
            if let Some(id) = target.to_str().and_then(led_to) {
                self.leads.entry(id).or_default().push(link);
            }
        }
        self.leads.values_mut().for_each(|links| links.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str())));
        Ok(())
    }

    fn read_documents(&mut self, id: &ImageId, dir: &Dir) -> fsio::Result<()> {
        let Ok(file) = big_data_file(&config_key(id)) else { return Ok(()) };
        let Some(bytes) = document(dir, &file)? else { return Ok(()) };
        if Digest::of(&bytes).hex() != id.as_str() {
            return Ok(());
        }
        let Ok(config) = ConfigLayers::parse(&bytes) else { return Ok(()) };
        let diff_ids = config.diff_ids();
        if diff_ids.len() > CHAIN_MAX {
            return Ok(());
        }
        let mut chain: Vec<LayerId> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let below = chain.last().cloned();
            let layer = LayerId::chain(below.as_ref(), diff_id);
            let described = self.described.entry(layer.clone()).or_insert_with(|| Described {
                parent: below,
                diff_id: diff_id.clone(),
                blobs: Vec::new(),
                images: Vec::new(),
            });
            described.images.push(id.clone());
            chain.push(layer);
        }
        self.read_manifests(id, dir, &chain)?;
        self.documents.insert(id.clone(), Documents { chain, created: config.created });
        Ok(())
    }

    /// The blobs of the layers, by every manifest of this config.
    fn read_manifests(&mut self, id: &ImageId, dir: &Dir, chain: &[LayerId]) -> fsio::Result<()> {
        for (name, kind) in dir.entries()? {
            let Some(key) = name.to_str().and_then(crate::metadata::big_data_key).filter(|key| key.starts_with("manifest")) else {
                continue;
            };
            let Some(bytes) = (kind == Kind::File).then(|| document(dir, name.to_str().unwrap_or_default())).transpose()?.flatten() else {
                continue;
            };
            if key != "manifest" && key != format!("manifest-{}", Digest::of(&bytes)) {
                continue;
            }
            let Ok(Manifest { config: Some(config), layers: Some(layers) }) = serde_json::from_slice(&bytes) else { continue };
            if config.digest.hex() != id.as_str() || layers.len() != chain.len() {
                continue;
            }
            for (layer, entry) in chain.iter().zip(layers) {
                let size = u64::try_from(entry.size).unwrap_or(0);
                let blob = Blob { digest: entry.digest, size, media_type: entry.media_type };
                if let Some(described) = self.described.get_mut(layer)
                    && !described.blobs.contains(&blob)
                {
                    described.blobs.push(blob);
                }
            }
        }
        Ok(())
    }

    /// The layers that have a record in layers.json; none where it cannot be read.
    pub fn layers(&self) -> &Layers {
        self.layers.as_ref().unwrap_or(&self.no_layers)
    }

    /// The images that have a record; none where images.json cannot be read.
    pub fn images(&self) -> &Images {
        self.images.as_ref().unwrap_or(&self.no_images)
    }

    /// A layer's record, be it in layers.json or in that of containers that end with their process.
    pub fn record(&self, id: &LayerId) -> Option<&Layer> {
        self.layers().get(id).or_else(|| self.others.as_ref().ok()?.volatile.get(id))
    }

    /// All records of layers.
    pub fn records(&self) -> impl Iterator<Item = &Layer> {
        self.layers().iter().chain(self.others.iter().flat_map(|tables| tables.volatile.iter()))
    }

    /// The layers that are built on this one, directly.
    pub fn children(&self, id: &LayerId) -> impl Iterator<Item = &Layer> {
        self.layers().children(id).chain(self.others.iter().flat_map(move |tables| tables.volatile.children(id)))
    }

    /// The tables in one piece, if all of them can be read.
    pub fn tables(&self) -> Option<Tables> {
        let mut tables = self.others.as_ref().ok()?.clone();
        tables.layers = self.layers.as_ref().ok()?.clone();
        tables.images = self.images.as_ref().ok()?.clone();
        Some(tables)
    }

    /// Who uses what, if the tables can be read.
    pub fn users(&self, layout: &Layout) -> Option<Users> {
        self.tables()?.users(layout).ok()
    }

    /// A name of each image on a layer or on one built on it, or its id.
    pub fn images_on(&self, id: &LayerId) -> Vec<String> {
        let mut seen: HashSet<LayerId> = HashSet::new();
        let mut next = vec![id.clone()];
        let mut names = Vec::new();
        while let Some(id) = next.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            names.extend(self.images().by_layer(&id).map(called));
            next.extend(self.layers().children(&id).filter_map(|child| child.id().cloned()));
            if self.images.is_err() {
                names.extend(self.described.get(&id).into_iter().flat_map(|d| d.images.iter().map(ToString::to_string)));
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// The layer below: as the images on it have it, else as its record does.
    pub fn parent(&self, record: &Layer) -> Option<Loose<LayerId>> {
        match record.id().and_then(|id| self.described.get(id)) {
            Some(described) => described.parent.clone().map(Loose::Known),
            None => record.parent().cloned(),
        }
    }

    /// The layers below a layer, nearest first, as the records have them; `None` where they lead out of this store, or nowhere.
    pub fn below(&self, record: &Layer) -> Option<Vec<LayerId>> {
        let mut list = Vec::new();
        let mut next = self.parent(record);
        while let Some(parent) = next {
            let id = parent.known()?.clone();
            if list.len() == CHAIN_MAX {
                return None;
            }
            next = self.parent(self.record(&id)?);
            list.push(id);
        }
        Some(list)
    }
}

/// The record that the history has of an image.
pub(super) fn remembered(history: &History, id: &ImageId) -> Option<Image> {
    history.get(id.as_str()).and_then(|json| Image::from_json(json).ok()).filter(|image| image.id() == Some(id))
}

/// What people call an image.
pub(super) fn called(image: &Image) -> String {
    image.names().first().cloned().unwrap_or_else(|| image.id_text().to_owned())
}

/// The layer that an entry of `l/` with this text leads to.
pub(super) fn led_to(text: &str) -> Option<LayerId> {
    text.strip_prefix("../")?.strip_suffix("/diff")?.parse().ok()
}

/// What a layer's `link` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkState {
    /// A LINKID of its own.
    Sound(LinkId),
    /// No file.
    Missing,
    /// No LINKID.
    Bad,
    /// Another layer's LINKID.
    Foreign(LinkId),
}

/// The LINKIDs of layers, each looked at once.
pub(super) struct Links<'a> {
    layout: &'a Layout,
    survey: &'a Survey,
    seen: std::cell::RefCell<HashMap<LayerId, (LinkState, Option<LinkId>)>>,
}

impl<'a> Links<'a> {
    pub fn new(layout: &'a Layout, survey: &'a Survey) -> Self {
        Self { layout, survey, seen: std::cell::RefCell::default() }
    }

    /// What `link` says, and the LINKID that the layer has by it or by what else is known: an entry of `l/`, or the `lower` of a
    /// layer above.
    pub fn of(&self, id: &LayerId) -> fsio::Result<(LinkState, Option<LinkId>)> {
        if let Some(known) = self.seen.borrow().get(id) {
            return Ok(known.clone());
        }
        let state = self.state(id)?;
        let link = match &state {
            LinkState::Sound(link) => Some(link.clone()),
            _ => self.recalled(id)?,
        };
        self.seen.borrow_mut().insert(id.clone(), (state.clone(), link.clone()));
        Ok((state, link))
    }

    fn state(&self, id: &LayerId) -> fsio::Result<LinkState> {
        let Some(dir) = directory(&self.layout.overlay, id.as_str())? else { return Ok(LinkState::Missing) };
        if dir.meta("link")?.is_none() {
            return Ok(LinkState::Missing);
        }
        Ok(match read_link_id(&dir) {
            Ok(Some(link)) if is_foreign(&self.layout.overlay, &self.layout.links, id, &link) => LinkState::Foreign(link),
            Ok(Some(link)) => LinkState::Sound(link),
            Ok(None) => LinkState::Bad,
            Err(error) if is_no_file(&error) => LinkState::Bad,
            Err(error) => return Err(error),
        })
    }

    /// The LINKID that an entry of `l/` or the `lower` of a layer above still has of a layer. Of several entries that lead here it is
    /// the one that a layer above names, else the oldest.
    fn recalled(&self, id: &LayerId) -> fsio::Result<Option<LinkId>> {
        let leads = self.survey.leads.get(id).map(Vec::as_slice).unwrap_or_default();
        if let [only] = leads {
            return Ok(Some(only.clone()));
        }
        for child in self.survey.children(id).filter_map(|child| child.id()) {
            let Some(dir) = directory(&self.layout.overlay, child.as_str())? else { continue };
            let Some(bytes) = document(&dir, "lower")? else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let first = text.split(':').next().and_then(|part| part.strip_prefix("l/")).and_then(|link| link.parse::<LinkId>().ok());
            let Some(link) = first else { continue };
            let is_free =
                !is_foreign(&self.layout.overlay, &self.layout.links, id, &link) && self.layout.links.meta(link.as_str())?.is_none();
            if leads.contains(&link) || leads.is_empty() && is_free {
                return Ok(Some(link));
            }
        }
        let mut dated = Vec::with_capacity(leads.len());
        for link in leads {
            dated.push((self.layout.links.meta(link.as_str())?.map(|meta| meta.mtime), link));
        }
        Ok(dated.into_iter().min_by(|a, b| a.0.cmp(&b.0)).map(|(_, link)| link.clone()))
    }
}
