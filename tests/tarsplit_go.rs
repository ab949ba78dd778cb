//! The crafted tars through skopeo: Go's verdict and Go's tar-split are ours, but for the deviations that are written down.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "common/skip.rs"]
mod skip;
mod tars;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use cstor_rs::ids::Digest;
use cstor_rs::tarsplit::{LayerReader, SplitWriter};
use serde_json::json;
use tars::{Case, Go, cases};

/// Why this machine cannot ask Go, if it cannot.
fn skip_reason() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers-storage needs root".to_owned());
    }
    match Command::new("skopeo").arg("--version").output() {
        Ok(output) if output.status.success() => None,
        other => Some(format!("skopeo does not run: {other:?}")),
    }
}

/// Stores a blob and returns its descriptor.
fn blob(layout: &Path, media: &str, bytes: &[u8]) -> serde_json::Value {
    let digest = Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({ "mediaType": media, "digest": digest, "size": bytes.len() })
}

/// An OCI layout with one image of one uncompressed layer.
fn write_layout(layout: &Path, tar: &[u8]) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(tar)] },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": [blob(layout, "application/vnd.oci.image.layer.v1.tar", tar)],
    });
    let manifest = blob(layout, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
}

/// What Go makes of a tar: its tar-split's text, or its error.
///
/// `Ok` also means that Go exported the exact tar with our tar-split in the place of its own.
fn ask_go(tar: &[u8]) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    write_layout(&path("layout"), tar);
    let store = format!("containers-storage:[overlay@{}+{}]test:tar", path("root").display(), path("run").display());
    let source = format!("oci:{}", path("layout").display());
    let copy = |from: &str, to: &str| Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", from, to]).output().unwrap();
    let output = copy(&source, &store);
    // The driver bind-mounts its directory on itself.
    let unmount = || match rustix::mount::unmount(path("root/overlay"), rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => panic!("unmount overlay: {error}"),
    };
    unmount();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let split = path("root/overlay-layers").join(format!("{}.tar-split.gz", Digest::of(tar).hex()));
    let theirs = text(&fs::read(&split).unwrap());
    if let Ok(ours) = record(tar) {
        fs::write(&split, ours).unwrap();
        let output = copy(&store, &format!("dir:{}", path("export").display()));
        unmount();
        assert!(output.status.success(), "export: {}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(path("export").join(Digest::of(tar).hex())).unwrap() == tar, "Go exported other bytes");
    }
    Ok(theirs)
}

fn text(gzip: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(gzip).read_to_string(&mut text).unwrap();
    text
}

/// Our tar-split of a tar.
fn record(tar: &[u8]) -> Result<Vec<u8>, String> {
    let layer = LayerReader::new(tar, SplitWriter::new(Vec::new()));
    layer.finish().map(|(_, split, _)| split).map_err(|error| error.to_string())
}

/// The lines up to the last member as they are, and the bytes of all segments after it.
///
/// Left out is what we leave out on purpose: the size of a member without a body, the cut of the last segments.
fn normal(text: &str) -> (Vec<String>, Vec<u8>) {
    let mut lines: Vec<String> = Vec::new();
    let mut tail = Vec::new();
    for (position, line) in text.lines().enumerate() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["position"], position, "{line}");
        let nothing = value["payload"].as_str().is_none_or(|payload| payload == "AAAAAAAAAAA=");
        if value["type"] == 2 {
            tail.push((line.to_owned(), data_encoding::BASE64.decode(value["payload"].as_str().unwrap().as_bytes()).unwrap()));
            continue;
        }
        lines.extend(tail.drain(..).map(|(line, _)| line));
        lines.push(match value["size"].as_i64() {
            Some(size) if nothing => line.replace(&format!("\"size\":{size},"), "").replace("\"AAAAAAAAAAA=\"", "null"),
            _ => line.to_owned(),
        });
    }
    (lines, tail.into_iter().flat_map(|(_, bytes)| bytes).collect())
}

#[test]
fn go_and_we_agree_on_verdict_and_tar_split() {
    if let Some(reason) = skip_reason() {
        skip::skipped(&reason.to_string());
        return;
    }
    let mut wrong = Vec::new();
    for Case { name, tar, refused, go } in cases() {
        let (theirs, ours) = (ask_go(&tar), record(&tar).map(|split| text(&split)));
        assert_eq!(ours.is_err(), refused.is_some(), "{name}");
        match (theirs, ours, go) {
            (Ok(theirs), Ok(ours), Go::Same) => {
                let (theirs, ours) = (normal(&theirs), normal(&ours));
                if theirs != ours {
                    let at = theirs.0.iter().zip(&ours.0).take_while(|(theirs, ours)| theirs == ours).count();
                    let (theirs, ours) = (theirs.0.get(at), ours.0.get(at));
                    wrong.push(format!("{name}: tar-split differs at {at}\n  Go  {theirs:?}\n  we  {ours:?}"));
                }
            }
            (Err(_), Err(_), Go::Same) => {}
            (Ok(theirs), Ok(ours), Go::Inexact(_)) if normal(&theirs) != normal(&ours) => {}
            (Err(error), Ok(_), Go::Refuses(text)) if error.contains(text) => {}
            (Ok(_), Err(_), Go::Accepts(_)) => {}
            (theirs, ours, go) => {
                wrong.push(format!("{name}: Go {:?}, we {:?}, expected {go:?}", theirs.map(|_| "accepts"), ours.map(|_| "accept")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
