//! Pure: no I/O. What `--filter` lets through. Filters of one kind are alternatives, those of several must all agree, as in podman.

use std::mem::{Discriminant, discriminant};

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// A name that looks like this.
    Reference(String),
    /// Whether nothing refers to it: an image without a name, a layer without an image.
    Dangling(bool),
    /// An id that begins with this.
    Id(String),
}

/// A filter of images.
pub(super) fn of_images(text: &str) -> Result<Filter, String> {
    parse(text, true).ok_or_else(|| "wants reference=PATTERN, dangling=true, dangling=false or id=PREFIX".to_owned())
}

/// A filter of layers.
pub(super) fn of_layers(text: &str) -> Result<Filter, String> {
    parse(text, false).ok_or_else(|| "wants dangling=true, dangling=false or id=PREFIX".to_owned())
}

fn parse(text: &str, names: bool) -> Option<Filter> {
    match text.split_once('=')? {
        (_, "") => None,
        ("reference", pattern) if names => Some(Filter::Reference(pattern.to_owned())),
        ("dangling", value) => Some(Filter::Dangling(value.parse().ok()?)),
        ("id", prefix) if prefix.len() <= 64 => Some(Filter::Id(prefix.to_ascii_lowercase())),
        _ => None,
    }
}

/// What filters look at.
pub(super) struct Subject<'a> {
    pub(super) id: &'a str,
    pub(super) names: &'a [String],
    pub(super) dangling: bool,
}

/// Whether the filters let it through.
pub(super) fn lets_through(filters: &[Filter], subject: &Subject<'_>) -> bool {
    let agrees = |filter: &Filter| match filter {
        Filter::Reference(pattern) => subject.names.iter().any(|name| names_it(pattern, name)),
        Filter::Dangling(wanted) => *wanted == subject.dangling,
        Filter::Id(prefix) => subject.id.starts_with(prefix.as_str()),
    };
    let of_kind = |kind: Discriminant<Filter>| filters.iter().filter(move |filter| discriminant(*filter) == kind);
    filters.iter().all(|filter| of_kind(discriminant(filter)).any(agrees))
}

/// Whether a pattern is meant for a name: the whole of it, without its registry, or its last part; each with or without its tag.
fn names_it(pattern: &str, name: &str) -> bool {
    let path = name.split_once('/').map_or(name, |(_, path)| path);
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    [name, path, last].into_iter().any(|text| {
        let colon = text.rfind(':').filter(|at| !text.get(*at..).unwrap_or_default().contains('/'));
        let bare = text.split_once('@').map(|(bare, _)| bare).or_else(|| text.get(..colon?));
        glob(pattern, text) || bare.is_some_and(|bare| glob(pattern, bare))
    })
}

/// `*` is any run and `?` any character, neither of them a slash.
fn glob(pattern: &str, text: &str) -> bool {
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), text.split('/').collect());
    patterns.len() == parts.len() && patterns.iter().zip(parts).all(|(pattern, part)| glob_part(pattern, part))
}

/// Without slashes it is enough to go back to the last star, so the work is bounded by the product of the lengths.
fn glob_part(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(want) if want == c || *want == '?' => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_meant_for_names_as_podman_means_them() {
        let name = "q.io:5000/team/app:1.2";
        for good in [
            "q.io:5000/team/app:1.2",
            "team/app:1.2",
            "app:1.2",
            "app",
            "team/app",
            "q.io:5000/team/app",
            "a*",
            "*/*",
            "*/*/app",
            "ap?:1.*",
            "*",
        ] {
            assert!(names_it(good, name), "{good}");
        }
        for bad in ["ap", "app:1", "q.io:5000", "*/app/*", "??", "team", "APP", ""] {
            assert!(!names_it(bad, name), "{bad}");
        }
        let pinned = format!("q.io/app@sha256:{}", "a".repeat(64));
        assert!(
            names_it("app", &pinned) && names_it("q.io/app", &pinned) && names_it("app@sha256:*", &pinned) && !names_it("sha256", &pinned)
        );
        // Bounded work, whatever the pattern.
        assert!(!glob(&"*a".repeat(5000), &"a".repeat(4000)));
    }

    #[test]
    fn one_kind_is_or_several_are_and() {
        let names = ["q.io/app:1".to_owned()];
        let subject = Subject { id: "ab12", names: &names, dangling: false };
        let table: &[(&[&str], bool)] = &[
            (&[], true),
            (&["id=ab"], true),
            (&["id=AB"], true),
            (&["id=b"], false),
            (&["id=b", "id=a"], true),
            (&["reference=app", "id=b"], false),
            (&["reference=app", "reference=other", "dangling=false"], true),
            (&["dangling=true"], false),
        ];
        for (texts, want) in table {
            let filters: Vec<Filter> = texts.iter().map(|text| of_images(text).unwrap()).collect();
            assert_eq!(lets_through(&filters, &subject), *want, "{texts:?}");
        }
        for bad in ["", "id", "id=", "dangling=maybe", "label=x", "=x"] {
            assert!(of_images(bad).is_err() && of_layers(bad).is_err(), "{bad}");
        }
        assert!(of_layers("reference=a").is_err());
    }
}
