//! `search_logs` and `search_build_log`: a query from arguments, and what it found as a text for a
//! model or as JSON.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Call;
use super::schema::Args;
use super::text::{LIMIT, LINE, MARGIN, MATCH, Reader, clip, count, escaped, fitting, thousands};
use crate::base::clock::{Wall, parse_span};
use crate::base::json::{brief, list, object, or_null};
use crate::base::table::sort;
use crate::engine::snapshot::{State, UnitView};
use crate::log::search::{Found, Line, Query, QueryError, Stream};
use crate::log::store::Log;
use crate::server::service::{Answer, Step};

/// Lines without `head` and `tail`.
pub(super) const TAIL: usize = 200;
/// Characters that what stands below the lines may take.
const NOTES: usize = 400;
/// Characters around a line of a text: its columns, what separates groups, the newline.
const FRAME: usize = 8;
/// The same in JSON: names, time, punctuation.
const JSON_FRAME: usize = 160;
/// The least time for one log of many.
const LEAST_BUDGET: Duration = Duration::from_millis(50);

/// The tool `search_logs`.
pub(super) fn search_logs(call: &Call<'_>) -> Result<Step, String> {
    let args = call.args;
    if args.text("process") == Some("*") {
        return search_all(call);
    }
    search(call, false)
}

/// The tool `search_build_log`.
pub(super) fn search_build_log(call: &Call<'_>) -> Result<Step, String> {
    search(call, true)
}

fn search(call: &Call<'_>, builds: bool) -> Result<Step, String> {
    let limit = call.args.size("max_chars").unwrap_or(LIMIT);
    let search = Search {
        unit: call.unit()?,
        builds,
        query: query(call.args, limit, Wall::now())?,
        json: call.args.text("format") == Some("json"),
        limit,
        reader: call.reader(),
    };
    Ok(Step::Work(Box::new(move || search.answer())))
}

/// The newest runs of all processes, merged by time.
fn search_all(call: &Call<'_>) -> Result<Step, String> {
    for name in ["index", "after"] {
        if call.args.whole(name).is_some() {
            return Err(format!(
                "{name:?} is of one process: it does not go with \"process\": \"*\"; use \"since\""
            ));
        }
    }
    let limit = call.args.size("max_chars").unwrap_or(LIMIT);
    let mut query = query(call.args, limit, Wall::now())?;
    let units = call.tools.handle.snapshot.now().units.clone();
    let share = u32::try_from(units.len().max(1)).unwrap_or(u32::MAX);
    query.budget = (query.budget * 4 / share).max(LEAST_BUDGET);
    let json = call.args.text("format") == Some("json");
    let reader = call.reader();
    Ok(Step::Work(Box::new(move || {
        let searches = units.iter().map(|unit| Search {
            unit: Arc::clone(unit),
            builds: false,
            query: query.clone(),
            json,
            limit,
            reader,
        });
        let searches: Vec<Search> = searches.collect();
        match Merged::of(&searches) {
            Ok(merged) => merged.answer(&searches),
            Err(why) => Answer::Fail(why),
        }
    })))
}

