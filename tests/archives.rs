//! Images in tar files: `oci-archive:` and `docker-archive:`, and blobs by digest from every kind of source.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;
#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "common/peers.rs"]
mod peers;
#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod registry;
#[path = "common/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use common::fixture::{self, Image};
use cstor_rs::ids::Digest;
use cstor_rs::registry::{Options, RegistryError, SystemFiles, open_blobs};
use peers::Peer;
use registry::{Compression, ImageSpec};
use serde_json::{Value, json};
use world::{World, lines, said};

/// A member of an archive.
enum Member {
    File(Vec<u8>),
    Link(String),
    Kind(tar::EntryType),
}

/// Members in the order in which they are written.
type Members = Vec<(String, Member)>;

fn file(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Member) {
    (name.to_owned(), Member::File(bytes.into()))
}

/// A tar file of these members, whatever their names.
fn tar_of(members: &Members) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, member) in members {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let mut body = &[][..];
        match member {
            Member::File(bytes) => {
                header.set_size(bytes.len() as u64);
                body = bytes;
            }
            Member::Link(to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(to).unwrap();
            }
            Member::Kind(kind) => {
                header.set_entry_type(*kind);
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            }
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn image(tag: &str) -> Image {
    fixture::image(tag, vec![fixture::base(), fixture::app(tag)])
}

fn id(image: &Image) -> String {
    Digest::of(&image.config).hex().to_owned()
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// An OCI layout of images under these names, as members of a tar.
fn oci(images: &[(Option<&str>, &Image)]) -> Members {
    let mut members = vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)];
    let mut entries = Vec::new();
    for (name, image) in images {
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&image.manifest), "size": image.manifest.len(),
        });
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        entries.push(entry);
        for bytes in image.layers.iter().map(|layer| &layer.blob).chain([&image.config, &image.manifest]) {
            if !members.iter().any(|(name, _)| *name == blob_name(bytes)) {
                members.push(file(&blob_name(bytes), bytes.clone()));
            }
        }
    }
    members.insert(1, file("index.json", json!({"schemaVersion": 2, "manifests": entries}).to_string()));
    members
}

/// What `docker save` makes of images under these names.
fn docker(images: &[(&[&str], &Image)]) -> Members {
    let mut members = Members::new();
    let mut list = Vec::new();
    for (tags, image) in images {
        let config = format!("{}.json", id(image));
        let names: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.diff_id.hex())).collect();
        list.push(json!({"Config": config, "RepoTags": tags, "Layers": names}));
        members.push(file(&config, image.config.clone()));
        for (name, layer) in names.iter().zip(&image.layers) {
            if !members.iter().any(|(other, _)| other == name) {
                members.push(file(name, layer.tar.clone()));
            }
        }
    }
    members.push(file("manifest.json", Value::from(list).to_string()));
    members
}

fn put(world: &World, name: &str, bytes: &[u8]) -> PathBuf {
    let path = world.temp.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    Compression::Gzip.compress(bytes)
}

