//! Why a process ended: the crash card, for `get_errors`, `get_status`, `bpm why` and the prompt.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::Value;

use super::file::FileChange;
use super::status::{event, event_words, exit};
use super::text::{Reader, bounded, clip, count, doing, recent, tail};
use super::{build, text};
use crate::base::clock::{Mono, human};
use crate::base::json::{list, object, or_null, seconds};
use crate::config::Kind;
use crate::engine::snapshot::{EventView, ExitView, Snapshot, State, UnitView};
use crate::log::search::Line;
use crate::os::proc;

/// Events since the last good run that are told.
const CHANGES: usize = 20;
/// Numbers in a crash's last lines that may be the port it found in use.
const MOST_PORTS: usize = 50;
/// Lines of a failed build.
const BUILD_LINES: usize = 20;

/// The facts about a process's last end that nobody asked for.
pub(super) struct Card {
    pub(super) exit: Option<ExitView>,
    /// The events of the process since its last good run began.
    changed: Vec<Arc<EventView>>,
    /// The last lines of its newest build, if that failed.
    build_tail: Vec<String>,
    file: FileChange,
}

impl Card {
    /// Reads the build log's end: for a worker.
    pub(super) fn of(snapshot: &Snapshot, unit: &UnitView) -> Self {
        let exit = unit.exits.iter().rev().find(|exit| exit.crash).cloned();
        // An event since the end of the last good run may be the cause.
        let good = exit.as_ref().and_then(|bad| {
            let mut earlier = unit.exits.iter().rev().filter(|e| e.run < bad.run);
            earlier.find(|exit| was_good(exit))
        });
        let from = good.map(|exit| exit.at);
        let changed = snapshot
            .events
            .iter()
            .filter(|event| event.process.as_ref() == Some(&unit.name))
            .filter(|event| exit.is_some() && from.is_none_or(|from| event.at >= from))
            .cloned()
            .collect::<Vec<_>>();
        let changed = changed[changed.len().saturating_sub(CHANGES)..].to_vec();
        let build_tail = match unit.build.as_ref().filter(|build| build.ok == Some(false)) {
            Some(build) => texts(unit.build_log.tail(build.id, BUILD_LINES)),
            None => Vec::new(),
        };
        Self {
            exit,
            changed,
            build_tail,
            file: FileChange::of(snapshot),
        }
    }

    /// As data of the CLI's own method.
    pub(super) fn value(&self, unit: &UnitView, now: Mono) -> Value {
        let facts = &unit.facts;
        let card = self.exit.as_ref().map(|last| {
            let mut value = exit(last);
            value["run"] = last.run.into();
            value["words"] = last.words().into();
            value["cpu_seconds"] = seconds(last.cpu);
            value["peak_rss_bytes"] = last.peak_rss.into();
            value
        });
        let tail = self.exit.as_ref().map_or(&[][..], |exit| &exit.tail);
        let hint = self.exit.as_ref().and_then(|exit| hint(unit, exit));
        let next_start = facts.next_start.map(|at| seconds(at.since(now)));
        object([
            ("process", unit.name.as_str().into()),
            ("type", unit.kind.as_str().into()),
            ("state", facts.state.as_str().into()),
            ("reason", or_null(facts.reason.as_deref())),
            ("restarts", facts.restarts.into()),
            ("crashes", facts.crashes.into()),
            ("stale", facts.stale.into()),
            ("rolled_back", facts.rolled_back.into()),
            ("warnings", list(unit.warnings.iter().map(String::as_str))),
            (
                "build",
                or_null(unit.build.as_ref().map(|b| build::value(b, now))),
            ),
            (
                "build_tail",
                list(self.build_tail.iter().map(String::as_str)),
            ),
            ("exit", or_null(card)),
            ("tail", list(tail.iter().map(String::as_str))),
            ("hint", or_null(hint)),
            ("changed", list(self.changed.iter().map(|e| event(e)))),
            ("next_start_in_seconds", or_null(next_start)),
            ("next", outlook(unit, now).into()),
            ("text", self.words(unit, now, Reader::Person).into()),
        ])
    }

