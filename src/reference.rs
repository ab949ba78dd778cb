//! Pure: no I/O. Image references as podman reads them: `[docker://][HOST[:PORT]/]PATH[:TAG][@sha256:HEX]`.
//!
//! Names without a registry mean docker.io here; what registries.conf says of them, the registry client asks first.
//! Names of docker.io without a namespace mean `library/`. A reference with tag and digest means the digest, and the tag
//! is dropped, as podman does.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::ids::Digest;

/// The longest name, registry included, that any registry accepts.
const NAME_MAX: usize = 255;
/// The longest tag.
const TAG_MAX: usize = 128;
/// The longest text that is looked at: a name, a tag, a digest, a transport and what stands between them.
const TEXT_MAX: usize = NAME_MAX + TAG_MAX + 128;

const DEFAULT_HOST: &str = "docker.io";

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?}: {part} {why}")]
pub struct ReferenceError {
    /// The text, shortened to 100 characters.
    pub text: String,
    /// The part that is wrong.
    pub part: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Where an image is: a registry, a repository in it, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    path: String,
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// The registry as written, `HOST[:PORT]`, with docker.io for its aliases.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The registry to connect to: docker.io's API lives under another name.
    pub fn api_host(&self) -> &str {
        if self.host == DEFAULT_HOST { "registry-1.docker.io" } else { &self.host }
    }

    /// The repository inside the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, unless a digest is wanted.
    pub fn tag(&self) -> Option<&str> {
        match &self.target {
            Target::Tag(tag) => Some(tag),
            Target::Digest(_) => None,
        }
    }

    /// The digest that is wanted, if any.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.target {
            Target::Tag(_) => None,
            Target::Digest(digest) => Some(digest),
        }
    }

    /// What stands for tag or digest in the registry's API.
    pub fn target(&self) -> &str {
        match &self.target {
            Target::Tag(tag) => tag,
            Target::Digest(digest) => digest.as_str(),
        }
    }

    /// The name under which the store keeps the image; the same as `Display`.
    pub fn stored_name(&self) -> String {
        self.to_string()
    }

    /// Reads a name that was given to an image on this machine: without a registry it means `localhost/`.
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] naming the part.
    pub fn local(text: &str) -> Result<Self, ReferenceError> {
        parse(text, Short::Local)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.host, self.path),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.host, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text.strip_prefix("docker://").unwrap_or(text), Short::Hub)
    }
}

/// Whether a text names no registry, so that what it means depends on the host.
#[cfg(feature = "registry")]
pub(crate) fn is_short(text: &str) -> bool {
    let name = text.get(..name_end(text)).unwrap_or(text);
    !text.starts_with("docker://") && !name.split_once('/').is_some_and(|(first, _)| is_host(first))
}

/// Where the name ends in a text, and the tag or digest begins.
#[cfg(feature = "registry")]
pub(crate) fn name_end(text: &str) -> usize {
    let digest = text.find('@').unwrap_or(text.len());
    let before = text.get(..digest).unwrap_or(text);
    // A colon behind the last slash begins the tag; one before it belongs to the port.
    let slash = before.rfind('/').map_or(0, |i| i + 1);
    before.get(slash..).and_then(|last| last.find(':')).map_or(digest, |colon| slash + colon)
}

/// The first part is a registry if it looks like one.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// What a name without a registry means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Short {
    Hub,
    Local,
}

