//! `start`, `stop`, `restart`: orders to the supervisor, and how they went.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::file::FileChange;
use super::status::url;
use super::text::{
    LIMIT, LINE, NextCall, Reader, bounded, clip, doing, last_of, more_of, order_of, quoted, recent,
};
use super::ticket::{End, Ticket};
use super::usage::{Reading, Usage};
use super::{Call, build, why};
use crate::base::clock::{Mono, Wall, human};
use crate::base::json::{list, object, or_null, seconds};
use crate::config::Mode;
use crate::engine::handle::{Done, Handle, Reply, Request, Stopped};
use crate::engine::snapshot::{Snapshot, State, UnitView};
use crate::lifecycle::Order;
use crate::log::search::Query;
use crate::os::poll::Waker;
use crate::server::service::{Answer, Step, Task};

/// Below the time after which most clients give up.
const PATIENCE: Duration = Duration::from_secs(50);
/// The first lines of a new run that an answer has, and characters of each.
const FIRST_LINES: usize = 5;
const FIRST_CHARS: usize = 200;
/// Of several processes at once the first lines are left to `search_logs`.
const MOST_WITH_LINES: usize = 3;

/// The tool `restart`.
pub(super) fn restart(call: &Call<'_>) -> Result<Step, String> {
    let mode = match call.args.text("mode") {
        Some("release") => Mode::Release,
        _ => Mode::Dev,
    };
    let build = call.args.flag("build").unwrap_or(true);
    Ok(order(call, Order::Restart { mode, build }))
}

/// The tool `start`.
pub(super) fn start(call: &Call<'_>) -> Result<Step, String> {
    Ok(order(call, Order::Start))
}

/// The tool `stop`.
pub(super) fn stop(call: &Call<'_>) -> Result<Step, String> {
    Ok(order(call, Order::Stop))
}

fn order(call: &Call<'_>, order: Order) -> Step {
    begin(call, order, None)
}

/// Waits for an order that was given before an upgrade. None: the tool gives none.
pub(super) fn resumed(call: &Call<'_>, tool: &str, number: u64) -> Option<Step> {
    let order = match tool {
        "start" => Order::Start,
        "stop" => Order::Stop,
        "restart" => Order::Restart {
            mode: Mode::Dev,
            build: true,
        },
        _ => return None,
    };
    Some(begin(call, order, Some(number)))
}

fn begin(call: &Call<'_>, order: Order, number: Option<u64>) -> Step {
    let before = call.tools.handle.snapshot.now();
    let one = call.args.process();
    let restart = matches!(order, Order::Restart { .. });
    let names: Vec<String> = match one {
        Some(name) => vec![name.into()],
        // A process that somebody stopped stays stopped.
        None => before
            .units
            .iter()
            .filter(|unit| !restart || unit.facts.wanted)
            .map(|unit| unit.name.clone())
            .collect(),
    };
    let given = || Request::Order {
        order,
        names: names.clone(),
    };
    let request = number.map_or_else(given, Request::Resume);
    Step::Wait(Box::new(Pending {
        ticket: Ticket::new(call, request, call.patience(PATIENCE)),
        usage: Arc::clone(&call.tools.usage),
        reader: call.reader(),
        order,
        names,
        all: one.is_none(),
        before,
        end: None,
    }))
}

fn done_word(order: Order) -> &'static str {
    match order {
        Order::Start => "started",
        Order::Stop => "stopped",
        Order::Restart { .. } => "restarted",
    }
}

/// An order that was given, and a client that waits for its end. The order goes on if the client leaves.
struct Pending {
    ticket: Ticket,
    usage: Arc<Usage>,
    reader: Reader,
    order: Order,
    names: Vec<String>,
    /// It was `"*"`.
    all: bool,
    before: Arc<Snapshot>,
    /// It is over: what is left is the answer, which waits for a disk or for long lists of the kernel.
    end: Option<End>,
}

