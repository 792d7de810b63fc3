//! One log: memory and files, each behind a lock of its own, and wake-ups for its followers.

mod index;
mod layout;
mod query;
mod reader;
mod saved;
mod segment;
#[cfg(test)]
mod testing;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use crate::base::clock::{Mono, Wall};
use crate::log::block::{MAX_LINE, MergeIter, is_piece};
use crate::log::line::{beyond_text, text_of};
use crate::log::ring::{Ended, Ring, Scope};
use crate::log::search::{
    Errors, Finder, Found, Line, Matcher, Query, QueryError, Search, line, search,
};
use crate::log::stream::Stream;
use crate::os::inbox::Waker;
use layout::Folder;
use query::{Pages, Selection, Stored, Windows, runs};
use writer::Disk;

pub use crate::log::ring::Limits;
pub use layout::Kind;

/// An unfinished line to which nothing was added for that long counts for who waits for a line: it is a
/// prompt, say.
pub const STILL: Duration = Duration::from_millis(200);
/// Changes that wait for a disk that hangs.
const MOST_WAITING: usize = 1_000;

/// Counts of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Lines that are in memory.
    pub lines: u64,
    /// Lines that no longer are, since this daemon's start.
    pub dropped: u64,
    /// When the last byte came.
    pub last_output: Option<Mono>,
    /// Lines that ended since this daemon's start.
    pub printed: u64,
    /// Bytes that came since then.
    pub bytes: u64,
}

/// The lines that a follower got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pulled {
    /// Complete lines after the cursor.
    pub lines: Vec<Line>,
    /// Lines after the cursor that were gone already.
    pub dropped: u64,
    /// The cursor for the next pull.
    pub next: u64,
}

/// A line as the process wrote it.
#[derive(Debug, Clone, Copy)]
pub struct RawLine<'a> {
    pub seq: u64,
    pub run: u64,
    /// The time of its last byte.
    pub at: Wall,
    pub stream: Stream,
    /// With its newline, if it has one.
    pub bytes: &'a [u8],
}

/// The place of a follower after a pull.
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
///
/// `disk` is held over system calls that may hang, so only threads take it that may wait for a disk, and
/// before `memory`, which is never held over one. Both are held while lines are added to the files' index,
/// or a query chooses its lines. Changes by other threads (a run begins or ends) go to memory at once, and
/// wait there for the next one who has the disk.
#[derive(Debug)]
pub struct Log {
    disk: Mutex<Option<Disk>>,
    memory: Mutex<Memory>,
    /// The number that the next line gets, for [`Log::next_seq`].
    next: AtomicU64,
    followers: Mutex<Vec<Arc<Waker>>>,
    trouble: Mutex<Option<String>>,
    on_trouble: OnceLock<Hook>,
}

/// Called when [`Log::trouble`] has changed; does not block.
struct Hook(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug)]
struct Memory {
    ring: Ring,
    last_output: Option<Mono>,
    /// Bytes since this daemon's start.
    bytes: u64,
    /// Changes that the files do not have yet, oldest first.
    waiting: Vec<Change>,
}

/// A change of the files.
#[derive(Debug)]
enum Change {
    Begin {
        run: u64,
        at: Wall,
    },
    EndLine {
        run: u64,
        stream: Stream,
        ended: Ended,
        at: Wall,
    },
    End {
        run: u64,
        at: Wall,
        exit: String,
    },
    Budget(u64),
}

