//! `get_status`: the snapshot as data and in words, whole or short.

mod words;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::text::{LIMIT, clip, shown};
use super::usage::{Group, Reading};
use super::{Call, Tools, VERSION, build, why};
use crate::base::clock::Mono;
use crate::base::json::{entries, list, object, object_of, or_null, put_fields, seconds};
use crate::base::table::Table;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{EventView, ExitView, Snapshot, State, UnitView};
use crate::server::service::{Answer, Step};

/// Without a cursor an answer has the newest few events, with one the next few.
const RECENT: usize = 5;
const NEXT_EVENTS: usize = 50;
/// Characters of an event's text, and in a short answer.
const EVENT: usize = 300;
const SHORT_EVENT: usize = 160;
/// Characters of a crash's last line in a short answer.
const LAST_LINE: usize = 120;
/// Of a failed build in a short answer.
const SHORT_ERRORS: usize = 3;
/// Fields of the daemon that a short answer has.
const DAEMON: [&str; 4] = ["pid", "version", "uptime_seconds", "previous_end"];

/// The part of the snapshot that is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    pub(super) process: Option<String>,
    pub(super) since: Option<u64>,
    /// Every field of everything.
    pub(super) verbose: bool,
}

/// One reading of the snapshot and of the usage.
pub(super) struct View<'a> {
    pub(super) handle: &'a Handle,
    pub(super) snapshot: &'a Snapshot,
    pub(super) usage: &'a Reading,
    pub(super) now: Mono,
}

/// The tool.
pub(super) fn get_status(call: &Call<'_>) -> Result<Step, String> {
    let wish = Wish {
        process: call.args.process().map(str::to_owned),
        since: call.args.count("events_since"),
        verbose: call.args.flag("verbose").unwrap_or(false),
    };
    let reader = call.reader();
    Ok(with_usage(call.tools, move |view| {
        let part = Part::of(view.snapshot, &wish);
        let text = words::words(view, &wish, &part, reader);
        match wish.verbose {
            true => Answer::data(&whole(view, &wish, &part), text),
            false => Answer::Data {
                json: short(view, &wish, &part),
                text,
            },
        }
    }))
}

/// All of the data: a resource, and the CLI's own method.
pub(super) fn data(
    tools: &Tools,
    wish: Wish,
    then: impl FnOnce(Value) -> Answer + Send + 'static,
) -> Step {
    with_usage(tools, move |view| {
        then(whole(view, &wish, &Part::of(view.snapshot, &wish)))
    })
}

/// At once where what the processes use was read within the last second or is read in no time, else on a worker.
pub(super) fn with_usage(
    tools: &Tools,
    answer: impl FnOnce(&View<'_>) -> Answer + Send + 'static,
) -> Step {
    let now = Mono::now();
    let snapshot = tools.handle.snapshot.now();
    if let Some(usage) = tools.usage.at_once(&snapshot, now) {
        return Step::Done(answer(&View {
            handle: &tools.handle,
            snapshot: &snapshot,
            usage: &usage,
            now,
        }));
    }
    let (handle, usage) = (Arc::clone(&tools.handle), Arc::clone(&tools.usage));
    Step::Work(Box::new(move || {
        let snapshot = handle.snapshot.now();
        let usage = usage.read(&snapshot);
        answer(&View {
            handle: &handle,
            snapshot: &snapshot,
            usage: &usage,
            now: Mono::now(),
        })
    }))
}

/// The events and the processes of a snapshot that are asked for.
struct Part<'a> {
    events: Vec<&'a EventView>,
    /// The cursor behind the events.
    next: u64,
    /// How many events behind the cursor are known no more.
    missed: u64,
    units: Vec<&'a UnitView>,
}

impl<'a> Part<'a> {
    fn of(snapshot: &'a Snapshot, wish: &Wish) -> Self {
        let (events, next) = events(snapshot, wish);
        Self {
            events,
            next,
            missed: missed(snapshot, wish),
            units: units(snapshot, wish),
        }
    }
}

