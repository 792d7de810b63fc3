//! What a query is about, in memory and on disk, as one log: pages in order, from either end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::reader::{Place, Reader};
use super::segment::{Meta, survey};
use super::writer::{Disk, Folder, SegmentId};
use crate::base::clock::Wall;
use crate::base::table::Set;
use crate::log::block::StreamSlice;
use crate::log::ring::{Ring, Snapshot};
use crate::log::search::{Found, Go, Query, QueryError, Stream, whole};

/// Pages that are held before and behind the one that is looked at.
const MOST_BESIDE: usize = 16;

/// What is known of a query while the log is locked.
pub(super) struct Selection {
    pub found: Found,
    pub memory: Snapshot,
    /// Numbers up to here are not meant.
    pub after: u64,
    /// Lines that were finished late, of these numbers, come at their place.
    late_below: u64,
    since: Option<Wall>,
    stream: Option<Stream>,
    stored: Stored,
}

/// What there is to read on disk, oldest run first.
#[derive(Default)]
struct Stored {
    folder: Option<Folder>,
    /// All parts of the log; empty where nothing is to be read.
    parts: Vec<Arc<SegmentId>>,
    runs: Vec<StoredRun>,
}

/// A run of which something is on disk only.
struct StoredRun {
    run: u64,
    /// The number up to which; None: it is not in memory at all.
    ceiling: Option<u64>,
    /// Lines that are gone from memory: all, and those behind the query's cursor.
    gone: [u64; 2],
}

/// The runs that are known, oldest first: as many as can be searched.
fn runs(ring: &Ring, parts: &[Arc<SegmentId>], most: usize) -> Vec<u64> {
    let mut runs = Set::default();
    let in_memory = ring.runs().iter().map(|r| r.number);
    for run in parts.iter().map(|p| p.run).chain(in_memory) {
        runs.add(run);
    }
    let mut runs = runs.into_keys();
    let surplus = runs.len().saturating_sub(most.max(ring.runs().len()));
    runs.drain(..surplus);
    runs
}

