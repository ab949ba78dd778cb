//! How a program embeds the store: open it (which recovers), keep an image from prunes, list, and tell apart what a failed
//! commit means. Without an async runtime: `cargo run --no-default-features --example embed -- ROOT RUNROOT IMAGE`.
//!
//! Without arguments it makes an empty store of its own.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use cstor_rs::ids::Owner;
use cstor_rs::metadata::ImageRef;
use cstor_rs::store::{Store, StoreOptions};
use cstor_rs::txn::{CommitError, Prepared, TxnOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let temp = tempfile::tempdir()?;
    let root = args.next().unwrap_or_else(|| temp.path().join("root"));
    let runroot = args.next().unwrap_or_else(|| temp.path().join("run"));
    let image = args.next().and_then(|name| name.into_os_string().into_string().ok());

    // Whatever a crash left half done is finished or taken back here. Another process that holds the locks is waited for.
    let store = Store::open(StoreOptions::new(root, runroot).wait(Duration::from_secs(5)))?;
    for (txn, outcome) in &store.recovered().ended {
        println!("recovered {txn}: {outcome:?}");
    }

    match store.read()? {
        None => println!("there is no store yet"),
        Some(snapshot) => {
            for image in snapshot.images() {
                println!("{} {:?}", image.id_text(), image.names());
            }
        }
    }
    let Some(name) = image else { return Ok(()) };

    let txn = store.begin(TxnOptions::default())?;
    txn.tag(ImageRef::Name(name.clone()), "localhost/kept:latest")?;
    match txn.prepare()? {
        Prepared::Ready(prepared) => match prepared.commit() {
            Ok(receipt) => println!("durable: {:?}", receipt.renamed),
            // The store is as it was before.
            Err(CommitError::RolledBack { source, .. }) => println!("nothing was changed: {source}"),
            // A sync failed: the next open finds out. This handle is of no more use.
            Err(error @ CommitError::InDoubt { .. }) => return Err(error.into()),
        },
        Prepared::Nothing => println!("it has that name already"),
        Prepared::NeedLayers(..) => println!("layers are gone; stage them and prepare again"),
    }

    let owner: Owner = "embed-example".parse()?;
    if let Some(id) = store.read()?.and_then(|snapshot| snapshot.image_by_name(&name)?.id().cloned()) {
        store.pin(&id, &owner)?;
        println!("pinned {id}: no prune of cstor-rs removes it until it is unpinned");
    }
    Ok(())
}
