//! Pure: no I/O and no clock. Times as Go writes and reads them.

use std::time::SystemTime;

/// What Go writes for a time that was never set.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A time as Go writes it: RFC 3339 in UTC, up to nine fractional digits, trailing zeros trimmed.
///
/// A time outside the years 0 to 9999, which JSON has no form for, becomes [`ZERO_TIME`].
pub fn go_time(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(stamp) => Some(stamp.to_string()).filter(|text| is_rfc3339(text)),
        Err(_) => None,
    }
    .unwrap_or_else(|| ZERO_TIME.to_owned())
}

/// The moment that a time of a record names; `None` for [`ZERO_TIME`], which means that nobody knows.
pub fn moment(text: &str) -> Option<SystemTime> {
    if text == ZERO_TIME {
        return None;
    }
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// Whether `text` is a time that Go's decoder takes: `2006-01-02T15:04:05[.fraction](Z|+hh:mm|-hh:mm)`.
pub fn is_rfc3339(text: &str) -> bool {
    parse(text.as_bytes()).is_some()
}

fn parse(text: &[u8]) -> Option<()> {
    let (head, rest) = text.split_at_checked(19)?;
    let fixed = |at: usize, c: u8| (head.get(at) == Some(&c)).then_some(());
    for (at, c) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        fixed(at, c)?;
    }
    let year = number(head, 0, 4)?;
    let month = number(head, 5, 2)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return None,
    };
    within(number(head, 8, 2)?, 1, days)?;
    within(number(head, 11, 2)?, 0, 23)?;
    within(number(head, 14, 2)?, 0, 59)?;
    within(number(head, 17, 2)?, 0, 59)?;
    let zone = match rest.split_first()? {
        // Go takes a comma as well.
        (b'.' | b',', fraction) => {
            let digits = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            fraction.get(digits..)?
        }
        _ => rest,
    };
    match zone {
        b"Z" => Some(()),
        [b'+' | b'-', _, _, b':', _, _] => {
            within(number(zone, 1, 2)?, 0, 23)?;
            within(number(zone, 4, 2)?, 0, 59)
        }
        _ => None,
    }
}

fn within(value: u32, low: u32, high: u32) -> Option<()> {
    (low..=high).contains(&value).then_some(())
}

fn number(text: &[u8], at: usize, len: usize) -> Option<u32> {
    text.get(at..at.checked_add(len)?)?.iter().try_fold(0u32, |sum, c| c.is_ascii_digit().then(|| sum * 10 + u32::from(c - b'0')))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_have_gos_form() {
        let at = |secs, nanos| go_time(SystemTime::UNIX_EPOCH + Duration::new(secs, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_795_484_410, 851_167_715), "2026-11-24T01:40:10.851167715Z");
        assert_eq!(at(1_795_484_410, 851_160_000), "2026-11-24T01:40:10.85116Z");
        assert_eq!(at(1_795_484_410, 1), "2026-11-24T01:40:10.000000001Z");
        assert_eq!(go_time(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31T23:59:59Z");
        assert_eq!(at(1 << 50, 0), ZERO_TIME);
    }

    #[test]
    fn only_rfc3339_is_a_time() {
        for good in [ZERO_TIME, "2026-11-23T05:40:10.851167715Z", "2026-11-23T05:40:10+01:00", "2024-02-29T00:00:00.5-23:59"] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "Z",
            "2026",
            "2026-11-23",
            "2026-11-23T05:40:10",
            "2026-11-23 05:40:10Z",
            "2026-11-23t05:40:10z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00ZZ",
            "2026-01-01T00:00:00é",
            "+026-01-01T00:00:00Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }
}
