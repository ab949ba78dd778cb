//! A full examination of one layer against one sha256 of its tar: `cargo bench --bench examine`.
//!
//! `CSTOR_BENCH_TAR` names the tar of a real layer; without it one is made, 1.5 GB with the sizes of a distribution's
//! files. The least of five runs of each counts, in page cache, single-threaded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::fs;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cstor_rs::extract::{self, Examine, Options};
use cstor_rs::fsio::{Dir, Seam};
use cstor_rs::ids::Digest;

fn main() {
    let temp = tempfile::tempdir_in(std::env::var_os("CSTOR_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)).unwrap();
    let tar = std::env::var_os("CSTOR_BENCH_TAR").map_or_else(|| make(&temp.path().join("layer.tar")), PathBuf::from);
    let dir = |name: &str| {
        fs::create_dir(temp.path().join(name)).unwrap();
        Dir::open(&temp.path().join(name), Seam::default()).unwrap()
    };
    let (diff, spill, side, cancelled) = (dir("diff"), dir("spill"), dir("side"), AtomicBool::new(false));
    let options = Options { blob_bytes: None, max_bytes: u64::MAX, cancelled: &cancelled, progress: &|_| {} };
    let began = Instant::now();
    let seen = extract::layer(fs::File::open(&tar).unwrap(), &diff, &spill, &side, "split", &options).unwrap();
    println!("{} bytes, {} members, unpacked in {:?}", seen.diff_size, seen.members, began.elapsed());

    let split = side.file("split").unwrap();
    let examine = |contents: bool, diff_id: &Digest| {
        let how = Examine { diff_id: Some(diff_id), contents, limit: 10, progress: &|_, _| {}, stop: &cancelled };
        let seen = extract::examine(&diff, &split, &how).unwrap().unwrap();
        assert_eq!((seen.differences.len(), seen.tar_digest.is_some()), (0, contents), "{:?}", seen.differences);
    };
    let sum = least(|| openssl(&tar));
    let full = least(|| examine(true, &seen.diff_id));
    let shallow = least(|| examine(false, &seen.diff_id));
    println!("openssl sha256 {sum:?}, examine {full:?}, without contents {shallow:?}");
    println!("ratio {:.2}", full.as_secs_f64() / sum.as_secs_f64());
}

fn openssl(tar: &Path) {
    assert!(Command::new("openssl").arg("sha256").arg(tar).output().unwrap().status.success());
}

fn least(mut run: impl FnMut()) -> Duration {
    let timed = |_| {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    (0..5).map(timed).min().unwrap()
}

/// 60,000 files: most of some kilobytes, a few of megabytes, as in a distribution's /usr.
fn make(path: &Path) -> PathBuf {
    let mut out = tar::Builder::new(BufWriter::new(fs::File::create(path).unwrap()));
    let mut random = 1u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let body: Vec<u8> = (0..4 << 20).map(|_| next() as u8).collect();
    for number in 0..60_000u32 {
        let size = match next() % 100 {
            0..60 => next() % 4_000,
            60..90 => next() % 20_000,
            90..99 => next() % 200_000,
            _ => next() % (3 << 20),
        };
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        let name = format!("usr/share/d{}/e{}/file-{number}", number / 1000, number / 50);
        let from = (next() % 1000) as usize;
        out.append_data(&mut header, name, &body[from..from + size as usize]).unwrap();
    }
    out.into_inner().unwrap().flush().unwrap();
    // Into the page cache.
    std::io::copy(&mut BufReader::new(fs::File::open(path).unwrap()).take(u64::MAX), &mut std::io::sink()).unwrap();
    path.to_owned()
}
