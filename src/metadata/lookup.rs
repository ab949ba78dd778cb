//! Pure: no I/O. Finding the image that somebody means (spec section 9).

use std::collections::BTreeSet;

use super::error::shorten;
use super::image::Image;
use super::images::Images;
use crate::ids::{Digest, ImageId};

/// How an image is called. What it means is decided when a plan is made, under the locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// By its id.
    Id(ImageId),
    /// By a name, normalised (`host/path:tag` or `host/path@sha256:...`): that very name.
    Name(String),
    /// As a person writes it: in podman's order an id, one of `names`, the beginning of an id, the end of a name.
    Typed {
        /// The text.
        text: String,
        /// The normalised names that the text may stand for, the likeliest first.
        names: Vec<String>,
    },
}

impl From<ImageId> for ImageRef {
    fn from(id: ImageId) -> Self {
        Self::Id(id)
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id.as_str()),
            Self::Name(text) | Self::Typed { text, .. } => f.write_str(&shorten(text)),
        }
    }
}

/// An image that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundImage {
    /// Its id.
    pub id: ImageId,
    /// The name it was found by; `None` where it was found by its id or a digest.
    pub name: Option<String>,
}

/// Why no image was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// There is none.
    #[error("image {text} is not known; `images` lists those there are")]
    Unknown {
        /// What was looked for.
        text: String,
    },
    /// There are several.
    #[error("image {text} may be any of {}; name one of them", ids.join(", "))]
    Ambiguous {
        /// What was looked for.
        text: String,
        /// The first few that it may be.
        ids: Vec<String>,
    },
    /// Its record has an id that addresses nothing.
    #[error("the image called {text} has the id {id:?}, which is none; run fsck")]
    ForeignId {
        /// What was looked for.
        text: String,
        /// The text in the place of the id.
        id: String,
    },
}

impl Images {
    /// Finds an image.
    ///
    /// # Errors
    ///
    /// See [`LookupError`].
    pub fn find(&self, wanted: &ImageRef) -> Result<FoundImage, LookupError> {
        let text = || wanted.to_string();
        let found = match wanted {
            ImageRef::Id(id) => self.get(id).map(|image| (image, None)),
            ImageRef::Name(name) => self.named(name),
            ImageRef::Typed { text: typed, names } => {
                let bare = typed.strip_prefix("sha256:").unwrap_or(typed);
                let by_id = bare.parse::<ImageId>().ok().and_then(|id| self.get(&id)).map(|image| (image, None));
                match by_id.or_else(|| names.iter().find_map(|name| self.named(name))).or_else(|| self.named(typed)) {
                    Some(found) => Some(found),
                    None => self.loosely(typed)?,
                }
            }
        };
        let (image, name) = found.ok_or_else(|| LookupError::Unknown { text: text() })?;
        match image.id() {
            Some(id) => Ok(FoundImage { id: id.clone(), name }),
            None => Err(LookupError::ForeignId { text: text(), id: shorten(image.id_text()) }),
        }
    }

    /// By this name, or by a digest of an image that has a name in the same repository.
    fn named(&self, name: &str) -> Option<(&Image, Option<String>)> {
        if let Some(image) = self.by_name(name) {
            return Some((image, Some(name.to_owned())));
        }
        let (repository, digest) = name.split_once('@')?;
        let digest: Digest = digest.parse().ok()?;
        let same = |image: &&Image| image.names().iter().any(|name| repository_of(name) == repository);
        self.by_digest(&digest).find(same).map(|image| (image, None))
    }

    /// By the beginning of an id, else by the end of a name.
    fn loosely(&self, typed: &str) -> Result<Option<(&Image, Option<String>)>, LookupError> {
        let hex = !typed.is_empty() && typed.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex {
            let found: Vec<&Image> = self.iter().filter(|image| image.id_text().starts_with(typed)).collect();
            if let Some(first) = one(typed, &found)? {
                return Ok(Some((first, None)));
            }
        }
        let tagged = if typed.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
            typed.to_owned()
        } else {
            format!("{typed}:latest")
        };
        let end = format!("/{tagged}");
        let names = self.iter().flat_map(|image| image.names().iter().map(move |name| (name, image)));
        // A name that a later record has too is that one's.
        let ours = |(name, image): &(&String, &Image)| {
            name.ends_with(&end) && self.by_name(name).is_some_and(|holder| holder.id_text() == image.id_text())
        };
        let found: Vec<(&String, &Image)> = names.filter(ours).collect();
        let images: Vec<&Image> = found.iter().map(|(_, image)| *image).collect();
        Ok(one(typed, &images)?
            .and_then(|image| Some((image, found.first().map(|(name, _)| (*name).clone())?)))
            .map(|(image, name)| (image, Some(name))))
    }
}

