//! Pure: no I/O. Values of options that clap has no parser for.

use std::time::Duration;

/// The longest time that makes sense: beyond it sums of times would overflow somewhere.
const LONGEST_SECS: f64 = u32::MAX as f64;

/// A time in seconds (`1.5`), or as podman writes it (`1m30s`, `500ms`).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || "wants seconds, or a time like 1m30s or 500ms".to_owned();
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(refuse)
    };
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let (digits, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len()));
        let (unit, behind) = behind.split_at(behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len()));
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            // Only a number alone goes without.
            "" if digits.len() == text.len() => 1.0,
            _ => return Err(refuse()),
        };
        seconds += number(digits)? * factor;
        rest = behind;
    }
    if seconds > LONGEST_SECS {
        return Err(format!("is more than {LONGEST_SECS} seconds"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_what_podman_writes() {
        let good = [
            ("0", 0),
            ("5", 5000),
            ("0.25", 250),
            (".5", 500),
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1.5m", 90_000),
            ("0s", 0),
        ];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let bad =
            ["", " ", "-1", "-1s", "5 s", "s", "1x", "1s5", "1..2", ".", "inf", "nan", "1e3", "0x10", "99999999999", "9999999h", "1d"];
        for text in bad {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
