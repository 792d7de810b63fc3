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
mod tests;
