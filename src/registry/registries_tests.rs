use proptest::prelude::*;

use super::*;

fn of(texts: &[&str]) -> Registries {
    let mut registries = Registries::default();
    for (number, text) in texts.iter().enumerate() {
        registries.merge(Path::new(&format!("/r{number}")), text.as_bytes()).unwrap();
    }
    registries
}

#[test]
fn the_longest_prefix_decides_where_from() {
    let registries = of(&[
        r#"
        [[registry]]
        location = "plain.io"
        insecure = true
        [[registry]]
        prefix = "plain.io/bad"
        location = "plain.io/bad"
        blocked = true
        [[registry]]
        prefix = "moved.io/a"
        location = "localhost:5000/b"
        [[registry]]
        prefix = "moved.io/a/c"
        location = "nowhere"
        [[registry]]
        prefix = "*.wild.io"
        insecure = true
        [[registry]]
        prefix = "docker.io/library"
        location = "hub.example:443/lib"
        [[registry.mirror]]
        location = "mirror.example"
        [[registry]]
        location = "late.io"
        "#,
        "[[registry]]\nlocation = \"late.io\"\nblocked = true",
    ]);
    let hex = "0".repeat(64);
    let digest = format!("moved.io/a@sha256:{hex}");
    let moved = format!("localhost:5000/b@sha256:{hex}");
    let table = [
        ("other.io/a", Ok(("other.io/a:latest", false))),
        ("plain.io/a", Ok(("plain.io/a:latest", true))),
        ("plain.io:5000/a", Ok(("plain.io:5000/a:latest", true))),
        ("plain.iox/a", Ok(("plain.iox/a:latest", false))),
        ("plain.io/bad:1", Err("/r0 blocks \"plain.io/bad\"")),
        ("plain.io/bad/x", Err("/r0 blocks \"plain.io/bad\"")),
        ("plain.io/badx", Ok(("plain.io/badx:latest", true))),
        ("moved.io/a/x:1", Ok(("localhost:5000/b/x:1", false))),
        (&digest, Ok((moved.as_str(), false))),
        ("moved.io/a/c:1", Err("/r0 makes \"nowhere:1\" of it, which is not an image reference")),
        ("a.b.wild.io:80/x", Ok(("a.b.wild.io:80/x:latest", true))),
        ("wild.io/x", Ok(("wild.io/x:latest", false))),
        ("q.io/x.wild.io", Ok(("q.io/x.wild.io:latest", false))),
        ("alpine:3", Ok(("hub.example:443/lib/alpine:3", false))),
        ("late.io/a", Err("/r1 blocks \"late.io\"")),
    ];
    for (name, want) in table {
        let got = registries.endpoint(&name.parse().unwrap());
        let got = got.map(|e| (e.reference.to_string(), e.insecure));
        assert_eq!(got, want.map(|(r, i)| (r.to_owned(), i)).map_err(str::to_owned), "{name}");
    }
}

#[test]
fn a_short_name_is_never_guessed() {
    let aliases = "[aliases]\nalpine = \"q.io/distro/alpine\"\n\"n/app\" = \"q.io/app\"\n";
    let list = |names: &str| format!("unqualified-search-registries = [{names}]\n");
    let two = "/r0 names a.io, b.io for names without a registry; write the full name, REGISTRY/x:1";
    let none = "/r0 names no registry for names without a registry; write the full name, REGISTRY/x:1";
    let table = [
        (vec![String::new()], "x:1", Ok(None)),
        (vec![list("\"a.io\"")], "x:1", Ok(Some("a.io/x:1"))),
        (vec![list("\"a.io\", \"b.io\"")], "x:1", Err(two)),
        (vec![list("")], "x:1", Err(none)),
        (vec![list("\"a.io\", \"b.io\""), list("\"c.io\"")], "x:1", Ok(Some("c.io/x:1"))),
        (vec![list("") + aliases], "alpine:3", Ok(Some("q.io/distro/alpine:3"))),
        (vec![list("") + aliases], "n/app@sha256:0", Ok(Some("q.io/app@sha256:0"))),
        (vec![aliases.to_owned(), "[aliases]\nalpine = \"\"".to_owned()], "alpine", Ok(None)),
    ];
    for (texts, name, want) in table {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let got = of(&texts).expand(name);
        assert_eq!(got, want.map(|w| w.map(str::to_owned)).map_err(str::to_owned), "{texts:?} {name}");
    }
    let mut registries = of(&[aliases]);
    registries.merge_aliases(b"[aliases]\nalpine = \"z.io/alpine\"").unwrap();
    assert_eq!(registries.expand("alpine"), Ok(Some("z.io/alpine".to_owned())));
}

#[test]
fn what_cannot_be_understood_is_an_error() {
    let table = [
        ("[registries.search]\nregistries = ['a.io']", "has [registries...] of version 1"),
        ("[[registry]]\nblocked = true", "has a [[registry]] without a location"),
        ("[[registry]]\nprefix = 'a.io'", "has a [[registry]] without a location"),
        ("[[registry]]\nprefix = '*.a.io/b'\nlocation = 'c.io'", "a wildcard stands for host names only"),
        ("[[registry]]\nlocation = 7", "cannot be understood"),
        ("[[registry]\n", "cannot be understood"),
        ("[[registry]]\nlocation = 'a.io'\nblocked = 'yes'", "cannot be understood"),
    ];
    for (text, want) in table {
        let error = Registries::default().merge(Path::new("/r"), text.as_bytes()).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
    assert!(Registries::default().merge(Path::new("/r"), b"\xff").is_err());
}

proptest! {
    #[test]
    fn any_prefix_matches_or_does_not(text in "[a-z./:*é]{0,20}", prefix in "[*]?[a-z./:é]{0,5}") {
        if let Some(end) = matching(&text, &prefix) {
            prop_assert!(text.is_char_boundary(end));
        }
    }
}
