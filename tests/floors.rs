//! The architecture as a test: who imports whom, who may change the disk, who may be asynchronous.
//!
//! The table is that of `docs/architecture.md`, section 2. A module that is not in it fails: decide its floor first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "common/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use source::{code, crate_paths, has_word, without_tests};

/// Module and floor; imports go downwards only.
const FLOORS: &[(&str, u8)] = &[
    ("causes", 0),
    ("ids", 0),
    ("reference", 1),
    ("fsio", 0),
    ("config", 1),
    ("lock", 1),
    ("journal", 1),
    ("history", 1),
    ("metadata", 1),
    ("overlay", 1),
    ("podman_db", 1),
    ("tarsplit", 1),
    ("extract", 2),
    ("layout", 2),
    ("clean", 3),
    ("pins", 3),
    ("partial", 3),
    ("plan", 3),
    ("error", 3),
    ("recovery", 4),
    ("txn", 5),
    ("store", 6),
    ("read", 6),
    ("fsck", 7),
    ("registry", 7),
    ("pull", 8),
    ("settle", 8),
    ("cli", 9),
    ("main", 9),
];

/// Neighbours on one floor of which the first may import the second.
const NEIGHBOURS: &[(&str, &str)] = &[("fsio", "ids"), ("plan", "error"), ("store", "read"), ("main", "cli")];

/// Where an asynchronous runtime may be named.
const ASYNC: &[&str] = &["registry", "pull", "cli", "main"];

const ASYNC_CRATES: &[&str] = &["tokio", "tokio_util", "futures_util", "reqwest", "oci_client"];

/// Functions of `std::fs`, `fs_err`, `rustix::fs` and `nix` that change the disk, whichever way they are imported.
const CHANGES: &[&str] = &[
    "chmod",
    "chmodat",
    "chown",
    "chownat",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fdatasync",
    "fremovexattr",
    "fsetxattr",
    "fsync",
    "ftruncate",
    "futimens",
    "lchown",
    "linkat",
    "lremovexattr",
    "lsetxattr",
    "mkdirat",
    "mknodat",
    "pwrite",
    "pwritev",
    "removexattr",
    "renameat",
    "renameat2",
    "renameat_with",
    "setxattr",
    "symlinkat",
    "sync_file_range",
    "syncfs",
    "unlinkat",
    "utimensat",
    "OpenOptions",
    "DirBuilder",
    "NamedTempFile",
    "TempDir",
    "tempdir",
    "tempfile",
];

/// The same, for names so common that only the path in front tells.
const CHANGES_UNDER_FS: &[&str] = &[
    "copy",
    "create_dir",
    "create_dir_all",
    "hard_link",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "rename",
    "set_permissions",
    "soft_link",
    "symlink",
    "write",
    "File::create",
    "File::create_new",
    "File::options",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "truncate",
];

const WRITE_FLAGS: &[&str] = &["CREATE", "TRUNC", "TMPFILE", "WRONLY", "RDWR", "APPEND"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// One source file: where, in which module, its code without comments and strings.
struct Source {
    path: PathBuf,
    module: String,
    code: String,
    /// The code without `#[cfg(test)]` items; empty for a file that is a test.
    shipped: String,
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut dirs = vec![src.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(&src).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
                let module = first.trim_end_matches(".rs").to_owned();
                let code = code(&fs::read_to_string(&path).unwrap());
                let test = inside.iter().any(|part| part == "tests.rs" || part == "tests");
                let shipped = if test { String::new() } else { without_tests(&code) };
                found.push(Source { path: inside.to_owned(), module, code, shipped });
            }
        }
    }
    assert!(found.len() > 10, "only {} files under src: the walk is broken", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Why `from` may not import `to`, if it may not.
fn import_fault(from: &str, to: &str) -> Option<String> {
    let (Some(above), Some(below)) = (floor(from), floor(to)) else {
        let unknown = if floor(from).is_none() { from } else { to };
        return Some(format!("module {unknown} has no floor in the table"));
    };
    let allowed = from == to || below < above || NEIGHBOURS.contains(&(from, to));
    (!allowed).then(|| format!("{from} (floor {above}) imports {to} (floor {below})"))
}

/// Every use of a disk-changing call in `code`.
fn disk_changes(code: &str) -> Vec<String> {
    let mut found: Vec<String> = CHANGES.iter().filter(|call| has_word(code, call)).map(|call| (*call).to_owned()).collect();
    for call in CHANGES_UNDER_FS {
        found.extend(["fs", "fs_err", "unistd", "sys"].iter().map(|m| format!("{m}::{call}")).filter(|path| has_word(code, path)));
    }
    found.extend(WRITE_FLAGS.iter().map(|flag| format!("OFlags::{flag}")).filter(|path| has_word(code, path)));
    // `use std::fs::{rename, ..}` and the like.
    for group in source::groups(code, &["std::fs::", "fs_err::", "rustix::fs::", "unix::fs::"]) {
        found.extend(group.into_iter().filter(|name| CHANGES_UNDER_FS.contains(&name.as_str())));
    }
    found
}

fn assert_none(what: &str, faults: &BTreeSet<String>) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.iter().cloned().collect::<Vec<_>>().join("\n  "));
}