/// The processes asked for; those with something wrong come first, unless all is asked for.
fn units<'a>(snapshot: &'a Snapshot, wish: &Wish) -> Vec<&'a UnitView> {
    let meant = |unit: &&UnitView| wish.process.as_ref().is_none_or(|name| unit.name == *name);
    let units = snapshot.units.iter().map(Arc::as_ref).filter(meant);
    match wish.verbose {
        true => units.collect(),
        false => {
            let of = |wanted| units.clone().filter(move |unit| rank(unit) == wanted);
            (0..=2).flat_map(of).collect()
        }
    }
}

/// 0: something is wrong, 1: something is under way, 2: all is as it should be.
fn rank(unit: &UnitView) -> u8 {
    let facts = &unit.facts;
    let failed_build = unit.build.as_ref().is_some_and(|b| b.ok == Some(false));
    let wrong = matches!(facts.state, State::Crashed | State::Failed)
        || facts.healthy == Some(false)
        || facts.state == State::Running && facts.ready == Some(false)
        || facts.rolled_back
        || facts.hopeless
        || failed_build && facts.wanted
        || !unit.warnings.is_empty()
        || unit.log_trouble().is_some();
    match facts.state {
        _ if wrong => 0,
        State::Waiting | State::Building | State::Starting | State::Stopping => 1,
        State::Running if unit.build.as_ref().is_some_and(|b| b.state.is_under_way()) => 1,
        _ => 2,
    }
}

/// The events asked for, and the cursor behind them.
fn events<'a>(snapshot: &'a Snapshot, wish: &Wish) -> (Vec<&'a EventView>, u64) {
    let meant = |event: &&EventView| wish.process.is_none() || event.process == wish.process;
    let events = snapshot.events.iter().map(Arc::as_ref);
    let Some(after) = wish.since.map(|after| cursor(snapshot, after)) else {
        let mut found: Vec<_> = events.rev().filter(meant).take(RECENT).collect();
        found.reverse();
        return (found, newest(snapshot));
    };
    let skip = snapshot.events.partition_point(|event| event.seq <= after);
    let mut rest = events.skip(skip).filter(meant);
    let most = if wish.verbose {
        usize::MAX
    } else {
        NEXT_EVENTS
    };
    let found: Vec<_> = rest.by_ref().take(most).collect();
    let next = match (rest.next(), found.last()) {
        (Some(_), Some(last)) => last.seq,
        _ => newest(snapshot),
    };
    (found, next)
}

/// How many events behind a cursor are known no more: those of an earlier bpm, and those that gave way.
fn missed(snapshot: &Snapshot, wish: &Wish) -> u64 {
    let Some(after) = wish.since.map(|after| cursor(snapshot, after)) else {
        return 0;
    };
    let first = snapshot.events.front();
    let first = first.map_or(snapshot.before + 1, |event| event.seq);
    let ours = (first - 1).saturating_sub(after.max(snapshot.before));
    // After a kill numbers go on behind those that were reserved: how many were used is not known.
    let earlier = match after < snapshot.before {
        true => snapshot.before_used.saturating_sub(after).max(1),
        false => 0,
    };
    ours + earlier
}

/// The cursor behind the newest event.
pub(super) fn newest(snapshot: &Snapshot) -> u64 {
    snapshot
        .events
        .back()
        .map_or(snapshot.before, |event| event.seq)
}

/// Numbers go on over bpms. To a cursor from before they were lost (a damaged
/// `state.json`) all events are news.
pub(super) fn cursor(snapshot: &Snapshot, after: u64) -> u64 {
    if after > newest(snapshot) { 0 } else { after }
}

