//! What this process may do that a user may not.

use std::sync::OnceLock;

/// Whether this process is root of the whole machine, and not of a user namespace.
///
/// Root of a user namespace cannot make devices and cannot set `trusted.*` attributes: there Go's programs leave
/// devices out and write `user.overlay.*`, and so must we.
pub fn is_initial_root() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // Without /proc, or on a kernel without user namespaces, there is but one.
        rustix::process::geteuid().is_root() && std::fs::read_to_string("/proc/self/uid_map").map_or(true, |map| maps_everything(&map))
    })
}

/// Whether a uid_map is that of the initial user namespace.
fn maps_everything(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_initial_namespace_maps_all_ids_to_themselves() {
        assert!(maps_everything("         0          0 4294967295\n"));
        for map in
            ["         0       1000          1\n", "0 1000 1\n1 100000 65536\n", "0 0 65536\n", "0 0 65536\n65536 65536 4294901759\n", ""]
        {
            assert!(!maps_everything(map), "{map:?}");
        }
    }
}