fn query(args: &Args, limit: usize, now: Wall) -> Result<Query, String> {
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
    pub(super) reader: Reader,
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
            reader: Reader::Model,
        }
    }

    fn answer(&self) -> Answer {
        match self.find() {
            Ok(found) if self.json => {
                let text = self.value(&found).to_string();
                let json = text.clone().into();
                Answer::Data { json, text }
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
        let (mut text, from, shown) = self.fitted(&pieces, room);
        for note in self.notes(found, shown) {
            text.push_str(&clip(&escaped(&note), NOTES / 2));
            text.push('\n');
        }
        if self.reader == Reader::Person {
            return text.trim_end_matches('\n').into();
        }
        let run = match found.run {
            Some(run) => format!("run {run} ({})", found.index),
            None => "no run".into(),
        };
        let counts = self.counts(found, &found.lines[from..from + shown]);
        let next = self.next(found, shown);
        let _ = write!(text, "[{run} | {counts} | next {next}]");
        text
    }

    /// As many pieces as there is room for, the first one's place, and how many.
    fn fitted(&self, pieces: &[String], room: usize) -> (String, usize, usize) {
        let from_end = self.query.tail.is_some();
        let shown = fitting(pieces.iter().map(String::as_str), room, from_end);
        let from = if from_end { pieces.len() - shown } else { 0 };
        let mut text = String::with_capacity(self.limit);
        for (at, piece) in pieces[from..from + shown].iter().enumerate() {
            // The separator of groups stands between two of them only.
            let first = piece.strip_prefix("--\n").filter(|_| at == 0);
            text.push_str(first.unwrap_or(piece));
            text.push('\n');
        }
        (text, from, shown)
    }

    /// `200 of 1,234 lines`; with a pattern all matches are counted, not only those shown.
    fn counts(&self, found: &Found, shown: &[Line]) -> String {
        if self.query.pattern.is_some() {
            let matches = shown.iter().filter(|line| line.matched).count() as u64;
            return format!(
                "{} of {} matches in {} lines",
                thousands(matches),
                thousands(found.matches.max(matches)),
                thousands(found.searched)
            );
        }
        let shown = shown.len() as u64;
        let all = thousands(found.matches.max(shown));
        format!("{} of {all} lines", thousands(shown))
    }

    /// Each line with what stands before it.
    fn pieces(&self, found: &Found, width: usize) -> Vec<String> {
        let marked = self.query.pattern.is_some();
        let piece = |(at, line): (usize, &Line)| {
            let group = match marked && self.begins_group(&found.lines, at) {
                true => "--\n",
                false => "",
            };
            let margin = if line.matched { MATCH } else { MARGIN };
            format!("{group}{margin}{}", clip(&escaped(&line.text), width))
        };
        found.lines.iter().enumerate().map(piece).collect()
    }

    /// Lines between this one and the one before were left out. Their numbers alone don't tell: those of
    /// the other stream, or of another run, may lie between. But context that is not complete ends
    /// where the next group touches it.
    fn begins_group(&self, lines: &[Line], at: usize) -> bool {
        let (before, from) = lines.split_at(at);
        let adjacent = match (before.last(), from.first()) {
            (Some(last), Some(this)) => last.seq.map(|seq| seq + 1) == this.seq,
            _ => true,
        };
        let context = self.query.context;
        context > 0
            && !adjacent
            && all_context(before.iter().rev(), context)
            && all_context(from.iter(), context)
    }

    /// Further notes, a line each.
    fn notes(&self, found: &Found, shown: usize) -> Vec<String> {
        let mut notes = Vec::new();
        let left = found.lines.len() - shown;
        if left > 0 {
            let left = thousands(left as u64);
            let within = thousands(self.limit as u64);
            let max = match self.limit < super::MOST_CHARS {
                true => ", or raise max_chars (to 50000 at most)",
                false => "",
            };
            notes.push(if self.query.tail.is_some() {
                let first = found.lines.first().and_then(|line| line.seq);
                let first = first.unwrap_or(found.next + 1);
                let before = first.saturating_sub(1);
                format!(
                    "[{left} older lines left out to stay within {within} characters: page through them with head and after {before}{max}]"
                )
            } else {
                let next = self.next(found, shown);
                format!(
                    "[{left} newer lines left out to stay within {within} characters: go on with after {next}{max}]"
                )
            });
        }
        notes.extend(cut_short(found));
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
            return not_yet(&self.unit, self.builds);
        };
        let what = if self.builds { "build" } else { "run" };
        let counted = self.query.tail == Some(0) || self.query.head == Some(0);
        match &self.query.pattern {
            Some(pattern) if counted && found.matches > 0 => format!(
                "{} for {:?} in {} of {what} {run}",
                matches_of(found.matches),
                brief(pattern),
                count(found.searched, "line")
            ),
            Some(pattern) => format!(
                "no match for {:?} in {} of {what} {run}",
                brief(pattern),
                count(found.searched, "line")
            ),
            None if counted => format!("{} in {what} {run}", count(found.matches, "line")),
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
            Some(last) if self.query.head.is_some() && more => last.seq.unwrap_or(found.next),
            Some(_) | None => found.next,
        }
    }

    /// The same as JSON, with as many lines as there is room for.
    pub(super) fn value(&self, found: &Found) -> Value {
        let from_end = self.query.tail.is_some();
        let empty = self.frame(found, Vec::new(), found.lines.len());
        let frame = empty.to_string().chars().count();
        let lines = found
            .lines
            .iter()
            .map(|line| (None, line))
            .collect::<Vec<_>>();
        let kept = fitting_values(&lines, self.limit.saturating_sub(frame + 20), from_end);
        let shown = kept.len();
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

/// The lines of several processes, in the order of their times.
struct Merged {
    /// The number of the search, and the line that it found.
    lines: Vec<(usize, Line)>,
    matches: u64,
    searched: u64,
    dropped: u64,
    stopped_early: bool,
}

impl Merged {
    fn of(searches: &[Search]) -> Result<Self, String> {
        let mut merged = Self {
            lines: Vec::new(),
            matches: 0,
            searched: 0,
            dropped: 0,
            stopped_early: false,
        };
        for (at, search) in searches.iter().enumerate() {
            let found = search.find_any()?;
            merged.matches += found.matches;
            merged.searched += found.searched;
            merged.dropped += found.dropped;
            merged.stopped_early |= found.stopped_early;
            merged
                .lines
                .extend(found.lines.into_iter().map(|line| (at, line)));
        }
        // Stable: the lines of one process keep their order.
        sort(&mut merged.lines, |(_, a), (_, b)| a.at.cmp(&b.at));
        if let Some(query) = searches.first().map(|search| &search.query) {
            let all = merged.lines.len();
            match (query.tail, query.head) {
                (Some(n), _) => drop(merged.lines.drain(..all.saturating_sub(n))),
                (None, Some(n)) => merged.lines.truncate(n),
                (None, None) => {}
            }
        }
        Ok(merged)
    }

    fn answer(&self, searches: &[Search]) -> Answer {
        let Some(first) = searches.first() else {
            return Answer::Text("there are no processes".into());
        };
        let from_end = first.query.tail.is_some();
        if first.json {
            let named =
                |(at, line): &(usize, Line)| (Some(searches[*at].unit.name.clone()), line.clone());
            let lines: Vec<(Option<String>, Line)> = self.lines.iter().map(named).collect();
            let lines: Vec<_> = lines
                .iter()
                .map(|(name, line)| (name.as_deref(), line))
                .collect();
            let room = first.limit.saturating_sub(200);
            let kept = fitting_values(&lines, room, from_end);
            let truncated = self.stopped_early || kept.len() < self.lines.len();
            let value = object([
                ("process", "*".into()),
                ("lines", list(kept)),
                ("matches", self.matches.into()),
                ("searched", self.searched.into()),
                ("dropped", self.dropped.into()),
                ("truncated", truncated.into()),
            ]);
            let text = value.to_string();
            let json = text.clone().into();
            return Answer::Data { json, text };
        }
        let room = first.limit.saturating_sub(NOTES);
        let pieces: Vec<String> = self
            .lines
            .iter()
            .map(|(at, line)| {
                let margin = if line.matched { MATCH } else { MARGIN };
                let name = &searches[*at].unit.name;
                let width = LINE.min(room.saturating_sub(FRAME + name.len() + 3));
                format!("{margin}[{name}] {}", clip(&escaped(&line.text), width))
            })
            .collect();
        let (mut text, from, shown) = first.fitted(&pieces, room);
        let left = pieces.len() - shown;
        if left > 0 {
            let _ = writeln!(
                text,
                "[{} more lines left out: narrow it with since or pattern, or raise max_chars]",
                thousands(left as u64)
            );
        }
        let found = Found {
            matches: self.matches,
            searched: self.searched,
            stopped_early: self.stopped_early,
            ..Found::default()
        };
        for note in cut_short(&found).into_iter().chain(gone(self.dropped)) {
            let _ = writeln!(text, "{note}");
        }
        if pieces.is_empty() && first.query.tail != Some(0) {
            let what = match &first.query.pattern {
                Some(pattern) => format!("no match for {:?}", brief(pattern)),
                None => "no such lines".into(),
            };
            let _ = writeln!(text, "{what} in the newest runs");
        }
        let lines: Vec<Line> = self.lines[from..from + shown]
            .iter()
            .map(|(_, line)| line.clone())
            .collect();
        let counts = first.counts(&found, &lines);
        let _ = write!(text, "[all processes | {counts}]");
        Answer::Text(text)
    }
}

/// The first so many lines are there, and none of them matches.
fn all_context<'a>(lines: impl Iterator<Item = &'a Line>, context: usize) -> bool {
    lines.take(context).take_while(|l| !l.matched).count() == context
}

fn matches_of(n: u64) -> String {
    match n {
        1 => "1 match".into(),
        _ => format!("{} matches", thousands(n)),
    }
}

/// As many lines as fit as JSON into `room` characters.
fn fitting_values(lines: &[(Option<&str>, &Line)], room: usize, from_end: bool) -> Vec<Value> {
    let written = |width: usize| -> Vec<(Value, String)> {
        let values = lines
            .iter()
            .map(|(name, line)| line_value(*name, line, width));
        let both = |value: Value| {
            let text = value.to_string();
            (value, text)
        };
        values.map(both).collect()
    };
    let fits = |lines: &[(Value, String)]| {
        fitting(lines.iter().map(|(_, text)| text.as_str()), room, from_end)
    };
    let mut all = written(LINE);
    let mut shown = fits(&all);
    if shown == 0 {
        // One line fits whatever it is, even if each of its characters is written as six.
        all = written(room.saturating_sub(JSON_FRAME) / 6);
        shown = fits(&all);
    }
    let from = if from_end { all.len() - shown } else { 0 };
    let kept = all.into_iter().skip(from).take(shown);
    kept.map(|(value, _)| value).collect()
}

fn line_value(process: Option<&str>, line: &Line, width: usize) -> Value {
    let text = clip(&line.text, width);
    let clipped = text.len() != line.text.len();
    let mut value = object([
        ("seq", or_null(line.seq)),
        ("time", line.at.rfc3339().into()),
        ("stream", line.stream.as_str().into()),
        ("text", text.as_ref().into()),
        ("match", line.matched.into()),
        ("truncated", (line.truncated || clipped).into()),
        ("partial", line.seq.is_none().into()),
    ]);
    if let Some(process) = process {
        value["process"] = process.into();
    }
    value
}

/// Of its runs, or of its builds.
pub(super) fn log(unit: &UnitView, builds: bool) -> &Log {
    if builds { &unit.build_log } else { &unit.log }
}

/// Why there is nothing to be found: no run is known.
pub(super) fn not_yet(unit: &UnitView, builds: bool) -> String {
    let did = if builds { "been built" } else { "run" };
    let (name, state) = (&unit.name, unit.facts.state.as_str());
    match &unit.facts.reason {
        Some(reason) => format!("{name} has not {did} yet: {reason}"),
        None => format!("{name} has not {did} yet (it is {state})"),
    }
}

fn cut_short(found: &Found) -> Option<String> {
    found.stopped_early.then(|| {
        format!(
            "[the search ended at its time limit after {}: narrow it with since, after or tail, or use a literal]",
            count(found.searched, "line")
        )
    })
}

/// The note on lines that were dropped.
pub(super) fn gone(dropped: u64) -> Option<String> {
    let count = count(dropped, "line");
    (dropped > 0).then(|| format!("[{count} before these are no longer kept]"))
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

/// Explains why a pattern is refused, where `literal` is another way.
pub(super) fn bad_pattern(e: &QueryError) -> String {
    format!("{}; literal (-F) matches a text as it is", bad_regex(e))
}

/// Explains why a pattern is refused, where it can be nothing but a regular expression.
pub(super) fn bad_regex(e: &QueryError) -> String {
    let why = match e {
        QueryError::Pattern(why) => why,
        QueryError::NoRun { .. } => "there is no run to search",
    };
    format!("cannot use this pattern: {why}")
}
