//! Texts for a model or a person: short lines, bounded, cut where it hurts least.
//!
//! A process's output stands behind three columns, so that text at the margin is bpm's own.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::{Mono, human};
pub(super) use crate::base::escape::escaped;
use crate::base::json::object;
pub(super) use crate::base::json::thousands;
use crate::engine::snapshot::UnitView;
use crate::server::service::{Caller, ClientKind};

/// Characters of an answer, unless `max_chars` says otherwise: some clients cut at 10,000.
pub(super) const LIMIT: usize = 10_000;
/// A line longer than this is clipped in its middle.
pub(super) const LINE: usize = 1_000;
/// Before a line of a process.
pub(super) const MARGIN: &str = "   ";
/// Before one that matches.
pub(super) const MATCH: &str = " * ";

/// A text's reader: a model is named the tool to call next, a person the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Model,
    Person,
}

impl From<&Caller> for Reader {
    fn from(caller: &Caller) -> Self {
        match caller.kind {
            ClientKind::Agent | ClientKind::Proxy => Self::Model,
            ClientKind::Cli | ClientKind::Tui | ClientKind::Page => Self::Person,
        }
    }
}

/// The call that goes on where an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NextCall {
    tool: &'static str,
    arguments: Value,
}

impl NextCall {
    pub(super) fn new<const N: usize>(
        tool: &'static str,
        arguments: [(&'static str, Value); N],
    ) -> Self {
        let arguments = object(arguments);
        Self { tool, arguments }
    }

    /// With an argument more.
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.arguments[name] = value;
        self
    }

    /// As data: `{"tool": "wait", "arguments": {...}}`.
    pub(super) fn value(&self) -> Value {
        object([
            ("tool", self.tool.into()),
            ("arguments", self.arguments.clone()),
        ])
    }

    /// `wait {"process":"web"}`.
    pub(super) fn words(&self) -> String {
        format!("{} {}", self.tool, self.arguments)
    }
}

/// Where more of a log is shown.
pub(super) fn more_of(reader: Reader, process: &str, build: bool) -> String {
    match (reader, build) {
        (Reader::Model, true) => format!("search_build_log {{\"process\":\"{process}\"}}"),
        (Reader::Model, false) => format!("search_logs {{\"process\":\"{process}\"}}"),
        (Reader::Person, true) => format!("\"bpm logs --build {process}\""),
        (Reader::Person, false) => format!("\"bpm logs {process}\""),
    }
}

/// An order as a reader gives it: `restart {"process":"web"}`, `"bpm restart web"`.
pub(super) fn order_of(reader: Reader, verb: &str, process: &str) -> String {
    match reader {
        Reader::Model => format!("{verb} {{\"process\":\"{process}\"}}"),
        Reader::Person => format!("\"bpm {verb} {process}\""),
    }
}

/// At most `max` characters: the middle of a longer line is replaced by how much it was.
pub(super) fn clip(line: &str, max: usize) -> Cow<'_, str> {
    // A line of so few bytes has no more characters: the usual case counts nothing.
    if line.len() <= max {
        return Cow::Borrowed(line);
    }
    let chars = line.chars().count();
    if chars <= max {
        return Cow::Borrowed(line);
    }
    let keep = max.saturating_sub(40) / 2;
    let cut_at = |n: usize| line.char_indices().nth(n).map_or(line.len(), |(at, _)| at);
    let (head, tail) = (&line[..cut_at(keep)], &line[cut_at(chars - keep)..]);
    Cow::Owned(format!(
        "{head}...[{} characters left out]...{tail}",
        thousands((chars - 2 * keep) as u64)
    ))
}

/// A line of a process as a text shows it, without its margin.
pub(super) fn shown(line: &str, max: usize) -> String {
    clip(&escaped(line), max).into_owned()
}

/// How many of these lines fit into `room` characters, a newline after each; counted from the end
/// where the newest matter, else from the beginning.
pub(super) fn fitting<'a>(
    lines: impl DoubleEndedIterator<Item = &'a str>,
    room: usize,
    from_end: bool,
) -> usize {
    let count = |lines: &mut dyn Iterator<Item = &'a str>| {
        let mut used = 0;
        lines
            .take_while(|line| {
                used += line.chars().count() + 1;
                used <= room
            })
            .count()
    };
    if from_end {
        count(&mut lines.rev())
    } else {
        count(&mut lines.into_iter())
    }
}

/// The text itself where it fits, else its first lines, and that there was more; and `last` in any case.
pub(super) fn bounded(text: String, more: &str, last: &str) -> String {
    let mut text = match escaped(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    };
    if text.len() + last.len() <= LIMIT || text.chars().count() + last.len() <= LIMIT {
        text.push_str(last);
        return text;
    }
    let room = LIMIT - more.chars().count() - last.len() - 50;
    let keep = fitting(text.lines(), room, false);
    let mut short = String::with_capacity(LIMIT);
    for line in text.lines().take(keep) {
        short.push_str(line);
        short.push('\n');
    }
    let left = text.lines().count() - keep;
    let _ = write!(short, "[{left} more lines left out: {more}]");
    if !last.is_empty() {
        let _ = write!(short, "\n{last}");
    }
    short
}

