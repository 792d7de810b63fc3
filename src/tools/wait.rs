//! `wait`: until a process is ready, ends, is built, prints a line or changes; or until it can't any
//! more. A ticket that looks again whenever the snapshot or the log wakes it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::logs::bad_regex;
use super::status::{cursor, exit, newest};
use super::text::{
    LIMIT, LINE, MATCH, NextCall, Reader, bounded, clip, doing, last_of, quoted, recent, shown,
};
use super::ticket::with_time;
use super::{Call, build, why};
use crate::base::clock::{Mono, human};
use crate::base::json::{brief, list, object, or_null};
use crate::config::Kind;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{EventView, ExitView, Snapshot, State, UnitView};
use crate::log::search::{Line, Matcher, Query};
use crate::log::store::Log;
use crate::os::poll::Waker;
use crate::server::service::{Answer, Step, Task};

const PATIENCE: Duration = Duration::from_secs(30);
/// Of a log, at a time in memory.
const BITE: usize = 256 * 1024;
/// Bites between two looks at the clock.
const BITES: usize = 16;
/// Lines of output in an answer that needs some.
const TAIL: usize = 20;
/// And characters of them, in its data too: that is all that some clients show.
const ROOM: usize = 5_000;

pub(super) const FOR: &[&str] = &["ready", "exit", "build", "log", "change"];

/// The tool.
pub(super) fn wait(call: &Call<'_>) -> Result<Step, String> {
    let args = call.args;
    let handle = &call.tools.handle;
    let snapshot = handle.snapshot.now();
    let unit = call.unit()?;
    let after = args.count("after");
    let pattern = args.text("pattern");
    let what = match (args.text("for").unwrap_or("ready"), pattern) {
        ("log", Some(pattern)) => What::Log(Box::new(Follow {
            pattern: pattern.into(),
            matcher: Matcher::new(pattern, false, false).map_err(|e| bad_regex(&e))?,
            log: Arc::clone(&unit.log),
            cursor: after.unwrap_or_else(|| unit.log.next_seq().saturating_sub(1)),
            more: false,
        })),
        ("log", None) => {
            return Err(
                "wait for \"log\" needs \"pattern\": a regex for the line to wait for".into(),
            );
        }
        (word, Some(_)) => {
            return Err(format!(
                "\"pattern\" is for {{\"for\":\"log\"}}, not for {word:?}"
            ));
        }
        ("exit", None) => What::Exit {
            before: unit.exits.back().map(identity),
        },
        ("build", None) => What::Build,
        ("change", None) => What::Change,
        (_, None) => What::Ready,
    };
    let patience = call.patience(PATIENCE);
    Ok(Step::Wait(Box::new(Wait {
        handle: Arc::clone(handle),
        name: unit.name.clone(),
        reader: call.reader(),
        what,
        after: after.map(|after| cursor(&snapshot, after)),
        newest: newest(&snapshot),
        patience,
        until: Mono::now().after(patience),
        waker: None,
        end: None,
    })))
}

enum What {
    Ready,
    /// The last end before the call.
    Exit {
        before: Option<(u64, i64)>,
    },
    Build,
    Log(Box<Follow>),
    Change,
}

struct Follow {
    pattern: String,
    matcher: Matcher,
    log: Arc<Log>,
    cursor: u64,
    /// There are lines that were not looked at yet.
    more: bool,
}

struct Wait {
    handle: Arc<Handle>,
    name: String,
    reader: Reader,
    what: What,
    /// The cursor that was given.
    after: Option<u64>,
    /// The newest event before the call.
    newest: u64,
    patience: Duration,
    until: Mono,
    waker: Option<Arc<Waker>>,
    /// It is over: what is left is the answer, which reads logs.
    end: Option<End>,
}

/// How it stood when the wait was over.
struct End {
    look: Look,
    snapshot: Arc<Snapshot>,
    unit: Option<Arc<UnitView>>,
}

