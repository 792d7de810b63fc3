//! Pure: no system call, no thread, no clock.
//!
//! Lines that look like errors or warnings, grouped by their shape: the line with masks for the parts that
//! change from one time to the next (numbers, ids, addresses, times). Memory is bounded whatever the log
//! holds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::base::clock::Wall;
use crate::base::table::sort;
use crate::log::block::StreamSlice;
use crate::log::line::text_of;
use crate::log::stream::Stream;

/// Groups that are kept; lines of other shapes are only counted.
const MOST_GROUPS: usize = 512;
/// Lines of a stack that a sample shows, and characters of each of its lines.
const STACK: usize = 12;
const SAMPLE_LINE: usize = 400;
/// Bytes of a line that are read.
const LOOKED_AT: usize = 2 << 10;
/// Bytes of a shape, about.
const SHAPE: usize = 200;
/// The budget is checked once in that many lines.
const LINES: u64 = 256;

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

impl Severity {
    /// As in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Lines of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub count: u64,
    /// The times of the first and the last one.
    pub first: Wall,
    pub last: Wall,
    pub level: Severity,
    /// The first one, with its stack, lines separated by newlines.
    pub sample: String,
    /// The number of the first one, and its run.
    pub seq: u64,
    pub run: u64,
}

/// The errors of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Errors {
    /// Errors before warnings, then the most frequent first.
    pub groups: Vec<Group>,
    /// The number of groups beyond those that were asked for.
    pub more_groups: usize,
    /// Lines of shapes beyond [`MOST_GROUPS`].
    pub others: u64,
    /// Lines that were searched.
    pub searched: u64,
    /// Lines that were gone already.
    pub dropped: u64,
    /// The budget was over before the end.
    pub stopped_early: bool,
    /// The cursor that continues here.
    pub next: u64,
}

/// Finds errors page by page, the oldest first. Each stream of a run is read by itself, over all pages: a
/// stack may go on in the next one.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    found: Errors,
    groups: HashMap<String, Group>,
    streams: HashMap<(u64, Stream), Reading>,
}

/// One stream of a run, as far as it was read.
#[derive(Debug, Default)]
struct Reading {
    run: u64,
    /// The last line, which the next one may explain.
    held: Option<Seen>,
    event: Option<Event>,
}

#[derive(Debug)]
struct Seen {
    text: String,
    at: Wall,
    seq: u64,
}

impl Finder {
    /// Reads a page. False: the budget is over, and nothing more is read.
    pub(crate) fn page(
        &mut self,
        slices: &[StreamSlice],
        expired: &mut dyn FnMut() -> bool,
    ) -> bool {
        // In the order of numbers, over all streams: where there are too many shapes, those that are told apart must not
        // depend on how the lines come in pages.
        let mut next: Vec<_> = slices.iter().map(|slice| slice.first_after(0)).collect();
        let firsts = next.iter().enumerate();
        let mut heads: BinaryHeap<_> = firsts
            .filter_map(|(i, at)| Some(Reverse((at.as_ref()?.seq, i))))
            .collect();
        while let Some(Reverse((seq, i))) = heads.pop() {
            let slice = &slices[i];
            let Some(at) = next[i].take() else { continue };
            if self.found.searched.is_multiple_of(LINES) && expired() {
                self.found.stopped_early = true;
                break;
            }
            self.found.searched += 1;
            let (bytes, when) = slice.bytes(&at);
            let seen = Seen {
                text: text_of(&bytes[..bytes.len().min(LOOKED_AT)]),
                at: when,
                seq,
            };
            next[i] = slice.next(&at);
            heads.extend(next[i].as_ref().map(|at| Reverse((at.seq, i))));
            let key = (slice.run, slice.stream);
            let mut reading = self.streams.remove(&key).unwrap_or_default();
            reading.run = slice.run;
            self.read(&mut reading, Some(seen));
            self.streams.insert(key, reading);
        }
        !self.found.stopped_early
    }