    /// For a person, or a model.
    pub(super) fn words(&self, unit: &UnitView, now: Mono, reader: Reader) -> String {
        let mut text = format!("{}: {}\n", unit.name, doing(unit, now));
        for warning in &unit.warnings {
            if !text.contains(warning) {
                let _ = writeln!(text, "warning: {warning}");
            }
        }
        match &self.exit {
            None => text.push_str("it has not ended by itself\n"),
            Some(exit) => {
                let _ = writeln!(
                    text,
                    "last abnormal end: {}, run {}, at {}, after {} (CPU {}, peak memory {} MiB){}",
                    end_words(exit),
                    exit.run,
                    exit.at.rfc3339(),
                    human(exit.uptime),
                    human(exit.cpu),
                    exit.peak_rss / (1024 * 1024),
                    match unit.facts.crashes {
                        0 => String::new(),
                        n => format!("; {} so far", count(n, "such end")),
                    }
                );
                if !exit.tail.is_empty() {
                    text.push_str("its last lines:\n");
                    text.push_str(&tail(&exit.tail, 5_000));
                }
                if let Some(hint) = hint(unit, exit) {
                    let _ = writeln!(text, "hint: {hint}");
                }
            }
        }
        if let Some(build) = unit.build.as_ref().filter(|build| build.ok == Some(false)) {
            let _ = writeln!(text, "build {} failed:", build.id);
            text.push_str(&build::failure(build, &self.build_tail, 3_000));
        }
        if !self.changed.is_empty() {
            text.push_str("what happened since the last good run:\n");
            for event in &self.changed {
                let _ = writeln!(text, "- {}", event_words(event));
            }
        }
        if let Some(changed) = self.file.words(reader) {
            let _ = writeln!(text, "{changed}");
        }
        let _ = write!(text, "what happens next: {}", outlook(unit, now));
        bounded(text, "see the log", "")
    }
}

/// A run that lived for a while was good.
pub(super) fn was_good(exit: &ExitView) -> bool {
    exit.uptime.as_secs() >= if exit.crash { 10 } else { 1 }
}

/// `exit code 3`, `signal TERM (ended by bpm: it was not ready within 4s)`.
pub(super) fn end_words(exit: &ExitView) -> String {
    let fault = exit.fault.as_ref();
    let fault = fault.map_or(String::new(), |why| format!(" (ended by bpm: {why})"));
    exit.words() + &fault
}

/// One end in `get_errors`: how, its last lines, what happens next.
pub(super) fn crash_value(unit: &UnitView, last: &ExitView, room: usize, now: Mono) -> Value {
    let newest = is_newest(unit, last);
    let next_start = unit.facts.next_start.filter(|_| newest);
    let next = newest.then(|| outlook(unit, now));
    object([
        ("process", unit.name.as_str().into()),
        ("run", last.run.into()),
        ("exit", end_words(last).into()),
        ("at", last.at.rfc3339().into()),
        ("tail", list(recent(&last.tail, room))),
        (
            "next_start_in_seconds",
            or_null(next_start.map(|at| seconds(at.since(now)))),
        ),
        ("what_happens_next", or_null(next)),
        ("hint", or_null(hint(unit, last).filter(|_| newest))),
    ])
}

