//! One log: ring and files behind one lock, and wake-ups for who follows it. The only memory that
//! threads share.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{Walk, is_piece};
use crate::clock::{Mono, Wall};
use crate::os::poll::Waker;
use crate::ring::{Ring, Snapshot};
use crate::search::{Found, Line, Matcher, Outcome, Query, QueryError, Stream, search, text_of};

pub use crate::ring::Limits;

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

/// A line as the process wrote it.
#[derive(Debug, Clone, Copy)]
pub struct RawLine<'a> {
    /// Its number; of one that was finished late, lower than that of lines before it.
    pub seq: u64,
    /// The run it belongs to.
    pub run: u64,
    /// When its last byte came.
    pub at: Wall,
    /// Where it came from.
    pub stream: Stream,
    /// With its newline, if it has one.
    pub bytes: &'a [u8],
}

/// Where a follower is after a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pull {
    /// Lines after the cursor that were gone already.
    pub dropped: u64,
    /// The cursor for the next pull.
    pub next: u64,
    /// There was more than fitted.
    pub more: bool,
}

/// One log.
#[derive(Debug)]
pub struct Tape {
    state: Mutex<State>,
    /// What [`Tape::next_seq`] says.
    next: AtomicU64,
    /// A lock of its own: a woken thread asks for the other one at once.
    followers: Mutex<Vec<Arc<Waker>>>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    last_output: Option<Mono>,
}

impl Tape {
    /// An empty log whose first line gets `first_seq` and whose first run `first_run` (both from 1).
    pub fn new(limits: Limits, first_seq: u64, first_run: u64) -> Arc<Self> {
        let ring = Ring::new(limits, first_seq, first_run);
        Arc::new(Self {
            next: AtomicU64::new(ring.next()),
            state: Mutex::new(State {
                ring,
                last_output: None,
            }),
            followers: Mutex::default(),
        })
    }

    /// New bounds (a reload).
    pub fn set_limits(&self, limits: Limits) {
        self.lock().ring.set_limits(limits);
    }

