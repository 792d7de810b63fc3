//! Texts for a model: short lines, bounded, cut where it hurts least.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::base::clock::{Mono, human};
pub(super) use crate::base::json::thousands;
use crate::engine::snapshot::{BuildView, UnitView};

/// Characters of an answer, unless `max_chars` says otherwise: some clients cut at 10,000.
pub(super) const LIMIT: usize = 10_000;
/// A line longer than this is clipped in its middle.
pub(super) const LINE: usize = 1_000;

/// At most `max` characters: the middle of a longer line is replaced by how much it was.
pub(super) fn clip(line: &str, max: usize) -> Cow<'_, str> {
    // A line of at most so many bytes has at most so many characters: the usual case counts nothing.
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
pub(super) fn bounded(mut text: String, more: &str, last: &str) -> String {
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

/// The last lines that fit into `room` characters as [`tail`] writes them, clipped.
pub(super) fn recent(lines: &[String], room: usize) -> Vec<String> {
    let lines = lines.iter().map(|line| clip(line, LINE).into_owned());
    let mut lines: Vec<String> = lines.collect();
    let mut used = 0;
    let fits = |line: &&String| {
        used += line.chars().count() + 3;
        used <= room
    };
    let keep = lines.iter().rev().take_while(fits).count();
    lines.drain(..lines.len() - keep);
    lines
}

/// The last lines that fit into `room` characters, each indented and clipped.
pub(super) fn tail(lines: &[String], room: usize) -> String {
    let mut text = String::new();
    for line in recent(lines, room) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// `src/main.rs:3:5: E0308: mismatched types`, one a line, ten at most.
pub(super) fn errors(build: &BuildView) -> String {
    const MOST: usize = 10;
    let mut text = String::new();
    for error in build.errors.list.iter().take(MOST) {
        if let Some(file) = &error.file {
            text.push_str(file);
            for n in [error.line, error.column].into_iter().flatten() {
                let _ = write!(text, ":{n}");
            }
            text.push_str(": ");
        }
        text.push_str(&clip(&error.message, LINE / 2));
        text.push('\n');
    }
    if build.errors.count > MOST as u64 {
        let _ = writeln!(text, "and {} more errors", build.errors.count - MOST as u64);
    }
    text
}

/// What a process is doing, in a few words: `building (compiling) for 12s`, `running, pid 4711`.
pub(super) fn doing(unit: &UnitView, now: Mono) -> String {
    let mut text = unit.facts.state.as_str().to_owned();
    if unit.facts.ready == Some(true) {
        text.push_str(", ready");
    }
    if let Some(pid) = unit.facts.pid {
        let _ = write!(text, ", pid {pid}");
    }
    if let Some(build) = unit.build.as_ref().filter(|b| under_way(b)) {
        let _ = write!(text, "; build {} {}", build.id, build.state.as_str());
        if let Some(phase) = &build.phase {
            let _ = write!(text, " ({phase})");
        }
        if let Some(began) = build.began {
            let _ = write!(text, " for {}", human(now.since(began)));
        }
    }
    if let Some(at) = unit.facts.next_start {
        let _ = write!(text, "; next start in {}", human(at.since(now)));
    }
    if let Some(reason) = &unit.facts.reason {
        let _ = write!(text, "; {}", clip(reason, LINE));
    }
    text
}

/// A build that has not ended yet.
pub(super) fn under_way(build: &BuildView) -> bool {
    build.state.is_under_way()
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
