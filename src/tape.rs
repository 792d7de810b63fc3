//! One log: ring and files behind one lock, and wake-ups for who follows it. The only memory that
//! threads share.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::clock::{Mono, Wall};
use crate::os::poll::Waker;
use crate::search::{Found, Line, Query, QueryError, Stream};

/// Bounds of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lines kept in memory of one run.
    pub lines: u64,
    /// Bytes kept in memory, all runs together.
    pub bytes: u64,
    /// Runs that can be searched.
    pub runs: usize,
    /// Bytes on disk; zero: none.
    pub disk: u64,
}

/// Counts of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Lines that can be searched.
    pub lines: u64,
    /// Lines that no longer can, since this daemon's start.
    pub dropped: u64,
    /// When the last byte came.
    pub last_output: Option<Mono>,
}

/// What a follower got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pulled {
    /// Complete lines after the cursor (and the unfinished last one of a run that ended).
    pub lines: Vec<Line>,
    /// Lines after the cursor that were gone already.
    pub dropped: u64,
    /// The cursor for the next pull.
    pub next: u64,
}

/// One log.
#[derive(Debug)]
pub struct Tape {}

#[allow(unused_variables, missing_docs, clippy::unimplemented)]
impl Tape {
    /// An empty log whose first line gets `first_seq` and whose first run `first_run` (both from 1).
    pub fn new(limits: Limits, first_seq: u64, first_run: u64) -> Arc<Self> {
        unimplemented!()
    }
    /// New bounds (a reload).
    pub fn set_limits(&self, limits: Limits) {
        unimplemented!()
    }
    /// Begins a run and gives its number. Two may be open at once (an overlapping swap).
    pub fn begin(&self, at: Wall) -> u64 {
        unimplemented!()
    }
    /// Ends a run: its unfinished lines end. `exit`: how, in words.
    pub fn end(&self, run: u64, at: Wall, exit: &str) {
        unimplemented!()
    }
    /// One read(2) straight into the log. `Ok(0)`: end of file. `WouldBlock` as an error.
    pub fn read_from(
        &self,
        run: u64,
        stream: Stream,
        fd: BorrowedFd<'_>,
    ) -> std::io::Result<usize> {
        unimplemented!()
    }
    /// Appends bytes (a build's rendered messages).
    pub fn append(&self, run: u64, stream: Stream, bytes: &[u8]) {
        unimplemented!()
    }
    /// The number that the next new line gets; lock-free.
    pub fn next_seq(&self) -> u64 {
        unimplemented!()
    }
    /// Wakes `waker` once per read until [`Tape::unfollow`].
    pub fn follow(&self, waker: &Arc<Waker>) {
        unimplemented!()
    }
    pub fn unfollow(&self, waker: &Arc<Waker>) {
        unimplemented!()
    }
    /// Complete lines with `seq > after`, at most about `max_bytes` of text.
    pub fn pull(&self, after: u64, max_bytes: usize) -> Pulled {
        unimplemented!()
    }
    /// Answers a query. Takes its time: for a worker thread.
    pub fn find(&self, query: &Query) -> Result<Found, QueryError> {
        unimplemented!()
    }
    /// The last `n` lines of a run.
    pub fn tail(&self, run: u64, n: usize) -> Vec<Line> {
        unimplemented!()
    }
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}
