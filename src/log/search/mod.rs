//! Pure: no system call, no thread, no clock.
//!
//! A query over a log's bytes: prefilter, regex with a budget, context, head and tail. Knows
//! nothing of where the bytes are.

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
pub(crate) use scan::{Go, Search, whole};
pub use scan::{Outcome, search};

/// What is asked of a log (spec: mcp, `search_logs`). Order: pattern, context, head or tail.
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
    /// The first so many.
    pub head: Option<usize>,
    /// The last so many; wins over `head`.
    pub tail: Option<usize>,
    /// Run: -1 newest, -2 the one before, 0 oldest known, 1 the one after that.
    pub index: i64,
    /// Only what came after this sequence number (of any run when given: a cursor crosses runs).
    pub after: Option<u64>,
    /// Only what came at or after this time.
    pub since: Option<Wall>,
    /// Only of this stream.
    pub stream: Option<Stream>,
    /// A search that takes longer ends with what it has and says so.
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

/// A line that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number: rises over runs and daemons, never goes back.
    pub seq: u64,
    /// The run it belongs to.
    pub run: u64,
    /// When its last byte came (as exact as the chunk it is in).
    pub at: Wall,
    /// Where it came from.
    pub stream: Stream,
    /// Without escapes and newline; invalid UTF-8 replaced.
    pub text: String,
    /// It matches the pattern (false for context, and where there is no pattern).
    pub matched: bool,
    /// It is a piece of a line of over 64 KiB that goes on in the next one.
    pub truncated: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The run's number; None: there is no run.
    pub run: Option<u64>,
    /// The same as a negative index: -1 newest.
    pub index: i64,
    /// When the run began.
    pub started_at: Option<Wall>,
    /// When it ended.
    pub ended_at: Option<Wall>,
    /// How it ended, in words: `exit code 3`.
    pub exit: Option<String>,
    /// In order of `seq`.
    pub lines: Vec<Line>,
    /// Lines that match, before head and tail (all lines, where there is no pattern).
    pub matches: u64,
    /// Lines looked at.
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
    /// There is no run of that index; how many there are.
    NoRun {
        /// What was asked.
        index: i64,
        /// How many runs are known.
        known: usize,
    },
}
