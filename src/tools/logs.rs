//! `search_logs` and `search_build_log`: a query from arguments, and what it found as a text for a
//! model or as JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::Value;

use super::Tools;
use super::schema::Args;
use super::text::{LIMIT, LINE, clip, fitting, thousands};
use crate::base::clock::{Wall, parse_span};
use crate::base::json::{brief, list, object, or_null};
use crate::engine::snapshot::{State, UnitView};
use crate::log::search::{Found, Line, Query, QueryError, Stream};
use crate::log::store::Log;
use crate::server::service::{Answer, Caller, Step};

/// Lines without `head` and `tail`.
pub(super) const TAIL: usize = 200;
/// Characters that what stands below the lines may take.
const NOTES: usize = 400;
/// Characters around a line of a text: its mark, what separates groups, the newline.
const FRAME: usize = 8;
/// The same in JSON: names, time, punctuation.
const JSON_FRAME: usize = 140;

/// The tool `search_logs`.
pub(super) fn search_logs(tools: &Tools, _: &Caller, args: Args<'_>) -> Result<Step, String> {
    search(tools, args, false)
}

/// The tool `search_build_log`.
pub(super) fn search_build_log(tools: &Tools, _: &Caller, args: Args<'_>) -> Result<Step, String> {
    search(tools, args, true)
}

fn search(tools: &Tools, args: Args<'_>, builds: bool) -> Result<Step, String> {
    let limit = args.size("max_chars").unwrap_or(LIMIT);
    let search = Search {
        unit: tools.unit(args)?,
        builds,
        query: query(args, limit, Wall::now())?,
        json: args.text("format") == Some("json"),
        limit,
    };
    Ok(Step::Work(Box::new(move || search.answer())))
}

fn query(args: Args<'_>, limit: usize, now: Wall) -> Result<Query, String> {
    let (head, tail) = (args.size("head"), args.size("tail"));
    let since = args
        .text("since")
        .map(|text| moment(text, now))
        .transpose()?;
    // A line takes a character at least, so more lines than characters can't be shown.
    let shown = |n: usize| n.min(limit);
    Ok(Query {
        pattern: args.text("pattern").map(str::to_owned),
        literal: args.flag("literal").unwrap_or(false),
        ignore_case: args.flag("ignore_case").unwrap_or(false),
        context: args.size("context_lines").unwrap_or(0),
        head: head.filter(|_| tail.is_none()).map(shown),
        tail: tail.or(head.is_none().then_some(TAIL)).map(shown),
        index: args.whole("index").unwrap_or(-1),
        after: args.count("after"),
        since,
        stream: args.text("stream").and_then(stream),
        ..Query::default()
    })
}

/// `5m` ago, or a time.
pub(super) fn moment(text: &str, now: Wall) -> Result<Wall, String> {
    Wall::parse_rfc3339(text)
        .or_else(|| parse_span(text).map(|span| now.before(span)))
        .ok_or_else(|| {
            format!(
                "cannot read \"since\" {:?}: give a span such as \"90s\", \"5m\", \"1h30m\", or a time such as \"{}\"",
                brief(text),
                now.rfc3339()
            )
        })
}

/// By its name.
pub(super) fn stream(name: &str) -> Option<Stream> {
    Stream::ALL
        .into_iter()
        .find(|stream| stream.as_str() == name)
}

/// One search, ready to be done on a worker.
pub(super) struct Search {
    pub(super) unit: Arc<UnitView>,
    pub(super) builds: bool,
    pub(super) query: Query,
    pub(super) json: bool,
    pub(super) limit: usize,
}

impl Search {
    /// The last lines of the newest run.
    pub(super) fn newest(unit: &Arc<UnitView>, builds: bool, lines: usize) -> Self {
        Self {
            unit: Arc::clone(unit),
            builds,
            query: Query {
                tail: Some(lines),
                ..Query::default()
            },
            json: false,
            limit: LIMIT,
        }
    }

