//! What is mounted, by the kernel's own word.
//!
//! mountpoints.json counts the mounts of one store's users. A store that others read as an additional one is mounted by
//! them too, and only the kernel knows: the layers are in the options of those overlays, by their LINKID or their path.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;

use super::Layout;
use crate::fsio;
use crate::ids::{LayerId, LinkId};

/// Where these layers are mounted: a mount below `overlay/<id>`, or an overlay that has the layer in its options. Every
/// mount namespace is asked that can be seen.
///
/// # Errors
///
/// An unreadable `/proc/self/mountinfo`; what is unreadable of other processes is passed over.
pub fn mounted(layout: &Layout, layers: &[LayerId], links: &[(LayerId, LinkId)]) -> fsio::Result<HashMap<LayerId, String>> {
    if layers.is_empty() {
        return Ok(HashMap::new());
    }
    let mut tokens: HashMap<&str, &LayerId> = layers.iter().map(|id| (id.as_str(), id)).collect();
    tokens.extend(links.iter().map(|(id, link)| (link.as_str(), id)));
    let overlay = escaped(&layout.overlay.path().display().to_string());
    let mut found = HashMap::new();
    let own = "/proc/self/mountinfo";
    scan(
        &fs_err::read_to_string(own).map_err(|source| fsio::Error { call: "read", path: own.into(), source })?,
        &overlay,
        &tokens,
        &mut found,
    );
    for path in other_namespaces() {
        if let Ok(text) = fs_err::read_to_string(&path) {
            scan(&text, &overlay, &tokens, &mut found);
        }
    }
    Ok(found)
}

/// One `mountinfo` for each mount namespace but our own.
fn other_namespaces() -> Vec<String> {
    let namespace = |process: &str| fs_err::metadata(format!("/proc/{process}/ns/mnt")).map(|meta| (meta.dev(), meta.ino())).ok();
    let own = namespace("self");
    let mut seen = BTreeMap::new();
    for process in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        if let Some(namespace) = namespace(pid).filter(|namespace| Some(*namespace) != own) {
            seen.entry(namespace).or_insert_with(|| format!("/proc/{pid}/mountinfo"));
        }
    }
    seen.into_values().collect()
}

/// A path as the kernel writes it in mountinfo.
fn escaped(path: &str) -> String {
    [('\\', "\\134"), (' ', "\\040"), ('\t', "\\011"), ('\n', "\\012")]
        .into_iter()
        .fold(path.to_owned(), |path, (char, code)| path.replace(char, code))
}

fn scan(text: &str, overlay: &str, tokens: &HashMap<&str, &LayerId>, found: &mut HashMap<LayerId, String>) {
    for line in text.lines() {
        let Some(point) = line.split(' ').nth(4) else { continue };
        let member = point.strip_prefix(overlay).and_then(|rest| rest.split('/').nth(1)).filter(|_| point != overlay);
        let options = line.split_once(" - overlay ").map_or("", |(_, rest)| rest);
        for token in member.into_iter().chain(options.split(|c: char| !c.is_ascii_alphanumeric())) {
            if let Some(id) = tokens.get(token) {
                found.entry((*id).clone()).or_insert_with(|| point.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_layer_and_overlays_that_name_it_are_found() {
        let id = |c: &str| c.repeat(64).parse::<LayerId>().unwrap();
        let link: LinkId = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".parse().unwrap();
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let tokens = HashMap::from([(a.as_str(), &a), (b.as_str(), &b), (c.as_str(), &c), (link.as_str(), &b)]);
        let text = format!(
            "1 2 0:1 / /s/overlay rw - ext4 /dev/x rw\n\
             3 2 0:1 / /s/overlay/{a}/merged rw shared:1 - overlay overlay rw,lowerdir=l/X\n\
             4 2 0:2 / /other/merged rw - overlay overlay ro,lowerdir+=/s/overlay/l/{link}:l/Y,upperdir=/z\n\
             5 2 0:2 / /tmp/{c} rw - tmpfs tmpfs rw\nnonsense\n"
        );
        let mut found = HashMap::new();
        scan(&text, "/s/overlay", &tokens, &mut found);
        assert_eq!(found, HashMap::from([(a.clone(), format!("/s/overlay/{a}/merged")), (b.clone(), "/other/merged".to_owned())]));
    }
}
