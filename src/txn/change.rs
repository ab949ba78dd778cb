//! What a transaction changes of images and layers that are there: recorded as it is said, decided under the locks.

use crate::fsio::optional;
use crate::ids::{Digest, ImageId, LayerId};
use crate::metadata::{self, ImageRef};
use crate::plan::{Change, Prune, SeveralNames, StagedData};
use crate::reference::Reference;

use super::{TxnError, WriteTxn};

impl WriteTxn {
    /// Gives an image another name; whoever has it loses it. The image may be one that this transaction makes.
    ///
    /// # Errors
    ///
    /// A name that is not normalised; at [`WriteTxn::prepare`] an image that is not known.
    pub fn tag(&self, image: impl Into<ImageRef>, name: &str) -> Result<(), TxnError> {
        check_name(name)?;
        self.change(Change::Tag { image: image.into(), names: vec![name.to_owned()] });
        Ok(())
    }

    /// Takes names from an image; an empty list means all of them. The image stays.
    ///
    /// # Errors
    ///
    /// At [`WriteTxn::prepare`]: an image that is not known, a name it does not have.
    pub fn untag(&self, image: impl Into<ImageRef>, names: &[String]) -> Result<(), TxnError> {
        self.change(Change::Untag { image: image.into(), names: names.to_vec() });
        Ok(())
    }

    /// Gives an image exactly these names; whoever has them loses them.
    ///
    /// # Errors
    ///
    /// As [`WriteTxn::tag`].
    pub fn set_names(&self, image: impl Into<ImageRef>, names: &[String]) -> Result<(), TxnError> {
        names.iter().try_for_each(|name| check_name(name))?;
        self.change(Change::SetNames { image: image.into(), names: names.to_vec() });
        Ok(())
    }

    /// Replaces an image's metadata: JSON text, or nothing.
    ///
    /// # Errors
    ///
    /// At [`WriteTxn::prepare`]: an image that is not known, text that is not JSON.
    pub fn set_metadata(&self, image: impl Into<ImageRef>, text: &str) -> Result<(), TxnError> {
        self.change(Change::SetMetadata { image: image.into(), text: text.to_owned() });
        Ok(())
    }

    /// Adds or replaces an item of an image's big data. Of an image that this transaction makes the documents are those of
    /// its [`super::ImageSpec`].
    ///
    /// # Errors
    ///
    /// A key that has no file name, a signed manifest of schema 1, whose digest is not that of its bytes, the disk; at
    /// [`WriteTxn::prepare`] an image that is not known.
    pub fn set_big_data(&self, image: &ImageId, key: &str, bytes: &[u8]) -> Result<(), TxnError> {
        let file = metadata::big_data_file(key)?;
        if self.contents().images.iter().any(|staged| staged.id == *image) {
            return Err(TxnError::StagedImage { id: image.clone() });
        }
        if key.starts_with("manifest") && is_signed_schema1(bytes) {
            return Err(TxnError::SignedManifest { id: image.clone() });
        }
        let staging = self.staging()?;
        let side = match optional(staging.image_side.dir(image.as_str()))? {
            Some(side) => side,
            None => staging.image_side.mkdir(image.as_str(), 0o700)?,
        };
        if side.meta(&file)?.is_some() {
            side.unlink(&file)?;
        }
        side.create(&file, 0o600)?.append(bytes)?;
        let item = StagedData { key: key.to_owned(), file, size: bytes.len() as u64, digest: Digest::of(bytes) };
        let mut contents = self.contents();
        for change in &mut contents.changes {
            // The last word on a key counts: its file is the one in staging.
            if let Change::SetData { image: of, items } = change
                && of == image
            {
                items.retain(|old| old.key != key);
            }
        }
        contents.changes.push(Change::SetData { image: image.clone(), items: vec![item] });
        Ok(())
    }

    /// Removes an item of an image's big data.
    ///
    /// # Errors
    ///
    /// At [`WriteTxn::prepare`]: an image that is not known, a key it does not have, its config or `manifest`.
    pub fn remove_big_data(&self, image: &ImageId, key: &str) -> Result<(), TxnError> {
        metadata::big_data_file(key)?;
        self.change(Change::DropData { image: image.clone(), key: key.to_owned() });
        Ok(())
    }

    /// Removes an image, with the layers that nothing else needs. Nothing is resolved here: what the image is called may
    /// have moved by the time the transaction is prepared.
    ///
    /// # Errors
    ///
    /// At [`WriteTxn::prepare`]: an image that is not known, has several names (see [`SeveralNames`]), or is in use.
    pub fn remove_image(&self, image: impl Into<ImageRef>, names: SeveralNames) -> Result<(), TxnError> {
        self.change(Change::RemoveImage { image: image.into(), names });
        Ok(())
    }

    /// Removes a layer.
    ///
    /// # Errors
    ///
    /// At [`WriteTxn::prepare`]: a layer that is not known, or that an image, a layer, a container or a mount needs.
    pub fn remove_layer(&self, id: &LayerId) -> Result<(), TxnError> {
        self.change(Change::RemoveLayer(id.clone()));
        Ok(())
    }

    /// Removes all images and layers that nobody wants.
    pub fn prune(&self, prune: Prune) {
        self.change(Change::Prune(prune));
    }

    /// Adds a change as if by the function of its name. Those that are staged cannot be added so.
    ///
    /// # Errors
    ///
    /// As these functions; [`TxnError::Unstaged`] for big data.
    pub fn add(&self, change: Change) -> Result<(), TxnError> {
        check(&change)?;
        self.change(change);
        Ok(())
    }

    fn change(&self, change: Change) {
        self.contents().changes.push(change);
    }
}

/// What can be said against a change without a store.
pub(super) fn check(change: &Change) -> Result<(), TxnError> {
    match change {
        Change::Put { names, .. } | Change::Tag { names, .. } | Change::SetNames { names, .. } => {
            names.iter().try_for_each(|name| check_name(name))
        }
        Change::SetData { image, .. } => Err(TxnError::Unstaged { id: image.clone() }),
        Change::DropData { key, .. } => Ok(metadata::big_data_file(key).map(drop)?),
        _ => Ok(()),
    }
}

/// Names are kept normalised: others are found by that very text only, and podman does not show them.
pub(super) fn check_name(name: &str) -> Result<(), TxnError> {
    let reference: Reference = name.parse()?;
    let normal = reference.stored_name();
    if normal == name { Ok(()) } else { Err(TxnError::NotNormal { name: name.to_owned(), normal }) }
}

/// Go takes the signatures out before it makes the digest.
fn is_signed_schema1(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Manifest {
        #[serde(rename = "schemaVersion")]
        version: Option<i64>,
        signatures: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Manifest>(bytes).is_ok_and(|manifest| manifest.version == Some(1) && manifest.signatures.is_some())
}
