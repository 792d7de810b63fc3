//! One log: ring and files behind one lock, and wake-ups for whoever follows it. The only memory that
//! threads share.

mod index;
mod query;
mod reader;
mod segment;
#[cfg(test)]
mod testing;
mod writer;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::base::clock::{Mono, Wall};
use crate::base::table::in_order;
use crate::log::block::{MAX_LINE, MergeIter, StreamSlice, is_piece};
use crate::log::ring::Ring;
use crate::log::search::{
    Errors, Finder, Found, Line, Matcher, Query, QueryError, Search, Stream, search, text_of,
};
use crate::os::poll::Waker;
use query::Selection;
use writer::{Disk, Folder};

pub use crate::log::ring::Limits;
pub use writer::Kind;

/// A stack that goes on from one page of a log to the next has so many lines at most.
const EVENT: u64 = 120;

/// Counts of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Lines that can be searched.
    pub lines: u64,
    /// Lines that no longer can, since this daemon's start.
    pub dropped: u64,
    /// When the last byte came.
    pub last_output: Option<Mono>,
    /// Lines that were finished since this daemon's start.
    pub printed: u64,
    /// Bytes that came since then.
    pub bytes: u64,
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
pub struct Log {
    state: Mutex<State>,
    /// The number of the first line of this daemon's life.
    first: u64,
    /// What [`Log::next_seq`] says.
    next: AtomicU64,
    /// A lock of its own: a woken thread asks for the other one at once.
    followers: Mutex<Vec<Arc<Waker>>>,
    trouble: Mutex<Option<String>>,
    told: OnceLock<Hook>,
}

/// Called when [`Log::trouble`] has changed; does not block.
struct Hook(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug)]
struct State {
    ring: Ring,
    last_output: Option<Mono>,
    bytes: u64,
    /// Runs that can be searched.
    runs: usize,
    disk: Option<Box<Disk>>,
}

impl State {
    /// Where the next bytes of a stream go, as many as the disk takes at once.
    fn room(&mut self, run: u64, stream: Stream) -> Option<&mut [u8]> {
        let most = self.disk.as_ref().map_or(MAX_LINE, |disk| disk.most());
        let room = self.ring.room(run, stream)?;
        let size = room.len().min(most);
        room.get_mut(..size)
    }

    /// New bytes that are in the ring's room: to the disk first, then to the ring. True: lines were
    /// finished.
    fn add(&mut self, run: u64, stream: Stream, count: usize, at: Wall) -> bool {
        self.bytes += count as u64;
        let Self { ring, disk, .. } = self;
        if let Some(disk) = disk {
            let next = ring.next_number();
            if let Some(bytes) = ring.room(run, stream).and_then(|room| room.get(..count)) {
                disk.write(run, bytes, at, next);
            }
        }
        let mut finished = false;
        let mut left = count;
        while left > 0 {
            let now = left.min(MAX_LINE);
            finished |= ring.commit(run, stream, now, at);
            if let Some(disk) = disk {
                disk.note(run, stream, now, ring.mark(), at);
            }
            left -= now;
        }
        finished
    }
}

impl Log {
    /// A log in memory whose first line gets `first_seq` and whose first run `first_run` (both from 1).
    pub fn new(limits: Limits, first_seq: u64, first_run: u64) -> Arc<Self> {
        Self::with(limits, None, first_seq, first_run)
    }

    /// A log that goes on where the files in `folder` end, and writes to them unless `limits.disk` is
    /// zero; its numbers are at least these.
    pub fn open(
        folder: Arc<Path>,
        kind: Kind,
        limits: Limits,
        first_seq: u64,
        first_run: u64,
    ) -> Arc<Self> {
        let mut disk = Disk::new(Folder { path: folder, kind }, limits.disk);
        let (last, run) = disk.last();
        let (first_seq, first_run) = (first_seq.max(last + 1), first_run.max(run + 1));
        disk.set_budget(limits.disk);
        Self::with(limits, Some(Box::new(disk)), first_seq, first_run)
    }

    /// What earlier daemons wrote, to be read; nothing of it goes.
    pub fn stored(folder: Arc<Path>, kind: Kind, limits: Limits) -> Arc<Self> {
        let disk = Disk::new(Folder { path: folder, kind }, limits.disk);
        let (last, run) = disk.last();
        Self::with(limits, Some(Box::new(disk)), last + 1, run + 1)
    }

