//! `start`, `stop`, `restart`, `reload`: orders to the supervisor, and their answers.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Tools;
use super::schema::{Args, Field, Shape};
use super::status::{build_error, build_time};
use super::text::{LIMIT, bounded, clip, doing, errors, tail, under_way};
use crate::base::clock::{Mono, human};
use crate::base::error::listed;
use crate::base::json::{list, object, or_null, seconds};
use crate::base::number;
use crate::config::Mode;
use crate::engine::handle::{Done, Handle, Reloaded, Reply, ReplySlot, Request, STOPPING};
use crate::engine::snapshot::{BuildView, Snapshot, State, UnitView};
use crate::lifecycle::Order;
use crate::os::poll::Waker;
use crate::server::rpc;
use crate::server::service::{Answer, Caller, ClientKind, Step, Task};

/// Below the 60 s after which clients give up.
const PATIENCE: Duration = Duration::from_secs(50);
/// Until the engine has begun, the snapshot says what was before the order: who has no patience waits for
/// that, but not for an engine that hangs.
const BEGINNING: Duration = Duration::from_secs(1);

pub(super) const OUTPUT: &[Field] = {
    use Shape::{Always, Maybe, Sometimes};
    &[
        Field("ok", Always("boolean"), ""),
        Field("process", Maybe, "its name"),
        Field("mode", Maybe, "dev or release"),
        Field("pid", Maybe, "that serves now"),
        Field("previous_pid", Maybe, "that served before"),
        Field(
            "build",
            Maybe,
            "{id, ok, seconds, errors}; null: nothing was built",
        ),
        Field("ready", Maybe, "its readiness"),
        Field("gap_seconds", Maybe, "how long nothing served"),
        Field("timed_out", Maybe, "it goes on: use wait"),
        Field("release_in_seconds", Maybe, "when idle"),
        Field("results", Sometimes, "of \"*\": the same for each process"),
    ]
};

pub(super) const STOP_OUTPUT: &[Field] = {
    use Shape::{Always, Maybe, Sometimes};
    &[
        Field("ok", Always("boolean"), ""),
        Field("process", Maybe, "its name"),
        Field("signalled", Maybe, "a signal was sent"),
        Field("killed", Maybe, "how many needed KILL"),
        Field("leftovers", Maybe, "{pid, command} of what survived"),
        Field("seconds", Maybe, "it took"),
        Field("results", Sometimes, "of \"*\": the same for each process"),
    ]
};

pub(super) const RELOAD_OUTPUT: &[Field] = {
    use Shape::Always;
    &[
        Field("changed", Always("array"), "swapped"),
        Field("added", Always("array"), "started"),
        Field("removed", Always("array"), "stopped"),
        Field("unchanged", Always("array"), "not touched"),
        Field(
            "errors",
            Always("array"),
            "with errors in .mcp-run nothing is done",
        ),
    ]
};

/// The tool `restart`.
pub(super) fn restart(tools: &Tools, caller: &Caller, args: Args<'_>) -> Result<Step, String> {
    let names = wanted(tools, args);
    let mode = match args.text("mode") {
        Some("release") => Mode::Release,
        _ => Mode::Dev,
    };
    let build = args.flag("build").unwrap_or(true);
    let ask = Request::Order {
        order: Order::Restart { mode, build },
        names: names.clone(),
    };
    Ok(order(tools, caller, args, Verb::Restart, names, ask))
}

/// The tool `start`.
pub(super) fn start(tools: &Tools, caller: &Caller, args: Args<'_>) -> Result<Step, String> {
    let names = names(tools, args);
    let ask = Request::Order {
        order: Order::Start,
        names: names.clone(),
    };
    Ok(order(tools, caller, args, Verb::Start, names, ask))
}

/// The tool `stop`.
pub(super) fn stop(tools: &Tools, caller: &Caller, args: Args<'_>) -> Result<Step, String> {
    let names = names(tools, args);
    let ask = Request::Order {
        order: Order::Stop,
        names: names.clone(),
    };
    Ok(order(tools, caller, args, Verb::Stop, names, ask))
}

/// The tool `reload`.
pub(super) fn reload(tools: &Tools, caller: &Caller, args: Args<'_>) -> Result<Step, String> {
    Ok(reloading(
        tools,
        caller,
        args.flag("dry_run").unwrap_or(false),
        PATIENCE,
    ))
}

