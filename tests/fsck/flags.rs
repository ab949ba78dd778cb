//! What the flags of fsck promise, and what is left alone because it is in use.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::command::{fsck, run};
use crate::injury::{self, EQUAL, Injury, Target, journal};
use crate::matrix::{Hurt, REMAINS, assert_sound};
use crate::peers::{Peer, run_text, skip};
use crate::place::Place;
use crate::snapshot::Snapshot;

/// Healed something, and dropped something.
const DROPPED: i32 = 2;
const USAGE: i32 = 16;
const STOPPED: i32 = 32;
const BUSY: i32 = 64;

fn named(name: &str) -> &'static Injury {
    injury::named(name).unwrap()
}

/// Without a source, `--prune` drops what cannot be healed, says each thing that it drops, and nothing else goes.
pub fn prune() {
    for name in [
        "file-flipped",
        "layer-lost",
        "config-missing",
        "manifests-missing",
        "incomplete-hollow",
        "split-missing",
        "layer-directory-missing",
    ] {
        let hurt = Hurt::new(Place::ours(true), named(name)).unwrap();
        let target_image = hurt.before.images.values().find(|image| image["names"][0].to_string().contains("/one:")).unwrap();
        let one = target_image["id"].as_str().unwrap().to_owned();
        let said = fsck(&hurt.place, &["--level", "full", "--repair", "--prune"], name);
        let code = said.code.unwrap();
        assert_eq!(code & (DROPPED | REMAINS), DROPPED, "{name}: {said:#?}");
        assert!(said.findings.iter().any(|finding| finding["result"] == "dropped"), "{name}: {said:#?}");
        let after = Snapshot::of(&hurt.place.root());
        let kept: Vec<&String> = after.images.keys().filter(|id| **id != one).collect();
        assert_eq!(kept, hurt.before.images.keys().filter(|id| **id != one).collect::<Vec<_>>(), "{name}: another image is gone");
        assert!(!after.images.contains_key(&one), "{name}: nothing was dropped");
        let said = fsck(&hurt.place, &["--level", "full"], name);
        assert_eq!(said.code, Some(0), "{name}: {said:#?}");
    }
}

/// `--prune` drops nothing that can be healed.
pub fn prune_keeps_what_can_be_healed() {
    for name in ["mode", "images-table-empty", "layers-table-empty", "incomplete-sound", "manifest-missing", "link-empty"] {
        let injury = named(name);
        let hurt = Hurt::new(Place::ours(true), injury).unwrap();
        let said = fsck(&hurt.place, &["--level", "full", "--repair", "--prune"], name);
        assert_eq!(said.code, Some(1), "{name}: {said:#?}");
        hurt.assert_healed(injury, "--repair --prune");
    }
}

/// Only what the named images stand on is looked at.
pub fn image() {
    let hurt = Hurt::new(Place::ours(true), named("mode")).unwrap();
    let [one, two] = hurt.place.references();
    let look = |more: &[&str]| fsck(&hurt.place, &[&["--level", "full"], more].concat(), "--image").code;
    assert_eq!(look(&["--image", &two]), Some(0));
    assert_eq!(look(&["--image", &one]), Some(REMAINS));
    assert_eq!(look(&["--image", &two, "--image", &one]), Some(REMAINS));
    let nobody = look(&["--image", "localhost/nobody:1"]).unwrap();
    assert!(nobody != 0 && nobody & REMAINS == 0, "an image that is not there: {nobody}");
}

/// A run that is stopped says so, and those after it go on where it was until all is seen.
pub fn max_time() {
    let hurt = Hurt::new(Place::ours(true), named("mode")).unwrap();
    let (mut runs, mut codes) = (0, std::collections::BTreeSet::new());
    let last = loop {
        let said = fsck(&hurt.place, &["--level", "full", "--max-time", "0s"], "--max-time");
        let code = said.code.unwrap();
        codes.extend(said.codes());
        runs += 1;
        assert!(runs < 50, "never done: {codes:?}");
        if code & STOPPED == 0 {
            break code;
        }
    };
    assert!(runs > 1, "nothing was to be done in no time");
    assert_eq!(last & !REMAINS, 0);
    assert!(codes.contains("entry-mode"), "{codes:?}");
}

