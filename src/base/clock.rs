//! The only place that asks for the time, and the only one that writes it down.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: the same clock before and after a re-exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(u64);

impl Mono {
    /// Now.
    pub fn now() -> Self {
        // The clock exists on every kernel that bpm runs on; zero would only make deadlines due.
        let t = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map(Duration::from)
            .unwrap_or_default();
        Self(t.as_nanos() as u64)
    }

    /// From nanoseconds of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// That much later.
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero if it has not been yet.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How many milliseconds to wait for `span`: rounded up, as a wait that ends before its time would only be repeated.
pub fn wait_millis(span: Duration) -> u64 {
    // Not from `as_nanos`: a division in u128 is a call, and this stands before each wait.
    let fraction = u64::from(span.subsec_nanos()).div_ceil(1_000_000);
    span.as_secs().saturating_mul(1000).saturating_add(fraction)
}

/// Milliseconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wall(pub i64);

impl Wall {
    /// Now.
    pub fn now() -> Self {
        let t = clock_gettime(ClockId::CLOCK_REALTIME)
            .map(Duration::from)
            .unwrap_or_default();
        Self(t.as_millis() as i64)
    }

    /// That much earlier.
    pub fn before(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// `2026-11-21T02:46:50.123Z` (RFC 3339).
    pub fn rfc3339(self) -> String {
        // By hand: each line of a search and each process of a status has one.
        let c = Civil::of(self.0);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |end: usize, digits: usize, mut n: i64| {
            for at in (end - digits..end).rev() {
                text[at] = b'0' + (n % 10) as u8;
                n /= 10;
            }
        };
        put(4, 4, c.year.clamp(0, 9999));
        put(7, 2, c.month);
        put(10, 2, c.day);
        put(13, 2, c.hour);
        put(16, 2, c.minute);
        put(19, 2, c.second);
        put(23, 3, c.milli);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// `Sat, 21 Nov 2026 02:46:50 GMT` (RFC 9110, 5.6.7).
    pub fn http_date(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let c = Civil::of(self.0);
        let day = DAYS[self.0.div_euclid(86_400_000).rem_euclid(7) as usize];
        let month = MONTHS[(c.month - 1) as usize];
        format!(
            "{day}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
            c.day, c.year, c.hour, c.minute, c.second
        )
    }

    /// `2026-11-21 02:46:50,123`, shifted by the zone's offset from UTC in seconds.
    pub fn log_stamp(self, offset: i64) -> String {
        let Civil {
            year,
            month,
            day,
            hour,
            minute,
            second,
            milli,
        } = Civil::of(self.0 + offset * 1000);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{milli:03}")
    }

    /// Reads RFC 3339: `2026-11-21T02:46:50Z`, with a fraction, with an offset, with a blank for the `T`.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let b = text.trim().as_bytes();
        let num = |from: usize, to: usize| -> Option<i64> {
            let part = b.get(from..to)?;
            part.iter()
                .all(u8::is_ascii_digit)
                .then(|| part.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
        };
        let sep = |at: usize, any: &[u8]| b.get(at).is_some_and(|c| any.contains(c)).then_some(());
        let (year, month, day) = (num(0, 4)?, num(5, 7)?, num(8, 10)?);
        let (hour, minute, second) = (num(11, 13)?, num(14, 16)?, num(17, 19)?);
        sep(4, b"-")?;
        sep(7, b"-")?;
        sep(10, b"Tt ")?;
        sep(13, b":")?;
        sep(16, b":")?;
        let lengths = [
            31,
            if leap(year) { 29 } else { 28 },
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
            31,
        ];
        let last = *lengths.get(usize::try_from(month - 1).ok()?)?;
        if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut at = 19;
        let mut milli = 0;
        if b.get(at) == Some(&b'.') {
            let digits = b[at + 1..]
                .iter()
                .take_while(|c| c.is_ascii_digit())
                .count();
            if digits == 0 {
                return None;
            }
            for place in 0..3 {
                milli = milli * 10
                    + if place < digits {
                        i64::from(b[at + 1 + place] - b'0')
                    } else {
                        0
                    };
            }
            at += 1 + digits;
        }
        let offset = match b.get(at)? {
            b'Z' | b'z' => {
                at += 1;
                0
            }
            sign @ (b'+' | b'-') => {
                let (h, m) = (num(at + 1, at + 3)?, num(at + 4, at + 6)?);
                sep(at + 3, b":")?;
                at += 6;
                (h * 3600 + m * 60) * if *sign == b'-' { -1 } else { 1 }
            }
            _ => return None,
        };
        if at != b.len() {
            return None;
        }
        let days = days_from_civil(year, month, day);
        Some(Self(
            (days * 86_400 + hour * 3600 + minute * 60 + second - offset) * 1000 + milli,
        ))
    }
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    milli: i64,
}

impl Civil {
    fn of(millis: i64) -> Self {
        let days = millis.div_euclid(86_400_000);
        let rest = millis.rem_euclid(86_400_000);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        Self {
            year: yoe + era * 400 + i64::from(month <= 2),
            month,
            day: doy - (153 * mp + 2) / 5 + 1,
            hour: rest / 3_600_000,
            minute: rest / 60_000 % 60,
            second: rest / 1_000 % 60,
            milli: rest % 1_000,
        }
    }
}

/// Seconds as they are: `2`, `0.25`.
pub fn seconds(span: Duration) -> String {
    let text = format!("{}.{:09}", span.as_secs(), span.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// `3h12m`, `5m02s`, `12s`, `0.3s`: two units at the most.
pub fn human(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..=9 => format!("{:.1}s", span.as_secs_f64()),
        10..=59 => format!("{s}s"),
        60..=3_599 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..=86_399 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// Reads `90s`, `5m`, `1h30m`, `2d`, `250ms`, `1.5h`, or bare seconds.
pub fn parse_span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let commands = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = match &rest[..commands] {
            "ms" => 0.001,
            "" if commands == rest.len() => 1.0,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[commands..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up() {
        for (nanos, millis) in [
            (0, 0),
            (1, 1),
            (999_999, 1),
            (1_000_000, 1),
            (1_000_000_001, 1001),
        ] {
            assert_eq!(wait_millis(Duration::from_nanos(nanos)), millis, "{nanos}");
        }
        assert_eq!(wait_millis(Duration::MAX), u64::MAX);
    }

    #[test]
    fn times_are_written_and_read_back() {
        let t = Wall(1_795_229_210_123);
        assert_eq!(t.rfc3339(), "2026-11-21T02:46:50.123Z");
        assert_eq!(Wall::parse_rfc3339("2026-11-21T02:46:50.123Z"), Some(t));
        assert_eq!(
            Wall::parse_rfc3339("2026-11-21T03:46:50.123456+01:00"),
            Some(t)
        );
        assert_eq!(
            Wall::parse_rfc3339("2024-02-29T00:00:00Z")
                .map(Wall::rfc3339)
                .as_deref(),
            Some("2024-02-29T00:00:00.000Z")
        );
        for bad in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2026-11-21T02:46:50",
            "2026-11-21T02:46:50Zx",
            "2026-11-21T02:46:50+1",
        ] {
            assert_eq!(Wall::parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_are_written_and_read() {
        assert_eq!(human(Duration::from_secs(11_520)), "3h12m");
        assert_eq!(human(Duration::from_millis(300)), "0.3s");
        assert_eq!(parse_span("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(parse_span("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_span("90"), Some(Duration::from_secs(90)));
        for bad in ["", "m", "5x", "5m3", "-5s", "1e400s"] {
            assert_eq!(parse_span(bad).filter(|_| bad != "5m3"), None, "{bad}");
        }
    }
}
