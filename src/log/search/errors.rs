//! Pure: no system call, no thread, no clock.
//!
//! Lines that look like errors or warnings, grouped by their shape: what changes from one time to the
//! next (numbers, ids, addresses, times) is masked. Memory is bounded whatever the log holds.

use std::collections::HashMap;
use std::ops::Range;

use super::{Go, Stream, text_of};
use crate::base::clock::Wall;
use crate::base::table::in_order;
use crate::log::block::{At, StreamSlice};

/// Groups that are told apart; what else there is, is counted.
const MOST_GROUPS: usize = 512;
/// Lines of a stack that a sample shows, and characters of each of its lines.
const STACK: usize = 12;
const SAMPLE_LINE: usize = 400;
/// Of a line so much is looked at.
const LOOKED_AT: usize = 2 << 10;
/// Of a line so much tells one shape from another.
const SHAPE: usize = 200;
/// The budget is looked at once in so many lines.
const LINES: u64 = 256;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It went on.
    Warning,
    /// It did not.
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
    /// How many.
    pub count: u64,
    /// When the first one came.
    pub first: Wall,
    /// When the last one came.
    pub last: Wall,
    /// How bad.
    pub level: Severity,
    /// The first one, with its stack, lines separated by newlines.
    pub sample: String,
    /// The number of the first one.
    pub seq: u64,
    /// The run of the first one.
    pub run: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Errors {
    /// Errors before warnings, then those that came most often.
    pub groups: Vec<Group>,
    /// Groups beyond those that were asked for.
    pub more_groups: usize,
    /// Lines of shapes that were too many to be told apart.
    pub others: u64,
    /// Lines looked at.
    pub searched: u64,
    /// Lines that were gone already.
    pub dropped: u64,
    /// The budget was over before the end.
    pub stopped_early: bool,
    /// The cursor that continues here.
    pub next: u64,
}

/// Looks for errors page by page, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    found: Errors,
    groups: HashMap<String, Group>,
    /// Lines that an event of an earlier page took: run, stream, number of the last.
    taken: Vec<(u64, Stream, u64)>,
}

impl Finder {
    /// Looks at a page: of each lane these blocks; a stack may go on in what comes behind them.
    pub(crate) fn page(
        &mut self,
        lanes: &[StreamSlice],
        own: &[Range<usize>],
        expired: &mut dyn FnMut() -> bool,
    ) {
        let taken = std::mem::take(&mut self.taken);
        for (lane, own) in lanes.iter().zip(own) {
            let before = taken.iter().find(|t| t.0 == lane.run && t.1 == lane.stream);
            let mut at = match own.start {
                0 => lane.first_after(0),
                start => lane.first_of(start),
            };
            while let Some(here) = at.filter(|at| at.block < own.end) {
                at = lane.next(&here);
                if before.is_some_and(|t| here.seq <= t.2) {
                    continue;
                }
                if self.found.searched.is_multiple_of(LINES) && expired() {
                    self.found.stopped_early = true;
                    return;
                }
                self.found.searched += 1;
                let text = text(lane, &here);
                let Some(level) = severity(&text) else {
                    continue;
                };
                if at.is_some_and(|next| is_excerpt(&text, lane, &next)) {
                    continue;
                }
                let mut event = Event::new(text);
                let mut end = here;
                while let Some(next) = at
                    && let Some(line) = event.continued(lane, &next)
                {
                    event.add(line);
                    self.found.searched += 1;
                    at = lane.next(&next);
                    end = next;
                }
                if end.block >= own.end {
                    self.taken.push((lane.run, lane.stream, end.seq));
                }
                self.add(level, lane, &here, event);
            }
        }
    }

    fn add(&mut self, level: Severity, lane: &StreamSlice, at: &At, event: Event) {
        let (_, when) = lane.bytes(at);
        let full = self.groups.len() >= MOST_GROUPS;
        match self.groups.get_mut(&event.shape) {
            Some(group) => group.again(level, when, at.seq, lane.run, event),
            None if full => self.found.others += 1,
            None => {
                self.groups.insert(
                    event.shape.clone(),
                    Group::new(level, when, at.seq, lane.run, event),
                );
            }
        }
    }

    /// Until the budget is over.
    pub(crate) fn go(&self) -> Go {
        match self.found.stopped_early {
            true => Go::Stop,
            false => Go::On,
        }
    }

    /// At most `max` groups.
    pub(crate) fn finish(self, max: usize) -> Errors {
        let mut found = self.found;
        // The worst first, of these the most frequent, of these the oldest: each pass keeps the one before.
        let all = in_order(self.groups.into_values().collect(), |g: &Group| g.seq);
        let all = in_order(all, |g| !g.count);
        found.groups = in_order(all, |g| !(g.level as u64));
        found.more_groups = found.groups.len().saturating_sub(max);
        found.groups.truncate(max);
        found
    }
}

