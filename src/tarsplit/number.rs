//! Pure: no I/O. Numbers and times of tar headers, read as Go's archive/tar reads them.

use super::Time;

/// Up to the first NUL, or all of it.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// An octal field: blanks and NULs around it are ignored, nothing is 0. Go keeps 64 bits and calls them signed.
pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let Some(start) = field.iter().position(|b| !blank(b)) else { return Some(0) };
    let end = field.iter().rposition(|b| !blank(b))?;
    let digits = c_string(field.get(start..=end)?);
    let mut value = 0u64;
    for &digit in digits {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 8)?;
        value = value.checked_mul(8)?.checked_add(u64::from(digit))?;
    }
    Some(value as i64)
}

/// An octal field, or base-256 where its first bit is set: two's complement, big-endian.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let invert = if first & 0x40 != 0 { 0xff } else { 0 };
    let mut value = 0u64;
    for (index, &byte) in field.iter().enumerate() {
        let byte = (byte ^ invert) & if index == 0 { 0x7f } else { 0xff };
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if invert == 0 { value } else { !value })
}

/// A decimal number with an optional sign.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    // Go's ParseInt and Rust's agree on `+`, `-`, leading zeros and overflow.
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A PAX time, `seconds` or `seconds.fraction`; a fraction beyond nanoseconds is cut off.
pub(super) fn pax_time(text: &[u8]) -> Option<Time> {
    let mut parts = text.splitn(2, |&b| b == b'.');
    let whole = parts.next()?;
    let fraction = parts.next().unwrap_or_default();
    let secs = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().map(|d| u32::from(d - b'0')).chain(std::iter::repeat(0));
    let nanos = digits.take(9).fold(0, |value, digit| value * 10 + digit);
    if whole.first() == Some(&b'-') && nanos > 0 {
        return Some(Time { secs: secs.saturating_sub(1), nanos: 1_000_000_000 - nanos });
    }
    Some(Time { secs, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_as_go_reads_them() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0 7 \0", Some(7)),
            (b"", Some(0)),
            (b"\0\0\0", Some(0)),
            (b"12\x0034", Some(0o12)),
            (b"12 34", None),
            (b"8", None),
            (b"-1", None),
            (b"+1", None),
            (b"1777777777777777777777", Some(-1)),
            (b"2000000000000000000000", None),
        ] {
            assert_eq!(octal(field), value, "{field:?}");
        }
    }

    #[test]
    fn base_256_is_twos_complement_of_64_bits() {
        let wide = |top: u8, rest: [u8; 8]| [&[top, if top == 0xff { 0xff } else { 0 }, 0, 0][..], &rest].concat();
        assert_eq!(numeric(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(numeric(&[0xff; 8]), Some(-1));
        assert_eq!(numeric(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(numeric(&wide(0x80, i64::MAX.to_be_bytes())), Some(i64::MAX));
        assert_eq!(numeric(&wide(0x80, u64::MAX.to_be_bytes())), None);
        assert_eq!(numeric(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(numeric(&[]), None);
    }

    #[test]
    fn pax_times_round_down() {
        let time = |secs, nanos| Some(Time { secs, nanos });
        for (text, value) in [
            ("0", time(0, 0)),
            ("1350244992.023960108", time(1_350_244_992, 23_960_108)),
            ("1.5", time(1, 500_000_000)),
            ("1.", time(1, 0)),
            ("1.1234567899", time(1, 123_456_789)),
            ("-1", time(-1, 0)),
            ("-1.5", time(-2, 500_000_000)),
            ("-0.5", time(-1, 500_000_000)),
            ("+3", time(3, 0)),
            ("-9223372036854775808.9", time(i64::MIN, 100_000_000)),
            ("", None),
            (".5", None),
            ("1.5x", None),
            ("1.-5", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(pax_time(text.as_bytes()), value, "{text}");
        }
    }
}
