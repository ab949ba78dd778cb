//! Who we are to a registry: `--creds`, or the files that podman and docker keep.
//!
//! Credential helpers are not run; where a file names one for our registry, a warning says so, and its entries count.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::Deserialize;

use super::error::{RegistryError, Result, plain};
use super::system::read;

/// What proves who we are. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A refresh token for the registry's token server.
    Identity(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user:?}, …)"),
            Self::Identity(_) => f.write_str("Identity(…)"),
        }
    }
}

impl Login {
    /// Reads `USER:PASSWORD`, the form of `--creds`.
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':').filter(|(user, _)| !user.is_empty())?;
        Some(Self::Password { user: user.to_owned(), password: password.to_owned() })
    }

    /// The value of a Basic `Authorization` header.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => Some(format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))),
            Self::Identity(_) => None,
        }
    }
}

#[derive(Default, Deserialize)]
struct AuthFile {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for `host` and the repository `path` in it, if there are any.
///
/// `authfile` must exist if given; else `REGISTRY_AUTH_FILE`; else the files of podman and docker, the first that
/// has an entry (store-layout, what a puller must honour).
///
/// # Errors
///
/// [`RegistryError::Credentials`] for a file that cannot be read or understood.
pub fn find(authfile: Option<&Path>, host: &str, path: &str) -> Result<Option<Login>> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let given = authfile.map(Path::to_owned).or_else(|| var("REGISTRY_AUTH_FILE"));
    let files: Vec<(PathBuf, bool)> = match (&given, var("DOCKER_CONFIG")) {
        (Some(file), _) => vec![(file.clone(), false)],
        (None, Some(dir)) => vec![(dir.join("config.json"), false)],
        (None, None) => {
            let home = var("HOME");
            let run = var("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/containers/{}", rustix::process::geteuid().as_raw()).into());
            // XDG_RUNTIME_DIR has `containers/` below it, the root directory ends in the user's number.
            let run = if run.starts_with("/run/containers") { run } else { run.join("containers") };
            let config = var("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
            let in_home = |name: &str| home.as_ref().map(|h| h.join(name));
            [
                Some((run.join("auth.json"), false)),
                config.map(|c| (c.join("containers/auth.json"), false)),
                in_home(".docker/config.json").map(|p| (p, false)),
                in_home(".dockercfg").map(|p| (p, true)),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
    };
    for (file, legacy) in files {
        let refuse = |why: String| RegistryError::Credentials { path: file.display().to_string(), why };
        let bytes = match read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && given.is_none() => continue,
            // HOME of another user, kept by sudo or su: what lies there is not this user's.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && given.is_none() => {
                tracing::warn!(file = %file.display(), "credentials that may not be read are left out");
                continue;
            }
            Err(e) => return Err(refuse(e.to_string())),
        };
        let parsed = parse(&bytes, legacy).map_err(refuse)?;
        if let Some(helper) = parsed.helper(host) {
            let (file, helper) = (file.display(), plain(helper, 40));
            tracing::warn!(%file, host, helper, "credential helpers are not run: give --creds, or log in to a file with --authfile");
        }
        if let Some(login) = parsed.lookup(legacy, host, path).map_err(refuse)? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

fn parse(bytes: &[u8], legacy: bool) -> std::result::Result<AuthFile, String> {
    // An empty file is what `podman logout` of a fresh temp file leaves.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(AuthFile::default());
    }
    // The parser's own words could quote a secret, so only the place is told.
    let json = |e: serde_json::Error| format!("not JSON of the expected form, line {} column {}", e.line(), e.column());
    if legacy {
        return Ok(AuthFile { auths: serde_json::from_slice(bytes).map_err(json)?, ..AuthFile::default() });
    }
    serde_json::from_slice(bytes).map_err(json)
}

impl AuthFile {
    /// The helper that podman would ask first.
    fn helper(&self, host: &str) -> Option<&str> {
        self.helpers.as_ref()?.get(host)?.as_deref().filter(|h| !h.is_empty())
    }

