//! The text of `get_status`.

use std::fmt::Write as _;

use crate::base::clock::{Mono, human};
use crate::config::Mode;
use crate::engine::snapshot::{EventView, State, UnitView};
use crate::tools::text::{LIMIT, Reader, bounded, clip, count, escaped, shown, spelled, thousands};
use crate::tools::{VERSION, build, why};

use super::*;

/// The same for a client that reads texts, in the form of the first background-process-manager: what it reads
/// stands in lines of two blanks, a name and a colon; no other line begins so.
pub(super) fn words(view: &View<'_>, wish: &Wish, part: &Part<'_>, reader: Reader) -> String {
    let View {
        snapshot,
        usage,
        now,
        ..
    } = *view;
    let Part {
        events,
        next,
        missed,
        units,
    } = part;
    let mut text = match snapshot.mode {
        Mode::Dev => String::from("Mode: Dev\n"),
        Mode::Release => String::from("Mode: Release\n"),
    };
    if let Some(at) = snapshot.release_at {
        let _ = writeln!(text, "Time until release mode: {}", spelled(at.since(now)));
    }
    daemon_words(&mut text, view, wish.verbose);
    if let Some(changed) = usage.file.words(reader) {
        let _ = writeln!(text, "{changed}");
    }
    if *missed > 0 {
        let are = if *missed == 1 { "is" } else { "are" };
        let _ = writeln!(
            text,
            "{} {are} no longer known",
            count(*missed, "earlier event")
        );
    }
    for event in events.iter().filter(|event| event.process.is_none()) {
        let _ = writeln!(text, "{}", event_words(event));
    }
    text.push_str("Processes:\n");
    let mut room = LIMIT.saturating_sub(escaped(&text).chars().count() + 300);
    let mut shown = 0;
    for unit in units {
        let of = |event: &&&EventView| event.process.as_ref() == Some(&unit.name);
        let own: Vec<_> = events.iter().filter(of).collect();
        let block = block(unit, &own, view, wish);
        let size = escaped(&block).chars().count();
        if size > room && shown > 0 {
            break;
        }
        room = room.saturating_sub(size);
        text.push_str(&block);
        shown += 1;
    }
    let left = &units[shown..];
    if !left.is_empty() {
        let states = by_state(left.iter().map(|unit| unit.facts.state));
        let states: Vec<String> = states.iter().map(|(s, n)| format!("{n} {s}")).collect();
        let _ = writeln!(
            text,
            "\n[{} more processes left out: {}; ask for one with process]",
            left.len(),
            states.join(", ")
        );
    }
    let next = match reader {
        Reader::Model => format!("\n[next {next}]"),
        Reader::Person => String::new(),
    };
    bounded(text, "ask for one process", &next)
}

fn daemon_words(text: &mut String, view: &View<'_>, verbose: bool) {
    let (snapshot, now) = (view.snapshot, view.now);
    let id = &view.handle.identity;
    if id.is_nobody() {
        return;
    }
    let _ = write!(
        text,
        "Daemon: bpm {VERSION} of {}, pid {}, up {}",
        snapshot.project,
        id.pid,
        human(now.since(id.started))
    );
    if let Some(url) = id.url.as_ref().filter(|_| verbose) {
        let _ = write!(text, ", {url}");
    }
    if snapshot.stopping {
        text.push_str(", stopping");
    }
    text.push('\n');
    for warning in &snapshot.warnings {
        let _ = writeln!(text, "Warning: {warning}");
    }
    if let Some(end) = &id.previous_end {
        let _ = writeln!(text, "The daemon before this one: {end}");
    }
}