/// The outcome of one check of the condition.
enum Look {
    Met(String),
    /// Of a run that ended.
    MetBy(ExitView),
    Found(Line),
    /// It can't be met any more.
    Never(String),
    /// Time over.
    Late(String),
    NotYet,
}

impl Task for Wait {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.handle.snapshot.watch(waker);
        if let What::Log(follow) = &self.what {
            follow.log.follow(waker);
        }
        self.waker = Some(Arc::clone(waker));
    }

    fn poll(&mut self, now: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        if let Some(end) = self.end.take() {
            return Some(self.answer(end));
        }
        let end = self.look_again(now)?;
        if self.heavy() {
            return Some(self.answer(end));
        }
        self.end = Some(end);
        None
    }

    fn deadline(&self) -> Option<Mono> {
        match &self.what {
            What::Log(follow) if follow.more => Some(Mono::default()),
            What::Log(_) | What::Ready | What::Exit { .. } | What::Build | What::Change => {
                Some(self.until)
            }
        }
    }

    fn again(&self, params: &Map<String, Value>, now: Mono) -> Option<Map<String, Value>> {
        let mut params = with_time(params, self.until.since(now));
        let after = match &self.what {
            What::Log(follow) => Some(follow.cursor),
            What::Change => Some(self.after.unwrap_or(self.newest)),
            What::Ready | What::Exit { .. } | What::Build => None,
        };
        if let (Some(after), Some(Value::Object(arguments))) = (after, params.get_mut("arguments"))
        {
            arguments.insert("after".into(), after.into());
        }
        Some(params)
    }

    fn heavy(&self) -> bool {
        self.end.is_some() || matches!(self.what, What::Log(_))
    }

    fn progress(&mut self, now: Mono) -> Option<String> {
        let snapshot = self.handle.snapshot.now();
        let unit = snapshot.unit(&self.name)?;
        Some(format!("{}: {}", self.name, doing(unit, now)))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            self.handle.snapshot.unwatch(waker);
            if let What::Log(follow) = &self.what {
                follow.log.unfollow(waker);
            }
        }
    }
}

impl Wait {
    fn look_again(&mut self, now: Mono) -> Option<End> {
        // The snapshot first: a process that rests there has its last lines in the log already.
        let snapshot = self.handle.snapshot.now();
        let Some(unit) = snapshot.unit(&self.name).cloned() else {
            let why = format!("{} is gone: it was removed from .mcp-run", self.name);
            return Some(End {
                look: Look::Never(why),
                snapshot,
                unit: None,
            });
        };
        let look = match self.look(&snapshot, &unit) {
            Look::NotYet if snapshot.stopping => {
                Look::Never("bpm is stopping; this wait changed nothing".into())
            }
            Look::NotYet if now >= self.until => {
                let what = match &self.what {
                    What::Log(follow) => {
                        let new = if self.after.is_none() { "new " } else { "" };
                        format!("no {new}line matched {:?}", brief(&follow.pattern))
                    }
                    What::Ready | What::Exit { .. } | What::Build | What::Change => "not".into(),
                };
                let (span, state) = (human(self.patience), doing(&unit, now));
                Look::Late(format!("{what} within {span}: {state}"))
            }
            Look::NotYet => return None,
            look @ (Look::Met(_)
            | Look::MetBy(_)
            | Look::Found(_)
            | Look::Never(_)
            | Look::Late(_)) => look,
        };
        Some(End {
            look,
            snapshot,
            unit: Some(unit),
        })
    }