    /// Searches.
    pub(super) fn answer(&self) -> Answer {
        match self.find() {
            Ok(found) if self.json => {
                let value = self.value(&found);
                let text = value.to_string();
                Answer::Data { value, text }
            }
            Ok(found) => Answer::Text(self.text(&found)),
            Err(why) => Answer::Fail(why),
        }
    }

    /// Of a process that has not run yet: nothing.
    pub(super) fn find(&self) -> Result<Found, String> {
        match self.log().find(&self.query) {
            Ok(found) => Ok(found),
            Err(QueryError::NoRun { known: 0, .. }) => Ok(self.none()),
            Err(e) => Err(refusal(&self.unit.name, self.builds, &e)),
        }
    }

    /// The same where one process among several need not have the run.
    pub(super) fn find_any(&self) -> Result<Found, String> {
        match self.log().find(&self.query) {
            Err(QueryError::NoRun { .. }) => Ok(self.none()),
            found => found.map_err(|e| refusal(&self.unit.name, self.builds, &e)),
        }
    }

    fn log(&self) -> &Log {
        log(&self.unit, self.builds)
    }

    /// Why there is nothing to be found: no run is known.
    pub(super) fn has_no_run(&self) -> Option<String> {
        let found = self.find().ok()?;
        found.run.is_none().then(|| self.not_yet())
    }

    fn none(&self) -> Found {
        Found {
            index: self.query.index,
            next: self.log().next_seq().saturating_sub(1),
            ..Found::default()
        }
    }

    /// The lines, what is to be said about them, and where they are from.
    pub(super) fn text(&self, found: &Found) -> String {
        let room = self.limit.saturating_sub(NOTES);
        // One line fits whatever its length, or nobody could page past it.
        let pieces = self.pieces(found, LINE.min(room.saturating_sub(FRAME)));
        let whole: usize = pieces.iter().map(|p| p.chars().count() + 1).sum();
        let from_end = self.query.tail.is_some();
        let shown = if whole <= room {
            pieces.len()
        } else {
            fitting(pieces.iter().map(String::as_str), room, from_end)
        };
        let cut = if from_end { pieces.len() - shown } else { 0 };
        let mut text = String::with_capacity(whole.min(self.limit) + NOTES);
        for (i, piece) in pieces[cut..cut + shown].iter().enumerate() {
            // The separator of groups stands between two of them only.
            let piece = if i == 0 {
                piece.strip_prefix("--\n").unwrap_or(piece)
            } else {
                piece
            };
            text.push_str(piece);
            text.push('\n');
        }
        for note in self.notes(found, shown) {
            text.push_str(&clip(&note, NOTES / 2));
            text.push('\n');
        }
        let total = if self.query.pattern.is_some() {
            found.searched
        } else {
            found.matches
        };
        let run = match found.run {
            Some(run) => format!("run {run} ({})", found.index),
            None => "no run".into(),
        };
        let _ = write!(
            text,
            "[{run} | {} of {} lines | next {}]",
            thousands(shown as u64),
            thousands(total.max(shown as u64)),
            self.next(found, shown)
        );
        text
    }

    /// Each line with what stands before it.
    fn pieces(&self, found: &Found, width: usize) -> Vec<String> {
        let marked = self.query.pattern.is_some();
        let piece = |(at, line): (usize, &Line)| {
            let group = if marked && self.begins_group(&found.lines, at) {
                "--\n"
            } else {
                ""
            };
            let mark = match (marked, line.matched) {
                (false, _) => "",
                (true, true) => " * ",
                (true, false) => "   ",
            };
            format!("{group}{mark}{}", clip(&line.text, width))
        };
        found.lines.iter().enumerate().map(piece).collect()
    }

