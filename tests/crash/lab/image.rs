//! The images that the real command pulls here: layouts on disk, made on the spot, with every kind of entry.

use std::path::{Path, PathBuf};

use cstor_rs::ids::Digest;
use serde_json::{Value, json};

use crate::fixture::{Image, Layer, from_tar, image};

/// Writes images into one OCI layout, each under its name as tag.
pub fn layout(dir: &Path, images: &[Image]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    };
    let mut manifests = Vec::new();
    for image in images {
        image.layers.iter().for_each(|layer| drop(put(&layer.blob)));
        put(&image.config);
        let mut entry = put(&image.manifest);
        entry["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": image.name});
        manifests.push(entry);
    }
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index: Value = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

/// A layout in this directory, and what the command calls an image of it.
#[derive(Debug, Clone)]
pub struct Layout(pub PathBuf);

impl Layout {
    pub fn of(dir: PathBuf, images: &[Image]) -> Self {
        layout(&dir, images);
        Self(dir)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("oci:{}:{name}", self.0.display())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size as u64);
    header
}

/// Bytes that neither compress away nor repeat.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

/// A layer with every kind of entry: directories, files of many sizes, one name of a file more, links, a fifo, devices, attributes,
/// owners, set-id and sticky bits, a long name.
pub fn every_kind(seed: u64) -> Layer {
    use tar::EntryType as Kind;
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode) in [("etc", 0o755), ("bin", 0o755), ("tmp", 0o1777), ("dev", 0o755), ("data", 0o750)] {
        tar.append_data(&mut header(Kind::Directory, mode, 0), path, std::io::empty()).unwrap();
    }
    for (index, size) in [0, 1, 511, 512, 513, 4095, 4096, 4097, 20_000, 150_000].into_iter().enumerate() {
        let bytes = noise(seed + index as u64, size);
        tar.append_data(&mut header(Kind::Regular, 0o644, size), format!("data/{size}"), bytes.as_slice()).unwrap();
    }
    for index in 0..24 {
        let bytes = noise(seed + 100 + index, 300 + index as usize * 40);
        tar.append_data(&mut header(Kind::Regular, 0o644, bytes.len()), format!("etc/{index}.conf"), bytes.as_slice()).unwrap();
    }
    let mut owned = header(Kind::Regular, 0o4755, 3000);
    owned.set_uid(7);
    owned.set_gid(11);
    let attributes = [("SCHILY.xattr.user.note", b"kept".as_slice()), ("SCHILY.xattr.security.capability", CAPABILITY)];
    tar.append_pax_extensions(attributes).unwrap();
    tar.append_data(&mut owned, "bin/tool", noise(seed + 50, 3000).as_slice()).unwrap();
    tar.append_link(&mut header(Kind::Link, 0o755, 0), "bin/same", "bin/tool").unwrap();
    tar.append_link(&mut header(Kind::Symlink, 0o777, 0), "bin/sh", "tool").unwrap();
    tar.append_data(&mut header(Kind::Fifo, 0o600, 0), "dev/pipe", std::io::empty()).unwrap();
    for (kind, path, major, minor) in [(Kind::Char, "dev/null", 1, 3), (Kind::Block, "dev/disk", 7, 250)] {
        let mut device = header(kind, 0o600, 0);
        device.set_device_major(major).unwrap();
        device.set_device_minor(minor).unwrap();
        tar.append_data(&mut device, path, std::io::empty()).unwrap();
    }
    let long = format!("data/{}", "long".repeat(45));
    tar.append_data(&mut header(Kind::Regular, 0o600, 5), long, b"long\n".as_slice()).unwrap();
    from_tar(tar.into_inner().unwrap())
}

/// `cap_net_raw=ep`, as the kernel keeps it.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A small layer over it that adds, hides and replaces.
pub fn above(tag: &str) -> Layer {
    use tar::EntryType as Kind;
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header(Kind::Directory, 0o755, 0), "app", std::io::empty()).unwrap();
    let bytes = noise(tag.bytes().map(u64::from).sum(), 9_000);
    tar.append_data(&mut header(Kind::Regular, 0o755, bytes.len()), format!("app/{tag}"), bytes.as_slice()).unwrap();
    tar.append_data(&mut header(Kind::Regular, 0o644, 0), "etc/.wh.1.conf", std::io::empty()).unwrap();
    tar.append_data(&mut header(Kind::Directory, 0o755, 0), "data", std::io::empty()).unwrap();
    tar.append_data(&mut header(Kind::Regular, 0o644, 0), "data/.wh..wh..opq", std::io::empty()).unwrap();
    tar.append_data(&mut header(Kind::Regular, 0o644, tag.len()), "data/own", tag.as_bytes()).unwrap();
    from_tar(tar.into_inner().unwrap())
}

/// An image of the layer of every kind and one above it.
pub fn two_layers(name: &str, seed: u64) -> Image {
    image(name, vec![every_kind(seed), above(name)])
}
