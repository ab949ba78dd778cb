//! Small images made on the spot, and a pull of them through the library without a network.

use std::io::Write;

use cstor_rs::ids::Digest;
use cstor_rs::store::Store;
use cstor_rs::txn::{CommitError, ImageSpec, LayerSpec, Prepared, Receipt, TxnError, TxnOptions, WriteTxn};

/// A layer: its tar, and the blob that is transferred.
#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
    pub diff_id: Digest,
}

/// An image with everything a registry would give.
#[derive(Clone)]
pub struct Image {
    pub name: String,
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

/// One member of a layer.
pub enum Member<'a> {
    Dir(&'a str, u32),
    File(&'a str, u32, &'a [u8]),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Fifo(&'a str),
}

/// A layer of these members, gzip-compressed.
pub fn layer(members: &[Member<'_>]) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mode(0o644);
        match member {
            Member::Dir(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, path, std::io::empty()).unwrap();
            }
            Member::File(path, mode, bytes) => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, *bytes).unwrap();
            }
            Member::Symlink(path, to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, to).unwrap();
            }
            Member::HardLink(path, to) => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, path, to).unwrap();
            }
            Member::Fifo(path) => {
                header.set_entry_type(tar::EntryType::Fifo);
                tar.append_data(&mut header, path, std::io::empty()).unwrap();
            }
        }
    }
    from_tar(tar.into_inner().unwrap())
}

/// A layer of a finished tar.
pub fn from_tar(tar: Vec<u8>) -> Layer {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    Layer { diff_id: Digest::of(&tar), blob: gzip.finish().unwrap(), tar }
}

/// An OCI image of these layers.
pub fn image(name: &str, layers: Vec<Layer>) -> Image {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = serde_json::json!({
        "created": "2026-01-02T03:04:05.678Z", "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Labels": {"name": name}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let blobs: Vec<serde_json::Value> = layers
        .iter()
        .map(|layer| {
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            serde_json::json!({"mediaType": media_type, "digest": Digest::of(&layer.blob), "size": layer.blob.len()})
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": blobs,
    });
    Image { name: name.to_owned(), layers, config, manifest: serde_json::to_vec(&manifest).unwrap() }
}

/// A base layer with a file of every common kind.
pub fn base() -> Layer {
    layer(&[
        Member::Dir("etc", 0o755),
        Member::File("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n"),
        Member::Dir("bin", 0o755),
        Member::File("bin/tool", 0o4755, &[7u8; 3000]),
        Member::HardLink("bin/same", "bin/tool"),
        Member::Symlink("bin/sh", "tool"),
        Member::Fifo("etc/pipe"),
        Member::File("etc/empty", 0o600, b""),
    ])
}

/// A small layer that differs by `tag`.
pub fn app(tag: &str) -> Layer {
    let text = format!("this is {tag}\n");
    layer(&[Member::Dir("app", 0o755), Member::File(&format!("app/{tag}"), 0o644, text.as_bytes()), Member::File("etc/.wh.empty", 0, b"")])
}

/// Why a pull of fixtures failed.
#[derive(Debug)]
pub enum Failure {
    Txn(TxnError),
    Commit(CommitError),
}

impl From<TxnError> for Failure {
    fn from(error: TxnError) -> Self {
        Self::Txn(error)
    }
}

/// Pulls these images in one transaction; `None` where the store had all of it.
pub fn pull(store: &Store, images: &[Image]) -> Result<Option<Receipt>, Failure> {
    pull_with(store, images, TxnOptions::default())
}

/// The same with these options. Layers that vanish before the commit are staged again.
pub fn pull_with(store: &Store, images: &[Image], options: TxnOptions) -> Result<Option<Receipt>, Failure> {
    change_with(store, images, |_| Ok(()), options)
}

/// Pulls these images and makes other changes, in one transaction.
pub fn change_with(
    store: &Store,
    images: &[Image],
    changes: impl Fn(&WriteTxn) -> Result<(), Failure>,
    options: TxnOptions,
) -> Result<Option<Receipt>, Failure> {
    let mut txn = store.begin(options)?;
    stage(&txn, images)?;
    images.iter().try_for_each(|image| txn.stage_image(&spec(image)).map(drop))?;
    changes(&txn)?;
    for _ in 0..4 {
        txn = match txn.prepare()? {
            Prepared::Ready(prepared) => return prepared.commit().map(Some).map_err(Failure::Commit),
            Prepared::Nothing => return Ok(None),
            Prepared::NeedLayers(again, _) => *again,
        };
        stage(&txn, images)?;
    }
    panic!("layers vanish again and again")
}

/// Prepares and commits.
pub fn commit(txn: WriteTxn) -> Result<Option<Receipt>, Failure> {
    match txn.prepare()? {
        Prepared::Ready(prepared) => prepared.commit().map(Some).map_err(Failure::Commit),
        Prepared::Nothing => Ok(None),
        Prepared::NeedLayers(_, layers) => panic!("layers are missing: {layers:?}"),
    }
}

/// Stages what the store lacks of these images.
fn stage(txn: &WriteTxn, images: &[Image]) -> Result<(), Failure> {
    let tables = txn.tables()?;
    for image in images {
        let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        for (state, layer) in txn.declare(&tables, &diff_ids)?.into_iter().zip(&image.layers) {
            if state.needed {
                let spec = LayerSpec {
                    id: state.id,
                    diff_id: state.diff_id,
                    blob: Some(Digest::of(&layer.blob)),
                    blob_bytes: Some(layer.blob.len() as u64),
                };
                txn.stage_layer(&spec, layer.blob.as_slice(), &|_| {})?;
            }
        }
    }
    Ok(())
}

fn spec(image: &Image) -> ImageSpec {
    ImageSpec {
        config: image.config.clone(),
        manifest: image.manifest.clone(),
        index: None,
        diff_ids: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        names: vec![image.name.clone()],
        created: Some("2026-01-02T03:04:05.678Z".to_owned()),
    }
}
