//! Pure: no I/O. The identities of the store, one type each, parsed once and printed in one form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a string is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct IdError {
    /// The kind that was wanted, with its form.
    pub what: &'static str,
    /// The offending text, shortened to 100 characters.
    pub text: String,
}

fn refuse(what: &'static str, text: &str) -> IdError {
    IdError { what, text: text.chars().take(100).collect() }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(refuse($what, text)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A layer's id: 64 lowercase hex digits (spec section 4).
    LayerId, "a layer id (64 lowercase hex digits)", |t| is_hex(t, 64)
);
text_id!(
    /// An image's id: 64 lowercase hex digits, those of the config's digest for every OCI or schema 2 image.
    ImageId, "an image id (64 lowercase hex digits)", |t| is_hex(t, 64)
);
text_id!(
    /// A sha256 digest, `sha256:` and 64 lowercase hex digits.
    Digest, "a digest (sha256: and 64 lowercase hex digits)",
    |t| t.strip_prefix("sha256:").is_some_and(|h| is_hex(h, 64))
);
text_id!(
    /// The short name of a layer under `overlay/l/`: 26 characters of the base32 alphabet A-Z2-7.
    LinkId, "a link id (26 characters of A-Z2-7)",
    |t| t.len() == 26 && t.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
);
text_id!(
    /// The name of a transaction: 128 random bits as 32 lowercase hex digits, never reused.
    TxnId, "a transaction id (32 lowercase hex digits)", |t| is_hex(t, 32)
);
text_id!(
    /// Who pins an image: a name that a program chooses for itself.
    Owner, "an owner of pins (1 to 100 characters of A-Z a-z 0-9 . _ -, the first no dot)",
    |t| (1..=100).contains(&t.len()) && !t.starts_with('.') && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
);

/// Fills `N` bytes from the system's random source.
///
/// # Errors
///
/// What getrandom(2) returns; on Linux that happens only where the system call is forbidden.
pub fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut rest: &mut [u8] = &mut bytes;
    while !rest.is_empty() {
        let got = rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()))?;
        rest = rest.get_mut(got..).unwrap_or_default();
    }
    Ok(bytes)
}

impl TxnId {
    /// A new random id.
    ///
    /// # Errors
    ///
    /// See [`random_bytes`].
    pub fn random() -> std::io::Result<Self> {
        Ok(Self(data_encoding::HEXLOWER.encode(&random_bytes::<16>()?).into()))
    }
}

impl LinkId {
    /// A new random id, made as Go makes it: 17 random bytes in base32, cut to 26 characters.
    ///
    /// # Errors
    ///
    /// See [`random_bytes`].
    pub fn random() -> std::io::Result<Self> {
        let mut text = data_encoding::BASE32_NOPAD.encode(&random_bytes::<17>()?);
        text.truncate(26);
        Ok(Self(text.into()))
    }
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(bytes))
    }

    /// The digest whose 32 hash bytes are `hash`.
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", data_encoding::HEXLOWER.encode(hash)).into())
    }

    /// The 64 hex digits without `sha256:`.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl LayerId {
    /// The chain id that c/image gives a pulled layer: the DiffID's hex digits for the first layer,
    /// else sha256 of `<parent id>+<hex of the DiffID>` (spec section 4; this is not OCI's ChainID).
    pub fn chain(parent: Option<&LayerId>, diff_id: &Digest) -> Self {
        match parent {
            None => Self(diff_id.hex().into()),
            Some(parent) => Self(Digest::of(format!("{parent}+{}", diff_id.hex()).as_bytes()).hex().into()),
        }
    }
}

impl ImageId {
    /// The id of the image with this config.
    pub fn of_config(digest: &Digest) -> Self {
        Self(digest.hex().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_accept_their_form_and_nothing_else() {
        let hex = "a".repeat(64);
        assert!(hex.parse::<LayerId>().is_ok());
        for bad in ["", "../x", &"A".repeat(64), &"a".repeat(63), &"a".repeat(65), &format!("{}\n", "a".repeat(63))] {
            assert!(bad.parse::<LayerId>().is_err(), "{bad}");
            assert!(format!("sha256:{bad}").parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("sha256:{hex}").parse::<Digest>().is_ok());
        assert!("ODTVXQBZ7BNMVNDWIC27HWYR5E".parse::<LinkId>().is_ok());
        assert!("ODTVXQBZ7BNMVNDWIC27HWYR5\n".parse::<LinkId>().is_err());
    }

    #[test]
    fn owners_are_plain_names() {
        for good in ["a", "bootc", "-", "A.b_c-9", "a..", &"x".repeat(100)] {
            assert_eq!(good.parse::<Owner>().unwrap().as_str(), good);
        }
        for bad in ["", ".", ".a", "a/b", "a b", "a\n", "ä", "a\0", &"x".repeat(101)] {
            let error = bad.parse::<Owner>().unwrap_err().to_string();
            assert!(error.ends_with("is not an owner of pins (1 to 100 characters of A-Z a-z 0-9 . _ -, the first no dot)"), "{error}");
        }
    }

    #[test]
    fn random_ids_have_their_own_form() {
        let link = LinkId::random().unwrap();
        assert_eq!(link.as_str().parse::<LinkId>().unwrap(), link);
        let txn = TxnId::random().unwrap();
        assert_eq!(txn.as_str().parse::<TxnId>().unwrap(), txn);
    }

    #[test]
    fn chain_ids_are_those_of_c_image() {
        let first = Digest::of(b"one");
        let base = LayerId::chain(None, &first);
        assert_eq!(base.as_str(), first.hex());
        let second = Digest::of(b"two");
        let child = LayerId::chain(Some(&base), &second);
        assert_eq!(child.as_str(), Digest::of(format!("{}+{}", first.hex(), second.hex()).as_bytes()).hex());
    }
}