impl Selection {
    /// The lines that a query is about, and what the answer says of their run.
    pub(super) fn new(
        ring: &mut Ring,
        disk: Option<&mut Disk>,
        most: usize,
        query: &Query,
    ) -> Result<Self, QueryError> {
        let folder = disk.as_ref().map(|disk| disk.folder.clone());
        let parts = disk.map_or_else(Vec::new, Disk::now);
        let runs = runs(ring, &parts, most);
        let known = runs.len();
        let position = match usize::try_from(query.index) {
            Ok(from_oldest) => Some(from_oldest),
            Err(_) => {
                known.checked_sub(usize::try_from(query.index.unsigned_abs()).unwrap_or(usize::MAX))
            }
        };
        let run = position.and_then(|at| runs.get(at)).copied();
        if run.is_none() && (known > 0 || !matches!(query.index, -1 | 0)) {
            return Err(QueryError::NoRun {
                index: query.index,
                known,
            });
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
        let after = query.after.unwrap_or(0);
        let mut memory = match query.after {
            Some(after) => ring.since(after, query.stream, true, &|_| true),
            None => ring.of_run(run.unwrap_or(0), query.stream),
        };
        if !crosses {
            memory.lanes.retain(|lane| Some(lane.run) == run);
            memory.dropped = run.map_or(0, |run| ring.gone_of_run(run, after));
        }
        let wanted = |number: &u64| crosses || Some(*number) == run;
        let wanted: Vec<u64> = runs.iter().copied().filter(wanted).collect();
        for run in &wanted {
            for mut lane in ring.overtaken(*run, query.stream) {
                lane.raise(after);
                memory.lanes.push(lane);
            }
        }
        let stored = Stored::new(ring, folder, parts, wanted, after);
        stored.take_late(&mut memory);
        let mut selection = Self {
            stored,
            found,
            after,
            late_below: after,
            since: query.since,
            stream: query.stream,
            memory,
        };
        selection.found.next = selection.memory.next;
        if let Some(since) = query.since {
            let lanes = &mut selection.memory.lanes;
            lanes.iter_mut().for_each(|lane| lane.since(since));
        }
        Ok(selection)
    }

    /// All lines behind a cursor, for a follower. What is on disk only comes first; of its run nothing
    /// else then.
    pub(super) fn since(ring: &mut Ring, disk: Option<&mut Disk>, most: usize, after: u64) -> Self {
        let stored = match disk {
            Some(disk) if ring.gone_after(after) > 0 || after + 1 < ring.origin() => {
                let parts = disk.now();
                let runs = runs(ring, &parts, most);
                let mut stored = Stored::new(ring, Some(disk.folder.clone()), parts, runs, after);
                // Of the others, what is behind the cursor is in memory.
                let behind = |run: &StoredRun| run.ceiling.is_none_or(|c| c > after);
                stored.runs.retain(behind);
                stored
            }
            Some(_) | None => Stored::default(),
        };
        let mut memory = ring.since(after, None, false, &|run| !stored.has(run));
        stored.take_late(&mut memory);
        Self {
            found: Found::default(),
            memory,
            after,
            late_below: u64::MAX,
            since: None,
            stream: None,
            stored,
        }
    }

    /// The same of memory alone.
    pub(super) fn since_in_memory(ring: &mut Ring, after: u64) -> Self {
        Self::since(ring, None, 0, after)
    }

    /// Opens what is on disk. Reads files: not to be called under a lock.
    pub(super) fn open(mut self) -> View {
        let follows = self.late_below == u64::MAX;
        let Stored {
            folder,
            parts,
            runs,
        } = std::mem::take(&mut self.stored);
        let mut readers = Vec::new();
        if let Some(folder) = folder.filter(|_| !runs.is_empty()) {
            survey(&folder, &parts);
            let alone = runs.len() == 1;
            for StoredRun { run, ceiling, gone } in runs {
                let of_run = parts.iter().filter(|p| p.run == run).cloned().collect();
                let mut reader = Reader::new(
                    folder.clone(),
                    of_run,
                    ceiling,
                    self.stream,
                    self.late_below,
                );
                self.describe(&reader, run);
                // A follower goes on page by page: it has no need to know the end.
                let end = if follows { reader.rest() } else { reader.end() };
                let start = reader.start(self.after, self.since);
                self.memory.dropped -= gone[1];
                readers.push(RunReader {
                    gone: ceiling.map(|_| gone),
                    is_begun: false,
                    alone,
                    reader,
                    start,
                    end,
                });
                readers.last_mut().into_iter().for_each(RunReader::rest);
            }
        }
        View {
            after: self.after,
            since: self.since,
            stream: self.stream,
            found: self.found,
            late: self.memory.late,
            next: self.memory.next,
            dropped: self.memory.dropped,
            memory: self.memory.lanes,
            readers,
        }
    }

    /// Of a run that is not in memory, the files tell when it was.
    fn describe(&mut self, reader: &Reader, run: u64) {
        if self.found.run != Some(run) || self.found.started_at.is_some() {
            return;
        }
        let metas = || reader.parts().iter().filter_map(|p| p.meta.get());
        self.found.started_at = metas().next().map(|m| m.header.started);
        let told = |m: &Meta| m.header.ended.clone().filter(|(_, how)| !how.is_empty());
        let (at, how) = match metas().find_map(told) {
            Some((at, how)) => (Some(at), how),
            // Nobody was there to see it.
            None => (
                metas().next_back().map(|m| m.last_at),
                "unknown: bpm was killed".into(),
            ),
        };
        self.found.ended_at = at;
        self.found.exit = Some(how);
    }
}

impl Stored {
    /// Of these runs, those that memory does not hold as a whole.
    fn new(
        ring: &Ring,
        folder: Option<Folder>,
        parts: Vec<Arc<SegmentId>>,
        runs: Vec<u64>,
        after: u64,
    ) -> Self {
        let on_disk = |run: &u64| parts.iter().any(|p| p.run == *run);
        let stored = |run| StoredRun {
            run,
            ceiling: ring.floor_of(run),
            gone: [0, after].map(|after| ring.gone_of_run(run, after)),
        };
        let runs = runs.into_iter().filter(on_disk).map(stored);
        let runs: Vec<_> = runs.filter(|r| r.ceiling != Some(0)).collect();
        Self {
            folder,
            parts,
            runs,
        }
    }

    fn has(&self, run: u64) -> bool {
        self.runs.iter().any(|r| r.run == run)
    }

    /// Late lines that are read from disk are not read from memory as well, which may have them still.
    fn take_late(&self, memory: &mut Snapshot) {
        let Snapshot { lanes, late, .. } = memory;
        let on_disk = |run: u64, own: u64| {
            let of_run = self.runs.iter().find(|r| r.run == run);
            of_run.is_some_and(|r| r.ceiling.is_none_or(|ceiling| own <= ceiling))
        };
        lanes.retain(|lane| {
            let own = late.iter().find(|(place, _)| lane.first() == Some(*place));
            own.is_none_or(|(_, own)| !on_disk(lane.run, *own))
        });
    }
}

/// One run on disk, from where to where.
struct RunReader {
    reader: Reader,
    start: Place,
    end: Place,
    /// A page of it was read.
    is_begun: bool,
    /// There is no other.
    alone: bool,
    /// Lines that are gone from memory; None: the run never was in it.
    gone: Option<[u64; 2]>,
}

impl RunReader {
    /// Another has its turn: files are open of one at a time, however many runs there are.
    fn rest(&mut self) {
        if !self.alone {
            self.reader.close();
        }
    }
}

/// The lines of a query.
pub(super) struct View {
    pub found: Found,
    /// Lines under the number of their place, as far as pages were read: that, and their own.
    pub late: Vec<(u64, u64)>,
    /// The cursor behind what is in memory.
    pub next: u64,
    /// Lines that are gone, of runs that are not on disk.
    dropped: u64,
    memory: Vec<StreamSlice>,
    readers: Vec<RunReader>,
    after: u64,
    since: Option<Wall>,
    stream: Option<Stream>,
}

/// What is done with a page, of which these blocks are its own.
pub(super) type OnPage<'a> = dyn FnMut(&[StreamSlice], &[Range<usize>]) -> Go + 'a;

impl View {
    /// Something should be on disk.
    pub(super) fn is_stored(&self) -> bool {
        !self.readers.is_empty()
    }

