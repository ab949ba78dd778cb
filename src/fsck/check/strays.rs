//! What other programs left in places for temporary things.

use super::Quick;
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::fsck::survey::directory;
use crate::fsio::{self, Dir, Kind, optional};
use crate::ids::ImageId;
use crate::layout::{TEMPDIRS, parse_marker};
use crate::plan::{Mend, STAGING_LOCK, StrayPlace, temp_lock};

impl Quick<'_> {
    pub(super) fn strays(&mut self) -> fsio::Result<()> {
        for (place, dir) in [(StrayPlace::Layers, self.layout.layers.clone()), (StrayPlace::Images, self.layout.images.clone())] {
            self.temp_files(&place, &dir)?;
        }
        for (name, kind) in self.layout.images.entries()? {
            if kind == Kind::Dir
                && let Some(id) = name.to_str().and_then(|name| name.parse::<ImageId>().ok())
                && self.survey.images().get(&id).is_some()
                && let Some(dir) = directory(&self.layout.images, id.as_str())?
            {
                self.temp_files(&StrayPlace::Image(id), &dir)?;
            }
        }
        let tempdirs = directory(&self.layout.overlay, TEMPDIRS)?;
        let beside = directory(&self.layout.layers, "tmp")?;
        for (place, dir) in [(StrayPlace::Tempdirs, tempdirs), (StrayPlace::LayerTempdirs, beside)] {
            if let Some(dir) = dir {
                self.temp_dirs(&place, &dir)?;
            }
        }
        if let Some(staging) = directory(&self.layout.overlay, "staging")? {
            self.staging(&staging)?;
        }
        Ok(())
    }

    /// Files of Go's atomic writer: they live under the lock of their table.
    fn temp_files(&mut self, place: &StrayPlace, dir: &Dir) -> fsio::Result<()> {
        for (name, kind) in dir.entries()? {
            let Some(text) = name.to_str() else { continue };
            if kind == Kind::File && is_go_temp(text) {
                self.stray(Code::OrphanTempFile, place, text, dir.meta(text)?.map(|meta| meta.size));
            }
        }
        Ok(())
    }

    fn temp_dirs(&mut self, place: &StrayPlace, dir: &Dir) -> fsio::Result<()> {
        for (name, kind) in dir.entries()? {
            let Some(text) = name.to_str() else { continue };
            // A lock without its directory is looked at as the directory it belongs to.
            let name = match text.strip_prefix("lock-") {
                Some(rest) if kind == Kind::File && dir.meta(format!("temp-dir-{rest}"))?.is_none() => format!("temp-dir-{rest}"),
                Some(_) => continue,
                None => text.to_owned(),
            };
            // Ours are the journal's.
            let Some(lock) = temp_lock(&name).filter(|lock| is_gos(lock)) else { continue };
            if is_held(dir, &lock)? {
                continue;
            }
            self.stray(Code::OrphanTempdir, place, &name, None);
        }
        Ok(())
    }

    fn staging(&mut self, staging: &Dir) -> fsio::Result<()> {
        for (name, kind) in staging.entries()? {
            let Some(text) = name.to_str().filter(|_| kind == Kind::Dir) else { continue };
            let Some(dir) = directory(staging, text)? else { continue };
            // Without a lock nobody can tell whether its owner lives: older programs make none.
            if dir.meta(STAGING_LOCK)?.is_some_and(|meta| meta.kind == Kind::File) && !is_held(&dir, STAGING_LOCK)? {
                self.stray(Code::OrphanTempdir, &StrayPlace::Staging, text, None);
            }
        }
        Ok(())
    }

    fn stray(&mut self, code: Code, place: &StrayPlace, name: &str, bytes: Option<u64>) {
        let path = format!("{}/{name}", place.path());
        if self.wants(&path) {
            let fix = Fix::Mend(Mend::Stray { place: place.clone(), name: name.to_owned() });
            let mut finding = Finding::new(code, Repair::Offline, fix, "remove it: whoever made it is gone").at(path);
            finding.bytes = bytes;
            self.push(finding);
        }
    }
}

/// `.tmp-<name><digits>`, as Go's atomic writer calls its files.
fn is_go_temp(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(".tmp-") else { return false };
    let stem = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    // A transaction's own tables end in its id, which may end in digits.
    !stem.is_empty() && stem.len() < rest.len() && parse_marker(name).is_none()
}

/// `lock-<digits>`: ours have a transaction in between.
fn is_gos(lock: &str) -> bool {
    lock.strip_prefix("lock-").is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_held(dir: &Dir, lock: &str) -> fsio::Result<bool> {
    match dir.meta(lock)? {
        Some(meta) if meta.kind == Kind::File => match optional(dir.file_rw(lock))? {
            Some(file) => Ok(file.lock_owner()?.is_some()),
            None => Ok(false),
        },
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gos_own_temporary_names_are_strays() {
        for name in [".tmp-layers.json123", ".tmp-images.json1", ".tmp-manifest77", ".tmp-=c2hhMjU2OjBi9"] {
            assert!(is_go_temp(name), "{name}");
        }
        let txn = "a1".repeat(16);
        for name in [".tmp-layers.json", "layers.json1", ".tmp-1", &format!(".tmp-layers.json.{txn}"), &format!(".tmp-layers.json.{txn}.2")]
        {
            assert!(!is_go_temp(name), "{name}");
        }
        assert!(is_gos("lock-123") && !is_gos("lock-") && !is_gos(&format!("lock-{txn}-1")));
    }
}
