//! Storage.conf: where the store lies, and what is refused (spec section 11).
//!
//! Files, as containers-storage 1.63 and newer read them: `CONTAINERS_STORAGE_CONF`, which must exist, alone;
//! else the first of `$XDG_CONFIG_HOME/containers/storage.conf` (`~/.config`), `/etc/containers/storage.conf`
//! and `/usr/share/containers/storage.conf`, then the drop-ins `*.conf` of `storage.conf.d`,
//! `storage.rootful.conf.d` or `storage.rootless.conf.d[/<uid>]` beside them in the order of their names. In
//! any case `CONTAINERS_STORAGE_CONF_OVERRIDE`, which must exist, comes last.
//!
//! | honoured | |
//! |---|---|
//! | `graphroot`, `runroot` | `$UID`, `$VAR` and `${VAR}` are expanded, links resolved; an unset variable is an error |
//! | `rootless_storage_path` | for users other than root, where no `graphroot` is set |
//! | `driver`, `STORAGE_DRIVER` | `overlay`, `overlay2` or nothing; every other is refused |
//! | `driver_priority` | refused if it names no overlay |
//! | `STORAGE_OPTS` | replaces the options of the driver |
//!
//! For users other than root a `graphroot` or `runroot` that a file of the system sets to root's own default is
//! passed over: older distributions ship it, older programs ignore it there, and the user could not use it.
//!
//! Refused by name, because the store would be another one: `imagestore`, `transient_store`,
//! `additionalimagestores`, `additionallayerstores`, `mount_program`, `force_mask`, `ignore_chown_errors`,
//! `remap-*`, `use_composefs`, `size`, `inodes`. Every other key is ignored, among them `mountopt`, `sync`,
//! `pull_options`, `skip_mount_home` and the keys for automatic user namespaces: they change nothing here.
//!
//! `--root` drops the configured options of the driver, as it does in podman, and with them what is refused
//! there; driver, `imagestore` and `transient_store` still count, and so does a configured runroot.

mod env;
mod error;
mod refuse;
mod sources;

pub use env::Environment;
pub use error::{ConfigError, Origin};

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use env::{real, resolve};
use sources::Settings;

const ROOT_GRAPHROOT: &str = "/var/lib/containers/storage";
const ROOT_RUNROOT: &str = "/run/containers/storage";

/// What the command line says. Relative paths count from the working directory.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--runroot`.
    pub runroot: Option<PathBuf>,
    /// Whether additional image stores are read, and so not refused: only fsck does.
    pub additional: bool,
}

/// Where the store lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory with `overlay/`, absolute.
    pub graphroot: PathBuf,
    /// The directory for what ends with the machine's run, absolute.
    pub runroot: PathBuf,
    /// The files that were read, in the order they were merged.
    pub files: Vec<PathBuf>,
    /// Additional image stores, where they are allowed.
    pub additional: Vec<PathBuf>,
}

impl Config {
    /// Finds, merges and judges the configuration.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`]; whatever is refused is refused by name, with its file.
    pub fn load(env: &Environment, overrides: &Overrides) -> Result<Self, ConfigError> {
        let settings = Settings::find(env)?;
        refuse::check_driver(&settings, env.text("STORAGE_DRIVER")?.filter(|driver| !driver.is_empty()))?;
        refuse::check_store(&settings)?;
        if overrides.root.is_none() {
            refuse::check_options(&settings, env.text("STORAGE_OPTS")?, overrides.additional)?;
        }
        let graphroot = match &overrides.root {
            Some(path) => given(path, "--root")?,
            None => graphroot(env, &settings)?,
        };
        let runroot = match &overrides.runroot {
            Some(path) => given(path, "--runroot")?,
            None => runroot(env, &settings)?,
        };
        let mut additional = Vec::new();
        if overrides.root.is_none() && overrides.additional {
            additional = refuse::additional_stores(&settings, env.text("STORAGE_OPTS")?).into_iter().map(PathBuf::from).collect();
        }
        // Defaults too: those who move their store leave a link at its old place.
        Ok(Self { graphroot: real(&graphroot), runroot: real(&runroot), files: settings.files, additional })
    }
}

fn given(path: &Path, option: &'static str) -> Result<PathBuf, ConfigError> {
    let origin = Origin::Option(option);
    let absolute = std::path::absolute(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    resolve(&absolute, "the path", &origin)
}

/// A configured path, expanded.
fn configured(env: &Environment, settings: &Settings, key: &str, root_default: &str) -> Result<Option<PathBuf>, ConfigError> {
    match settings.text(key)? {
        Some((text, Origin::File(path))) if text == root_default && env.uid() != 0 && is_system(env, path) => Ok(None),
        Some((text, origin)) => env.expand(text, key, origin).map(Some),
        None => Ok(None),
    }
}

fn is_system(env: &Environment, path: &Path) -> bool {
    ["/etc", "/usr/share"].iter().any(|dir| path.starts_with(env.system(dir)))
}

fn graphroot(env: &Environment, settings: &Settings) -> Result<PathBuf, ConfigError> {
    if let Some(path) = configured(env, settings, "storage.graphroot", ROOT_GRAPHROOT)? {
        return Ok(path);
    }
    if env.uid() == 0 {
        return Ok(PathBuf::from(ROOT_GRAPHROOT));
    }
    const ROOTLESS: &str = "storage.rootless_storage_path";
    if let Some((text, origin)) = settings.text(ROOTLESS)? {
        return env.expand(text, ROOTLESS, origin);
    }
    match env.home("XDG_DATA_HOME", ".local/share") {
        Some(dir) => Ok(dir.join("containers/storage")),
        None => Err(ConfigError::NoHome { what: "graphroot", variables: "XDG_DATA_HOME nor HOME" }),
    }
}

fn runroot(env: &Environment, settings: &Settings) -> Result<PathBuf, ConfigError> {
    if let Some(path) = configured(env, settings, "storage.runroot", ROOT_RUNROOT)? {
        return Ok(path);
    }
    if env.uid() == 0 {
        return Ok(PathBuf::from(ROOT_RUNROOT));
    }
    if let Some(dir) = env.path("XDG_RUNTIME_DIR") {
        return Ok(dir.join("containers"));
    }
    let of_user = env.system(&format!("/run/user/{}", env.uid()));
    let private = fs_err::metadata(&of_user).is_ok_and(|m| m.is_dir() && m.uid() == env.uid() && m.mode() & 0o777 == 0o700);
    let base = if private { of_user } else { env.path("TMPDIR").unwrap_or(Path::new("/tmp")).join(format!("storage-run-{}", env.uid())) };
    Ok(base.join("containers"))
}

#[cfg(test)]
mod tests;
