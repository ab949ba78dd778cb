//! Laws of tar framing and tar-split, held over crafted tars, every cut of one, and random damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod tars;

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use cstor_rs::tarsplit::{
    Entry, EntryKind, LayerReader, SplitEntry, SplitError, SplitReader, SplitWriter, TarError, Time, Totals, headers, reassemble, rewrite,
};
use proptest::prelude::*;
use tars::{Case, Cut, cases, file, member, pax, tar};

/// What reading a tar to its end gave.
struct Layer {
    entries: Vec<Entry>,
    /// Bodies by number, each with its member's name.
    bodies: Vec<(Vec<u8>, Vec<u8>)>,
    /// The tar-split as the reader wrote it.
    first: Vec<u8>,
    /// The same, rewritten for a disk that keeps the last body of each path.
    split: Vec<u8>,
    totals: Totals,
}

/// How bodies are read.
#[derive(Debug, Clone, Copy)]
enum Way {
    Chunks,
    Pieces(usize),
    Never,
}

/// A reader that gives few bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.1);
        self.0.read(&mut buf[..len])
    }
}

/// The path as far as these tests need it.
fn cleaned(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

fn read(tar: &[u8], step: usize, way: Way) -> Result<Layer, TarError> {
    let mut layer = LayerReader::new(Slow(tar, step), SplitWriter::new(Vec::new()));
    let (mut entries, mut bodies) = (Vec::new(), Vec::new());
    while let Some(entry) = layer.next()? {
        let mut body = Vec::new();
        match way {
            Way::Never => {}
            Way::Chunks => loop {
                match layer.chunk()? {
                    [] => break,
                    bytes => body.extend_from_slice(bytes),
                }
            },
            Way::Pieces(len) => loop {
                let mut piece = vec![0; len];
                match layer.read_body(&mut piece)? {
                    0 => break,
                    read => body.extend_from_slice(&piece[..read]),
                }
            },
        }
        if entry.size > 0 {
            assert_eq!(layer.body_number(), bodies.len() as u64);
            bodies.push((entry.name.clone(), body));
        }
        entries.push(entry);
    }
    let (_, first, totals) = layer.finish()?;
    let split = rewritten(&first, &bodies, &totals);
    Ok(Layer { entries, bodies, first, split, totals })
}

/// Rewrites as an extractor does whose disk keeps the last body of each path.
fn rewritten(first: &[u8], bodies: &[(Vec<u8>, Vec<u8>)], totals: &Totals) -> Vec<u8> {
    let last: HashMap<Vec<u8>, u64> = bodies.iter().enumerate().map(|(n, (name, _))| (cleaned(name), n as u64)).collect();
    rewrite(first, Vec::new(), &totals.repeated, |number, wanted| {
        let (known, body) = &bodies[number as usize];
        assert_eq!(known, wanted.name);
        Ok((last[&cleaned(wanted.name)] != number).then_some(body.as_slice()))
    })
    .unwrap()
}

/// The tar from the tar-split and a disk that holds the last body of each path.
fn assembled(layer: &Layer) -> Vec<u8> {
    let disk: HashMap<Vec<u8>, &[u8]> = layer.bodies.iter().map(|(name, body)| (cleaned(name), body.as_slice())).collect();
    let mut out = Vec::new();
    let len =
        reassemble(&layer.split[..], |name| disk.get(&cleaned(name)).copied().ok_or(io::ErrorKind::NotFound.into()), &mut out).unwrap();
    assert_eq!(len, out.len() as u64);
    out
}

fn lines(split: &[u8]) -> Vec<SplitEntry> {
    let mut reader = SplitReader::new(split);
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        all.push(entry);
    }
    all
}