pub fn usage() {
    let place = Place::ours(true);
    for args in [&["--level", "deep"][..], &["--max-time", "soon"], &["--nonsense"], &["--refetch=nothing:at/all", "--repair"]] {
        let said = run(
            &place,
            {
                let mut c = place.command(&["fsck"]);
                c.args(args);
                c
            },
            "usage",
        );
        assert_eq!(said.code, Some(USAGE), "{args:?}: {said:?}");
        assert!(!said.stderr.is_empty(), "{args:?}");
    }
}

/// Text says what JSON says: each path, what to do; and ends alike.
pub fn text() {
    let hurt = Hurt::new(Place::ours(true), named("manifest-missing")).unwrap();
    let json = fsck(&hurt.place, &[], "text");
    let output = hurt.place.command(&["fsck"]).output().unwrap();
    assert_eq!(output.status.code(), json.code);
    let text = String::from_utf8(output.stdout).unwrap();
    let path = json.findings[0]["path"].as_str().unwrap();
    assert!(text.contains(path) && text.contains("--repair"), "{text}");
    let [one, _] = hurt.place.references();
    assert!(text.contains(&one), "which image it touches: {text}");
}

/// A pull that died between the two tables is finished, and the image is there.
pub fn journal_forward() {
    let place = Place::ours(true);
    let before = Snapshot::of(&place.root());
    journal::kill(&place.root(), "images.json").unwrap();
    let said = fsck(&place, &["--level", "full"], "forward");
    assert_eq!(
        (said.code, said.codes().into_iter().collect::<Vec<_>>()),
        (Some(REMAINS), vec!["journal-unfinished".to_owned()]),
        "{said:#?}"
    );
    assert_eq!(fsck(&place, &["--repair"], "forward").code, Some(1));
    let after = Snapshot::of(&place.root());
    assert!(before.images.keys().all(|id| after.images.contains_key(id)));
    let new: Vec<_> = after.images.values().filter(|image| image["names"][0] == journal::DOOMED).collect();
    assert_eq!(new.len(), 1, "{:?}", after.images);
    assert_sound(&place, "forward");
}

/// A damaged layer that a container has mounted is left as it is, and healed once the container has ended.
pub fn busy() {
    let Some(host) = Peer::host() else { return skip("a mounted layer", "there is no podman") };
    for (name, refetch) in [("file-flipped", true), ("mode", false)] {
        let injury = named(name);
        let place = Place::ours(true);
        let [one, _] = place.references();
        // What podman adds to a store is there before.
        run_text(&mut place.peer(&host, "podman", &["images", "--quiet"]));
        let before = Snapshot::of(&place.root());
        let mut running =
            place.peer(&host, "podman", &["run", "--interactive", "--name", "busy", "--network=none", &one, "/bin/busybox", "cat"]);
        let mut child = running.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"runs\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        let hurt = Hurt { before, ..Hurt::new(place, injury).unwrap() };
        let damaged = Snapshot::of(&hurt.place.root());
        let mut args = vec!["--level", "full", "--repair"];
        if refetch {
            args.extend(["--refetch", "--tls-verify=false"]);
        }
        let said = fsck(&hurt.place, &args, name);
        let code = said.code.unwrap();
        // Attributes may be mended where they are; contents never.
        if refetch {
            assert_eq!(code & (1 | BUSY), BUSY, "{name}: {said:#?}");
            assert!(said.findings.iter().any(|finding| finding["result"] == "busy"), "{name}: {said:#?}");
            assert_eq!(damaged.differences(&Snapshot::of(&hurt.place.root()), EQUAL), [""; 0], "{name}");
        } else {
            assert!(code & BUSY != 0 || code == 1, "{name}: {said:#?}");
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        run_text(&mut hurt.place.peer(&host, "podman", &["rm", "busy"]));
        let said = fsck(&hurt.place, &args, name);
        assert!(said.code == Some(1) || !refetch && said.code == Some(0), "{name}: {said:#?}");
        let left = hurt.differences(injury);
        let theirs = |line: &&String| !line.starts_with("other ");
        assert_eq!(left.iter().filter(theirs).collect::<Vec<_>>(), [""; 0], "{name}");
    }
}

/// What a container lacks is told and never touched.
pub fn containers() {
    let Some(host) = Peer::host() else { return skip("a damaged container", "there is no podman") };
    let place = Place::ours(true);
    let [one, _] = place.references();
    run_text(&mut place.peer(&host, "podman", &["create", "--network=none", &one]));
    let table: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(place.root().join("overlay-containers/containers.json")).unwrap()).unwrap();
    let layer = table[0]["layer"].as_str().unwrap();
    fs::remove_dir_all(place.root().join("overlay").join(layer)).unwrap();
    let before = Snapshot::of(&place.root());
    for args in [&[][..], &["--repair"], &["--repair", "--prune"]] {
        let said = fsck(&place, args, "container");
        assert_eq!(said.code, Some(REMAINS), "{args:?}: {said:#?}");
        assert_eq!(said.codes().into_iter().collect::<Vec<_>>(), ["container-layer-missing"], "{args:?}: {said:#?}");
        assert_eq!(before.differences(&Snapshot::of(&place.root()), EQUAL), [""; 0], "{args:?}");
    }
}