/// The same for who can wait longer.
pub(super) fn reloading(tools: &Tools, caller: &Caller, dry_run: bool, patience: Duration) -> Step {
    Step::Wait(Box::new(Pending::new(
        tools,
        caller,
        Verb::Reload,
        Vec::new(),
        Request::Reload { dry_run },
        patience,
    )))
}

fn names(tools: &Tools, args: Args<'_>) -> Vec<String> {
    match args.text("process") {
        Some("*") | None => tools.handle.snapshot.now().names(),
        Some(name) => vec![name.to_owned()],
    }
}

/// Of `"*"` those that are to be up: what somebody stopped stays stopped.
fn wanted(tools: &Tools, args: Args<'_>) -> Vec<String> {
    let mut names = names(tools, args);
    if args.text("process") == Some("*") {
        let snapshot = tools.handle.snapshot.now();
        names.retain(|name| snapshot.unit(name).is_some_and(|unit| unit.facts.wanted));
    }
    names
}

fn order(
    tools: &Tools,
    caller: &Caller,
    args: Args<'_>,
    verb: Verb,
    names: Vec<String>,
    ask: Request,
) -> Step {
    let patience = args.span("timeout_seconds").unwrap_or(PATIENCE);
    let mut order = Pending::new(tools, caller, verb, names, ask, patience);
    order.all = args.text("process") == Some("*");
    Step::Wait(Box::new(order))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
}

impl Verb {
    fn done(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Restart => "restarted",
            Self::Reload => "reloaded",
        }
    }
}

/// An order that was given, and who waits for its end. It goes on if they leave.
struct Pending {
    handle: Arc<Handle>,
    verb: Verb,
    /// It was `"*"`.
    all: bool,
    /// It came by a proxy, which asks the next bpm what this one refuses.
    retried: bool,
    names: Vec<String>,
    before: Arc<Snapshot>,
    ask: Option<Request>,
    slot: Option<ReplySlot>,
    patience: Duration,
    asked: Mono,
}

impl Task for Pending {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.slot = self.ask.take().map(|ask| self.handle.ask(ask, Some(waker)));
    }

    fn poll(&mut self, now: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        match self.slot.as_ref().and_then(ReplySlot::take) {
            Some(Reply::Units(done)) => Some(self.answer(&done)),
            Some(Reply::Reload(done)) => Some(reloaded(&done)),
            Some(Reply::Refused(why)) => Some(self.refused(why)),
            None if self.handle.is_over() => Some(self.refused(STOPPING.into())),
            None => (now >= self.due()).then(|| self.timed_out(now)),
        }
    }

    fn deadline(&self) -> Option<Mono> {
        Some(self.due())
    }

    fn progress(&mut self, now: Mono) -> Option<String> {
        let snapshot = self.handle.snapshot.now();
        let lines: Vec<String> = self
            .names
            .iter()
            .filter_map(|name| snapshot.unit(name))
            .take(5)
            .map(|unit| format!("{}: {}", unit.name, doing(unit, now)))
            .collect();
        Some(if lines.is_empty() {
            "under way".into()
        } else {
            lines.join("\n")
        })
    }
}

impl Pending {
    fn new(
        tools: &Tools,
        caller: &Caller,
        verb: Verb,
        names: Vec<String>,
        ask: Request,
        patience: Duration,
    ) -> Self {
        Self {
            handle: Arc::clone(&tools.handle),
            verb,
            all: false,
            retried: caller.kind == ClientKind::Proxy,
            names,
            before: tools.handle.snapshot.now(),
            ask: Some(ask),
            slot: None,
            patience,
            asked: Mono::now(),
        }
    }

    fn due(&self) -> Mono {
        let begun = self.slot.as_ref().is_some_and(ReplySlot::has_begun);
        let least = if begun { Duration::ZERO } else { BEGINNING };
        self.asked.after(self.patience.max(least))
    }

    fn refused(&self, why: String) -> Answer {
        if !self.retried {
            return Answer::Fail(why);
        }
        Answer::Error {
            code: rpc::STOPPING,
            message: why,
            data: None,
        }
    }

    fn answer(&self, done: &[Done]) -> Answer {
        if self.verb == Verb::Stop {
            let texts = done.iter().map(stop_words).collect();
            return self.data(done.iter().map(stop_value).collect(), texts);
        }
        let failed = done.iter().filter(|d| !d.ok).count();
        if failed == 0 {
            let texts = done.iter().map(|d| good_words(d, self.verb)).collect();
            return self.data(done.iter().map(value).collect(), texts);
        }
        let room = (LIMIT - 500) / failed;
        let (snapshot, now) = (self.handle.snapshot.now(), Mono::now());
        let mut text = String::new();
        for bad in done.iter().filter(|d| !d.ok) {
            let again = snapshot
                .unit(&bad.name)
                .and_then(|unit| unit.facts.next_start);
            let again = again.map(|at| at.since(now));
            text.push_str(&bad_words(bad, self.verb, again, room));
            text.push('\n');
        }
        for good in done.iter().filter(|d| d.ok) {
            text.push_str(&good_words(good, self.verb));
            text.push('\n');
        }
        Answer::Fail(bounded(text.trim_end().into(), "see get_status", ""))
    }