type Field = (&'static str, Value);

/// The fields before `next`, and those behind `processes`. Fields stand in the order of their names.
fn around(view: &View<'_>, wish: &Wish, part: &Part<'_>) -> ([Field; 6], [Field; 6]) {
    let View {
        handle,
        snapshot,
        usage,
        now,
    } = *view;
    let most = if wish.verbose { EVENT } else { SHORT_EVENT };
    let events = part.events.iter().map(|event| clipped_event(event, most));
    let release = snapshot.release_at.map(|at| seconds(at.since(now)));
    let alone = part.units.first().filter(|_| wish.process.is_some());
    let tail = alone
        .filter(|_| !wish.verbose)
        .map(|unit| why::last_lines(unit));
    let warnings = snapshot.warnings.iter().map(String::as_str);
    (
        [
            ("config_changed", usage.file.is_one().into()),
            ("config_error", or_null(usage.file.error())),
            ("daemon", daemon(handle, usage, now, wish.verbose)),
            ("events", list(events)),
            ("events_missed", part.missed.into()),
            ("mode", snapshot.mode.as_str().into()),
        ],
        [
            ("project", snapshot.project.as_str().into()),
            ("release_in_seconds", or_null(release)),
            ("schema", 1.into()),
            ("stopping", snapshot.stopping.into()),
            ("tail", list(tail.unwrap_or_default())),
            ("warnings", list(warnings)),
        ],
    )
}

/// Every field of everything.
fn whole(view: &View<'_>, wish: &Wish, part: &Part<'_>) -> Value {
    let (before, behind) = around(view, wish, part);
    let units = part.units.iter();
    let processes = units.map(|unit| object(process(unit, view.usage, view.now)));
    let own = [("next", part.next.into()), ("processes", list(processes))];
    let mut fields: Vec<Field> = before.into_iter().chain(own).chain(behind).collect();
    object_of(&mut fields, &|key, value| match key {
        "config_error" | "stopping" | "tail" => !is_nothing(value),
        _ => true,
    })
}

/// Without what is as expected: as many processes as there is room for.
fn short(view: &View<'_>, wish: &Wish, part: &Part<'_>) -> Vec<u8> {
    let (before, behind) = around(view, wish, part);
    let keep = |key: &str, value: &Value| key == "events" || !is_nothing(value);
    let (mut out, mut end) = (b"{".to_vec(), Vec::new());
    put_fields(&mut out, &before, &keep);
    put_fields(&mut end, &behind, &keep);
    end.push(b'}');
    let mut room = LIMIT.saturating_sub(out.len() + end.len() + 100);
    let mut shown = Vec::new();
    for unit in &part.units {
        let mut text = b"{".to_vec();
        match wish.process.is_some() {
            true => put_alone(&mut text, unit, view),
            false => put_short(&mut text, unit, view),
        }
        text.push(b'}');
        if text.len() >= room {
            break;
        }
        room -= text.len() + 1;
        shown.push(text);
    }
    let left = by_state(
        part.units[shown.len()..]
            .iter()
            .map(|unit| unit.facts.state),
    );
    let mut left = left.into_iter().map(|(state, n)| (state.into(), n.into()));
    let left = (left.len() > 0).then(|| entries(&mut left));
    put_fields(&mut out, &[("next", part.next.into())], &|_, _| true);
    put_fields(&mut out, &[("not_shown", or_null(left))], &keep);
    out.extend_from_slice(b",\"processes\":[");
    out.extend_from_slice(&shown.join(&b','));
    out.push(b']');
    out.extend_from_slice(&end);
    out
}

/// The last line of a crash: more often than not the cause.
fn crash_line(unit: &UnitView) -> Option<&str> {
    let exit = unit.exits.back().filter(|exit| exit.crash)?;
    let said = exit
        .tail
        .iter()
        .rev()
        .find(|line| !line.trim().is_empty())?;
    Some(said.trim())
}

/// How many are in each state.
fn by_state(states: impl Iterator<Item = State>) -> Vec<(&'static str, usize)> {
    let mut counts: Table<&'static str, usize> = Table::default();
    for state in states {
        *counts.or_default(state.as_str()) += 1;
    }
    counts.iter().map(|(state, n)| (*state, *n)).collect()
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) | Value::String(_) | Value::Object(_) => false,
    }
}

/// Takes out the fields that `drop` names.
fn prune(value: &mut Value, drop: &dyn Fn(&str, &Value) -> bool) {
    if let Value::Object(fields) = value {
        fields.retain(|key, value| !drop(key, value));
    }
}

