//! Any bytes as a tar: refused, or put together again exactly from the tar-split.
#![no_main]

use std::io;

use cstor_rs::tarsplit::{LayerReader, SplitWriter, headers, reassemble, rewrite};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tar: &[u8]| {
    let mut layer = LayerReader::new(tar, SplitWriter::new(Vec::new()));
    let (mut entries, mut bodies) = (Vec::new(), Vec::new());
    loop {
        match layer.next() {
            Ok(Some(entry)) => {
                let mut body = Vec::new();
                loop {
                    match layer.chunk() {
                        Ok([]) => break,
                        Ok(bytes) => body.extend_from_slice(bytes),
                        Err(_) => return,
                    }
                }
                if entry.size > 0 {
                    bodies.push(body);
                }
                entries.push(entry);
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    let (_, first, totals) = layer.finish().expect("the archive has ended");
    assert_eq!(totals.tar_bytes, tar.len() as u64);
    // Every body goes into segments, so that no name has to be unique.
    let split = rewrite(&first[..], Vec::new(), &totals.repeated, |number, _| Ok(bodies.get(number as usize).map(Vec::as_slice)))
        .expect("our own tar-split");
    let mut out = Vec::new();
    reassemble(&split[..], |_| Err::<&[u8], _>(io::ErrorKind::NotFound.into()), &mut out).expect("no file is needed");
    assert!(out == tar);
    let again: Vec<_> = headers(&split[..]).map(|entry| entry.expect("the same framing")).collect();
    assert_eq!(again, entries);
});
