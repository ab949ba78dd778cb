//! Pure: no I/O. What a registry asks for in `WWW-Authenticate`.

/// The longest header that is looked at, in bytes.
const HEADER_MAX: usize = 8 << 10;

/// One scheme of a challenge with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// In lowercase: `bearer`, `basic` and so on.
    pub scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of this name (in lowercase).
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Reads one header; what cannot be understood is skipped, and a header above 8 KiB gives nothing.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    if header.len() > HEADER_MAX {
        return found;
    }
    let mut rest = Rest(header);
    loop {
        rest.skip(|c| c == ' ' || c == '\t' || c == ',');
        if rest.0.is_empty() {
            return found;
        }
        let word = rest.token().to_ascii_lowercase();
        if word.is_empty() {
            rest.skip_one();
            continue;
        }
        rest.skip(|c| c == ' ' || c == '\t');
        if !rest.eat('=') {
            found.push(Challenge { scheme: word, params: Vec::new() });
            continue;
        }
        rest.skip(|c| c == ' ' || c == '\t');
        let value = rest.value();
        if let Some(challenge) = found.last_mut() {
            challenge.params.push((word, value));
        }
    }
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(what);
    }

    fn skip_one(&mut self) {
        let mut chars = self.0.chars();
        chars.next();
        self.0 = chars.as_str();
    }

    fn eat(&mut self, c: char) -> bool {
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn token(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c))).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token
    }

    fn value(&mut self) -> String {
        if !self.eat('"') {
            return self.token().to_owned();
        }
        let mut value = String::new();
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        self.0 = chars.as_str();
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read_with_their_parameters() {
        let found = parse(r#"Bearer realm="https://a.b/token",service="r \"x\"",scope="repository:a/b:pull,push", Basic realm=plain"#);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].param("realm"), Some("https://a.b/token"));
        assert_eq!(found[0].param("service"), Some("r \"x\""));
        assert_eq!(found[0].param("scope"), Some("repository:a/b:pull,push"));
        assert_eq!((found[1].scheme.as_str(), found[1].param("realm")), ("basic", Some("plain")));
        assert_eq!(parse(r#"realm="x""#), []);
        assert_eq!(parse(r#"Bearer realm="unclosed"#)[0].param("realm"), Some("unclosed"));
        assert_eq!(parse(&"Bearer a=b,".repeat(1000)), []);
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in "[ ,=\"\\\\a-zäB/]{0,60}") {
            for challenge in parse(&header) {
                prop_assert!(!challenge.scheme.is_empty());
            }
        }
    }
}
