//! Pure: no I/O. registries.conf, version 2: what is special about a registry, and what short names mean.
//!
//! Honoured: `unqualified-search-registries`, `[aliases]`, and of each `[[registry]]` `prefix`, `location`, `insecure`
//! and `blocked`. Mirrors are told of and not used. A short name that could mean several registries is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::plain;
use crate::reference::{Reference, name_end};

/// What the files say together.
#[derive(Debug, Default)]
pub(super) struct Registries {
    /// By prefix.
    entries: BTreeMap<String, Entry>,
    aliases: BTreeMap<String, String>,
    /// With the file that says so.
    search: Option<(Vec<String>, PathBuf)>,
}

#[derive(Debug)]
struct Entry {
    raw: RawEntry,
    file: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<RawEntry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// The key of version 1.
    registries: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
struct RawEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Deserialize)]
struct Mirror {
    location: String,
}

/// Where an image is really fetched from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) reference: Reference,
    /// Whether its certificate need not be trusted.
    pub(super) insecure: bool,
}

impl Registries {
    /// Adds a file; it replaces entries with the same prefix, single aliases, and the search list as a whole.
    pub(super) fn merge(&mut self, file: &Path, bytes: &[u8]) -> Result<(), String> {
        let raw = read(bytes)?;
        for mut entry in raw.registry {
            let wildcard = entry.prefix.starts_with("*.");
            for text in [&mut entry.prefix, &mut entry.location] {
                *text = text.trim_end_matches('/').to_owned();
            }
            if entry.prefix.is_empty() {
                entry.prefix = entry.location.clone();
            }
            if entry.prefix.is_empty() || (entry.location.is_empty() && !wildcard) {
                return Err("has a [[registry]] without a location".into());
            }
            if wildcard && entry.prefix.contains(['/', ':', '@']) {
                return Err(format!("has the prefix {:?}; a wildcard stands for host names only", plain(&entry.prefix, 100)));
            }
            self.entries.insert(entry.prefix.clone(), Entry { raw: entry, file: file.to_owned() });
        }
        if let Some(list) = raw.unqualified_search_registries {
            self.search = Some((list, file.to_owned()));
        }
        self.add_aliases(raw.aliases);
        Ok(())
    }

    /// Adds short-name-aliases.conf, of which only the aliases count.
    pub(super) fn merge_aliases(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.add_aliases(read(bytes)?.aliases);
        Ok(())
    }

    fn add_aliases(&mut self, aliases: BTreeMap<String, String>) {
        for (name, target) in aliases {
            // An empty one takes back what an earlier file says.
            match target.is_empty() {
                true => drop(self.aliases.remove(&name)),
                false => drop(self.aliases.insert(name, target)),
            }
        }
    }

    /// What a name without a registry means, as the text of a full one; none if nothing is said about it.
    pub(super) fn expand(&self, text: &str) -> Result<Option<String>, String> {
        let (name, rest) = text.split_at_checked(name_end(text)).unwrap_or((text, ""));
        if let Some(target) = self.aliases.get(name) {
            return Ok(Some(format!("{target}{rest}")));
        }
        match self.search.as_ref().map(|(list, file)| (list.as_slice(), file)) {
            None => Ok(None),
            Some(([only], _)) => Ok(Some(format!("{only}/{text}"))),
            Some((list, file)) => {
                let list: Vec<String> = list.iter().take(20).map(|r| plain(r, 60)).collect();
                let said = if list.is_empty() { "no registry".to_owned() } else { list.join(", ") };
                Err(format!("{} names {said} for names without a registry; write the full name, REGISTRY/{text}", file.display()))
            }
        }
    }

    /// What a name without a registry may mean, the likeliest first, as the texts of full ones: an alias means one thing.
    pub(super) fn candidates(&self, text: &str) -> Vec<String> {
        let (name, rest) = text.split_at_checked(name_end(text)).unwrap_or((text, ""));
        match (self.aliases.get(name), &self.search) {
            (Some(target), _) => vec![format!("{target}{rest}")],
            (None, Some((list, _))) => list.iter().map(|registry| format!("{registry}/{text}")).collect(),
            (None, None) => vec![],
        }
    }

    /// Where to fetch an image from, unless its registry is blocked; the error says by which file.
    pub(super) fn endpoint(&self, reference: &Reference) -> Result<Endpoint, String> {
        let text = reference.to_string();
        let found = self.entries.values().filter_map(|e| Some((matching(&text, &e.raw.prefix)?, e)));
        let Some((end, entry)) = found.max_by_key(|(_, e)| e.raw.prefix.len()) else {
            return Ok(Endpoint { reference: reference.clone(), insecure: false });
        };
        let (raw, file) = (&entry.raw, entry.file.display());
        if raw.blocked {
            return Err(format!("{file} blocks {:?}", plain(&raw.prefix, 100)));
        }
        if let Some(mirror) = raw.mirror.first() {
            let mirror = plain(&mirror.location, 100);
            tracing::warn!(image = %reference, mirror, "mirrors are not used yet; the registry itself is asked");
        }
        let reference = match text.get(end..) {
            Some(rest) if !raw.location.is_empty() => {
                let moved = format!("{}{rest}", raw.location);
                let parsed = moved.parse::<Reference>().ok().filter(|r| r.to_string() == moved);
                parsed.ok_or_else(|| format!("{file} makes {:?} of it, which is not an image reference", plain(&moved, 200)))?
            }
            _ => reference.clone(),
        };
        Ok(Endpoint { reference, insecure: raw.insecure })
    }
}

fn read(bytes: &[u8]) -> Result<Raw, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    let raw: Raw = toml::from_str(text).map_err(|e| format!("cannot be understood: {}", plain(&e.to_string(), 300)))?;
    if raw.registries.is_some() {
        return Err("has [registries...] of version 1, which is not supported; write it as version 2, with [[registry]]".into());
    }
    Ok(raw)
}

/// Where the part of `text` ends that a prefix covers, as c/image matches them.
fn matching(text: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(parent) => {
            let at = text.find(parent)?;
            // Only the host may stand for the star.
            if text.get(..at)?.contains('/') {
                return None;
            }
            at + parent.len()
        }
        None if text.starts_with(prefix) => prefix.len(),
        None => return None,
    };
    let next = text.get(end..)?.chars().next();
    next.is_none_or(|c| matches!(c, ':' | '/' | '@')).then_some(end)
}

#[cfg(test)]
#[path = "registries_tests.rs"]
mod tests;
