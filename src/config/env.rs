//! The environment as a value, so that nothing else looks at the process.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::error::{ConfigError, Origin};

/// What the process was started with.
#[derive(Debug, Clone)]
pub struct Environment {
    vars: HashMap<String, String>,
    uid: u32,
    prefix: PathBuf,
}

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 count as not set.
    pub fn of_process() -> Self {
        let vars = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::new(rustix::process::getuid().as_raw(), vars, Path::new("/"))
    }

    /// An environment of user `uid`; `/etc`, `/usr/share` and `/run/user` are looked for below `prefix`.
    ///
    /// `_CONTAINERS_ROOTLESS_UID` among the variables replaces `uid`, as for Go: inside a user namespace the
    /// process is root and the store still that of the user outside.
    pub fn new(uid: u32, vars: impl IntoIterator<Item = (String, String)>, prefix: &Path) -> Self {
        let vars: HashMap<_, _> = vars.into_iter().collect();
        let outer = vars.get("_CONTAINERS_ROOTLESS_UID").and_then(|text| text.parse().ok());
        Self { uid: outer.unwrap_or(uid), vars, prefix: prefix.to_owned() }
    }

    /// The user outside of any user namespace.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// A variable that is set and not empty.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that is set, if only to nothing.
    pub(super) fn var_even_empty(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    /// A path of the system.
    pub(super) fn system(&self, path: &str) -> PathBuf {
        self.prefix.join(path.trim_start_matches('/'))
    }

    /// `$<xdg>`, else `$HOME` with `below`.
    pub(super) fn home(&self, xdg: &str, below: &str) -> Option<PathBuf> {
        match self.var(xdg) {
            Some(dir) => Some(PathBuf::from(dir)),
            None => self.var("HOME").map(|home| Path::new(home).join(below)),
        }
    }

    /// Expands `$UID` (the user's id), then `$VAR` and `${VAR}`, as Go does; but a variable that is not set is
    /// an error instead of nothing, which would be another path.
    pub(super) fn expand(&self, text: &str, key: &str, origin: &Origin) -> Result<PathBuf, ConfigError> {
        let text = text.replace("$UID", &self.uid.to_string());
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (name, tail) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').unwrap_or((inner, "")),
                None => after.split_at(after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())),
            };
            match self.vars.get(name) {
                Some(value) => out.push_str(value),
                None => return Err(ConfigError::Unset { origin: origin.clone(), key: key.to_owned(), name: name.to_owned() }),
            }
            rest = tail;
        }
        out.push_str(rest);
        resolve(Path::new(&out), key, origin)
    }
}

/// The absolute path with links resolved, or cleaned by its text where it does not exist yet.
pub(super) fn resolve(path: &Path, key: &str, origin: &Origin) -> Result<PathBuf, ConfigError> {
    if !path.is_absolute() {
        return Err(ConfigError::Relative { origin: origin.clone(), key: key.to_owned(), value: path.to_owned() });
    }
    Ok(fs_err::canonicalize(path).unwrap_or_else(|_| clean(path)))
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
