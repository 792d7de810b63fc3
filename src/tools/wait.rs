//! `wait`: until a process is ready, ends, is built, prints a line or changes; or until it can't any
//! more. A ticket that looks again whenever the snapshot or the log rings.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Tools;
use super::logs::bad_pattern;
use super::schema::{Args, Field, Shape};
use super::status::{cursor, exit, lines, newest};
use super::text::{LIMIT, LINE, bounded, clip, doing, errors, recent, tail, under_way};
use crate::base::clock::{Mono, human};
use crate::base::json::{list, object, or_null};
use crate::config::Kind;
use crate::engine::handle::Handle;
use crate::engine::snapshot::{EventView, ExitView, Snapshot, State, UnitView};
use crate::log::search::{Line, Matcher, Query};
use crate::log::store::Log;
use crate::os::poll::Waker;
use crate::server::service::{Answer, Caller, Step, Task};

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

pub(super) const OUTPUT: &[Field] = {
    use Shape::{Always, Maybe};
    &[
        Field(
            "met",
            Always("boolean"),
            "false: time over, or it can't be met any more",
        ),
        Field("reason", Always("string"), ""),
        Field("state", Maybe, "null: the process is gone"),
        Field(
            "exit",
            Maybe,
            "the last: code, signal, core, oom, asked, at, uptime_seconds",
        ),
        Field("line", Maybe, "that matched"),
        Field("seq", Maybe, "of that line"),
        Field("tail", Always("array"), "last lines, where they help"),
        Field(
            "next",
            Always("integer"),
            "pass it as after: of the log for \"log\", else of events",
        ),
    ]
};