#[test]
fn i1_crafted_tars_have_their_verdict_and_come_back_exactly() {
    for Case { name, tar, refused, .. } in cases() {
        match (read(&tar, usize::MAX, Way::Chunks), refused) {
            (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{name}: {error}"),
            (Ok(layer), None) => {
                assert!(assembled(&layer) == tar, "{name}: other bytes");
                assert_eq!(layer.totals.tar_bytes, tar.len() as u64, "{name}");
                assert_eq!(layer.totals.members, layer.entries.len() as u64, "{name}");
                assert_eq!(layer.totals.split_entries, lines(&layer.first).len() as u64, "{name}");
            }
            (Err(error), None) => panic!("{name}: refused: {error}"),
            (Ok(_), Some(text)) => panic!("{name}: accepted, expected {text:?}"),
        }
    }
}

#[test]
fn i2_no_path_has_two_file_entries() {
    for Case { name, tar, refused, .. } in cases() {
        if refused.is_some() {
            continue;
        }
        let layer = read(&tar, usize::MAX, Way::Chunks).unwrap();
        let mut seen = HashSet::new();
        for entry in lines(&layer.split) {
            if let SplitEntry::File { name: path, .. } = entry {
                assert!(seen.insert(cleaned(&path)), "{name}: {} twice", path.escape_ascii());
            }
        }
        if !layer.totals.must_rewrite {
            let files = |split| lines(split).into_iter().filter(|e| matches!(e, SplitEntry::File { .. }));
            let mut seen = HashSet::new();
            assert!(files(&layer.first).all(|e| matches!(e, SplitEntry::File { name, .. } if seen.insert(cleaned(&name)))), "{name}");
        }
    }
}

#[test]
fn headers_of_a_tar_split_are_the_members_of_the_tar() {
    for Case { name, tar, refused, .. } in cases() {
        if refused.is_none() {
            let layer = read(&tar, usize::MAX, Way::Chunks).unwrap();
            for split in [&layer.first, &layer.split] {
                let again: Vec<Entry> = headers(&split[..]).map(Result::unwrap).collect();
                assert_eq!(again, layer.entries, "{name}");
            }
        }
    }
}

#[test]
fn how_the_tar_arrives_and_is_read_changes_nothing() {
    for Case { name, tar, refused, .. } in cases() {
        if refused.is_some() || tar.len() > 100_000 {
            continue;
        }
        let expected = read(&tar, usize::MAX, Way::Chunks).unwrap();
        for (step, way) in [(1, Way::Pieces(3)), (7, Way::Chunks), (513, Way::Pieces(100_000))] {
            let layer = read(&tar, step, way).unwrap();
            assert_eq!(lines(&layer.first), lines(&expected.first), "{name} {step} {way:?}");
            assert_eq!(layer.bodies, expected.bodies, "{name} {step} {way:?}");
        }
        let mut unread = LayerReader::new(&tar[..], SplitWriter::new(Vec::new()));
        while unread.next().unwrap().is_some() {}
        let (_, split, _) = unread.finish().unwrap();
        assert_eq!(lines(&split), lines(&expected.first), "{name} unread");
        let (_, split, _) = LayerReader::new(&tar[..], SplitWriter::new(Vec::new())).finish().unwrap();
        assert_eq!(lines(&split), lines(&expected.first), "{name} finished at once");
    }
}

#[test]
fn i1_every_cut_of_a_tar_is_refused_or_exact() {
    let whole = tars::small();
    for cut in 0..=whole.len() {
        match (read(&whole[..cut], usize::MAX, Way::Chunks), Cut::of(&whole, cut).refused()) {
            (Ok(layer), None) => assert!(assembled(&layer) == whole[..cut], "cut at {cut}"),
            (Err(TarError::Truncated { offset, .. }), Some(_)) => assert_eq!(offset, cut as u64),
            (other, expected) => panic!("cut at {cut}: {:?}, expected {expected:?}", other.err()),
        }
    }
}

#[test]
fn members_carry_what_the_tar_says() {
    let plain = member(b'0', b"f", b"12345").field(100, b"0104755\0").field(108, b"0000144\0").build();
    let records: &[(&[u8], &[u8])] = &[
        (b"path", b"dir/\xff"),
        (b"gid", b"70000"),
        (b"mtime", b"-1.25"),
        (b"atime", b"7.5"),
        (b"SCHILY.xattr.user.b", b"=\0\n"),
        (b"SCHILY.xattr.user.a", b""),
        (b"LIBARCHIVE.xattr.user.c", b"eA"),
    ];
    let device = member(b'3', b"dev", b"").field(329, b"0000010\0").field(337, b"0000021\0").link(b"ignored").build();
    let layer = read(&tar(&[pax(records), plain, device]), usize::MAX, Way::Chunks).unwrap();
    let expected = Entry {
        name: b"dir/\xff".to_vec(),
        kind: EntryKind::File,
        link: Vec::new(),
        mode: 0o4755,
        uid: 100,
        gid: 70000,
        size: 5,
        device: (0, 0),
        mtime: Time { secs: -2, nanos: 750_000_000 },
        atime: Some(Time { secs: 7, nanos: 500_000_000 }),
        xattrs: vec![(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), b"=\0\n".to_vec())],
        duplicate: false,
    };
    assert_eq!(layer.entries[0], expected);
    let device = &layer.entries[1];
    assert_eq!((device.kind, device.device, device.link.len(), device.xattrs.len()), (EntryKind::Char, (8, 17), 0, 0));
}

