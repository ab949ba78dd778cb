//! What is kept of downloads: a pull that failed is not begun from nothing again, and what is kept never does harm.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cstor_rs::fsio::{Hook, Op};
use cstor_rs::ids::Digest;
use cstor_rs::partial::{self, Limits, Usage};
use cstor_rs::pull::{PullError, PullOptions, Pulled, pull};
use cstor_rs::store::{Store, StoreOptions};
use registry::{Compression, Fault, ImageSpec, Pushed};
use serde_json::json;
use world::{World, lines, said};

/// Bytes that no compression makes smaller, different for each seed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A layer that is a blob of its own, uncompressed: header, contents, two blocks of zeros.
fn layer(seed: u32, len: usize) -> Vec<u8> {
    registry::tar(&[(&format!("file-{seed}"), &noise(seed, len))])
}

/// An image of these layers.
fn push(world: &World, name: &str, layers: &[Vec<u8>]) -> Pushed {
    let spec = layers.iter().fold(ImageSpec::new(), |spec, tar| spec.layer(tar, Compression::None));
    world.registry.add_image(name, "latest", &spec)
}

fn dir(world: &World) -> PathBuf {
    world.root().join("cstor-rs/partial")
}

fn path(world: &World, blob: &Digest) -> PathBuf {
    dir(world).join(format!("sha256-{}", blob.hex()))
}

/// What is kept, by name with its length.
fn kept(world: &World) -> BTreeMap<String, u64> {
    let Ok(entries) = fs::read_dir(dir(world)) else { return BTreeMap::new() };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.path().symlink_metadata().unwrap().len())
        })
        .collect()
}

fn files(list: &[(&Digest, usize)]) -> BTreeMap<String, u64> {
    list.iter().map(|(blob, len)| (format!("sha256-{}", blob.hex()), *len as u64)).collect()
}

/// What was asked for of these blobs since the last look: the position in the list and the range.
fn asked(world: &World, blobs: &[&Digest]) -> Vec<(usize, String)> {
    let requests = world.registry.requests();
    world.registry.forget();
    let one = |request: registry::Request| {
        let at = blobs.iter().position(|blob| request.path.ends_with(blob.as_str()))?;
        Some((at, request.range.unwrap_or_default()))
    };
    requests.into_iter().filter_map(one).collect()
}

fn images(world: &World) -> usize {
    world.json(&["images", "--json"]).as_array().unwrap().len()
}

