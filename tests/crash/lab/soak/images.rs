//! The images of a soak: each has an owner, and most of their layers are shared.

use std::path::Path;

use cstor_rs::ids::Digest;

use super::model::tag;
use super::schedule::{IMAGES, THEIRS, WRITERS};
use crate::fixture::{self, Image, Layer};
use crate::image::{Layout, above, every_kind};

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
    let lowest: Layer = if rustix::process::geteuid().is_root() { every_kind(base as u64) } else { fixture::app(&format!("base{base}")) };
    let mut layers = vec![lowest];
    if number % 4 > 1 {
        layers.push(above(&format!("middle{base}")));
    }
    layers.push(above(name));
    fixture::image(name, layers)
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
