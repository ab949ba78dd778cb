use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::fsio::{Dir, Seam};
use crate::ids::{Digest, ImageId, LayerId};

mod big_data;
mod linear;
mod lost;
mod properties;

const PULLED: &str = "a1723ae9971f3b63bee0256dc21790424e5b19639c315853b23303c84425b063";
const TOP: &str = "e3c536185968a02f8b466eff9fd07e12c0e285cfa6bc8d31ba9349d1bc364018";

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metadata")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

fn layer_id(n: u32) -> LayerId {
    format!("{n:064x}").parse().unwrap()
}

fn image_id(n: u32) -> ImageId {
    format!("{n:064x}").parse().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Parses as the table that the file's name says, and encodes again.
fn round_trip(name: &str, bytes: &[u8]) -> Result<Vec<u8>, ParseError> {
    Ok(match name {
        n if n.contains("layers") => Layers::parse(bytes)?.encode(),
        n if n.contains("images") => Images::parse(bytes)?.encode(),
        n if n.contains("containers") => Containers::parse(bytes)?.encode(),
        _ => Mountpoints::parse(bytes)?.encode(),
    })
}

fn all_fixtures() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for version in ["podman-4", "podman-5", "podman-6"] {
        for entry in fs::read_dir(fixtures().join(version)).unwrap() {
            let path = entry.unwrap().path();
            all.push((path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn m1_podmans_tables_are_encoded_byte_for_byte() {
    let all = all_fixtures();
    assert_eq!(all.len(), 16);
    for (name, bytes) in all {
        assert_eq!(text(round_trip(&name, &bytes).unwrap()), text(bytes), "{name}");
    }
}

#[test]
fn m5_a_new_layer_has_the_text_that_podman_gives_it() {
    let layers = Layers::parse(&fixture("podman-6/layers.json")).unwrap();
    assert_eq!(layers.len(), 4);
    for layer in layers.iter() {
        let time: jiff::Timestamp = layer.created().parse().unwrap();
        let known = |d: Option<&Loose<Digest>>| d.map(|d| d.known().unwrap().clone());
        let mut new = NewLayer::new(layer.id().unwrap().clone(), layer.parent().map(|p| p.known().unwrap().clone()), time.into());
        new.names = layer.names().to_vec();
        new.compressed_diff_digest = known(layer.compressed_diff_digest());
        new.compressed_size = layer.compressed_size().try_into().unwrap();
        new.diff_digest = known(layer.diff_digest());
        new.diff_size = layer.diff_size();
        new.compression = layer.compression();
        new.uidset = layer.uidset().iter().rev().chain(layer.uidset()).copied().collect();
        new.gidset = layer.gidset().to_vec();
        let built = new.build().unwrap();
        assert_eq!(built.json(), layer.json());
        assert_eq!(&Layer::from_json(built.json()).unwrap(), layer);
    }
}

#[test]
fn m5_a_new_layer_has_all_keys_in_gos_order() {
    let mut new = NewLayer::new(layer_id(2), Some(layer_id(1)), SystemTime::UNIX_EPOCH + Duration::new(5, 500_000_000));
    assert_eq!(
        new.build().unwrap().json(),
        format!("{{\"id\":\"{}\",\"parent\":\"{}\",\"created\":\"1970-01-01T00:00:05.5Z\"}}", layer_id(2), layer_id(1))
    );
    let digest = Digest::of(b"x");
    new.names = vec!["a<b".into()];
    new.metadata = "m".into();
    new.mountlabel = "l".into();
    new.compressed_diff_digest = Some(digest.clone());
    new.compressed_size = 1;
    new.diff_digest = Some(digest.clone());
    new.toc_digest = Some(digest.clone());
    new.diff_size = -1;
    new.compression = Compression::Zstd;
    new.uidset = vec![7, 0, 7];
    new.gidset = vec![4_294_967_295];
    new.flags.insert("z".into(), "<\u{2028}&".into());
    new.flags.insert("incomplete".into(), true.into());
    new.big_data_names = vec!["k".into()];
    let layer = new.build().unwrap();
    assert_eq!(
        layer.json(),
        format!(
            "{{\"id\":\"{}\",\"names\":[\"a\\u003cb\"],\"parent\":\"{}\",\"metadata\":\"m\",\"mountlabel\":\"l\",\
             \"created\":\"1970-01-01T00:00:05.5Z\",\"compressed-diff-digest\":\"{digest}\",\"compressed-size\":1,\
             \"diff-digest\":\"{digest}\",\"toc-digest\":\"{digest}\",\"diff-size\":-1,\"compression\":4,\"uidset\":[0,7],\
             \"gidset\":[4294967295],\"flags\":{{\"incomplete\":true,\"z\":\"\\u003c\\u2028\\u0026\"}},\"big-data-names\":[\"k\"]}}",
            layer_id(2),
            layer_id(1)
        )
    );
    assert!(layer.incomplete());
}

/// What c/image does for one pull: record, big data, metadata, name.
fn pull(images: &mut Images, manifest: &str, manifest_size: u64, name: &str, metadata: &str) {
    let id: ImageId = PULLED.parse().unwrap();
    let config: Digest = format!("sha256:{PULLED}").parse().unwrap();
    let digest: Digest = manifest.parse().unwrap();
    let mut new = NewImage::new(id, Some(TOP.parse().unwrap()));
    new.digest = Some(digest.clone());
    new.names = vec![name.into()];
    new.metadata = metadata.into();
    new.big_data = vec![
        BigData::new(config.as_str(), 713, &config),
        BigData::new(format!("manifest-{manifest}"), manifest_size, &digest),
        BigData::new("manifest", manifest_size, &digest),
    ];
    new.created = Some("2026-11-24T01:56:09.396034928Z".into());
    images.unite(&new.build().unwrap()).unwrap();
}

const OCI: &str = "sha256:a641281a698299bfd1e1c493e1a0ab001e3856b637344791a9041cc5b27dc9d4";
const DOCKER: &str = "sha256:192644c40803058456448d4d5396af5f79dd8ab5cf07b0b89f4d43465f651b0d";

#[test]
fn m5_two_pulls_and_two_tags_give_podmans_table() {
    let mut images = Images::default();
    let id: ImageId = PULLED.parse().unwrap();
    pull(&mut images, OCI, 911, "127.0.0.1:5000/python-app:latest", "{}");
    pull(&mut images, DOCKER, 756, "127.0.0.1:5000/python-app:docker", "{}");
    images.add_names(&id, &["localhost/app:one"]).unwrap();
    images.add_names(&id, &["localhost/app:two"]).unwrap();
    assert_eq!(text(images.encode()), text(fixture("podman-6/images.json")));
    assert_eq!(text(images.encode()), text(fixture("podman-5/images.json")));
}

#[test]
fn name_operations_give_podman_4s_names_and_history() {
    let mut images = Images::default();
    let id: ImageId = PULLED.parse().unwrap();
    let (latest, docker) = ("127.0.0.1:5000/python-app:latest", "127.0.0.1:5000/python-app:docker");
    pull(&mut images, OCI, 911, latest, "{}");
    pull(&mut images, DOCKER, 756, docker, "{}");
    images.set_names(&id, &[docker, latest, "localhost/app:one"]).unwrap();
    images.set_names(&id, &[docker, latest, "localhost/app:one", "localhost/app:two"]).unwrap();
    images.remove_names(&id, &["localhost/app:one", "no such name"]).unwrap();
    let theirs = Images::parse(&fixture("podman-4/images.json")).unwrap();
    assert_eq!(images.get(&id).unwrap().names(), theirs.get(&id).unwrap().names());
    assert_eq!(images.get(&id).unwrap().names_history(), theirs.get(&id).unwrap().names_history());
}

#[test]
fn the_getters_read_podmans_records() {
    let layers = Layers::parse(&fixture("podman-4/layers.json")).unwrap();
    let top: LayerId = TOP.parse().unwrap();
    let layer = layers.get(&top).unwrap();
    let parent = layer.parent().unwrap().known().unwrap();
    assert_eq!(layers.children(parent).map(Layer::id_text).collect::<Vec<_>>(), [TOP]);
    assert_eq!(layers.by_diff_digest(layer.diff_digest().unwrap().known().unwrap()).count(), 1);
    assert_eq!((layer.compressed_size(), layer.diff_size(), layer.compression()), (35_125, 2_082_304, Compression::Gzip));
    assert!(!layer.incomplete() && !layer.has_id_maps());

    let images = Images::parse(&fixture("podman-4/images.json")).unwrap();
    let image = images.by_name("localhost/app:two").unwrap();
    assert_eq!(image.id_text(), PULLED);
    for digest in [OCI, DOCKER] {
        assert_eq!(images.by_digest(&digest.parse().unwrap()).map(Image::id_text).collect::<Vec<_>>(), [PULLED]);
    }
    assert_eq!(images.by_digest(&format!("sha256:{PULLED}").parse().unwrap()).count(), 0);
    assert_eq!(images.by_layer(&top).count(), 1);

    let containers = Containers::parse(&fixture("podman-5/volatile-containers.json")).unwrap();
    let container = containers.iter().next().unwrap();
    assert_eq!((container.display_name(), container.image_text()), ("c1", PULLED));
    let volatile = Layers::parse(&fixture("podman-5/volatile-layers.json")).unwrap();
    assert!(volatile.get(container.layer().unwrap().known().unwrap()).is_some());
    let mounts = Mountpoints::parse(&fixture("podman-4/mountpoints.json")).unwrap();
    assert_eq!(mounts.get(&top).unwrap().count(), 1);
    assert!(mounts.get(&top).unwrap().path().ends_with("/merged"));
}

#[test]
fn m4_what_is_not_a_table_is_an_error_with_its_offset() {
    let deep = format!("[{}{}]", "[".repeat(200_000), "]".repeat(200_000));
    let bad_digest = format!("[{{\"id\":\"x\"}}, {{\"big-data-digests\":{{\"manifest-1\":\"\",\"{}\":\"\"}}}}]", "sha256:0");
    for (bytes, offset, cause) in [
        (&b"[{}\0]"[..], 3, Cause::Nul),
        (b"\0\0\0", 0, Cause::Nul),
        (b"[{\"id\":\"\xff\"}]", 8, Cause::NotUtf8),
        (b"[{\"id\":\"a\"},{\"id\":", 18, Cause::Truncated),
        (b" \n", 2, Cause::Truncated),
        (b"[{}] x", 5, Cause::Trailing),
        (b"[{}][]", 4, Cause::Trailing),
        (b"[{},7]", 4, Cause::NotAnObject),
        (b"[[\"id\"]]", 1, Cause::NotAnObject),
        (deep.as_bytes(), MAX_DEPTH, Cause::TooDeep),
        (bad_digest.as_bytes(), 13, Cause::Digest { key: "manifest-1".into(), text: String::new() }),
        (b"[{},{\"created\":\"\"}]", 4, Cause::Created { text: String::new() }),
        (b"[{}\n,{\n\"names\":7}]", 15, Cause::Json("invalid type: integer `7`, expected a sequence".into())),
    ] {
        assert_eq!(Images::parse(bytes).unwrap_err(), ParseError { offset, cause }, "{:?}", &bytes[..bytes.len().min(30)]);
    }
    for bytes in ["{}", "[,]", "[{}", "7", "nul", "[{\"id\":\"a\",\"id\":\"b\"}]", "[{\"id\":7}]", "[{\"flags\":[]}]", "[{\"parent\":{}}]"]
    {
        assert!(Layers::parse(bytes.as_bytes()).is_err(), "{bytes}");
    }
    for bytes in ["[{\"uidset\":[-1]}]", "[{\"diff-size\":1.0}]", "[{\"diff-size\":9223372036854775808}]", "[{\"uidmap\":[[1]]}]"] {
        assert!(Layers::parse(bytes.as_bytes()).is_err(), "{bytes}");
    }
    for bytes in ["[{\"count\":\"1\"}]", "[{\"path\":1}]", "[1]"] {
        assert!(Mountpoints::parse(bytes.as_bytes()).is_err(), "{bytes}");
    }
}

#[test]
fn go_refuses_these_digests_and_takes_those() {
    let hex = "0".repeat(64);
    let table = |key: &str, text: &str| format!("[{{\"big-data-digests\":{{\"{key}\":\"{text}\"}},\"digest\":null}}]");
    for text in
        ["", "x", &hex, &format!("sha256:{}", "A".repeat(64)), "sha256:", &format!("md5:{}", "0".repeat(32)), &format!("sha512:{hex}")]
    {
        assert!(Images::parse(table("manifest", text).as_bytes()).is_err(), "{text}");
        assert!(Images::parse(table("signature", text).as_bytes()).is_ok(), "{text}");
        let own = format!("[{{\"digest\":\"{text}\"}}]");
        assert_eq!(Images::parse(own.as_bytes()).is_ok(), text.is_empty(), "{text}");
    }
    let long = format!("sha512:{hex}{hex}");
    for text in [&format!("sha256:{hex}"), &long, &format!("sha384:{}", "a".repeat(96))] {
        assert!(Images::parse(table("manifest", text).as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn empty_forms_and_nulls_are_what_they_are_for_go() {
    for bytes in ["", "null", " null\n", "[]", "[ ]"] {
        assert_eq!(text(Layers::parse(bytes.as_bytes()).unwrap().encode()), "[]", "{bytes:?}");
    }
    let json = "{\"id\":null,\"names\":null,\"parent\":\"\",\"created\":null,\"flags\":null,\"uidset\":null,\"compression\":9}";
    let layers = Layers::parse(format!("[{json}]").as_bytes()).unwrap();
    let layer = layers.iter().next().unwrap();
    assert_eq!((layer.json(), layer.id(), layer.parent(), layer.created()), (json, None, None, ZERO_TIME));
    assert_eq!(layer.compression(), Compression::Other(9));
    for (flags, incomplete) in [("true", true), ("\"true\"", false), ("1", false), ("null", false), ("false", false)] {
        let layer = Layer::from_json(&format!("{{\"flags\":{{\"incomplete\":{flags}}}}}")).unwrap();
        assert_eq!(layer.incomplete(), incomplete, "{flags}");
    }
    for (maps, has) in [("\"uidmap\":[{\"size\":1}]", true), ("\"gidmap\":[{}]", true), ("\"uidmap\":[]", false)] {
        assert_eq!(Layer::from_json(&format!("{{{maps}}}")).unwrap().has_id_maps(), has, "{maps}");
    }
}

#[test]
fn foreign_and_repeated_ids_are_kept_and_the_first_is_found() {
    let (one, two) = (layer_id(1), layer_id(2));
    let file = format!(
        "[{{\"id\":\"../x\"}},{{\"id\":\"{one}\",\"metadata\":\"a\"}},{{\"id\":\"{one}\",\"metadata\":\"b\"}},{{\"id\":\"{two}\",\"parent\":\"{one}\"}}]"
    );
    let mut layers = Layers::parse(file.as_bytes()).unwrap();
    assert_eq!(text(layers.encode()), file);
    assert_eq!((layers.len(), layers.get(&one).unwrap().metadata()), (4, "a"));
    assert_eq!(layers.iter().next().unwrap().id_text(), "../x");
    assert_eq!(layers.children(&one).count(), 1);
    assert!(matches!(layers.insert(layers.get(&one).unwrap().clone()), Err(EditError::Exists { .. })));
    assert!(matches!(layers.insert(Layer::from_json("{\"id\":\"../x\"}").unwrap()), Err(EditError::ForeignId { .. })));
    assert_eq!(layers.remove(&one).unwrap().metadata(), "a");
    assert_eq!(layers.remove(&one), None);
    assert_eq!(text(layers.encode()), format!("[{{\"id\":\"../x\"}},{{\"id\":\"{two}\",\"parent\":\"{one}\"}}]"));
    layers.insert(NewLayer::new(one.clone(), None, SystemTime::UNIX_EPOCH).build().unwrap()).unwrap();
    assert_eq!(layers.iter().last().unwrap().id(), Some(&one));
    layers.remove(&two).unwrap();
    assert_eq!(layers.children(&one).count(), 0);
}

#[test]
fn m2_an_edit_keeps_unknown_keys_and_all_other_records() {
    let (one, two) = (image_id(1), image_id(2));
    let other = format!("{{ \"id\" : \"{one}\" , \"x\":1.50, \"names\":[\"a\", \"b\"] }}");
    let mine = format!("{{\"zz\":{{\"k\" : [1e3]}},\"id\":\"{two}\",\"future\":\"\\u00e9\",\"created\":\"{ZERO_TIME}\",\"last\":null}}");
    let mut images = Images::parse(format!("[{other} ,\n{mine}]").as_bytes()).unwrap();
    images.set_metadata(&two, "{\"<\":1}").unwrap();
    let edited = mine.replace(",\"future\"", ",\"metadata\":\"{\\\"\\u003c\\\":1}\",\"future\"");
    assert_eq!(text(images.encode()), format!("[{other},{edited}]"));
    images.set_metadata(&two, "").unwrap();
    assert_eq!(text(images.encode()), format!("[{other},{mine}]"));
    images.add_names(&two, &["b"]).unwrap();
    let other = format!("{{\"id\":\"{one}\",\"x\":1.50,\"names\":[\"a\"]}}");
    let named = mine.replace(",\"future\"", ",\"names\":[\"b\"],\"names-history\":[\"b\"],\"future\"");
    assert_eq!(text(images.encode()), format!("[{other},{named}]"));
    images.remove_names(&two, &["b"]).unwrap();
    let bare = mine.replace(",\"future\"", ",\"names-history\":[\"b\"],\"future\"");
    assert_eq!(text(images.encode()), format!("[{other},{bare}]"));
    assert!(images.by_name("b").is_none());
    assert!(matches!(images.add_names(&image_id(3), &["x"]), Err(EditError::Unknown { .. })));
}

#[test]
fn a_name_leaves_every_other_image_and_a_repeated_name_belongs_to_the_last() {
    let record = |n: u32, names: &str| format!("{{\"id\":\"{}\",\"names\":[{names}]}}", image_id(n));
    let file = format!("[{},{},{}]", record(1, "\"a\",\"b\""), record(2, "\"a\",\"b\",\"c\""), record(3, ""));
    let mut images = Images::parse(file.as_bytes()).unwrap();
    assert_eq!(images.by_name("a").unwrap().id(), Some(&image_id(2)));
    let shadowed: Vec<_> = images.shadowed_names().map(|(name, image)| (name, image.id().unwrap().clone())).collect();
    assert_eq!(shadowed, [("a", image_id(1)), ("b", image_id(1))]);
    images.set_names(&image_id(3), &["b", "a", "b"]).unwrap();
    assert_eq!(images.get(&image_id(1)).unwrap().names(), [""; 0]);
    assert_eq!(images.get(&image_id(2)).unwrap().names(), ["c"]);
    let three = images.get(&image_id(3)).unwrap();
    assert_eq!((three.names(), three.names_history()), (&["b".to_owned(), "a".to_owned()][..], &["a".to_owned(), "b".to_owned()][..]));
    assert_eq!(images.shadowed_names().count(), 0);
    let taken = NewImage { names: vec!["c".into()], ..NewImage::new(image_id(4), None) }.build().unwrap();
    assert!(matches!(images.insert(taken.clone()), Err(EditError::NameInUse { .. })));
    images.remove(&image_id(2)).unwrap();
    images.insert(taken).unwrap();
    let four = images.by_name("c").unwrap();
    assert_eq!((four.id(), four.names_history()), (Some(&image_id(4)), &[][..]));
}

#[test]
fn uniting_keeps_the_digest_and_refuses_another_top_layer() {
    let digests = [Digest::of(b"1"), Digest::of(b"2")];
    let record = |layer: u32, n: usize, names: &[&str]| {
        let mut new = NewImage::new(image_id(1), Some(layer_id(layer)));
        new.digest = Some(digests[n].clone());
        new.names = names.iter().map(|n| (*n).to_owned()).collect();
        new.metadata = format!("{n}");
        new.big_data = vec![BigData::new("manifest", n as u64, &digests[n]), BigData::new(format!("k{n}"), 5, &digests[n])];
        new.build().unwrap()
    };
    let mut images = Images::default();
    images.unite(&record(7, 0, &["a"])).unwrap();
    images.unite(&record(7, 1, &["b"])).unwrap();
    let before = images.encode();
    assert!(matches!(images.unite(&record(8, 1, &["c"])), Err(EditError::OtherTopLayer { .. })));
    assert_eq!(images.encode(), before);
    let image = images.get(&image_id(1)).unwrap();
    assert_eq!(image.digest().unwrap().known(), Some(&digests[0]));
    assert_eq!((image.metadata(), image.names()), ("1", &["b".to_owned(), "a".to_owned()][..]));
    assert_eq!(image.big_data_names(), ["manifest", "k0", "k1"]);
    assert_eq!(image.big_data_sizes()["manifest"], 1);
    // "manifest" was overwritten, and with it the way to the image by it; its own digest stays one.
    assert_eq!(images.by_digest(&digests[0]).count(), 1);
    images.unite(&record(7, 1, &["b"])).unwrap();
    assert_eq!(images.encode(), before, "uniting twice is uniting once");
    assert_eq!(Image::from_json(images.get(&image_id(1)).unwrap().json()).unwrap(), *images.get(&image_id(1)).unwrap());
}
