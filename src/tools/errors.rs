//! `get_errors`: what looks like an error or a warning, a group for each shape, as data and in a few
//! lines.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Tools;
use super::logs::{self, Search};
use super::schema::{Args, Field, Shape};
use super::text::{LIMIT, clip, fitting, thousands};
use crate::base::json::{list, object};
use crate::engine::snapshot::UnitView;
use crate::log::search::{Errors, Group, Query, QueryError};
use crate::server::service::{Answer, Caller, Step};

/// Groups of an answer, unless `max` says otherwise.
const GROUPS: usize = 10;
/// The most that `max` may ask for.
pub(super) const MOST_GROUPS: i64 = 100;
/// Characters that what stands below the groups may take.
const NOTES: usize = 500;
/// Characters that what stands above a sample may take.
const HEAD: usize = 110;
/// A sample has so many characters at least, however many groups there are.
const SAMPLE: usize = 200;
/// Every line is looked at, so it may take longer than a search.
const BUDGET: Duration = Duration::from_secs(2);

pub(super) const OUTPUT: &[Field] = {
    use Shape::{Always, Many};
    &[
        Field("process", Always("string"), ""),
        Field(
            "groups",
            Many(&[
                Field("count", Always("integer"), ""),
                Field("first", Always("string"), ""),
                Field("last", Always("string"), ""),
                Field("level", Always("string"), "error or warning"),
                Field("sample", Always("string"), "the first one, with its stack"),
                Field("seq", Always("integer"), "of the sample"),
            ]),
            "errors before warnings, then the most frequent",
        ),
        Field("searched", Always("integer"), "lines"),
        Field("next", Always("integer"), "pass it as after"),
    ]
};

/// The tool.
pub(super) fn get_errors(tools: &Tools, _: &Caller, args: Args<'_>) -> Result<Step, String> {
    let unit = tools.unit(args)?;
    let builds = args.flag("build").unwrap_or(false);
    let max = args.size("max").unwrap_or(GROUPS);
    let query = Query {
        index: args.whole("index").unwrap_or(-1),
        after: args.count("after"),
        budget: BUDGET,
        ..Query::default()
    };
    Ok(Step::Work(Box::new(move || {
        match find(&unit, builds, &query, max) {
            Ok(found) => answer(&unit, builds, found),
            Err(why) => Answer::Fail(why),
        }
    })))
}

/// Of a process that has not run yet: nothing.
fn find(unit: &UnitView, builds: bool, query: &Query, max: usize) -> Result<Errors, String> {
    let log = logs::log(unit, builds);
    match log.find_errors(query, max) {
        Err(QueryError::NoRun { known: 0, .. }) => Ok(Errors {
            next: log.next_seq().saturating_sub(1),
            ..Errors::default()
        }),
        found => found.map_err(|e| logs::refusal(&unit.name, builds, &e)),
    }
}

fn answer(unit: &Arc<UnitView>, builds: bool, mut found: Errors) -> Answer {
    let share = (LIMIT - NOTES) / found.groups.len().max(1);
    let room = share.saturating_sub(HEAD).max(SAMPLE);
    for group in &mut found.groups {
        group.sample = shortened(&group.sample, room);
    }
    let nothing = if found.searched == 0 {
        Search::newest(unit, builds, 0).has_no_run()
    } else {
        None
    };
    Answer::Data {
        text: text(&found, nothing),
        value: object([
            ("process", unit.name.as_str().into()),
            ("groups", list(found.groups.iter().map(value))),
            ("searched", found.searched.into()),
            ("next", found.next.into()),
        ]),
    }
}

fn value(group: &Group) -> Value {
    object([
        ("count", group.count.into()),
        ("first", group.first.rfc3339().into()),
        ("last", group.last.rfc3339().into()),
        ("level", group.level.as_str().into()),
        ("sample", group.sample.as_str().into()),
        ("seq", group.seq.into()),
    ])
}

/// The first lines of a sample, each indented in the text: two characters more.
fn shortened(sample: &str, room: usize) -> String {
    let lines: Vec<_> = sample.lines().map(|line| clip(line, room - 20)).collect();
    let costs: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
    let keep = fitting(costs.iter().map(String::as_str), room - 10, false).max(1);
    let mut text = lines[..keep.min(lines.len())].join("\n");
    if keep < lines.len() {
        text.push_str("\n...");
    }
    text
}

