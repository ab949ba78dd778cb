//! Enough of Rust's grammar to read imports: comments, strings, paths. Pure: no I/O.

#![allow(dead_code)]

use std::iter::once;

/// A path that leads out of its own module.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The first name after the root.
    pub name: String,
    /// Whether the path begins at the crate's root for sure, not with `super`.
    pub from_root: bool,
}

/// The source with every comment and every literal's contents blanked out.
pub fn code(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < text.len() {
        let rest = &text[i..];
        let end = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest),
            ['r', ..] if !after_word(&out) && raw_string(rest).is_some() => raw_string(rest).unwrap_or(1),
            ['b' | 'c', 'r', ..] if !after_word(&out) && raw_string(&rest[1..]).is_some() => 1 + raw_string(&rest[1..]).unwrap_or(0),
            ['\'', '\\', ..] => 2 + rest.iter().skip(3).position(|c| *c == '\'').map_or(1, |p| p + 2),
            ['\'', _, '\'', ..] => 3,
            [c, ..] => {
                out.push(*c);
                i += 1;
                continue;
            }
            [] => break,
        };
        // Line ends stay, so that positions still mean something.
        out.extend(once(' ').chain(rest[..end.min(rest.len())].iter().filter(|c| **c == '\n').copied()));
        i += end;
    }
    out
}

fn after_word(out: &str) -> bool {
    out.chars().next_back().is_some_and(word_char)
}

fn word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(text: &[char]) -> usize {
    let (mut depth, mut i) = (0_usize, 0);
    while i < text.len() {
        match text[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn quoted(text: &[char]) -> usize {
    let mut i = 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The length of `r"..."` or `r##"..."##` at the start of `text`.
fn raw_string(text: &[char]) -> Option<usize> {
    let hashes = text.get(1..)?.iter().take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let body = 2 + hashes;
    let close: Vec<char> = once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let at = text.get(body..)?.windows(close.len()).position(|w| w == close)?;
    Some(body + at + close.len())
}

/// `code` without the items under `#[cfg(test)]`.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        rest = &rest[item_end(rest)..];
    }
    out.push_str(rest);
    out
}

/// Where the item at the start of `code` ends: its first `;`, or the brace that closes its first one.
fn item_end(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Whether `path` stands in `code` with nothing of a longer word before or behind.
pub fn has_word(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let behind = code[at + path.len()..].chars().next();
        !before.is_some_and(|c| word_char(c) || c == '.') && !behind.is_some_and(word_char)
    })
}

/// The first names behind `crate::`, `cstor_rs::` and `super::`, groups in braces opened.
pub fn crate_paths(code: &str) -> Vec<Target> {
    let squeezed = squeeze(code);
    let mut found = Vec::new();
    for (prefix, from_root) in [("crate::", true), ("cstor_rs::", true), ("super::", false)] {
        for (at, _) in squeezed.match_indices(prefix) {
            if squeezed[..at].chars().next_back().is_some_and(word_char) {
                continue;
            }
            let names = first_names(&squeezed[at + prefix.len()..]);
            let own = ["super", "self", "*"];
            found.extend(names.into_iter().filter(|n| !own.contains(&n.as_str())).map(|name| Target { name, from_root }));
        }
    }
    found
}

/// The names that each group or single import behind one of `prefixes` begins with.
pub fn groups(code: &str, prefixes: &[&str]) -> Vec<Vec<String>> {
    let squeezed = squeeze(code);
    let behind = |prefix: &&str| -> Vec<Vec<String>> {
        let starts = squeezed.match_indices(*prefix).map(|(at, _)| &squeezed[at + prefix.len()..]);
        starts.filter(|rest| rest.starts_with('{')).map(first_names).collect()
    };
    prefixes.iter().flat_map(behind).collect()
}

/// `code` with no space around `::`, braces and commas.
fn squeeze(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut space = false;
    for c in code.chars() {
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if space && word_char(c) && after_word(&out) {
            out.push(' ');
        }
        space = false;
        out.push(c);
    }
    out
}

/// `a::b` gives a; `{a, b::{c}, d as e}` gives a, b, d.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.chars().take_while(|c| word_char(*c) || *c == '*').collect() };
    let Some(inside) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut names, mut start) = (0_usize, Vec::new(), 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&inside[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let table = [
            ("a // use crate::x\nb", "a  \nb"),
            ("a /* x /* y */ z */ b", "a   b"),
            (r#"f("crate::x \" y") + 1"#, "f( ) + 1"),
            (r##"f(r#"a " b"#, br"c")"##, "f( ,  )"),
            ("let c = '\"'; let d = '\\''; fn f<'a>()", "let c =  ; let d =  ; fn f<'a>()"),
            ("expr\"x\"", "expr "),
        ];
        for (source, expected) in table {
            assert_eq!(code(source), expected, "{source}");
        }
    }

    #[test]
    fn test_items_are_left_out() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c } }\nfn d() {}\n#[cfg(test)] use x;\nfn e() {}";
        assert_eq!(without_tests(source), "fn a() {}\n\nfn d() {}\n\nfn e() {}");
    }

    #[test]
    fn every_form_of_import_is_seen() {
        let root = |name: &str| Target { name: name.to_owned(), from_root: true };
        let above = |name: &str| Target { name: name.to_owned(), from_root: false };
        let table = [
            ("use crate::ids::LayerId;", vec![root("ids")]),
            ("use crate::{ids::{A, B}, fsio, plan as p};", vec![root("ids"), root("fsio"), root("plan")]),
            ("pub(crate) use crate :: txn;", vec![root("txn")]),
            ("fn f() { crate::lock::take() }", vec![root("lock")]),
            ("use super::super::plan::Step; use super::*;", vec![above("plan")]),
            ("use cstor_rs::store::Store;", vec![root("store")]),
            ("use other_crate::x; $crate::y!()", vec![root("y")]),
        ];
        for (source, expected) in table {
            assert_eq!(crate_paths(source), expected, "{source}");
        }
    }
}
