//! layers.json and images.json, rebuilt from what is on disk or put right.
//!
//! A record that is made anew takes what is still known of it, the best source first: the damaged table's own beginning, a table
//! that a transaction had prepared, the configs and manifests of the images on the layer, the layer's tar-split.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::images;
use crate::extract;
use crate::fsck::run::Run;
use crate::fsck::split::{self, SplitFacts};
use crate::fsck::survey::{Survey, directory, document, led_to};
use crate::fsio::{Dir, Kind, optional};
use crate::ids::{Digest, LayerId, LinkId};
use crate::layout::{LAYERS_JSON, Layout, parse_marker, split_name};
use crate::metadata::{Compression, Layer, Layers, Loose, MAX_TABLE_BYTES, NewLayer, salvage};
use crate::overlay::read_link_id;
use crate::txn::{Rewrite, TxnError, rewrite_tables};

/// What was learned of layers by reading them.
#[derive(Debug, Default)]
pub(in crate::fsck) struct Corrections {
    /// Layers that are complete, whatever their flag says.
    pub complete: Vec<(LayerId, LinkId)>,
    /// The lengths of their tars in bytes.
    pub sizes: Vec<(LayerId, u64)>,
    /// Layers whose records this run has made, and of which more may be known by now.
    pub made: HashSet<LayerId>,
}

/// Puts the tables right.
pub(super) fn mend(run: &Run<'_>, corrections: &Corrections) -> Result<(), TxnError> {
    let learned = Learned::read(run, &corrections.made)?;
    let (mut lost_names, mut made) = (Vec::new(), Vec::new());
    rewrite_tables(&run.layout, &run.wait(), |layout| -> Result<Rewrite, TxnError> {
        let survey = Survey::read(layout, &run.elsewhere)?;
        let layers = layers(layout, &survey, &learned, corrections, &mut made)?;
        let now = layers.as_ref().unwrap_or_else(|| survey.layers());
        let (images, nameless) = images::mend(layout, &survey, now)?;
        lost_names = nameless;
        Ok(Rewrite { layers, images })
    })?;
    lost_names.into_iter().for_each(|id| run.names_lost(&id));
    run.made(made);
    Ok(())
}

/// What is read of layers without a record before the locks are taken: it may take long.
struct Learned {
    layers: HashMap<LayerId, OnDisk>,
}

/// A layer directory without a record.
struct OnDisk {
    /// Its LINKID when it was read.
    link: Option<LinkId>,
    split: Option<SplitFacts>,
    /// The digest of its tar, where no image tells it.
    digest: Option<Digest>,
}

impl Learned {
    fn read(run: &Run<'_>, made: &HashSet<LayerId>) -> Result<Self, TxnError> {
        let survey = Survey::read(&run.layout, &run.elsewhere)?;
        let mut layers = HashMap::new();
        for id in unrecorded(&run.layout, &survey)?.into_iter().chain(made.iter().cloned()) {
            let Some(dir) = directory(&run.layout.overlay, id.as_str())? else { continue };
            let file = match run.layout.layers.file(split_name(&id)) {
                Ok(file) => Some(file),
                Err(error) if error.not_found() || crate::fsck::survey::is_no_file(&error) => None,
                Err(error) => return Err(error.into()),
            };
            let facts = match &file {
                Some(file) => split::facts(file)?,
                None => None,
            };
            let mut on_disk = OnDisk { link: read_link_id(&dir).unwrap_or_default(), split: facts, digest: None };
            if on_disk.split.is_some()
                && !survey.described.contains_key(&id)
                && let (Some(file), Some(diff)) = (&file, directory(&dir, "diff")?)
            {
                on_disk.digest = extract::digest_of_layer(&diff, file)?;
            }
            layers.insert(id, on_disk);
        }
        Ok(Self { layers })
    }
}

/// The layer directories that have no record.
fn unrecorded(layout: &Layout, survey: &Survey) -> Result<Vec<LayerId>, TxnError> {
    let mut ids: Vec<LayerId> = Vec::new();
    for (name, kind) in layout.overlay.entries()? {
        if kind == Kind::Dir
            && let Some(id) = name.to_str().and_then(|name| name.parse::<LayerId>().ok())
            && survey.record(&id).is_none()
        {
            ids.push(id);
        }
    }
    ids.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(ids)
}