#[test]
fn segments_are_grouped_as_go_groups_them() {
    let layer = read(&tar(&[file("a", b"hello"), pax(&[(b"mtime", b"1")]), file("b", b"")]), usize::MAX, Way::Never).unwrap();
    let shape: Vec<String> = lines(&layer.first)
        .into_iter()
        .map(|entry| match entry {
            SplitEntry::Segment(bytes) => bytes.len().to_string(),
            SplitEntry::File { name, size, .. } => format!("{}:{size}", name.escape_ascii()),
        })
        .collect();
    assert_eq!(shape, ["512", "a:5", "2043", "b:0", "1024"]);
}

#[test]
fn a_body_that_is_not_the_recorded_one_is_refused() {
    let layer = read(&tar(&[file("f", b"hello")]), usize::MAX, Way::Chunks).unwrap();
    let with = |body: &'static [u8]| reassemble(&layer.split[..], |_| Ok(body), io::sink());
    assert_eq!(with(b"hello").unwrap(), 2048);
    assert!(matches!(with(b"hellO"), Err(SplitError::Crc { .. })));
    assert!(matches!(with(b"hell"), Err(SplitError::Size { found: 4, wanted: 5, .. })));
    assert!(matches!(with(b"hello!"), Err(SplitError::Size { found: 6, wanted: 5, .. })));
    let missing = reassemble(&layer.split[..], |_| Err::<&[u8], _>(io::ErrorKind::NotFound.into()), io::sink());
    assert!(matches!(missing, Err(SplitError::Open { .. })));
    let wrong = rewrite(&layer.first[..], Vec::new(), &layer.totals.repeated, |_, _| Ok(Some(&b"other"[..])));
    assert!(matches!(wrong, Err(SplitError::Crc { .. })));
}

#[test]
fn a_body_that_is_gone_from_disk_moves_into_segments() {
    let body: Vec<u8> = (0..2_500_000u32).map(|n| (n % 241) as u8).collect();
    let tar = tar(&[tars::dir("d"), file("d/x", &body), file("y", b"stays"), file("d", b"file now")]);
    let layer = read(&tar, usize::MAX, Way::Chunks).unwrap();
    assert!(layer.totals.must_rewrite);
    let split = rewrite(&layer.first[..], Vec::new(), &layer.totals.repeated, |number, _| Ok((number == 0).then_some(&body[..]))).unwrap();
    let shape: Vec<String> = lines(&split)
        .into_iter()
        .map(|entry| match entry {
            SplitEntry::Segment(bytes) => bytes.len().to_string(),
            SplitEntry::File { name, size, .. } => format!("{}:{size}", name.escape_ascii()),
        })
        .collect();
    let last = 2_500_000 - (2 << 20);
    let pad = 512 - 2_500_000 % 512 + 512;
    assert_eq!(shape, ["512", "512", "1048576", "1048576", &last.to_string(), &pad.to_string(), "y:5", "1019", "d:8", "1528"]);
    let mut out = Vec::new();
    let open = |name: &[u8]| Ok(if name == b"y" { &b"stays"[..] } else { b"file now" });
    reassemble(&split[..], open, &mut out).unwrap();
    assert!(out == tar);
    assert_eq!(headers(&split[..]).map(Result::unwrap).collect::<Vec<_>>(), layer.entries);
}