    /// Begins a run and gives its number. Two may be open at once (an overlapping swap).
    pub fn begin(&self, at: Wall) -> u64 {
        self.lock().ring.begin(at)
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u64 {
        self.lock().ring.next_run()
    }

    /// Ends a run: its unfinished lines end. `exit`: how, in words. What still comes (of a grandchild
    /// that holds the pipe) is added to it.
    pub fn end(&self, run: u64, at: Wall, exit: &str) {
        let mut state = self.lock();
        let finished = state.ring.end(run, at, exit);
        self.publish(state, finished);
    }

    /// One read(2) straight into the log. `Ok(0)`: end of file. `WouldBlock` as an error.
    pub fn read_from(&self, run: u64, stream: Stream, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let mut state = self.lock();
        let Some(room) = state.ring.room(run, stream) else {
            // A run that is gone: its pipe is kept from filling up, that is all.
            return Ok(nix::unistd::read(fd, &mut [0; 4096])?);
        };
        let count = nix::unistd::read(fd, room)?;
        if count > 0 {
            state.last_output = Some(Mono::now());
            let finished = state.ring.commit(run, stream, count, Wall::now());
            self.publish(state, finished);
        }
        Ok(count)
    }

    /// Appends bytes (a build's rendered messages).
    pub fn append(&self, run: u64, stream: Stream, mut bytes: &[u8]) {
        let mut state = self.lock();
        let at = Wall::now();
        let mut finished = false;
        while !bytes.is_empty()
            && let Some(room) = state.ring.room(run, stream)
        {
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            finished |= state.ring.commit(run, stream, now.len(), at);
            bytes = later;
        }
        state.last_output = Some(Mono::now());
        self.publish(state, finished);
    }

    /// The number that the next new line gets; lock-free. All lines before it can be pulled.
    pub fn next_seq(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Wakes `waker` once per read that finished a line until [`Tape::unfollow`].
    pub fn follow(&self, waker: &Arc<Waker>) {
        lock(&self.followers).push(Arc::clone(waker));
    }

    /// Undoes [`Tape::follow`].
    pub fn unfollow(&self, waker: &Arc<Waker>) {
        lock(&self.followers).retain(|w| !Arc::ptr_eq(w, waker));
    }

    /// Complete lines with `seq > after`, at most about `max_bytes` of text, but one at least.
    pub fn pull(&self, after: u64, max_bytes: usize) -> Pulled {
        let mut lines = Vec::new();
        let pull = self.pull_raw(after, max_bytes, |line| {
            lines.push(Line {
                seq: line.seq,
                run: line.run,
                at: line.at,
                stream: line.stream,
                text: text_of(line.bytes),
                matched: false,
                truncated: is_piece(line.bytes),
            });
        });
        Pulled {
            lines,
            dropped: pull.dropped,
            next: pull.next,
        }
    }

    /// As [`Tape::pull`], but the lines as they were written. Nothing is locked while `each` runs.
    pub fn pull_raw(
        &self,
        after: u64,
        max_bytes: usize,
        mut each: impl FnMut(RawLine<'_>),
    ) -> Pull {
        let none = Pull {
            dropped: 0,
            next: after,
            more: false,
        };
        if self.next_seq() <= after.saturating_add(1) {
            return none;
        }
        let snapshot = self.lock().ring.since(after, None, false);
        let late = |seq: u64| snapshot.late.iter().any(|(_, own)| *own == seq);
        let mut pull = Pull {
            dropped: snapshot.dropped,
            next: snapshot.next.max(after),
            more: false,
        };
        let mut room = max_bytes.max(1);
        let mut last = after;
        for (lane, at) in Walk::up(&snapshot.lanes, after) {
            if room == 0 {
                pull.next = last;
                pull.more = true;
                break;
            }
            last = at.seq;
            if late(at.seq) {
                continue;
            }
            let lane = &snapshot.lanes[lane];
            let (bytes, when) = lane.bytes(&at);
            room = room.saturating_sub(bytes.len());
            each(RawLine {
                seq: own_number(&snapshot.late, at.seq),
                run: lane.run,
                at: when,
                stream: lane.stream,
                bytes,
            });
        }
        pull
    }

    /// Answers a query. Takes its time: for a worker thread.
    ///
    /// # Errors
    /// The pattern is none, or there is no run of that index.
    pub fn find(&self, query: &Query) -> Result<Found, QueryError> {
        let matcher = match &query.pattern {
            Some(pattern) => Some(Matcher::new(pattern, query.literal, query.ignore_case)?),
            None => None,
        };
        let (mut found, mut snapshot) = self.lock().select(query)?;
        if let Some(since) = query.since {
            snapshot.lanes.iter_mut().for_each(|lane| lane.since(since));
        }
        let deadline = Mono::now().after(query.budget);
        let Outcome {
            mut lines,
            matches,
            searched,
            stopped_early,
        } = search(&snapshot.lanes, query, matcher.as_ref(), &mut || {
            Mono::now() >= deadline
        });
        if !snapshot.late.is_empty() {
            for line in &mut lines {
                line.seq = own_number(&snapshot.late, line.seq);
            }
            lines.sort_by_key(|line| line.seq);
        }
        found.lines = lines;
        found.matches = matches;
        found.searched = searched;
        found.stopped_early = stopped_early;
        Ok(found)
    }

    /// The last `n` lines of a run, the unfinished ones as they stand.
    pub fn tail(&self, run: u64, n: usize) -> Vec<Line> {
        let snapshot = self.lock().ring.of_run(run, None);
        let query = Query {
            tail: Some(n),
            ..Query::default()
        };
        search(&snapshot.lanes, &query, None, &mut || false).lines
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let state = self.lock();
        let (lines, dropped) = state.ring.counts();
        Stats {
            lines,
            dropped,
            last_output: state.last_output,
        }
    }

    /// Lets go of the lock, and tells the followers if there is something for them.
    fn publish(&self, state: MutexGuard<'_, State>, finished: bool) {
        if !finished {
            return;
        }
        self.next.store(state.ring.next(), Ordering::Release);
        drop(state);
        for follower in lock(&self.followers).iter() {
            follower.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What a panicking thread left is whole: nothing panics between two halves of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A late line has its own number, not that of its place.
fn own_number(late: &[(u64, u64)], seq: u64) -> u64 {
    let own = late.iter().find(|(place, _)| *place == seq);
    own.map_or(seq, |(_, own)| *own)
}

impl State {
    /// The lines that a query is about, and what the answer says of their run.
    fn select(&mut self, query: &Query) -> Result<(Found, Snapshot), QueryError> {
        let runs = self.ring.runs();
        let known = runs.len();
        let position = match usize::try_from(query.index) {
            Ok(from_oldest) => Some(from_oldest),
            Err(_) => {
                known.checked_sub(usize::try_from(query.index.unsigned_abs()).unwrap_or(usize::MAX))
            }
        };
        let run = position.and_then(|at| runs.get(at));
        if run.is_none() && (known > 0 || !matches!(query.index, -1 | 0)) {
            return Err(QueryError::NoRun {
                index: query.index,
                known,
            });
        }
        let mut found = Found {
            run: run.map(|r| r.number),
            index: position.map_or(-1, |at| at as i64 - known.max(1) as i64),
            started_at: run.map(|r| r.started),
            ended_at: run.and_then(|r| r.ended.as_ref()).map(|(at, _)| *at),
            exit: run
                .and_then(|r| r.ended.as_ref())
                .map(|(_, how)| how.clone()),
            lines: Vec::new(),
            matches: 0,
            searched: 0,
            dropped: 0,
            stopped_early: false,
            next: 0,
        };
        let mut snapshot = match (query.after, found.run) {
            // A cursor crosses runs, unless a run was named.
            (Some(after), Some(run)) if query.index != -1 => {
                let mut snapshot = self.ring.since(after, query.stream, true);
                snapshot.lanes.retain(|lane| lane.run == run);
                snapshot
            }
            (Some(after), _) => self.ring.since(after, query.stream, true),
            (None, Some(run)) => self.ring.of_run(run, query.stream),
            (None, None) => self.ring.of_run(0, query.stream),
        };
        found.dropped = std::mem::take(&mut snapshot.dropped);
        found.next = snapshot.next;
        Ok((found, snapshot))
    }
}