/// A lock that lives keeps its directory from being an orphan.
pub fn live_staging() {
    let place = Place::ours(true);
    let dir = place.root().join("overlay/tempdirs");
    fs::create_dir_all(dir.join("temp-dir-1")).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let lock = fs::File::create(dir.join("lock-1")).unwrap();
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for args in [&["--level", "full"][..], &["--level", "full", "--repair"]] {
        let said = fsck(&place, args, "live staging");
        assert!(matches!(said.code, Some(0 | BUSY)), "{said:#?}");
        assert!(dir.join("temp-dir-1").is_dir(), "{args:?}: it is in use");
    }
    drop(lock);
    let said = fsck(&place, &["--repair"], "dead staging");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(!dir.join("temp-dir-1").exists());
    Target::find(&place.root()).unwrap();
}

/// A full check that repairs and ends clean marks what it read: the next one reads only what is new, or lost its seal.
pub fn since_clean() {
    let place = Place::ours(true);
    let read = |args: &[&str]| {
        let said = fsck(&place, args, "--since-clean");
        (said.code, said.summary["layers"].as_u64().unwrap())
    };
    let since: &[&str] = &["--level", "full", "--since-clean"];
    let (code, all) = read(since);
    assert!(code == Some(0) && all > 1, "nothing is marked yet: {all}");
    assert_eq!(read(&["--level", "full", "--repair"]), (Some(0), all));
    assert_eq!(read(since), (Some(0), 0));
    let target = Target::find(&place.root()).unwrap();
    fs::remove_file(target.dir(injury::At::Middle).join("cstor-rs.seal")).unwrap();
    assert_eq!(read(since), (Some(0), 1), "a layer without its seal is read");
    assert_eq!(read(&["--level", "full"]), (Some(0), all));
}

/// A layer that needs bytes is put right as far as the store itself knows how, whenever the bytes come.
pub fn offline_beside_lost_bytes() {
    let place = Place::ours(true);
    let target = Target::find(&place.root()).unwrap();
    let before = Snapshot::of(&place.root());
    for name in ["file-flipped", "mode-of-directory", "symlink-target"] {
        (named(name).hurt)(&target).unwrap();
    }
    let said = fsck(&place, &["--level", "full", "--repair"], "--repair");
    let result = |code: &str| -> Vec<_> {
        said.findings.iter().filter(|finding| finding["code"] == code).map(|finding| finding["result"].as_str().unwrap()).collect()
    };
    assert_eq!(
        (result("entry-mode"), result("symlink-target"), result("file-content")),
        (vec!["healed"], vec!["healed"], vec!["found"]),
        "{said:#?}"
    );
    assert_eq!(said.code, Some(REMAINS), "{said:#?}");
    assert_eq!(fsck(&place, &["--level", "full"], "after").codes().into_iter().collect::<Vec<_>>(), ["file-content"]);
    assert_eq!(fsck(&place, &["--level", "full", "--refetch", "--tls-verify=false"], "--refetch").code, Some(1));
    assert_eq!(before.differences(&Snapshot::of(&place.root()), EQUAL), [""; 0]);
}
