//! Names in a layer's tree that its tar does not put there.

use std::os::unix::ffi::OsStrExt;

use super::findings::{DifferenceKind, Findings};
use super::keys::Keys;
use crate::fsio::{self, Dir, Purpose, Step, Walk};

/// Adds every name that `has` does not know, by the hashes of what it lies in and its own. `Ok(false)`: stopped.
pub(super) fn find(
    diff: &Dir,
    keys: &Keys,
    has: impl Fn(&[u64]) -> bool,
    stopped: impl Fn() -> bool,
    findings: &mut Findings,
) -> fsio::Result<bool> {
    let mut above = vec![keys.root()];
    let (mut chain, mut path): (Vec<u64>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut walk = Walk::of(diff, Purpose::Keep)?;
    while let Some(step) = walk.next()? {
        if stopped() {
            return Ok(false);
        }
        let (Step::Enter { name } | Step::Leaf { name, .. }) = &step else {
            above.pop();
            chain.pop();
            path.pop();
            continue;
        };
        let Some((running, key)) = above.last().map(|at| at.enter(name.as_bytes())) else { continue };
        chain.push(key);
        path.push(name.as_bytes().to_vec());
        if !has(&chain) {
            let seen = if matches!(step, Step::Enter { .. }) { "a directory" } else { "a name" };
            findings.add(DifferenceKind::Extra, &path.join(&b'/'), "nothing", seen);
        }
        if matches!(step, Step::Enter { .. }) {
            above.push(running);
        } else {
            chain.pop();
            path.pop();
        }
    }
    Ok(true)
}