    fn look(&mut self, snapshot: &Snapshot, unit: &UnitView) -> Look {
        let since = self.after.unwrap_or(self.newest);
        match &mut self.what {
            What::Ready => ready(unit),
            What::Exit { before } => {
                let news = match self.after {
                    Some(after) => happened(snapshot, unit, "exit", after),
                    None => unit.exits.back().map(identity) != *before,
                };
                ended(unit, news)
            }
            What::Build => {
                let news = self
                    .after
                    .is_none_or(|after| happened(snapshot, unit, "build", after));
                built(unit, news)
            }
            What::Log(follow) => follow.look(unit),
            What::Change => match changes(snapshot, unit, since).last() {
                Some(event) => Look::Met(format!("{}: {}", event.kind, event.text)),
                None => Look::NotYet,
            },
        }
    }

    /// Reads logs: for a worker.
    fn answer(&self, end: End) -> Answer {
        let End {
            look,
            snapshot,
            unit,
        } = end;
        let late = matches!(look, Look::Late(_));
        let (met, reason, line, ended) = match look {
            Look::Met(reason) => (true, reason, None, None),
            Look::MetBy(exit) => (true, end_words(&exit), None, Some(exit)),
            Look::Found(line) => (true, "a line matches".into(), Some(line), None),
            Look::Never(reason) => (false, reason, None, unit.as_deref().and_then(last_end)),
            Look::Late(reason) => (false, reason, None, None),
            Look::NotYet => (false, "not yet".into(), None, None),
        };
        let tail = unit.as_ref().map(|unit| self.tail(unit, met));
        let tail = recent(&tail.unwrap_or_default(), ROOM);
        let next = match (&self.what, &line) {
            (What::Log(follow), line) => {
                let matched = line.as_ref().and_then(|line| line.seq);
                matched.unwrap_or(follow.cursor)
            }
            (What::Ready | What::Exit { .. } | What::Build | What::Change, _) => newest(&snapshot),
        };
        let next_call = match late {
            true => Some(self.again(next)),
            false => self.instead(unit.as_deref()).filter(|_| !met),
        };
        let mut text = self.words(met, &reason, unit.as_deref(), line.as_ref(), &tail);
        if let Some(call) = next_call.as_ref().filter(|_| self.reader == Reader::Model) {
            let what = if late { "to go on waiting" } else { "then" };
            let _ = writeln!(text, "{what}: {}", call.words());
        }
        let last = match self.reader {
            Reader::Model => format!("[next {next}]"),
            Reader::Person => String::new(),
        };
        let clipped = line
            .as_ref()
            .map(|line| clip(&line.text, LINE).into_owned());
        let value = object([
            ("met", met.into()),
            ("reason", clip(&reason, LINE).as_ref().into()),
            ("state", or_null(unit.map(|unit| unit.facts.state.as_str()))),
            ("exit", or_null(ended.as_ref().map(exit))),
            ("line", or_null(clipped)),
            ("seq", or_null(line.as_ref().and_then(|line| line.seq))),
            ("tail", list(tail)),
            ("next", next.into()),
            ("next_call", or_null(next_call.map(|call| call.value()))),
        ]);
        let text = bounded(text, "search_logs", &last);
        Answer::data(&value, text.trim_end())
    }

    /// The same wait from where this one ends.
    fn again(&self, next: u64) -> NextCall {
        let what = match &self.what {
            What::Ready => "ready",
            What::Exit { .. } => "exit",
            What::Build => "build",
            What::Log(_) => "log",
            What::Change => "change",
        };
        let call = NextCall::new(
            "wait",
            [("process", self.name.as_str().into()), ("for", what.into())],
        );
        match &self.what {
            What::Ready => call,
            What::Log(follow) => call
                .with("pattern", follow.pattern.as_str().into())
                .with("after", next.into()),
            What::Exit { .. } | What::Build | What::Change => call.with("after", next.into()),
        }
    }

    /// The call to make first: without it such a wait can't be met.
    fn instead(&self, unit: Option<&UnitView>) -> Option<NextCall> {
        let stopped = unit?.facts.state == State::Stopped;
        stopped.then(|| NextCall::new("start", [("process", self.name.as_str().into())]))
    }

