//! What is needed and has no record, and what has none because nothing needs it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Quick;
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::fsck::survey::{directory, remembered};
use crate::fsio::{self, Kind};
use crate::history::History;
use crate::ids::{ImageId, LayerId};
use crate::layout::split_name;
use crate::metadata::Loose;
use crate::overlay::read_link_id;
use crate::plan::Mend;

const SPLIT: &str = ".tar-split.gz";

impl Quick<'_> {
    /// Layers without a record that a layer, an image or a container needs.
    pub(super) fn needed(&mut self) -> fsio::Result<()> {
        if self.survey.layers.is_err() || self.survey.others.is_err() {
            return Ok(());
        }
        let wanted = std::mem::take(&mut self.wanted);
        for (id, by) in &wanted {
            if self.survey.record(id).is_some() || self.survey.elsewhere.has_layer(id) || !self.wants(id.as_str()) {
                continue;
            }
            if let Some(store) = self.survey.elsewhere.hollow(id) {
                let action = "mend that store, or take it out of storage.conf";
                self.push(Finding::report(Code::AdditionalStoreBroken, action).layer(id).at(store.display().to_string()).seen(by.as_str()));
                continue;
            }
            let stands = directory(&self.layout.overlay, id.as_str())?.is_some();
            if !stands && !self.survey.elsewhere.broken.is_empty() {
                // It may lie in the store that cannot be read, of which enough is said.
                continue;
            }
            let described = self.survey.described.contains_key(id);
            let finding = match (stands, described) {
                (true, _) => {
                    Finding::new(Code::LayerRecordMissing, Repair::Offline, Fix::Tables, "make its record anew from what is on disk")
                }
                (false, true) => Finding::new(Code::LayerLost, Repair::Refetch, Fix::Contents { id: id.clone() }, "fetch the layer"),
                (false, false) => Finding::report(Code::LayerLost, "remove what needs it, and pull it again"),
            };
            self.push(finding.layer(id).at(format!("overlay/{id}")).seen(by.as_str()));
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Every layer that anything names, and what does.
    pub(super) fn wanted_layers(&self) -> BTreeMap<LayerId, String> {
        let survey = self.survey;
        let mut wanted = BTreeMap::new();
        for image in survey.images().iter() {
            let mut want = |id: &LayerId| {
                wanted.entry(id.clone()).or_insert_with(|| format!("image {}", image.id_text()));
            };
            if let Some(top) = image.layer().and_then(Loose::known) {
                want(top);
                // Of a layer that is lost the record tells no parent; the config does.
                if let Some(documents) = image.id().and_then(|id| survey.documents.get(id)).filter(|d| d.chain.last() == Some(top)) {
                    documents.chain.iter().for_each(want);
                }
            }
        }
        if survey.images.is_err() {
            for (id, documents) in &survey.documents {
                for layer in &documents.chain {
                    wanted.entry(layer.clone()).or_insert_with(|| format!("image {id}"));
                }
            }
        }
        for record in survey.records() {
            if let Some(parent) = record.parent().and_then(Loose::known) {
                wanted.entry(parent.clone()).or_insert_with(|| format!("layer {}", record.id_text()));
            }
        }
        if let Ok(others) = &survey.others {
            for container in others.containers.iter().chain(others.volatile_containers.iter()) {
                // One without a directory too is said to be the container's trouble.
                if let Some(layer) = container.layer().and_then(Loose::known)
                    && self.layout.overlay.meta(layer.as_str()).is_ok_and(|meta| meta.is_some())
                {
                    wanted.entry(layer.clone()).or_insert_with(|| format!("container {}", container.display_name()));
                }
            }
        }
        wanted
    }

    /// Directories and files under an id that nothing names.
    pub(super) fn orphans(&mut self) -> fsio::Result<()> {
        if self.survey.layers.is_ok() && self.survey.others.is_ok() {
            self.orphan_layers()?;
        }
        if self.survey.images.is_ok() {
            self.orphan_images()?;
        }
        Ok(())
    }

    fn orphan_layers(&mut self) -> fsio::Result<()> {
        let wanted: HashSet<LayerId> = self.wanted.keys().cloned().chain(self.restorable_layers()).collect();
        let mut done = BTreeSet::new();
        for (name, _) in self.layout.overlay.entries()? {
            let Some(id) = name.to_str().and_then(|name| name.parse::<LayerId>().ok()) else { continue };
            if !self.is_stranger(&id) || wanted.contains(&id) || !done.insert(id.clone()) || !self.wants(id.as_str()) {
                continue;
            }
            let dir = directory(&self.layout.overlay, id.as_str())?;
            let link = match &dir {
                Some(dir) => read_link_id(dir).unwrap_or_default(),
                None => None,
            };
            let bytes = dir.as_ref().map_or(0, super::super::size::of_tree);
            let fix = Fix::Mend(Mend::BuryLayer { id: id.clone(), link });
            let action = "remove it: nothing needs it";
            self.push(Finding::new(Code::OrphanLayer, Repair::Offline, fix, action).layer(&id).at(format!("overlay/{id}")).bytes(bytes));
        }
        for (name, kind) in self.layout.layers.entries()? {
            let Some(text) = name.to_str() else { continue };
            let (id, code) = match text.strip_suffix(SPLIT) {
                Some(id) => (id, Code::OrphanSplit),
                None if kind == Kind::Dir => (text, Code::OrphanLayerData),
                None => continue,
            };
            let Ok(id) = id.parse::<LayerId>() else { continue };
            let on_disk = self.layout.overlay.meta(id.as_str())?.is_some();
            if !self.is_stranger(&id) || on_disk || wanted.contains(&id) || !self.wants(id.as_str()) {
                continue;
            }
            let bytes = self.layout.layers.meta(split_name(&id))?.map_or(0, |meta| meta.size);
            let fix = Fix::Mend(Mend::BuryLayer { id: id.clone(), link: None });
            let action = "remove it: its layer is gone";
            self.push(Finding::new(code, Repair::Offline, fix, action).layer(&id).at(format!("overlay-layers/{text}")).bytes(bytes));
        }
        Ok(())
    }

    /// The layers of images that get their records back.
    fn restorable_layers(&self) -> Vec<LayerId> {
        let lost = self.survey.documents.iter().filter(|(id, _)| self.survey.images().get(id).is_none() && self.is_whole(id));
        lost.flat_map(|(_, documents)| documents.chain.clone()).collect()
    }

    /// Whether all that made an image is still there, but for its record.
    fn is_whole(&self, id: &ImageId) -> bool {
        let Some(documents) = self.survey.documents.get(id) else { return false };
        let has_manifest = directory(&self.layout.images, id.as_str()).is_ok_and(|dir| {
            dir.is_some_and(|dir| {
                dir.names().is_ok_and(|names| {
                    names
                        .iter()
                        .any(|name| name.to_str().and_then(crate::metadata::big_data_key).is_some_and(|key| key.starts_with("manifest")))
                })
            })
        });
        // One layer that is there is enough: programs remove an image's documents before its layers.
        has_manifest && (documents.chain.is_empty() || documents.chain.iter().any(|layer| self.stands(layer)))
    }

    fn stands(&self, layer: &LayerId) -> bool {
        self.survey.record(layer).is_some() || directory(&self.layout.overlay, layer.as_str()).is_ok_and(|dir| dir.is_some())
    }

    /// The history, read when it is first wanted.
    fn history(&self) -> fsio::Result<Option<&History>> {
        if self.history.get().is_none() {
            let read = self.layout.history()?;
            self.history.get_or_init(|| read);
        }
        Ok(self.history.get())
    }

    /// Whether the history knows an image whose config is lost, and whose top layer is there.
    fn is_remembered(&self, id: &ImageId) -> fsio::Result<bool> {
        if self.survey.documents.contains_key(id) {
            return Ok(false);
        }
        let image = self.history()?.and_then(|history| remembered(history, id));
        Ok(image.and_then(|image| image.layer().and_then(Loose::known).cloned()).is_some_and(|top| self.stands(&top)))
    }

    fn orphan_images(&mut self) -> fsio::Result<()> {
        for (name, kind) in self.layout.images.entries()? {
            let Some(id) = name.to_str().and_then(|name| name.parse::<ImageId>().ok()) else { continue };
            let known = self.survey.images().get(&id).is_some() || self.held.images.contains(&id);
            if known || !self.wants(id.as_str()) {
                continue;
            }
            let path = format!("overlay-images/{id}");
            let finding = if kind == Kind::Dir && (self.is_whole(&id) || self.is_remembered(&id)?) {
                Finding::new(Code::ImageRecordMissing, Repair::Offline, Fix::Tables, "make its record anew from what is on disk")
            } else {
                let bytes = directory(&self.layout.images, id.as_str())?.as_ref().map_or(0, super::super::size::of_tree);
                let action = "remove it: it is no image any more";
                Finding::new(Code::OrphanImageData, Repair::Offline, Fix::Mend(Mend::BuryImage { id: id.clone() }), action).bytes(bytes)
            };
            self.push(finding.image(&id).at(path));
        }
        Ok(())
    }

    /// Complete layers that nothing needs: no damage, `prune` removes them.
    pub(super) fn unneeded(&mut self) {
        let survey = self.survey;
        if survey.layers.is_err() || survey.images.is_err() || survey.others.is_err() {
            return;
        }
        let mut needed: HashSet<String> = HashSet::new();
        let mut next: Vec<String> = self.restorable_layers().iter().map(ToString::to_string).collect();
        // What a record has lost its config still tells.
        let recorded = survey.documents.iter().filter(|(id, _)| survey.images().get(id).is_some());
        next.extend(recorded.flat_map(|(_, documents)| documents.chain.iter().map(ToString::to_string)));
        for image in survey.images().iter() {
            next.extend(image.layer().map(ToString::to_string));
            next.extend(image.mapped_layers().iter().map(ToString::to_string));
        }
        if let Ok(others) = &survey.others {
            for container in others.containers.iter().chain(others.volatile_containers.iter()) {
                next.extend(container.layer().map(ToString::to_string));
            }
            next.extend(others.mounts.iter().map(|mount| mount.id().to_string()));
        }
        while let Some(id) = next.pop() {
            if needed.insert(id.clone())
                && let Some(record) = id.parse::<LayerId>().ok().and_then(|id| survey.record(&id))
            {
                next.extend(record.parent().map(ToString::to_string));
            }
        }
        for record in survey.layers().iter().filter(|record| !needed.contains(record.id_text()) && !record.incomplete()) {
            if self.wants(record.id_text()) && record.id().is_some_and(|id| !self.held.layers.contains(id)) {
                self.push(
                    Finding::new(Code::LayerUnneeded, Repair::None, Fix::None, "`cstor-rs prune` removes it")
                        .layer(record.id_text())
                        .bytes(u64::try_from(record.diff_size()).unwrap_or(0)),
                );
            }
        }
    }
}