/// The records that are left of tables: whole ones at the start of a damaged file, and those that a transaction had prepared.
fn left_over(layout: &Layout) -> Result<Vec<Layer>, TxnError> {
    let mut found: Vec<Layer> = Vec::new();
    if let Ok(bytes) = layout.layers.read(LAYERS_JSON, MAX_TABLE_BYTES) {
        found.extend(salvage(&bytes));
    }
    for name in layout.layers.names()? {
        if let Some(text) = name.to_str().filter(|text| text.contains(LAYERS_JSON) && parse_marker(text).is_some())
            && let Some(bytes) = optional(layout.layers.read(text, MAX_TABLE_BYTES))?
        {
            found.extend(salvage::<Layer>(&bytes));
        }
    }
    let mut seen = HashSet::new();
    found.retain(|layer| layer.id().is_some_and(|id| seen.insert(id.clone())));
    Ok(found)
}

/// layers.json as it should be, if it is another one.
fn layers(
    layout: &Layout,
    survey: &Survey,
    learned: &Learned,
    corrections: &Corrections,
    made: &mut Vec<LayerId>,
) -> Result<Option<Layers>, TxnError> {
    let stands = |id: &LayerId| directory(&layout.overlay, id.as_str()).is_ok_and(|dir| dir.is_some());
    let whole = survey.layers.is_err();
    let base = match &survey.layers {
        Ok(layers) => layers.clone(),
        Err(_) => {
            let kept: Vec<Layer> = left_over(layout)?.into_iter().filter(|layer| layer.id().is_some_and(stands)).collect();
            Layers::default().extended(&kept)?
        }
    };
    let mut corrected = corrected(survey, &base, corrections)?;
    for id in &corrections.made {
        // What was damaged then may tell more now.
        if let (Some(record), Some(on_disk)) = (base.get(id), learned.layers.get(id))
            && let Some(new) = record_of(layout, survey, id, on_disk)?
            && new != *record
            && corrected.iter().all(|other| other.id() != Some(id))
        {
            corrected.push(new);
        }
    }
    let changed = !corrected.is_empty();
    let mut table = if changed { base.replaced(&corrected)? } else { base };
    let mut new: BTreeMap<String, Layer> = BTreeMap::new();
    let wanted = if whole { None } else { Some(needed(survey, &table)) };
    let going_back = crate::fsck::check::held(layout).going_back;
    for (id, on_disk) in &learned.layers {
        let skip = table.get(id).is_some()
            || survey.record(id).is_some()
            || going_back.contains(id)
            || wanted.as_ref().is_some_and(|wanted| !wanted.contains(id));
        let same = directory(&layout.overlay, id.as_str())?.is_some_and(|dir| read_link_id(&dir).unwrap_or_default() == on_disk.link);
        if !skip
            && same
            && let Some(record) = record_of(layout, survey, id, on_disk)?
        {
            made.push(id.clone());
            new.insert(id.to_string(), record);
        }
    }
    if new.is_empty() {
        return Ok((changed || whole).then_some(table));
    }
    // Parents first, as programs make them.
    let mut ordered: Vec<Layer> = Vec::with_capacity(new.len());
    let mut placed: HashSet<String> = HashSet::new();
    while !new.is_empty() {
        let ready = |record: &Layer| !new.contains_key(record.parent_text()) || placed.contains(record.parent_text());
        let mut next: Vec<String> = new.iter().filter(|(_, record)| ready(record)).map(|(id, _)| id.clone()).collect();
        if next.is_empty() {
            // They lead back to each other: each is said to be bad afterwards.
            next = new.keys().cloned().collect();
        }
        for id in next {
            placed.insert(id.clone());
            ordered.extend(new.remove(&id));
        }
    }
    table = table.extended(&ordered)?;
    Ok(Some(table))
}

/// The records that contradict what is known of their layers, put right.
fn corrected(survey: &Survey, base: &Layers, corrections: &Corrections) -> Result<Vec<Layer>, TxnError> {
    let sizes: HashMap<&LayerId, u64> = corrections.sizes.iter().map(|(id, size)| (id, *size)).collect();
    let complete: HashSet<&LayerId> = corrections.complete.iter().map(|(id, _)| id).collect();
    let mut list = Vec::new();
    for record in base.iter() {
        let Some(id) = record.id() else { continue };
        let mut new = record.clone();
        if let Some(described) = survey.described.get(id)
            && !record.incomplete()
            && (record.diff_digest().and_then(Loose::known) != Some(&described.diff_id)
                || record.parent_text() != described.parent.as_ref().map_or("", LayerId::as_str))
        {
            new = new.with_contents(described.parent.as_ref(), &described.diff_id)?;
        }
        if let Some(size) = sizes.get(id) {
            new = new.with_size(*size)?;
        }
        if complete.contains(id) {
            new = new.completed()?;
        }
        if new != *record {
            list.push(new);
        }
    }
    Ok(list)
}

