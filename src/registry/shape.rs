//! Pure: no I/O. Whether a JSON document has the types that Go's structs want, told in one pass that keeps nothing.
//!
//! podman decodes what a store holds into structs, and one document that does not fit makes `podman images` fail for
//! the whole store. So a document is judged by Go's rules before it is accepted: null fits everything, keys that are
//! not known are passed over. What Go and we would read differently is refused: a known key twice, and a key that is
//! a known one but for its case, which Go takes for it.

use std::cell::RefCell;
use std::fmt;

use data_encoding::BASE64;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::manifest::ContentError;
use crate::metadata::is_rfc3339;

/// The type of a value. Null fits all of them.
#[derive(Debug)]
pub(super) enum Shape {
    /// Whatever it is.
    Any,
    Text,
    /// A number that Go's int64 holds.
    Whole,
    Flag,
    /// Text that Go reads as a time.
    Time,
    /// Text that stands for bytes.
    Base64,
    /// An object whose keys do not matter: `struct{}`.
    Empty,
    /// An object with any keys and values of one shape.
    Map(&'static Shape),
    /// A list of at most so many.
    List(&'static Shape, usize),
    /// An object with these keys, at most 64, and others.
    Object(&'static [(&'static str, Shape)]),
}

impl Shape {
    fn noun(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Text => "a string",
            Self::Whole => "a whole number",
            Self::Flag => "true or false",
            Self::Time => "a time in RFC 3339",
            Self::Base64 => "base64 in a string",
            Self::Empty | Self::Map(_) | Self::Object(_) => "an object",
            Self::List(..) => "a list",
        }
    }
}

/// Judges a document.
///
/// # Errors
///
/// [`ContentError`]: not JSON, or the first value that does not fit.
pub(super) fn check(raw: &[u8], shape: &Shape) -> Result<(), ContentError> {
    let fault = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(raw);
    let result = Check { shape, path: &Path::Root, fault: &fault }.deserialize(&mut reader).and_then(|()| reader.end());
    match (fault.into_inner(), result) {
        (Some(fault), _) => Err(fault),
        (None, result) => result.map_err(|source| ContentError::Json { source }),
    }
}

/// Where in the document a value is.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the document"),
            Self::Key(Self::Root, key) => f.write_str(&super::plain(key, 60)),
            Self::Key(above, key) => write!(f, "{above}.{}", super::plain(key, 60)),
            Self::Item(above, number) => write!(f, "{above}[{number}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct Check<'a> {
    shape: &'a Shape,
    path: &'a Path<'a>,
    /// The first fault; serde's own errors could only hold its text.
    fault: &'a RefCell<Option<ContentError>>,
}

impl Check<'_> {
    fn fail<E: Error>(&self, fault: ContentError) -> E {
        self.fault.borrow_mut().get_or_insert(fault);
        E::custom("does not fit")
    }

    fn field<E: Error>(&self, why: String) -> E {
        self.fail(ContentError::Field { field: self.path.to_string(), why })
    }

    fn other<E: Error>(&self, is: &str) -> E {
        self.field(format!("is {is}, wanted {}", self.shape.noun()))
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.shape {
            Shape::Any => from.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => from.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shape.noun())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        if matches!(self.shape, Shape::Flag) { Ok(()) } else { Err(self.other("true or false")) }
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        if matches!(self.shape, Shape::Whole) { Ok(()) } else { Err(self.other("a number")) }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        let number = i64::try_from(number).map_err(|_| self.other("a number above 2^63"))?;
        self.visit_i64(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        Err(self.other(&format!("{number}")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let fits = match self.shape {
            Shape::Text => true,
            Shape::Time => is_rfc3339(text),
            // Go passes over line ends in base64.
            Shape::Base64 if text.contains(['\r', '\n']) => BASE64.decode(text.replace(['\r', '\n'], "").as_bytes()).is_ok(),
            Shape::Base64 => BASE64.decode(text.as_bytes()).is_ok(),
            _ => return Err(self.other("a string")),
        };
        if fits { Ok(()) } else { Err(self.other(&format!("{:?}", super::plain(text, 60)))) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Shape::List(shape, max) = self.shape else { return Err(self.other("a list")) };
        let mut number = 0;
        while items.next_element_seed(Check { shape, path: &Path::Item(self.path, number), fault: self.fault })?.is_some() {
            number += 1;
            if number > *max {
                return Err(self.field(format!("more than {max} entries, which are not accepted")));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = 0u64;
        while let Some(key) = entries.next_key::<String>()? {
            let shape = match self.shape {
                Shape::Empty => &Shape::Any,
                Shape::Map(shape) => shape,
                Shape::Object(fields) => match self.known(fields, &key)? {
                    None => &Shape::Any,
                    Some((bit, shape)) if seen & bit == 0 => {
                        seen |= bit;
                        shape
                    }
                    Some(_) => return Err(self.fail(ContentError::Ambiguous { why: format!("{} twice", Path::Key(self.path, &key)) })),
                },
                _ => return Err(self.other("an object")),
            };
            entries.next_value_seed(Check { shape, path: &Path::Key(self.path, &key), fault: self.fault })?;
        }
        // An empty one has not been looked at.
        if matches!(self.shape, Shape::Empty | Shape::Map(_) | Shape::Object(_)) { Ok(()) } else { Err(self.other("an object")) }
    }
}

impl Check<'_> {
    /// The field of this name and its bit.
    fn known<E: Error>(&self, fields: &'static [(&'static str, Shape)], key: &str) -> Result<Option<(u64, &'static Shape)>, E> {
        let mut bit = 1u64;
        for (name, shape) in fields {
            if *name == key {
                return Ok(Some((bit, shape)));
            }
            if name.chars().map(fold).eq(key.chars().map(fold)) {
                let why = format!("key {} differs from the known {name:?} in case only", Path::Key(self.path, key));
                return Err(self.fail(ContentError::Ambiguous { why }));
            }
            bit <<= 1;
        }
        Ok(None)
    }
}

/// Go compares keys by Unicode's simple folding; besides ASCII two characters fold to ASCII letters.
fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    }
}