impl Task for Pending {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.ticket.start(waker);
    }

    fn poll(&mut self, now: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        let (end, at_once) = match self.end.take() {
            Some(end) => (end, false),
            None => (self.ticket.poll(now)?, true),
        };
        let answer = self.answer(&end, at_once);
        if answer.is_none() {
            self.end = Some(end);
        }
        answer
    }

    fn deadline(&self) -> Option<Mono> {
        Some(self.ticket.due())
    }

    fn again(&self, params: &Map<String, Value>, now: Mono) -> Option<Map<String, Value>> {
        self.ticket.again(params, now)
    }

    fn heavy(&self) -> bool {
        self.end.is_some()
    }

    fn progress(&mut self, now: Mono) -> Option<String> {
        let snapshot = self.handle().snapshot.now();
        let lines: Vec<String> = self
            .names
            .iter()
            .filter_map(|name| snapshot.unit(name))
            .take(5)
            .map(|unit| format!("{}: {}", unit.name, doing(unit, now)))
            .collect();
        Some(match lines.is_empty() {
            true => "under way".into(),
            false => lines.join("\n"),
        })
    }
}

impl Pending {
    fn handle(&self) -> &Handle {
        &self.ticket.handle
    }

    /// None: it can't be had `at_once`.
    fn answer(&self, end: &End, at_once: bool) -> Option<Answer> {
        let snapshot = self.handle().snapshot.now();
        let now = Mono::now();
        let (done, late) = match end {
            End::Reply(Reply::Units(done)) => (Cow::Borrowed(done.as_slice()), false),
            End::Late => (self.so_far(&snapshot, now).into(), true),
            End::Reply(Reply::Refused(why)) => return Some(self.ticket.refusal(why.clone())),
            End::Reply(Reply::Reload(_) | Reply::Mistakes(_) | Reply::SameProgram) => {
                (Cow::default(), false)
            }
        };
        if late && done.is_empty() && !self.all {
            let why = "the process is gone: it was removed from .mcp-run";
            return Some(Answer::Fail(why.into()));
        }
        let failed = done.iter().any(|done| !done.ok) && !late && self.order != Order::Stop;
        if at_once && failed {
            return None;
        }
        // Where they listen is a part of the answer.
        let started: Vec<&str> = done.iter().map(|done| done.name.as_str()).collect();
        let usage = match self.order {
            Order::Stop => Arc::default(),
            Order::Start | Order::Restart { .. } => {
                self.usage.read_of(&snapshot, &started, at_once)?
            }
        };
        let lines = self.order != Order::Stop && done.len() <= MOST_WITH_LINES;
        let outcomes: Vec<Outcome<'_>> = done
            .iter()
            .map(|done| Outcome {
                done,
                unit: snapshot.unit(&done.name).map(Arc::as_ref),
                order: self.order,
                late: late && !done.ok,
                release_at: snapshot.release_at,
                lines,
                usage: &usage,
                now,
            })
            .collect();
        let change = &usage.file;
        if failed {
            return Some(self.failed(&outcomes, change));
        }
        let mut values: Vec<Value> = Vec::new();
        let mut texts: Vec<String> = Vec::new();
        for outcome in &outcomes {
            let first = outcome.first_lines(at_once)?;
            values.push(match self.order {
                Order::Stop => outcome.stop_value(),
                Order::Start | Order::Restart { .. } => outcome.value(&first),
            });
            texts.push(outcome.words(self.reader, self.ticket.patience, &first));
        }
        if texts.is_empty() {
            texts.push("nothing to do".into());
        }
        let mut value = match (self.all, values.len()) {
            (false, 1) => values.remove(0),
            _ => object([
                ("ok", done.iter().all(|done| done.ok).into()),
                ("results", list(values)),
            ]),
        };
        change.put(&mut value);
        texts.extend(change.words(self.reader));
        let text = bounded(texts.join("\n"), "see get_status", "");
        Some(Answer::data(&value, text))
    }