/// A process by itself: all that is known.
fn put_alone(out: &mut Vec<u8>, unit: &UnitView, view: &View<'_>) {
    // Without a daemon nothing is counted.
    let nobody = view.handle.identity.is_nobody();
    let uncounted = |key: &str, value: &Value| nobody && (key == "since" || is_nothing(value));
    let keep = |key: &str, value: &Value| !value.is_null() && !uncounted(key, value);
    put_fields(out, &process(unit, view.usage, view.now), &keep);
}

/// A process without what is as expected.
fn put_short(out: &mut Vec<u8>, unit: &UnitView, view: &View<'_>) {
    let facts = &unit.facts;
    let keep = |key: &str, value: &Value| match key {
        "type"
        | "since"
        | "tasks"
        | "cpu_percent"
        | "cpu_seconds"
        | "rss_bytes"
        | "log_lines"
        | "last_output_seconds"
        | "depends_on"
        | "restarts" => false,
        // Nothing runs of what nobody wants.
        "wanted" => false,
        "ready" | "healthy" => facts.wanted && *value == false,
        "mode" => facts.wanted && *value != view.snapshot.mode.as_str(),
        "build" => unit
            .build
            .as_ref()
            .is_some_and(|build| build.state.is_under_way() || build.ok == Some(false)),
        "exit" => {
            let exit = unit.exits.back().filter(|_| facts.state != State::Done);
            exit.is_some_and(|exit| !exit.asked || exit.fault.is_some())
        }
        // Another program answers there now.
        "url" => facts.pid.is_some() && !value.is_null(),
        _ => !is_nothing(value),
    };
    let mut fields = process(unit, view.usage, view.now);
    for (key, value) in &mut fields {
        match *key {
            "exit" => shorten_exit(value, unit),
            "build" => shorten_build(value),
            _ => {}
        }
    }
    put_fields(out, &fields, &keep);
}

fn shorten_exit(exit: &mut Value, unit: &UnitView) {
    prune(exit, &|key, value| {
        value.is_null() || key != "code" && is_nothing(value)
    });
    if let (Some(line), Value::Object(exit)) = (crash_line(unit), exit) {
        exit.insert("last_line".into(), clip(line, LAST_LINE).as_ref().into());
    }
}

fn shorten_build(build: &mut Value) {
    if let Some(errors) = build.get_mut("errors").and_then(Value::as_array_mut) {
        errors.truncate(SHORT_ERRORS);
        for error in errors {
            let message = error["message"].as_str().unwrap_or_default();
            error["message"] = clip(message, 200).as_ref().into();
        }
    }
    prune(build, &|_, value| {
        value.is_null() || is_nothing(value) && value.is_array()
    });
}

fn daemon(handle: &Handle, usage: &Reading, now: Mono, verbose: bool) -> Value {
    let id = &handle.identity;
    if id.is_nobody() {
        return Value::Null;
    }
    let clients = handle.clients.load(Ordering::Relaxed);
    object_of(
        &mut [
            ("pid", id.pid.into()),
            ("version", VERSION.into()),
            ("uptime_seconds", seconds(now.since(id.started))),
            ("rss_bytes", or_null(usage.own_rss)),
            ("url", or_null(id.url.as_deref())),
            ("socket", or_null(id.socket.as_deref())),
            ("clients", clients.into()),
            ("instance_id", id.instance_id.as_str().into()),
            ("started_by", or_null(id.started_by.as_deref())),
            ("previous_end", or_null(id.previous_end.as_deref())),
        ],
        &|key, value| verbose || DAEMON.contains(&key) && !value.is_null(),
    )
}