impl Group {
    fn new(level: Severity, at: Wall, seq: u64, run: u64, event: Event) -> Self {
        Self {
            count: 1,
            first: at,
            last: at,
            level,
            sample: event.sample,
            seq,
            run,
        }
    }

    /// Lanes are read one after another, so this one may be earlier than what is known.
    fn again(&mut self, level: Severity, at: Wall, seq: u64, run: u64, event: Event) {
        self.count += 1;
        self.level = self.level.max(level);
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        if seq < self.seq {
            self.seq = seq;
            self.run = run;
            self.sample = event.sample;
        }
    }
}

fn text(lane: &StreamSlice, at: &At) -> String {
    let (bytes, _) = lane.bytes(at);
    text_of(&bytes[..bytes.len().min(LOOKED_AT)])
}

/// A line that looks like an error, and the lines of its stack.
struct Event {
    shape: String,
    sample: String,
    lines: usize,
    /// What the next line is, whatever it looks like.
    open: Open,
    /// What else belongs to the stack.
    then: Then,
}

#[derive(PartialEq)]
enum Open {
    /// It tells by itself.
    No,
    /// The message of `thread 'x' panicked at src/x.rs:1:2:`.
    Message,
    /// Python names the error after the stack: the shape is that of the first line that is not
    /// indented.
    Traceback,
}

/// What tells of the lines that may follow.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Nothing.
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
    fn begins(self, text: &str, lane: &StreamSlice, at: &At) -> bool {
        if text.is_empty() {
            let next = lane.next(at).map(|next| self::text(lane, &next));
            return next.is_some_and(|next| !next.is_empty() && self.begins(&next, lane, at));
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
    fn new(text: String) -> Self {
        let open = if text.starts_with(TRACEBACK) {
            Open::Traceback
        } else if text.contains("panicked at ") && text.ends_with(':') {
            Open::Message
        } else {
            Open::No
        };
        Self {
            shape: shape(&text),
            sample: clip(&text).to_owned(),
            lines: 0,
            open,
            then: Then::Any,
        }
    }

    /// The line's text, if it goes on with this event.
    fn continued(&self, lane: &StreamSlice, at: &At) -> Option<String> {
        let text = text(lane, at);
        let goes_on = self.open != Open::No
            || self.lines < 10 * STACK && (is_stack(&text) || self.then.begins(&text, lane, at));
        goes_on.then_some(text)
    }

    fn add(&mut self, text: String) {
        self.lines += 1;
        let indented = text.starts_with([' ', '\t']) || text.is_empty();
        match self.open {
            Open::No => {
                if self.then == Then::Traceback && text.starts_with(TRACEBACK) {
                    self.open = Open::Traceback;
                }
                self.then = Then::of(&text).unwrap_or(self.then);
            }
            Open::Message => {
                self.shape.push_str(&shape(&text));
                self.open = Open::No;
            }
            // A traceback without an end is no reason to swallow a log.
            Open::Traceback if indented && self.lines < 20 * STACK => {}
            Open::Traceback => {
                self.shape = shape(&text);
                self.open = Open::No;
                self.sample.push('\n');
                self.sample.push_str(clip(&text));
                return;
            }
        }
        if self.lines <= STACK {
            self.sample.push('\n');
            self.sample.push_str(clip(&text));
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
fn is_excerpt(text: &str, lane: &StreamSlice, next: &At) -> bool {
    let carets = || {
        let below = self::text(lane, next);
        let below = below.trim();
        !below.is_empty() && below.bytes().all(|b| b == b'^' || b == b'~')
    };
    (text.starts_with([' ', '\t']) || text.starts_with("throw ")) && carets()
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

/// What the first word that tells says of a line: `ERROR`, `TypeError:`, `[warn]`, `panicked`. Not what
/// is a part of a name (`error_rate`, `/errors/`, `error.rs`), nor `0 errors`.
fn severity(text: &str) -> Option<Severity> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let commands = bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_alphabetic())
            .count();
        if commands == 0 {
            at += 1;
            continue;
        }
        let (from, to) = (at, at + commands);
        at = to;
        // The longest word of the lists, and names of error classes.
        if !(3..=60).contains(&commands) {
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

/// The line with what changes masked as `#`: numbers, hexadecimal ids, addresses, times, UUIDs.
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

/// A number; of hexadecimal digits behind a `0x`, or with a number among them; or of numbers and commands
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