/// The same in words.
pub(super) fn crash_words(unit: &UnitView, last: &ExitView, room: usize, now: Mono) -> String {
    let mut text = format!(
        "{} crashed: {} in run {} after {}, at {}",
        unit.name,
        end_words(last),
        last.run,
        human(last.uptime),
        last.at.rfc3339()
    );
    let newest = is_newest(unit, last);
    if newest {
        let _ = write!(text, "; what happens next: {}", outlook(unit, now));
    }
    text.push('\n');
    text.push_str(&tail(&last.tail, room));
    if let Some(hint) = hint(unit, last).filter(|_| newest) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

fn is_newest(unit: &UnitView, exit: &ExitView) -> bool {
    unit.exits.back().is_some_and(|last| last.run == exit.run)
}

/// The process that listens on the port which a program found in use. Reads `/proc`: for a worker.
fn port_holder(tail: &[String]) -> Option<String> {
    const IN_USE: [&str; 4] = [
        "address already in use",
        "eaddrinuse",
        "address in use",
        "port is already",
    ];
    let says = |line: &&String| {
        let line = line.to_ascii_lowercase();
        IN_USE.iter().any(|words| line.contains(words))
    };
    let numbers = |line: &String| -> Vec<u16> {
        let digits = line.split(|c: char| !c.is_ascii_digit());
        digits.filter_map(|digits| digits.parse().ok()).collect()
    };
    let line = tail.iter().find(says)?;
    // Few say the port in the same line: it stands in the source that a traceback quotes.
    let quoted = tail.iter().flat_map(numbers).filter(|n| *n >= 1_000);
    let ports = numbers(line).into_iter().chain(quoted).take(MOST_PORTS);
    ports.filter(|port| *port > 0).find_map(|port| {
        let (pid, command) = proc::port_holder(Ipv4Addr::UNSPECIFIED.into(), port)?;
        Some(format!("port {port} is in use by pid {pid} ({command})"))
    })
}

fn has_closed_descriptor(tail: &[String]) -> bool {
    let says = |line: &String| line.contains("Bad file descriptor") || line.contains("EBADF");
    tail.iter().any(says)
}

/// A likely cause of an end that says little, and the advice for it.
pub(super) fn hint(unit: &UnitView, exit: &ExitView) -> Option<String> {
    let silent = exit.tail.is_empty();
    if let Some(holder) = port_holder(&exit.tail) {
        return Some(holder);
    }
    if let Some(fault) = &exit.fault {
        return (silent && fault.contains("not ready")).then(|| {
            "it printed nothing: many programs keep their output back where it goes to a pipe; have it flush each \
             line (python -u, stdbuf -oL), or run it with tty = true"
                .into()
        });
    }
    if has_closed_descriptor(&exit.tail) {
        return Some(
            "a descriptor that it uses is closed. With listen: gunicorn takes its sockets by itself and wants no -b; \
             npm, npx, yarn and bun close them"
                .into(),
        );
    }
    let text = match (exit.code, exit.signal.as_deref()) {
        (Some(0), _) if unit.kind != Kind::Task => {
            "a server or a watcher should not end with 0. If its work is done then, say type = \"task\"; if it reads \
             its standard input, say stdin = \"open\"; if it puts itself into the background, start it in the foreground"
        }
        (Some(2), _) => {
            "2 is what Go ends with after a panic, make whatever its program ended with (the log says \"Error N\"), and \
             many programs where an argument is wrong"
        }
        (Some(126), _) => "126 is a shell's: the file is there and cannot be executed",
        (Some(127), _) => "127 is a shell's: there is no such command on PATH",
        (Some(129), _) => {
            "129 is what yarn ends with where its program was ended by a signal, whatever signal; elsewhere it is HUP"
        }
        (Some(130), _) => "130 is how a shell or npm says that its program was ended by INT",
        (Some(134), _) => "134 is how a shell or npm says that its program was ended by ABRT",
        (Some(137), _) => {
            "137 is how a shell or npm says that its program was ended by KILL: perhaps there was no memory left"
        }
        (Some(139), _) => "139 is how a shell or npm says that its program was ended by SEGV",
        (Some(143), _) => "143 is how a shell or npm says that its program was ended by TERM",
        (_, Some("KILL")) if exit.oom => "the kernel ended it since there was no memory left",
        (_, Some("KILL")) => "something other than bpm ended it with KILL",
        _ => return None,
    };
    Some(text.into())
}

/// Texts of lines.
pub(super) fn texts(lines: Vec<Line>) -> Vec<String> {
    lines.into_iter().map(|line| line.text).collect()
}

/// The next step of bpm's own if nobody does anything.
pub(super) fn outlook(unit: &UnitView, now: Mono) -> String {
    let facts = &unit.facts;
    if let Some(at) = facts.next_start {
        let what = match facts.state {
            State::Failed => "it is built again",
            State::Stopped
            | State::Waiting
            | State::Building
            | State::Starting
            | State::Running
            | State::Stopping
            | State::Crashed
            | State::Done => "it starts again",
        };
        return format!("{what} in {}", human(at.since(now)));
    }
    match facts.state {
        State::Stopped => "nothing, until somebody starts it".into(),
        State::Failed if unit.kind == Kind::Task => {
            "nothing, until somebody starts it again".into()
        }
        State::Failed => "nothing: bpm gave up; restart it once the cause is fixed".into(),
        State::Done => "nothing: it ended well and is not restarted".into(),
        State::Waiting => match &facts.reason {
            Some(reason) => format!("it starts once that is over: {}", clip(reason, text::LINE)),
            None => "it starts once what it depends on is there".into(),
        },
        State::Building => "it starts once its build is done".into(),
        State::Starting => "bpm waits until it is ready".into(),
        State::Running if facts.rolled_back => {
            "the previous build goes on; restart it once the cause is fixed".into()
        }
        State::Running => "it runs".into(),
        State::Stopping if facts.wanted => "it ends, and then starts again".into(),
        State::Stopping => "it ends".into(),
        State::Crashed => "it starts again".into(),
    }
}

/// The last lines of a process whose last end was a crash, in `get_status` of it alone.
pub(super) fn last_lines(unit: &UnitView) -> Vec<String> {
    let last = unit.exits.back().filter(|exit| exit.crash);
    last.map(|exit| recent(&exit.tail, 2_000))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named_wherever_the_port_stands() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let us = format!("port {port} is in use by pid {} (", std::process::id());
        for lines in [
            vec![format!(
                "Error: listen EADDRINUSE: address already in use 127.0.0.1:{port}"
            )],
            vec![
                format!("    HTTPServer((\"127.0.0.1\", {port}), Handler)"),
                "OSError: [Errno 98] Address already in use".into(),
            ],
        ] {
            // A child that another test has just forked holds the port as well, until it executes its program.
            let names_us = |_| port_holder(&lines).is_some_and(|said| said.starts_with(&us));
            assert!((0..10_000).any(names_us), "{:?}", port_holder(&lines));
        }
        assert_eq!(port_holder(&[format!("listening on {port}")]), None);
    }

    #[test]
    fn closed_descriptor_is_known_in_either_language() {
        for line in [
            "OSError: [Errno 9] Bad file descriptor",
            "Error: listen EBADF: bad file descriptor",
        ] {
            assert!(has_closed_descriptor(&["Traceback".into(), line.into()]));
        }
        assert!(!has_closed_descriptor(&["file is bad".into()]));
    }
}
