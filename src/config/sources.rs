//! Finds the files that make up storage.conf, and merges them key by key.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::env::Environment;
use super::error::{ConfigError, Origin};

/// No storage.conf is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// All keys, each with its tables (`storage.options.overlay.size`) and the file that set it last.
#[derive(Debug, Default)]
pub(super) struct Settings {
    keys: BTreeMap<String, (Value, Origin)>,
    /// The files that were read, in the order they were merged.
    pub(super) files: Vec<PathBuf>,
}

impl Settings {
    /// Reads what the environment says should be read.
    pub(super) fn find(env: &Environment) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        if let Some(path) = env.path("CONTAINERS_STORAGE_CONF") {
            settings.merge_file(path, true)?;
        } else {
            let user = env.home("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("containers/storage.conf"));
            let system = ["/etc/containers/storage.conf", "/usr/share/containers/storage.conf"].map(|path| env.system(path));
            for path in user.iter().chain(&system) {
                if settings.merge_file(path, false)? {
                    break;
                }
            }
            for path in drop_ins(env, user.as_deref())? {
                settings.merge_file(&path, false)?;
            }
        }
        if let Some(path) = env.path("CONTAINERS_STORAGE_CONF_OVERRIDE") {
            settings.merge_file(path, true)?;
        }
        Ok(settings)
    }

    /// Merges one file; false if it is missing and need not exist.
    fn merge_file(&mut self, path: &Path, must_exist: bool) -> Result<bool, ConfigError> {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if !must_exist && is_missing(&error) => return Ok(false),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let table = text.parse::<Table>().map_err(|e| ConfigError::Syntax { path: path.to_owned(), source: Box::new(e) })?;
        self.merge("", table, &Origin::File(path.to_owned()));
        self.files.push(path.to_owned());
        Ok(true)
    }

    /// A later file replaces single keys; a list that ends in `{append=true}` is added to what is there.
    fn merge(&mut self, above: &str, table: Table, origin: &Origin) {
        for (key, value) in table {
            let key = if above.is_empty() { key } else { format!("{above}.{key}") };
            match value {
                Value::Table(table) => self.merge(&key, table, origin),
                Value::Array(mut items) => {
                    let appends = |item: &Value| item.get("append").and_then(Value::as_bool) == Some(true);
                    let append = items.iter().any(appends);
                    items.retain(|item| !item.is_table());
                    if let (true, Some((Value::Array(earlier), _))) = (append, self.keys.get(&key)) {
                        items = earlier.iter().cloned().chain(items).collect();
                    }
                    self.keys.insert(key, (Value::Array(items), origin.clone()));
                }
                value => drop(self.keys.insert(key, (value, origin.clone()))),
            }
        }
    }

    /// All keys with values and origins, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value, &Origin)> {
        self.keys.iter().map(|(key, (value, origin))| (key.as_str(), value, origin))
    }

    /// A key and where it was set.
    pub(super) fn get(&self, key: &str) -> Option<(&Value, &Origin)> {
        self.keys.get(key).map(|(value, origin)| (value, origin))
    }

    /// A string that is set and not empty.
    pub(super) fn text(&self, key: &str) -> Result<Option<(&str, &Origin)>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some((Value::String(text), origin)) => Ok((!text.is_empty()).then_some((text.as_str(), origin))),
            Some((_, origin)) => Err(ConfigError::Type { origin: origin.clone(), key: key.to_owned(), want: "a string" }),
        }
    }
}

/// The drop-ins in the order of their names; a name in an earlier directory hides the same name in a later one.
fn drop_ins(env: &Environment, user: Option<&Path>) -> Result<Vec<PathBuf>, ConfigError> {
    let mut dirs: Vec<PathBuf> = user.map(|path| path.with_extension("conf.d")).into_iter().collect();
    for base in ["/etc/containers", "/usr/share/containers"] {
        match env.uid() {
            0 => dirs.push(env.system(&format!("{base}/storage.rootful.conf.d"))),
            uid => {
                dirs.push(env.system(&format!("{base}/storage.rootless.conf.d/{uid}")));
                dirs.push(env.system(&format!("{base}/storage.rootless.conf.d")));
            }
        }
        dirs.push(env.system(&format!("{base}/storage.conf.d")));
    }
    let mut found = BTreeMap::new();
    for dir in dirs {
        let wrap = |source| ConfigError::Read { path: dir.clone(), source };
        let entries = match fs_err::read_dir(&dir) {
            Err(error) if is_missing(&error) => continue,
            entries => entries.map_err(wrap)?,
        };
        for entry in entries {
            let path = entry.map_err(wrap)?.path();
            if path.extension().is_some_and(|e| e == "conf")
                && let Some(name) = path.file_name()
                && !path.is_dir()
            {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    Ok(found.into_values().collect())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read(path: &Path) -> io::Result<String> {
    // A fifo would be waited for, for ever.
    if !fs_err::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut text = String::new();
    let length = fs_err::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}