    /// Lines, whatever they say: all that are there.
    pub(super) fn lines(&mut self) -> u64 {
        let in_memory: u64 = self.memory.iter().map(StreamSlice::lines).sum();
        let (after, stream) = (self.after, self.stream);
        let stored = self.readers.iter_mut();
        let stored = stored.map(|s| {
            let lines = s.reader.count((s.start, s.end), after, stream);
            s.rest();
            lines
        });
        in_memory + stored.sum::<u64>()
    }

    /// Parts that are open.
    #[cfg(test)]
    pub(super) fn files(&self) -> usize {
        self.readers.iter().filter(|s| s.reader.is_open()).count()
    }

    /// Lines that are gone altogether.
    pub(super) fn gone(&mut self) -> u64 {
        let after = self.after;
        let lost = |stretch: &mut RunReader| {
            let Some(gone) = stretch.gone else {
                return stretch.reader.missing(after);
            };
            // Behind a cursor memory counts numbers, some of which no line has: no more are lost
            // there than there are in all.
            let mut lost = |gone: u64, after| {
                let end = stretch.reader.end();
                let start = stretch.reader.start(after, None);
                gone.saturating_sub(stretch.reader.count((start, end), after, None))
            };
            let all = match lost(gone[0], 0) {
                0 => 0,
                all => all.min(lost(gone[1], after)),
            };
            stretch.rest();
            all
        };
        self.dropped + self.readers.iter_mut().map(lost).sum::<u64>()
    }

    /// Lines behind a number that should be on disk and are not.
    pub(super) fn missing(&self, after: u64) -> u64 {
        self.readers.iter().map(|s| s.reader.missing(after)).sum()
    }

    /// Goes through all pages, the oldest or the newest first; with so many lines of the pages before
    /// and behind each.
    pub(super) fn each_page(&mut self, forward: bool, beside: u64, each: &mut OnPage<'_>) {
        let mut source = Source {
            at: if forward { 0 } else { self.readers.len() },
            memory: Some(std::mem::take(&mut self.memory)),
            view: self,
            forward,
        };
        let mut before: VecDeque<Vec<StreamSlice>> = VecDeque::new();
        let mut coming: VecDeque<Vec<StreamSlice>> = VecDeque::new();
        loop {
            while coming.is_empty()
                || (coming.len() <= MOST_BESIDE && lines_of(coming.iter().skip(1)) < beside)
            {
                match source.next() {
                    Some(page) => coming.push_back(page),
                    None => break,
                }
            }
            let Some(here) = coming.pop_front() else {
                return;
            };
            let go = if beside == 0 {
                each(&here, &whole(&here))
            } else {
                let mut pages: Vec<&[StreamSlice]> = before.iter().map(Vec::as_slice).collect();
                let mut own = pages.len();
                pages.push(&here);
                pages.extend(coming.iter().map(Vec::as_slice));
                if !forward {
                    pages.reverse();
                    own = pages.len() - 1 - own;
                }
                let (lanes, own) = joined(&pages, own);
                each(&lanes, &own)
            };
            match go {
                Go::On => {}
                Go::Beyond(seq) => source.beyond(seq),
                Go::Stop => return,
            }
            before.push_back(here);
            while (before.len() > MOST_BESIDE || lines_of(before.iter().skip(1)) >= beside)
                && let Some(read) = before.pop_front()
            {
                source.reuse(read);
            }
        }
    }

