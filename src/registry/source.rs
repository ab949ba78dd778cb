//! Where images come from, in one small blocking trait.

use std::io::Read;
use std::path::PathBuf;

use super::error::{RegistryError, Result};
use super::manifest::{ContentError, Descriptor, Document, ImageManifest, Index};
use super::platform::Platform;
use super::{DockerArchive, Layout, Options, Pick, Registry, SystemFiles};
use crate::ids::Digest;
use crate::reference::{Reference, ReferenceError, is_short};

/// An image as found, before any of its layers is fetched.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest of the one image.
    pub image: ImageManifest,
    /// The index it was chosen from, if there was one.
    pub index: Option<Index>,
}

impl Resolved {
    /// The digest that the reference stands for: the index's, else the manifest's.
    pub fn digest(&self) -> &Digest {
        self.index.as_ref().map_or(&self.image.digest, |i| &i.digest)
    }
}

/// Something that has one image: a registry, a layout on disk.
///
/// Every call blocks; none may be made from inside an async task. The calls may be made from several threads.
pub trait ImageSource: Send + Sync {
    /// The manifest for a platform, digest verified.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] naming the object.
    fn manifest(&self, wanted: &Platform) -> Result<Resolved>;

    /// The whole config, digest verified.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] naming the object.
    fn config(&self, config: &Descriptor) -> Result<Vec<u8>>;

    /// The bytes of a layer: exactly as many as declared, or an error. The digest is the reader's to check.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] naming the object, here or inside what the reader returns ([`RegistryError::within`]).
    fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>> {
        self.blob_from(blob, 0)
    }

    /// As [`ImageSource::blob`], without the first `from` bytes.
    ///
    /// # Errors
    ///
    /// Those of [`ImageSource::blob`].
    fn blob_from(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>>;

    /// Whether a blob comes from so far away that what came of it is worth keeping when a pull fails.
    fn is_remote(&self) -> bool {
        false
    }
}

/// An image reference of the command line: a registry's, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` or
/// `docker-archive:FILE[:NAME]`; `@NUMBER` in the place of an archive's tag or name counts its images from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a registry.
    Registry(Reference),
    /// In an OCI layout on disk.
    Layout {
        /// The layout's directory.
        dir: PathBuf,
        /// The entry in its index; none needed where there is only one.
        tag: Option<String>,
    },
    /// In an OCI layout in a tar file.
    OciArchive {
        /// The tar file.
        file: PathBuf,
        /// The entry in its index.
        pick: Pick,
    },
    /// In a tar file as `docker save` makes them.
    DockerArchive {
        /// The tar file.
        file: PathBuf,
        /// The image in it.
        pick: Pick,
    },
}

/// An opened source and the names its image gets in the store.
pub struct Found {
    /// The source.
    pub source: Box<dyn ImageSource>,
    /// The names for images.json: none for a layout's only image, of an archive what the archive says.
    pub names: Vec<String>,
}

