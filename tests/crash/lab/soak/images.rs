//! The images of a soak: each has an owner, and most of their layers are shared.

use std::path::Path;

use cstor_rs::ids::Digest;

use super::model::tag;
use super::schedule::{IMAGES, THEIRS, WRITERS};
use crate::fixture::{self, Image, Layer, from_tar};
use crate::image::{Layout, above, every_kind, noise};

/// The images, and where they are pulled from.
pub struct Images {
    layout: Layout,
    /// The id of each image of ours.
    pub ids: Vec<String>,
    theirs: Vec<Layout>,
}

/// Two bases, one middle on each: half of the images stand on the base, half on the middle.
fn image(name: &str, number: usize) -> Image {
    let base = number % 2;
    // Who is not root owns all of it: nobody else may give files away.
    let root = rustix::process::geteuid().is_root();
    let upper = if root { above } else { own };
    let mut layers = vec![if root { every_kind(base as u64) } else { own(&format!("base{base}")) }];
    if number % 4 > 1 {
        layers.push(upper(&format!("middle{base}")));
    }
    layers.push(upper(name));
    fixture::image(name, layers)
}

/// A layer of files of whoever runs this.
fn own(tag: &str) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, mode, bytes) in [
        (tar::EntryType::Directory, "app".to_owned(), 0o755, Vec::new()),
        (tar::EntryType::Regular, format!("app/{tag}"), 0o644, noise(tag.bytes().map(u64::from).sum(), 9_000)),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    from_tar(tar.into_inner().unwrap())
}

impl Images {
    pub fn made(top: &Path) -> Self {
        let ours: Vec<Image> = (0..WRITERS * IMAGES).map(|number| image(&tag(number), number)).collect();
        let ids = ours.iter().map(|image| Digest::of(&image.config).hex().to_owned()).collect();
        // podman makes the name of the directory.
        let theirs = (0..THEIRS).map(|number| {
            let name = format!("theirs{number}");
            Layout::of(top.join(&name), &[image(&name, number)])
        });
        Self { layout: Layout::of(top.join("ours"), &ours), ids, theirs: theirs.collect() }
    }

    pub fn ours(&self, image: usize) -> String {
        self.layout.reference(&tag(image))
    }

    pub fn theirs(&self, image: usize) -> String {
        self.theirs[image].reference(&format!("theirs{image}"))
    }

    /// What podman calls its image.
    pub fn their_name(&self, image: usize) -> String {
        format!("localhost{}:latest", self.theirs[image].0.display())
    }

    /// Which image of ours has this id.
    pub fn number(&self, id: &str) -> Option<usize> {
        self.ids.iter().position(|one| one == id)
    }
}
