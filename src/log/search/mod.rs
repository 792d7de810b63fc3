//! Pure: no system call, no thread, no clock.
//!
//! A query over a log's bytes: prefilter, regex with a budget, context, head and tail.

mod errors;
mod matcher;
mod scan;

use std::time::Duration;

use crate::base::clock::Wall;

pub use crate::log::line::text_of;
pub use crate::log::stream::Stream;
pub(crate) use errors::Finder;
pub use errors::{Errors, Group, Severity};
pub use matcher::Matcher;
pub use scan::search;
pub(crate) use scan::{Search, line};

/// A question to a log. Order: pattern, context, head or tail.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Regex, or a literal; None: every line.
    pub pattern: Option<String>,
    /// The pattern is a literal.
    pub literal: bool,
    /// ASCII case is ignored.
    pub ignore_case: bool,
    /// Lines before and after a match.
    pub context: usize,
    /// The number of lines from the start.
    pub head: Option<usize>,
    /// The number of lines from the end; wins over `head`.
    pub tail: Option<usize>,
    /// Run: -1 newest, -2 the one before, 0 oldest known, 1 the one after that.
    pub index: i64,
    /// Only lines after this number (of any run, unless one is named: a cursor crosses runs).
    pub after: Option<u64>,
    /// Only lines from this time on.
    pub since: Option<Wall>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
    /// A search that takes longer ends with the lines it has, and says so.
    pub budget: Duration,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            pattern: None,
            literal: false,
            ignore_case: false,
            context: 0,
            head: None,
            tail: None,
            index: -1,
            after: None,
            since: None,
            stream: None,
            budget: Duration::from_millis(500),
        }
    }
}

#[cfg(test)]
impl Query {
    /// Searched to the end, however slow the machine is.
    pub(crate) fn unhurried() -> Self {
        Self {
            budget: Duration::from_secs(600),
            ..Self::default()
        }
    }
}

/// A line as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, which rises over runs and daemons; None: it is unfinished, and gets one when it ends.
    pub seq: Option<u64>,
    pub run: u64,
    /// The time of its last byte (as exact as the chunk it is in).
    pub at: Wall,
    pub stream: Stream,
    /// The text that a terminal shows, without colours; invalid UTF-8 replaced.
    pub text: String,
    /// The bytes as they were written, where they are not just the text and a newline.
    pub raw: Option<Box<[u8]>>,
    /// It matches the pattern (false for context, and where there is no pattern).
    pub matched: bool,
    /// It is a piece of a line of over 64 KiB that goes on in the next one.
    pub truncated: bool,
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The run; None: there is none.
    pub run: Option<u64>,
    /// The same as a negative index: -1 newest.
    pub index: i64,
    pub started_at: Option<Wall>,
    pub ended_at: Option<Wall>,
    /// The manner of its end, in words: `exit code 3`.
    pub exit: Option<String>,
    /// In the order of their numbers; unfinished ones come last, and are not counted below.
    pub lines: Vec<Line>,
    /// Lines that match, before head and tail (all lines, where there is no pattern).
    pub matches: u64,
    /// Lines that were searched.
    pub searched: u64,
    /// Lines between `after` (or the start of the run) and the oldest still kept.
    pub dropped: u64,
    /// The search ended at its budget after `searched` lines.
    pub stopped_early: bool,
    /// The cursor that continues here.
    pub next: u64,
}

/// Why a query can't be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryError {
    /// The pattern is no regex, too long or too large: why, in words.
    Pattern(String),
    /// There is no run of that index among those that are known.
    NoRun { index: i64, known: usize },
}