/// The names, normalised, that an image in a store may have when a person calls it so, in podman's order: localhost's, what
/// registries.conf makes of it, docker.io's. Of a text that is no reference, none.
///
/// # Errors
///
/// [`RegistryError::Configuration`].
pub fn candidates(text: &str, system: &SystemFiles) -> Result<Vec<String>> {
    let mut full = Vec::new();
    if is_short(text) {
        full.extend(Reference::local(text).ok());
        full.extend(system.registries()?.candidates(text).iter().filter_map(|text| text.parse::<Reference>().ok()));
    }
    full.extend(text.parse::<Reference>().ok());
    let mut names: Vec<String> = Vec::new();
    for name in full.iter().map(Reference::stored_name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

impl Place {
    /// Reads what a user says on this host: as `parse`, but a name without a registry means what registries.conf says.
    ///
    /// Without a word about it there, it means docker.io; `docker://NAME` always does.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Reference`]; [`RegistryError::Forbidden`] for a name that could mean several registries;
    /// [`RegistryError::Configuration`].
    pub fn find(text: &str, system: &SystemFiles) -> Result<Self> {
        let place: Self = text.parse()?;
        if !matches!(place, Self::Registry(_)) || !is_short(text) {
            return Ok(place);
        }
        let forbidden = |why| RegistryError::Forbidden { name: super::plain(text, 100), why };
        match system.registries()?.expand(text).map_err(forbidden)? {
            Some(full) if is_short(&full) => {
                Err(forbidden(format!("registries.conf makes {:?} of it, which still names no registry", super::plain(&full, 100))))
            }
            Some(full) => Ok(Self::Registry(full.parse()?)),
            None => Ok(place),
        }
    }

    /// Opens the source; a registry is asked for nothing yet but which protocol it speaks, if that is in doubt.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] naming the object.
    pub fn open(&self, options: &Options) -> Result<Found> {
        // As podman: a name that a layout or an archive gives is under localhost/ unless it says otherwise.
        let local = |name: &String| Ok(Reference::local(name)?.stored_name());
        Ok(match self {
            Self::Registry(reference) => {
                let names = vec![reference.stored_name()];
                Found { source: Box::new(Registry::connect(reference.clone(), options)?), names }
            }
            Self::Layout { dir, tag } => {
                let names = tag.iter().map(local).collect::<Result<_>>()?;
                Found { source: Box::new(Layout::open(dir, tag.clone())?), names }
            }
            Self::OciArchive { file, pick } => {
                let source = Layout::open_archive(file, pick.clone(), &options.cancel)?;
                let names = source.title()?.iter().map(local).collect::<Result<_>>()?;
                Found { source: Box::new(source), names }
            }
            Self::DockerArchive { file, pick } => {
                let source = DockerArchive::open(file, pick.clone(), &options.cancel)?;
                let names = source.titles()?.iter().map(local).collect::<Result<_>>()?;
                Found { source: Box::new(source), names }
            }
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "{reference}"),
            Self::Layout { dir, tag: Some(tag) } => write!(f, "oci:{}:{tag}", dir.display()),
            Self::Layout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::OciArchive { file, pick } => write!(f, "oci-archive:{}{pick}", file.display()),
            Self::DockerArchive { file, pick } => write!(f, "docker-archive:{}{pick}", file.display()),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = ReferenceError;

    fn from_str(text: &str) -> std::result::Result<Self, ReferenceError> {
        // As containers/image: a path ends at its first colon.
        let path_and_name = |transport: &str| {
            let rest = text.strip_prefix(transport)?;
            Some(rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name).filter(|name| !name.is_empty()))))
        };
        if let Some((dir, tag)) = path_and_name("oci:") {
            return Ok(Self::Layout { dir: dir.into(), tag: tag.map(str::to_owned) });
        }
        if let Some((file, name)) = path_and_name("oci-archive:") {
            return Ok(Self::OciArchive { file: file.into(), pick: Pick::parse(name) });
        }
        if let Some((file, name)) = path_and_name("docker-archive:") {
            return Ok(Self::DockerArchive { file: file.into(), pick: Pick::parse(name) });
        }
        if ["dir:", "containers-storage:", "docker-daemon:"].iter().any(|t| text.starts_with(t)) {
            let text = text.chars().take(100).collect();
            let why = "is not supported yet; use docker://, oci:, oci-archive: or docker-archive:";
            return Err(ReferenceError { text, part: "the transport", why });
        }
        text.parse().map(Self::Registry)
    }
}

/// Refuses bytes that have another digest than wanted.
pub(super) fn verify(what: &str, host: &str, wanted: &Digest, bytes: &[u8]) -> Result<()> {
    let got = Digest::of(bytes);
    if got == *wanted {
        return Ok(());
    }
    Err(RegistryError::Digest { what: what.to_owned(), host: host.to_owned(), wanted: wanted.clone(), got })
}

/// Goes from a document to the one image for a platform; `fetch` gets the chosen manifest.
pub(super) fn resolve(
    what: &str,
    document: Document,
    wanted: &Platform,
    fetch: impl FnOnce(&Descriptor) -> Result<Document>,
) -> Result<Resolved> {
    let refuse = |source| RegistryError::Content { what: what.to_owned(), source };
    let (image, index): (ImageManifest, Option<Index>) = match document {
        Document::Image(image) => (image, None),
        Document::Index(index) => match fetch(&index.choose(wanted).map_err(refuse)?)? {
            Document::Image(image) => (image, Some(index)),
            Document::Index(_) => return Err(refuse(ContentError::NestedIndex)),
        },
    };
    Ok(Resolved { image, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_their_transport() {
        let layout = |dir: &str, tag: Option<&str>| Place::Layout { dir: dir.into(), tag: tag.map(str::to_owned) };
        assert_eq!("oci:/a/b".parse::<Place>().unwrap(), layout("/a/b", None));
        assert_eq!("oci:b:app:1".parse::<Place>().unwrap(), layout("b", Some("app:1")));
        assert_eq!("oci:b:".parse::<Place>().unwrap(), layout("b", None));
        let archives = [
            ("oci-archive:/a.tar", Place::OciArchive { file: "/a.tar".into(), pick: Pick::Only }),
            ("oci-archive:a.tar:app:1", Place::OciArchive { file: "a.tar".into(), pick: Pick::Named("app:1".into()) }),
            ("docker-archive:a.tar:@12", Place::DockerArchive { file: "a.tar".into(), pick: Pick::Number(12) }),
            ("docker-archive:a.tar:@x", Place::DockerArchive { file: "a.tar".into(), pick: Pick::Named("@x".into()) }),
        ];
        for (text, place) in archives {
            assert_eq!((text.parse::<Place>().unwrap(), place.to_string()), (place, text.to_owned()));
        }
        assert!(matches!("docker://q.io/a".parse::<Place>().unwrap(), Place::Registry(_)));
        assert!("dir:/x".parse::<Place>().unwrap_err().to_string().contains("the transport is not supported yet"));
    }
}
