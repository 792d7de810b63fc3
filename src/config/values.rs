//! Pure: no system call, no thread, no clock.
//!
//! Keys whose values are more than a type: addresses, names, signals, globs.

use std::net::IpAddr;

use toml::de::DeValue;

use super::address::parse_listen;
use super::read::{self, Read, Value, quote, refuse, unfit};
use super::{PortWish, signal};
use crate::base::error::nearest;
use crate::base::globs::Glob;

/// A path, and whether it may be missing: it ends in `?` then.
pub(super) fn env_path(value: &Value) -> Read<(String, bool)> {
    let text = read::text(value)?;
    match text.strip_suffix('?') {
        Some("") => refuse(value, "there is no path before the \"?\""),
        Some(path) => Ok((path.into(), true)),
        None => Ok((text, false)),
    }
}

/// An IP address.
pub(super) fn ip(value: &Value) -> Read<IpAddr> {
    read::any_text(value)?.parse().or_else(|_| unfit(value))
}

/// An entry of `allowed_origins`: what a browser sends, scheme and host.
pub(super) fn origin(value: &Value) -> Read<String> {
    let text = read::text(value)?;
    let is_one = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', ' ', '*'])
    });
    if is_one {
        return Ok(text);
    }
    let why = format!(
        "{} is no origin, such as \"https://example.org\"",
        quote(&text)
    );
    refuse(value, why)
}

/// An entry of `allowed_hosts`.
pub(super) fn host(value: &Value) -> Read<String> {
    let text = read::text(value)?;
    if text.contains(['/', ' ', '*', '@']) {
        let why = format!(
            "{} is no host name, such as \"dev.example.org\"",
            quote(&text)
        );
        return refuse(value, why);
    }
    Ok(text)
}

/// A port that is one, or `"auto"`.
pub(super) fn port(value: &Value) -> Read<PortWish> {
    match value.get_ref() {
        DeValue::String(s) if s == "auto" => Ok(PortWish::Auto),
        _ => match u16::try_from(read::integer(1, 65535)(value)?) {
            Ok(port) => Ok(PortWish::Fixed(port)),
            Err(_) => unfit(value),
        },
    }
}

/// A signal by name or number.
pub(super) fn stop_signal(value: &Value) -> Read<i32> {
    if let DeValue::Integer(_) = value.get_ref() {
        let number = read::integer(1, signal::LAST as u64)(value)?;
        return i32::try_from(number).or_else(|_| unfit(value));
    }
    let name = read::text(value)?;
    if let Some(number) = signal::signal_number(&name) {
        return Ok(number);
    }
    let plain = name.to_ascii_uppercase();
    let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
    let hint = match nearest(plain, signal::names()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    refuse(value, format!("unknown signal {}{hint}", quote(&name)))
}

/// Reads `core`.
pub(super) fn size_or_unlimited(value: &Value) -> Read<u64> {
    match value.get_ref() {
        DeValue::String(s) if s == "unlimited" => Ok(u64::MAX),
        _ => read::size(0)(value),
    }
}

/// Checks what will be expanded only where nothing is left to expand.
pub(super) fn checked<T>(
    value: &Value,
    text: String,
    check: impl Fn(&str) -> Result<T, String>,
) -> Read<String> {
    if !text.contains('$')
        && let Err(why) = check(&text)
    {
        return refuse(value, why);
    }
    Ok(text)
}

/// An entry of `listen`.
pub(super) fn listen(value: &Value) -> Read<String> {
    checked(value, read::expandable(value)?, parse_listen)
}

/// A pattern of `watch`.
pub(super) fn watched(value: &Value) -> Read<String> {
    let pattern = read::text(value)?;
    match Glob::new(&pattern) {
        Ok(_) => Ok(pattern),
        Err(why) => refuse(value, why),
    }
}

/// Lines kept in memory for a run.
pub(super) fn log_lines(value: &Value) -> Read<u64> {
    read::integer(100, 10_000_000)(value)
}

/// Bytes kept in memory for a process.
pub(super) fn log_bytes(value: &Value) -> Read<u64> {
    read::size(64 << 10)(value)
}

/// Runs that can be searched.
pub(super) fn log_runs(value: &Value) -> Read<usize> {
    let runs = read::integer(1, 100)(value)?;
    usize::try_from(runs).or_else(|_| unfit(value))
}
