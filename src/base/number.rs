//! Numbers with a fraction, as people write and read them.
//!
//! std's way is exact for every float there is, with 30 kB of code and tables. Times, sizes and shares
//! have at most 15 digits, and for those this is exact as well.

use std::time::Duration;

/// Digits that a `u64` holds whatever they are.
const MOST_DIGITS: u32 = 19;

/// Reads `2`, `-0.5`, `1e-3`; None where it is anything else.
pub fn parse(text: &str) -> Option<f64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse().ok()?),
        None => (text, 0i32),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (mut value, mut kept, mut point) = (0u64, 0, exponent);
    for (is_fraction, part) in [(false, whole), (true, fraction)] {
        for byte in part.bytes() {
            if !byte.is_ascii_digit() {
                return None;
            }
            if kept < MOST_DIGITS {
                value = value * 10 + u64::from(byte - b'0');
                kept += u32::from(value > 0);
                point = point.saturating_sub(i32::from(is_fraction));
            } else {
                point = point.saturating_add(i32::from(!is_fraction));
            }
        }
    }
    let mut scale = 1.0f64;
    for _ in 0..point.unsigned_abs().min(400) {
        scale *= 10.0;
    }
    let value = match value {
        0 => 0.0,
        value if point < 0 => value as f64 / scale,
        value => value as f64 * scale,
    };
    Some(if negative { -value } else { value })
}

/// Seconds as they are: `2`, `0.25`.
pub fn seconds(span: Duration) -> String {
    let text = format!("{}.{:09}", span.as_secs(), span.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// With so many digits after the point, rounded, halves to the even one: `12.3`. For what is not negative.
pub fn fixed(value: f64, digits: usize) -> String {
    let scale = 10u64.pow(digits as u32);
    let exact = value * scale as f64;
    let mut all = (exact + 0.5) as u64;
    if all as f64 - exact == 0.5 {
        all &= !1;
    }
    match digits {
        0 => all.to_string(),
        _ => format!("{}.{:0digits$}", all / scale, all % scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_std_reads_them() {
        for text in [
            "0",
            "2",
            "-0.5",
            "+7",
            "1e-3",
            "1E3",
            ".5",
            "5.",
            "0.1",
            "1.5",
            "2.25",
            "-1",
            "0.000001",
            "600.125",
            "1e22",
            "123456789012345",
            "0.123456789012345",
            "1e-15",
            "1.5e20",
            "0e999999999",
            "00012.50",
            "99999999999999999999999",
            "3.14159265358979323846",
        ] {
            let (ours, theirs) = (parse(text), text.parse::<f64>().unwrap());
            let off = (ours.unwrap() - theirs).abs();
            assert!(off <= theirs.abs() * f64::EPSILON, "{text}: {ours:?}");
            if text.len() < 16 {
                assert_eq!(ours, Some(theirs), "{text}");
            }
        }
        assert_eq!(parse("1e400"), Some(f64::INFINITY));
        assert_eq!(parse("1e-400"), Some(0.0));
        for text in [
            "",
            ".",
            "-",
            "+",
            "e5",
            "1e",
            "1.2.3",
            "--1",
            "1_0",
            "inf",
            "nan",
            " 1",
            "1 ",
            "1e99999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for nanos in [
            0,
            1,
            250_000_000,
            100_000_000,
            2_000_000_000,
            12_345_678_900,
            90_000_000_000,
        ] {
            let span = Duration::from_nanos(nanos);
            assert_eq!(seconds(span), span.as_secs_f64().to_string());
        }
        for value in [
            0.0, 0.5, 1.25, 1.75, 2.5, 0.04, 0.06, 1.0, 9.96, 12.34, 99.9, 1023.6,
        ] {
            for digits in 0..4 {
                assert_eq!(fixed(value, digits), format!("{value:.digits$}"));
            }
        }
    }
}