    fn with(limits: Limits, disk: Option<Box<Disk>>, first_seq: u64, first_run: u64) -> Arc<Self> {
        let ring = Ring::new(limits, first_seq, first_run);
        Arc::new(Self {
            first: ring.next(),
            next: AtomicU64::new(ring.next()),
            state: Mutex::new(State {
                ring,
                last_output: None,
                bytes: 0,
                runs: limits.runs,
                disk,
            }),
            followers: Mutex::default(),
            trouble: Mutex::default(),
            told: OnceLock::new(),
        })
    }

    /// The cursor before the first line of this daemon.
    pub fn origin(&self) -> u64 {
        self.lock().ring.origin() - 1
    }

    /// New bounds (a reload).
    pub fn set_limits(&self, limits: Limits) {
        let mut state = self.lock();
        state.runs = limits.runs;
        state.ring.set_limits(limits);
        if let Some(disk) = &mut state.disk {
            disk.set_budget(limits.disk);
        }
        self.publish(state, false);
    }

    /// Begins a run and gives its number. Two may be open at once (an overlapping swap).
    pub fn begin(&self, at: Wall) -> u64 {
        let mut state = self.lock();
        let run = state.ring.begin(at);
        if let Some(disk) = &mut state.disk {
            disk.begin(run, at);
        }
        run
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u64 {
        self.lock().ring.next_run()
    }

    /// Ends a run: its unfinished lines end. `exit`: how, in words. What still comes (of a grandchild
    /// that holds the pipe) is added to it.
    pub fn end(&self, run: u64, at: Wall, exit: &str) {
        let mut state = self.lock();
        let State { ring, disk, .. } = &mut *state;
        let mut finished = false;
        for stream in Stream::ALL {
            if ring.finish_line(run, stream) {
                finished = true;
                if let Some(disk) = disk {
                    disk.note(run, stream, 0, ring.mark(), at);
                }
            }
        }
        ring.end(run, at, exit);
        if let Some(disk) = disk {
            disk.end(run, at, exit);
        }
        self.publish(state, finished);
    }

    /// One read(2) straight into the log. `Ok(0)`: end of file. `WouldBlock` as an error.
    pub fn read_from(&self, run: u64, stream: Stream, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let mut state = self.lock();
        let Some(room) = state.room(run, stream) else {
            // A run that is gone: its pipe is kept from filling up, that is all.
            return Ok(nix::unistd::read(fd, &mut [0; 4096])?);
        };
        let count = nix::unistd::read(fd, room)?;
        if count > 0 {
            state.last_output = Some(Mono::now());
            let finished = state.add(run, stream, count, Wall::now());
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
            && let Some(room) = state.room(run, stream)
        {
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            let count = now.len();
            finished |= state.add(run, stream, count, at);
            bytes = later;
        }
        state.last_output = Some(Mono::now());
        self.publish(state, finished);
    }

    /// Why lines are not written to disk now, in words: `cannot write /.../000003-00.log: no space left on
    /// device`.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Calls `told` from now on whenever [`Log::trouble`] has changed, on the thread that met it; at once
    /// where there is trouble already. The first hook counts.
    pub fn on_trouble(&self, told: Box<dyn Fn() + Send + Sync>) {
        let Hook(told) = self.told.get_or_init(|| Hook(told));
        if self.trouble().is_some() {
            told();
        }
    }

    /// What [`Log::trouble`] says from now on. To be called without a lock held.
    pub fn set_trouble(&self, why: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.trouble), why.clone());
        if let Some(Hook(told)) = self.told.get().filter(|_| before != why) {
            told();
        }
    }

