//! Injuries of a tar-split.

use std::fs;
use std::io::Write;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::target::{At, Result, Target, at, cut, empty, flip, lines, nul, remove};
use super::{Fetch, Injury};

const ROW: &str = "tar-split missing or damaged";

pub const ALL: &[Injury] = &[
    Injury::quick(ROW, "split-missing", &["layer-split-missing"], |t| remove(&t.split(At::Middle))).refetch(Fetch::Layer(At::Middle)),
    Injury::quick(ROW, "split-missing-base", &["layer-split-missing"], |t| remove(&t.split(At::Base))).refetch(Fetch::Layer(At::Base)),
    damaged("split-empty", |t| empty(&t.split(At::Middle))),
    damaged("split-truncated", |t| cut(&t.split(At::Middle))),
    damaged("split-garbled", |t| flip(&t.split(At::Middle))),
    damaged("split-nul", |t| nul(&t.split(At::Middle))),
    damaged("split-fewer-lines", |t| rewrite(t, |lines| lines.truncate(lines.len() / 2))),
    damaged("split-no-lines", |t| rewrite(t, Vec::clear)),
    damaged("split-no-json", |t| rewrite(t, |lines| lines[2] = "{".to_owned())),
    damaged("split-of-another-layer", |t| {
        let (own, other) = (t.split(At::Middle), t.split(At::Base));
        at(&own, fs::write(&own, at(&other, fs::read(&other))?))
    }),
    // Every file fits it, and it is not the layer's: its headers say nothing about what the tree should be.
    damaged("split-header-lies", |t| rewrite(t, |lines| lines.iter_mut().for_each(other_mode))),
];

const fn damaged(name: &'static str, hurt: super::Hurt) -> Injury {
    Injury::full(ROW, name, &["layer-split-damaged"], hurt).refetch(Fetch::Layer(At::Middle))
}

fn rewrite(t: &Target, change: impl FnOnce(&mut Vec<String>)) -> Result<()> {
    let split = t.split(At::Middle);
    let mut lines = lines(&split)?;
    let before = lines.clone();
    change(&mut lines);
    if lines == before {
        return Err("nothing would change".to_owned());
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    lines.iter().try_for_each(|line| writeln!(gzip, "{line}")).map_err(|error| error.to_string())?;
    at(&split, fs::write(&split, gzip.finish().map_err(|error| error.to_string())?))
}

/// Another mode, with a checksum that fits, in the header of a segment that is one header.
fn other_mode(line: &mut String) {
    let Ok(mut entry) = serde_json::from_str::<Value>(line) else { return };
    let Some(mut block) = entry["payload"].as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok()) else { return };
    if entry["type"] != 2 || block.len() != 512 || !block[257..].starts_with(b"ustar") || block[106] != b'4' {
        return;
    }
    block[106] = b'0';
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    entry["payload"] = json!(BASE64.encode(&block));
    *line = entry.to_string();
}