/// The ids, names and layers of all images of the store.
fn images(world: &World) -> BTreeMap<String, Vec<String>> {
    let list = world.json(&["images", "--json"]);
    let names = |image: &Value| image["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    list.as_array().unwrap().iter().map(|image| (image["id"].as_str().unwrap().to_owned(), names(image))).collect()
}

fn options() -> Options {
    Options { tls_verify: Some(false), system: SystemFiles::default(), retries: 0, ..Options::default() }
}

fn all(reader: Option<Box<dyn Read + Send>>) -> Option<Vec<u8>> {
    reader.map(|mut reader| {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

const LIMIT: u64 = 1 << 20;

/// An image gets the names that podman gives it, and one of several must be named.
#[test]
fn images_are_chosen_and_named() {
    let (one, two) = (image("one"), image("two"));
    let world = World::new();
    let path = |name: &str| world.temp.path().join(name).display().to_string();
    put(&world, "o1.tar", &tar_of(&oci(&[(Some("localhost/one:1"), &one)])));
    put(&world, "o0.tar", &tar_of(&oci(&[(None, &one)])));
    put(&world, "o2.tar.zst", &Compression::Zstd.compress(&tar_of(&oci(&[(Some("q.io/one:1"), &one), (Some("two"), &two)]))));
    put(&world, "d1.tar", &tar_of(&docker(&[(&["one:1", "docker.io/library/one:2"], &one)])));
    put(&world, "d2.tar.gz", &gzip(&tar_of(&docker(&[(&["one:1", "q.io/one"], &one), (&[], &two)]))));
    let table: &[(&str, &Image, &[&str])] = &[
        ("oci-archive:o1.tar", &one, &["localhost/one:1"]),
        ("oci-archive:o1.tar:localhost/one:1", &one, &["localhost/one:1"]),
        ("oci-archive:o1.tar:@0", &one, &["localhost/one:1"]),
        ("oci-archive:o0.tar", &one, &[]),
        ("oci-archive:o2.tar.zst:two", &two, &["localhost/two:latest"]),
        ("oci-archive:o2.tar.zst:q.io/one:1", &one, &["q.io/one:1"]),
        ("docker-archive:d1.tar", &one, &["docker.io/library/one:2", "localhost/one:1"]),
        ("docker-archive:d1.tar:one:2", &one, &["docker.io/library/one:2"]),
        ("docker-archive:d2.tar.gz:one:1", &one, &["localhost/one:1"]),
        ("docker-archive:d2.tar.gz:q.io/one", &one, &["q.io/one:latest"]),
        ("docker-archive:d2.tar.gz:@1", &two, &[]),
    ];
    for (place, image, names) in table {
        let store = World::new();
        let place = place.replacen(':', &format!(":{}/", world.temp.path().display()), 1);
        let output = store.run(&["pull", "--quiet", &place]);
        assert_eq!(lines(&output), [id(image)], "{place}: {}", said(&output));
        let mut found = images(&store);
        found.values_mut().for_each(|names| names.sort());
        assert_eq!(found, BTreeMap::from([(id(image), names.iter().map(|name| (*name).to_owned()).collect())]), "{place}");
        let layers = store.json(&["layers", "--json"]);
        let mut diffs: Vec<&str> = layers.as_array().unwrap().iter().map(|layer| layer["diff_digest"].as_str().unwrap()).collect();
        let mut wanted: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        diffs.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(diffs, wanted, "{place}");
        // All of it is there now.
        let again: Value = serde_json::from_str(&lines(&store.run(&["pull", "--json", &place]))[0]).unwrap();
        assert!(again["transaction"].is_null(), "{place}: {again}");
    }
    for (place, words) in [
        (format!("oci-archive:{}", path("o2.tar.zst")), ["oci-archive:FILE:TAG", "q.io/one:1, two"]),
        (format!("oci-archive:{}:three", path("o2.tar.zst")), ["image \"three\"", "there is q.io/one:1, two"]),
        (format!("docker-archive:{}", path("d2.tar.gz")), ["docker-archive:FILE:NAME", "one:1, q.io/one, @1"]),
        (format!("docker-archive:{}:@2", path("d2.tar.gz")), ["image @2", "there is one:1, q.io/one, @1"]),
        (format!("docker-archive:{}:three", path("d1.tar")), ["image \"three\"", "there is one:1, docker.io/library/one:2"]),
    ] {
        let output = world.run(&["pull", &place]);
        assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{place}: {}", said(&output));
        assert!(words.iter().all(|word| said(&output).contains(word)), "{place}: {}", said(&output));
    }
}

/// Every source that holds the whole image gives the same answers.
#[test]
fn blobs_are_found_by_digest_in_every_kind_of_source() {
    let world = World::new();
    let image = image("one");
    let tar = tar_of(&oci(&[(Some("one"), &image)]));
    put(&world, "oci.tar", &tar);
    put(&world, "oci.tar.gz", &gzip(&tar));
    let dir = world.temp.path().join("layout");
    tar::Archive::new(&tar[..]).unpack(&dir).unwrap();
    for bytes in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
        world.registry.add_blob(bytes.clone());
    }
    world.registry.add_manifest("one", Some("1"), "application/vnd.oci.image.manifest.v1+json", image.manifest.clone());
    let at = |transport: &str, name: &str| format!("{transport}:{}", world.temp.path().join(name).display());
    let places = [at("oci", "layout"), at("oci-archive", "oci.tar"), at("oci-archive", "oci.tar.gz"), world.registry.reference("one:1")];
    for place in places {
        let source = open_blobs(&place, &options()).unwrap();
        let blob = |digest: &Digest, limit| source.blob_by_digest(digest, limit).map(all);
        for bytes in image.layers.iter().map(|layer| &layer.blob).chain([&image.config, &image.manifest]) {
            let digest = Digest::of(bytes);
            assert_eq!(blob(&digest, LIMIT).unwrap().as_ref(), Some(bytes), "{place}: {digest}");
            assert_eq!(blob(&digest, bytes.len() as u64).unwrap().as_ref(), Some(bytes), "{place}: {digest}");
            let error = blob(&digest, bytes.len() as u64 - 1).unwrap_err();
            assert!(matches!(error, RegistryError::Length { .. }), "{place}: {error:?}");
        }
        for layer in &image.layers {
            assert_eq!(all(source.layer_by_diff_id(&layer.diff_id).unwrap()).as_ref(), Some(&layer.blob), "{place}");
        }
        let other = Digest::of(b"something else");
        assert_eq!(blob(&other, LIMIT).unwrap(), None, "{place}");
        assert!(source.layer_by_diff_id(&other).unwrap().is_none(), "{place}");
        // The digest of a blob is not that of a layer.
        assert!(source.layer_by_diff_id(&Digest::of(&image.layers[0].blob)).unwrap().is_none(), "{place}");
    }
}

#[test]
fn blobs_are_found_by_digest_in_a_docker_archive() {
    let world = World::new();
    let (one, two) = (image("one"), image("two"));
    let plain = tar_of(&docker(&[(&["one:1"], &one), (&["two:2"], &two)]));
    let mut squeezed = docker(&[(&["one:1"], &one), (&["two:2"], &two)]);
    for (name, member) in &mut squeezed {
        if let Member::File(bytes) = member
            && name.ends_with(".tar")
        {
            *bytes = gzip(bytes);
        }
    }
    put(&world, "plain.tar", &plain);
    put(&world, "squeezed.tar", &tar_of(&squeezed));
    put(&world, "all.tar.gz", &gzip(&plain));
    for name in ["plain.tar", "squeezed.tar", "all.tar.gz"] {
        let place = format!("docker-archive:{}", world.temp.path().join(name).display());
        let source = open_blobs(&place, &options()).unwrap();
        for image in [&one, &two] {
            let config = all(source.blob_by_digest(&Digest::of(&image.config), LIMIT).unwrap());
            assert_eq!(config.as_ref(), Some(&image.config), "{name}");
            for layer in &image.layers {
                assert_eq!(all(source.blob_by_digest(&layer.diff_id, LIMIT).unwrap()).as_ref(), Some(&layer.tar), "{name}");
                assert_eq!(all(source.layer_by_diff_id(&layer.diff_id).unwrap()).as_ref(), Some(&layer.tar), "{name}");
                let error = source.blob_by_digest(&layer.diff_id, layer.tar.len() as u64 - 1).map(all).unwrap_err();
                assert!(matches!(error, RegistryError::Length { .. }), "{name}: {error:?}");
            }
        }
        // What podman stores as the manifest of such an image.
        assert!(world.run(&["pull", &format!("{place}:one:1")]).status.success());
        let manifest = fs::read(world.root().join("overlay-images").join(id(&one)).join("manifest")).unwrap();
        assert_eq!(all(source.blob_by_digest(&Digest::of(&manifest), LIMIT).unwrap()).as_ref(), Some(&manifest), "{name}");
        assert!(source.blob_by_digest(&Digest::of(b"something else"), LIMIT).unwrap().is_none(), "{name}");
    }
}

/// What the configs say of layers is a hint, no more: the bytes decide.
#[test]
fn a_docker_archive_finds_layers_that_its_configs_do_not_tell() {
    let world = World::new();
    let one = image("one");
    let mut members = docker(&[(&[], &one)]);
    let named = |name: String| move |(other, _): &&mut (String, Member)| *other == name;
    members.iter_mut().find(named(format!("{}.json", id(&one)))).unwrap().1 = Member::File(b"garbled".to_vec());
    let path = put(&world, "one.tar", &tar_of(&members));
    let source = open_blobs(&format!("docker-archive:{}", path.display()), &options()).unwrap();
    for layer in &one.layers {
        assert_eq!(all(source.layer_by_diff_id(&layer.diff_id).unwrap()).as_ref(), Some(&layer.tar));
    }
    // A layer that is not what its config says is no layer of that DiffID.
    let mut members = docker(&[(&[], &one)]);
    members.iter_mut().find(named(format!("{}.tar", one.layers[1].diff_id.hex()))).unwrap().1 = Member::File(one.layers[0].tar.clone());
    fs::write(&path, tar_of(&members)).unwrap();
    let source = open_blobs(&format!("docker-archive:{}", path.display()), &options()).unwrap();
    assert!(source.layer_by_diff_id(&one.layers[1].diff_id).unwrap().is_none());
    assert_eq!(all(source.layer_by_diff_id(&one.layers[0].diff_id).unwrap()).as_ref(), Some(&one.layers[0].tar));
}

/// Docker since version 25 saves an OCI layout with a manifest.json beside it; it is one archive to both transports.
#[test]
fn an_archive_of_both_kinds_is_either() {
    let world = World::new();
    let one = image("one");
    let mut members = oci(&[(Some("one:1"), &one)]);
    let layers: Vec<String> = one.layers.iter().map(|layer| blob_name(&layer.blob)).collect();
    members.push(file("manifest.json", json!([{"Config": blob_name(&one.config), "RepoTags": ["one:1"], "Layers": layers}]).to_string()));
    let path = put(&world, "one.tar", &tar_of(&members));
    for transport in ["oci-archive", "docker-archive"] {
        let store = World::new();
        let place = format!("{transport}:{}", path.display());
        let output = store.run(&["pull", "--quiet", &place]);
        assert_eq!(lines(&output), [id(&one)], "{transport}: {}", said(&output));
        assert_eq!(images(&store), BTreeMap::from([(id(&one), vec!["localhost/one:1".to_owned()])]), "{transport}");
        let source = open_blobs(&place, &options()).unwrap();
        for bytes in one.layers.iter().map(|layer| &layer.blob).chain([&one.config, &one.manifest]) {
            assert_eq!(all(source.blob_by_digest(&Digest::of(bytes), LIMIT).unwrap()).as_ref(), Some(bytes), "{transport}");
        }
    }
}

/// What takes long ends when the caller wants no more of it.
#[test]
fn a_compressed_archive_is_not_unpacked_for_a_caller_who_has_gone() {
    let world = World::new();
    let one = image("one");
    put(&world, "oci.tar.gz", &gzip(&tar_of(&oci(&[(Some("one"), &one)]))));
    put(&world, "docker.tar.gz", &gzip(&tar_of(&docker(&[(&["one"], &one)]))));
    let options = options();
    options.cancel.cancel();
    for (transport, name) in [("oci-archive", "oci.tar.gz"), ("docker-archive", "docker.tar.gz")] {
        let place = format!("{transport}:{}", world.temp.path().join(name).display());
        let error = open_blobs(&place, &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, RegistryError::Cancelled), "{transport}: {error:?}");
    }
}

/// One image that cannot be used hides no layer of another, of any platform.
#[test]
fn layers_of_every_image_of_an_index_are_found() {
    let world = World::new();
    let spec = |platform: &str| {
        let layer = registry::tar(&[("file", platform.as_bytes())]);
        ImageSpec::new().platform(platform).layer(layer, Compression::Zstd)
    };
    let (_, pushed) = world.registry.add_index("many", "1", &[spec("plan9/mips"), spec("linux/amd64"), spec("linux/arm64")]);
    let source = open_blobs(&world.registry.reference("many:1"), &options()).unwrap();
    for one in pushed.iter().rev() {
        let bytes = all(source.layer_by_diff_id(&one.diff_ids[0]).unwrap()).unwrap();
        assert_eq!(Digest::of(&bytes), one.layers[0]);
    }
    let (good, bad) = (image("good"), image("bad"));
    let mut members = oci(&[(Some("bad"), &bad), (Some("good"), &good)]);
    let config = blob_name(&bad.config);
    members.retain(|(name, _)| *name != config);
    let path = put(&world, "two.tar", &tar_of(&members));
    let source = open_blobs(&format!("oci-archive:{}", path.display()), &options()).unwrap();
    assert_eq!(all(source.layer_by_diff_id(&good.layers[1].diff_id).unwrap()).as_ref(), Some(&good.layers[1].blob));
    assert!(source.layer_by_diff_id(&bad.layers[1].diff_id).unwrap().is_none());
}

/// The members without those of a name, and with others.
fn with(mut members: Members, name: &str, others: Vec<Member>) -> Members {
    members.retain(|(other, _)| other != name);
    members.extend(others.into_iter().map(|member| (name.to_owned(), member)));
    members
}

/// A member whose header says that it is so long, whatever follows.
fn lying(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

type Case = (&'static str, Vec<u8>, &'static [&'static str]);

fn hostile_docker() -> Vec<Case> {
    let one = image("one");
    let good = || docker(&[(&["one:1"], &one)]);
    let (config, layer) = (format!("{}.json", id(&one)), format!("{}.tar", one.layers[1].diff_id.hex()));
    let bytes = |members: Members| tar_of(&members);
    let manifest = |members: Vec<Member>| tar_of(&with(good(), "manifest.json", members));
    let text = |text: Value| manifest(vec![Member::File(text.to_string().into())]);
    let on_layer = |members: Vec<Member>| tar_of(&with(good(), &layer, members));
    let link = |to: &str| Member::Link(to.to_owned());
    let whole = tar_of(&good());
    let mut long = b"".to_vec();
    let mut builder = tar::Builder::new(&mut long);
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    builder.append_data(&mut header, "d/".repeat(520) + "n", std::io::empty()).unwrap();
    drop(builder);
    let other = fixture::app("other").tar;
    vec![
        ("empty", Vec::new(), &["manifest.json not found"]),
        ("no tar", vec![b'x'; 5000], &["tar header at byte 0: wrong checksum"]),
        ("cut short in a body", whole[..2000].to_vec(), &["one.tar", "tar ends at byte 2000 inside a body"]),
        ("cut short in a header", whole[..300].to_vec(), &["tar ends at byte 300 inside a header, 212 bytes early"]),
        ("a size that lies", lying("manifest.json", 1 << 40), &["tar ends at byte 512 inside a body"]),
        ("the largest size", lying("manifest.json", i64::MAX as u64), &["tar ends at byte 512 inside a body"]),
        ("no manifest.json", manifest(vec![]), &["manifest.json not found"]),
        ("manifest.json is a link", manifest(vec![link(&config)]), &["\"manifest.json\" is a symbolic link, not a file"]),
        ("manifest.json is a fifo", manifest(vec![Member::Kind(tar::EntryType::Fifo)]), &["\"manifest.json\" is a fifo, not a file"]),
        ("manifest.json is a device", manifest(vec![Member::Kind(tar::EntryType::Char)]), &["\"manifest.json\" is a device, not a file"]),
        ("manifest.json is a hard link", manifest(vec![Member::Kind(tar::EntryType::Link)]), &["is a hard link, not a file"]),
        ("manifest.json is a directory", manifest(vec![Member::Kind(tar::EntryType::Directory)]), &["manifest.json not found"]),
        ("manifest.json twice", manifest(vec![Member::File(b"[]".to_vec()), Member::File(b"[]".to_vec())]), &["is there more than once"]),
        ("a huge manifest.json", manifest(vec![Member::File(vec![b' '; (1 << 20) + 1])]), &["1048577 bytes, expected 1048576"]),
        ("a deep manifest.json", manifest(vec![Member::File(vec![b'['; 1 << 20])]), &["wanted an object"]),
        ("a manifest.json of nothing", manifest(vec![Member::File(b"[]".to_vec())]), &["there is none or more than one"]),
        ("no config", bytes(with(good(), &config, vec![])), &["config", "not found"]),
        ("a huge config", bytes(with(good(), &config, vec![Member::File(vec![b' '; (8 << 20) + 1])])), &["8388609 bytes"]),
        ("a config that leads out", text(json!([{"Config": "../../etc/passwd", "Layers": []}])), &["leads out of the archive"]),
        ("a layer that leads out", text(json!([{"Config": config, "Layers": [layer, "/../etc/passwd"]}])), &["leads out of the archive"]),
        ("a layer too few", text(json!([{"Config": config, "Layers": [layer]}])), &["2 diff_ids for 1 layers"]),
        ("no layer", on_layer(vec![]), &["layer", "not found"]),
        ("another layer", on_layer(vec![Member::File(other.clone())]), &["digest"]),
        ("a compressed other layer", on_layer(vec![Member::File(gzip(&other))]), &["digest"]),
        ("a layer cut short", on_layer(vec![Member::File(gzip(&one.layers[1].tar)[..50].to_vec())]), &["layer"]),
        ("a layer of xz", on_layer(vec![Member::File(b"\xfd7zXZ\0".to_vec())]), &["xz"]),
        ("a layer twice", on_layer(vec![Member::File(other.clone()), Member::File(other)]), &["is there more than once"]),
        ("a link to itself", on_layer(vec![link(&layer)]), &["is a symbolic link, not a file"]),
        ("a link that leads out", on_layer(vec![link("../../../etc/passwd")]), &["leads out of the archive"]),
        ("a link to nothing", on_layer(vec![link("nothing")]), &["not found"]),
        ("a name that leads out", bytes([good(), vec![file("../x", "x")]].concat_members()), &["\"../x\" leads out of the archive"]),
        ("a name that turns back", bytes([good(), vec![file("a/../x", "x")]].concat_members()), &["leads out of the archive"]),
        ("a long name", long, &["a name or link of 1041 bytes"]),
        ("many members", bytes((0..=65_536).map(|_| file("x", "")).collect()), &["more than 65536 members"]),
        ("gzip cut short", gzip(&whole)[..100].to_vec(), &["cannot be unpacked beyond byte"]),
        ("gzip with garbage behind it", [gzip(&whole), b"garbage".to_vec()].concat(), &["cannot be unpacked beyond byte"]),
        ("xz", b"\xfd7zXZ\0 and so on".to_vec(), &["it cannot be unpacked", "xz"]),
    ]
}

fn hostile_oci() -> Vec<Case> {
    let one = image("one");
    let good = || oci(&[(Some("one:1"), &one)]);
    let index = |members: Vec<Member>| tar_of(&with(good(), "index.json", members));
    let on = |bytes: &[u8], members: Vec<Member>| tar_of(&with(good(), &blob_name(bytes), members));
    let other = |bytes: &[u8]| Member::File(vec![b'x'; bytes.len()]);
    let blob = &one.layers[0].blob;
    vec![
        ("no index.json", index(vec![]), &["index.json not found"]),
        ("index.json is a link", index(vec![Member::Link("oci-layout".into())]), &["is a symbolic link, not a file"]),
        ("index.json is a fifo", index(vec![Member::Kind(tar::EntryType::Fifo)]), &["is a fifo, not a file"]),
        ("a huge index.json", index(vec![Member::File(vec![b' '; (4 << 20) + 1])]), &["4194305 bytes"]),
        ("a deep index.json", index(vec![Member::File(vec![b'['; 4 << 20])]), &["wanted an object"]),
        ("index.json is an image", index(vec![Member::File(one.manifest.clone())]), &["is not an index"]),
        ("no manifest", on(&one.manifest, vec![]), &["manifest", "not found"]),
        ("another manifest", on(&one.manifest, vec![other(&one.manifest)]), &["manifest", "has digest"]),
        ("a longer manifest", on(&one.manifest, vec![Member::File(vec![b'x'; 5000])]), &["5000 bytes in the file"]),
        ("no config", on(&one.config, vec![]), &["config", "not found"]),
        ("another config", on(&one.config, vec![other(&one.config)]), &["config", "has digest"]),
        ("no layer", on(blob, vec![]), &["blob", "not found"]),
        ("another layer", on(blob, vec![other(blob)]), &["layer"]),
        ("a shorter layer", on(blob, vec![Member::File(blob[1..].to_vec())]), &["bytes in the file"]),
        ("a layer that is a link", on(blob, vec![Member::Link("/etc/passwd".into())]), &["is a symbolic link, not a file"]),
        ("a name that leads out", tar_of(&[good(), vec![file("../../etc/passwd", "x")]].concat_members()), &["leads out of the archive"]),
    ]
}

trait ConcatMembers {
    fn concat_members(self) -> Members;
}

impl ConcatMembers for [Members; 2] {
    fn concat_members(self) -> Members {
        self.into_iter().flatten().collect()
    }
}

/// Everything of the store but the lock files' tokens and our own journal.
fn listing(world: &World) -> Vec<String> {
    let lines = oracle::listing(&world.root()).unwrap();
    lines.into_iter().filter(|line| !line.starts_with("./cstor-rs") && !line.contains(".lock ") && !line.starts_with(". ")).collect()
}

#[test]
fn a_hostile_archive_is_an_error_and_changes_nothing() {
    let world = World::new();
    world.push("kept");
    assert!(world.pull(&["--quiet"], &["kept"]).status.success());
    let before = listing(&world);
    for (transport, cases) in [("docker-archive", hostile_docker()), ("oci-archive", hostile_oci())] {
        for (what, bytes, words) in cases {
            let path = put(&world, "one.tar", &bytes);
            let output = world.run(&["pull", &format!("{transport}:{}", path.display())]);
            assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![]), "{transport}, {what}: {}", said(&output));
            for word in words {
                assert!(said(&output).contains(word), "{transport}, {what}: no {word:?} in: {}", said(&output));
            }
            assert_eq!(listing(&world), before, "{transport}, {what}");
        }
    }
}

/// What is no file is never waited for.
#[test]
fn only_files_are_archives() {
    let world = World::new();
    let fifo = world.temp.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for transport in ["oci-archive", "docker-archive"] {
        for (path, word) in [(fifo.to_str().unwrap(), "not a regular file"), ("/dev/null", "not a regular file"), ("/", "not a file")] {
            let output = world.run(&["pull", &format!("{transport}:{path}")]);
            assert_eq!(output.status.code(), Some(1), "{path}");
            assert!(said(&output).contains(word), "{path}: {}", said(&output));
        }
        let output = world.run(&["pull", &format!("{transport}:/no/such/file")]);
        assert!(said(&output).contains("/no/such/file"), "{}", said(&output));
    }
}

/// Old versions of docker store a layer that several images share once, and link to it; some archives begin with `./`.
#[test]
fn layers_may_be_links_and_names_may_begin_with_a_dot() {
    let one = image("one");
    let mut members = docker(&[(&["one:1"], &one)]);
    members.retain(|(name, _)| name != "manifest.json");
    let file_name = |number: usize| format!("{}.tar", one.layers[number].diff_id.hex());
    members.push(("a/layer.tar".into(), Member::Link(format!("../{}", file_name(0)))));
    members.push(("b/layer.tar".into(), Member::Link(format!("/{}", file_name(1)))));
    let list = json!([{"Config": format!("{}.json", id(&one)), "RepoTags": ["one:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    members.push(file("manifest.json", list.to_string()));
    for dot in ["", "./"] {
        for (transport, members) in [("docker-archive", &mut members), ("oci-archive", &mut oci(&[(Some("one:1"), &one)]))] {
            for (name, _) in members.iter_mut() {
                // Names of more than 100 bytes have another form in a tar.
                name.insert_str(0, dot);
            }
            members.insert(0, ("./".into(), Member::Kind(tar::EntryType::Directory)));
            let world = World::new();
            let path = put(&world, "one.tar", &tar_of(members));
            let output = world.run(&["pull", "--quiet", &format!("{transport}:{}", path.display())]);
            assert_eq!(lines(&output), [id(&one)], "{transport}: {}", said(&output));
        }
    }
}

/// What podman and we store of one archive.
#[derive(Debug, PartialEq)]
struct Stored {
    images: Vec<(String, Vec<String>, String, String)>,
    manifests: BTreeMap<String, Vec<u8>>,
    layers: Vec<BTreeMap<String, String>>,
}

fn stored(root: &Path) -> Stored {
    let table = |name: &str| -> Vec<Value> { serde_json::from_slice(&fs::read(root.join(name)).unwrap()).unwrap() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut stored = Stored { images: Vec::new(), manifests: BTreeMap::new(), layers: Vec::new() };
    for image in table("overlay-images/images.json") {
        let mut names: Vec<String> = image["names"].as_array().into_iter().flatten().map(text).collect();
        names.sort();
        let id = text(&image["id"]);
        stored.manifests.insert(id.clone(), fs::read(root.join("overlay-images").join(&id).join("manifest")).unwrap());
        stored.images.push((id, names, text(&image["layer"]), text(&image["digest"])));
    }
    for layer in table("overlay-layers/layers.json") {
        let keys = ["id", "parent", "diff-digest", "diff-size", "compressed-diff-digest", "compressed-size", "compression"];
        let known = keys.iter().filter_map(|key| Some((key.to_string(), layer.get(key)?.to_string())));
        stored.layers.push(known.filter(|(key, value)| key != "compression" || value != "0").collect());
    }
    stored.images.sort();
    stored.layers.sort();
    stored
}

/// Makes archives of both kinds, with podman and with skopeo, of an image that is in the store of `world`.
fn archives_of(world: &World, peer: &Peer, name: &str) -> Vec<(&'static str, PathBuf)> {
    let (root, run) = (world.root(), world.temp.path().join("run"));
    let mut made = Vec::new();
    for transport in ["oci-archive", "docker-archive"] {
        let path = world.temp.path().join(format!("podman-{}-{transport}.tar", peer.major()));
        let mut podman = peer.command("podman", &root, &run);
        peers::run(podman.args(["save", "--quiet", "--format", transport, "--output"]).arg(&path).arg(name));
        made.push((transport, path));
        let path = world.temp.path().join(format!("skopeo-{}-{transport}.tar", peer.major()));
        let mut skopeo = peer.command("skopeo", &root, &run);
        let to = format!("{transport}:{}:{name}", path.display());
        skopeo.args(["--insecure-policy", "copy", "--quiet", &format!("containers-storage:{name}"), &to]);
        peers::run(&mut skopeo);
        made.push((transport, path));
    }
    made
}

/// Whatever podman or skopeo put into an archive, podman and we take the same image out of it.
#[test]
fn podman_and_we_take_the_same_image_from_an_archive() {
    let peers = Peer::all();
    if peers.is_empty() {
        peers::skip("archives", "no podman works here");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let world = World::new();
    let one = fixture::image("one", vec![fixture::base(), fixture::app("one"), fixture::base()]);
    let mut cases = Vec::new();
    // As other programs make them: two names of which one is docker.io's, compressed layers, the whole compressed.
    let made = docker(&[(&["one:1", "docker.io/library/one:2"], &one)]);
    let mut squeezed = docker(&[(&["q.io/one:1"], &one)]);
    for (_, member) in squeezed.iter_mut().filter(|(name, _)| name.ends_with(".tar")) {
        let Member::File(bytes) = member else { continue };
        *bytes = gzip(bytes);
    }
    for (name, transport, bytes) in [
        ("made.tar", "docker-archive", tar_of(&made)),
        ("squeezed.tar", "docker-archive", tar_of(&squeezed)),
        ("made.tar.gz", "docker-archive", gzip(&tar_of(&made))),
        ("oci.tar", "oci-archive", tar_of(&oci(&[(Some("one:1"), &one)]))),
    ] {
        fs::write(temp.path().join(name), bytes).unwrap();
        cases.push((transport, temp.path().join(name)));
    }
    let source = temp.path().join("oci.tar");
    assert!(world.run(&["pull", &format!("oci-archive:{}", source.display())]).status.success());
    for peer in &peers {
        peers::between_peers(&world.root());
        let cases = cases.iter().cloned().chain(archives_of(&world, peer, "localhost/one:1"));
        for (transport, path) in cases {
            // podman 4 unpacks a compressed one and then does not find the end of it.
            if peer.major() < 5 && path.ends_with("made.tar.gz") {
                continue;
            }
            let place = format!("{transport}:{}", path.display());
            let (ours, theirs) = (World::new(), World::new());
            let output = ours.run(&["pull", "--quiet", &place]);
            assert!(output.status.success(), "{}, {place}: {}", peer.name, said(&output));
            let mut podman = peer.command("podman", &theirs.root(), &theirs.temp.path().join("run"));
            let id = peers::run_text(podman.args(["pull", "--quiet", &place]));
            assert_eq!(lines(&output), [id.lines().last().unwrap()], "{}, {place}", peer.name);
            assert_eq!(stored(&ours.root()), stored(&theirs.root()), "{}, {place}", peer.name);
        }
    }
}
