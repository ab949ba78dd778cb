//! Stores that nothing is wrong with, whoever wrote them: not one finding.

use std::path::Path;

use crate::command::fsck;
use crate::injury::Level;
use crate::matrix::assert_sound;
use crate::peers::{Peer, between_peers, run, run_text, skip};
use crate::place::{Place, registry};
use crate::registry::{Compression, ImageSpec};
use crate::tars::{self, Go};

pub fn ours() {
    for awkward in [false, true] {
        assert_sound(&Place::ours(awkward), "pulled by cstor-rs");
    }
}

/// What each podman pulls.
pub fn podman() {
    for peer in Peer::all() {
        assert_sound(&Place::of(&peer, true), &peer.name);
    }
}

/// One store that goes from each podman to the next, each of which pulls and runs something.
pub fn every_podman_in_turn() {
    let place = Place::empty(true);
    let [one, two] = place.references();
    for peer in Peer::all() {
        between_peers(&place.root());
        for reference in [&one, &two] {
            run(&mut place.peer(&peer, "podman", &["pull", "--quiet", "--tls-verify=false", reference]));
        }
        run(&mut place.peer(&peer, "podman", &["run", "--rm", "--network=none", &one]));
        assert_sound(&place, &format!("in turn, {}", peer.name));
    }
}

pub fn skopeo() {
    for peer in Peer::all() {
        let place = Place::empty(true);
        for reference in place.references() {
            let (from, to) = (format!("docker://{reference}"), format!("containers-storage:{reference}"));
            run(&mut place.peer(&peer, "skopeo", &["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
        }
        assert_sound(&place, &format!("skopeo of {}", peer.name));
    }
}

/// A container's layer, one that was committed, one that is mounted.
pub fn buildah() {
    for peer in Peer::all() {
        let place = Place::ours(true);
        let [one, _] = place.references();
        let buildah = |args: &[&str]| run_text(&mut place.peer(&peer, "buildah", args));
        let container = buildah(&["from", "--pull-never", &one]);
        let file = place.temp.path().join("added");
        std::fs::write(&file, "added\n").unwrap();
        buildah(&["copy", "--quiet", &container, file.to_str().unwrap(), "/added"]);
        let what = format!("buildah of {}", peer.name);
        assert_sound(&place, &format!("{what}: a container"));
        buildah(&["commit", "--quiet", &container, "localhost/built:1"]);
        assert_sound(&place, &format!("{what}: its image"));
        buildah(&["commit", "--quiet", "--squash", &container, "localhost/squashed:1"]);
        assert_sound(&place, &format!("{what}: squashed"));
        buildah(&["mount", &container]);
        assert_sound(&place, &format!("{what}: mounted"));
    }
}

/// A container that was made, and one that runs.
pub fn containers() {
    for peer in Peer::all() {
        let place = Place::ours(true);
        let [one, two] = place.references();
        let podman = |args: &[&str]| run_text(&mut place.peer(&peer, "podman", args));
        podman(&["create", "--network=none", &one]);
        assert_sound(&place, &format!("{}: created", peer.name));
        // It lives until the pipe that is its input is closed.
        let mut running = place.peer(&peer, "podman", &["run", "--rm", "--interactive", "--network=none", &two, "/bin/busybox", "cat"]);
        running.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = running.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"runs\n").unwrap();
        let mut echo = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut echo).unwrap();
        assert_eq!(&echo, b"runs\n");
        assert_sound(&place, &format!("{}: running", peer.name));
        drop(input);
        assert!(child.wait().unwrap().success());
        assert_sound(&place, &format!("{}: ended", peer.name));
    }
}

/// Every tar of `tests/tars` that can be extracted, as a layer of ours, and of podman's where podman takes it.
pub fn awkward_tars() {
    let cases: Vec<tars::Case> = tars::cases().into_iter().filter(|case| case.refused.is_none()).collect();
    let push = |place: &str, case: &tars::Case, number: usize| {
        let name = format!("{place}/tar{number}");
        registry().add_image(&name, "latest", &ImageSpec::new().layer(&case.tar, Compression::Gzip));
        registry().reference(&format!("{name}:latest"))
    };
    let ours = Place::empty(true);
    let references: Vec<String> = cases.iter().enumerate().map(|(n, case)| push("tars-ours", case, n)).collect();
    run(ours.command(&["pull", "--quiet", "--tls-verify=false"]).args(&references));
    names_of(&ours, &cases, "cstor-rs");
    let Some(host) = Peer::host() else { return skip("awkward tars of podman", "there is none") };
    let theirs = Place::empty(true);
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.go == Go::Same) {
        let from = format!("docker://{}", push("tars-podman", case, number));
        let to = format!("containers-storage:localhost/tar{number}:latest");
        run(&mut theirs.peer(&host, "skopeo", &["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
    }
    names_of(&theirs, &cases, "podman");
}

/// As [`assert_sound`], and says which tar it is that something is found in.
fn names_of(place: &Place, cases: &[tars::Case], who: &str) {
    for level in [Level::Quick, Level::Full] {
        let said = fsck(place, &["--level", level.word()], who);
        let case = |finding: &serde_json::Value| {
            let of = |case: &&tars::Case| finding["layer"].as_str() == Some(&crate::oracle::sha256(&case.tar));
            cases.iter().find(of).map_or("none of the tars", |case| &case.name).to_owned()
        };
        let wrong: Vec<_> = said.findings.iter().map(|finding| (case(finding), finding)).collect();
        assert!(wrong.is_empty(), "{who}, {}: {wrong:#?}", level.word());
        assert_eq!(said.code, Some(0), "{who}, {}: {said:?}", level.word());
    }
}

/// An image of podman's whose base lies in an additional store.
pub fn additional_store() {
    let Some(host) = Peer::host() else { return skip("an additional store", "there is no podman") };
    let (shared, place) = (Place::empty(true), Place::empty(true));
    let [one, _] = shared.references();
    run(&mut shared.peer(&host, "podman", &["pull", "--quiet", "--tls-verify=false", &one]));
    // Over the same base as what is there.
    let [_, two] = place.references();
    let option = format!("additionalimagestore={}", shared.root().display());
    run(&mut place.peer(&host, "podman", &["--storage-opt", &option, "pull", "--quiet", "--tls-verify=false", &two]));
    let conf = place.temp.path().join("storage.conf");
    let text = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n[storage.options]\nadditionalimagestores = [{:?}]\n",
        place.root(),
        place.temp.path().join("run"),
        shared.root()
    );
    std::fs::write(&conf, text).unwrap();
    let look = |what: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.env("CONTAINERS_STORAGE_CONF", &conf).args(["fsck", "--json", "--level", "full"]);
        crate::command::run(&place, command, what)
    };
    let sound = look("an additional store");
    assert!(sound.findings.is_empty() && sound.code == Some(0), "{sound:#?}");
    lost(&shared.root());
    let broken = look("an additional store that is gone");
    assert_eq!(broken.codes().into_iter().collect::<Vec<_>>(), ["additional-store-broken"], "{broken:#?}");
    assert_eq!(broken.code, Some(4), "{broken:#?}");
    assert!(broken.findings[0].to_string().contains(shared.root().to_str().unwrap()), "{broken:#?}");
}

/// As if its disk were not there.
fn lost(root: &Path) {
    std::fs::rename(root, root.with_file_name("elsewhere")).unwrap();
}