/// The last lines that fit into `room` characters as [`quoted`] writes them, clipped.
pub(super) fn recent(lines: &[String], room: usize) -> Vec<String> {
    let lines = lines.iter().map(|line| clip(line, LINE).into_owned());
    let mut lines: Vec<String> = lines.collect();
    let mut used = 0;
    let fits = |line: &&String| {
        used += line.chars().count() + MARGIN.len() + 1;
        used <= room
    };
    let keep = lines.iter().rev().take_while(fits).count();
    lines.drain(..lines.len() - keep);
    lines
}

/// Lines of a process, each behind its margin.
pub(super) fn quoted(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "{MARGIN}{}", shown(line, LINE));
    }
    text
}

/// The last lines that fit into `room` characters.
pub(super) fn tail(lines: &[String], room: usize) -> String {
    let escaped: Vec<String> = lines
        .iter()
        .map(|line| escaped(line).into_owned())
        .collect();
    quoted(&recent(&escaped, room))
}

/// `last line of the run:`, `last 20 lines of the build:`.
pub(super) fn last_of(lines: usize, of: &str) -> String {
    match lines {
        1 => format!("last line of the {of}:\n"),
        n => format!("last {n} lines of the {of}:\n"),
    }
}

/// The state of a process in a few words: `building (compiling) for 12s`, `running, pid 4711`.
pub(super) fn doing(unit: &UnitView, now: Mono) -> String {
    let facts = &unit.facts;
    let mut text = facts.state.as_str().to_owned();
    if facts.ready == Some(true) {
        text.push_str(", ready");
    }
    if let Some(pid) = facts.pid {
        let _ = write!(text, ", pid {pid}");
    }
    if let Some(build) = unit.build.as_ref().filter(|b| b.state.is_under_way()) {
        let _ = write!(text, "; build {} {}", build.id, build.state.as_str());
        if let Some(phase) = &build.phase {
            let _ = write!(text, " ({phase})");
        }
        if let Some(began) = build.began {
            let _ = write!(text, " for {}", human(now.since(began)));
        }
    }
    if let Some(at) = facts.next_start {
        let _ = write!(text, "; next start in {}", human(at.since(now)));
    }
    if let Some(reason) = &facts.reason {
        let _ = write!(text, "; {}", clip(reason, LINE));
    }
    text
}

/// `2 hours 58 minutes`: two units at the most.
pub(super) fn spelled(span: Duration) -> String {
    let s = span.as_secs();
    let [(large, n), (small, m)] = match s {
        0..60 => return count(s, "second"),
        60..3_600 => [("minute", s / 60), ("second", s % 60)],
        3_600..86_400 => [("hour", s / 3_600), ("minute", s / 60 % 60)],
        _ => [("day", s / 86_400), ("hour", s / 3_600 % 24)],
    };
    match m {
        0 => count(n, large),
        _ => format!("{} {}", count(n, large), count(m, small)),
    }
}

/// `1 line`, `2 lines`.
pub(super) fn count(n: u64, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {noun}{s}", thousands(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1_234, "1,234"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(thousands(n), text);
        }
    }

    #[test]
    fn spans_are_spelled_out() {
        for (seconds, text) in [
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (10_680, "2 hours 58 minutes"),
            (90_000, "1 day 1 hour"),
        ] {
            assert_eq!(spelled(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn hidden_characters_are_written_out() {
        let tags = "a\u{e0041}\u{202e}b\u{2066}\u{200b}\u{2028}\u{85}\0\tc\n";
        assert_eq!(
            escaped(tags),
            "a\\u{e0041}\\u{202e}b\\u{2066}\\u{200b}\\u{2028}\\u{85}\\u{0}\tc\n"
        );
        assert_eq!(escaped("plain, ä, 日本"), "plain, ä, 日本");
        assert_eq!(shown("\u{1b}[31m", LINE), "\\u{1b}[31m");
    }

    #[test]
    fn a_long_line_is_clipped_in_its_middle() {
        let line: String = ('a'..='z').cycle().take(5_000).collect();
        let short = clip(&line, LINE);
        assert!(short.chars().count() <= LINE);
        assert!(short.starts_with("abc") && short.ends_with(&line[line.len() - 100..]));
        assert!(short.contains("[4,040 characters left out]"), "{short}");
        // Letters of two bytes are counted, not their bytes.
        let wide = "ä".repeat(LINE);
        assert_eq!(clip(&wide, LINE), wide.as_str());
        assert!(clip(&"ä".repeat(LINE + 1), LINE).chars().count() <= LINE);
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_line() {
        let lines = ["one", "two", "three"];
        assert_eq!(fitting(lines.into_iter(), 8, false), 2);
        assert_eq!(fitting(lines.into_iter(), 10, true), 2);
        assert_eq!(fitting(lines.into_iter(), 2, true), 0);
        let long = bounded("0123456789\n".repeat(2_000), "ask for one", "");
        assert!(long.chars().count() <= LIMIT);
        assert!(
            long.ends_with("more lines left out: ask for one]"),
            "{long}"
        );
        let long = bounded("0123456789\n".repeat(2_000), "ask for one", "[next 7]");
        assert!(long.chars().count() <= LIMIT);
        assert!(long.ends_with("ask for one]\n[next 7]"), "{long}");
        assert_eq!(bounded("short".into(), "x", ""), "short");
        assert_eq!(
            bounded("short\n".into(), "x", "[next 7]"),
            "short\n[next 7]"
        );
    }
}