#[test]
fn imports_go_downwards_only() {
    let sources = sources();
    let mut faults = BTreeSet::new();
    for file in sources.iter().filter(|file| file.module != "lib") {
        let children: Vec<&str> = sources
            .iter()
            .filter(|other| other.module == file.module && other.path != file.path)
            .filter_map(|other| other.path.file_stem()?.to_str())
            .collect();
        for target in crate_paths(&file.code) {
            // `super::plan` is the crate's plan unless this module has a plan of its own.
            let (name, certain) = (target.name.as_str(), target.from_root);
            if !certain && (floor(name).is_none() || children.contains(&name)) {
                continue;
            }
            if let Some(fault) = import_fault(&file.module, name) {
                faults.insert(format!("src/{}: {fault}", file.path.display()));
            }
        }
    }
    assert_none("imports that do not go downwards", &faults);
}

#[test]
fn every_module_has_a_floor() {
    let unknown: BTreeSet<String> =
        sources().iter().filter(|file| file.module != "lib" && floor(&file.module).is_none()).map(|file| file.module.clone()).collect();
    assert_none("modules without a floor", &unknown);
}

#[test]
fn only_fsio_changes_the_disk() {
    let mut faults = BTreeSet::new();
    for file in sources().iter().filter(|file| file.module != "fsio") {
        for call in disk_changes(&file.shipped) {
            // The command line may write the file that its user names (--digestfile); it has no handle on the store.
            if file.module != "cli" || call != "fs_err::File::create" {
                faults.insert(format!("src/{}: {call}", file.path.display()));
            }
        }
    }
    assert_none("changes of the disk outside fsio", &faults);
    assert!(
        sources().iter().any(|file| file.module == "fsio" && !disk_changes(&file.shipped).is_empty()),
        "nothing is found in fsio either"
    );
}

#[test]
fn the_core_is_blocking() {
    let mut faults = BTreeSet::new();
    for file in sources().iter().filter(|file| !ASYNC.contains(&file.module.as_str())) {
        for name in ASYNC_CRATES.iter().filter(|name| has_word(&file.code, name)) {
            faults.insert(format!("src/{}: {name}", file.path.display()));
        }
    }
    assert_none("asynchronous code below the registry", &faults);
}

#[test]
fn nothing_is_unsafe() {
    let unsafe_files = sources().iter().filter(|file| has_word(&file.code, "unsafe")).map(|file| file.path.display().to_string()).collect();
    assert_none("files with unsafe code", &unsafe_files);
}

#[test]
fn the_rules_themselves_see_what_they_should() {
    let imports: &[(&str, &str, bool)] = &[
        ("txn", "plan", true),
        ("plan", "txn", false),
        ("journal", "metadata", false),
        ("metadata", "metadata", true),
        ("store", "read", true),
        ("read", "store", false),
        ("layout", "extract", false),
        ("novel", "ids", false),
        ("txn", "novel", false),
    ];
    for (from, to, allowed) in imports {
        assert_eq!(import_fault(from, to).is_none(), *allowed, "{from} -> {to}");
    }
    let changes: &[(&str, &[&str])] = &[
        ("std::fs::rename(a, b)", &["fs::rename"]),
        ("use std::fs::{self, read, rename};", &["rename"]),
        ("fs_err::write(p, b)", &["fs_err::write"]),
        ("use rustix::fs::renameat_with as r;", &["renameat_with"]),
        ("open(p, OFlags::RDONLY | OFlags::CREATE)", &["OFlags::CREATE"]),
        ("dir.rename(a, b); file.sync_all(); fs::read(p); writeln!(out)", &[]),
    ];
    for (code, expected) in changes {
        assert_eq!(disk_changes(code), *expected, "{code}");
    }
}
