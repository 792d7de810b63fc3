//! `get_status`, and the crash card of `why`: the snapshot in JSON and in words.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::schema::{Args, Field, Shape};
use super::text::{bounded, clip, doing, errors, tail, thousands, under_way};
use super::usage::{Group, Reading};
use super::{Tools, View};
use crate::base::clock::{Mono, human};
use crate::base::json::{list, object, or_null, seconds};
use crate::base::number;
use crate::config::Kind;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{
    BuildError, BuildView, EventView, ExitView, Snapshot, State, UnitView,
};
use crate::log::search::Line;
use crate::server::service::{Answer, Caller, Step};

/// Without a cursor an answer has this many of the newest events: enough to see what is going on.
const RECENT: usize = 5;

pub(super) const OUTPUT: &[Field] = {
    use Shape::{Always, Many, Maybe};
    &[
        Field("schema", Always("integer"), ""),
        Field("project", Always("string"), ""),
        Field(
            "daemon",
            Always("object"),
            "bpm itself: pid, version, uptime_seconds, rss_bytes, url, socket, clients, instance_id",
        ),
        Field("mode", Always("string"), "dev if any process is in dev"),
        Field(
            "release_in_seconds",
            Maybe,
            "until idle dev processes are built for release",
        ),
        Field(
            "processes",
            Many(&[
                Field("name", Always("string"), ""),
                Field("type", Always("string"), ""),
                Field(
                    "state",
                    Always("string"),
                    "stopped, waiting, building, starting, running, stopping, crashed, failed or done",
                ),
                Field("wanted", Always("boolean"), ""),
                Field("mode", Always("string"), ""),
                Field("pid", Maybe, "null: nothing runs"),
                Field("since", Always("string"), "of the state"),
                Field("uptime_seconds", Maybe, "of the run"),
                Field("ready", Maybe, "null: nothing runs"),
                Field("healthy", Maybe, "null: no health check"),
                Field("restarts", Always("integer"), ""),
                Field("crashes", Always("integer"), ""),
                Field(
                    "next_start_in_seconds",
                    Maybe,
                    "after a crash or a failed build",
                ),
                Field(
                    "stale",
                    Always("boolean"),
                    "what runs is older than the last build tried",
                ),
                Field(
                    "build",
                    Maybe,
                    "the newest: id, state, phase, mode, at, seconds, ok, errors",
                ),
                Field(
                    "exit",
                    Maybe,
                    "the last: code, signal, core, oom, asked, at, uptime_seconds",
                ),
                Field("ports", Always("array"), ""),
                Field(
                    "url",
                    Maybe,
                    "of its port, else of the lowest it listens on",
                ),
                Field("cpu_percent", Maybe, "of one core"),
                Field("cpu_seconds", Maybe, "so far"),
                Field("rss_bytes", Maybe, "memory"),
                Field("tasks", Maybe, "threads"),
                Field("last_output_seconds", Maybe, "ago"),
                Field("log_lines", Always("integer"), ""),
                Field("log_dropped", Always("integer"), ""),
                Field("log_trouble", Maybe, "why lines are not written to disk"),
                Field("depends_on", Always("array"), ""),
                Field(
                    "rolled_back",
                    Always("boolean"),
                    "the build before the newest runs",
                ),
                Field("reason", Maybe, "of its state"),
            ]),
            "",
        ),
        Field(
            "events",
            Always("array"),
            "{seq, time, process, kind, text}, oldest first",
        ),
        Field("next", Always("integer"), "pass it as events_since"),
    ]
};

/// What of the snapshot is asked for.
#[derive(Debug, PartialEq)]
struct Wish {
    process: Option<String>,
    since: Option<u64>,
}

/// The tool.
pub(super) fn get_status(tools: &Tools, _: &Caller, args: Args<'_>) -> Result<Step, String> {
    let wish = Wish {
        process: args.text("process").map(str::to_owned),
        since: args.count("events_since"),
    };
    Ok(with_usage(tools, move |view| Answer::Data {
        value: value(view, &wish),
        text: words(view, &wish),
    }))
}

/// The data alone: a resource, and the CLI's own method.
pub(super) fn data(
    tools: &Tools,
    process: Option<String>,
    since: Option<u64>,
    then: impl FnOnce(Value) -> Answer + Send + 'static,
) -> Step {
    let wish = Wish { process, since };
    with_usage(tools, move |view| then(value(view, &wish)))
}