    /// Finds the entry: by repository, its parents, the host, then any spelling of the host.
    fn lookup(&self, legacy: bool, host: &str, path: &str) -> std::result::Result<Option<Login>, String> {
        let Some(auths) = &self.auths else { return Ok(None) };
        let mut key = format!("{host}/{path}");
        loop {
            if let Some(Some(entry)) = auths.get(&key)
                && let Some(login) = entry.login().map_err(|why| format!("entry {:?}: {why}", plain(&key, 100)))?
            {
                return Ok(Some(login));
            }
            match key.rfind('/') {
                Some(slash) => key.truncate(slash),
                None => break,
            }
        }
        let wanted = alias(host);
        for (key, entry) in auths.iter().filter_map(|(k, e)| Some((k, e.as_ref()?))) {
            let bare = key.trim_start_matches("http://").trim_start_matches("https://");
            let bare = if legacy || bare.len() != key.len() { bare.split('/').next().unwrap_or(bare) } else { bare };
            if alias(bare) == wanted
                && let Some(login) = entry.login().map_err(|why| format!("entry {:?}: {why}", plain(key, 100)))?
            {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }
}

fn alias(host: &str) -> &str {
    match host {
        "registry-1.docker.io" | "index.docker.io" => "docker.io",
        other => other,
    }
}

impl Entry {
    fn login(&self) -> std::result::Result<Option<Login>, &'static str> {
        if let Some(token) = self.identitytoken.as_ref().filter(|t| !t.is_empty()) {
            return Ok(Some(Login::Identity(token.clone())));
        }
        let Some(auth) = self.auth.as_ref().filter(|a| !a.is_empty()) else { return Ok(None) };
        let bytes = BASE64.decode(auth.as_bytes()).map_err(|_| "auth is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "auth is not UTF-8")?;
        // Docker pads the password with NUL.
        Login::parse(text.trim_end_matches('\0')).map(Some).ok_or("auth is not USER:PASSWORD")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(bytes: &[u8], legacy: bool, host: &str, path: &str) -> std::result::Result<Option<Login>, String> {
        parse(bytes, legacy)?.lookup(legacy, host, path)
    }

    fn auth(text: &str) -> String {
        BASE64.encode(text.as_bytes())
    }

    #[test]
    fn the_closest_entry_wins() {
        let file = format!(
            r#"{{"auths":{{"q.io":{{"auth":"{}"}},"q.io/ns":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"auth":"{}"}},
                "id.io":{{"identitytoken":"t"}},"none.io":{{}},"null.io":null}},"credHelpers":{{"q.io":"secret"}}}}"#,
            auth("host:1"),
            auth("ns:2:3"),
            auth("hub:4\0")
        );
        let user = |host: &str, path: &str| match lookup(file.as_bytes(), false, host, path).unwrap() {
            Some(Login::Password { user, password }) => format!("{user} {password}"),
            Some(Login::Identity(token)) => token,
            None => String::new(),
        };
        let table = [
            ("q.io", "a", "host 1"),
            ("q.io", "ns/app", "ns 2:3"),
            ("q.io", "nsx/app", "host 1"),
            ("docker.io", "library/a", "hub 4"),
            ("id.io", "a", "t"),
            ("none.io", "a", ""),
            ("null.io", "a", ""),
            ("q.io:5000", "a", ""),
        ];
        for (host, path, want) in table {
            assert_eq!(user(host, path), want, "{host} {path}");
        }
        let old = format!(r#"{{"https://old.io/v1/":{{"auth":"{}"}}}}"#, auth("o:p"));
        assert!(lookup(old.as_bytes(), true, "old.io", "a").unwrap().is_some());
    }

    #[test]
    fn a_helper_is_known_by_name_and_null_is_nothing() {
        let table = [
            (r#"{"auths":null,"credHelpers":null}"#, None),
            (r#"{"credHelpers":{"q.io":null,"z.io":"x"}}"#, None),
            (r#"{"credHelpers":{"q.io":""}}"#, None),
            (r#"{"auths":{},"credHelpers":{"q.io":"secretservice"}}"#, Some("secretservice")),
        ];
        for (text, want) in table {
            let file = parse(text.as_bytes(), false).unwrap();
            assert_eq!(file.helper("q.io"), want, "{text}");
            assert_eq!(file.lookup(false, "q.io", "a"), Ok(None), "{text}");
        }
        assert_eq!(lookup(b"null", true, "q.io", "a"), Ok(None));
    }

    #[test]
    fn a_bad_file_is_an_error_that_shows_no_secret() {
        for (text, want) in [
            (r#"{"auths":{"q.io":{"auth":"hunter2!"}}}"#.to_owned(), "entry \"q.io\": auth is not base64"),
            (format!(r#"{{"auths":{{"q.io":{{"auth":"{}"}}}}}}"#, auth("hunter2")), "entry \"q.io\": auth is not USER:PASSWORD"),
            (r#"{"auths":{"q.io":{"auth":"hunter2""#.to_owned(), "not JSON of the expected form, line 1"),
            (r#"{"auths":"hunter2"}"#.to_owned(), "not JSON of the expected form"),
        ] {
            let error = lookup(text.as_bytes(), false, "q.io", "a").unwrap_err();
            assert!(error.contains(want) && !error.contains("hunter"), "{error}");
        }
        assert_eq!(lookup(b" \n", false, "q.io", "a"), Ok(None));
        let temp = tempfile::tempdir().unwrap();
        let error = find(Some(&temp.path().join("missing")), "q.io", "a").unwrap_err();
        assert!(error.to_string().contains("missing: No such file"), "{error}");
        assert_eq!(format!("{:?}", Login::parse("me:hunter2").unwrap()), "Password(\"me\", …)");
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), legacy in any::<bool>()) {
            if let Ok(login) = lookup(&bytes, legacy, "q.io", "a/b") {
                prop_assert_eq!(login, None);
            }
        }
    }
}