    fn failed(&self, outcomes: &[Outcome<'_>], change: &FileChange) -> Answer {
        let (good, bad): (Vec<&Outcome<'_>>, Vec<&Outcome<'_>>) =
            outcomes.iter().partition(|outcome| outcome.done.ok);
        let room = (LIMIT - 500) / bad.len().max(1);
        let mut texts: Vec<String> = bad
            .iter()
            .map(|outcome| outcome.bad_words(self.reader, room))
            .collect();
        let good = good
            .iter()
            .map(|outcome| outcome.good_words(self.reader, &First::default()));
        texts.extend(good);
        texts.extend(change.words(self.reader));
        Answer::Fail(bounded(texts.join("\n"), "see get_status", ""))
    }

    /// The order goes on: what the snapshot says of it.
    fn so_far(&self, snapshot: &Snapshot, now: Mono) -> Vec<Done> {
        let units = self.names.iter().filter_map(|name| snapshot.unit(name));
        units
            .map(|unit| {
                let before = self.before.unit(&unit.name).map(Arc::as_ref);
                let facts = &unit.facts;
                let previous = before.and_then(|unit| unit.facts.pid);
                let ok = self.is_done(unit, before);
                let known = before.and_then(|unit| unit.build.as_ref()).map(|b| b.id);
                let build = unit.build.as_ref().filter(|build| match ok {
                    true => build.ok.is_some() && Some(build.id) != known,
                    false => build.state.is_under_way(),
                });
                Done {
                    ok,
                    mode: facts.mode,
                    pid: facts.pid,
                    previous_pid: previous.filter(|pid| ok || Some(*pid) != facts.pid),
                    old_serves: previous.is_some() && previous == facts.pid,
                    build: build.cloned(),
                    ready: facts.ready,
                    stopped: Stopped {
                        signalled: previous.is_some(),
                        ..Stopped::default()
                    },
                    took: now.since(self.ticket.asked),
                    ..Done::new(unit.name.clone())
                }
            })
            .collect()
    }

    /// Of several, some are where they should be while others take longer.
    fn is_done(&self, unit: &UnitView, before: Option<&UnitView>) -> bool {
        let run = |unit: &UnitView| (unit.facts.started, unit.exits.back().map(|exit| exit.run));
        match self.order {
            Order::Start => unit.is_ready(),
            Order::Stop => unit.facts.state == State::Stopped,
            Order::Restart { .. } => {
                let fresh = before.is_none_or(|before| run(before) != run(unit));
                let building = unit.build.as_ref().is_some_and(|b| b.state.is_under_way());
                unit.is_ready() && fresh && !unit.facts.rolled_back && !building
            }
        }
    }
}

/// How an order went for one process, or how far it is.
struct Outcome<'a> {
    done: &'a Done,
    /// None: it was removed from `.mcp-run` meanwhile.
    unit: Option<&'a UnitView>,
    order: Order,
    /// It goes on.
    late: bool,
    release_at: Option<Mono>,
    /// The first lines of the new run are wanted.
    lines: bool,
    usage: &'a Reading,
    now: Mono,
}

/// The first lines of a new run.
#[derive(Default)]
struct First {
    /// When it was started.
    at: Option<Wall>,
    lines: Vec<String>,
    /// The cursor behind the lines.
    next: Option<u64>,
}