    /// The last lines of what ended or failed; what goes well needs none.
    fn tail(&self, unit: &UnitView, met: bool) -> Vec<String> {
        let failed_build = unit.build.as_ref().filter(|b| b.ok == Some(false));
        match (&self.what, failed_build) {
            (What::Build, Some(build)) => why::texts(unit.build_log.tail(build.id, TAIL)),
            (What::Ready, Some(build)) if !met => why::texts(unit.build_log.tail(build.id, TAIL)),
            (What::Exit { .. }, _) if met => last_output(unit),
            (What::Ready | What::Exit { .. } | What::Log(_), _) if !met => last_output(unit),
            (What::Ready | What::Exit { .. } | What::Build | What::Log(_) | What::Change, _) => {
                Vec::new()
            }
        }
    }

    fn words(
        &self,
        met: bool,
        reason: &str,
        unit: Option<&UnitView>,
        line: Option<&Line>,
        last: &[String],
    ) -> String {
        let mut text = format!(
            "{}: {}: {}",
            self.name,
            if met { "met" } else { "not met" },
            clip(reason, LINE)
        );
        if let Some(unit) = unit.filter(|_| met) {
            let _ = write!(text, "; it is {}", unit.facts.state.as_str());
        }
        text.push('\n');
        if let Some(line) = line {
            let _ = writeln!(text, "{MATCH}{}", shown(&line.text, LINE));
        }
        let room = LIMIT.saturating_sub(text.chars().count() + 300).min(ROOM);
        let build = unit.and_then(|unit| unit.build.as_ref());
        match (&self.what, build.filter(|build| build.ok == Some(false))) {
            (What::Build | What::Ready, Some(build)) => {
                text.push_str(&build::failure(build, last, room));
            }
            _ if !last.is_empty() => {
                let lines = recent(last, room);
                text.push_str(&last_of(lines.len(), "run"));
                text.push_str(&quoted(&lines));
            }
            _ => {}
        }
        text
    }
}

impl Follow {
    /// Looks through the lines that came, a bite at a time.
    fn look(&mut self, unit: &UnitView) -> Look {
        for _ in 0..BITES {
            let pulled = self.log.pull(self.cursor, BITE);
            let matches = |line: &&Line| self.matcher.is_match(&line.text);
            if let Some(line) = pulled.lines.iter().find(matches) {
                self.cursor = line.seq.unwrap_or(self.cursor);
                return Look::Found(line.clone());
            }
            self.cursor = pulled.next;
            self.more = !pulled.lines.is_empty();
            if !self.more {
                // A prompt, say, that waits for an answer.
                let still = self.log.still(None);
                if let Some(line) = still.into_iter().find(|l| self.matcher.is_match(&l.text)) {
                    return Look::Found(line);
                }
                return resting(unit).map_or(Look::NotYet, Look::Never);
            }
        }
        Look::NotYet
    }
}

/// Identifies an end: two runs may be open at once, so their numbers alone don't rise.
fn identity(exit: &ExitView) -> (u64, i64) {
    (exit.run, exit.at.0)
}

/// The end of a process of which nothing runs, unless somebody asked for it.
fn last_end(unit: &UnitView) -> Option<ExitView> {
    let down = unit.facts.pid.is_none() && unit.facts.state != State::Stopped;
    unit.exits.back().filter(|_| down).cloned()
}

fn changes<'a>(
    snapshot: &'a Snapshot,
    unit: &'a UnitView,
    after: u64,
) -> impl Iterator<Item = &'a EventView> {
    let from = snapshot.events.partition_point(|event| event.seq <= after);
    snapshot
        .events
        .iter()
        .skip(from)
        .filter(|event| event.process.as_ref() == Some(&unit.name))
        .map(|event| &**event)
}

fn happened(snapshot: &Snapshot, unit: &UnitView, kind: &str, after: u64) -> bool {
    changes(snapshot, unit, after).any(|event| event.kind == kind)
}

