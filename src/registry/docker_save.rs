//! Pure: no I/O. manifest.json of an archive that `docker save` made, and the manifest that the archive has not got.

use serde::{Deserialize, Serialize};

use super::manifest::{ContentError, MediaType};
use super::pick::Pick;
use super::{shape, shapes};
use crate::ids::Digest;
use crate::reference::Reference;

/// The largest manifest.json, in bytes: that of c/image.
pub(super) const SAVED_BYTES_MAX: u64 = 1 << 20;

/// One image of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    /// The name of the config's file.
    pub(super) config: String,
    /// Its names, as they were given.
    pub(super) tags: Vec<String>,
    /// The names of the layers' files, lowest first.
    pub(super) layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    config: Option<String>,
    repo_tags: Option<Vec<Option<String>>>,
    layers: Option<Vec<Option<String>>>,
}

/// Reads manifest.json.
///
/// # Errors
///
/// [`ContentError`] saying what is not acceptable.
pub(super) fn parse(raw: &[u8]) -> Result<Vec<Saved>, ContentError> {
    shape::check(raw, &shapes::SAVED)?;
    let list: Option<Vec<Option<Raw>>> = serde_json::from_slice(raw).map_err(|source| ContentError::Json { source })?;
    let words = |list: Option<Vec<Option<String>>>| list.into_iter().flatten().map(Option::unwrap_or_default).collect();
    let image = |(number, raw): (usize, Option<Raw>)| {
        let raw = raw.and_then(|raw| raw.config.map(|config| (config, raw.repo_tags, raw.layers)));
        let Some((config, tags, layers)) = raw else {
            return Err(ContentError::Field { field: format!("the document[{number}].Config"), why: "is missing".into() });
        };
        Ok(Saved { config, tags: words(tags), layers: words(layers) })
    };
    list.into_iter().flatten().enumerate().map(image).collect()
}

/// The place of the image that is meant, and the names it then gets: all of its own, or the one it was asked for by.
pub(super) fn choose(images: &[Saved], pick: &Pick) -> Option<(usize, Vec<String>)> {
    match pick {
        Pick::Only => images.first().filter(|_| images.len() == 1).map(|image| (0, image.tags.clone())),
        Pick::Number(number) => images.get(*number).map(|image| (*number, image.tags.clone())),
        Pick::Named(name) => {
            let wanted: Reference = name.parse().ok()?;
            let is = |tag: &&String| tag.parse::<Reference>().is_ok_and(|tag| tag == wanted);
            images.iter().enumerate().find_map(|(number, image)| image.tags.iter().find(is).map(|tag| (number, vec![tag.clone()])))
        }
    }
}

/// The names of all images, for a message.
pub(super) fn names(images: &[Saved]) -> Vec<String> {
    let tags = |image: &Saved| image.tags.iter().map(|tag| super::plain(tag, 100)).collect::<Vec<_>>();
    let name = |(number, image): (usize, &Saved)| if image.tags.is_empty() { vec![format!("@{number}")] } else { tags(image) };
    images.iter().enumerate().flat_map(name).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'static str,
    config: Blob<'a>,
    layers: Vec<Blob<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Blob<'a> {
    media_type: &'static str,
    size: u64,
    digest: &'a str,
}

/// The manifest that c/image makes for an image of an archive, byte by byte: it names uncompressed layers by their DiffIDs,
/// and calls them gzip all the same.
///
/// # Errors
///
/// [`ContentError::Json`], which cannot be.
pub(super) fn manifest(config: (&Digest, u64), layers: &[(Digest, u64)]) -> Result<Vec<u8>, ContentError> {
    let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::DockerManifest.as_str(),
        config: Blob { media_type: "application/vnd.docker.container.image.v1+json", size: config.1, digest: config.0.as_str() },
        layers: layers.iter().map(|(digest, size)| Blob { media_type, size: *size, digest: digest.as_str() }).collect(),
    };
    serde_json::to_vec(&manifest).map_err(|source| ContentError::Json { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_chosen_as_containers_image_does() {
        let raw =
            br#"[{"Config":"a.json","RepoTags":["q.io/a:1","a:2"],"Layers":["x","y"]},{"Config":"b.json","RepoTags":null,"Layers":null}]"#;
        let images = parse(raw).unwrap();
        assert_eq!(images[0].layers, ["x", "y"]);
        assert_eq!(images[1], Saved { config: "b.json".into(), tags: vec![], layers: vec![] });
        assert_eq!(names(&images), ["q.io/a:1", "a:2", "@1"]);
        let chosen = |text: &str| choose(&images, &Pick::parse(Some(text))).map(|(number, names)| (number, names.join(" ")));
        for (text, want) in [
            ("", None),
            ("@0", Some((0, "q.io/a:1 a:2"))),
            ("@1", Some((1, ""))),
            ("@2", None),
            ("q.io/a:1", Some((0, "q.io/a:1"))),
            ("a:2", Some((0, "a:2"))),
            ("docker.io/library/a:2", Some((0, "a:2"))),
            ("localhost/a:2", None),
            ("a", None),
        ] {
            assert_eq!(chosen(text), want.map(|(number, names)| (number, names.to_owned())), "{text:?}");
        }
        assert_eq!(choose(&images[..1], &Pick::Only).unwrap().0, 0);
    }

    #[test]
    fn what_go_could_not_read_is_refused() {
        let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let many = format!("[{}]", vec!["{\"Config\":\"c\"}"; 1001].join(","));
        for (raw, want) in [
            ("", "not the JSON"),
            ("{}", "the document: is an object, wanted a list"),
            ("[7]", "the document[0]: is a number"),
            ("[{}]", "the document[0].Config: is missing"),
            ("[null]", "the document[0].Config: is missing"),
            (r#"[{"Config":"a","config":"b"}]"#, "differs from the known \"Config\" in case only"),
            (r#"[{"Config":"a","Layers":[1]}]"#, "the document[0].Layers[0]: is a number"),
            (&many, "more than 1000 entries"),
            (&nested, "is a list, wanted an object"),
        ] {
            let error = parse(raw.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{raw:.100}: {error}");
        }
    }
}