/// The gzip of some JSON text.
fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::fast());
    let mut bytes = Vec::new();
    out.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn tar_splits_of_go_are_read_with_their_oddities() {
    let link = data_encoding::BASE64.encode(&member(b'1', b"h", b"").link(b"f").field(124, b"00000000005\0").header());
    let text = format!(
        "{}\n{}\n\n{}",
        format_args!(r#"{{"type":2,"payload":"{link}","position":0}}"#),
        r#"{"type":1,"name":"h","size":5,"payload":"AAAAAAAAAAA=","position":1,"later":[1]}"#,
        r#"{"type":2,"payload":"","position":2}"#,
    );
    let split = gzip(&text);
    let mut out = Vec::new();
    assert_eq!(reassemble(&split[..], |_| Err::<&[u8], _>(io::ErrorKind::NotFound.into()), &mut out).unwrap(), 512);
    let entries: Vec<Entry> = headers(&split[..]).map(Result::unwrap).collect();
    assert_eq!((entries.len(), entries[0].size), (1, 0));
    assert_eq!(lines(&gzip("")), []);
    let two_streams = [gzip("{\"type\":2,\"payload\":\"YQ==\",\"position\":0}\n"), gzip("")].concat();
    assert_eq!(lines(&two_streams), [SplitEntry::Segment(b"a".to_vec())]);
}

#[test]
fn damaged_tar_splits_are_refused() {
    let good = gzip("{\"type\":2,\"payload\":\"YWJj\",\"position\":0}\n");
    let fails = |split: &[u8]| reassemble(split, |_| Ok(io::empty()), io::sink()).unwrap_err();
    for cut in 0..good.len() {
        // Nothing at all is what a crash leaves of a file made in place.
        assert!(matches!(fails(&good[..cut]), SplitError::Read { .. }), "cut at {cut}");
    }
    assert!(matches!(fails(b"not gzip at all"), SplitError::Read { .. }));
    assert!(matches!(fails(&gzip("{\"type\":2")), SplitError::Json { position: 0, .. }));
    assert!(matches!(fails(&gzip(&"[".repeat(100_000))), SplitError::Json { .. }));
    assert!(matches!(fails(&gzip(&format!("{{\"type\":2,\"x\":{}", "[".repeat(1_000_000)))), SplitError::Json { .. }));
    assert!(matches!(fails(&gzip("{\"type\":3,\"payload\":null}")), SplitError::Entry { .. }));
    assert!(matches!(fails(&gzip("{\"type\":2,\"payload\":\"*\"}")), SplitError::Entry { .. }));
    assert!(matches!(fails(&gzip("{\"type\":1,\"size\":3,\"payload\":null}")), SplitError::Entry { .. }));
    assert!(matches!(fails(&gzip(&" ".repeat(17 << 20))), SplitError::LineTooLong { .. }));
}

#[test]
fn nothing_is_read_after_an_error() {
    let mut layer = LayerReader::new(&b"garbage"[..], SplitWriter::new(Vec::new()));
    assert!(matches!(layer.next(), Err(TarError::Truncated { .. })));
    assert!(matches!(layer.next(), Err(TarError::Failed)));
    assert!(matches!(layer.finish(), Err(TarError::Failed)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        if let Ok(layer) = read(&bytes, usize::MAX, Way::Chunks) {
            prop_assert_eq!(assembled(&layer), bytes.clone());
        }
        drop(reassemble(&bytes[..], |_| Ok(io::empty()), io::sink()));
        let text = gzip(&String::from_utf8_lossy(&bytes));
        headers(&text[..]).for_each(drop);
    }

    #[test]
    fn a_damaged_tar_fails_or_comes_back_exactly(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sealed in any::<bool>(),
    ) {
        let mut bytes = tar(&[tars::small(), tars::small()]);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
            // With the checksum put right the damage reaches what lies behind it.
            let block = at / 512 * 512;
            if sealed && bytes[block + 257..].starts_with(b"ustar") {
                let header: &mut [u8; 512] = (&mut bytes[block..block + 512]).try_into().unwrap();
                tars::seal(header);
            }
        }
        if let Ok(layer) = read(&bytes, usize::MAX, Way::Chunks) {
            let again: Vec<Entry> = headers(&layer.split[..]).map(Result::unwrap).collect();
            prop_assert_eq!(&again, &layer.entries);
            if layer.bodies.iter().all(|(name, _)| !name.windows(2).any(|w| w == b"..")) {
                prop_assert!(assembled(&layer) == bytes);
            }
        }
    }
}
