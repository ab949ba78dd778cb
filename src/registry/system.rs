//! The host's own files about registries: where they are, and reading them.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::{RegistryError, Result};
use super::policy::Policy;
use super::registries::Registries;

/// The largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The most drop-ins of one directory.
const DROP_INS_MAX: usize = 1000;

/// Where to look for the host's files about registries. `Default` looks nowhere.
///
/// | file | where | none there |
/// |---|---|---|
/// | policy.json | `CONTAINERS_POLICY_JSON`, which must exist; else the first of `containers/` in `$XDG_CONFIG_HOME` (`~/.config`), `/etc`, `/usr/share` | every image is accepted |
/// | registries.conf | `CONTAINERS_REGISTRIES_CONF`, which must exist, alone; else the first of the same directories, then the drop-ins `registries.conf.d/*.conf` of the system and of the user | nothing is special, short names are docker.io's |
/// | short-name-aliases.conf | `/var/cache/containers` for root, else `$XDG_CACHE_HOME/containers` (`~/.cache`) | no aliases but those of registries.conf |
///
/// policy.json: the requirements of the closest scope must all be `insecureAcceptAnything`; signatures are not
/// verified yet. registries.conf: `blocked`, `insecure`, `prefix` with `location`, the search list and aliases are
/// honoured; mirrors are warned of and not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemFiles {
    /// policy.json: the first that exists.
    pub policy: Vec<PathBuf>,
    /// registries.conf: the first that exists.
    pub registries: Vec<PathBuf>,
    /// The directories of its drop-ins; later files win.
    pub registries_d: Vec<PathBuf>,
    /// short-name-aliases.conf.
    pub aliases: Option<PathBuf>,
    /// Whether a policy.json must exist.
    pub policy_must_exist: bool,
    /// Whether a registries.conf must exist.
    pub registries_must_exist: bool,
}

impl SystemFiles {
    /// The places that the environment of this process says.
    pub fn of_process() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self::of(var, rustix::process::geteuid().is_root(), may_enter)
    }

    fn of(var: impl Fn(&str) -> Option<PathBuf>, root: bool, may_enter: impl Fn(&PathBuf) -> bool) -> Self {
        let home = var("HOME");
        let user = var("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config"))).map(|dir| dir.join("containers"));
        let user = user.filter(&may_enter);
        let system = ["/etc/containers", "/usr/share/containers"].map(PathBuf::from);
        let all = |name: &str| user.iter().chain(&system).map(|dir| dir.join(name)).collect::<Vec<_>>();
        let cache =
            if root { Some(PathBuf::from("/var/cache")) } else { var("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache"))) };
        let (policy, registries) = (var("CONTAINERS_POLICY_JSON"), var("CONTAINERS_REGISTRIES_CONF"));
        Self {
            policy_must_exist: policy.is_some(),
            registries_must_exist: registries.is_some(),
            registries_d: if registries.is_some() { Vec::new() } else { all("registries.conf.d").into_iter().rev().collect() },
            policy: policy.map_or_else(|| all("policy.json"), |file| vec![file]),
            registries: registries.map_or_else(|| all("registries.conf"), |file| vec![file]),
            aliases: cache.map(|dir| dir.join("containers")).filter(&may_enter).map(|dir| dir.join("short-name-aliases.conf")),
        }
    }

    /// The policy, if there is one.
    pub(super) fn policy(&self) -> Result<Option<Policy>> {
        let Some((path, bytes)) = first(&self.policy, self.policy_must_exist)? else { return Ok(None) };
        Policy::parse(&path, &bytes).map(Some).map_err(|why| refuse(&path, why))
    }

    /// What registries.conf with its drop-ins and the aliases say.
    pub(super) fn registries(&self) -> Result<Registries> {
        let mut registries = Registries::default();
        let mut files = Vec::from_iter(first(&self.registries, self.registries_must_exist)?);
        for dir in &self.registries_d {
            for path in drop_ins(dir).map_err(|e| refuse(dir, e.to_string()))? {
                files.extend(first(&[path], false)?);
            }
        }
        for (path, bytes) in files {
            registries.merge(&path, &bytes).map_err(|why| refuse(&path, why))?;
        }
        // What the user once chose goes before what the host's files say.
        if let Some((path, bytes)) = first(self.aliases.as_slice(), false)? {
            registries.merge_aliases(&bytes).map_err(|why| refuse(&path, why))?;
        }
        Ok(registries)
    }
}