    /// One process's data, or of `"*"` the list.
    fn data(&self, values: Vec<Value>, texts: Vec<String>) -> Answer {
        let text = match texts.is_empty() {
            true => "nothing to do".into(),
            false => bounded(texts.join("\n"), "see get_status", ""),
        };
        let mut values = values;
        if !self.all && values.len() == 1 {
            let value = values.remove(0);
            return Answer::Data { value, text };
        }
        let ok = values.iter().all(|v| v["ok"] == Value::Bool(true));
        Answer::Data {
            value: object([("ok", ok.into()), ("results", list(values))]),
            text,
        }
    }

    /// The order goes on: what the snapshot says of it.
    fn timed_out(&self, now: Mono) -> Answer {
        let snapshot = self.handle.snapshot.now();
        if self.verb == Verb::Reload {
            return Answer::Fail(format!(
                "the reload is not done within {}, it goes on: see get_status for what is being swapped",
                human(self.patience)
            ));
        }
        let mut values = Vec::new();
        let mut texts = Vec::new();
        for name in &self.names {
            let Some(unit) = snapshot.unit(name) else {
                continue;
            };
            let before = self.before.unit(name).map(Arc::as_ref);
            if let Some(done) = self.done_meanwhile(unit, before, &snapshot, now) {
                let stop = self.verb == Verb::Stop;
                values.push(if stop {
                    stop_value(&done)
                } else {
                    value(&done)
                });
                texts.push(match stop {
                    true => stop_words(&done),
                    false => good_words(&done, self.verb),
                });
                continue;
            }
            let before = before.and_then(|unit| unit.facts.pid);
            values.push(if self.verb == Verb::Stop {
                late_stop_value(unit, self.patience)
            } else {
                late_value(unit, before, &snapshot, now)
            });
            texts.push(self.late_words(unit, before, now));
        }
        if values.is_empty() && !self.all {
            return Answer::Fail("the process is gone: it was removed from .mcp-run".into());
        }
        self.data(values, texts)
    }

    /// Of several, some are where they should be while others take longer.
    fn done_meanwhile(
        &self,
        unit: &UnitView,
        before: Option<&UnitView>,
        snapshot: &Snapshot,
        now: Mono,
    ) -> Option<Done> {
        let up = unit.is_ready();
        let run = |unit: &UnitView| (unit.facts.started, unit.exits.back().map(|exit| exit.run));
        let built = unit.build.as_ref();
        let done = match self.verb {
            Verb::Start => up,
            Verb::Stop => unit.facts.state == State::Stopped,
            Verb::Restart => {
                let fresh = before.is_none_or(|before| run(before) != run(unit));
                up && fresh && !unit.facts.rolled_back && !built.is_some_and(under_way)
            }
            Verb::Reload => false,
        };
        let known = before.and_then(|unit| unit.build.as_ref()).map(|b| b.id);
        let new = |build: &&BuildView| build.ok.is_some() && Some(build.id) != known;
        let previous_pid = before.and_then(|unit| unit.facts.pid);
        done.then(|| Done {
            ok: true,
            mode: unit.facts.mode,
            pid: unit.facts.pid,
            previous_pid,
            build: built.filter(new).cloned(),
            ready: unit.facts.ready,
            release_in: snapshot.release_at.map(|at| at.since(now)),
            signalled: previous_pid.is_some(),
            took: now.since(self.asked),
            ..Done::new(unit.name.clone())
        })
    }

    fn late_words(&self, unit: &UnitView, before: Option<i32>, now: Mono) -> String {
        let name = &unit.name;
        let mut text = format!(
            "{name}: not {} within {}, it goes on: {}",
            self.verb.done(),
            human(self.patience),
            doing(unit, now)
        );
        if self.verb == Verb::Stop {
            let _ = write!(text, "\nask get_status whether it is stopped");
            return text;
        }
        if self.verb == Verb::Restart && before.is_some() && before == unit.facts.pid {
            text.push_str("\nthe old run serves on meanwhile");
        }
        let _ = write!(
            text,
            "\nto go on waiting: wait {{\"process\":\"{name}\",\"for\":\"ready\"}} (it waits for the end of the build as well)"
        );
        text
    }
}

