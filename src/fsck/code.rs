//! The names of what fsck finds. A name never changes its meaning.

/// How deep fsck looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Structure and metadata: no contents of files.
    #[default]
    Quick,
    /// Every byte, mode, owner, time, attribute and link target.
    Full,
}

impl Level {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $level:ident;)*) => {
        /// What was found.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The level at which it is found.
            pub fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }
        }
    };
}

codes! {
    /// A transaction of ours whose process died.
    JournalUnfinished = "journal-unfinished", Quick;
    /// A segment of the journal that cannot be read.
    JournalDamaged = "journal-damaged", Quick;
    /// `overlay/l` is gone.
    LinksDirectoryMissing = "links-directory-missing", Quick;
    /// The entry in `l/` that a layer's `link` names is not there.
    LinksEntryMissing = "links-entry-missing", Quick;
    /// The entry in `l/` that a layer's `link` names leads elsewhere, or is no symlink.
    LinksEntryWrong = "links-entry-wrong", Quick;
    /// An entry of `l/` leads to no layer.
    LinksEntryDangling = "links-entry-dangling", Quick;
    /// An entry of `l/` leads to a layer that has another LINKID.
    LinksEntryDuplicate = "links-entry-duplicate", Quick;
    /// `link` is not there; an entry of `l/` tells what it was.
    LayerLinkMissing = "layer-link-missing", Quick;
    /// `link` is no LINKID; an entry of `l/` tells what it was.
    LayerLinkBad = "layer-link-bad", Quick;
    /// `link` names another layer's LINKID.
    LayerLinkForeign = "layer-link-foreign", Quick;
    /// There is no usable `link`, and no entry of `l/` that leads here.
    LayerLinkLost = "layer-link-lost", Quick;
    /// `lower` of a layer with a parent is not there.
    LayerLowerMissing = "layer-lower-missing", Quick;
    /// `lower` does not name the layers below.
    LayerLowerWrong = "layer-lower-wrong", Quick;
    /// `lower-layers` does not name the layers below.
    LayerLowerLayersWrong = "layer-lower-layers-wrong", Quick;
    /// The directory of a layer is not there.
    LayerDirectoryMissing = "layer-directory-missing", Quick;
    /// Something that is no directory stands in a layer's place.
    LayerDirectoryWrong = "layer-directory-wrong", Quick;
    /// `diff` is not there.
    LayerDiffMissing = "layer-diff-missing", Quick;
    /// `diff` is no directory.
    LayerDiffWrong = "layer-diff-wrong", Quick;
    /// A base layer has no `empty`.
    LayerEmptyMissing = "layer-empty-missing", Quick;
    /// The record says that the layer is being made or deleted.
    LayerIncomplete = "layer-incomplete", Quick;
    /// A layer that is needed is on disk and has no record.
    LayerRecordMissing = "layer-record-missing", Quick;
    /// A layer that is needed has neither record nor directory.
    LayerLost = "layer-lost", Quick;
    /// A record of a layer that makes no sense.
    LayerRecordBad = "layer-record-bad", Quick;
    /// A record of a layer that contradicts the images on it.
    LayerRecordWrong = "layer-record-wrong", Quick;
    /// A layer that no image and no container needs; no damage.
    LayerUnneeded = "layer-unneeded", Quick;
    /// layers.json is not there, and layers are.
    LayersTableMissing = "layers-table-missing", Quick;
    /// layers.json cannot be read, or lists nothing where layers are.
    LayersTableUnreadable = "layers-table-unreadable", Quick;
    /// images.json is not there, and images are.
    ImagesTableMissing = "images-table-missing", Quick;
    /// images.json cannot be read, or lists nothing where images are.
    ImagesTableUnreadable = "images-table-unreadable", Quick;
    /// A table of containers or mounts cannot be read.
    ContainersTableUnreadable = "containers-table-unreadable", Quick;
    /// The documents and layers of an image are there, and no record.
    ImageRecordMissing = "image-record-missing", Quick;
    /// A record of an image that makes no sense.
    ImageRecordBad = "image-record-bad", Quick;
    /// A record of an image without config and manifest.
    ImageRecordHollow = "image-record-hollow", Quick;
    /// The record names another top layer than the config.
    ImageLayerWrong = "image-layer-wrong", Quick;
    /// A manifest is not there.
    ImageManifestMissing = "image-manifest-missing", Quick;
    /// A manifest is not the one of the record.
    ImageManifestWrong = "image-manifest-wrong", Quick;
    /// The config is not there.
    ImageConfigMissing = "image-config-missing", Quick;
    /// The config is not the one that the image is named after.
    ImageConfigWrong = "image-config-wrong", Quick;
    /// Another item of big data is not there.
    ImageDataMissing = "image-data-missing", Quick;
    /// Another item of big data is not the one of the record.
    ImageDataWrong = "image-data-wrong", Quick;
    /// An image got its record back without names: nobody knows whether it had any; no damage.
    ImageNamesLost = "image-names-lost", Quick;
    /// Two images have one name.
    NameDuplicate = "name-duplicate", Quick;
    /// A layer's tar-split is not there.
    LayerSplitMissing = "layer-split-missing", Quick;
    /// A layer's tar-split cannot be read, or is not that of the layer.
    LayerSplitDamaged = "layer-split-damaged", Quick;
    /// A file has other contents.
    FileContent = "file-content", Full;
    /// A file with contents is not there.
    FileMissing = "file-missing", Full;
    /// An entry without contents is not there.
    EntryMissing = "entry-missing", Full;
    /// An entry is of another kind.
    EntryType = "entry-type", Full;
    /// An entry has other permissions.
    EntryMode = "entry-mode", Full;
    /// An entry has another owner.
    EntryOwner = "entry-owner", Full;
    /// An entry has another time.
    EntryMtime = "entry-mtime", Full;
    /// An entry has other extended attributes.
    EntryXattr = "entry-xattr", Full;
    /// An entry is another device.
    EntryDevice = "entry-device", Full;
    /// A symlink leads elsewhere.
    SymlinkTarget = "symlink-target", Full;
    /// A name is no hard link of the file it should be.
    HardlinkBroken = "hardlink-broken", Full;
    /// Something is there that is not in the layer.
    EntryExtra = "entry-extra", Full;
    /// A layer directory that nothing names.
    OrphanLayer = "orphan-layer", Quick;
    /// A tar-split that nothing names.
    OrphanSplit = "orphan-split", Quick;
    /// Big data of a layer that nothing names.
    OrphanLayerData = "orphan-layer-data", Quick;
    /// Documents that are no image any more.
    OrphanImageData = "orphan-image-data", Quick;
    /// Staging of a transaction of ours that is no more.
    OrphanStaging = "orphan-staging", Quick;
    /// Temporary directories of programs that are no more.
    OrphanTempdir = "orphan-tempdir", Quick;
    /// Temporary files of programs that are no more.
    OrphanTempFile = "orphan-temp-file", Quick;
    /// A lock file is not there.
    LockMissing = "lock-missing", Quick;
    /// A lock file is too short, or no file.
    LockBad = "lock-bad", Quick;
    /// The layer of a container is not there.
    ContainerLayerMissing = "container-layer-missing", Quick;
    /// The image of a container is not there.
    ContainerImageMissing = "container-image-missing", Quick;
    /// An additional store cannot be read.
    AdditionalStoreBroken = "additional-store-broken", Quick;
    /// A directory of the store is not there.
    StoreDirectoryMissing = "store-directory-missing", Quick;
    /// Something could not be looked at; not known whether it is damaged.
    CheckFailed = "check-failed", Quick;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
