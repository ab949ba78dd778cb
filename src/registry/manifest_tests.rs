use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const HEX: &str = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

fn oci() -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MediaType::OciManifest.as_str(),
        "config": {"mediaType": OCI_CONFIG, "digest": format!("sha256:{HEX}"), "size": 7},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": format!("sha256:{HEX}"), "size": 9}],
    })
}

fn entry(platform: Option<&str>, size: u64) -> Value {
    let mut e = json!({"mediaType": MediaType::OciManifest.as_str(), "digest": format!("sha256:{HEX}"), "size": size});
    if let Some(text) = platform {
        let p: Platform = text.parse().unwrap();
        e["platform"] = json!({"os": p.os, "architecture": p.architecture, "variant": p.variant});
    }
    e
}

fn read(value: &Value) -> Result<Document> {
    parse(&serde_json::to_vec(value).unwrap(), None)
}

fn image(value: &Value) -> ImageManifest {
    match read(value).unwrap() {
        Document::Image(image) => image,
        Document::Index(_) => panic!("an index"),
    }
}

fn index(value: &Value) -> Index {
    match read(value).unwrap() {
        Document::Index(index) => index,
        Document::Image(_) => panic!("an image"),
    }
}

#[test]
fn the_raw_bytes_and_their_digest_are_kept() {
    let raw = serde_json::to_vec_pretty(&oci()).unwrap();
    let Document::Image(image) = parse(&raw, Some("application/json; charset=utf-8")).unwrap() else { panic!("an index") };
    assert_eq!((&image.raw, image.digest.clone()), (&raw, Digest::of(&raw)));
    assert_eq!((image.config.size, image.layers.len(), image.layers[0].size), (7, 1, 9));
}

#[test]
fn the_type_is_that_of_the_bytes() {
    let mut doc = oci();
    doc.as_object_mut().unwrap().remove("mediaType");
    assert_eq!(image(&doc).media_type, MediaType::OciManifest);
    doc["config"]["mediaType"] = json!(DOCKER_CONFIG);
    assert_eq!(image(&doc).media_type, MediaType::DockerManifest);
    let list = json!({"schemaVersion": 2, "manifests": [entry(None, 3)]});
    assert_eq!(index(&list).media_type, MediaType::OciIndex);
    doc["layers"] = Value::Null;
    assert_eq!(image(&doc).layers, []);
}