fn value(done: &Done) -> Value {
    object([
        ("process", done.name.as_str().into()),
        ("ok", done.ok.into()),
        ("mode", done.mode.as_str().into()),
        ("pid", or_null(done.pid)),
        ("previous_pid", or_null(done.previous_pid)),
        (
            "build",
            or_null(done.build.as_ref().map(|b| build(b, None))),
        ),
        ("ready", or_null(done.ready)),
        ("gap_seconds", or_null(done.gap.map(seconds))),
        ("timed_out", false.into()),
        ("release_in_seconds", or_null(release_in(done).map(seconds))),
    ])
}

/// The project's date concerns what is in dev.
fn release_in(done: &Done) -> Option<Duration> {
    done.release_in.filter(|_| done.mode == Mode::Dev)
}

fn late_value(unit: &UnitView, before: Option<i32>, snapshot: &Snapshot, now: Mono) -> Value {
    let swapped = before.filter(|pid| Some(*pid) != unit.facts.pid);
    let building = unit.build.as_ref().filter(|b| under_way(b));
    let release_in = snapshot.release_at.filter(|_| unit.facts.mode == Mode::Dev);
    object([
        ("process", unit.name.as_str().into()),
        ("ok", false.into()),
        ("mode", unit.facts.mode.as_str().into()),
        ("pid", or_null(unit.facts.pid)),
        ("previous_pid", or_null(swapped)),
        ("build", or_null(building.map(|b| build(b, Some(now))))),
        ("ready", or_null(unit.facts.ready)),
        ("gap_seconds", Value::Null),
        ("timed_out", true.into()),
        (
            "release_in_seconds",
            or_null(release_in.map(|at| seconds(at.since(now)))),
        ),
    ])
}

fn build(build: &BuildView, now: Option<Mono>) -> Value {
    let took = now.map_or(build.took, |now| build_time(build, now));
    object([
        ("id", build.id.into()),
        ("ok", or_null(build.ok)),
        ("seconds", or_null(took.map(seconds))),
        ("errors", list(build.errors.list.iter().map(build_error))),
    ])
}

fn stop_value(done: &Done) -> Value {
    let leftovers = done.leftovers.iter().map(|(pid, command)| {
        object([
            ("pid", (*pid).into()),
            ("command", clip(command, 200).as_ref().into()),
        ])
    });
    object([
        ("process", done.name.as_str().into()),
        ("ok", done.ok.into()),
        ("signalled", done.signalled.into()),
        ("killed", done.killed.into()),
        ("leftovers", list(leftovers)),
        ("seconds", seconds(done.took)),
    ])
}

fn late_stop_value(unit: &UnitView, patience: Duration) -> Value {
    object([
        ("process", unit.name.as_str().into()),
        ("ok", false.into()),
        ("signalled", true.into()),
        ("killed", 0.into()),
        ("leftovers", list(Vec::<Value>::new())),
        ("seconds", seconds(patience)),
    ])
}

fn stop_words(done: &Done) -> String {
    let mut text = if done.ok {
        format!("{}: stopped", done.name)
    } else {
        format!("{}: not stopped", done.name)
    };
    if done.ok && !done.signalled {
        text.push_str(", it did not run");
    } else {
        let _ = write!(text, " after {}", human(done.took));
    }
    if done.killed > 0 {
        let _ = write!(text, ", {} had to be killed", done.killed);
    }
    if let Some(reason) = &done.reason {
        let _ = write!(text, ": {}", clip(reason, 500));
    }
    for (pid, command) in done.leftovers.iter().take(20) {
        let _ = write!(text, "\n  still there: pid {pid} {}", clip(command, 200));
    }
    text
}