/// Puts a file where a pull would have left it.
fn put(world: &World, blob: &Digest, bytes: &[u8]) {
    fs::create_dir_all(dir(world)).unwrap();
    for private in [world.root(), world.root().join("cstor-rs"), dir(world)] {
        fs::set_permissions(private, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(path(world, blob), bytes).unwrap();
    fs::set_permissions(path(world, blob), fs::Permissions::from_mode(0o600)).unwrap();
}

fn no_range(list: &[usize]) -> Vec<(usize, String)> {
    list.iter().map(|at| (*at, String::new())).collect()
}

/// An OS image and five apps on one base, one transaction, and the last app's blob is not there.
#[test]
fn a_batch_that_failed_fetches_no_blob_twice() {
    let world = World::new();
    let os = [layer(1, 900_000), layer(2, 5000)];
    let base = layer(3, 300_000);
    let apps: Vec<Vec<u8>> = (10..15).map(|seed| layer(seed, 20_000)).collect();
    let names = ["os", "a", "b", "c", "d", "e"];
    let mut pushed = vec![push(&world, "os", &os)];
    pushed.extend(names[1..].iter().zip(&apps).map(|(name, own)| push(&world, name, &[base.clone(), own.clone()])));
    let blobs = [
        (&pushed[0].layers[0], os[0].len()),
        (&pushed[0].layers[1], os[1].len()),
        (&pushed[1].layers[0], base.len()),
        (&pushed[1].layers[1], apps[0].len()),
        (&pushed[2].layers[1], apps[1].len()),
        (&pushed[3].layers[1], apps[2].len()),
        (&pushed[4].layers[1], apps[3].len()),
        (&pushed[5].layers[1], apps[4].len()),
    ];
    let digests = blobs.map(|(digest, _)| digest);
    world.registry.script(digests[7].as_str(), 1, Fault::Status(404, "gone"));
    let output = world.pull(&["--atomic", "--jobs", "1"], &names);
    assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{}", said(&output));
    assert_eq!(asked(&world, &digests), no_range(&[0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(images(&world), 0);
    assert_eq!(kept(&world), files(&blobs[..7]), "what came is whole; of what did not there is not even a name");
    let bytes: usize = blobs[..7].iter().map(|(_, len)| len).sum();
    let info = world.json(&["info", "--json"]);
    assert_eq!((&info["partial_blobs"], &info["partial_size"]), (&json!(7), &json!(bytes)));
    let text = world.ok(&["info"]);
    assert!(text.contains(&format!("partial_blobs: 7\npartial_size: {bytes}\n")), "{text}");

    // Cut, this time.
    world.registry.script(digests[7].as_str(), 1, Fault::CloseAfter(7000));
    assert_eq!(world.pull(&["--atomic", "--jobs", "1"], &names).status.code(), Some(1));
    assert_eq!(asked(&world, &digests), no_range(&[7]));
    let mut all = files(&blobs[..7]);
    all.insert(format!("sha256-{}", digests[7].hex()), 7000);
    assert_eq!((images(&world), kept(&world)), (0, all));

    let output = world.pull(&["--atomic", "--jobs", "1"], &names);
    assert_eq!(lines(&output), pushed.iter().map(|one| one.config.hex()).collect::<Vec<_>>(), "{}", said(&output));
    assert_eq!(asked(&world, &digests), [(7, "bytes=7000-".to_owned())]);
    assert_eq!((images(&world), kept(&world)), (6, BTreeMap::new()));
}

/// Starts a pull whose second blob stalls after so many bytes, and waits until they are in the file.
fn stalled(world: &World, name: &str, blob: &Digest, after: usize) -> Child {
    world.registry.script(blob.as_str(), 1, Fault::StallAfter(after));
    let mut command = world.pulling(&["--jobs", "1"], &[name]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while fs::metadata(path(world, blob)).map_or(0, |meta| meta.len()) < after as u64 {
        assert_eq!(child.try_wait().unwrap(), None, "the pull ended");
        std::thread::yield_now();
    }
    child
}

/// The stretch that is written at once: a killed process may lose less than this of what it had.
const STRETCH: usize = 256 << 10;

#[test]
fn a_killed_or_interrupted_pull_is_resumed_by_the_next_one() {
    use rustix::process::{Pid, Signal, kill_process};
    for (signal, code) in [(Signal::KILL, None), (Signal::INT, Some(130)), (Signal::TERM, Some(143))] {
        let world = World::new();
        let layers = [layer(1, 50_000), layer(2, 3 * STRETCH)];
        let one = push(&world, "one", &layers);
        let mut child = stalled(&world, "one", &one.layers[1], STRETCH);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        assert_eq!(kept(&world), files(&[(&one.layers[0], layers[0].len()), (&one.layers[1], STRETCH)]), "{signal:?}");
        world.registry.forget();
        let output = world.pull(&[], &["one"]);
        assert_eq!(lines(&output), [one.config.hex()], "{}", said(&output));
        let blobs = [&one.layers[0], &one.layers[1]];
        assert_eq!(asked(&world, &blobs), [(1, format!("bytes={STRETCH}-"))], "{signal:?}");
        assert_eq!(kept(&world), BTreeMap::new());
    }
}

/// Whatever lies under the name of a blob: the pull succeeds, with these requests, and leaves this.
#[test]
fn what_is_kept_is_not_trusted() {
    type Damage = fn(&World, &Digest, &[u8]);
    let whole = &[""][..];
    let table: &[(&str, Damage, &[&str], usize)] = &[
        ("whole", |w, d, b| put(w, d, b), &[], 0),
        ("a prefix", |w, d, b| put(w, d, &b[..1000]), &["bytes=1000-"], 0),
        ("all but the last byte", |w, d, b| put(w, d, &b[..b.len() - 1]), &["bytes=LAST-"], 0),
        ("empty", |w, d, _| put(w, d, b""), whole, 0),
        (
            "a whole one with another bit",
            |w, d, b| {
                let mut bytes = b.to_vec();
                bytes[5000] ^= 4;
                put(w, d, &bytes);
            },
            whole,
            0,
        ),
        (
            "a prefix with another bit",
            |w, d, b| {
                let mut bytes = b[..20_000].to_vec();
                bytes[5000] ^= 4;
                put(w, d, &bytes);
            },
            &["bytes=20000-", ""],
            0,
        ),
        // As a power cut leaves it.
        ("zeros of the right length", |w, d, b| put(w, d, &vec![0; b.len()]), whole, 0),
        ("zeros of less", |w, d, _| put(w, d, &[0; 9000]), &["bytes=9000-", ""], 0),
        ("too long", |w, d, b| put(w, d, &[b, b"x"].concat()), whole, 0),
        (
            "a mode that lets others write",
            |w, d, b| {
                put(w, d, &b[..1000]);
                fs::set_permissions(path(w, d), fs::Permissions::from_mode(0o666)).unwrap();
            },
            whole,
            0,
        ),
        (
            "a second name",
            |w, d, b| {
                put(w, d, &b[..1000]);
                fs::hard_link(path(w, d), w.temp.path().join("other")).unwrap();
            },
            whole,
            0,
        ),
        (
            "a link to the right bytes",
            |w, d, b| {
                put(w, d, b);
                fs::rename(path(w, d), w.temp.path().join("other")).unwrap();
                symlink(w.temp.path().join("other"), path(w, d)).unwrap();
            },
            whole,
            0,
        ),
        (
            "a FIFO",
            |w, d, _| {
                put(w, d, b"");
                fs::remove_file(path(w, d)).unwrap();
                nix::unistd::mkfifo(&path(w, d), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
            },
            whole,
            0,
        ),
        (
            "a directory",
            |w, d, _| {
                put(w, d, b"");
                fs::remove_file(path(w, d)).unwrap();
                fs::create_dir(path(w, d)).unwrap();
            },
            whole,
            1,
        ),
    ];
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for (what, damage, requests, left) in table {
            let world = World::new();
            let tar = layer(7, 100_000);
            let one = world.registry.add_image("one", "latest", &ImageSpec::new().layer(&tar, compression));
            let (blob, bytes) = (&one.layers[0], compression.compress(&tar));
            assert!(bytes.len() > 90_000);
            damage(&world, blob, &bytes);
            let output = world.pull(&["--json"], &["one"]);
            assert!(output.status.success(), "{what}, {compression:?}: {}", said(&output));
            let last = (bytes.len() - 1).to_string();
            let wanted: Vec<_> = requests.iter().map(|range| (0, range.replace("LAST", &last))).collect();
            assert_eq!(asked(&world, &[blob]), wanted, "{what}, {compression:?}");
            assert_eq!(kept(&world).len(), *left, "{what}, {compression:?}");
            let diff = glob(&world.root().join("overlay"), "diff/file-7");
            assert_eq!(fs::read(diff).unwrap(), noise(7, 100_000), "{what}, {compression:?}");
            let other = world.temp.path().join("other");
            if other.exists() {
                assert_eq!(fs::read(&other).unwrap(), bytes[..fs::metadata(&other).unwrap().len() as usize], "{what}: it is not ours");
            }
        }
    }
}

/// The only `overlay/*/NAME`.
fn glob(overlay: &Path, name: &str) -> PathBuf {
    let mut found = fs::read_dir(overlay).unwrap().map(|entry| entry.unwrap().path().join(name)).filter(|path| path.exists());
    let path = found.next().unwrap();
    assert_eq!(found.next(), None);
    path
}

#[test]
fn a_cache_that_is_none_is_left_alone() {
    type Damage = fn(&World, &Path);
    let damages: &[(&str, Damage)] = &[
        ("a link to another directory", |world, dir| {
            let other = world.temp.path().join("elsewhere");
            fs::create_dir(&other).unwrap();
            symlink(other, dir).unwrap();
        }),
        ("a file", |_, dir| fs::write(dir, b"x").unwrap()),
        ("a directory that others may write to", |_, dir| {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let world = World::new();
        let one = push(&world, "one", &[layer(1, 5000), layer(2, 5000)]);
        put(&world, &one.layers[0], b"");
        fs::remove_dir_all(dir(&world)).unwrap();
        damage(&world, &dir(&world));
        let seen = dir(&world).symlink_metadata().unwrap();
        world.registry.script(one.layers[1].as_str(), 1, Fault::Status(404, "gone"));
        assert_eq!(world.pull(&["--jobs", "1"], &["one"]).status.code(), Some(1), "{what}");
        assert_eq!(kept(&world), BTreeMap::new(), "{what}");
        assert!(world.pull(&["--jobs", "1"], &["one"]).status.success(), "{what}");
        assert_eq!(asked(&world, &[&one.layers[0], &one.layers[1]]), no_range(&[0, 1, 0, 1]), "{what}");
        let after = dir(&world).symlink_metadata().unwrap();
        assert_eq!((after.ino(), after.mode()), (seen.ino(), seen.mode()), "{what}");
    }
}

/// A registry that cannot resume, with no attempt to spare: it is as if nothing had been kept.
#[test]
fn a_registry_that_refuses_ranges_is_read_from_the_beginning() {
    for (fault, more) in [
        (Fault::IgnoreRange, false),
        (Fault::ContentRange("rubbish"), true),
        (Fault::ContentRange("bytes 999-5/6"), true),
        (Fault::Status(416, "no"), true),
        (Fault::Status(400, "what?"), true),
        (Fault::Status(501, "no ranges"), true),
    ] {
        let world = World::new();
        let tar = layer(1, 30_000);
        let one = push(&world, "one", std::slice::from_ref(&tar));
        put(&world, &one.layers[0], &tar[..1000]);
        let case = format!("{fault:?}");
        world.registry.script(one.layers[0].as_str(), 1, fault);
        let output = world.pull(&[], &["one"]);
        assert_eq!(lines(&output), [one.config.hex()], "{case}: {}", said(&output));
        let mut wanted = vec![(0, "bytes=1000-".to_owned())];
        wanted.extend(more.then(|| (0, String::new())));
        assert_eq!(asked(&world, &[&one.layers[0]]), wanted, "{case}");
    }
    // One that does not answer at all, or does not have it, is asked no more often for that; what is kept stays.
    for fault in [Fault::Status(404, "gone"), Fault::Status(401, "no"), Fault::StallAfter(0), Fault::CloseAfter(0)] {
        let world = World::new();
        let tar = layer(1, 30_000);
        let one = push(&world, "one", std::slice::from_ref(&tar));
        put(&world, &one.layers[0], &tar[..1000]);
        let case = format!("{fault:?}");
        world.registry.script(one.layers[0].as_str(), 1, fault);
        assert_eq!(world.pull(&["--idle-timeout", "500ms"], &["one"]).status.code(), Some(1), "{case}");
        assert_eq!(asked(&world, &[&one.layers[0]]), [(0, "bytes=1000-".to_owned())], "{case}");
        assert_eq!(kept(&world), files(&[(&one.layers[0], 1000)]), "{case}");
    }
}

#[test]
fn a_blob_that_another_process_is_fetching_is_fetched_without() {
    let world = World::new();
    let tar = layer(1, 2 * STRETCH);
    let one = push(&world, "one", std::slice::from_ref(&tar));
    let blob = &one.layers[0];
    let mut first = stalled(&world, "one", blob, STRETCH);
    world.registry.forget();
    let output = world.pull(&[], &["one"]);
    assert_eq!(lines(&output), [one.config.hex()], "{}", said(&output));
    assert_eq!(asked(&world, &[blob]), no_range(&[0]));
    assert_eq!(kept(&world), files(&[(blob, STRETCH)]), "it is not ours to remove");
    let store = open(&world, Arc::new(Log::default()));
    let layout = store.layout().unwrap().unwrap();
    let there = Usage { blobs: 1, bytes: STRETCH as u64 };
    assert_eq!((partial::usage(&layout).unwrap(), partial::clear(&layout).unwrap()), (there, Usage::default()), "it is in use");
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!((partial::clear(&layout).unwrap(), partial::usage(&layout).unwrap()), (there, Usage::default()));
    assert_eq!(kept(&world), BTreeMap::new());
}

#[test]
fn a_locked_file_is_neither_used_nor_removed() {
    let world = World::new();
    let tar = layer(1, 30_000);
    let one = push(&world, "one", std::slice::from_ref(&tar));
    put(&world, &one.layers[0], b"old");
    let held = File::options().read(true).write(true).open(path(&world, &one.layers[0])).unwrap();
    held.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
    let range = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETLK(&range)).unwrap();
    assert_eq!(lines(&world.pull(&[], &["one"])), [one.config.hex()]);
    assert_eq!(asked(&world, &[&one.layers[0]]), no_range(&[0]));
    assert_eq!(fs::read(path(&world, &one.layers[0])).unwrap(), b"old");
}

/// One layer twice in an image is fetched once.
#[test]
fn a_blob_of_two_layers_is_fetched_once() {
    let world = World::new();
    let tar = layer(1, 30_000);
    let one = push(&world, "one", &[tar.clone(), layer(2, 500), tar]);
    assert_eq!(one.layers[0], one.layers[2]);
    assert_eq!(lines(&world.pull(&["--jobs", "1"], &["one"])), [one.config.hex()]);
    assert_eq!(asked(&world, &[&one.layers[0], &one.layers[1]]), no_range(&[0, 1]));
    assert_eq!(kept(&world), BTreeMap::new());
}

/// Blobs that are no good are not kept, however they came.
#[test]
fn wrong_bytes_are_not_kept() {
    let world = World::new();
    let tar = layer(1, 30_000);
    let one = push(&world, "one", std::slice::from_ref(&tar));
    world.registry.script(one.layers[0].as_str(), 1, Fault::WrongBytes);
    assert_eq!(world.pull(&[], &["one"]).status.code(), Some(1));
    assert_eq!((asked(&world, &[&one.layers[0]]), kept(&world)), (no_range(&[0]), BTreeMap::new()));
    // Of a blob that is as declared and unpacks to something else there is no use either, now or later.
    let spec = ImageSpec::new().raw_layer(tar, Digest::of(b"another"), Compression::None);
    let lie = world.registry.add_image("lie", "latest", &spec);
    for _ in 0..2 {
        assert_eq!(world.pull(&[], &["lie"]).status.code(), Some(1));
        assert_eq!((asked(&world, &[&lie.layers[0]]), kept(&world)), (no_range(&[0]), BTreeMap::new()));
    }
}

fn open(world: &World, hook: Arc<dyn Hook>) -> Store {
    Store::open(StoreOptions::new(world.root(), world.temp.path().join("run")).hook(hook)).unwrap()
}

/// A pull through the library, one layer after the other, with no attempt to spare.
fn pull_with(world: &World, hook: Arc<dyn Hook>, limits: Limits, name: &str) -> Result<Vec<Pulled>, Box<PullError>> {
    let mut options = PullOptions { partial: limits, jobs: 1, ..PullOptions::default() };
    (options.registry.tls_verify, options.registry.retries) = (Some(false), 0);
    let place = [world.registry.reference(&format!("{name}:latest")).parse().unwrap()];
    pull(&open(world, hook), &place, &options, &(), &AtomicBool::new(false)).map_err(Box::new)
}

/// Remembers what was synced, and what was done in the cache.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Hook for Log {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let text = format!("{op:?}");
        let kind = text.split('(').next().unwrap();
        if text.contains("/cstor-rs/partial") || kind == "SyncFs" {
            self.0.lock().unwrap().push(kind.to_owned());
        }
        Ok(())
    }
}

/// It costs no sync of its own, and is gone before the one that there is.
#[test]
fn nothing_of_it_is_synced() {
    let world = World::new();
    push(&world, "one", &[layer(1, 3000), layer(2, 300_000)]);
    let log = Arc::new(Log::default());
    pull_with(&world, log.clone(), Limits::default(), "one").unwrap();
    let mut log = log.0.lock().unwrap().clone();
    // How many there are depends on how the network cuts the blob.
    log.dedup_by(|a, b| a == b && a == "Write");
    assert_eq!(log, ["Mkdir", "Create", "Write", "Create", "Write", "Unlink", "Unlink", "SyncFs"]);
    assert_eq!(kept(&world), BTreeMap::new());
    // Whoever wants none has none.
    let world = World::new();
    let log = Arc::new(Log::default());
    push(&world, "one", &[layer(1, 3000)]);
    pull_with(&world, log.clone(), Limits { bytes: 0, ..Limits::default() }, "one").unwrap();
    assert_eq!(*log.0.lock().unwrap(), ["SyncFs"], "with no bytes to keep there is not even a directory");
}

/// Fails the changes in one place, or those of one kind there, from number `from` on, as a full disk does.
struct Full {
    place: &'static str,
    kind: &'static str,
    from: usize,
    errno: i32,
    seen: AtomicUsize,
    /// Only as long as something is kept there.
    while_kept: Option<PathBuf>,
}

impl Hook for Full {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let text = format!("{op:?}");
        let kept = |dir: &PathBuf| fs::read_dir(dir).is_ok_and(|list| list.count() > 0);
        let here = text.contains(self.place) && text.starts_with(self.kind) && self.while_kept.as_ref().is_none_or(kept);
        if here && self.seen.fetch_add(1, Ordering::SeqCst) >= self.from {
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        Ok(())
    }
}

#[test]
fn an_error_of_the_cache_never_fails_a_pull() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EROFS] {
        for kind in ["Mkdir", "Create", "Write", "Unlink", ""] {
            for from in 0..9 {
                let world = World::new();
                let one = push(&world, "one", &[layer(1, 3000), layer(2, 300_000)]);
                let full = Full { place: "/cstor-rs/partial", kind, from, errno, seen: AtomicUsize::new(0), while_kept: None };
                let full = Arc::new(full);
                let pulled = pull_with(&world, full.clone(), Limits::default(), "one").unwrap();
                assert_eq!(pulled[0].id.as_str(), one.config.hex(), "{kind} {from}");
                assert_eq!(asked(&world, &[&one.layers[0], &one.layers[1]]), no_range(&[0, 1]), "{kind} {from}");
                let failed = full.seen.load(Ordering::SeqCst) > from;
                let left = kept(&world).len();
                // What cannot be removed stays, for the next pull to remove.
                if !(failed && (kind.is_empty() || kind == "Unlink")) {
                    assert_eq!(left, 0, "{kind} {from}");
                }
            }
        }
    }
}

/// What is kept for another time is no reason for the disk to be full now.
#[test]
fn a_full_disk_gets_the_space_back() {
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        for place in ["/cstor-rs/stage", "/.cstor-rs-"] {
            for from in [0, 1, 2, 5] {
                let world = World::new();
                let one = push(&world, "one", &[layer(1, 3000), layer(2, 300_000)]);
                let while_kept = Some(dir(&world));
                let full = Arc::new(Full { place, kind: "Write", from, errno, seen: AtomicUsize::new(0), while_kept });
                let pulled = pull_with(&world, full.clone(), Limits::default(), "one");
                assert_eq!(pulled.unwrap()[0].id.as_str(), one.config.hex(), "{place} {from}");
                assert_eq!(kept(&world), BTreeMap::new());
            }
        }
    }
    // One that stays full fails the pull after one more attempt.
    let world = World::new();
    let one = push(&world, "one", &[layer(1, 3000)]);
    let full = Full { place: "/cstor-rs/stage", kind: "Write", from: 0, errno: libc::ENOSPC, seen: AtomicUsize::new(0), while_kept: None };
    let error = pull_with(&world, Arc::new(full), Limits::default(), "one").unwrap_err();
    assert!(matches!(*error, PullError::Txn(_)), "{error:?}");
    assert_eq!((asked(&world, &[&one.layers[0]]), kept(&world)), (no_range(&[0, 0]), BTreeMap::new()));
}

/// Puts files of 1000 bytes that were written so many days ago; the last is the oldest.
fn old(world: &World, days: &[i64]) -> Vec<Digest> {
    let now = SystemTime::now();
    let one = |days: &i64| {
        let blob = Digest::of(&days.to_le_bytes());
        put(world, &blob, &[1; 1000]);
        let shift = Duration::from_secs(days.unsigned_abs() * 24 * 3600);
        let time = if *days < 0 { now + shift } else { now - shift };
        File::options().write(true).open(path(world, &blob)).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        blob
    };
    days.iter().map(one).collect()
}

#[test]
fn what_is_kept_is_bounded_and_aged() {
    let none = Arc::new(Log::default());
    // Of age: older than asked for, or from a future that will not come.
    let world = World::new();
    push(&world, "one", &[layer(1, 3000)]);
    let blobs = old(&world, &[1, 6, 8, 400, -30]);
    fs::write(dir(&world).join("sha256-x"), b"somebody else's").unwrap();
    pull_with(&world, none.clone(), Limits::default(), "one").unwrap();
    let mut wanted = files(&[(&blobs[0], 1000), (&blobs[1], 1000)]);
    wanted.insert("sha256-x".into(), 15);
    assert_eq!(kept(&world), wanted);

    // At the start: the oldest go until the rest fits, even where nothing comes for them.
    let world = World::new();
    let tar = layer(1, 5 * 512);
    let one = push(&world, "one", std::slice::from_ref(&tar));
    assert_eq!(tar.len(), 4096);
    let gone = |world: &World, limit| {
        world.registry.script(one.layers[0].as_str(), 1, Fault::CloseAfter(100));
        let limits = Limits { bytes: limit, ..Limits::default() };
        assert!(pull_with(world, none.clone(), limits, "one").is_err());
    };
    // With the new one: 4096 and at most three of 1000.
    let blobs = old(&world, &[1, 2, 3, 4, 5]);
    let held = File::options().read(true).write(true).open(path(&world, &blobs[4])).unwrap();
    let range = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    gone(&world, 7096);
    assert_eq!(kept(&world), files(&[(&blobs[0], 1000), (&blobs[1], 1000), (&blobs[2], 1000), (&one.layers[0], 100)]));
    drop(held);
    // A locked one is not removed, so that a newer one goes.
    let held = File::options().read(true).write(true).open(path(&world, &blobs[2])).unwrap();
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_OFD_SETLK(&range)).unwrap();
    gone(&world, 6096);
    assert_eq!(kept(&world), files(&[(&blobs[0], 1000), (&blobs[2], 1000), (&one.layers[0], 200)]));
    // What does not fit at all is not kept, and costs nothing else its place.
    gone(&world, 4095);
    assert_eq!(kept(&world), files(&[(&blobs[0], 1000), (&blobs[2], 1000), (&one.layers[0], 200)]));
    drop(held);
    gone(&world, 1199);
    assert_eq!(kept(&world), files(&[(&one.layers[0], 200)]));
    gone(&world, 0);
    assert_eq!(kept(&world), files(&[(&one.layers[0], 200)]), "it is not even looked at");
}

/// A filesystem of 4 MiB: what is kept on it leaves no room for what is unpacked, and goes.
#[test]
fn a_small_disk_is_not_filled() {
    let world = World::new();
    let root = world.root();
    fs::create_dir(&root).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("none", &root, "tmpfs", flags, c"size=4m,mode=700") {
        skip::skipped(&format!("a small filesystem cannot be mounted here: {error}"));
        return;
    }
    let cleanup = Unmount(root);
    let layers = [layer(1, 200_000), layer(2, 1_500_000), layer(3, 700_000)];
    let one = push(&world, "one", &layers);
    world.registry.script(one.layers[2].as_str(), 1, Fault::Status(404, "gone"));
    assert!(pull_with(&world, Arc::new(Log::default()), Limits::default(), "one").is_err());
    let kept_bytes: u64 = kept(&world).values().sum();
    assert_eq!(kept(&world), files(&[(&one.layers[0], layers[0].len()), (&one.layers[1], layers[1].len())]), "{kept_bytes}");
    // 2.4 MB unpacked beside 1.7 MB kept and 0.7 MB more is too much: kept it cannot be, pulled it can.
    pull_with(&world, Arc::new(Log::default()), Limits::default(), "one").unwrap();
    assert_eq!(kept(&world), BTreeMap::new());
    drop(cleanup);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Modes are exact whatever the umask, as everywhere in the store.
#[test]
fn it_is_private() {
    let world = World::new();
    let one = push(&world, "one", &[layer(1, 3000), layer(2, 3000)]);
    world.registry.script(one.layers[1].as_str(), 1, Fault::Status(404, "gone"));
    let command = world.pulling(&["--jobs", "1"], &["one"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    assert_eq!(shell.output().unwrap().status.code(), Some(1));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&dir(&world)), mode(&path(&world, &one.layers[0]))), (0o700, 0o600));
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path(&world, &one.layers[0])).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4608);
}
