//! The main job on a fresh machine: a registry in this process serves an image made on the spot; it is pulled, the pull
//! of another one is killed twice, and the store recovers each time.
//!
//!     cargo run --release --example quickstart

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cstor_rs::extract::{self, Depth};
use cstor_rs::fsio::{Hook, Op};
use cstor_rs::layout::split_name;
use cstor_rs::pull::{PullOptions, Pulled, pull};
use cstor_rs::recovery;
use cstor_rs::store::{Store, StoreOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CHILD: &str = "CSTOR_RS_QUICKSTART_CHILD";

fn main() -> ExitCode {
    let done = match std::env::var(CHILD) {
        Ok(job) => doomed(&job),
        Err(_) => show(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("quickstart: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let registry = registry::Registry::start();
    let base = tar(&[("etc/os-release", b"ID=quickstart\n"), ("usr/share/blob", &[7; 300_000])])?;
    for (name, text) in [("hello", "hello\n"), ("world", "world\n")] {
        let top = tar(&[("srv/greeting", text.as_bytes())])?;
        let image = registry::ImageSpec::new().layer(&base, registry::Compression::Gzip).layer(top, registry::Compression::Zstd);
        registry.add_image(name, "latest", &image);
    }
    let third = registry::ImageSpec::new().layer(&base, registry::Compression::Gzip);
    let third = third.layer(tar(&[("srv/third", b"3\n")])?, registry::Compression::None);
    registry.add_image("third", "latest", &third);
    println!("A registry at {} serves three images that share a layer.\n", registry.host());

    println!("1. Pull hello.");
    let store = Store::open(options(temp.path()))?;
    let pulled = get(&store, &registry.reference("hello:latest"))?;
    println!("   image {} in transaction {}", short(pulled.id.as_str()), pulled.txn.map_or("none".to_owned(), |txn| txn.to_string()));
    list(temp.path())?;

    println!("\n2. Pull world, and kill the process between the two tables: layers.json is switched, images.json is not.");
    kill(temp.path(), "images.json", &registry.reference("world:latest"))?;
    journal(temp.path())?;
    list(temp.path())?;
    recover(temp.path())?;
    list(temp.path())?;

    println!("\n3. Pull a third image, and kill the process before the first table is switched.");
    kill(temp.path(), "layers.json", &registry.reference("third:latest"))?;
    journal(temp.path())?;
    recover(temp.path())?;
    list(temp.path())?;

    println!("\n4. Check every layer: reassemble its tar from the files and compare the digest.");
    check(temp.path())?;

    println!("\n5. Pull world again: nothing to do.");
    registry.forget();
    let again = get(&Store::open(options(temp.path()))?, &registry.reference("world:latest"))?;
    println!("   {} layers fetched, {} requests, no transaction: {}", again.fetched, registry.log().len(), again.txn.is_none());

    podman(temp.path());
    Ok(())
}

/// A layer of these files, owned by whoever runs this: only root may give files away.
fn tar(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        tar.append_data(&mut header, path, *bytes)?;
    }
    Ok(tar.into_inner()?)
}

fn options(dir: &Path) -> StoreOptions {
    StoreOptions::new(dir.join("storage"), dir.join("run"))
}

fn get(store: &Store, reference: &str) -> Result<Pulled> {
    let mut options = PullOptions::default();
    options.registry.tls_verify = Some(false);
    let place = reference.parse()?;
    let list = pull(store, &[place], &options, &(), &AtomicBool::new(false))?;
    Ok(list.into_iter().next().ok_or("nothing was pulled")?)
}

/// SIGKILLs this process before a table of this name is renamed into its place.
struct KillBefore(String);

impl Hook for KillBefore {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if let Op::Rename(from, to) = op
            && to.name == Path::new(&self.0)
            && !from.name.to_string_lossy().ends_with(".scratch")
        {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        }
        Ok(())
    }
}

/// What the re-executed example does: it pulls until it is killed.
fn doomed(job: &str) -> Result<()> {
    let mut parts = job.splitn(3, ' ');
    let (Some(table), Some(reference), Some(dir)) = (parts.next(), parts.next(), parts.next()) else { return Err("no job".into()) };
    let store = Store::open(options(Path::new(dir)).hook(Arc::new(KillBefore(table.to_owned()))))?;
    get(&store, reference)?;
    Err("was not killed".into())
}

fn kill(dir: &Path, table: &str, reference: &str) -> Result<()> {
    let status = Command::new(std::env::current_exe()?).env(CHILD, format!("{table} {reference} {}", dir.display())).status()?;
    println!("   the process ended by {status}");
    Ok(())
}

fn journal(dir: &Path) -> Result<()> {
    let layout = Store::open_read_only(options(dir))?.layout()?.ok_or("no store")?;
    for segment in recovery::segments(&layout)? {
        let steps = segment.steps.len();
        println!(
            "   journal: transaction {} says {:?}, {steps} steps, its owner is {}",
            segment.txn,
            segment.state,
            if segment.alive { "alive" } else { "dead" }
        );
    }
    Ok(())
}

fn recover(dir: &Path) -> Result<()> {
    let store = Store::open(options(dir))?;
    for (txn, outcome) in &store.recovered().ended {
        println!("   opening the store recovers transaction {txn}: {outcome:?}");
    }
    Ok(())
}

fn list(dir: &Path) -> Result<()> {
    let snapshot = Store::open_read_only(options(dir))?.read()?.ok_or("no store")?;
    let images: Vec<String> = snapshot.images().map(|image| format!("{} {}", short(image.id_text()), image.names().join(" "))).collect();
    println!("   the store has {} layers and {} images: {}", snapshot.layers().count(), images.len(), images.join(", "));
    Ok(())
}

fn check(dir: &Path) -> Result<()> {
    let store = Store::open_read_only(options(dir))?;
    let (layout, snapshot) = (store.layout()?.ok_or("no store")?, store.read()?.ok_or("no store")?);
    for layer in snapshot.layers() {
        let (Some(id), Some(want)) = (layer.id(), layer.diff_digest().and_then(|digest| digest.known())) else {
            return Err("a layer without a digest".into());
        };
        let diff = layout.overlay.dir(id.as_str())?.dir("diff")?;
        match extract::verify(&diff, &layout.layers.file(split_name(id))?, want, Depth::Contents, None)? {
            None => println!("   layer {} is {}", short(id.as_str()), short(want.hex())),
            Some(why) => return Err(format!("layer {id}: {why}").into()),
        }
    }
    Ok(())
}

fn podman(dir: &Path) {
    let root = dir.join("storage");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut command = Command::new("podman");
    command.args([
        "--root",
        &root.display().to_string(),
        "--runroot",
        &dir.join("run").display().to_string(),
        "--storage-driver",
        "overlay",
    ]);
    command.args(["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]).env_remove("CONTAINERS_STORAGE_CONF");
    if let Ok(output) = command.output() {
        println!("\n6. podman is here too; `podman images` on the same store says:");
        String::from_utf8_lossy(&output.stdout).lines().for_each(|line| println!("   {line}"));
    }
}

fn short(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}
