//! Pure: no I/O. The records of a PAX header and what they change in a tar header.

use std::collections::BTreeMap;

use super::header::Header;
use super::number::{decimal, pax_time};

pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
const MAJOR: &[u8] = b"GNU.sparse.major";
const MINOR: &[u8] = b"GNU.sparse.minor";
const MAP: &[u8] = b"GNU.sparse.map";

/// The records that mean something here, by key; the last of equal keys counts.
#[derive(Debug, Default, Clone)]
pub(super) struct Pax(BTreeMap<Vec<u8>, Vec<u8>>);

/// Takes one record `<length> <key>=<value>\n` off `rest`.
fn record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = rest.iter().position(|&b| b == b' ')?;
    let (number, _) = rest.split_at_checked(space)?;
    let len = usize::try_from(decimal(number)?).ok().filter(|len| *len >= 5)?;
    let (whole, after) = rest.split_at_checked(len)?;
    let body = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    let (key, value) = (body.get(..equals)?, body.get(equals + 1..)?);
    let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.is_empty() || if text { value.contains(&0) } else { key.contains(&0) } {
        return None;
    }
    *rest = after;
    Some((key, value))
}

fn is_known(key: &[u8]) -> bool {
    let plain = [&b"path"[..], b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"ctime", MAJOR, MINOR, MAP];
    plain.contains(&key) || key.starts_with(XATTR)
}

impl Pax {
    /// Reads all records of a PAX header's body.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, &'static str> {
        let mut records = BTreeMap::new();
        let mut sparse = 0usize;
        while !body.is_empty() {
            let (key, value) = record(&mut body).ok_or("malformed record")?;
            let expected: &[u8] = if sparse.is_multiple_of(2) { b"GNU.sparse.offset" } else { b"GNU.sparse.numbytes" };
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                if key != expected || value.contains(&b',') {
                    return Err("malformed sparse map");
                }
                // Sparse files are refused, so that there is a map is all that matters.
                sparse += 1;
            } else if is_known(key) {
                records.insert(key.to_vec(), value.to_vec());
            }
        }
        if sparse > 0 {
            records.insert(MAP.to_vec(), b"given".to_vec());
        }
        Ok(Self(records))
    }

    /// The value of `key`; an empty one counts as absent, as in Go.
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// Puts the records' values over the header's.
    pub(super) fn apply(&self, header: &mut Header) -> Result<(), &'static str> {
        let number = |key, slot: &mut i64, what| match self.get(key).map(decimal) {
            Some(None) => Err(what),
            Some(Some(value)) => {
                *slot = value;
                Ok(())
            }
            None => Ok(()),
        };
        number(b"size", &mut header.size, "size is not a number")?;
        number(b"uid", &mut header.uid, "uid is not a number")?;
        number(b"gid", &mut header.gid, "gid is not a number")?;
        let time = |key, what| self.get(key).map(|text| pax_time(text).ok_or(what)).transpose();
        header.mtime = time(b"mtime", "mtime is not a time")?.unwrap_or(header.mtime);
        header.atime = time(b"atime", "atime is not a time")?.or(header.atime);
        time(b"ctime", "ctime is not a time")?;
        if let Some(path) = self.get(b"path") {
            header.name = path.to_vec();
        }
        if let Some(link) = self.get(b"linkpath") {
            header.link = link.to_vec();
        }
        Ok(())
    }

    /// Whether Go reads the member as one of GNU's PAX sparse formats.
    pub(super) fn is_sparse(&self) -> bool {
        match (self.get(MAJOR), self.get(MINOR)) {
            (Some(b"0"), Some(b"0" | b"1")) | (Some(b"1"), Some(b"0")) => true,
            (None, None) => self.get(MAP).is_some(),
            _ => false,
        }
    }

    /// The extended attributes, by name.
    pub(super) fn into_xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.into_iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_go_reads_them() {
        for (body, good) in [
            (&b""[..], true),
            (b"6 k=1\n", true),
            (b"30 mtime=1350244992.023960108\n", true),
            (b"5 k=\n", true),
            (b"+6 k=1\n", false),
            (b"+7 k=1\n", true),
            (b"7 k=1\n", false),
            (b"6 k=1", false),
            (b"6 k=12", false),
            (b"4 =\n", false),
            (b"5 =1\n", false),
            (b"5 k1\n", false),
            (b"50 k=1\n", false),
            (b"-6 k=1\n", false),
            (b"9223372036854775808 k=1\n", false),
            (b"10 path=a\n", true),
            (b"10 path=\0\n", false),
            (b"6 k=\0\n", true),
            (b"7 \0k=1\n", false),
        ] {
            assert_eq!(Pax::parse(body).is_ok(), good, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn only_versions_that_go_expands_are_sparse() {
        let pax = |pairs: &[(&str, &str)]| Pax(pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect());
        let (major, minor, map) = ("GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map");
        assert!(pax(&[(major, "1"), (minor, "0")]).is_sparse());
        assert!(pax(&[(major, "0"), (minor, "1")]).is_sparse());
        assert!(pax(&[(map, "0,1")]).is_sparse());
        assert!(!pax(&[(major, "2"), (minor, "0"), (map, "0,1")]).is_sparse());
        assert!(!pax(&[("GNU.sparse.size", "7")]).is_sparse());
        assert!(!pax(&[]).is_sparse());
    }
}
