//! Pure: no I/O. policy.json: which images this host accepts.
//!
//! Signatures are not verified yet, so an image for which any is required is refused, and never taken without.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::plain;
use crate::reference::Reference;

/// A policy that was read.
#[derive(Debug)]
pub(super) struct Policy {
    file: PathBuf,
    raw: Raw,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: Unique<Unique<Vec<Requirement>>>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    r#type: String,
}

impl Policy {
    /// Reads a policy as strictly as podman does: what it does not know is an error.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| format!("is not a policy: {}", plain(&e.to_string(), 200)))?;
        let scopes = raw.transports.0.values().flat_map(|t| t.0.values());
        if scopes.chain([&raw.default]).any(Vec::is_empty) {
            return Err("is not a policy: a list of requirements is empty".into());
        }
        Ok(Self { file: file.to_owned(), raw })
    }

    /// Judges an image of a registry; the error says which file refuses it, and why.
    pub(super) fn check(&self, reference: &Reference) -> Result<(), String> {
        let (scope, requirements) = self.applying(reference);
        for requirement in requirements {
            let why = match requirement.r#type.as_str() {
                "insecureAcceptAnything" => continue,
                "reject" => "rejects it".to_owned(),
                other => format!("wants it verified by {:?}, and signatures are not verified yet", plain(other, 40)),
            };
            return Err(format!("{} {why} ({scope})", self.file.display()));
        }
        Ok(())
    }

    fn applying(&self, reference: &Reference) -> (String, &[Requirement]) {
        if let Some(docker) = self.raw.transports.0.get("docker") {
            for scope in scopes(reference).into_iter().chain([String::new()]) {
                if let Some(found) = docker.0.get(&scope) {
                    return (format!("docker scope {scope:?}"), found);
                }
            }
        }
        ("default".into(), &self.raw.default)
    }
}

/// The scopes an image is in, the closest first, as c/image has them: the image, the repository, its parents, the
/// host with its port, then wildcards for the host's parents without it.
fn scopes(reference: &Reference) -> Vec<String> {
    let mut found = vec![reference.to_string()];
    let mut name = format!("{}/{}", reference.host(), reference.path());
    loop {
        found.push(name.clone());
        match name.rfind('/') {
            Some(slash) => name.truncate(slash),
            None => break,
        }
    }
    let mut host = name.split(':').next().unwrap_or_default();
    while let Some((_, parent)) = host.split_once('.') {
        found.push(format!("*.{parent}"));
        host = parent;
    }
    found
}

/// An object in which no key comes twice: which one counts must not be a matter of taste here.
#[derive(Debug)]
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("key {key:?} twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }
        from.deserialize_map(Keys(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_closest_scope_decides() {
        let policy = |docker: &str| {
            let text =
                format!(r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{{docker}}},"oci":{{"":[{{"type":"reject"}}]}}}}}}"#);
            Policy::parse(Path::new("/p"), text.as_bytes()).unwrap()
        };
        let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
        let signed = r#"[{"type":"insecureAcceptAnything"},{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]"#;
        let verdict = |docker: &str, name: &str| policy(docker).check(&name.parse().unwrap());
        let rejected = |scope: &str| Err(format!("/p rejects it ({scope})"));
        let unverified = |scope: &str| Err(format!("/p wants it verified by \"signedBy\", and signatures are not verified yet ({scope})"));
        let table = [
            ("", "a.b.io:5000/n/app:1", rejected("default")),
            (r#""":ACCEPT"#, "a.b.io:5000/n/app:1", Ok(())),
            (r#""a.b.io:5000/n/app:1":ACCEPT"#, "a.b.io:5000/n/app:1", Ok(())),
            (r#""a.b.io:5000/n/app:1":ACCEPT"#, "a.b.io:5000/n/app:2", rejected("default")),
            (r#""a.b.io:5000/n":ACCEPT,"a.b.io:5000":SIGNED"#, "a.b.io:5000/n/app:1", Ok(())),
            (r#""a.b.io:5000/n":ACCEPT,"a.b.io:5000":SIGNED"#, "a.b.io:5000/nn", unverified("docker scope \"a.b.io:5000\"")),
            (r#""*.b.io":SIGNED,"*.io":ACCEPT"#, "a.b.io:5000/n", unverified("docker scope \"*.b.io\"")),
            (r#""*.b.io":SIGNED,"*.io":ACCEPT"#, "b.io/n", Ok(())),
            (r#""a.b.io":ACCEPT"#, "a.b.io:5000/n", rejected("default")),
            (r#""docker.io/library/alpine":ACCEPT"#, "alpine", Ok(())),
        ];
        for (docker, name, want) in table {
            let docker = docker.replace("ACCEPT", accept).replace("SIGNED", signed);
            assert_eq!(verdict(&docker, name), want, "{docker} {name}");
        }
    }

    #[test]
    fn what_is_no_policy_is_an_error() {
        let table = [
            ("", "EOF"),
            ("{}", "missing field `default`"),
            (r#"{"default":[]}"#, "a list of requirements is empty"),
            (r#"{"default":[{"type":"reject"}],"transports":{"docker":{"q.io":[]}}}"#, "a list of requirements is empty"),
            (r#"{"default":[{"type":"reject"}],"more":1}"#, "unknown field `more`"),
            (r#"{"default":[{}]}"#, "missing field `type`"),
            (r#"{"default":[{"type":"reject"}],"transports":{"docker":{},"docker":{}}}"#, "key \"docker\" twice"),
        ];
        for (text, want) in table {
            let error = Policy::parse(Path::new("/p"), text.as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Policy::parse(Path::new("/p"), &bytes).is_err());
        }
    }
}