    /// The number that the next new line gets; lock-free. All lines before it can be pulled.
    pub fn next_seq(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Wakes `waker` once per read that finished a line until [`Log::unfollow`].
    pub fn follow(&self, waker: &Arc<Waker>) {
        lock(&self.followers).push(Arc::clone(waker));
    }

    /// Undoes [`Log::follow`].
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

    /// As [`Log::pull`], but the lines as they were written. Nothing is locked while `each` runs.
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
        let mut view = self.select_since(after).open();
        let (mut lanes, horizon) = view.first_page();
        let first = lanes.iter().filter_map(StreamSlice::first).min();
        let mut pull = Pull {
            // Numbers that no line has are rare, so this seldom has to be counted.
            dropped: match first {
                Some(first) if first <= after.saturating_add(1) => 0,
                Some(_) | None => view.gone(),
            },
            next: view.next.max(after),
            more: false,
        };
        let mut late = std::mem::take(&mut view.late);
        if view.is_stored() && horizon.is_none() {
            // Nothing is left of what should be on disk.
            let memory = &mut Selection::since_in_memory(&mut self.lock().ring, after).memory;
            lanes = std::mem::take(&mut memory.lanes);
            late = std::mem::take(&mut memory.late);
            pull.next = memory.next.max(after);
        }
        let is_late = |seq: u64| late.iter().any(|(_, own)| *own == seq);
        let mut room = max_bytes.max(1);
        let mut last = after;
        for (lane, at) in MergeIter::up(&lanes, after) {
            if horizon.is_some_and(|end| at.seq > end) {
                break;
            }
            if room == 0 {
                pull.next = last;
                pull.more = true;
                break;
            }
            last = at.seq;
            if is_late(at.seq) {
                continue;
            }
            let lane = &lanes[lane];
            let (bytes, when) = lane.bytes(&at);
            room = room.saturating_sub(bytes.len());
            each(RawLine {
                seq: own_number(&late, at.seq),
                run: lane.run,
                at: when,
                stream: lane.stream,
                bytes,
            });
        }
        if let Some(end) = horizon.filter(|_| !pull.more) {
            pull.next = end;
            pull.more = true;
        }
        if pull.more {
            // What is missing on disk behind the next cursor is told then.
            pull.dropped = pull.dropped.saturating_sub(view.missing(pull.next));
        }
        pull
    }

    fn select_since(&self, after: u64) -> Selection {
        let State {
            ring, disk, runs, ..
        } = &mut *self.lock();
        Selection::since(ring, disk.as_deref_mut(), *runs, after)
    }

    fn select(&self, query: &Query) -> Result<Selection, QueryError> {
        let State {
            ring, disk, runs, ..
        } = &mut *self.lock();
        Selection::new(ring, disk.as_deref_mut(), *runs, query)
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
        let mut view = self.select(query)?.open();
        let mut found = std::mem::take(&mut view.found);
        found.dropped = view.gone();
        let all = match matcher {
            Some(_) => 0,
            None => view.lines(),
        };
        let deadline = Mono::now().after(query.budget);
        let mut expired = || Mono::now() >= deadline;
        let mut search = Search::new(query, matcher.as_ref());
        let (forward, beside) = (search.is_forward(), search.beside());
        view.each_page(forward, beside, &mut |lanes, own| {
            search.page(lanes, own, &mut expired);
            search.go()
        });
        let mut outcome = search.finish();
        let late = &view.late;
        if matcher.is_none() {
            outcome.matches = all;
            outcome.searched = all;
        }
        if !late.is_empty() {
            for line in &mut outcome.lines {
                line.seq = own_number(late, line.seq);
            }
            outcome.lines = in_order(outcome.lines, |line| line.seq);
        }
        found.lines = outcome.lines;
        found.matches = outcome.matches;
        found.searched = outcome.searched;
        found.stopped_early = outcome.stopped_early;
        Ok(found)
    }

    /// Errors and warnings, grouped by shape, at most `max` groups: of what `query` (its run, cursor,
    /// time and stream) is about. Takes its time: for a worker thread.
    ///
    /// # Errors
    /// There is no run of that index.
    pub fn find_errors(&self, query: &Query, max: usize) -> Result<Errors, QueryError> {
        let mut view = self.select(query)?.open();
        let dropped = view.gone();
        let next = view.found.next;
        let deadline = Mono::now().after(query.budget);
        let mut expired = || Mono::now() >= deadline;
        let mut finder = Finder::default();
        view.each_page(true, EVENT, &mut |lanes, own| {
            finder.page(lanes, own, &mut expired);
            finder.go()
        });
        let mut errors = finder.finish(max);
        for group in &mut errors.groups {
            group.seq = own_number(&view.late, group.seq);
        }
        errors.dropped = dropped;
        errors.next = next;
        Ok(errors)
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
            printed: state.ring.next().saturating_sub(self.first),
            bytes: state.bytes,
        }
    }

    /// Lets go of the lock, and tells the followers if there is something for them.
    fn publish(&self, mut state: MutexGuard<'_, State>, finished: bool) {
        if finished {
            self.next.store(state.ring.next(), Ordering::Release);
        }
        let trouble = state.disk.as_mut().and_then(|disk| disk.news());
        drop(state);
        if let Some(why) = trouble {
            self.set_trouble(why);
        }
        if finished {
            for follower in lock(&self.followers).iter() {
                follower.wake();
            }
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

#[cfg(test)]
mod tests;
