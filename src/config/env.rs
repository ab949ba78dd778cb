//! The environment as a value, so that nothing else looks at the process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::error::{ConfigError, Origin};

/// What the process was started with.
#[derive(Debug, Clone)]
pub struct Environment {
    vars: HashMap<String, OsString>,
    uid: u32,
    prefix: PathBuf,
}

impl Environment {
    /// The environment of this process. Nobody asks for variables whose names are not UTF-8; values may be anything.
    pub fn of_process() -> Self {
        let vars = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::new(rustix::process::getuid().as_raw(), vars, Path::new("/"))
    }

    /// An environment of user `uid`; `/etc`, `/usr/share` and `/run/user` are looked for below `prefix`.
    ///
    /// `_CONTAINERS_ROOTLESS_UID` among the variables replaces `uid`, as for Go: inside a user namespace the
    /// process is root and the store still that of the user outside.
    pub fn new<V: Into<OsString>>(uid: u32, vars: impl IntoIterator<Item = (String, V)>, prefix: &Path) -> Self {
        let vars: HashMap<String, OsString> = vars.into_iter().map(|(name, value)| (name, value.into())).collect();
        let outer = vars.get("_CONTAINERS_ROOTLESS_UID").and_then(|value| value.to_str()?.parse().ok());
        Self { uid: outer.unwrap_or(uid), vars, prefix: prefix.to_owned() }
    }

    /// The user outside of any user namespace.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// A variable that is set and not empty, as a path.
    pub(super) fn path(&self, name: &str) -> Option<&Path> {
        self.vars.get(name).filter(|value| !value.is_empty()).map(Path::new)
    }

    /// A variable that is set, if only to nothing, as text; an error where it is none.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.vars.get(name) else { return Ok(None) };
        let refuse = || ConfigError::Type { origin: Origin::Variable(name), key: "the value".to_owned(), want: "text in UTF-8" };
        value.to_str().map(Some).ok_or_else(refuse)
    }

    /// A path of the system.
    pub(super) fn system(&self, path: &str) -> PathBuf {
        self.prefix.join(path.trim_start_matches('/'))
    }

    /// `$<xdg>`, else `$HOME` with `below`.
    pub(super) fn home(&self, xdg: &str, below: &str) -> Option<PathBuf> {
        match self.path(xdg) {
            Some(dir) => Some(dir.to_owned()),
            None => self.path("HOME").map(|home| home.join(below)),
        }
    }

    /// Expands `$UID` (the user's id), then `$VAR` and `${VAR}`, as Go does; but a variable that is not set is
    /// an error instead of nothing, which would be another path.
    pub(super) fn expand(&self, text: &str, key: &str, origin: &Origin) -> Result<PathBuf, ConfigError> {
        let text = text.replace("$UID", &self.uid.to_string());
        let mut out = OsString::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            out.push(before);
            let (name, tail) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').unwrap_or((inner, "")),
                None => after.split_at(after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())),
            };
            match self.vars.get(name) {
                Some(value) => out.push(value),
                None => return Err(ConfigError::Unset { origin: origin.clone(), key: key.to_owned(), name: name.to_owned() }),
            }
            rest = tail;
        }
        out.push(rest);
        resolve(Path::new(&out), key, origin)
    }
}

/// The absolute path with the links of what exists resolved: inside the store none is followed, but people have
/// `/var/lib/containers/storage` lead to another disk.
pub(super) fn resolve(path: &Path, key: &str, origin: &Origin) -> Result<PathBuf, ConfigError> {
    if !path.is_absolute() {
        return Err(ConfigError::Relative { origin: origin.clone(), key: key.to_owned(), value: path.to_owned() });
    }
    Ok(real(path))
}

/// What does not exist yet is added by its text: the first commit makes it below the directory that is meant. Where the
/// system does not let us look, opening the store says so.
pub(super) fn real(path: &Path) -> PathBuf {
    for base in path.ancestors() {
        match fs_err::canonicalize(base) {
            Ok(real) => return clean(&path.strip_prefix(base).map_or_else(|_| real.clone(), |rest| real.join(rest))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
    }
    clean(path)
}

fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            // At the root, `pop` changes nothing: `/..` is `/`.
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}
