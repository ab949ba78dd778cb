//! Why a test is over before it began.

use std::io::Write;

/// Says it on the real stderr: what a test that passes prints is not shown.
pub fn skipped(reason: &str) {
    std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
}
