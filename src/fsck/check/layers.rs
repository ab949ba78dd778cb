//! Each layer that has a record: its directory, and what stands around its contents.

use super::{Quick, around};
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::fsck::survey::{LinkState, directory, document};
use crate::fsio::{self, Dir, Kind};
use crate::ids::{LayerId, LinkId};
use crate::layout::split_name;
use crate::metadata::{Layer, Loose};
use crate::overlay::link_target;

/// The first characters of a text, for a finding.
fn short(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(300).collect()
}

impl Quick<'_> {
    pub(super) fn layers(&mut self) {
        let survey = self.survey;
        let mut seen = std::collections::HashSet::new();
        for record in survey.records() {
            let name = record.id_text().to_owned();
            let Some(id) = record.id() else {
                if self.wants(&name) {
                    self.push(bad(&name, "its id is none"));
                }
                continue;
            };
            if !seen.insert(id.clone()) {
                if self.wants(&name) {
                    self.push(bad(&name, "another record has the same id"));
                }
                continue;
            }
            self.object(&name, true, |quick| quick.layer(id, record));
        }
    }

    fn layer(&mut self, id: &LayerId, record: &Layer) -> fsio::Result<()> {
        if let Some(parent) = record.parent()
            && parent.known().is_none()
        {
            self.push(bad(id.as_str(), &format!("its parent {parent} is no layer id")));
            return Ok(());
        }
        if self.in_circles(record) {
            self.push(bad(id.as_str(), "its parents lead back to it"));
            return Ok(());
        }
        if record.incomplete() {
            let action = "read it whole, and say so if it is complete; else fetch it";
            self.push(
                Finding::new(Code::LayerIncomplete, Repair::Offline, Fix::Contents { id: id.clone() }, action)
                    .layer(id)
                    .at("overlay-layers/layers.json"),
            );
        } else {
            self.record_against_images(id, record);
        }
        if record.incomplete() {
            // What it lacks is part of that.
            return Ok(());
        }
        let path = format!("overlay/{id}");
        let needs_bytes = |code: Code, path: &str| contents(code, id, record).at(path);
        match self.layout.overlay.meta(id.as_str())? {
            None => {
                self.push(needs_bytes(Code::LayerDirectoryMissing, &path));
                return Ok(());
            }
            Some(meta) if meta.kind != Kind::Dir => {
                self.push(needs_bytes(Code::LayerDirectoryWrong, &path).seen(format!("{:?}", meta.kind)));
                return Ok(());
            }
            Some(_) => {}
        }
        let Some(dir) = directory(&self.layout.overlay, id.as_str())? else { return Ok(()) };
        let link = self.link(id, &dir)?;
        let whole = match dir.meta("diff")? {
            None => {
                self.push(needs_bytes(Code::LayerDiffMissing, &format!("{path}/diff")));
                false
            }
            Some(meta) if meta.kind != Kind::Dir && !self.is_elsewhere(&dir) => {
                self.push(needs_bytes(Code::LayerDiffWrong, &format!("{path}/diff")).seen(format!("{:?}", meta.kind)));
                false
            }
            Some(_) => true,
        };
        if let Some(link) = &link {
            self.lower(id, record, &dir, link)?;
        }
        if whole && record.diff_digest().is_some() {
            self.split(id, record)?;
        }
        Ok(())
    }

    /// A layer of an additional layer store: `diff` is a symlink out of the store, and whole.
    fn is_elsewhere(&self, dir: &Dir) -> bool {
        dir.read_link("diff").is_ok_and(|target| target.is_absolute()) && dir.meta("additionallayer").is_ok_and(|meta| meta.is_some())
    }

    fn in_circles(&self, record: &Layer) -> bool {
        let mut next = record.parent().and_then(Loose::known);
        for _ in 0..=crate::fsck::survey::CHAIN_MAX {
            let Some(id) = next else { return false };
            next = self.survey.record(id).and_then(|record| record.parent()).and_then(Loose::known);
        }
        true
    }

    /// What the configs of the images on a layer say of it.
    fn record_against_images(&mut self, id: &LayerId, record: &Layer) {
        let Some(described) = self.survey.described.get(id) else { return };
        let parent = described.parent.as_ref().map_or("", LayerId::as_str);
        let digest = record.diff_digest().map(ToString::to_string).unwrap_or_default();
        let wrong = |what: &str, expected: &str, seen: &str| {
            Finding::new(Code::LayerRecordWrong, Repair::Offline, Fix::Tables, format!("put {what} right"))
                .layer(id)
                .at("overlay-layers/layers.json")
                .expected(format!("{what} {expected}"))
                .seen(format!("{what} {seen}"))
        };
        if record.parent_text() != parent {
            self.push(wrong("parent", parent, record.parent_text()));
        } else if digest != described.diff_id.as_str() {
            self.push(wrong("diff-digest", described.diff_id.as_str(), &digest));
        }
    }

    /// `link` and its entry in `l/`. Returns the LINKID where the layers above and below may rely on it.
    fn link(&mut self, id: &LayerId, dir: &Dir) -> fsio::Result<Option<LinkId>> {
        let (state, link) = self.links.of(id)?;
        let path = format!("overlay/{id}/link");
        let Some(link) = link else {
            let link = LinkId::random().map_err(|source| fsio::Error { call: "getrandom", path: "/dev/urandom".into(), source })?;
            self.push(around(Code::LayerLinkLost, id, &link, "give it a new LINKID, and write it into all layers above").at(path));
            return Ok(None);
        };
        if !matches!(state, LinkState::Sound(_)) && !self.survey.leads.contains_key(id) {
            // Only a layer above still has it.
            let code = Code::LayerLinkLost;
            self.push(around(code, id, &link, "write it anew, as the layers above have it").at(path).expected(link.as_str()));
            return Ok(Some(link));
        }
        let recalled = |code: Code| around(code, id, &link, "write it anew").at(path.clone()).expected(link.as_str());
        match &state {
            LinkState::Sound(_) => {}
            LinkState::Missing => self.push(recalled(Code::LayerLinkMissing)),
            LinkState::Bad => {
                let seen = document(dir, "link")?.map_or_else(|| "no regular file".to_owned(), |bytes| format!("{:?}", short(&bytes)));
                self.push(recalled(Code::LayerLinkBad).seen(seen));
            }
            LinkState::Foreign(other) => self.push(recalled(Code::LayerLinkForeign).seen(other.as_str())),
        }
        if self.layout.links.path() == self.layout.overlay.path() {
            // All of `l/` is gone: one finding.
            return Ok(Some(link));
        }
        let entry = format!("overlay/l/{link}");
        let wanted = link_target(id).display().to_string();
        let of_entry = |code: Code| around(code, id, &link, "make it anew").at(entry.clone()).expected(wanted.clone());
        match self.layout.links.meta(link.as_str())? {
            None => self.push(of_entry(Code::LinksEntryMissing)),
            Some(meta) if meta.kind != Kind::Symlink => self.push(of_entry(Code::LinksEntryWrong).seen(format!("{:?}", meta.kind))),
            Some(_) => {
                let seen = self.layout.links.read_link(link.as_str())?;
                if seen != link_target(id) {
                    self.push(of_entry(Code::LinksEntryWrong).seen(seen.display().to_string()));
                }
            }
        }
        Ok(Some(link))
    }

    /// `lower`, `lower-layers`, and the directories that a mount needs.
    fn lower(&mut self, id: &LayerId, record: &Layer, dir: &Dir, link: &LinkId) -> fsio::Result<()> {
        let fix = |code: Code, name: &str| around(code, id, link, "write it anew").at(format!("overlay/{id}/{name}"));
        if record.parent().is_none() && dir.meta("empty")?.is_none() {
            self.push(around(Code::LayerEmptyMissing, id, link, "make it").at(format!("overlay/{id}/empty")));
        }
        // Where the chain leads out of this store, or is broken, nothing can be expected.
        let Some(below) = self.survey.below(record) else { return Ok(()) };
        let mut links = Vec::with_capacity(below.len());
        for parent in &below {
            match self.links.of(parent)?.1 {
                Some(link) => links.push(format!("l/{link}")),
                // That layer gets another one, and with it this file is written anew.
                None => return Ok(()),
            }
        }
        let (lower, ids) = (links.join(":"), below.iter().map(LayerId::as_str).collect::<Vec<_>>().join(":"));
        let there = |name: &str| -> fsio::Result<Option<Vec<u8>>> {
            Ok(if dir.meta(name)?.is_some() { Some(document(dir, name)?.unwrap_or_else(|| b"no regular file".to_vec())) } else { None })
        };
        match there("lower")? {
            None if lower.is_empty() => {}
            None => self.push(fix(Code::LayerLowerMissing, "lower").expected(short(lower.as_bytes()))),
            Some(seen) if !lower.is_empty() && seen == lower.as_bytes() => {}
            Some(seen) => self.push(fix(Code::LayerLowerWrong, "lower").expected(short(lower.as_bytes())).seen(short(&seen))),
        }
        // Programs before storage 1.63 write none.
        if let Some(seen) = there("lower-layers")?
            && (ids.is_empty() || seen != ids.as_bytes())
        {
            self.push(fix(Code::LayerLowerLayersWrong, "lower-layers").expected(short(ids.as_bytes())).seen(short(&seen)));
        }
        Ok(())
    }

    fn split(&mut self, id: &LayerId, record: &Layer) -> fsio::Result<()> {
        let name = split_name(id);
        let path = format!("overlay-layers/{name}");
        match self.layout.layers.meta(&name)? {
            None => self.push(contents(Code::LayerSplitMissing, id, record).at(path)),
            Some(meta) if meta.kind != Kind::File => {
                self.push(contents(Code::LayerSplitDamaged, id, record).at(path).seen(format!("{:?}", meta.kind)));
            }
            Some(meta) if meta.size == 0 => self.push(contents(Code::LayerSplitDamaged, id, record).at(path).seen("0 bytes")),
            Some(_) => {}
        }
        Ok(())
    }
}

/// A finding that needs the bytes of a layer.
fn contents(code: Code, id: &LayerId, record: &Layer) -> Finding {
    let fix = Fix::Contents { id: id.clone() };
    match record.diff_digest() {
        Some(_) => Finding::new(code, Repair::Refetch, fix, "fetch the layer").layer(id),
        // A container's: nobody else has it.
        None => Finding::report(Code::ContainerLayerMissing, "remove the container with podman").layer(id).seen(code.as_str()),
    }
}

fn bad(id: &str, why: &str) -> Finding {
    Finding::report(Code::LayerRecordBad, "remove the record by hand: it makes no sense")
        .layer(id)
        .at("overlay-layers/layers.json")
        .seen(why)
}