#[test]
fn what_is_not_acceptable_is_refused_by_name() {
    let with = |path: &str, value: Value| {
        let mut doc = oci();
        match path.rsplit_once('/') {
            Some((parent, key)) => doc.pointer_mut(parent).unwrap()[key] = value,
            None => doc[path] = value,
        }
        doc
    };
    let many = vec![oci()["layers"][0].clone(); LAYERS_MAX + 1];
    let foreign = json!([{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": format!("sha256:{HEX}"), "size": 9, "urls": ["https://x"]}]);
    let table = [
        (json!({"schemaVersion": 1, "fsLayers": []}), "docker schema 1"),
        (json!([]), "the document: is a list, wanted an object"),
        (json!({}), "schemaVersion: is not 2"),
        (json!({"schemaVersion": 2}), "config: is missing"),
        (with("/config/mediaType", json!("application/vnd.cncf.helm.config.v1+json")), "an artifact of type"),
        (with("/config/mediaType", json!("application/vnd.oci.empty.v1+json")), "an artifact of type"),
        (json!({"schemaVersion": 2, "mediaType": "application/x"}), "mediaType: media type \"application/x\" is not supported"),
        (with("/config/size", json!(CONFIG_MAX + 1)), "config.size: 8388609 bytes, at most"),
        (with("/layers/0/size", json!(-1)), "layers[0].size: -1 is not a number of bytes"),
        (with("/layers/0/size", json!(1.5)), "layers[0].size: is 1.5, wanted a whole number"),
        (with("/layers/0/size", json!(u64::MAX)), "layers[0].size: is a number above 2^63, wanted"),
        (with("/layers/0/size", json!(i64::MAX)), "layers[0].size: 9223372036854775807 bytes, at most"),
        (with("/layers/0/size", Value::Null), "layers[0].size: is missing"),
        (with("/layers/0/size", json!("9")), "layers[0].size: is a string, wanted a whole number"),
        (with("/layers/0/digest", json!("sha512:00")), "layers[0].digest: \"sha512:00\" is not a digest"),
        (with("/layers/0/digest", json!("sha256:../../x")), "is not a digest"),
        (with("/layers/0/mediaType", json!("text/html")), "layers[0]: media type \"text/html\" is not supported"),
        (with("layers", foreign), "layers[0]: a foreign layer"),
        (with("layers", Value::Array(many)), "layers: more than 500 entries"),
        (with("manifests", json!([])), "ambiguous: application/vnd.oci.image.manifest.v1+json with \"manifests\""),
        (with("Layers", json!([])), "ambiguous: key Layers differs from the known \"layers\" in case only"),
    ];
    for (doc, want) in table {
        let error = read(&doc).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    let huge = vec![b' '; MANIFEST_MAX as usize + 1];
    assert!(matches!(parse(&huge, None), Err(ContentError::TooLarge { .. })));
    let twice = format!(r#"{{"schemaVersion":2,"config":{c},"config":{c}}}"#, c = oci()["config"]);
    assert_eq!(parse(twice.as_bytes(), None).map(|_| ()).unwrap_err().to_string(), "ambiguous: config twice");
    let deep = "{\"x\":".repeat(100_000);
    assert!(matches!(parse(deep.as_bytes(), None), Err(ContentError::Json { .. })));
}

/// What follows would not even parse, so nothing behind the limit has been looked at.
#[test]
fn a_list_is_read_up_to_its_limit() {
    let item = "{},";
    for (key, max) in [("layers", LAYERS_MAX), ("manifests", shapes::INDEX_MAX)] {
        let doc = format!(r#"{{"schemaVersion":2,"{key}":[{}%"#, item.repeat(max + 1));
        let error = parse(doc.as_bytes(), None).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("{key}: more than {max} entries, which are not accepted"));
        let doc = format!(r#"{{"schemaVersion":2,"{key}":[{}%"#, item.repeat(max));
        assert!(matches!(parse(doc.as_bytes(), None), Err(ContentError::Json { .. })));
    }
    for (above, key, max) in [("", "history", shapes::HISTORY_MAX), ("\"rootfs\":{", "diff_ids", LAYERS_MAX)] {
        let item = if key == "history" { item } else { "\"\"," };
        let doc = format!(r#"{{{above}"{key}":[{}%"#, item.repeat(max + 1));
        let error = crate::registry::config::parse(doc.as_bytes(), 0).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{key}: more than {max} entries, which are not accepted")), "{error}");
    }
}

#[test]
fn the_registry_and_the_bytes_must_agree_on_the_kind() {
    let raw = serde_json::to_vec(&oci()).unwrap();
    assert!(matches!(parse(&raw, Some(MediaType::OciIndex.as_str())), Err(ContentError::Disagree { .. })));
    assert!(parse(&raw, Some(MediaType::DockerManifest.as_str())).is_ok());
}

#[test]
fn the_best_platform_is_chosen() {
    let list = |entries: Vec<Value>| json!({"schemaVersion": 2, "mediaType": MediaType::OciIndex.as_str(), "manifests": entries});
    let many = || {
        vec![
            entry(None, 1),
            entry(Some("linux/amd64"), 2),
            entry(Some("linux/arm/v6"), 3),
            entry(Some("linux/arm/v7"), 4),
            entry(Some("linux/arm64/v8"), 5),
            entry(Some("unknown/unknown"), 6),
            entry(Some("linux/amd64"), 7),
        ]
    };
    let table = [("linux/amd64", 2), ("linux/arm/v7", 4), ("linux/arm/v6", 3), ("linux/arm64", 5), ("linux/s390x", 1), ("linux/arm/v8", 4)];
    for (wanted, size) in table {
        assert_eq!(index(&list(many())).choose(&wanted.parse().unwrap()).unwrap().size, size, "{wanted}");
    }
    let mut zstd = many();
    zstd[6]["annotations"] = json!({"io.github.containers.compression.zstd": "true"});
    assert_eq!(index(&list(zstd)).choose(&"linux/amd64".parse().unwrap()).unwrap().size, 7);
    let mut docker = list(many());
    docker["mediaType"] = json!(MediaType::DockerList.as_str());
    let error = index(&docker).choose(&"linux/s390x".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(
        error,
        "no image for linux/s390x; there is linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8, unknown/unknown, linux/amd64"
    );
    // A broken entry for another machine is none of our business; a broken one for ours is.
    let mut broken = many();
    broken[2]["digest"] = json!("md5:1");
    assert!(index(&list(broken.clone())).choose(&"linux/amd64".parse().unwrap()).is_ok());
    assert!(index(&list(broken)).choose(&"linux/arm/v6".parse().unwrap()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert!(parse(&raw, None).is_err());
    }

    #[test]
    fn any_damage_is_parsed_or_refused(at in 0usize..400, byte in any::<u8>(), list in any::<bool>()) {
        let doc = if list { json!({"schemaVersion": 2, "manifests": [entry(Some("linux/arm/v7"), 3), entry(None, 1)]}) } else { oci() };
        let mut raw = serde_json::to_vec(&doc).unwrap();
        let len = raw.len();
        raw[at % len] = byte;
        if let Ok(Document::Index(index)) = parse(&raw, None) {
            prop_assert!(index.choose(&Platform::host()).is_ok() || index.raw == raw);
        }
    }
}