fn refuse(path: &Path, why: String) -> RegistryError {
    RegistryError::Configuration { path: path.display().to_string(), why }
}

/// Not so for what is below the HOME of another user, kept by sudo or su: what lies there is not this user's to obey.
/// A file that may not be read in a directory that may be entered is an error.
fn may_enter(dir: &PathBuf) -> bool {
    let closed = std::fs::metadata(dir).is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    if closed {
        tracing::warn!(dir = %dir.display(), "files about registries in a directory that may not be entered are left out");
    }
    !closed
}

/// The first file that exists.
fn first(paths: &[PathBuf], must_exist: bool) -> Result<Option<(PathBuf, Vec<u8>)>> {
    for path in paths {
        match read(path) {
            Ok(bytes) => return Ok(Some((path.clone(), bytes))),
            Err(e) if !must_exist && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(refuse(path, e.to_string())),
        }
    }
    Ok(None)
}

/// A whole file of at most 1 MiB.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "more than 1 MiB"));
    }
    Ok(bytes)
}

/// The `*.conf` of a directory by name.
fn drop_ins(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "conf") {
            found.push(path);
        }
        if found.len() > DROP_INS_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "more than 1000 drop-ins"));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_where_podman_has_them() {
        let set = |pairs: &'static [(&str, &str)]| move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
        let files = SystemFiles::of(set(&[("HOME", "/h")]), false, |_| true);
        let places = ["/h/.config/containers", "/etc/containers", "/usr/share/containers"].map(PathBuf::from);
        assert_eq!(files.policy, places.clone().map(|p| p.join("policy.json")));
        assert_eq!(files.registries, places.clone().map(|p| p.join("registries.conf")));
        assert_eq!(files.registries_d, [2, 1, 0].map(|n| places[n].join("registries.conf.d")));
        assert_eq!(files.aliases, Some("/h/.cache/containers/short-name-aliases.conf".into()));
        assert!(!files.policy_must_exist && !files.registries_must_exist);
        let files = SystemFiles::of(set(&[("CONTAINERS_POLICY_JSON", "/p"), ("CONTAINERS_REGISTRIES_CONF", "/r")]), true, |_| true);
        assert_eq!((files.policy, files.registries, files.registries_d), (vec!["/p".into()], vec!["/r".into()], vec![]));
        assert_eq!(files.aliases, Some("/var/cache/containers/short-name-aliases.conf".into()));
        assert!(files.policy_must_exist && files.registries_must_exist);
        let files = SystemFiles::of(set(&[("HOME", "/h")]), false, |_| false);
        assert_eq!(files.policy, ["/etc/containers/policy.json", "/usr/share/containers/policy.json"].map(PathBuf::from));
        assert_eq!(files.aliases, None);
    }
    #[test]
    fn drop_ins_come_after_the_main_file_in_their_order() {
        let temp = tempfile::tempdir().unwrap();
        let (system, user) = (temp.path().join("system"), temp.path().join("user"));
        let list = |name: &str| format!("unqualified-search-registries = ['{name}.io']");
        for (dir, file, text) in [
            (&system, "10-b.conf", list("b")),
            (&system, "20-c.conf", list("c")),
            (&system, "30-not.conf.bak", list("not")),
            (&user, "00-d.conf", "[aliases]\nx = 'd.io/x'\ny = 'd.io/y'".to_owned()),
        ] {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join(file), text).unwrap();
        }
        let (main, aliases) = (temp.path().join("main"), temp.path().join("aliases"));
        std::fs::write(&main, list("a")).unwrap();
        std::fs::write(&aliases, "[aliases]\nx = 'e.io/x'").unwrap();
        let files = SystemFiles {
            registries: vec![temp.path().join("none"), main.clone(), aliases.clone()],
            registries_d: vec![system, temp.path().join("no directory"), user.clone()],
            aliases: Some(aliases),
            ..SystemFiles::default()
        };
        let registries = files.registries().unwrap();
        for (name, want) in [("x", "e.io/x"), ("y", "d.io/y"), ("z", "c.io/z")] {
            assert_eq!(registries.expand(name), Ok(Some(want.to_owned())));
        }
        std::fs::write(user.join("99-v1.conf"), "[registries.search]\nregistries = []").unwrap();
        let error = files.registries().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}/99-v1.conf: has [registries...] of version 1", user.display())), "{error}");
    }
}