/// At once where what the processes use was read within the last second, else on a worker.
pub(super) fn with_usage(
    tools: &Tools,
    answer: impl FnOnce(&View<'_>) -> Answer + Send + 'static,
) -> Step {
    let now = Mono::now();
    let snapshot = tools.handle.snapshot.now();
    if let Some(usage) = tools.usage.fresh(&snapshot, now) {
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

fn units<'a>(snapshot: &'a Snapshot, wish: &'a Wish) -> impl Iterator<Item = &'a Arc<UnitView>> {
    snapshot
        .units
        .iter()
        .filter(|unit| wish.process.as_ref().is_none_or(|name| unit.name == *name))
}

/// After the cursor; without one the newest few.
fn events<'a>(snapshot: &'a Snapshot, wish: &'a Wish) -> impl Iterator<Item = &'a Arc<EventView>> {
    let meant = |event: &&Arc<EventView>| wish.process.is_none() || event.process == wish.process;
    let skip = match wish.since.map(|after| cursor(snapshot, after)) {
        Some(after) => snapshot.events.partition_point(|event| event.seq <= after),
        None => {
            let all = snapshot.events.iter().filter(meant).count();
            let mut over = all.saturating_sub(RECENT);
            snapshot
                .events
                .iter()
                .position(|event| {
                    let old = over > 0;
                    over -= usize::from(old && meant(&event));
                    !old
                })
                .unwrap_or(snapshot.events.len())
        }
    };
    snapshot.events.iter().skip(skip).filter(meant)
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

fn value(view: &View<'_>, wish: &Wish) -> Value {
    let View {
        handle,
        snapshot,
        usage,
        now,
    } = *view;
    object([
        ("schema", 1.into()),
        ("project", snapshot.project.as_str().into()),
        ("daemon", daemon(handle, usage, now)),
        ("mode", snapshot.mode.as_str().into()),
        (
            "release_in_seconds",
            or_null(snapshot.release_at.map(|at| seconds(at.since(now)))),
        ),
        (
            "processes",
            list(units(snapshot, wish).map(|unit| process(unit, usage, now))),
        ),
        ("events", list(events(snapshot, wish).map(|e| event(e)))),
        ("next", newest(snapshot).into()),
    ])
}

fn daemon(handle: &Handle, usage: &Reading, now: Mono) -> Value {
    let id = &handle.identity;
    object([
        ("pid", id.pid.into()),
        ("version", super::VERSION.into()),
        ("uptime_seconds", seconds(now.since(id.started))),
        ("rss_bytes", or_null(usage.own_rss)),
        ("url", or_null(id.url.as_deref())),
        ("socket", or_null(id.socket.as_deref())),
        ("clients", handle.clients.load(Ordering::Relaxed).into()),
        ("instance_id", id.instance_id.as_str().into()),
    ])
}

fn process(unit: &UnitView, usage: &Reading, now: Mono) -> Value {
    let used = unit.facts.pid.and_then(|pid| usage.of(pid));
    let group = used.and_then(|used| used.group.as_ref());
    let log = unit.log.stats();
    object([
        ("name", unit.name.as_str().into()),
        ("type", unit.kind.as_str().into()),
        ("state", unit.facts.state.as_str().into()),
        ("wanted", unit.facts.wanted.into()),
        ("mode", unit.facts.mode.as_str().into()),
        ("pid", or_null(unit.facts.pid)),
        ("since", unit.since.rfc3339().into()),
        (
            "uptime_seconds",
            or_null(unit.facts.started.map(|at| seconds(now.since(at)))),
        ),
        ("ready", or_null(unit.facts.ready)),
        ("healthy", or_null(unit.facts.healthy)),
        ("restarts", unit.facts.restarts.into()),
        ("crashes", unit.facts.crashes.into()),
        (
            "next_start_in_seconds",
            or_null(unit.facts.next_start.map(|at| seconds(at.since(now)))),
        ),
        ("stale", unit.facts.stale.into()),
        ("build", or_null(unit.build.as_ref().map(|b| build(b, now)))),
        ("exit", or_null(unit.exits.back().map(exit))),
        (
            "ports",
            list(
                group
                    .map_or(&[][..], |g| &g.ports)
                    .iter()
                    .map(SocketAddr::port),
            ),
        ),
        ("url", or_null(url(unit, group))),
        ("cpu_percent", or_null(used.and_then(|u| u.cpu_percent))),
        ("cpu_seconds", or_null(group.map(|g| seconds(g.cpu)))),
        ("rss_bytes", or_null(group.map(|g| g.rss))),
        ("tasks", or_null(group.map(|g| g.tasks))),
        (
            "last_output_seconds",
            or_null(log.last_output.map(|at| seconds(now.since(at)))),
        ),
        ("log_lines", log.lines.into()),
        ("log_dropped", log.dropped.into()),
        ("log_trouble", or_null(unit.log_trouble())),
        (
            "depends_on",
            list(unit.depends_on.iter().map(String::as_str)),
        ),
        ("rolled_back", unit.facts.rolled_back.into()),
        ("reason", or_null(unit.facts.reason.as_deref())),
    ])
}

/// Where it can be reached, as far as it is known: the port it was told, else the lowest it listens on.
fn url(unit: &UnitView, group: Option<&Group>) -> Option<String> {
    let listens = group.map_or(&[][..], |group| &group.ports);
    let at = match unit.port {
        Some(port) => {
            let told = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            *listens.iter().find(|at| at.port() == port).unwrap_or(&told)
        }
        None => *listens.first()?,
    };
    Some(format!("http://{at}"))
}

pub(super) fn build(build: &BuildView, now: Mono) -> Value {
    object([
        ("id", build.id.into()),
        ("state", build.state.as_str().into()),
        ("phase", or_null(build.phase.as_deref())),
        ("mode", build.mode.as_str().into()),
        ("at", build.at.rfc3339().into()),
        ("seconds", or_null(build_time(build, now).map(seconds))),
        ("ok", or_null(build.ok)),
        ("errors", list(build.errors.list.iter().map(build_error))),
    ])
}

/// How long it took, or has been taking.
pub(super) fn build_time(build: &BuildView, now: Mono) -> Option<Duration> {
    build.took.or(build.began.map(|began| now.since(began)))
}

pub(super) fn build_error(error: &BuildError) -> Value {
    object([
        ("file", or_null(error.file.as_deref())),
        ("line", or_null(error.line)),
        ("column", or_null(error.column)),
        ("message", clip(&error.message, 500).as_ref().into()),
    ])
}

pub(super) fn exit(exit: &ExitView) -> Value {
    object([
        ("code", or_null(exit.code)),
        ("signal", or_null(exit.signal.as_deref())),
        ("core", exit.core.into()),
        ("oom", exit.oom.into()),
        ("asked", exit.asked.into()),
        ("at", exit.at.rfc3339().into()),
        ("uptime_seconds", seconds(exit.uptime)),
    ])
}

fn event(event: &EventView) -> Value {
    object([
        ("seq", event.seq.into()),
        ("time", event.at.rfc3339().into()),
        ("process", or_null(event.process.as_deref())),
        ("kind", event.kind.into()),
        ("text", event.text.as_str().into()),
    ])
}

/// The same for who reads texts: a line for each process, below it what is wrong with it.
fn words(view: &View<'_>, wish: &Wish) -> String {
    let View {
        handle,
        snapshot,
        usage,
        now,
    } = *view;
    let mut text = format!("{}: {} mode", snapshot.project, snapshot.mode.as_str());
    if let Some(at) = snapshot.release_at {
        let _ = write!(text, ", release builds in {}", human(at.since(now)));
    }
    let id = &handle.identity;
    let _ = write!(
        text,
        "; bpm {}, pid {}, up {}",
        super::VERSION,
        id.pid,
        human(now.since(id.started))
    );
    if let Some(url) = &id.url {
        let _ = write!(text, ", {url}");
    }
    text.push_str(if snapshot.stopping {
        ", stopping\n"
    } else {
        "\n"
    });
    for unit in units(snapshot, wish) {
        unit_line(&mut text, unit, usage, now);
        unit_trouble(&mut text, unit);
    }
    let mut first = true;
    for event in events(snapshot, wish) {
        if first {
            text.push_str("events:\n");
            first = false;
        }
        event_words(&mut text, event);
    }
    let next = format!("[next {}]", newest(snapshot));
    bounded(text, "ask for one process", &next)
}

fn event_words(text: &mut String, event: &EventView) {
    let _ = writeln!(
        text,
        "  {} {} {} {}: {}",
        event.seq,
        event.at.rfc3339(),
        event.process.as_deref().unwrap_or("bpm"),
        event.kind,
        clip(&event.text, 300),
    );
}

/// One line: what it does and what it uses.
fn unit_line(text: &mut String, unit: &UnitView, usage: &Reading, now: Mono) {
    let _ = write!(
        text,
        "{} ({}, {}): {}",
        unit.name,
        unit.kind.as_str(),
        unit.facts.mode.as_str(),
        doing(unit, now)
    );
    if let Some(at) = unit.facts.started {
        let _ = write!(text, "; up {}", human(now.since(at)));
    }
    if unit.facts.ready == Some(false) {
        text.push_str("; not ready");
    }
    if let Some(healthy) = unit.facts.healthy {
        text.push_str(if healthy { "; healthy" } else { "; unhealthy" });
    }
    let used = unit.facts.pid.and_then(|pid| usage.of(pid));
    let group = used.and_then(|used| used.group.as_ref());
    if let Some(url) = url(unit, group) {
        let _ = write!(text, "; {url}");
    }
    if let Some(group) = group {
        if !group.ports.is_empty() {
            let ports: Vec<String> = group.ports.iter().map(|at| at.port().to_string()).collect();
            let _ = write!(text, "; ports {}", ports.join(" "));
        }
        if let Some(percent) = used.and_then(|used| used.cpu_percent) {
            let percent = number::fixed(percent, 1);
            let _ = write!(text, "; cpu {} %", percent.trim_end_matches(".0"));
        }
        let _ = write!(text, "; {} MiB", group.rss / (1024 * 1024));
    }
    if unit.facts.restarts + unit.facts.crashes > 0 {
        let _ = write!(
            text,
            "; restarts {}, crashes {}",
            unit.facts.restarts, unit.facts.crashes
        );
    }
    if !unit.depends_on.is_empty() {
        let _ = write!(text, "; depends on {}", unit.depends_on.join(" "));
    }
    let log = unit.log.stats();
    let _ = write!(text, "; {} log lines", thousands(log.lines));
    if let Some(at) = log.last_output {
        let _ = write!(text, ", the last {} ago", human(now.since(at)));
    }
    text.push('\n');
}

/// Below it: what is wrong with it, and how it last ended.
fn unit_trouble(text: &mut String, unit: &UnitView) {
    if let Some(why) = unit.log_trouble() {
        let _ = writeln!(text, "  {why}; its new lines are in memory only");
    }
    if unit.facts.rolled_back {
        text.push_str("  rolled back: the build before the newest runs\n");
    }
    if let Some(build) = unit.build.as_ref().filter(|build| !under_way(build)) {
        let _ = write!(text, "  build {} {}", build.id, build.state.as_str());
        if let Some(took) = build.took {
            let _ = write!(text, " after {}", human(took));
        }
        text.push_str(match (build.ok, unit.facts.stale) {
            (Some(false), true) => "; what runs is older\n",
            _ => "\n",
        });
        for line in errors(build).lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    if let Some(exit) = unit.exits.back() {
        let _ = writeln!(
            text,
            "  last exit: {}{}, {}, after {}",
            exit.words(),
            if exit.asked { " (asked)" } else { "" },
            exit.at.rfc3339(),
            human(exit.uptime)
        );
    }
}

/// What is known of a process's last abnormal end.
pub(super) struct Card {
    /// The end, if there was one.
    pub(super) exit: Option<ExitView>,
    /// What happened to the process since its last good run began.
    changed: Vec<Arc<EventView>>,
    /// The last lines of its newest build, if that failed.
    build_tail: Vec<String>,
    /// What happens next, in words.
    outlook: String,
}

impl Card {
    /// Reads the build log's end: for a worker.
    pub(super) fn of(snapshot: &Snapshot, unit: &UnitView, now: Mono) -> Self {
        let mut latest = unit.exits.iter().rev();
        let exit = latest.find(|exit| exit.is_abnormal()).cloned();
        // A run that lived for a while was good; what happened since it ended may be the cause.
        let lived = |e: &&ExitView| e.uptime.as_secs() >= if e.is_abnormal() { 10 } else { 1 };
        let good = exit.as_ref().and_then(|bad| {
            let earlier = unit.exits.iter().rev().filter(|e| e.run < bad.run);
            earlier.into_iter().find(lived)
        });
        let from = good.map(|exit| exit.at);
        let changed = snapshot
            .events
            .iter()
            .filter(|event| event.process.as_ref() == Some(&unit.name))
            .filter(|event| exit.is_some() && from.is_none_or(|from| event.at >= from))
            .cloned()
            .collect::<Vec<_>>();
        let changed = changed[changed.len().saturating_sub(20)..].to_vec();
        let build_tail = match unit.build.as_ref().filter(|build| build.ok == Some(false)) {
            Some(build) => lines(unit.build_log.tail(build.id, 20)),
            None => Vec::new(),
        };
        Self {
            exit,
            changed,
            build_tail,
            outlook: outlook(unit, now),
        }
    }

    /// As data of the CLI's own method.
    pub(super) fn value(&self, unit: &UnitView, now: Mono) -> Value {
        let card = self.exit.as_ref().map(|last| {
            let mut value = exit(last);
            value["run"] = last.run.into();
            value["words"] = last.words().into();
            value["cpu_seconds"] = seconds(last.cpu);
            value["peak_rss_bytes"] = last.peak_rss.into();
            value
        });
        let tail = self.exit.as_ref().map_or(&[][..], |exit| &exit.tail);
        object([
            ("process", unit.name.as_str().into()),
            ("type", unit.kind.as_str().into()),
            ("state", unit.facts.state.as_str().into()),
            ("reason", or_null(unit.facts.reason.as_deref())),
            ("restarts", unit.facts.restarts.into()),
            ("crashes", unit.facts.crashes.into()),
            ("stale", unit.facts.stale.into()),
            ("rolled_back", unit.facts.rolled_back.into()),
            ("build", or_null(unit.build.as_ref().map(|b| build(b, now)))),
            (
                "build_tail",
                list(self.build_tail.iter().map(String::as_str)),
            ),
            ("exit", or_null(card)),
            ("tail", list(tail.iter().map(String::as_str))),
            ("changed", list(self.changed.iter().map(|e| event(e)))),
            (
                "next_start_in_seconds",
                or_null(unit.facts.next_start.map(|at| seconds(at.since(now)))),
            ),
            ("next", self.outlook.as_str().into()),
            ("text", self.words(unit, now).into()),
        ])
    }

    /// For a person, or a model.
    pub(super) fn words(&self, unit: &UnitView, now: Mono) -> String {
        let mut text = format!("{}: {}\n", unit.name, doing(unit, now));
        match &self.exit {
            None => text.push_str("it has not ended by itself\n"),
            Some(exit) => {
                let fault = exit.fault.as_ref();
                let fault = fault.map_or(String::new(), |why| format!(" (ended by bpm: {why})"));
                let _ = writeln!(
                    text,
                    "last abnormal end: {}{}, run {}, at {}, after {} (CPU {}, peak memory {} MiB); {} such ends so far",
                    exit.words(),
                    fault,
                    exit.run,
                    exit.at.rfc3339(),
                    human(exit.uptime),
                    human(exit.cpu),
                    exit.peak_rss / (1024 * 1024),
                    thousands(unit.facts.crashes)
                );
                if !exit.tail.is_empty() {
                    text.push_str("its last lines:\n");
                    text.push_str(&tail(&exit.tail, 5_000));
                }
            }
        }
        if let Some(build) = unit.build.as_ref().filter(|build| build.ok == Some(false)) {
            let _ = writeln!(text, "build {} failed:", build.id);
            text.push_str(&errors(build));
            if !self.build_tail.is_empty() {
                text.push_str("its last lines:\n");
                text.push_str(&tail(&self.build_tail, 2_000));
            }
        }
        if !self.changed.is_empty() {
            text.push_str("what happened since the last good run:\n");
            for event in &self.changed {
                event_words(&mut text, event);
            }
        }
        let _ = writeln!(text, "what happens next: {}", self.outlook);
        text
    }
}

/// Texts of lines.
pub(super) fn lines(lines: Vec<Line>) -> Vec<String> {
    lines.into_iter().map(|line| line.text).collect()
}

/// What happens next if nobody does anything.
fn outlook(unit: &UnitView, now: Mono) -> String {
    if let Some(at) = unit.facts.next_start {
        let what = match unit.facts.state {
            State::Failed => "it is built again",
            State::Stopped
            | State::Waiting
            | State::Building
            | State::Starting
            | State::Running
            | State::Stopping
            | State::Crashed
            | State::Done => "it is started again",
        };
        return format!("{what} in {}", human(at.since(now)));
    }
    match unit.facts.state {
        State::Stopped => "nothing, until somebody starts it".into(),
        State::Failed if unit.kind == Kind::Task => {
            "nothing, until somebody starts it again".into()
        }
        State::Failed => "nothing: bpm gave up; restart it once the cause is mended".into(),
        State::Done => "nothing: it ended well and is not to be restarted".into(),
        State::Waiting => "it is started once what it depends on is there".into(),
        State::Building => "it is started once its build is done".into(),
        State::Starting => "it is to become ready".into(),
        State::Running if unit.facts.rolled_back => {
            "the build before goes on; restart it once the cause is mended".into()
        }
        State::Running => "it runs".into(),
        State::Stopping => "it ends".into(),
        State::Crashed => "it is started again".into(),
    }
}
