//! Pure: no I/O. Which of the images of a layout or an archive is meant.

use std::fmt;

/// Which image of several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Pick {
    /// The only one there is.
    #[default]
    Only,
    /// The one with this name.
    Named(String),
    /// The one at this place, from 0.
    Number(usize),
}

impl Pick {
    /// Reads what stands behind the path: nothing, `@NUMBER`, or a name.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text.filter(|text| !text.is_empty()) {
            None => Self::Only,
            Some(text) => match text.strip_prefix('@').map(str::parse) {
                Some(Ok(number)) => Self::Number(number),
                _ => Self::Named(text.to_owned()),
            },
        }
    }

    /// What is looked for, for a message.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Only => "the only image".to_owned(),
            Self::Named(name) => format!("image {:?}", super::plain(name, 100)),
            Self::Number(number) => format!("image @{number}"),
        }
    }

    /// What there is instead, and how to say which one is meant.
    pub(super) fn hint(&self, mut names: Vec<String>, form: &str) -> String {
        const SHOWN: usize = 20;
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let mut list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        if more > 0 {
            list.push_str(&format!(" and {more} more"));
        }
        match self {
            Self::Only => format!("there is none or more than one; name it as {form}; there is {list}"),
            _ => format!("there is {list}"),
        }
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Named(name) => write!(f, ":{name}"),
            Self::Number(number) => write!(f, ":@{number}"),
        }
    }
}