    /// Lines between this one and the one before were left out. Their numbers alone don't tell: those of
    /// the other stream, or of another run, may lie between. But context that is not complete ends
    /// where the next group touches it.
    fn begins_group(&self, lines: &[Line], at: usize) -> bool {
        let (before, from) = lines.split_at(at);
        let adjacent = match (before.last(), from.first()) {
            (Some(last), Some(this)) => last.seq + 1 == this.seq,
            _ => true,
        };
        let context = self.query.context;
        context > 0
            && !adjacent
            && all_context(before.iter().rev(), context)
            && all_context(from.iter(), context)
    }

    /// What else has to be said, a line each.
    fn notes(&self, found: &Found, shown: usize) -> Vec<String> {
        let mut notes = Vec::new();
        let left = found.lines.len() - shown;
        if left > 0 {
            let left = thousands(left as u64);
            let max = if self.limit < super::MOST_CHARS {
                ", or raise max_chars (to 50000 at most)"
            } else {
                ""
            };
            notes.push(if self.query.tail.is_some() {
                let first = found.lines.first().map_or(0, |line| line.seq);
                format!(
                    "[{left} older lines left out to stay within {} characters: page through them with head and after {}{max}]",
                    thousands(self.limit as u64),
                    first.saturating_sub(1)
                )
            } else {
                format!(
                    "[{left} newer lines left out to stay within {} characters: go on with after {}{max}]",
                    thousands(self.limit as u64),
                    self.next(found, shown)
                )
            });
        }
        if found.stopped_early {
            notes.push(format!(
                "[the search ended at its time limit after {} lines: narrow it with since, after or tail, or use a literal]",
                thousands(found.searched)
            ));
        }
        notes.extend(gone(found.dropped));
        if found.lines.is_empty() {
            notes.push(self.nothing(found));
        }
        notes.extend(self.stale(found));
        notes
    }

    /// Why there are no lines.
    fn nothing(&self, found: &Found) -> String {
        let Some(run) = found.run else {
            return self.not_yet();
        };
        let what = if self.builds { "build" } else { "run" };
        match &self.query.pattern {
            Some(pattern) => format!(
                "no match for {:?} in {} lines of {what} {run}",
                brief(pattern),
                thousands(found.searched)
            ),
            None if self.query.tail == Some(0) => {
                format!("{} lines in {what} {run}", thousands(found.matches))
            }
            None => {
                let narrowed = self.query.after.is_some()
                    || self.query.since.is_some()
                    || self.query.stream.is_some();
                let such = if narrowed { " such" } else { "" };
                format!(
                    "no{such} lines in {what} {run} ({} searched)",
                    thousands(found.searched)
                )
            }
        }
    }

    fn not_yet(&self) -> String {
        let did = if self.builds { "been built" } else { "run" };
        let (name, state) = (&self.unit.name, self.unit.facts.state.as_str());
        format!("{name} has not {did} yet (it is {state})")
    }

    /// The run that is shown may not be what the sources say: its newest build failed.
    fn stale(&self, found: &Found) -> Option<String> {
        let build = self.unit.build.as_ref()?;
        if self.builds || found.index != -1 || build.ok != Some(false) {
            return None;
        }
        let of = match (self.unit.facts.state, found.started_at) {
            (State::Running | State::Starting | State::Stopping, Some(at)) => {
                format!("running build of {}; ", at.rfc3339())
            }
            _ => String::new(),
        };
        Some(format!("[{of}the last build failed: see search_build_log]"))
    }

    /// The cursor that goes on behind what is shown.
    fn next(&self, found: &Found, shown: usize) -> u64 {
        let more = (shown as u64) < found.matches.max(found.lines.len() as u64);
        match found.lines.get(shown.wrapping_sub(1)) {
            Some(last) if self.query.head.is_some() && more => last.seq,
            Some(_) | None => found.next,
        }
    }

