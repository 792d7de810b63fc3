//! Pure: no system call, no thread, no clock.
//!
//! `depends_on`: names to processes, conditions resolved, cycles refused.

use toml::de::DeValue;

use super::parse::title;
use super::read::{self, Doc, Read, Value, quote, refuse};
use super::{Condition, Dependency, Kind, Process};
use crate::base::error::nearest;
use crate::base::table::{Set, Table};
use crate::config::graph;

/// One entry of `depends_on`, before the other process is known.
pub(super) struct Wish {
    name: String,
    until: Option<Condition>,
    at: usize,
}

/// A list of names, or a table of names and conditions.
pub(super) fn wishes_in(value: &Value) -> Read<Vec<Wish>> {
    let DeValue::Table(table) = value.get_ref() else {
        return read::list(|element| {
            Ok(Wish {
                name: read::text(element)?,
                until: None,
                at: element.span().start,
            })
        })(value);
    };
    let conditions = [
        ("started", Condition::Started),
        ("ready", Condition::Ready),
        ("completed", Condition::Completed),
    ];
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    for (key, value) in read::entries(table) {
        let until = read::word(&conditions)(value).or_else(|_| {
            let why = format!(
                "{} is waited for until \"started\", \"ready\" or \"completed\"",
                quote(key.get_ref())
            );
            refuse(value, why)
        });
        match until {
            Ok(until) => all.push(Wish {
                name: key.get_ref().to_string(),
                until: Some(until),
                at: key.span().start,
            }),
            Err(more) => wrong.extend(more),
        }
    }
    if wrong.is_empty() {
        Ok(all)
    } else {
        Err(wrong)
    }
}

/// Fills `depends_on` of all processes; `wishes` has an entry for each of them.
pub(super) fn resolve(doc: &mut Doc, processes: &mut [Process], wishes: &[Vec<Wish>]) {
    let usual: Table<String, Condition> = processes
        .iter()
        .map(|p| (p.name.clone(), usual_condition(p)))
        .collect();
    for (process, wishes) in processes.iter_mut().zip(wishes) {
        let mut seen = Set::default();
        for wish in wishes {
            let Some(usual) = usual.get(&wish.name) else {
                unknown(doc, &process.name, wish, usual.keys());
                continue;
            };
            if seen.add(&wish.name) {
                process.depends_on.push(Dependency {
                    name: wish.name.clone(),
                    until: wish.until.unwrap_or(*usual),
                });
            }
        }
    }
    refuse_cycles(doc, processes, wishes);
}

/// The condition that a dependent waits for where the file names none.
fn usual_condition(process: &Process) -> Condition {
    match (process.kind, &process.ready) {
        (Kind::Task, _) => Condition::Completed,
        (Kind::Rust | Kind::Npm | Kind::Command, Some(_)) => Condition::Ready,
        (Kind::Rust | Kind::Npm | Kind::Command, None) => Condition::Started,
    }
}

fn unknown<'n>(doc: &mut Doc, of: &str, wish: &Wish, known: impl Iterator<Item = &'n String>) {
    if doc.is_full() {
        return;
    }
    let hint = match nearest(&wish.name, known.map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    let name = quote(&wish.name);
    let text = format!(
        "\"depends_on\" in {}: unknown process {name}{hint}",
        title(of)
    );
    doc.fault(wish.at, text);
}

/// Each cycle is a fault at the entry that begins it.
fn refuse_cycles(doc: &mut Doc, processes: &[Process], wishes: &[Vec<Wish>]) {
    let mut nodes: Vec<graph::Node> = processes.iter().map(graph_node).collect();
    while let Some(cycle) = graph::cycle(&nodes).filter(|_| !doc.is_full()) {
        let at = processes
            .iter()
            .zip(wishes)
            .find(|(process, _)| process.name == cycle[0])
            .and_then(|(_, wishes)| wishes.iter().find(|w| w.name == cycle[1]))
            .map_or(0, |wish| wish.at);
        let text = format!(
            "\"depends_on\" in {}: a cycle, {}",
            title(cycle[0]),
            cycle.join(" -> ").escape_debug()
        );
        doc.fault(at, text);
        nodes.retain(|(name, _)| !cycle.contains(name));
    }
}

/// A process as [`graph`] takes it.
pub fn graph_node(process: &Process) -> graph::Node<'_> {
    let needs = process.depends_on.iter().map(|d| d.name.as_str());
    (process.name.as_str(), needs.collect())
}
