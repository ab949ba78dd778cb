//! Afterwards podman uses the store: it runs the images, saves them, and its own check is content.

use crate::command::fsck;
use crate::injury::{Injury, Repair};
use crate::matrix::{Hurt, assert_sound};
use crate::peers::{Peer, between_peers, run};
use crate::place::Place;

pub fn healed(injury: &Injury) {
    // Without parents that are not listed, over which podman's check stumbles.
    let hurt = Hurt::new(Place::ours(false), injury).unwrap();
    let place = &hurt.place;
    let mut args = vec!["--level", "full", "--repair"];
    if let Repair::Refetch(_) = injury.repair {
        args.extend(["--refetch", "--tls-verify=false"]);
    }
    let said = fsck(place, &args, injury.name);
    assert_eq!(said.code, Some(1), "{}: {said:#?}", injury.name);
    for peer in Peer::all() {
        used(place, &peer, injury.name);
    }
    assert_sound(place, injury.name);
}

fn used(place: &Place, peer: &Peer, what: &str) {
    between_peers(&place.root());
    let podman = |args: &[&str]| run(&mut place.peer(peer, "podman", args));
    for (number, reference) in place.references().iter().enumerate() {
        podman(&["run", "--rm", "--network=none", reference]);
        let file = place.temp.path().join(format!("saved-{}-{number}.tar", peer.major()));
        podman(&["save", "--quiet", "--format", "oci-archive", "--output", file.to_str().unwrap(), reference]);
    }
    if peer.major() > 4 {
        let checked = place.peer(peer, "podman", &["system", "check"]).output().unwrap();
        assert!(checked.status.success(), "{what}, {}: {checked:?}", peer.name);
    }
}