/// The groups, what is to be said about them, and the cursor; `nothing`: why there is no log.
fn text(found: &Errors, nothing: Option<String>) -> String {
    let pieces: Vec<String> = found.groups.iter().map(piece).collect();
    let shown = fitting(pieces.iter().map(String::as_str), LIMIT - NOTES, false);
    let mut text = String::new();
    for piece in &pieces[..shown] {
        text.push_str(piece);
        text.push('\n');
    }
    for note in notes(found, shown, nothing) {
        let _ = writeln!(text, "{note}");
    }
    let _ = write!(
        text,
        "[{shown} groups in {} lines | next {}]",
        thousands(found.searched),
        found.next
    );
    text
}

/// `12x error, 2026-11-21T05:00:00.123Z to 2026-11-21T05:10:00.000Z, seq 11`, and the sample.
fn piece(group: &Group) -> String {
    let mut text = format!("{}x {}, ", thousands(group.count), group.level.as_str());
    text.push_str(&group.first.rfc3339());
    if group.count > 1 {
        let _ = write!(text, " to {}", group.last.rfc3339());
    }
    let _ = write!(text, ", seq {}", group.seq);
    for line in group.sample.lines() {
        let _ = write!(text, "\n  {line}");
    }
    text
}

/// What else has to be said, a line each.
fn notes(found: &Errors, shown: usize, nothing: Option<String>) -> Vec<String> {
    let mut notes = Vec::new();
    let left = found.groups.len() - shown + found.more_groups;
    if left > 0 {
        notes.push(format!(
            "[{left} more groups left out: raise max (to {MOST_GROUPS} at most), or read on from a later cursor with after]"
        ));
    }
    if found.others > 0 {
        notes.push(format!(
            "[{} more such lines, of too many shapes to be told apart]",
            thousands(found.others)
        ));
    }
    if found.stopped_early {
        notes.push(format!(
            "[it ended at its time limit after {} lines, newer ones were not looked at: narrow it with after]",
            thousands(found.searched)
        ));
    }
    notes.extend(logs::gone(found.dropped));
    if found.groups.is_empty() {
        notes.push(nothing.unwrap_or_else(|| {
            format!(
                "no line looks like an error or a warning ({} searched)",
                thousands(found.searched)
            )
        }));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Wall;
    use crate::log::search::Severity;

    fn group(count: u64, sample: &str) -> Group {
        Group {
            count,
            first: Wall(0),
            last: Wall(1_500),
            level: Severity::Error,
            sample: sample.into(),
            seq: 7,
            run: 1,
        }
    }

    #[test]
    fn a_group_is_a_line_and_its_sample() {
        assert_eq!(
            piece(&group(1_200, "a\n    at b")),
            "1,200x error, 1970-01-01T00:00:00.000Z to 1970-01-01T00:00:01.500Z, seq 7\n  a\n      at b"
        );
        assert_eq!(
            piece(&group(1, "a")),
            "1x error, 1970-01-01T00:00:00.000Z, seq 7\n  a"
        );
    }

    #[test]
    fn an_answer_of_many_long_samples_stays_within_its_bounds() {
        for count in [1, 10, 100] {
            let sample = vec!["x".repeat(400); 13].join("\n");
            let room = ((LIMIT - NOTES) / count).saturating_sub(HEAD).max(SAMPLE);
            let short = shortened(&sample, room);
            assert!(short.chars().count() <= room, "{count}");
            let found = Errors {
                groups: vec![group(u64::MAX, &short); count],
                more_groups: 5,
                others: u64::MAX,
                searched: u64::MAX,
                dropped: u64::MAX,
                stopped_early: true,
                next: u64::MAX,
            };
            let text = text(&found, None);
            assert!(text.chars().count() <= LIMIT, "{}", text.len());
            if count <= 10 {
                assert!(text.contains("[5 more groups left out"), "{text}");
            }
        }
        assert_eq!(shortened("a\n b", 200), "a\n b");
    }
}