fn parse(text: &str, short: Short) -> Result<Reference, ReferenceError> {
    let refuse = |part, why| ReferenceError { text: text.chars().take(100).collect(), part, why };
    if text.len() > TEXT_MAX {
        return Err(refuse("the text", "is too long"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let digest = match digest {
        None => None,
        Some(d) => Some(d.parse::<Digest>().map_err(|_| refuse("the digest", "is not sha256: and 64 lowercase hex digits"))?),
    };
    // A colon behind the last slash begins the tag; one before it belongs to the port.
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest.get(slash..).and_then(|last| last.find(':')) {
        // `[::1]` alone is no name with a tag; it is caught as a path below.
        Some(colon) => (rest.get(..slash + colon).unwrap_or(rest), rest.get(slash + colon + 1..)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag).map_err(|why| refuse("the tag", why))?;
    }
    let (host, path) = split_host(name, short);
    let host = match host.as_str() {
        "index.docker.io" => DEFAULT_HOST.to_owned(),
        _ => host,
    };
    check_host(&host).map_err(|why| refuse("the registry", why))?;
    check_path(path).map_err(|why| refuse("the name", why))?;
    // Such a name could not be told from an image id.
    if path == name && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refuse("the name", "is 64 hex digits and would be taken for an image id"));
    }
    let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    if host.len() + 1 + path.len() > NAME_MAX {
        return Err(refuse("the name", "is longer than 255 characters"));
    }
    let target = match (digest, tag) {
        (Some(digest), _) => Target::Digest(digest),
        (None, tag) => Target::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference { host, path, target })
}

/// The first part is a registry if it looks like one: a dot, a colon, a capital letter, or `localhost`.
fn split_host(name: &str, short: Short) -> (String, &str) {
    if let Some((first, rest)) = name.split_once('/')
        && is_host(first)
    {
        return (first.to_owned(), rest);
    }
    let host = if short == Short::Local { "localhost" } else { DEFAULT_HOST };
    (host.to_owned(), name)
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = if let Some(inner) = host.strip_prefix('[') {
        let (address, rest) = inner.split_once(']').ok_or("has an IPv6 address without its closing bracket")?;
        address.parse::<Ipv6Addr>().map_err(|_| "has no valid IPv6 address in its brackets")?;
        match rest.strip_prefix(':') {
            Some(port) => ("", Some(port)),
            None if rest.is_empty() => ("", None),
            None => return Err("has text behind its IPv6 address"),
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        }
    };
    if let Some(port) = port {
        let number = port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5;
        if !number || !port.parse::<u16>().is_ok_and(|p| p > 0) {
            return Err("has a port that is not a number from 1 to 65535");
        }
    }
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !l.starts_with('-') && !l.ends_with('-');
    if !host.starts_with('[') && !name.split('.').all(label) {
        return Err("is not a host name");
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("must be lowercase");
    }
    if path.split('/').all(component) { Ok(()) } else { Err("has a part that is not letters and digits joined by '.', '_', '__' or '-'") }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn component(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(inner) && text.bytes().last().is_some_and(inner);
    ends && text
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.bytes().next() {
        None => Err("is empty"),
        Some(first) if !word(first) => Err("must begin with a letter, a digit or '_'"),
        Some(_) if tag.len() > TAG_MAX => Err("is longer than 128 characters"),
        Some(_) if !tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') => Err("may hold only letters, digits, '_', '.' and '-'"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

    #[test]
    fn names_are_normalised_as_podman_does() {
        let at = format!("sha256:{HEX}");
        let table = [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("docker://quay.io/a/b/c:v1", "quay.io/a/b/c:v1".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("localhost:5000/a:t", "localhost:5000/a:t".to_owned()),
            ("127.0.0.1:5000/python-app", "127.0.0.1:5000/python-app:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("[fe80::1]/a:t", "[fe80::1]/a:t".to_owned()),
            ("HOST/a", "HOST/a:latest".to_owned()),
            ("myhost/a__b/c--d.e", "docker.io/myhost/a__b/c--d.e:latest".to_owned()),
            (&format!("q.io/a@{at}"), format!("q.io/a@{at}")),
            (&format!("q.io/a:dropped@{at}"), format!("q.io/a@{at}")),
        ];
        for (text, want) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.stored_name(), want, "{text}");
            assert_eq!(want.parse::<Reference>().unwrap(), reference, "{text}");
        }
        assert_eq!(Reference::local("app:1").unwrap().stored_name(), "localhost/app:1");
        assert_eq!("alpine".parse::<Reference>().unwrap().api_host(), "registry-1.docker.io");
    }

    #[test]
    fn what_is_no_name_is_refused_by_its_part() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = format!("q.io/{}", "n".repeat(255));
        let table = [
            ("", "the name is empty"),
            ("Alpine", "the name must be lowercase"),
            ("q.io/A", "the name must be lowercase"),
            ("q.io/", "the name is empty"),
            ("/a", "the name has a part"),
            ("a//b", "the name has a part"),
            ("a/../b", "the name has a part"),
            ("../../etc/passwd", "the registry is not a host name"),
            ("a.", "the name has a part"),
            ("a___b", "the name has a part"),
            ("a:", "the tag is empty"),
            ("a:-t", "the tag must begin"),
            ("a:b c", "the tag may hold"),
            ("a\nb", "the name has a part"),
            (&long_tag, "the tag is longer"),
            (&long_name, "the name is longer"),
            (&"x".repeat(5000), "the text is too long"),
            ("a@sha256:12", "the digest is not"),
            ("a@sha512:12", "the digest is not"),
            ("q.io:0/a", "the registry has a port"),
            ("q.io:70000/a", "the registry has a port"),
            ("q.io:+80/a", "the registry has a port"),
            ("q.io:/a", "the registry has a port"),
            ("[::1/a", "the registry has an IPv6 address without"),
            ("[zz::]/a", "the registry has no valid IPv6"),
            ("user@host.io/a", "the digest is not"),
            ("-bad.io/a", "the registry is not a host name"),
            (HEX, "the name is 64 hex digits"),
        ];
        for (text, want) in table {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(docker://)?[\\PC]{0,40}|[a-zA-Z0-9._:/@\\[\\]-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.stored_name().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