    /// Takes the line that is held, now that the one after it is known; None: there is none.
    fn read(&mut self, reading: &mut Reading, next: Option<Seen>) {
        let Some(line) = std::mem::replace(&mut reading.held, next) else {
            return;
        };
        let next = reading.held.as_ref().map(|next| next.text.as_str());
        if let Some(event) = &mut reading.event
            && event.continues(&line.text, next)
        {
            event.add(&line.text);
            return;
        }
        let level = severity(&line.text).filter(|_| !is_excerpt(&line.text, next));
        self.add(reading);
        reading.event = level.map(|level| Event::new(level, line));
    }

    /// Counts the event of a stream, which is complete.
    fn add(&mut self, reading: &mut Reading) {
        let Some(event) = reading.event.take() else {
            return;
        };
        let full = self.groups.len() >= MOST_GROUPS;
        match self.groups.get_mut(&event.shape) {
            Some(group) => group.again(event, reading.run),
            None if full => self.found.others += 1,
            None => {
                let shape = event.shape.clone();
                self.groups.insert(shape, Group::new(event, reading.run));
            }
        }
    }

    /// At most `max` groups.
    pub(crate) fn finish(mut self, max: usize) -> Errors {
        for mut reading in std::mem::take(&mut self.streams).into_values() {
            self.read(&mut reading, None);
            self.add(&mut reading);
        }
        let mut found = self.found;
        found.groups = self.groups.into_values().collect();
        let key = |g: &Group| (Reverse(g.level), Reverse(g.count), g.seq);
        sort(&mut found.groups, |a, b| key(a).cmp(&key(b)));
        found.more_groups = found.groups.len().saturating_sub(max);
        found.groups.truncate(max);
        found
    }
}

impl Group {
    fn new(event: Event, run: u64) -> Self {
        Self {
            count: 1,
            first: event.at,
            last: event.at,
            level: event.level,
            sample: event.sample,
            seq: event.seq,
            run,
        }
    }

    /// An event is counted when the one after it in its stream is known: it may be older than one of another stream.
    fn again(&mut self, event: Event, run: u64) {
        self.count += 1;
        self.level = self.level.max(event.level);
        self.first = self.first.min(event.at);
        self.last = self.last.max(event.at);
        if event.seq < self.seq {
            self.seq = event.seq;
            self.run = run;
            self.sample = event.sample;
        }
    }
}

/// A line that looks like an error, and the lines of its stack.
#[derive(Debug)]
struct Event {
    level: Severity,
    at: Wall,
    seq: u64,
    shape: String,
    sample: String,
    /// Lines of the stack.
    lines: usize,
    /// The meaning of the next line, whatever it looks like.
    open: Open,
    /// The other lines that belong to the stack.
    then: Then,
}

#[derive(Debug, PartialEq)]
enum Open {
    /// Its looks tell.
    No,
    /// The message of `thread 'x' panicked at src/x.rs:1:2:`.
    Message,
    /// Python names the error after the stack: the shape is that of the first line that is not
    /// indented.
    Traceback,
}

/// Lines that may follow, by the last one that says so.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// None in particular.
    Any,
    /// Go's `goroutine 1 [running]:`: calls, which are not indented.
    Calls,
    /// Python's `During handling of the above exception, ...`: another traceback.
    Traceback,
}

impl Then {
    fn of(text: &str) -> Option<Self> {
        if text.starts_with("goroutine ") {
            Some(Self::Calls)
        } else if text.starts_with("During handling of the above exception")
            || text.starts_with("The above exception was the direct cause")
        {
            Some(Self::Traceback)
        } else {
            None
        }
    }

    /// It is such a line, or the empty one before it.
    fn begins(self, text: &str, next: Option<&str>) -> bool {
        if text.is_empty() {
            return next.is_some_and(|next| !next.is_empty() && self.begins(next, None));
        }
        let is_own = match self {
            Self::Any => false,
            // `main.(*Shop).serve(0xc000012345, {0x1, 0x2})`
            Self::Calls => {
                let name = text.split('(').next().unwrap_or_default();
                text.ends_with(')') && !name.is_empty() && !name.contains(' ')
                    || text.starts_with("created by ")
            }
            Self::Traceback => text.starts_with(TRACEBACK),
        };
        is_own || Self::of(text).is_some()
    }
}

const TRACEBACK: &str = "Traceback (most recent call last)";