impl Outcome<'_> {
    /// Only what has something to build has a mode.
    fn builds(&self) -> bool {
        self.done.build.is_some() || self.unit.is_some_and(|unit| unit.builds)
    }

    /// The time until dev builds are replaced, where this is one.
    fn release_in(&self) -> Option<Duration> {
        let dev = self.builds() && self.done.mode == Mode::Dev;
        self.release_at.filter(|_| dev).map(|at| at.since(self.now))
    }

    fn url(&self) -> Option<String> {
        let unit = self.unit.filter(|unit| unit.facts.pid.is_some())?;
        url(unit, self.usage)
    }

    fn next_call(&self) -> Option<NextCall> {
        let name = || ("process", self.done.name.as_str().into());
        self.late.then(|| match self.order {
            Order::Stop => NextCall::new("get_status", [name()]),
            Order::Start | Order::Restart { .. } => {
                NextCall::new("wait", [name(), ("for", "ready".into())])
            }
        })
    }

    /// None: they can't be had `at_once`, without the files of the log.
    fn first_lines(&self, at_once: bool) -> Option<First> {
        let Some(unit) = self.unit.filter(|_| self.lines && !self.late) else {
            return Some(First::default());
        };
        let facts = &unit.facts;
        let (at, run) = match (facts.started, unit.exits.back()) {
            (Some(started), _) if facts.pid == self.done.pid => {
                (Wall::now().before(self.now.since(started)), unit.run)
            }
            // A task has ended by the time of the answer.
            (None, Some(end)) if self.done.ok && facts.state == State::Done => {
                (end.at.before(end.uptime), Some(end.run))
            }
            _ => return Some(First::default()),
        };
        let lines = match run.and_then(|run| unit.log.head(run, FIRST_LINES)) {
            Some(lines) => lines,
            None if at_once => return None,
            None => {
                let query = Query {
                    head: Some(FIRST_LINES),
                    ..Query::default()
                };
                let found = unit.log.find(&query).ok();
                let found = found.filter(|found| found.run == run && run.is_some());
                found.map(|found| found.lines).unwrap_or_default()
            }
        };
        let numbered = lines.iter().rev().find_map(|line| line.seq);
        let next = numbered.unwrap_or_else(|| unit.log.next_seq().saturating_sub(1));
        Some(First {
            at: Some(at),
            lines: lines
                .iter()
                .map(|line| clip(&line.text, FIRST_CHARS).into_owned())
                .collect(),
            next: Some(next),
        })
    }

    fn value(&self, first: &First) -> Value {
        let done = self.done;
        let builds = self.builds();
        let build = done.build.as_ref().map(|b| build::brief(b, self.now));
        let mut value = object([
            ("process", done.name.as_str().into()),
            ("ok", done.ok.into()),
            ("mode", or_null(builds.then(|| done.mode.as_str()))),
            ("pid", or_null(done.pid)),
            ("previous_pid", or_null(done.previous_pid)),
            ("url", or_null(self.url())),
            ("build", or_null(build)),
            ("ready", or_null(done.ready)),
            ("gap_seconds", or_null(done.gap.map(seconds))),
            ("lines", list(first.lines.iter().map(String::as_str))),
            ("at", or_null(first.at.map(Wall::rfc3339))),
            ("next", or_null(first.next)),
            ("timed_out", self.late.into()),
            ("next_call", or_null(self.next_call().map(|c| c.value()))),
            (
                "release_in_seconds",
                or_null(self.release_in().map(seconds)),
            ),
        ]);
        if !done.stopped.leftovers.is_empty() {
            value["leftovers"] = self.leftovers();
        }
        value
    }

    fn leftovers(&self) -> Value {
        let left = self.done.stopped.leftovers.iter();
        list(left.map(|(pid, command)| {
            object([
                ("pid", (*pid).into()),
                ("command", clip(command, 200).as_ref().into()),
            ])
        }))
    }

    fn stop_value(&self) -> Value {
        let done = self.done;
        object([
            ("process", done.name.as_str().into()),
            ("ok", done.ok.into()),
            ("signalled", done.stopped.signalled.into()),
            ("killed", done.stopped.killed.into()),
            ("leftovers", self.leftovers()),
            ("seconds", seconds(done.took)),
            ("timed_out", self.late.into()),
            ("next_call", or_null(self.next_call().map(|c| c.value()))),
        ])
    }

    fn words(&self, reader: Reader, patience: Duration, first: &First) -> String {
        match (self.late, self.order) {
            (true, _) => self.late_words(reader, patience),
            (false, Order::Stop) => self.stop_words(),
            (false, Order::Start | Order::Restart { .. }) => self.good_words(reader, first),
        }
    }

    fn late_words(&self, reader: Reader, patience: Duration) -> String {
        let doing = self.unit.map(|unit| doing(unit, self.now));
        let mut text = format!(
            "{}: not {} within {}, it goes on: {}",
            self.done.name,
            done_word(self.order),
            human(patience),
            doing.unwrap_or_default()
        );
        if self.done.old_serves && matches!(self.order, Order::Restart { .. }) {
            text.push_str("\nthe old run serves on meanwhile");
        }
        if let Some(call) = self.next_call().filter(|_| reader == Reader::Model) {
            let _ = write!(text, "\nto go on waiting: {}", call.words());
        }
        text
    }

    fn stop_words(&self) -> String {
        let done = self.done;
        let mut text = match done.ok {
            true => format!("{}: stopped", done.name),
            false => format!("{}: not stopped", done.name),
        };
        match done.ok && !done.stopped.signalled {
            true => text.push_str(", it did not run"),
            false => {
                let _ = write!(text, " after {}", human(done.took));
            }
        }
        if done.stopped.killed > 0 {
            let _ = write!(text, ", {} had to be killed", done.stopped.killed);
        }
        if let Some(reason) = &done.reason {
            let _ = write!(text, ": {}", clip(reason, LINE / 2));
        }
        text.push_str(&self.survivors());
        text
    }

    /// The processes that the order should have ended and could not, a line each.
    fn survivors(&self) -> String {
        let left = self.done.stopped.leftovers.iter().take(20);
        left.map(|(pid, command)| format!("\n   still there: pid {pid} {}", clip(command, 200)))
            .collect()
    }

    /// `web: restarted in dev, pid 4711 (before 4700), build 7 took 3.2s, ready, http://127.0.0.1:5173`, its
    /// first lines and how to go on.
    fn good_words(&self, reader: Reader, first: &First) -> String {
        let done = self.done;
        let same = done.pid.is_some() && done.pid == done.previous_pid;
        let verb = match same {
            true => "runs already",
            false => done_word(self.order),
        };
        let mut text = format!("{}: {verb}", done.name);
        if self.builds() {
            let _ = write!(text, " in {}", done.mode.as_str());
        }
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
            let _ = write!(text, ", nothing served for {:.3} s", gap.as_secs_f64());
        }
        if let Some(url) = self.url() {
            let _ = write!(text, ", {url}");
        }
        text.push_str(&self.survivors());
        if let Some(release) = self.release_in() {
            let _ = write!(
                text,
                "\nbuilt for release again after {} without a call",
                human(release)
            );
        }
        if !first.lines.is_empty() {
            text.push_str("\nits first lines:\n");
            text.push_str(quoted(&first.lines).trim_end_matches('\n'));
        }
        if let (Reader::Model, Some(at), Some(next)) = (reader, first.at, first.next) {
            let _ = write!(text, "\n[since {} | next {next}]", at.rfc3339());
        }
        text
    }

    /// Why, where, the last lines, what serves now, and what to do.
    fn bad_words(&self, reader: Reader, room: usize) -> String {
        let done = self.done;
        let failed_build = done.build.as_ref().filter(|build| build.ok == Some(false));
        let mut text = format!("{}: not {}: ", done.name, done_word(self.order));
        let reason = done.reason.as_deref().map(|why| clip(why, LINE / 2));
        match (failed_build, &done.exit, reason) {
            (Some(build), _, reason) => {
                let _ = write!(text, "build {} failed", build.id);
                if let Some(took) = build.took {
                    let _ = write!(text, " after {}", human(took));
                }
                if let Some(reason) = reason {
                    let why = reason.strip_prefix("the build failed: ");
                    let _ = write!(text, ": {}", why.unwrap_or(&reason));
                }
            }
            (None, exit, Some(reason)) => {
                text.push_str(&reason);
                let said = exit.as_ref().map(|e| e.words());
                if let Some(said) = said.filter(|said| !reason.contains(said.as_str())) {
                    let _ = write!(text, " ({said})");
                }
            }
            (None, Some(exit), None) => {
                let (words, uptime) = (exit.words(), human(exit.uptime));
                let _ = write!(text, "it ended with {words} after {uptime}");
            }
            (None, None, None) => text.push_str("bpm does not know why"),
        }
        text.push('\n');
        let after = self.whats_next(reader, failed_build.is_some());
        let room = room.saturating_sub(text.chars().count() + after.chars().count() + 60);
        match failed_build {
            Some(build) => text.push_str(&build::failure(build, &done.tail, room)),
            None => {
                let lines = recent(&done.tail, room);
                if !lines.is_empty() {
                    text.push_str(&last_of(lines.len(), "run"));
                    text.push_str(&quoted(&lines));
                }
                if let (Some(exit), Some(unit)) = (&done.exit, self.unit) {
                    let hint = why::hint(unit, exit);
                    text.extend(hint.map(|hint| format!("hint: {hint}\n")));
                }
            }
        }
        text.push_str(&after);
        text
    }

    /// Says which run serves now, what happens next, and where more is written.
    fn whats_next(&self, reader: Reader, build: bool) -> String {
        let done = self.done;
        let pid = done
            .pid
            .map_or(String::new(), |pid| format!(" (pid {pid})"));
        let serves: Cow<'_, str> = match (done.rolled_back, done.old_serves, self.unit) {
            (true, ..) => format!("rolled back: the previous build was started again{pid}").into(),
            (false, true, _) if self.builds() => {
                format!("the old run still serves{pid}, from the previous build").into()
            }
            (false, true, _) => format!("the old run still serves{pid}").into(),
            (false, false, Some(unit)) => {
                let next = why::outlook(unit, self.now);
                format!("nothing of it serves now; what happens next: {next}").into()
            }
            (false, false, None) => "nothing of it serves now".into(),
        };
        let more = more_of(reader, &done.name, build);
        let again = order_of(reader, "restart", &done.name);
        match reader {
            Reader::Model => {
                format!("{serves}\nmore: {more}; once the cause is fixed: {again}")
            }
            Reader::Person => format!("{serves}\nhint: {more} shows more"),
        }
    }
}
