//! Pure: no I/O. Ids and digests in the store's files, whatever other programs put there.

use std::fmt;
use std::str::FromStr;

/// An id of the store's form, or a foreign text in its place.
///
/// Foreign text is kept and shown; nothing can be addressed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loose<T> {
    /// Of the form.
    Known(T),
    /// Any other text.
    Foreign(Box<str>),
}

impl<T: FromStr> Loose<T> {
    /// The id, or the text as it is.
    pub fn new(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Foreign(text.into()), Self::Known)
    }

    /// As [`Loose::new`]; `None` for a missing or empty text, which Go does not tell apart.
    pub(super) fn optional(text: Option<String>) -> Option<Self> {
        text.filter(|t| !t.is_empty()).map(|t| Self::new(&t))
    }
}

impl<T> Loose<T> {
    /// The id, if it is one.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(id) => Some(id),
            Self::Foreign(_) => None,
        }
    }
}

impl<T: AsRef<str>> Loose<T> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(id) => id.as_ref(),
            Self::Foreign(text) => text,
        }
    }
}

impl<T: AsRef<str>> fmt::Display for Loose<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text of an optional id, empty if there is none.
pub(super) fn text_of<T: AsRef<str>>(id: Option<&Loose<T>>) -> &str {
    id.map_or("", Loose::as_str)
}