/// The one image among these, if they are one.
fn one<'a>(text: &str, found: &[&'a Image]) -> Result<Option<&'a Image>, LookupError> {
    let ids: BTreeSet<&str> = found.iter().map(|image| image.id_text()).collect();
    match ids.len() {
        0 | 1 => Ok(found.first().copied()),
        _ => Err(LookupError::Ambiguous { text: shorten(text), ids: ids.into_iter().take(5).map(shorten).collect() }),
    }
}

/// A name without tag and digest.
fn repository_of(name: &str) -> &str {
    let bare = name.split_once('@').map_or(name, |(bare, _)| bare);
    match bare.rfind(':') {
        Some(colon) if !bare.get(colon..).unwrap_or_default().contains('/') => bare.get(..colon).unwrap_or(bare),
        _ => bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        let id = |c: &str| c.repeat(64);
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let records = [
            serde_json::json!({"id": id("a"), "names": ["docker.io/library/app:1", "localhost/app:latest"], "digest": digest("d")}),
            serde_json::json!({"id": format!("ab{}", "0".repeat(62)), "names": ["quay.io/x/tool:latest"]}),
            serde_json::json!({"id": "nonsense", "names": ["quay.io/x/odd:1"]}),
            serde_json::json!({"id": id("c"), "names": ["quay.io/y/tool:latest"]}),
        ];
        Images::parse(&serde_json::to_vec(&records).unwrap()).unwrap()
    }

    fn typed(text: &str, names: &[&str]) -> ImageRef {
        ImageRef::Typed { text: text.to_owned(), names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn images_are_found_as_podman_finds_them() {
        let images = images();
        let a = "a".repeat(64);
        let by_digest = format!("docker.io/library/app@sha256:{}", "d".repeat(64));
        let elsewhere = format!("docker.io/library/other@sha256:{}", "d".repeat(64));
        type Found<'a> = Result<(&'a str, Option<&'a str>), &'a str>;
        let table: &[(ImageRef, Found<'_>)] = &[
            (ImageRef::Id(a.parse().unwrap()), Ok(("aaaa", None))),
            (ImageRef::Name("localhost/app:latest".into()), Ok(("aaaa", Some("localhost/app:latest")))),
            (ImageRef::Name("app".into()), Err("image app is not known")),
            (ImageRef::Name(by_digest.clone()), Ok(("aaaa", None))),
            (ImageRef::Name(elsewhere), Err("is not known")),
            (typed(&a, &[]), Ok(("aaaa", None))),
            (typed(&format!("sha256:{a}"), &[]), Ok(("aaaa", None))),
            (typed("app", &["localhost/app:latest"]), Ok(("aaaa", Some("localhost/app:latest")))),
            (typed("aa", &[]), Ok(("aaaa", None))),
            (typed("a", &[]), Err("may be any of aaaa")),
            (typed("cc", &["localhost/cc:latest"]), Ok(("cccc", None))),
            (typed("tool", &["localhost/tool:latest"]), Err("may be any of ab00")),
            (typed("x/tool", &[]), Ok(("ab00", Some("quay.io/x/tool:latest")))),
            (typed("app:1", &[]), Ok(("aaaa", Some("docker.io/library/app:1")))),
            (typed("ol", &[]), Err("is not known")),
            (typed("", &[]), Err("is not known")),
            (ImageRef::Name("quay.io/x/odd:1".into()), Err("has the id \"nonsense\"")),
        ];
        for (wanted, want) in table {
            match (images.find(wanted), want) {
                (Ok(found), Ok((id, name))) => {
                    assert!(found.id.as_str().starts_with(id) && found.name.as_deref() == *name, "{wanted:?}: {found:?}");
                }
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{wanted:?}: {error}"),
                (seen, _) => panic!("{wanted:?}: {seen:?}"),
            }
        }
    }
}
