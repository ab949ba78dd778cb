//! Many changes in one transaction: two images made on the spot, a name that moves, an image that goes. All or nothing.
//!
//! `cargo run --example batch`

use std::error::Error;

use cstor_rs::metadata::ImageRef;
use cstor_rs::plan::SeveralNames;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{NewImage, Prepared, Receipt, TxnOptions, WriteTxn};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let store = Store::open(StoreOptions::new(temp.path().join("root"), temp.path().join("run")))?;

    let txn = store.begin(TxnOptions::default())?;
    make_image(&txn, "one", "localhost/app:1")?;
    txn.tag(ImageRef::Name("localhost/app:1".into()), "localhost/app:current")?;
    print("the first release", &commit(txn)?);

    // The next release takes the name, and the one before goes, with the layers that nothing else needs.
    let txn = store.begin(TxnOptions::default())?;
    make_image(&txn, "two", "localhost/app:2")?;
    txn.tag(ImageRef::Name("localhost/app:2".into()), "localhost/app:current")?;
    txn.remove_image(ImageRef::Name("localhost/app:1".into()), SeveralNames::Remove)?;
    print("the second release", &commit(txn)?);

    // One change that cannot be made, and none of the others is.
    let txn = store.begin(TxnOptions::default())?;
    txn.untag(ImageRef::Name("localhost/app:2".into()), &[])?;
    txn.remove_image(ImageRef::Name("localhost/nobody:1".into()), SeveralNames::Keep)?;
    match txn.prepare() {
        Err(error) => println!("refused: {error}"),
        Ok(_) => return Err("an unknown image was removed".into()),
    }

    let names: Vec<String> = store.read()?.iter().flat_map(|snapshot| snapshot.images()).flat_map(|image| image.names().to_vec()).collect();
    println!("names in the store: {}", names.join(", "));
    if names == ["localhost/app:current", "localhost/app:2"] { Ok(()) } else { Err("other names than expected".into()) }
}

/// An image of one layer with one file.
fn make_image(txn: &WriteTxn, text: &str, name: &str) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "release", text.as_bytes())?;
    let tar = tar.into_inner()?;
    let layer = txn.stage_new_layer(None, tar.as_slice(), &|_| {})?;
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [cstor_rs::ids::Digest::of(&tar)]},
    });
    txn.stage_new_image(&NewImage {
        config: serde_json::to_vec(&config)?,
        top: Some(layer),
        names: vec![name.to_owned()],
        manifest: None,
    })?;
    Ok(())
}

fn commit(txn: WriteTxn) -> Result<Receipt> {
    match txn.prepare()? {
        Prepared::Ready(prepared) => Ok(prepared.commit()?),
        Prepared::Nothing => Err("the store says all of this already".into()),
        // Of layers that are reused: they can go until they are locked.
        Prepared::NeedLayers(_, layers) => Err(format!("layers are gone: {layers:?}").into()),
    }
}

fn print(what: &str, receipt: &Receipt) {
    println!(
        "{what}: {} images and {} layers made, {} images and {} layers removed",
        receipt.images.len(),
        receipt.layers.len(),
        receipt.removed_images.len(),
        receipt.removed_layers.len()
    );
    for renamed in &receipt.renamed {
        let image: String = renamed.image.as_str().chars().take(12).collect();
        println!("  {image} got {:?}, lost {:?}", renamed.got, renamed.lost);
    }
}
