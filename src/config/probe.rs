//! Pure: no system call, no thread, no clock.
//!
//! `ready` and `health`: one probe each, and when it is asked.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::address::{authority, is_held, parse_http, parse_tcp};
use super::keys::{self, Place};
use super::read::{self, Doc, Read, Section, Value, quote, refuse, unfit};
use super::values::checked;
use super::{Health, PortWish, Probe, Ready};
use crate::base::table::in_order;

/// The address to connect to for a `port` without a `ready`.
const OWN_PORT: &str = "127.0.0.1:${PORT}";

/// Longer patterns, or ones that compile to more, are refused (the search has the same bounds).
const LONGEST_PATTERN: usize = 1000;
const LARGEST_REGEX: usize = 64 << 10;

fn tcp(value: &Value) -> Read<Probe> {
    checked(value, read::expandable(value)?, parse_tcp).map(Probe::Tcp)
}

fn http(value: &Value) -> Read<Probe> {
    checked(value, read::expandable(value)?, parse_http).map(Probe::Http)
}

fn log(value: &Value) -> Read<Probe> {
    let pattern = read::text(value)?;
    if pattern.len() > LONGEST_PATTERN {
        let why = format!("the pattern has more than {LONGEST_PATTERN} bytes");
        return refuse(value, why);
    }
    let regex = regex_lite::RegexBuilder::new(&pattern)
        .size_limit(LARGEST_REGEX)
        .build();
    match regex {
        Ok(_) => Ok(Probe::Log(pattern)),
        Err(e) => refuse(value, format!("{} does not compile: {e}", quote(&pattern))),
    }
}

fn notify(value: &Value) -> Read<Probe> {
    match value.get_ref() {
        DeValue::Boolean(true) => Ok(Probe::Notify),
        _ => unfit(value),
    }
}

/// Name of a probe, and its reader.
type ProbeKey = (&'static str, fn(&Value) -> Read<Probe>);

const PROBES: [ProbeKey; 6] = [
    ("tcp", tcp),
    ("http", http),
    ("log", log),
    ("command", |v| read::program(v).map(Probe::Command)),
    ("notify", notify),
    ("delay_seconds", |v| read::seconds(v).map(Probe::Delay)),
];

/// Often enough for anybody, and no busy loop.
fn interval(value: &Value) -> Read<Duration> {
    read::time(1.0, 0.01)(value)
}

/// The one probe of `ready` or `health`; none and two are faults.
fn probe(doc: &mut Doc, s: &Section) -> Option<Probe> {
    let known = |name: &str| keys::find(s.place, name).is_some();
    let given = PROBES
        .iter()
        .filter(|(name, _)| known(name) && s.get(name).is_some())
        .collect();
    let given = in_order(given, |(name, _)| s.place_of(name) as u64);
    let probes: Vec<Option<Probe>> = given
        .iter()
        .map(|(name, with)| doc.read(s, name, with))
        .collect();
    if let [(first, _), more @ ..] = given.as_slice() {
        for (name, _) in more {
            doc.complain(
                s,
                name,
                format!("only one probe can be used, and \"{first}\" is there"),
            );
        }
    } else {
        let names: Vec<&str> = PROBES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| known(name))
            .collect();
        let text = format!("{} needs one of {}", s.title, names.join(", "));
        doc.fault(s.at, text);
    }
    probes.into_iter().next().flatten()
}

/// `ready`, or what `port` alone means.
pub(super) fn ready(
    doc: &mut Doc,
    process: &Section,
    port: Option<PortWish>,
    listen: &[String],
) -> Option<Ready> {
    let title = process.title_of("ready");
    if process.get("ready").is_none() {
        port?;
        // A connection to a held socket tells nothing about the process.
        if held(OWN_PORT, port, listen).is_some() {
            return None;
        }
        let none = DeTable::new();
        let timings = doc.section(Place::Ready, title, &none, process.at);
        return Some(Ready {
            probe: Probe::Port,
            timeout: doc.value(&timings, "timeout_seconds", read::seconds_above_0),
            interval: doc.value(&timings, "interval_seconds", interval),
            settle: Duration::ZERO,
        });
    }
    let (table, at) = doc.table(process, "ready")?;
    let s = doc.section(Place::Ready, title, table, at);
    let timeout = doc.value(&s, "timeout_seconds", read::seconds_above_0);
    let interval = doc.value(&s, "interval_seconds", interval);
    let settle = doc.read(&s, "settle_seconds", read::seconds);
    let probe = probe(doc, &s)?;
    if let Probe::Delay(delay) = &probe
        && *delay >= timeout
    {
        let text =
            "it is not shorter than \"timeout_seconds\", so the process would never be ready";
        doc.complain(&s, "delay_seconds", text);
    }
    Some(Ready {
        // gunicorn says READY=1 before it has imported the application.
        settle: settle.unwrap_or(match probe {
            Probe::Notify => Duration::from_secs(1),
            _ => Duration::ZERO,
        }),
        probe,
        timeout,
        interval,
    })
}

/// `health`.
pub(super) fn health(doc: &mut Doc, process: &Section) -> Option<Health> {
    let title = process.title_of("health");
    let (table, at) = doc.table(process, "health")?;
    let s = doc.section(Place::Health, title, table, at);
    let interval = doc.value(&s, "interval_seconds", interval);
    let timeout = doc.value(&s, "timeout_seconds", read::seconds_above_0);
    let failures = doc.value(&s, "failures", read::count(1));
    Some(Health {
        probe: probe(doc, &s)?,
        interval,
        timeout,
        failures,
    })
}

/// The entry of `listen` that a connection to `target` would end at.
fn held<'a>(target: &str, port: Option<PortWish>, listen: &'a [String]) -> Option<&'a String> {
    let resolved = |text: &str| match port {
        Some(PortWish::Fixed(port)) => text.replace("${PORT}", &port.to_string()),
        Some(PortWish::Auto) | None => text.into(),
    };
    let target = resolved(target);
    listen.iter().find(|held| is_held(&target, &resolved(held)))
}

/// While both run, a connection to a held socket is answered by the kernel or by the old process: it
/// tells nothing of the new one.
pub(super) fn check_overlap(
    doc: &mut Doc,
    s: &Section,
    probe: &Probe,
    port: Option<PortWish>,
    listen: &[String],
) {
    let (kind, target) = match probe {
        Probe::Tcp(target) => ("tcp", target.clone()),
        Probe::Http(url) => ("http", authority(url)),
        Probe::Port | Probe::Log(_) | Probe::Command(_) | Probe::Notify | Probe::Delay(_) => return,
    };
    let Some(held) = held(&target, port, listen) else {
        return;
    };
    doc.complain(
        s,
        "ready",
        format!(
            "with swap \"overlap\" a {kind} probe of {held:?} would be answered by the old process or the kernel, since \"listen\" holds \
             it; use notify, log or command in \"ready\", or swap = \"stop-start\""
        ),
    );
}
