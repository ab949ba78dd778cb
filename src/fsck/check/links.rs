//! The entries of `l/` that are no layer's.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use super::Quick;
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::fsck::run::links_missing;
use crate::fsck::survey::{LinkState, led_to};
use crate::fsio::{self, Kind};
use crate::ids::LinkId;
use crate::plan::Mend;

impl Quick<'_> {
    /// `l/` itself, and entries that no layer's `link` names. What a layer misses there is said of the layer.
    pub(super) fn link_entries(&mut self) -> fsio::Result<()> {
        if self.links_missing() {
            self.push(links_missing());
            return Ok(());
        }
        // Which entries are strangers is told by the layers' records.
        if self.survey.layers.is_err() || self.survey.others.is_err() {
            return Ok(());
        }
        let named = self.all_links()?;
        for (name, kind) in self.layout.links.entries()? {
            let Some(link) = name.to_str().and_then(|name| name.parse::<LinkId>().ok()) else { continue };
            let path = format!("overlay/l/{link}");
            if !self.wants(&path) {
                continue;
            }
            let target = match kind {
                Kind::Symlink => match self.layout.links.read_link(&name) {
                    Ok(target) => Some(target),
                    Err(error) if error.not_found() => continue,
                    Err(error) => return Err(error),
                },
                _ => None,
            };
            let bytes = target.as_ref().map(|target| target.as_os_str().as_bytes().to_vec());
            let drop = |code: Code, action: &str| {
                let seen = target.as_ref().map_or_else(|| format!("{kind:?}"), |target| target.display().to_string());
                Finding::new(code, Repair::Offline, Fix::Mend(Mend::DropLink { name: link.to_string(), target: bytes.clone() }), action)
                    .at(path.clone())
                    .seen(seen)
            };
            let owner = target.as_ref().and_then(|target| led_to(target.to_str()?));
            match owner {
                Some(owner) if self.survey.record(&owner).is_some() || self.held.layers.contains(&owner) => {
                    let (state, own) = self.links.of(&owner)?;
                    if matches!(state, LinkState::Sound(_)) && own.as_ref() != Some(&link) && !named.contains(&link) {
                        self.push(drop(Code::LinksEntryDuplicate, "remove it: the layer has another LINKID"));
                    }
                }
                // Of a layer that is lost, and comes back under the same LINKID.
                Some(owner) if self.wanted.contains_key(&owner) => {}
                // It goes with the directory that it leads to, which is looked at by itself.
                Some(owner) if self.layout.overlay.meta(owner.as_str())?.is_some() => {}
                _ if named.contains(&link) => {}
                _ => self.push(drop(Code::LinksEntryDangling, "remove it: it leads to no layer")),
            }
        }
        Ok(())
    }

    /// Whether `l/` is not there; its handle is then that of `overlay/`.
    fn links_missing(&self) -> bool {
        self.layout.links.path() == self.layout.overlay.path()
    }

    /// The LINKIDs of all layers, by their `link` or by what is recalled of it.
    fn all_links(&self) -> fsio::Result<HashSet<LinkId>> {
        self.survey
            .records()
            .filter_map(|record| record.id())
            .filter_map(|id| self.links.of(id).map(|(_, link)| link).transpose())
            .collect()
    }
}