    /// For a follower: what comes first behind its cursor, and the number up to which that is all.
    pub(super) fn first_page(&mut self) -> (Vec<StreamSlice>, Option<u64>) {
        let mut lanes = Vec::new();
        let mut horizon: Option<u64> = None;
        for stretch in &mut self.readers {
            // A run that begins later has its turn later.
            if horizon.is_some_and(|horizon| stretch.reader.numbers().0 > horizon) {
                break;
            }
            // Without another line there, the rest of the run is in memory.
            let ceiling = stretch.reader.ceiling();
            let mut end = ceiling;
            while let Some((page, place)) = stretch.reader.forward(stretch.start, stretch.end) {
                stretch.start = place;
                self.late.append(&mut stretch.reader.late);
                let last = page.iter().filter_map(StreamSlice::last).max();
                lanes.extend(page);
                if last.is_some_and(|last| last > self.after) {
                    // A late one may have its place among those in memory.
                    end = last.into_iter().chain(ceiling).min();
                    break;
                }
            }
            stretch.rest();
            horizon = horizon.into_iter().chain(end).min();
        }
        for lane in &mut lanes {
            lane.raise(self.after);
        }
        lanes.append(&mut self.memory);
        (lanes, horizon)
    }
}

fn lines_of<'a>(pages: impl Iterator<Item = &'a Vec<StreamSlice>>) -> u64 {
    pages.flatten().map(StreamSlice::lines).sum()
}

/// Pages in order as one, and where the blocks of one of them are in it.
fn joined(pages: &[&[StreamSlice]], own: usize) -> (Vec<StreamSlice>, Vec<Range<usize>>) {
    let mut outputs: Vec<(u64, Stream)> = Vec::new();
    for lane in pages.iter().copied().flatten() {
        if !outputs.contains(&(lane.run, lane.stream)) {
            outputs.push((lane.run, lane.stream));
        }
    }
    let (mut lanes, mut owns) = (Vec::new(), Vec::new());
    for (run, stream) in outputs {
        let (mut blocks, mut range) = (Vec::new(), 0..0);
        for (at, page) in pages.iter().enumerate() {
            let start = blocks.len();
            let mut same = page.iter().filter(|l| l.run == run && l.stream == stream);
            blocks.extend(same.next().into_iter().flat_map(StreamSlice::visible));
            if at == own {
                range = start..blocks.len();
                // Late lines are in lanes of their own.
                for late in same {
                    lanes.push(late.clone());
                    owns.push(0..late.blocks().len());
                }
            }
        }
        lanes.push(StreamSlice::new(run, stream, blocks));
        owns.push(range);
    }
    (lanes, owns)
}

/// Pages, one after the other.
struct Source<'a> {
    view: &'a mut View,
    memory: Option<Vec<StreamSlice>>,
    /// Runs before it (or, backward, from it on) were read.
    at: usize,
    forward: bool,
}

impl Source<'_> {
    fn next(&mut self) -> Option<Vec<StreamSlice>> {
        // What is in memory is newer than all that is on disk.
        if !self.forward
            && let Some(lanes) = self.memory.take()
        {
            return Some(lanes);
        }
        let (after, since) = (self.view.after, self.view.since);
        loop {
            let at = self.current();
            let Some(stretch) = at.and_then(|at| self.view.readers.get_mut(at)) else {
                return self.memory.take();
            };
            let page = if self.forward {
                stretch.reader.forward(stretch.start, stretch.end)
            } else {
                stretch.reader.back(stretch.start, stretch.end)
            };
            let Some((mut lanes, place)) = page else {
                stretch.rest();
                self.at = if self.forward {
                    self.at + 1
                } else {
                    self.at - 1
                };
                continue;
            };
            if self.forward {
                stretch.start = place;
            } else {
                stretch.end = place;
            }
            stretch.is_begun = true;
            self.view.late.append(&mut stretch.reader.late);
            for lane in &mut lanes {
                lane.raise(after);
                if let Some(since) = since {
                    lane.since(since);
                }
            }
            return Some(lanes);
        }
    }

    /// Passes over runs that have no lines beyond a number. Those of the run that is read come in order,
    /// those of runs that overlapped may be among them.
    fn beyond(&mut self, seq: u64) {
        let Some(at) = self.current() else { return };
        let forward = self.forward;
        for (index, stretch) in self.view.readers.iter_mut().enumerate() {
            let (first, last) = stretch.reader.numbers();
            let none = if forward { first >= seq } else { last <= seq };
            if none || index == at && stretch.is_begun {
                stretch.start = stretch.end;
            }
        }
        let newest = self.memory.as_ref().is_some_and(|lanes| {
            forward
                && lanes
                    .iter()
                    .all(|l| l.first().is_none_or(|first| first >= seq))
        });
        if newest {
            self.memory = None;
        }
    }

    fn current(&self) -> Option<usize> {
        if self.forward {
            Some(self.at)
        } else {
            self.at.checked_sub(1)
        }
    }

    fn reuse(&mut self, lanes: Vec<StreamSlice>) {
        let at = self.current();
        if let Some(stretch) = at.and_then(|at| self.view.readers.get_mut(at)) {
            stretch.reader.reuse(lanes);
        }
    }
}
