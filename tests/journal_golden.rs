//! The journal's format, held by a segment that must never change: decoded, encoded again, and explained byte for byte in
//! `docs/journal-format.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use cstor_rs::ids::{Digest, ImageId, LayerId, LinkId, TxnId};
use cstor_rs::journal::{Chain, Header, Kind, State, header, parse_header, scan};
use cstor_rs::overlay::TreeId;
use cstor_rs::plan::{self, DataPut, ImageChange, ImagePut, Intent, LayerPut, LayerRemoval, NameClaim, StagedData, Step, Table};

/// Written by the version that only added images: read for ever.
const FIRST: &[u8] = include_bytes!("golden/segment-v1.wal");
const GOLDEN: &[u8] = include_bytes!("golden/segment-v2.wal");
const DOCUMENT: &str = include_str!("../docs/journal-format.md");

fn txn() -> TxnId {
    "00112233445566778899aabbccddeeff".parse().unwrap()
}

fn written_by() -> Header {
    Header { txn: txn(), boot: *b"boot-id-16-bytes", pid_namespace: 4_026_531_836, pid: 4242, start: 123_456 }
}

/// One layer, one image with a name taken from another one, and the steps of barrier C to E.
fn first() -> Intent {
    let layer: LayerId = "a".repeat(64).parse().unwrap();
    let image: ImageId = "b".repeat(64).parse().unwrap();
    let link: LinkId = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".parse().unwrap();
    let steps = vec![
        Step::PlaceLayer { id: layer.clone(), link: link.clone() },
        Step::Link { id: layer.clone(), link: link.clone() },
        Step::PlaceSplit { id: layer.clone() },
        Step::PlaceImage { id: image.clone() },
    ];
    let barrier = Step::barrier(&steps);
    let switches = [Table::Layers, Table::Images].map(Step::Switch);
    let tail = switches.into_iter().flat_map(|switch| [switch.clone(), Step::barrier(&[switch])]);
    Intent {
        seq: 1,
        layers: vec![LayerPut { id: layer.clone(), link: link.clone(), record: r#"{"id":"L"}"#.to_owned() }],
        images: vec![ImageChange::Put(ImagePut {
            id: image,
            record: r#"{"id":"I"}"#.to_owned(),
            names: vec![NameClaim { name: "localhost/a:1".to_owned(), from: Some("c".repeat(64).parse().unwrap()) }],
            chain: vec![(layer, link)],
            data: vec![StagedData { key: "manifest".to_owned(), file: "manifest".to_owned(), size: 300, digest: Digest::of(b"") }],
            seen: None,
        })],
        removals: vec![],
        steps: steps.into_iter().chain([barrier]).chain(tail).collect(),
    }
}

/// The same, and every other kind of change, with the steps of barrier E2.
fn intent() -> Intent {
    let mut intent = first();
    let image = |c: &str| -> ImageId { c.repeat(64).parse().unwrap() };
    let layer: LayerId = "1".repeat(64).parse().unwrap();
    let link: LinkId = "ZYXWVUTSRQPONMLKJIHGFEDCBA".parse().unwrap();
    let item = StagedData { key: "signatures".to_owned(), file: "signatures".to_owned(), size: 3, digest: Digest::of(b"abc") };
    intent.images.extend([
        ImageChange::Names {
            id: image("c"),
            take: vec![NameClaim { name: "localhost/b:1".to_owned(), from: None }],
            drop: vec!["localhost/c:1".to_owned()],
        },
        ImageChange::Data { id: image("c"), items: vec![DataPut { item, seen: None }] },
        ImageChange::DropData { id: image("c"), key: "old".to_owned(), seen: Some(Digest::of(b"old").to_string()) },
        ImageChange::Metadata { id: image("c"), seen: "{}".to_owned(), text: String::new() },
        ImageChange::Remove {
            id: image("d"),
            names: vec!["localhost/d:1".to_owned()],
            tree: Some(TreeId { inode: 77, birth: Some((1_700_000_000, 5)) }),
        },
    ]);
    intent.removals = vec![LayerRemoval { id: layer.clone(), link: Some(link.clone()) }];
    let rest = Step::Switch(Table::RemainingLayers);
    let dead = vec![
        Step::BuryImage { id: image("d") },
        Step::BuryData { image: image("c"), file: "old".to_owned() },
        Step::BuryLayer { id: layer, link: Some(link) },
    ];
    let barriers = [Step::barrier(std::slice::from_ref(&rest)), Step::barrier(&dead)];
    let [after_rest, after_dead] = barriers;
    intent.steps.extend([rest, after_rest]);
    intent.steps.extend(dead);
    intent.steps.push(after_dead);
    intent
}

fn encoded() -> Vec<u8> {
    let mut chain = Chain::new(&txn());
    let mut bytes = header(&written_by());
    bytes.extend(chain.record(Kind::Intent, &plan::encode(&intent()).unwrap()));
    bytes.extend(chain.record(Kind::Done, &[]));
    bytes
}

#[test]
fn the_golden_segment_is_what_is_written_today() {
    assert_eq!(encoded(), GOLDEN, "the bytes on disk have changed: that needs a new version");
}

#[test]
fn the_golden_segment_reads_as_what_was_meant() {
    assert_eq!(parse_header(GOLDEN).unwrap(), written_by());
    assert_eq!(scan(GOLDEN, &txn()), State::Done);
    let end = GOLDEN.len() - 41;
    let State::Intent(payload) = scan(&GOLDEN[..end], &txn()) else { panic!("no intent without the end record") };
    assert_eq!(plan::decode(&payload).unwrap(), intent());
}

#[test]
fn a_segment_of_the_first_version_is_still_read() {
    assert_eq!(scan(FIRST, &txn()), State::Done);
    let end = FIRST.len() - 41;
    let State::Intent(payload) = scan(&FIRST[..end], &txn()) else { panic!("no intent without the end record") };
    assert_eq!(plan::decode(&payload).unwrap(), first());
}

#[test]
fn the_dump_in_the_document_is_the_golden_segment() {
    let mut bytes = Vec::new();
    for line in DOCUMENT.lines().filter_map(|line| line.strip_prefix("    ")) {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let Ok(offset) = usize::from_str_radix(offset, 16) else { continue };
        assert_eq!(offset, bytes.len(), "{line}");
        let hex = rest.split("  ").next().unwrap();
        bytes.extend(hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{line}"))));
    }
    assert_eq!(bytes, FIRST);
}

/// What begins with other bytes is another program's, however well its checksum fits.
#[test]
fn a_header_has_our_magic() {
    let mut bytes = header(&written_by());
    assert!(parse_header(&bytes).is_some());
    bytes[0] ^= 1;
    let crc = bytes.len() - 4;
    let sum = crc32fast::hash(&bytes[..crc]).to_le_bytes();
    bytes[crc..].copy_from_slice(&sum);
    assert_eq!(parse_header(&bytes), None);
}

/// An end record is recognised by itself behind damage: only the one of this transaction.
#[test]
fn the_end_of_another_transaction_ends_nothing() {
    let mut damaged = Chain::new(&txn()).record(Kind::Intent, b"x");
    damaged[9] ^= 1;
    let end = |txn: &TxnId| [header(&written_by()), damaged.clone(), Chain::new(txn).record(Kind::Done, &[])].concat();
    assert_eq!(scan(&end(&txn()), &txn()), State::Corrupt);
    assert_eq!(scan(&end(&"f".repeat(32).parse().unwrap()), &txn()), State::Torn);
}