/// All fields of a process.
fn process(unit: &UnitView, usage: &Reading, now: Mono) -> [Field; 32] {
    let facts = &unit.facts;
    let used = facts.pid.and_then(|pid| usage.of(pid));
    let group = used.and_then(|used| used.group.as_ref());
    let ports = group.map_or(&[][..], |g| &g.ports);
    // On all addresses: other machines may reach them.
    let open = ports.iter().filter(|at| at.ip().is_unspecified());
    let log = unit.log.stats();
    [
        ("adopted", unit.adopted.into()),
        (
            "build",
            or_null(unit.build.as_ref().map(|b| build::value(b, now))),
        ),
        ("cpu_percent", or_null(used.and_then(|u| u.cpu_percent))),
        ("cpu_seconds", or_null(group.map(|g| seconds(g.cpu)))),
        ("crashes", facts.crashes.into()),
        (
            "depends_on",
            list(unit.depends_on.iter().map(String::as_str)),
        ),
        ("exit", or_null(unit.exits.back().map(exit))),
        ("healthy", or_null(facts.healthy)),
        (
            "last_output_seconds",
            or_null(log.last_output.map(|at| seconds(now.since(at)))),
        ),
        ("log_dropped", log.dropped.into()),
        ("log_lines", log.lines.into()),
        ("log_trouble", or_null(unit.log_trouble())),
        ("mode", facts.mode.as_str().into()),
        ("name", unit.name.as_str().into()),
        (
            "next_start_in_seconds",
            or_null(facts.next_start.map(|at| seconds(at.since(now)))),
        ),
        ("open_ports", list(open.map(SocketAddr::port))),
        ("pid", or_null(facts.pid)),
        ("ports", list(ports.iter().map(SocketAddr::port))),
        ("ready", or_null(facts.ready)),
        ("reason", or_null(facts.reason.as_deref())),
        ("restarts", facts.restarts.into()),
        ("rolled_back", facts.rolled_back.into()),
        ("rss_bytes", or_null(group.map(|g| g.rss))),
        ("since", unit.since.rfc3339().into()),
        ("stale", facts.stale.into()),
        ("state", facts.state.as_str().into()),
        ("tasks", or_null(group.map(|g| g.tasks))),
        ("type", unit.kind.as_str().into()),
        (
            "uptime_seconds",
            or_null(facts.started.map(|at| seconds(now.since(at)))),
        ),
        ("url", or_null(url(unit, usage))),
        ("wanted", facts.wanted.into()),
        ("warnings", list(unit.warnings.iter().map(String::as_str))),
    ]
}

/// Where it can be reached, as far as it is known: the port it was told, else the lowest it listens on.
pub(super) fn url(unit: &UnitView, usage: &Reading) -> Option<String> {
    let used = unit.facts.pid.and_then(|pid| usage.of(pid));
    let group = used.and_then(|used| used.group.as_ref());
    let listens = group.map_or(&[][..], |group: &Group| &group.ports);
    let mut at = match unit.port {
        Some(port) => {
            let told = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            *listens.iter().find(|at| at.port() == port).unwrap_or(&told)
        }
        None => *listens.first()?,
    };
    // An IPv6 socket accepts IPv4 too, unless IPV6_V6ONLY is set.
    if at.ip().is_unspecified() {
        at.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Some(format!("http://{at}"))
}

pub(super) fn exit(exit: &ExitView) -> Value {
    object([
        ("code", or_null(exit.code)),
        ("signal", or_null(exit.signal.as_deref())),
        ("core", exit.core.into()),
        ("oom", exit.oom.into()),
        ("asked", exit.asked.into()),
        ("ended_by_bpm", or_null(exit.fault.as_deref())),
        ("at", exit.at.rfc3339().into()),
        ("uptime_seconds", seconds(exit.uptime)),
    ])
}

pub(super) fn event(event: &EventView) -> Value {
    clipped_event(event, EVENT)
}

fn clipped_event(event: &EventView, most: usize) -> Value {
    object([
        ("seq", event.seq.into()),
        ("time", event.at.rfc3339().into()),
        ("process", or_null(event.process.as_deref())),
        ("kind", event.kind.as_ref().into()),
        ("text", clip(&event.text, most).as_ref().into()),
    ])
}

/// `2026-11-21T02:46:50.123Z state: running (pid 4711)`.
pub(super) fn event_words(event: &EventView) -> String {
    let at = event.at.rfc3339();
    format!("{at} {}: {}", event.kind, shown(&event.text, EVENT))
}
