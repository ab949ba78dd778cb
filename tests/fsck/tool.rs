//! What `scripts/fsck-matrix` asks of this binary.

use std::path::Path;
use std::process::ExitCode;

use crate::injury::{self, Injury, Target};
use crate::place;
use crate::snapshot::Snapshot;

/// Does it, if the arguments are for this.
pub fn run() -> Option<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--list-injuries"] => list(),
        ["--inflict", name, store] => inflict(name, Path::new(store)),
        ["--layouts", dir] => {
            place::write_layouts(Path::new(dir), false);
            Ok(())
        }
        ["--snapshot", store, file] => snapshot(Path::new(store), Path::new(file)),
        ["--same", file, store, name] => same(Path::new(file), Path::new(store), name),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    })
}

fn list() -> Result<(), String> {
    for Injury { name, row, level, codes, .. } in injury::all() {
        let class = injury::named(name).map_or("", Injury::class);
        println!("{name}\t{row}\t{}\t{class}\t{}", level.word(), codes.join(" "));
    }
    Ok(())
}

fn known(name: &str) -> Result<&'static Injury, String> {
    injury::named(name).ok_or_else(|| format!("no injury is called {name}"))
}

fn inflict(name: &str, store: &Path) -> Result<(), String> {
    (known(name)?.hurt)(&Target::find(store)?)
}

fn snapshot(store: &Path, file: &Path) -> Result<(), String> {
    let bytes = serde_json::to_vec(&Snapshot::of(store)).map_err(|error| error.to_string())?;
    std::fs::write(file, bytes).map_err(|error| error.to_string())
}

/// Whether the store is what it was, as far as an injury of this name can be healed.
fn same(file: &Path, store: &Path, name: &str) -> Result<(), String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let before: Snapshot = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let mut differences = before.differences(&Snapshot::of(store), known(name)?.exempt);
    // Every podman that starts adds files of its own.
    differences.retain(|line| {
        let ours = ["other overlay-images/", "other overlay-layers/"].iter().any(|part| line.starts_with(part));
        let own = ["overlay .has-mount-program", "other overlay-layers/volatile-"].iter().any(|part| line.starts_with(part));
        !own && (ours || !line.starts_with("other ") || !line.contains("    was not there"))
    });
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}
