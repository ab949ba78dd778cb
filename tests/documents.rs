//! The documents hold together: links lead somewhere, commands exist, and nothing names what a reader has not got.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// Every file of the project, by its path from the top.
fn files() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![root().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if name == "target" || name == ".git" || name == "corpus" || name == "artifacts" {
                continue;
            }
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => {
                    found.insert(entry.path().strip_prefix(root()).unwrap().to_owned());
                }
                _ => {}
            }
        }
    }
    assert!(found.contains(Path::new("Cargo.toml")), "the walk is broken");
    found
}

/// The targets of the links in a document, without those to other sites and without fragments.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter_map(|t| t.split('#').next()).filter(|t| !t.is_empty() && !t.contains("://")).collect()
}

#[test]
fn every_link_in_a_document_leads_to_a_file() {
    for path in files().iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(root().join(path)).unwrap();
        for link in links(&text) {
            let target = root().join(path).parent().unwrap().join(link);
            assert!(target.exists(), "{} links to {link}, which is not there", path.display());
        }
    }
}

#[test]
fn the_readme_links_to_every_document() {
    let readme = readme();
    let linked: BTreeSet<PathBuf> = links(&readme).into_iter().map(PathBuf::from).collect();
    let documents: BTreeSet<PathBuf> = files().into_iter().filter(|path| path.starts_with("docs")).collect();
    let forgotten: Vec<_> = documents.difference(&linked).collect();
    assert_eq!(forgotten, Vec::<&PathBuf>::new());
}

#[test]
fn the_commands_of_the_readme_exist() {
    let readme = readme();
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.contains(&"scripts/test"), "the test command is missing");
    let quickstart = "cargo run --release --example quickstart";
    assert_eq!(
        commands.contains(&quickstart),
        root().join("examples/quickstart.rs").exists(),
        "the README gives the quickstart as a command if and only if it is there"
    );
    for command in commands {
        if let Some(name) = command.strip_prefix("cargo run --release --example ") {
            assert!(root().join("examples").join(name).with_extension("rs").exists(), "{command}");
        } else if command.starts_with("scripts/") {
            let script = command.split(' ').next().unwrap();
            let meta = fs::metadata(root().join(script)).unwrap_or_else(|e| panic!("{command}: {e}"));
            assert_ne!(meta.permissions().mode() & 0o111, 0, "{command} cannot be executed");
        }
    }
}

#[test]
fn ci_runs_the_command_of_the_readme() {
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for command in ["scripts/test", "cargo fmt --check", "cargo clippy", "cargo doc"] {
        assert!(ci.lines().any(|line| line.split_once(command).is_some_and(|(before, _)| !before.contains("step"))), "{command}");
    }
}

#[test]
fn no_file_names_a_package_registry_or_one_machine() {
    // In pieces, so that this file does not name them either.
    let needles: Vec<String> = [
        ["crates", ".io"],
        ["static.rust-lang", ".org"],
        ["deb.debian", ".org"],
        ["snapshot.debian", ".org"],
        ["archive.ubuntu", ".com"],
        ["pypi", ".org"],
        ["registry.npmjs", ".org"],
        ["proxy.golang", ".org"],
        ["/work/", "shared"],
        ["/work/", "main"],
        ["/tmp/", "wt"],
        ["/tmp/", "peers"],
    ]
    .map(|pieces| pieces.concat())
    .into();
    for path in files() {
        // Written by cargo: every entry says where it came from.
        if path.file_name().is_some_and(|name| name == "Cargo.lock") {
            continue;
        }
        let bytes = fs::read(root().join(&path)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for needle in &needles {
            assert!(!text.contains(needle.as_str()), "{} names {needle}", path.display());
        }
    }
}