/// Why nothing more comes of it unless somebody asks for it.
fn resting(unit: &UnitView) -> Option<String> {
    let facts = &unit.facts;
    let building = unit.build.as_ref().is_some_and(|b| b.state.is_under_way());
    if facts.pid.is_some() || facts.next_start.is_some() || building {
        return None;
    }
    let reason = facts.reason.as_deref();
    let because = reason.map(|why| format!(": {why}")).unwrap_or_default();
    let last = unit.exits.back().map(ExitView::words);
    match facts.state {
        State::Stopped if !facts.wanted => Some(format!("it is stopped{because}; start it first")),
        State::Failed => Some(match (reason, last) {
            (None, Some(last)) => format!("it failed: {last}"),
            (Some(why), _) if why.starts_with("cannot ") => why.to_owned(),
            _ => format!("it failed{because}"),
        }),
        State::Done => {
            let last = last.unwrap_or_else(|| "exit code 0".into());
            Some(format!("it is done: it ended with {last}"))
        }
        State::Waiting if facts.hopeless => Some(reason?.to_owned()),
        State::Stopped
        | State::Waiting
        | State::Building
        | State::Starting
        | State::Running
        | State::Stopping
        | State::Crashed => None,
    }
}

fn ready(unit: &UnitView) -> Look {
    let facts = &unit.facts;
    let build = unit.build.as_ref();
    let building = build.is_some_and(|b| b.state.is_under_way());
    let task = unit.kind == Kind::Task;
    if task && facts.state == State::Done && !building {
        return match unit.exits.back() {
            Some(exit) => Look::MetBy(exit.clone()),
            None => Look::Met("it ended with exit code 0".into()),
        };
    }
    if facts.state == State::Running && facts.ready != Some(false) && !building && !task {
        return Look::Met(match build.filter(|build| build.ok == Some(false)) {
            Some(build) if facts.stale => format!(
                "it is ready, but the run is older than build {}, which failed",
                build.id
            ),
            Some(_) | None => "it is ready".into(),
        });
    }
    resting(unit).map_or(Look::NotYet, Look::Never)
}

fn end_words(exit: &ExitView) -> String {
    let asked = if exit.asked { ", as asked" } else { "" };
    format!(
        "it ended with {}{asked}, after {}",
        exit.words(),
        human(exit.uptime)
    )
}

fn ended(unit: &UnitView, news: bool) -> Look {
    let over = matches!(
        unit.facts.state,
        State::Stopped | State::Done | State::Failed
    );
    match (resting(unit), unit.exits.back()) {
        (_, Some(exit)) if news => Look::MetBy(exit.clone()),
        // A wait for the end of what has ended is met.
        (Some(_), Some(exit)) if over => Look::MetBy(exit.clone()),
        (Some(why), _) => Look::Never(why),
        (None, _) => Look::NotYet,
    }
}

fn built(unit: &UnitView, news: bool) -> Look {
    match &unit.build {
        Some(build) if build.state.is_under_way() => Look::NotYet,
        Some(build) if news => {
            let after = build.took.map(|took| format!(" after {}", human(took)));
            let (state, after) = (build.state.as_str(), after.unwrap_or_default());
            Look::Met(format!("build {} {state}{after}", build.id))
        }
        Some(_) | None => match (resting(unit), unit.facts.pid) {
            (Some(why), _) => Look::Never(why),
            // It runs without ever having been built: nothing is going to be, unless asked for.
            (None, Some(_)) if unit.build.is_none() => {
                Look::Never("no build of it is under way, it runs without one".into())
            }
            (None, _) => Look::NotYet,
        },
    }
}

/// The last lines of the newest run.
fn last_output(unit: &UnitView) -> Vec<String> {
    let query = Query {
        tail: Some(TAIL),
        ..Query::default()
    };
    let found = unit.log.find(&query);
    found
        .map(|found| why::texts(found.lines))
        .unwrap_or_default()
}