impl Memory {
    /// A log that is not on disk needs no changes there; a disk that hangs for hours misses some.
    fn wait(&mut self, change: Change) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(change);
        }
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
        Self::with(limits, Some(disk), first_seq, first_run)
    }

    /// The files of earlier daemons, to be read; none of them is removed.
    pub fn stored(folder: Arc<Path>, kind: Kind, limits: Limits) -> Arc<Self> {
        let mut disk = Disk::new(Folder { path: folder, kind }, limits.disk);
        let (last, run) = disk.last();
        Self::with(limits, Some(disk), last + 1, run + 1)
    }

    fn with(limits: Limits, disk: Option<Disk>, first_seq: u64, first_run: u64) -> Arc<Self> {
        Self::of(Ring::new(limits, first_seq, first_run), disk)
    }

    fn of(ring: Ring, disk: Option<Disk>) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(ring.next_seq()),
            disk: Mutex::new(disk),
            memory: Mutex::new(Memory {
                ring,
                last_output: None,
                bytes: 0,
                waiting: Vec::new(),
            }),
            followers: Mutex::default(),
            trouble: Mutex::default(),
            on_trouble: OnceLock::new(),
        })
    }

    /// The cursor before the first line of this daemon.
    pub fn origin(&self) -> u64 {
        self.memory().ring.origin() - 1
    }

    /// Sets the bounds (a reload).
    pub fn set_limits(&self, limits: Limits) {
        let mut memory = self.memory();
        memory.ring.set_limits(limits);
        memory.wait(Change::Budget(limits.disk));
        drop(memory);
        self.settle();
    }

    /// Begins a run and returns its number. Two may be open at once (an overlapping swap).
    pub fn begin(&self, at: Wall) -> u64 {
        let mut memory = self.memory();
        let run = memory.ring.begin(at);
        memory.wait(Change::Begin { run, at });
        drop(memory);
        self.settle();
        run
    }

    /// Goes on with a run of an earlier daemon: with its file, and with the lines that it left unfinished. The next
    /// line gets the number behind those in the files, but at least that one. To be called before anything is written.
    pub fn resume(&self, run: u64, started: Wall, first_seq: u64) {
        let resumed = self.with_disk(|disk| {
            let disk = disk.as_mut();
            disk.map(|disk| disk.resume(run, started))
                .unwrap_or_default()
        });
        let mut memory = self.memory();
        let first_seq = first_seq.max(resumed.last + 1);
        memory.ring.resume(run, started, first_seq, resumed.lines);
        self.publish(&memory);
        let (at, now) = (Wall::now(), Mono::now());
        for (stream, line) in Stream::ALL.into_iter().zip(resumed.unfinished) {
            memory.ring.append(run, stream, &line, at, now);
        }
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u64 {
        self.memory().ring.next_run()
    }

    /// Ends a run, and its unfinished lines; `exit`: the manner, in words. Later output (of a grandchild
    /// that holds the pipe) is added to it.
    pub fn end(&self, run: u64, at: Wall, exit: &str) {
        let mut memory = self.memory();
        let mut lines = 0;
        for stream in Stream::ALL {
            if let Some(ended) = memory.ring.end_line(run, stream) {
                lines += ended.lines;
                memory.wait(Change::EndLine {
                    run,
                    stream,
                    ended,
                    at,
                });
            }
        }
        memory.ring.end(run, at, exit);
        let exit = exit.to_owned();
        memory.wait(Change::End { run, at, exit });
        self.publish(&memory);
        drop(memory);
        self.settle();
        if lines > 0 {
            self.wake();
        }
    }

    /// Appends bytes to a run: to its file first, then to memory, where they are seen. True: they leave a
    /// line unfinished. Waits for the disk.
    pub fn append(&self, run: u64, stream: Stream, bytes: &[u8]) -> bool {
        let (at, now) = (Wall::now(), Mono::now());
        let (mut lines, mut unfinished) = (0, false);
        self.with_disk(|disk| {
            let most = disk.as_ref().map_or(MAX_LINE, |disk| disk.most());
            for part in bytes.chunks(most) {
                if let Some(disk) = disk {
                    disk.write(run, part, at, self.next_seq());
                }
                for piece in part.chunks(MAX_LINE) {
                    let mut memory = self.memory();
                    // Output of a run that is gone is read and forgotten.
                    let Some(ended) = memory.ring.append(run, stream, piece, at, now) else {
                        return;
                    };
                    memory.last_output = Some(now);
                    memory.bytes += piece.len() as u64;
                    self.publish(&memory);
                    let waiting = std::mem::take(&mut memory.waiting);
                    drop(memory);
                    if let Some(disk) = disk {
                        apply(disk, waiting);
                        disk.note(run, stream, piece.len(), &ended, at);
                    }
                    lines += ended.lines;
                    unfinished = ended.unfinished;
                }
            }
        });
        if lines > 0 {
            self.wake();
        }
        unfinished
    }

    /// The reason for which lines are not written to disk now: `cannot write /.../000003-00.log: no space left
    /// on device`.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Calls `hook` from now on whenever [`Log::trouble`] has changed, on the thread that met it; at once
    /// where there is trouble already. The first hook counts.
    pub fn on_trouble(&self, hook: Box<dyn Fn() + Send + Sync>) {
        let Hook(hook) = self.on_trouble.get_or_init(|| Hook(hook));
        if self.trouble().is_some() {
            hook();
        }
    }

    /// Sets what [`Log::trouble`] says. To be called without a lock held.
    pub fn set_trouble(&self, why: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.trouble), why.clone());
        if let Some(Hook(hook)) = self.on_trouble.get().filter(|_| before != why) {
            hook();
        }
    }

    /// The number that the next line gets; lock-free. All lines before it can be pulled.
    pub fn next_seq(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Wakes `waker` once per append that ended a line, and when an unfinished one has stood still, until
    /// [`Log::unfollow`].
    pub fn follow(&self, waker: &Arc<Waker>) {
        lock(&self.followers).push(Arc::clone(waker));
    }

    /// Undoes [`Log::follow`].
    pub fn unfollow(&self, waker: &Arc<Waker>) {
        lock(&self.followers).retain(|w| !Arc::ptr_eq(w, waker));
    }

    /// Wakes the followers.
    pub(super) fn wake(&self) {
        for follower in lock(&self.followers).iter() {
            follower.wake();
        }
    }

    /// Complete lines with `seq > after`, at most about `max_bytes` of text, but one at least.
    pub fn pull(&self, after: u64, max_bytes: usize) -> Pulled {
        let mut lines = Vec::new();
        let pull = self.pull_raw(after, max_bytes, |line| {
            let text = text_of(line.bytes);
            lines.push(Line {
                seq: Some(line.seq),
                run: line.run,
                at: line.at,
                stream: line.stream,
                raw: beyond_text(line.bytes, &text),
                text,
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
        let mut pull = Pull {
            dropped: 0,
            next: after,
            more: false,
        };
        if self.next_seq() <= after.saturating_add(1) {
            return pull;
        }
        let mut pages = self.pages_after(after);
        let mut slices = Vec::new();
        // The lowest number of the lines that are not in `slices`.
        let horizon = loop {
            let horizon = pages.nearest(true).unwrap_or(u64::MAX);
            let first = MergeIter::up(&slices, after).next();
            if first.is_some_and(|(_, at)| at.seq < horizon) {
                break horizon;
            }
            match pages.page(true) {
                Some(page) => slices.extend(page),
                None => break u64::MAX,
            }
        };
        pull.next = pages.next.max(after).min(horizon - 1);
        pull.more = horizon < u64::MAX;
        let mut room = max_bytes.max(1);
        let mut last = after;
        for (slice, at) in MergeIter::up(&slices, after).take_while(|(_, at)| at.seq < horizon) {
            if room == 0 {
                pull.next = last;
                pull.more = true;
                break;
            }
            let slice = &slices[slice];
            let (bytes, when) = slice.bytes(&at);
            last = at.seq;
            room = room.saturating_sub(bytes.len());
            each(RawLine {
                seq: at.seq,
                run: slice.run,
                at: when,
                stream: slice.stream,
                bytes,
            });
        }
        // Those behind the new cursor are reported then.
        let gone = pages.gone_after(after);
        pull.dropped = gone.saturating_sub(pages.gone_after(pull.next));
        pull
    }

    /// All complete lines behind a cursor.
    fn pages_after(&self, after: u64) -> Pages {
        let scope = Scope {
            after,
            ..Scope::default()
        };
        let memory = self.memory();
        if memory.ring.has_all_after(after) {
            return Selection::new(&memory.ring, None, &scope, None).open();
        }
        drop(memory);
        self.select(|ring, stored| Selection::new(ring, stored, &scope, None))
            .open()
    }

    /// Chooses lines while both memory and files stay as they are.
    fn select<T>(&self, choose: impl FnOnce(&Ring, Option<Stored>) -> T) -> T {
        self.with_disk(|disk| {
            let stored = disk
                .as_mut()
                .map(|disk| (disk.folder().clone(), disk.segments()));
            choose(&self.memory().ring, stored)
        })
    }

    /// The lines that a query is about, and what is known of them without a search.
    fn choose(
        &self,
        query: &Query,
        unfinished: Option<Mono>,
    ) -> Result<(Found, Pages), QueryError> {
        let (mut found, selection) = self.select(|ring, stored| {
            let runs = runs(ring, stored.as_ref());
            let known = runs.len();
            let from_newest = usize::try_from(query.index.unsigned_abs()).unwrap_or(usize::MAX);
            let position = match usize::try_from(query.index) {
                Ok(from_oldest) => Some(from_oldest),
                Err(_) => known.checked_sub(from_newest),
            };
            let run = position.and_then(|at| runs.get(at)).copied();
            if run.is_none() && (known > 0 || !matches!(query.index, -1 | 0)) {
                let index = query.index;
                return Err(QueryError::NoRun { index, known });
            }
            let of_ring = ring.runs().iter().find(|r| Some(r.number) == run);
            let ended = of_ring.and_then(|r| r.ended.clone());
            let found = Found {
                run,
                index: position.map_or(-1, |at| at as i64 - known.max(1) as i64),
                started_at: of_ring.map(|r| r.started),
                ended_at: ended.as_ref().map(|(at, _)| *at),
                exit: ended.map(|(_, how)| how),
                ..Found::default()
            };
            // A cursor crosses runs, unless a run was named.
            let crosses = query.after.is_some() && query.index == -1;
            let scope = Scope {
                run: if crosses { None } else { run.or(Some(0)) },
                stream: query.stream,
                after: query.after.unwrap_or(0),
                unfinished,
            };
            Ok((found, Selection::new(ring, stored, &scope, query.since)))
        })?;
        let pages = selection.open();
        found.next = pages.next;
        found.dropped = pages.gone_after(query.after.unwrap_or(0));
        if let Some(reader) = pages.readers.iter().find(|r| Some(r.run) == found.run)
            && found.started_at.is_none()
        {
            let (started, ended) = reader.life();
            found.started_at = started;
            (found.ended_at, found.exit) = ended.unzip();
        }
        Ok((found, pages))
    }

    /// Answers a query. Takes its time, and waits for the disk: for a worker thread.
    ///
    /// # Errors
    /// The pattern is none, or there is no run of that index.
    pub fn find(&self, query: &Query) -> Result<Found, QueryError> {
        let matcher = match &query.pattern {
            Some(pattern) => Some(Matcher::new(pattern, query.literal, query.ignore_case)?),
            None => None,
        };
        // A line that is just being written is shown, and matched once it stands still.
        let unfinished = matcher.as_ref().map_or(Mono::now(), |_| still_since());
        let (mut found, mut pages) = self.choose(query, Some(unfinished))?;
        if matcher.is_none() {
            found.matches = pages.lines();
            found.searched = found.matches;
        }
        Ok(search_pages(query, matcher.as_ref(), found, &mut pages))
    }

    /// Errors and warnings, grouped by shape, at most `max` groups: of the lines that `query` is about (by its
    /// run, cursor, time and stream). Takes its time, and waits for the disk: for a worker thread.
    ///
    /// # Errors
    /// There is no run of that index.
    pub fn find_errors(&self, query: &Query, max: usize) -> Result<Errors, QueryError> {
        let (found, mut pages) = self.choose(query, None)?;
        let mut expired = budget(query);
        let mut finder = Finder::default();
        while let Some(page) = pages.page(true)
            && finder.page(&page, &mut expired)
        {}
        let mut errors = finder.finish(max);
        errors.dropped = found.dropped;
        errors.next = found.next;
        Ok(errors)
    }

    /// The last `n` lines of a run, the unfinished ones as they stand. Waits for the disk where memory has not so
    /// many, since the run was begun by an earlier daemon.
    pub fn tail(&self, run: u64, n: usize) -> Vec<Line> {
        let query = Query {
            tail: Some(n),
            ..Query::default()
        };
        let scope = whole(run);
        let (lines, all) = self.in_memory(run, &scope, &query);
        if lines.len() >= n || all {
            return lines;
        }
        let selection = self.select(|ring, stored| Selection::new(ring, stored, &scope, None));
        let mut pages = selection.open();
        let found = Found {
            next: pages.next,
            ..Found::default()
        };
        search_pages(&query, None, found, &mut pages).lines
    }

    /// The first `n` lines of a run, the unfinished ones as they stand. None: some are in the files alone.
    pub fn head(&self, run: u64, n: usize) -> Option<Vec<Line>> {
        let query = Query {
            head: Some(n),
            ..Query::default()
        };
        let (lines, all) = self.in_memory(run, &whole(run), &query);
        all.then_some(lines)
    }

    /// The lines of a run that memory has, and whether it has had no more.
    fn in_memory(&self, run: u64, scope: &Scope, query: &Query) -> (Vec<Line>, bool) {
        let memory = self.memory();
        let slices = memory.ring.slices(scope);
        let gone = memory.ring.gone_of(run).is_some_and(|gone| gone.lines > 0);
        let found = Found {
            next: memory.ring.next_seq() - 1,
            ..Found::default()
        };
        drop(memory);
        let found = search(&slices, query, None, found, &mut || false);
        (found.lines, !gone)
    }

    /// The unfinished lines that have stood still for [`STILL`], of a run or of all. A follower is woken when
    /// there is one.
    pub fn still(&self, run: Option<u64>) -> Vec<Line> {
        let memory = self.memory();
        let slices = memory.ring.slices(&Scope {
            run,
            after: memory.ring.next_seq() - 1,
            unfinished: Some(still_since()),
            ..Scope::default()
        });
        drop(memory);
        let lines = MergeIter::up(&slices, 0);
        let lines = lines.map(|(slice, at)| line(&slices[slice], &at, false));
        lines.map(|line| Line { seq: None, ..line }).collect()
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let memory = self.memory();
        let (lines, dropped) = memory.ring.counts();
        Stats {
            lines,
            dropped,
            last_output: memory.last_output,
            printed: memory.ring.next_seq() - memory.ring.origin(),
            bytes: memory.bytes,
        }
    }

    /// Works on the files, which are up to date then.
    fn with_disk<T>(&self, work: impl FnOnce(&mut Option<Disk>) -> T) -> T {
        let mut disk = lock(&self.disk);
        self.catch_up(&mut disk);
        let result = work(&mut disk);
        self.unlock(disk);
        // A change that came meanwhile found the files locked.
        self.settle();
        result
    }

    /// Brings the files up to date, unless another thread works on them, which does it then. Does not wait
    /// for a disk that hangs.
    fn settle(&self) {
        while !self.memory().waiting.is_empty() {
            let mut disk = match self.disk.try_lock() {
                Ok(disk) => disk,
                Err(TryLockError::Poisoned(disk)) => disk.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.catch_up(&mut disk);
            self.unlock(disk);
        }
    }

    fn catch_up(&self, disk: &mut Option<Disk>) {
        let waiting = std::mem::take(&mut self.memory().waiting);
        if let Some(disk) = disk {
            apply(disk, waiting);
        }
    }

    fn unlock(&self, mut disk: MutexGuard<'_, Option<Disk>>) {
        let trouble = disk.as_mut().and_then(Disk::news);
        drop(disk);
        if let Some(why) = trouble {
            self.set_trouble(why);
        }
    }

    /// Shows the lines that ended.
    fn publish(&self, memory: &Memory) {
        self.next.store(memory.ring.next_seq(), Ordering::Release);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

/// Brings the files up to date.
fn apply(disk: &mut Disk, waiting: Vec<Change>) {
    for change in waiting {
        match change {
            Change::Begin { run, at } => disk.begin(run, at),
            Change::EndLine {
                run,
                stream,
                ended,
                at,
            } => disk.note(run, stream, 0, &ended, at),
            Change::End { run, at, exit } => disk.end(run, at, &exit),
            Change::Budget(bytes) => disk.set_budget(bytes),
        }
    }
}

/// All lines of a run, the unfinished ones as they stand.
fn whole(run: u64) -> Scope {
    Scope {
        run: Some(run),
        unfinished: Some(Mono::now()),
        ..Scope::default()
    }
}

/// Lines to which nothing was added since then stand still.
fn still_since() -> Mono {
    Mono::from_nanos(
        Mono::now()
            .as_nanos()
            .saturating_sub(STILL.as_nanos() as u64),
    )
}

/// Answers a query page by page, within its time.
fn search_pages(
    query: &Query,
    matcher: Option<&Matcher>,
    found: Found,
    pages: &mut Pages,
) -> Found {
    let mut expired = budget(query);
    let mut search = Search::new(query, matcher, found);
    let mut windows = Windows::new(pages, search.is_forward(), search.beside());
    while search.wants(windows.nearest())
        && let Some((slices, own)) = windows.next()
    {
        search.page(&slices, &own, &mut expired);
    }
    search.finish()
}

/// Tells when the time of a query is over.
fn budget(query: &Query) -> impl FnMut() -> bool {
    let deadline = Mono::now().after(query.budget);
    move || Mono::now() >= deadline
}

/// The state that a panicking thread left is whole: nothing panics between two halves of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