/// One process: its state, and what there is to say.
fn block(unit: &UnitView, events: &[&&EventView], view: &View<'_>, wish: &Wish) -> String {
    let facts = &unit.facts;
    let now = view.now;
    let mut text = format!("\n  {}: {}\n", unit.name, facts.state.as_str());
    let mut say = |what: &str, words: &str| {
        let _ = writeln!(text, "    {what}: {words}");
    };
    if let (Some(at), Some(pid)) = (facts.started, facts.pid) {
        let mode = match unit.builds && facts.mode != view.snapshot.mode {
            true => format!(", {}", facts.mode.as_str()),
            false => String::new(),
        };
        say(
            "Uptime",
            &format!("{} (pid {pid}{mode})", human(now.since(at))),
        );
    }
    if let Some(url) = url(unit, view.usage).filter(|_| facts.pid.is_some()) {
        say("URL", &url);
    }
    if facts.crashes > 0 {
        say("Crash count", &thousands(facts.crashes));
    }
    if let Some(reason) = &facts.reason {
        say("why", &clip(reason, 500));
    }
    if facts.state == State::Running && facts.ready == Some(false) {
        say("ready", "not yet");
    }
    if let Some(healthy) = facts.healthy {
        say("health", if healthy { "good" } else { "its check fails" });
    }
    if let Some(at) = facts.next_start {
        say("next start", &format!("in {}", human(at.since(now))));
    }
    if facts.rolled_back {
        say("rolled back", "the previous build runs");
    }
    if unit.adopted {
        say("adopted", "from the daemon before this one");
    }
    for warning in &unit.warnings {
        say("warning", warning);
    }
    if let Some(why) = unit.log_trouble() {
        say("log", &format!("{why}; its new lines are in memory only"));
    }
    if wish.process.is_some() || wish.verbose {
        usage_words(&mut say, unit, view);
    }
    build_words(&mut say, unit, now, wish);
    let last = unit
        .exits
        .back()
        .filter(|exit| exit.crash || wish.process.is_some());
    if let Some(exit) = last {
        let asked = match exit.asked && exit.fault.is_none() {
            true => " (asked)",
            false => "",
        };
        let (at, uptime) = (exit.at.rfc3339(), human(exit.uptime));
        let line = crash_line(unit).filter(|_| wish.process.is_none());
        let line = line.map(|line| format!("; last line: {}", clip(line, LAST_LINE)));
        let end = why::end_words(exit);
        let line = line.unwrap_or_default();
        say(
            "last exit",
            &format!("{end}{asked}, {at}, after {uptime}{line}"),
        );
    }
    if wish.process.is_some() {
        let lines = why::last_lines(unit);
        if !lines.is_empty() {
            text.push_str("    the last lines of that run:\n");
        }
        for line in lines {
            let _ = writeln!(text, "      {}", shown(&line, 500));
        }
    }
    if !events.is_empty() {
        text.push_str("    Recent events:\n");
    }
    for event in events {
        let _ = writeln!(text, "      - {}", event_words(event));
    }
    text
}

/// The lines on resources and output.
fn usage_words(say: &mut impl FnMut(&str, &str), unit: &UnitView, view: &View<'_>) {
    let facts = &unit.facts;
    say("type", unit.kind.as_str());
    let used = facts.pid.and_then(|pid| view.usage.of(pid));
    if let Some((used, group)) = used.and_then(|used| Some((used, used.group.as_ref()?))) {
        if !group.ports.is_empty() {
            let ports = group.ports.iter().map(|at| match at.ip().is_unspecified() {
                true => format!("*:{}", at.port()),
                false => at.port().to_string(),
            });
            say("ports", &ports.collect::<Vec<_>>().join(" "));
        }
        let mut text = format!(
            "{} MiB, {}",
            group.rss / (1024 * 1024),
            count(group.tasks, "task")
        );
        if let Some(percent) = used.cpu_percent {
            let _ = write!(text, ", cpu {percent} %");
        }
        say("usage", &text);
    }
    if facts.restarts > 0 {
        say("restarts", &thousands(facts.restarts));
    }
    if !unit.depends_on.is_empty() {
        say("depends on", &unit.depends_on.join(" "));
    }
    if view.handle.identity.is_nobody() {
        // Lines on disk are not counted.
        return;
    }
    let log = unit.log.stats();
    let mut text = count(log.lines, "line");
    if let Some(at) = log.last_output {
        let _ = write!(text, ", the last {} ago", human(view.now.since(at)));
    }
    say("printed", &text);
}

fn build_words(say: &mut impl FnMut(&str, &str), unit: &UnitView, now: Mono, wish: &Wish) {
    let Some(build) = &unit.build else {
        return;
    };
    let under_way = build.state.is_under_way();
    if !under_way && build.ok != Some(false) && wish.process.is_none() {
        return;
    }
    let mut text = format!("{} {}", build.id, build.state.as_str());
    if let Some(phase) = &build.phase {
        let _ = write!(text, " ({phase})");
    }
    match (build.took, build.began) {
        (Some(took), _) => {
            let _ = write!(text, " after {}", human(took));
        }
        (None, Some(began)) => {
            let _ = write!(text, " for {}", human(now.since(began)));
        }
        (None, None) => {}
    }
    if unit.facts.stale && build.ok == Some(false) {
        text.push_str("; what runs is older");
    }
    let errors = &build.errors;
    for error in errors.list.iter().take(SHORT_ERRORS) {
        let _ = write!(text, "\n      {}", build::headline(error));
    }
    if errors.count > SHORT_ERRORS as u64 {
        let _ = write!(text, "\n      {SHORT_ERRORS} of {} errors", errors.count);
    }
    say("build", &text);
}
