//! Pure: no system call, no thread, no clock.
//!
//! `${NAME.port}` and `${NAME.url}`: the port of another process of the file. They are replaced in a process's texts
//! before variables are.

use std::ops::Range;

use toml::de::DeValue;

use super::parse::title;
use super::read::{self, Doc, Section, Value, quote};
use super::{Command, PortWish, Probe, Process};
use crate::base::error::nearest;
use crate::base::table::Table;

/// A process that a text names, and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    /// As it stood in the file: a change of it is one for who refers to it.
    pub port: PortWish,
    /// `${NAME.url}`.
    pub url: bool,
}

/// The ports that processes have; None in it: the process has none.
pub(super) type Ports = Table<String, Option<PortWish>>;

/// Keys in which references are replaced.
const KEYS: [&str; 8] = [
    "args",
    "command",
    "build",
    "build_release",
    "env",
    "listen",
    "ready",
    "health",
];

/// The references in a text: where each stands, the process, and the word behind the last dot.
fn find(text: &str) -> Vec<(Range<usize>, &str, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(sign) = text[at..].find('$') {
        let start = at + sign;
        at = start + 1;
        let after = &text[at..];
        if after.starts_with('$') {
            at += 1;
        } else if let Some(inner) = after.strip_prefix('{') {
            let name = dotted(inner);
            if let Some((process, word)) = name.rsplit_once('.')
                && inner[name.len()..].starts_with('}')
            {
                at += name.len() + 2;
                found.push((start..at, process, word));
            }
        }
    }
    found
}

/// The longest name of a process that a text begins with, if there is a dot in it.
pub(super) fn dotted(text: &str) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = &text[..text.len() - text.trim_start_matches(is_name).len()];
    if name.contains('.') { name } else { "" }
}

/// A process with its references replaced by the host and port that `at` knows; those that it does not know stay.
pub fn with_ports(process: &Process, at: &dyn Fn(&str) -> Option<(String, u16)>) -> Process {
    let mut process = process.clone();
    each_text(&mut process, &mut |text| {
        let mut out = String::new();
        let mut rest = 0;
        for (place, name, word) in find(text) {
            let Some((host, port)) = at(name) else {
                continue;
            };
            out.push_str(&text[rest..place.start]);
            rest = place.end;
            match word {
                "url" => out.push_str(&format!("http://{host}:{port}")),
                _ => out.push_str(&port.to_string()),
            }
        }
        if rest > 0 {
            out.push_str(&text[rest..]);
            *text = out;
        }
    });
    process
}

/// All texts of a process in which references are replaced.
fn each_text(process: &mut Process, with: &mut dyn FnMut(&mut String)) {
    let commands = [
        &mut process.command,
        &mut process.build,
        &mut process.build_release,
    ];
    for command in commands.into_iter().flatten() {
        match command {
            Command::List(words) => words.iter_mut().for_each(&mut *with),
            // The shell's own.
            Command::Shell(_) => {}
        }
    }
    let values = process.env.iter_mut().map(|(_, value)| value);
    let texts = process.args.iter_mut().chain(values);
    texts.chain(&mut process.listen).for_each(&mut *with);
    let ready = process.ready.as_mut().map(|ready| &mut ready.probe);
    let health = process.health.as_mut().map(|health| &mut health.probe);
    for probe in ready.into_iter().chain(health) {
        match probe {
            Probe::Tcp(text) | Probe::Http(text) => with(text),
            Probe::Command(words) => words.iter_mut().for_each(&mut *with),
            Probe::Port | Probe::Log(_) | Probe::Notify | Probe::Delay(_) => {}
        }
    }
}

/// Notes in each process the ones that it refers to.
pub(super) fn resolve(processes: &mut [Process], ports: &Ports) {
    for process in processes {
        let mut all: Vec<Reference> = Vec::new();
        each_text(process, &mut |text| {
            for (_, name, word) in find(text) {
                let Some(Some(port)) = ports.get(name) else {
                    continue;
                };
                let reference = Reference {
                    name: name.into(),
                    port: *port,
                    url: word == "url",
                };
                if !all.contains(&reference) {
                    all.push(reference);
                }
            }
        });
        process.references = all;
    }
}

/// Refuses what in a table refers to a process that is unknown or has no port.
pub(super) fn check(doc: &mut Doc, s: &Section, ports: &Ports) {
    for key in KEYS {
        let Some(value) = s.get(key) else { continue };
        match value.get_ref() {
            DeValue::Table(table) if key == "env" => {
                for (name, value) in read::entries(table) {
                    let name = format!("env.{}", name.get_ref());
                    check_value(doc, s, &name, value, ports);
                }
            }
            // The shell's own.
            DeValue::String(_) if key != "listen" => {}
            _ => check_value(doc, s, key, value, ports),
        }
    }
}

fn check_value(doc: &mut Doc, s: &Section, key: &str, value: &Value, ports: &Ports) {
    if doc.is_full() {
        return;
    }
    match value.get_ref() {
        DeValue::String(text) => {
            for (_, name, word) in find(text) {
                if let Err(why) = known(name, word, ports) {
                    let text = format!("{}{}: {why}", quote(key), s.suffix());
                    doc.fault(value.span().start, text);
                }
            }
        }
        DeValue::Array(all) => all
            .iter()
            .for_each(|value| check_value(doc, s, key, value, ports)),
        DeValue::Table(table) => read::entries(table)
            .iter()
            .for_each(|(_, value)| check_value(doc, s, key, value, ports)),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

fn known(name: &str, word: &str, ports: &Ports) -> Result<(), String> {
    let Some(port) = ports.get(name) else {
        let hint = match nearest(name, ports.keys().map(String::as_str)) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => String::new(),
        };
        return Err(format!("unknown process {}{hint}", quote(name)));
    };
    if !["port", "url"].contains(&word) {
        let text = quote(&format!("${{{name}.{word}}}"));
        return Err(format!(
            "{text} is neither ${{{name}.port}} nor ${{{name}.url}}"
        ));
    }
    match port {
        Some(_) => Ok(()),
        None => Err(format!("{} has no \"port\"", title(name))),
    }
}