/// The tool.
pub(super) fn wait(tools: &Tools, _: &Caller, args: Args<'_>) -> Result<Step, String> {
    let snapshot = tools.handle.snapshot.now();
    let unit = tools.unit(args)?;
    let after = args.count("after");
    let pattern = args.text("pattern");
    let what = match (args.text("for").unwrap_or("ready"), pattern) {
        ("log", Some(pattern)) => What::Log(Box::new(Follow {
            matcher: Matcher::new(pattern, false, false).map_err(|e| bad_pattern(&e))?,
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
    let patience = args.span("timeout_seconds").unwrap_or(PATIENCE);
    Ok(Step::Wait(Box::new(Wait {
        handle: Arc::clone(&tools.handle),
        name: unit.name.clone(),
        what,
        after: after.map(|after| cursor(&snapshot, after)),
        newest: newest(&snapshot),
        patience,
        until: Mono::now().after(patience),
        waker: None,
    })))
}

enum What {
    Ready,
    /// What was the last end before the call.
    Exit {
        before: Option<(u64, i64)>,
    },
    Build,
    Log(Box<Follow>),
    Change,
}

struct Follow {
    matcher: Matcher,
    log: Arc<Log>,
    cursor: u64,
    /// There are lines that were not looked at yet.
    more: bool,
}

struct Wait {
    handle: Arc<Handle>,
    name: String,
    what: What,
    /// The cursor that was given.
    after: Option<u64>,
    /// The newest event before the call.
    newest: u64,
    patience: Duration,
    until: Mono,
    waker: Option<Arc<Waker>>,
}

/// What came of a look.
enum Look {
    Met(String),
    MetBy(Line),
    Never(String),
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
        // The snapshot first: a process that rests there has its last lines in the log already.
        let snapshot = self.handle.snapshot.now();
        let Some(unit) = snapshot.unit(&self.name).cloned() else {
            let why = format!("{} is gone: it was removed from .mcp-run", self.name);
            return Some(self.answer(&snapshot, None, Look::Never(why)));
        };
        let look = match self.look(&snapshot, &unit) {
            Look::NotYet if snapshot.stopping => Look::Never("bpm is stopping".into()),
            Look::NotYet if now >= self.until => Look::Never(format!(
                "not within {}: {}",
                human(self.patience),
                doing(&unit, now)
            )),
            Look::NotYet => return None,
            look @ (Look::Met(_) | Look::MetBy(_) | Look::Never(_)) => look,
        };
        Some(self.answer(&snapshot, Some(&unit), look))
    }

    fn deadline(&self) -> Option<Mono> {
        match &self.what {
            What::Log(follow) if follow.more => Some(Mono::default()),
            What::Log(_) | What::Ready | What::Exit { .. } | What::Build | What::Change => {
                Some(self.until)
            }
        }
    }

    fn heavy(&self) -> bool {
        matches!(self.what, What::Log(_))
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

    fn answer(&self, snapshot: &Snapshot, unit: Option<&Arc<UnitView>>, look: Look) -> Answer {
        let (met, reason, line) = match look {
            Look::Met(reason) => (true, reason, None),
            Look::MetBy(line) => (true, "a line matches".into(), Some(line)),
            Look::Never(reason) => (false, reason, None),
            Look::NotYet => (false, "not yet".into(), None),
        };
        let tail = unit.map(|unit| self.tail(unit, met)).unwrap_or_default();
        let tail = recent(&tail, ROOM);
        let next = match (&self.what, &line) {
            (What::Log(_), Some(line)) => line.seq,
            (What::Log(follow), None) => follow.cursor,
            (What::Ready | What::Exit { .. } | What::Build | What::Change, _) => newest(snapshot),
        };
        let text = self.words(met, &reason, unit, line.as_ref(), &tail, next);
        let value = object([
            ("met", met.into()),
            ("reason", clip(&reason, LINE).as_ref().into()),
            ("state", or_null(unit.map(|unit| unit.facts.state.as_str()))),
            ("exit", or_null(unit.and_then(|u| u.exits.back()).map(exit))),
            (
                "line",
                or_null(
                    line.as_ref()
                        .map(|line| clip(&line.text, LINE).into_owned()),
                ),
            ),
            ("seq", or_null(line.as_ref().map(|line| line.seq))),
            ("tail", list(tail)),
            ("next", next.into()),
        ]);
        Answer::Data { value, text }
    }

    /// The last lines of what ended or failed; what goes well needs none.
    fn tail(&self, unit: &UnitView, met: bool) -> Vec<String> {
        let failed_build = unit.build.as_ref().filter(|b| b.ok == Some(false));
        match (&self.what, failed_build) {
            (What::Build, Some(build)) => lines(unit.build_log.tail(build.id, TAIL)),
            (What::Ready, Some(build)) if !met => lines(unit.build_log.tail(build.id, TAIL)),
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
        unit: Option<&Arc<UnitView>>,
        line: Option<&Line>,
        last: &[String],
        next: u64,
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
            let _ = writeln!(text, "  {}", clip(&line.text, LINE));
        }
        if let (What::Build | What::Ready, Some(build)) =
            (&self.what, unit.and_then(|unit| unit.build.as_ref()))
            && build.ok == Some(false)
        {
            text.push_str(&errors(build));
        }
        if !last.is_empty() {
            text.push_str("last lines:\n");
            let room = LIMIT.saturating_sub(text.chars().count() + 100);
            text.push_str(&tail(last, room.min(ROOM)));
        }
        bounded(text, "search_logs", &format!("[next {next}]"))
    }
}

impl Follow {
    /// Looks through the lines that came, a bite at a time.
    fn look(&mut self, unit: &UnitView) -> Look {
        for _ in 0..BITES {
            let pulled = self.log.pull(self.cursor, BITE);
            let matches = |line: &&Line| self.matcher.is_match(&line.text);
            if let Some(line) = pulled.lines.iter().find(matches) {
                self.cursor = line.seq;
                return Look::MetBy(line.clone());
            }
            self.cursor = pulled.next;
            self.more = !pulled.lines.is_empty();
            if !self.more {
                return resting(unit).map_or(Look::NotYet, Look::Never);
            }
        }
        Look::NotYet
    }
}

/// Which end it is: two runs may be open at once, so their numbers alone don't rise.
fn identity(exit: &ExitView) -> (u64, i64) {
    (exit.run, exit.at.0)
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
    let building = unit.build.as_ref().is_some_and(under_way);
    if unit.facts.pid.is_some() || unit.facts.next_start.is_some() || building {
        return None;
    }
    let reason = unit.facts.reason.as_deref();
    let because = reason.map(|why| format!(": {why}")).unwrap_or_default();
    let last = unit.exits.back().map(ExitView::words);
    match unit.facts.state {
        State::Stopped if !unit.facts.wanted => {
            Some(format!("it is stopped{because}; start it first"))
        }
        State::Failed => Some(match (reason, last) {
            (None, Some(last)) => format!("it failed: {last}"),
            _ => format!("it failed{because}"),
        }),
        State::Done => Some("it is done: it ended with exit code 0".into()),
        State::Waiting if unit.facts.hopeless => Some(reason?.to_owned()),
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
    let building = unit.build.as_ref().is_some_and(under_way);
    let task = unit.kind == Kind::Task;
    if task && unit.facts.state == State::Done && !building {
        return Look::Met("it ended with exit code 0".into());
    }
    if unit.facts.state == State::Running && unit.facts.ready != Some(false) && !building && !task {
        let build = unit.build.as_ref();
        return Look::Met(match build.filter(|build| build.ok == Some(false)) {
            Some(build) if unit.facts.stale => format!(
                "it is ready, but the run is older than build {}, which failed",
                build.id
            ),
            Some(_) | None => "it is ready".into(),
        });
    }
    resting(unit).map_or(Look::NotYet, Look::Never)
}

fn ended(unit: &UnitView, news: bool) -> Look {
    let words = |exit: &ExitView| {
        let asked = if exit.asked { ", as asked" } else { "" };
        format!(
            "it ended with {}{asked}, after {}",
            exit.words(),
            human(exit.uptime)
        )
    };
    let over = matches!(
        unit.facts.state,
        State::Stopped | State::Done | State::Failed
    );
    match (resting(unit), unit.exits.back()) {
        (_, Some(exit)) if news => Look::Met(words(exit)),
        // Who waits for the end of what has ended has what they wait for.
        (Some(_), Some(exit)) if over => Look::Met(words(exit)),
        (Some(why), _) => Look::Never(why),
        (None, _) => Look::NotYet,
    }
}

fn built(unit: &UnitView, news: bool) -> Look {
    match &unit.build {
        Some(build) if under_way(build) => Look::NotYet,
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
    unit.log
        .find(&query)
        .map(|found| lines(found.lines))
        .unwrap_or_default()
}