/// The layers without a record that something names.
fn needed(survey: &Survey, table: &Layers) -> HashSet<LayerId> {
    let mut wanted: HashSet<LayerId> = table.iter().filter_map(|layer| layer.parent().and_then(Loose::known).cloned()).collect();
    wanted.extend(survey.images().iter().filter_map(|image| image.layer().and_then(Loose::known).cloned()));
    // Of an image that is there or comes back every layer.
    wanted.extend(survey.documents.values().flat_map(|documents| documents.chain.iter().cloned()));
    if let Ok(others) = &survey.others {
        let containers = others.containers.iter().chain(others.volatile_containers.iter());
        wanted.extend(containers.filter_map(|container| container.layer().and_then(Loose::known).cloned()));
        wanted.extend(others.volatile.iter().filter_map(|layer| layer.parent().and_then(Loose::known).cloned()));
    }
    wanted
}

/// A record made anew; `None` where nothing tells what the directory is.
fn record_of(layout: &Layout, survey: &Survey, id: &LayerId, on_disk: &OnDisk) -> Result<Option<Layer>, TxnError> {
    let Some(dir) = directory(&layout.overlay, id.as_str())? else { return Ok(None) };
    let created = dir.meta("link")?.map_or_else(SystemTime::now, |meta| moment(meta.mtime));
    if let Some(described) = survey.described.get(id) {
        let mut new = NewLayer::new(id.clone(), described.parent.clone(), created);
        if let Some(blob) = described.blobs.first() {
            new.compressed_diff_digest = Some(blob.digest.clone());
            new.compressed_size = blob.size;
            new.compression = compression(&blob.media_type);
        }
        new.diff_digest = Some(described.diff_id.clone());
        fill(&mut new, on_disk);
        return Ok(Some(new.build()?));
    }
    let parent = parent_of(layout, &dir)?;
    if let Some(digest) = &on_disk.digest {
        let mut new = NewLayer::new(id.clone(), parent, created);
        new.diff_digest = Some(digest.clone());
        fill(&mut new, on_disk);
        return Ok(Some(new.build()?));
    }
    let mine = |container: &crate::metadata::Container| container.layer().and_then(Loose::known) == Some(id);
    let contains = survey.others.as_ref().is_ok_and(|others| others.containers.iter().any(mine));
    Ok(if contains { Some(NewLayer::new(id.clone(), parent, created).build()?) } else { None })
}

fn fill(new: &mut NewLayer, on_disk: &OnDisk) {
    if let Some(split) = &on_disk.split {
        new.diff_size = i64::try_from(split.tar_bytes).unwrap_or(-1);
        new.uidset = split.uids.iter().copied().collect();
        new.gidset = split.gids.iter().copied().collect();
    }
}

fn compression(media_type: &str) -> Compression {
    match media_type {
        text if text.contains("gzip") => Compression::Gzip,
        text if text.contains("zstd") => Compression::Zstd,
        _ => Compression::None,
    }
}

fn moment((seconds, nanos): (i64, u32)) -> SystemTime {
    u64::try_from(seconds).ok().and_then(|s| UNIX_EPOCH.checked_add(Duration::new(s, nanos))).unwrap_or(UNIX_EPOCH)
}

/// The layer below, as the files around the contents name it.
fn parent_of(layout: &Layout, dir: &Dir) -> Result<Option<LayerId>, TxnError> {
    let first = |bytes: Option<Vec<u8>>| {
        let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
        text.split(':').next().map(str::to_owned).unwrap_or_default()
    };
    if let Ok(id) = first(document(dir, "lower-layers")?).parse() {
        return Ok(Some(id));
    }
    let lower = first(document(dir, "lower")?);
    let Some(link) = lower.strip_prefix("l/").and_then(|link| link.parse::<LinkId>().ok()) else { return Ok(None) };
    Ok(layout.links.read_link(link.as_str()).ok().and_then(|target| led_to(target.to_str()?)))
}