impl Event {
    fn new(level: Severity, line: Seen) -> Self {
        let text = line.text;
        let open = if text.starts_with(TRACEBACK) {
            Open::Traceback
        } else if text.contains("panicked at ") && text.ends_with(':') {
            Open::Message
        } else {
            Open::No
        };
        Self {
            level,
            at: line.at,
            seq: line.seq,
            shape: shape(&text),
            sample: clip(&text).to_owned(),
            lines: 0,
            open,
            then: Then::Any,
        }
    }

    /// The line belongs to it.
    fn continues(&self, text: &str, next: Option<&str>) -> bool {
        self.open != Open::No
            || self.lines < 10 * STACK && (is_stack(text) || self.then.begins(text, next))
    }

    fn add(&mut self, text: &str) {
        self.lines += 1;
        let indented = text.starts_with([' ', '\t']) || text.is_empty();
        let mut shown = self.lines <= STACK;
        match self.open {
            Open::No => {
                if self.then == Then::Traceback && text.starts_with(TRACEBACK) {
                    self.open = Open::Traceback;
                }
                self.then = Then::of(text).unwrap_or(self.then);
            }
            Open::Message => {
                self.shape.push_str(&shape(text));
                self.open = Open::No;
            }
            // A traceback without an end is no reason to swallow a log.
            Open::Traceback if indented && self.lines < 20 * STACK => {}
            Open::Traceback => {
                self.shape = shape(text);
                self.open = Open::No;
                shown = true;
            }
        }
        if shown {
            self.sample.push('\n');
            self.sample.push_str(clip(text));
        }
    }
}

fn clip(text: &str) -> &str {
    match text.char_indices().nth(SAMPLE_LINE) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A line of a source with carets below it, as a runtime shows what it is about to name.
fn is_excerpt(text: &str, next: Option<&str>) -> bool {
    let below = next.unwrap_or_default().trim();
    let carets = !below.is_empty() && below.bytes().all(|b| b == b'^' || b == b'~');
    carets && (text.starts_with([' ', '\t']) || text.starts_with("throw "))
}

fn is_stack(text: &str) -> bool {
    let start = text.trim_start();
    let indented = start.len() < text.len() && !start.is_empty();
    let begins = [
        "at ",
        "Caused by",
        "caused by",
        "... ",
        "note: ",
        "--> ",
        "goroutine ",
        "stack backtrace",
        "[signal ",
    ];
    indented || begins.iter().any(|b| start.starts_with(b))
}

const ERRORS: &[&str] = &[
    "error",
    "errors",
    "err",
    "fatal",
    "panic",
    "panicked",
    "exception",
    "critical",
    "crit",
    "failed",
    "failure",
    "traceback",
    "uncaught",
    "unhandled",
    "segfault",
    "aborted",
    "emerg",
];
const WARNINGS: &[&str] = &["warn", "warning", "warnings", "deprecated"];
const QUIET: &[&str] = &["info", "debug", "trace", "notice", "verbose"];

/// The level by the first word that names one: `ERROR`, `TypeError:`, `[warn]`, `panicked`. A part of a name
/// (`error_rate`, `/errors/`, `error.rs`) does not count, nor does `0 errors`.
fn severity(text: &str) -> Option<Severity> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let letters = bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_alphabetic())
            .count();
        if letters == 0 {
            at += 1;
            continue;
        }
        let (from, to) = (at, at + letters);
        at = to;
        // The longest word of the lists, and names of error classes.
        if !(3..=60).contains(&letters) {
            continue;
        }
        let word = &text[from..to];
        let is = |words: &[&str]| words.iter().any(|w| w.eq_ignore_ascii_case(word));
        if is(QUIET) && is_level(bytes, from, to) {
            return None;
        }
        let class = |end: &str| word.len() > end.len() && word.ends_with(end);
        let named = class("Error") || class("Exception") || class("Warning");
        let level = if is(WARNINGS) || class("Warning") {
            Severity::Warning
        } else if is(ERRORS) || named {
            Severity::Error
        } else {
            continue;
        };
        if stands_alone(bytes, from, to, named) && !is_none_of(text, from, to) {
            return Some(level);
        }
    }
    None
}

