//! Pure: no I/O. JSON as Go writes it, and records that keep the text of every key nobody touched.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Appends `text` as a JSON string with Go's escapes: `<`, `>`, `&`, U+2028 and U+2029 as `\u....`, of the
/// control characters only line feed, carriage return and tab in their short form.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a String cannot fail.
                write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default();
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// `text` as a JSON string.
pub(super) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

fn list<T>(items: impl IntoIterator<Item = T>, push: impl Fn(&mut String, T)) -> String {
    let mut out = String::from("[");
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push(&mut out, item);
    }
    out.push(']');
    out
}

/// A list of strings.
pub(super) fn strings(items: &[impl AsRef<str>]) -> String {
    list(items, |out, item| push_string(out, item.as_ref()))
}

/// A list of numbers.
pub(super) fn numbers(items: &[u32]) -> String {
    list(items, |out, item| write!(out, "{item}").unwrap_or_default())
}

/// A map, its keys sorted as Go sorts them; `value` gives the text of a value.
pub(super) fn map<V>(items: &BTreeMap<String, V>, value: impl Fn(&V) -> String) -> String {
    let mut out = list(items, |out, (key, item)| {
        push_string(out, key);
        out.push(':');
        out.push_str(&value(item));
    });
    out.replace_range(..1, "{");
    out.pop();
    out.push('}');
    out
}

/// The flags of a record, their keys sorted.
pub(super) fn flags(flags: &serde_json::Map<String, serde_json::Value>) -> String {
    let sorted: BTreeMap<String, &serde_json::Value> = flags.iter().map(|(key, value)| (key.clone(), value)).collect();
    // These five can only stand inside strings.
    let escape = |json: String| {
        json.replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029")
    };
    map(&sorted, |value| escape(value.to_string()))
}

/// One object under construction; the keys come in the order of the calls.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Self(String::from("{"))
    }

    /// A key with the text of its value.
    pub(super) fn raw(mut self, key: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_string(&mut self.0, key);
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    /// A key that is left out where `present` is false, as Go's omitempty does.
    pub(super) fn if_any(self, present: bool, key: &str, value: impl FnOnce() -> String) -> Self {
        if present { self.raw(key, &value()) } else { self }
    }

    /// A string that is left out when empty.
    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.if_any(!value.is_empty(), key, || string(value))
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A change of one key: its new text, or `None` to leave it out.
pub(super) type Change = (&'static str, Option<String>);

/// The text of the object `json` with some keys changed. Everything else keeps its text and its order; a key
/// that was not there comes where Go's order `keys` puts it.
pub(super) fn rewrite(json: &str, keys: &[&str], changes: &[Change]) -> serde_json::Result<String> {
    let mut fields = fields(json)?;
    let rank = |key: &str| keys.iter().position(|k| *k == key);
    for (key, value) in changes {
        let at = fields.iter().position(|(name, _, _)| name == key);
        match (at, value) {
            (Some(at), Some(value)) => {
                if let Some(field) = fields.get_mut(at) {
                    field.2.clone_from(value);
                }
            }
            (Some(at), None) => drop(fields.remove(at)),
            (None, Some(value)) => {
                let own = rank(key);
                let behind = fields.iter().rposition(|(name, _, _)| rank(name).is_some_and(|r| Some(r) < own));
                fields.insert(behind.map_or(0, |p| p + 1), ((*key).to_owned(), string(key), value.clone()));
            }
            (None, None) => {}
        }
    }
    let mut out = list(fields, |out, (_, key, value)| {
        out.push_str(&key);
        out.push(':');
        out.push_str(&value);
    });
    out.replace_range(..1, "{");
    out.pop();
    out.push('}');
    Ok(out)
}

/// The keys of an object: decoded, as they stand, and the text of their values.
fn fields(json: &str) -> serde_json::Result<Vec<(String, String, String)>> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, String, String)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                let name = serde_json::from_str(key.get()).map_err(A::Error::custom)?;
                fields.push((name, key.get().to_owned(), value.get().to_owned()));
            }
            Ok(fields)
        }
    }
    let mut input = serde_json::Deserializer::from_str(json);
    let fields = input.deserialize_map(Fields)?;
    input.end()?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        for (text, json) in [
            ("plain/é:1", "\"plain/é:1\""),
            ("<a&b>", "\"\\u003ca\\u0026b\\u003e\""),
            ("\u{2028}\u{2029}", "\"\\u2028\\u2029\""),
            ("\n\r\t\u{8}\0\u{7f}", "\"\\n\\r\\t\\u0008\\u0000\u{7f}\""),
            ("\"\\", "\"\\\"\\\\\""),
        ] {
            assert_eq!(string(text), json);
            assert_eq!(serde_json::from_str::<String>(json).unwrap(), text);
        }
    }

    #[test]
    fn a_rewrite_touches_only_its_keys() {
        let keys = ["a", "b", "c"];
        let json = "{ \"x\" : [1, 2] , \"a\":1, \"\\u0079\": {\"k\" : 1.50} ,\"c\":3}";
        for (changes, want) in [
            (vec![], "{\"x\":[1, 2],\"a\":1,\"\\u0079\":{\"k\" : 1.50},\"c\":3}"),
            (vec![("b", Some("2".into()))], "{\"x\":[1, 2],\"a\":1,\"b\":2,\"\\u0079\":{\"k\" : 1.50},\"c\":3}"),
            (vec![("a", None), ("b", Some("2".into()))], "{\"b\":2,\"x\":[1, 2],\"\\u0079\":{\"k\" : 1.50},\"c\":3}"),
            (vec![("c", Some("4".into())), ("b", None)], "{\"x\":[1, 2],\"a\":1,\"\\u0079\":{\"k\" : 1.50},\"c\":4}"),
        ] {
            assert_eq!(rewrite(json, &keys, &changes).unwrap(), want);
        }
        assert_eq!(rewrite("{}", &keys, &[("b", Some("2".into()))]).unwrap(), "{\"b\":2}");
        assert!(rewrite("[1]", &keys, &[]).is_err());
    }

    #[test]
    fn maps_and_lists_have_gos_form() {
        let sizes: BTreeMap<String, i64> = [("b".to_owned(), 2), ("a".to_owned(), 1)].into();
        assert_eq!(map(&sizes, i64::to_string), "{\"a\":1,\"b\":2}");
        assert_eq!(map(&BTreeMap::<String, i64>::new(), i64::to_string), "{}");
        assert_eq!(strings(&["x", "<"]), "[\"x\",\"\\u003c\"]");
        assert_eq!(numbers(&[]), "[]");
        assert_eq!(Object::new().text("a", "").raw("b", "1").text("c", "x").end(), "{\"b\":1,\"c\":\"x\"}");
    }
}