    /// The same as JSON, with as many lines as there is room for.
    pub(super) fn value(&self, found: &Found) -> Value {
        let written = |width: usize| -> Vec<(Value, String)> {
            let lines = found.lines.iter().map(|line| line_value(line, width));
            let both = |value: Value| {
                let text = value.to_string();
                (value, text)
            };
            lines.map(both).collect()
        };
        let from_end = self.query.tail.is_some();
        let frame = self
            .frame(found, Vec::new(), found.lines.len())
            .to_string()
            .chars()
            .count();
        let room = self.limit.saturating_sub(frame + 20);
        let fits = |lines: &[(Value, String)]| {
            fitting(lines.iter().map(|(_, text)| text.as_str()), room, from_end)
        };
        let mut lines = written(LINE);
        let mut shown = fits(&lines);
        if shown == 0 {
            // One line fits whatever it is, even if each of its characters is written as six.
            lines = written(room.saturating_sub(JSON_FRAME) / 6);
            shown = fits(&lines);
        }
        let cut = if from_end { lines.len() - shown } else { 0 };
        let kept = lines
            .into_iter()
            .skip(cut)
            .take(shown)
            .map(|(value, _)| value)
            .collect();
        self.frame(found, kept, shown)
    }

    fn frame(&self, found: &Found, lines: Vec<Value>, shown: usize) -> Value {
        let truncated = found.stopped_early || shown < found.lines.len();
        object([
            ("process", self.unit.name.as_str().into()),
            ("run", or_null(found.run)),
            ("index", found.index.into()),
            ("started_at", or_null(found.started_at.map(Wall::rfc3339))),
            ("ended_at", or_null(found.ended_at.map(Wall::rfc3339))),
            ("exit", or_null(found.exit.as_deref())),
            ("lines", list(lines)),
            ("matches", found.matches.into()),
            ("searched", found.searched.into()),
            ("dropped", found.dropped.into()),
            ("truncated", truncated.into()),
            ("next", self.next(found, shown).into()),
        ])
    }
}

/// The first so many lines are there, and none of them matches.
fn all_context<'a>(lines: impl Iterator<Item = &'a Line>, context: usize) -> bool {
    lines.take(context).take_while(|l| !l.matched).count() == context
}

fn line_value(line: &Line, width: usize) -> Value {
    let text = clip(&line.text, width);
    let clipped = text.len() != line.text.len();
    object([
        ("seq", line.seq.into()),
        ("time", line.at.rfc3339().into()),
        ("stream", line.stream.as_str().into()),
        ("text", text.as_ref().into()),
        ("match", line.matched.into()),
        ("truncated", (line.truncated || clipped).into()),
    ])
}

/// Of its runs, or of its builds.
pub(super) fn log(unit: &UnitView, builds: bool) -> &Log {
    if builds { &unit.build_log } else { &unit.log }
}

/// What is said of lines that were dropped.
pub(super) fn gone(dropped: u64) -> Option<String> {
    let count = thousands(dropped);
    (dropped > 0).then(|| format!("[{count} lines before these are no longer kept]"))
}

/// Why a query can't be done, and what to do instead.
pub(super) fn refusal(name: &str, builds: bool, e: &QueryError) -> String {
    match e {
        QueryError::Pattern(_) => bad_pattern(e),
        QueryError::NoRun { index, known } => {
            let what = if builds { "build" } else { "run" };
            let plural = if *known == 1 { "" } else { "s" };
            format!(
                "{name} has no {what} of index {index}: {known} {what}{plural} can be searched, -1 (newest) to -{known}, or 0 (oldest) to {}",
                known.saturating_sub(1)
            )
        }
    }
}

/// What is wrong with a pattern.
pub(super) fn bad_pattern(e: &QueryError) -> String {
    let why = match e {
        QueryError::Pattern(why) => why,
        QueryError::NoRun { .. } => "it has no run to be looked for in",
    };
    format!("cannot use this pattern: {why}; a text is matched as it is with literal, or escaped")
}