/// In capitals, or set off as a field: `[info]`, `"level":"info"`, `level=info`.
fn is_level(text: &[u8], from: usize, to: usize) -> bool {
    let near = |b: Option<&u8>| b.is_some_and(|b| b"[]\"=:|<>()".contains(b));
    text[from..to].iter().all(u8::is_ascii_uppercase)
        || near(from.checked_sub(1).and_then(|at| text.get(at)))
        || near(text.get(to))
}

/// It is no part of a name; the name of a class may have its package before it.
fn stands_alone(text: &[u8], from: usize, to: usize, class: bool) -> bool {
    let name = |b: &u8| b.is_ascii_alphanumeric() || b"_-/".contains(b);
    let before = from.checked_sub(1).and_then(|at| text.get(at));
    let (after, then) = (text.get(to), text.get(to + 1));
    let file = after == Some(&b'.') && then.is_some_and(u8::is_ascii_alphanumeric);
    let path = after == Some(&b':') && then == Some(&b':');
    !before.is_some_and(|b| name(b) || *b == b'.' && !class)
        && !after.is_some_and(name)
        && !file
        && !path
}

/// `0 errors`, `no warnings`, `without error`, `errors: 0`, `failed=0`.
fn is_none_of(text: &str, from: usize, to: usize) -> bool {
    let before = text[..from].trim_end();
    let last = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next();
    let none = last.is_some_and(|w| {
        ["0", "no", "without", "zero"]
            .iter()
            .any(|n| n.eq_ignore_ascii_case(w))
    });
    let after = text[to..].trim_start_matches([':', '=', ' ', '"']);
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let zero =
        after.len() < text.len() - to && digits > 0 && after[..digits].bytes().all(|b| b == b'0');
    none || zero
}

/// The line with `#` for the parts that change: numbers, hexadecimal ids, addresses, times, UUIDs.
fn shape(text: &str) -> String {
    let mut shape = String::with_capacity(SHAPE);
    let mut words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    while shape.len() < SHAPE
        && let Some(word) = words.next()
    {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let mark = &word[bare.len()..];
        let part = bare.len() == 4 || bare.len() == 12;
        let of_uuid = part && shape.ends_with("#-") && is_hex(bare);
        if of_uuid || is_id(bare) {
            // 10.0.0.1, 12:30:01.5, a UUID: one mask.
            let joined = shape.ends_with(['#'])
                || shape.strip_suffix(JOINTS).is_some_and(|s| s.ends_with('#'));
            if joined {
                shape.truncate(shape.trim_end_matches(JOINTS).len());
            } else {
                shape.push('#');
            }
        } else {
            // 3.5s: as 12s.
            let fraction = bare.starts_with(|c: char| c.is_ascii_digit())
                && shape.ends_with('.')
                && shape.trim_end_matches('.').ends_with('#');
            if fraction {
                shape.truncate(shape.trim_end_matches('.').len());
            }
            let mut digits = fraction;
            for c in bare.chars() {
                if !c.is_ascii_digit() {
                    shape.push(c);
                } else if !digits {
                    shape.push('#');
                }
                digits = c.is_ascii_digit();
            }
        }
        shape.push_str(mark);
    }
    shape
}

const JOINTS: [char; 6] = ['.', ':', '-', '/', ',', '+'];

/// A number; of hexadecimal digits behind a `0x`, or with a number among them; or of numbers and letters
/// by turns.
fn is_id(word: &str) -> bool {
    let bytes = word.as_bytes();
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    if let Some(hex) = word.strip_prefix("0x") {
        return is_hex(hex);
    }
    let time = || {
        let bare = word.trim_end_matches(['Z', 'T']);
        bare.bytes().all(|b| b.is_ascii_digit() || b == b'T')
    };
    let turns = || {
        let turn = |w: &&[u8]| !w[0].is_ascii_digit() && w[1].is_ascii_digit();
        word.len() >= 8 && bytes.windows(2).filter(turn).count() > 1
    };
    digits > 0 && (digits == word.len() || time() || (word.len() >= 4 && is_hex(word)) || turns())
}

fn is_hex(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
