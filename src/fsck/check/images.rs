//! Images, their documents and names; containers, as far as layers and images are concerned.

use super::Quick;
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::fsck::survey::{called, config_key, directory, document};
use crate::fsio::{self, Dir};
use crate::ids::{Digest, ImageId};
use crate::metadata::{Image, Loose, big_data_file, big_data_key};

impl Quick<'_> {
    pub(super) fn images(&mut self) {
        let survey = self.survey;
        let mut seen = std::collections::HashSet::new();
        for image in survey.images().iter() {
            let name = image.id_text().to_owned();
            let bad = |why: &str| {
                Finding::report(Code::ImageRecordBad, "remove the record by hand: it makes no sense")
                    .image(&name)
                    .at("overlay-images/images.json")
                    .seen(why)
            };
            let Some(id) = image.id() else {
                if self.wants(&name) {
                    self.push(bad("its id is none"));
                }
                continue;
            };
            if !seen.insert(id.clone()) {
                if self.wants(&name) {
                    self.push(bad("another record has the same id"));
                }
                continue;
            }
            if image.layer().is_some_and(|layer| layer.known().is_none()) {
                if self.wants(&name) {
                    self.push(bad("its top layer has an id that is none"));
                }
                continue;
            }
            self.object(&name, false, |quick| quick.image(id, image));
        }
    }

    fn image(&mut self, id: &ImageId, image: &Image) -> fsio::Result<()> {
        let key = config_key(id);
        let dir = directory(&self.layout.images, id.as_str())?;
        let lists = |wanted: &str| image.big_data_names().iter().any(|name| name == wanted);
        if !lists(&key) && !lists("manifest") {
            let stands = dir.is_some() && self.survey.documents.contains_key(id);
            if image.big_data_names().is_empty() && !stands {
                let fix = Fix::DropImage { id: id.clone() };
                self.push(
                    Finding::new(Code::ImageRecordHollow, Repair::Prune, fix, "remove the image: it has neither config nor manifest")
                        .image(id)
                        .at("overlay-images/images.json"),
                );
            }
            return Ok(());
        }
        self.top_layer(id, image);
        for name in image.big_data_names() {
            self.item(id, image, dir.as_ref(), name)?;
        }
        Ok(())
    }

    /// The top layer is what the config says, if that is there.
    fn top_layer(&mut self, id: &ImageId, image: &Image) {
        let Some(documents) = self.survey.documents.get(id) else { return };
        let Some(top) = documents.chain.last() else { return };
        let known = self.survey.record(top).is_some();
        if image.layer_text() != top.as_str() && known {
            self.push(
                Finding::new(Code::ImageLayerWrong, Repair::Offline, Fix::Tables, "write the layer of its config into the record")
                    .image(id)
                    .at("overlay-images/images.json")
                    .expected(top.as_str())
                    .seen(image.layer_text()),
            );
        }
    }

    /// One item of big data.
    fn item(&mut self, id: &ImageId, image: &Image, dir: Option<&Dir>, key: &str) -> fsio::Result<()> {
        let Ok(file) = big_data_file(key) else { return Ok(()) };
        let is_config = key == config_key(id);
        let is_manifest = key.starts_with("manifest");
        let (missing, wrong) = match () {
            () if is_config => (Code::ImageConfigMissing, Code::ImageConfigWrong),
            () if is_manifest => (Code::ImageManifestMissing, Code::ImageManifestWrong),
            () => (Code::ImageDataMissing, Code::ImageDataWrong),
        };
        let said = image.big_data_digests().get(key).and_then(Loose::known).cloned();
        let want = if is_config { Some(id_digest(id)) } else { said };
        let size = image.big_data_sizes().get(key).copied();
        let path = format!("overlay-images/{id}/{file}");
        let bytes = match dir {
            Some(dir) => document(dir, &file)?,
            None => None,
        };
        let (code, seen) = match &bytes {
            None => (missing, None),
            Some(bytes) => match &want {
                // A signed manifest of schema 1 has the digest of what it was before it was signed.
                Some(want) if Digest::of(bytes) != *want && !(is_manifest && is_schema1(bytes)) => {
                    (wrong, Some(Digest::of(bytes).to_string()))
                }
                _ if size.is_some_and(|size| u64::try_from(size).ok() != Some(bytes.len() as u64)) => {
                    (wrong, Some(format!("{} bytes", bytes.len())))
                }
                _ => return Ok(()),
            },
        };
        let twin = match (dir, &want) {
            (Some(dir), Some(want)) => twin(dir, &file, want)?,
            _ => None,
        };
        let repair = match (&twin, &want) {
            (Some(_), _) => Repair::Offline,
            (None, Some(_)) if is_config || is_manifest => Repair::Refetch,
            _ => Repair::Report,
        };
        let action = match repair {
            Repair::Offline => "copy it from the file that has the same bytes",
            Repair::Refetch => "fetch it by its digest",
            _ => "pull the image again",
        };
        let fix = if repair == Repair::Report { Fix::None } else { Fix::Document { image: id.clone(), key: key.to_owned(), twin } };
        let mut finding = Finding::new(code, repair, fix, action).image(id).at(path);
        finding.expected = want.map(|digest| digest.to_string());
        finding.seen = seen;
        self.push(finding);
        Ok(())
    }

    pub(super) fn names(&mut self) {
        let survey = self.survey;
        for (name, image) in survey.images().shadowed_names() {
            if self.wants(image.id_text()) {
                let keeps = survey.images().by_name(name).map(called).unwrap_or_default();
                let holder = survey.images().by_name(name).map_or("", |image| image.id_text()).to_owned();
                self.push(
                    Finding::new(
                        Code::NameDuplicate,
                        Repair::Offline,
                        Fix::Tables,
                        format!("take {name} from it: the later record keeps it"),
                    )
                    .image(image.id_text())
                    .at(format!("overlay-images/images.json: {name}"))
                    .expected(format!("{keeps} of image {holder} alone")),
                );
            }
        }
    }

    /// What containers need of layers and images.
    pub(super) fn containers(&mut self) {
        let survey = self.survey;
        let Ok(others) = &survey.others else { return };
        if survey.layers.is_err() || survey.images.is_err() {
            return;
        }
        for container in others.containers.iter().chain(others.volatile_containers.iter()) {
            let path = "overlay-containers/containers.json";
            if let Some(layer) = container.layer()
                && layer.known().is_some_and(|id| survey.record(id).is_none())
                && self.wants(layer.as_str())
            {
                let on_disk = layer.known().is_some_and(|id| self.layout.overlay.meta(id.as_str()).is_ok_and(|meta| meta.is_some()));
                if !on_disk {
                    self.push(
                        Finding::report(Code::ContainerLayerMissing, "remove the container with podman")
                            .layer(layer.as_str())
                            .at(path)
                            .seen(format!("container {}", container.display_name())),
                    );
                }
            }
            if let Some(image) = container.image()
                && image.known().is_some_and(|id| survey.images().get(id).is_none() && !survey.elsewhere.has_image(id))
                && self.wants(image.as_str())
                && !survey.documents.contains_key(&image.known().cloned().unwrap_or_else(|| ImageId::of_config(&Digest::of(b""))))
            {
                self.push(
                    Finding::report(Code::ContainerImageMissing, "pull the image again, or remove the container with podman")
                        .image(image.as_str())
                        .at(path)
                        .seen(format!("container {}", container.display_name())),
                );
            }
        }
    }
}

/// The digest of the config that an image is named after.
fn id_digest(id: &ImageId) -> Digest {
    // An image id is 64 hex digits, and so is the digest's.
    format!("sha256:{id}").parse().unwrap_or_else(|_| Digest::of(b""))
}

fn is_schema1(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Version {
        #[serde(rename = "schemaVersion")]
        version: Option<i64>,
    }
    serde_json::from_slice::<Version>(bytes).is_ok_and(|manifest| manifest.version == Some(1))
}

/// Another document of the same image with these bytes.
fn twin(dir: &Dir, not: &str, want: &Digest) -> fsio::Result<Option<String>> {
    for (name, _) in dir.entries()? {
        let Some(name) = name.to_str().filter(|name| *name != not && big_data_key(name).is_some()) else { continue };
        if document(dir, name)?.is_some_and(|bytes| Digest::of(&bytes) == *want) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}