/// `web: restarted in dev, pid 4711 (before 4700), build 7 took 3.2s, ready, gap 0.0s; ...`.
fn good_words(done: &Done, verb: Verb) -> String {
    let same = done.pid.is_some() && done.pid == done.previous_pid;
    let mut text = if same {
        format!("{}: runs already, in {}", done.name, done.mode.as_str())
    } else {
        format!("{}: {} in {}", done.name, verb.done(), done.mode.as_str())
    };
    match (done.pid, done.previous_pid) {
        (Some(pid), Some(before)) if pid != before => {
            let _ = write!(text, ", pid {pid} (before {before})");
        }
        (Some(pid), _) => {
            let _ = write!(text, ", pid {pid}");
        }
        (None, _) => text.push_str(", done"),
    }
    if let Some(build) = &done.build {
        let _ = write!(text, ", build {}", build.id);
        if let Some(took) = build.took {
            let _ = write!(text, " took {}", human(took));
        }
    }
    if done.ready == Some(true) {
        text.push_str(", ready");
    }
    if let Some(gap) = done.gap {
        let _ = write!(
            text,
            ", nothing served for {} s",
            number::fixed(gap.as_secs_f64(), 3)
        );
    }
    if let Some(release) = release_in(done) {
        let _ = write!(
            text,
            "; built for release after {} without a call",
            human(release)
        );
    }
    text
}

/// Why, where, the last lines, what serves now, and what to do.
fn bad_words(done: &Done, verb: Verb, again: Option<Duration>, room: usize) -> String {
    let name = &done.name;
    let failed_build = done.build.as_ref().filter(|build| build.ok == Some(false));
    let mut text = format!("{name}: not {}: ", verb.done());
    match (failed_build, &done.exit, &done.reason) {
        (Some(build), _, reason) => {
            let _ = write!(text, "build {} failed", build.id);
            if let Some(took) = build.took {
                let _ = write!(text, " after {}", human(took));
            }
            if let Some(reason) = reason {
                let why = reason.strip_prefix("the build failed: ").unwrap_or(reason);
                let _ = write!(text, ": {}", clip(why, 500));
            }
        }
        (None, exit, Some(reason)) => {
            text.push_str(&clip(reason, 500));
            let said = exit.as_ref().map(|e| e.words());
            if let Some(said) = said.filter(|said| !reason.contains(said.as_str())) {
                let _ = write!(text, " ({said})");
            }
        }
        (None, Some(exit), None) => {
            let _ = write!(
                text,
                "it ended with {} after {}",
                exit.words(),
                human(exit.uptime)
            );
        }
        (None, None, None) => text.push_str("for an unknown reason"),
    }
    text.push('\n');
    if let Some(build) = failed_build {
        text.push_str(&errors(build));
    }
    let after = whats_next(done, failed_build.is_some(), again);
    let used = text.chars().count() + after.chars().count() + 60;
    let lines = tail(&done.tail, room.saturating_sub(used));
    if !lines.is_empty() {
        let of = if failed_build.is_some() {
            "build"
        } else {
            "run"
        };
        let _ = match lines.lines().count() {
            1 => writeln!(text, "last line of the {of}:"),
            n => writeln!(text, "last {n} lines of the {of}:"),
        };
        text.push_str(&lines);
    }
    text.push_str(&after);
    text
}

/// What serves now, and where more is written.
fn whats_next(done: &Done, build: bool, again: Option<Duration>) -> String {
    let name = &done.name;
    let pid = done
        .pid
        .map(|pid| format!(" (pid {pid})"))
        .unwrap_or_default();
    let serves = if done.rolled_back {
        format!("rolled back: the build before was started again{pid}")
    } else if done.old_serves {
        format!("the old run still serves{pid}, from the build before")
    } else {
        match again {
            Some(span) => format!(
                "nothing of it serves now; it is tried again in {}",
                human(span)
            ),
            None => "nothing of it serves now".into(),
        }
    };
    let more = if build {
        "search_build_log"
    } else {
        "search_logs"
    };
    format!(
        "{serves}\nmore: {more} {{\"process\":\"{name}\"}}; once mended: restart {{\"process\":\"{name}\"}}"
    )
}

fn reloaded(done: &Reloaded) -> Answer {
    let value = object([
        ("changed", list(done.changed.iter().map(String::as_str))),
        ("added", list(done.added.iter().map(String::as_str))),
        ("removed", list(done.removed.iter().map(String::as_str))),
        ("unchanged", list(done.unchanged.iter().map(String::as_str))),
        ("errors", list(done.errors.iter().map(String::as_str))),
    ]);
    let mut text = String::new();
    for (what, names) in [
        ("changed", &done.changed),
        ("added", &done.added),
        ("removed", &done.removed),
        ("unchanged", &done.unchanged),
    ] {
        if !names.is_empty() {
            let _ = writeln!(text, "{what}: {}", listed(names));
        }
    }
    for error in &done.errors {
        let _ = writeln!(text, "error: {}", clip(error, 1_000));
    }
    if text.is_empty() {
        text.push_str("nothing to do");
    }
    let text = bounded(text.trim_end().into(), "run bpm check", "");
    Answer::Data { value, text }
}
