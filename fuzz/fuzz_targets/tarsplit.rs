//! Any bytes as a tar-split file, and as the JSON lines in one: refused or read, never a panic.
#![no_main]

use std::io::{self, Write};

use cstor_rs::tarsplit::{headers, reassemble};
use libfuzzer_sys::fuzz_target;

fn read(split: &[u8]) {
    drop(reassemble(split, |_| Ok(io::empty()), io::sink()));
    headers(split).for_each(drop);
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("memory");
    read(&gzip.finish().expect("memory"));
});
