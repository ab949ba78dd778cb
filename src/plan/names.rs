//! Pure: no I/O. The names that images get and lose by a plan.

use std::collections::BTreeSet;

use super::ImageChange;
use crate::ids::ImageId;
use crate::metadata::{Image, Images};

/// The names that one image gets and loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The image.
    pub image: ImageId,
    /// The names it has then and had not.
    pub got: Vec<String>,
    /// The names it had and has no more.
    pub lost: Vec<String>,
}

/// The images whose names differ between two tables, of those that these changes touch or take names from.
pub fn renamed(before: &Images, after: &Images, changes: &[ImageChange]) -> Vec<Renamed> {
    let mut touched: BTreeSet<&ImageId> = BTreeSet::new();
    for change in changes {
        touched.insert(change.id());
        touched.extend(change.claims().iter().filter_map(|claim| claim.from.as_ref()));
    }
    let names = |images: &Images, id: &ImageId| images.get(id).map(Image::names).unwrap_or_default().to_vec();
    let mut list = Vec::new();
    for id in touched {
        let (had, has) = (names(before, id), names(after, id));
        let (old, new): (BTreeSet<&String>, BTreeSet<&String>) = (had.iter().collect(), has.iter().collect());
        let got: Vec<String> = has.iter().filter(|name| !old.contains(name)).cloned().collect();
        let lost: Vec<String> = had.iter().filter(|name| !new.contains(name)).cloned().collect();
        if !(got.is_empty() && lost.is_empty()) {
            list.push(Renamed { image: id.clone(), got, lost });
        }
    }
    list
}
