//! Pure: no system call, no thread, no clock.
//!
//! What a log keeps in memory: runs of two interleaved streams, cut into lines with numbers as the
//! bytes come. Each stream of a run fills blocks of its own; full ones are shared with readers, so a
//! search copies nothing but the block that is being written.
//!
//! Bounded by bytes (all runs together, the index of the lines included), by lines of a run and by
//! runs. The oldest go first.

use std::collections::VecDeque;
use std::sync::Arc;

use memchr::memchr;

use crate::base::clock::Wall;
use crate::log::block::{Block, Chunk, MAX_LINE, StreamSlice, cut};
use crate::log::stream::Stream;

/// With files, a pipe that was made wider is read best so: of half as much at a time, a gigabyte costs a
/// tenth more CPU, most of it to wake the writer.
pub(crate) const MOST_READ: usize = 2 * MAX_LINE;
/// A block takes one read of full size.
const LARGEST_BLOCK: usize = MOST_READ;
const SMALLEST_BLOCK: usize = 4 << 10;
/// A log of the configured size consists of so many blocks: what is lost at once is one of them.
const BLOCKS: usize = 8;
/// A block with so many bytes to a chunk, on average, is full: lines that come one by one pay for
/// their place in the index.
const BYTES_PER_CHUNK: usize = 64;
/// Runs that were never ended are kept beyond the limit, but not without end.
const MOST_RUNS: usize = 108;
/// Late lines that are remembered for followers.
const MOST_LATE: usize = 64;

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

impl Limits {
    fn block(&self) -> usize {
        usize::try_from(self.bytes / BLOCKS as u64)
            .unwrap_or(usize::MAX)
            .clamp(SMALLEST_BLOCK, LARGEST_BLOCK)
    }
}

/// The runs of one log.
#[derive(Debug)]
pub struct Ring {
    limits: Limits,
    runs: VecDeque<Run>,
    next_run: u64,
    origin: u64,
    next_seq: u64,
    /// The newest cursor that may have been handed out: every number up to it is of a complete line,
    /// or of an unfinished one that is late by now.
    published: u64,
    late: VecDeque<Late>,
    /// Bytes in blocks.
    held: usize,
    /// The buffer of the block that went last.
    spare: Vec<u8>,
    gone: Gone,
    dropped: u64,
    mark: Mark,
}

/// What new bytes of a stream came to, for who keeps an index of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Where they are in their block.
    from: usize,
    /// Bytes of the unfinished line before them.
    pub carry: usize,
    /// A line that had been shown unfinished: its number, and how many of the bytes were still its own.
    pub pinned: Option<(u64, usize)>,
    /// That one is late: the number under which followers get it.
    pub place: Option<u64>,
    /// The number of the first line after that; if there is none, of the next one at least.
    pub first: u64,
    /// How many lines, that one excepted.
    pub lines: u64,
}

impl Mark {
    fn new(from: usize, carry: usize, first: u64) -> Self {
        Self {
            from,
            carry,
            pinned: None,
            place: None,
            first,
            lines: 0,
        }
    }

    fn add(&mut self, first: u64, lines: u64) {
        if self.lines == 0 {
            self.first = first;
        }
        self.lines += lines;
    }
}

/// Lines that are no longer there.
#[derive(Debug, Clone, Copy, Default)]
struct Gone {
    /// The highest number among them.
    through: u64,
    lines: u64,
}

impl Gone {
    fn add(&mut self, through: u64, lines: u64) {
        self.through = self.through.max(through);
        self.lines += lines;
    }

    fn after(self, after: u64) -> u64 {
        self.lines.min(self.through.saturating_sub(after))
    }
}

/// A line that was shown while unfinished, was overtaken, and was finished then: for followers it
/// comes at `place`, a number that no line has.
#[derive(Debug, Clone, Copy)]
struct Late {
    place: u64,
    seq: u64,
    run: u64,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub started: Wall,
    /// When and how it ended.
    pub ended: Option<(Wall, String)>,
    tracks: [Track; 2],
    /// Its complete lines that are not gone.
    kept: u64,
    gone: Gone,
}

/// One stream of a run.
#[derive(Debug, Default)]
struct Track {
    full: VecDeque<Arc<Block>>,
    open: Option<Open>,
    /// The number of the unfinished line, once somebody saw it.
    pinned: Option<u64>,
}

/// The block that is being written.
#[derive(Debug)]
struct Open {
    block: Block,
    /// The unfinished line reaches from the end of the block's lines to here.
    used: usize,
    at: Wall,
}

/// The lines of a query, and what is known of them.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// One for each stream of each run.
    pub lanes: Vec<StreamSlice>,
    /// Lines that would be in it, were they not gone.
    pub dropped: u64,
    /// The cursor that continues here.
    pub next: u64,
    /// Late lines: the number under which they are in their lane, and their own.
    pub late: Vec<(u64, u64)>,
}

impl Ring {
    /// An empty one, which holds no memory yet. Both numbers are from 1.
    pub fn new(limits: Limits, first_seq: u64, first_run: u64) -> Self {
        let first_seq = first_seq.max(1);
        Self {
            limits,
            runs: VecDeque::new(),
            next_run: first_run.max(1),
            origin: first_seq,
            next_seq: first_seq,
            published: first_seq - 1,
            late: VecDeque::new(),
            held: 0,
            spare: Vec::new(),
            gone: Gone::default(),
            dropped: 0,
            mark: Mark::default(),
        }
    }

    /// New bounds; what is beyond them goes.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.spare = Vec::new();
        self.drop_runs();
        self.make_room(0);
        for index in 0..self.runs.len() {
            self.drop_lines(index);
        }
    }

    /// Begins a run and gives its number.
    pub fn begin(&mut self, at: Wall) -> u64 {
        let number = self.next_run;
        self.next_run += 1;
        // Most processes have few runs: room for one, not for the four that a queue begins with.
        self.runs.reserve_exact(1);
        self.runs.push_back(Run {
            number,
            started: at,
            ended: None,
            tracks: [Track::default(), Track::default()],
            kept: 0,
            gone: Gone::default(),
        });
        self.drop_runs();
        number
    }

    /// The number of its first line ever.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u64 {
        self.next_run
    }

    /// Ends a run, and with it its unfinished lines. True: there were some.
    pub fn end(&mut self, run: u64, at: Wall, exit: &str) -> bool {
        let Some(index) = self.index_of(run) else {
            return false;
        };
        let mut finished = false;
        for stream in Stream::ALL {
            finished |= self.finish(index, stream);
            self.seal(index, stream, true);
        }
        self.runs[index].ended = Some((at, exit.to_owned()));
        self.drop_runs();
        finished
    }

    /// Where the next bytes of a stream go: never empty, at most [`MOST_READ`]. None: the run is gone.
    pub fn room(&mut self, run: u64, stream: Stream) -> Option<&mut [u8]> {
        let index = self.index_of(run)?;
        let size = self.limits.block();
        if !self.track(index, stream).has_room(size / 32) {
            self.roll(index, stream);
        }
        let open = self.track(index, stream).open.as_mut()?;
        let room = open.block.buffer_from(open.used);
        let most = room.len().min(MOST_READ);
        Some(&mut room[..most])
    }

    /// So many bytes, at most [`MAX_LINE`], were put into the room. True: lines were finished by them.
    pub fn commit(&mut self, run: u64, stream: Stream, count: usize, at: Wall) -> bool {
        let Some(index) = self.index_of(run) else {
            return false;
        };
        let Some(open) = self.track(index, stream).open.as_mut() else {
            return false;
        };
        let before = open.used;
        open.used += count;
        open.at = at;
        let start = open.block.end();
        let cut = cut(before - start, &open.block.buffer()[before..open.used]);
        self.mark = Mark::new(before, before - start, self.next_seq);
        for piece in 1..=cut.pieces {
            self.add(index, stream, start + piece * MAX_LINE, 1);
        }
        if cut.newlines > 0 {
            self.add(index, stream, before + cut.end, cut.newlines);
        }
        cut.lines() > 0
    }

    /// What the last commit, or the last line finished without one, came to.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Ends the unfinished line of a stream, as it stands. True: there was one.
    pub fn finish_line(&mut self, run: u64, stream: Stream) -> bool {
        let index = self.index_of(run);
        index.is_some_and(|index| self.finish(index, stream))
    }

    /// The number that the next line gets, as far as followers are concerned: all
    /// before it is in [`Ring::since`].
    pub fn next(&self) -> u64 {
        self.published + 1
    }

    /// The number that the next new line gets at least.
    pub fn next_number(&self) -> u64 {
        self.next_seq
    }

    /// Lines that can be read, and lines that no longer can.
    pub fn counts(&self) -> (u64, u64) {
        let kept = |run: &Run| run.kept.min(self.limits.lines);
        let hidden = |run: &Run| run.kept.saturating_sub(self.limits.lines);
        (
            self.runs.iter().map(kept).sum(),
            self.dropped + self.runs.iter().map(hidden).sum::<u64>(),
        )
    }

    /// The runs that are known, oldest first.
    pub fn runs(&self) -> &VecDeque<Run> {
        &self.runs
    }

    /// The number up to which lines of a run are gone, or hidden; None: the run is not known.
    pub fn floor_of(&self, run: u64) -> Option<u64> {
        self.index_of(run).map(|index| self.floor(index))
    }

    /// Lines with higher numbers than `after` that are gone or hidden.
    pub fn gone_after(&self, after: u64) -> u64 {
        let of_runs = (0..self.runs.len()).map(|index| self.gone_of(index, after));
        self.gone.after(after) + of_runs.sum::<u64>()
    }

    /// The same of one run.
    pub fn gone_of_run(&self, run: u64, after: u64) -> u64 {
        let index = self.index_of(run);
        index.map_or(0, |index| self.gone_of(index, after))
    }

    fn gone_of(&self, index: usize, after: u64) -> u64 {
        let run = &self.runs[index];
        let hidden = run.kept.saturating_sub(self.limits.lines);
        let gone = Gone {
            through: self.floor(index),
            lines: run.gone.lines + hidden,
        };
        gone.after(after)
    }

    /// Unfinished lines of a run, as they stand, that were shown under numbers which are gone by now.
    pub fn overtaken(&self, run: u64, stream: Option<Stream>) -> Vec<StreamSlice> {
        let Some(index) = self.index_of(run) else {
            return Vec::new();
        };
        let floor = self.floor(index);
        let lone = |wanted: Stream| {
            let track = &self.runs[index].tracks[wanted as usize];
            let seq = track.pinned.filter(|seq| *seq <= floor)?;
            let open = track.open.as_ref()?;
            let bytes = open.block.buffer()[open.block.end()..open.used].to_vec();
            let chunk = Chunk {
                first: seq,
                at: open.at,
                end: bytes.len() as u32,
                lines: 1,
            };
            Some(StreamSlice::new(
                run,
                wanted,
                vec![Arc::new(Block::new(bytes, vec![chunk]))],
            ))
        };
        let wanted = Stream::ALL
            .into_iter()
            .filter(|s| stream.is_none_or(|only| only == *s));
        wanted.filter_map(lone).collect()
    }

    /// The lines of one run, the unfinished ones as they stand.
    pub fn of_run(&mut self, run: u64, stream: Option<Stream>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        if let Some(index) = self.index_of(run) {
            self.collect(index, 0, stream, true, &mut snapshot);
        }
        snapshot.next = self.published;
        snapshot
    }

    /// The lines of all runs with higher numbers than `after`, and those with lower ones that were
    /// finished late. With `unfinished`: those as they stand as well. Without: for a follower, who reads
    /// on from any line, and so gets every late line at its place; its own number is to be skipped. Of the
    /// runs that are not `wanted`, nothing but what is gone.
    pub fn since(
        &mut self,
        after: u64,
        stream: Option<Stream>,
        unfinished: bool,
        wanted: &dyn Fn(u64) -> bool,
    ) -> Snapshot {
        let mut snapshot = Snapshot {
            dropped: self.gone.after(after),
            ..Snapshot::default()
        };
        for index in 0..self.runs.len() {
            if wanted(self.runs[index].number) {
                self.collect(index, after, stream, unfinished, &mut snapshot);
            } else {
                snapshot.dropped += self.gone_of(index, after);
            }
        }
        for late in self.late.iter().filter(|l| l.place > after) {
            if !unfinished || late.seq <= after {
                snapshot.lanes.extend(self.lone(*late, stream));
                snapshot.late.push((late.place, late.seq));
            }
        }
        snapshot.next = self.published;
        snapshot
    }

    fn collect(
        &mut self,
        index: usize,
        after: u64,
        stream: Option<Stream>,
        unfinished: bool,
        into: &mut Snapshot,
    ) {
        let floor = self.floor(index);
        into.dropped += self.gone_of(index, after);
        for wanted in Stream::ALL {
            if stream.is_some_and(|s| s != wanted) {
                continue;
            }
            if unfinished {
                self.pin(index, wanted);
            }
            let run = &self.runs[index];
            let track = &run.tracks[wanted as usize];
            let floor = floor.max(after);
            let mut lane = StreamSlice::new(run.number, wanted, track.blocks(floor, unfinished));
            lane.raise(floor);
            into.lanes.push(lane);
        }
    }

    /// A late line alone, under the number of its place.
    fn lone(&self, late: Late, stream: Option<Stream>) -> Option<StreamSlice> {
        let run = &self.runs[self.index_of(late.run)?];
        for wanted in Stream::ALL {
            if stream.is_some_and(|s| s != wanted) {
                continue;
            }
            let track = &run.tracks[wanted as usize];
            let lane = StreamSlice::new(run.number, wanted, track.blocks(late.seq - 1, false));
            let at = lane
                .first_after(late.seq - 1)
                .filter(|at| at.seq == late.seq);
            if let Some(at) = at {
                let (bytes, when) = lane.bytes(&at);
                let chunk = Chunk {
                    first: late.place,
                    at: when,
                    end: bytes.len() as u32,
                    lines: 1,
                };
                let block = Arc::new(Block::new(bytes.to_vec(), vec![chunk]));
                return Some(StreamSlice::new(run.number, wanted, vec![block]));
            }
        }
        None
    }

    /// Numbers of late lines.
    #[cfg(test)]
    pub(crate) fn late_numbers(&self) -> Vec<u64> {
        self.late.iter().map(|late| late.seq).collect()
    }

    fn index_of(&self, run: u64) -> Option<usize> {
        self.runs.binary_search_by_key(&run, |r| r.number).ok()
    }

    fn track(&mut self, index: usize, stream: Stream) -> &mut Track {
        &mut self.runs[index].tracks[stream as usize]
    }

    /// The unfinished line of a stream has been seen: its number stays.
    fn pin(&mut self, index: usize, stream: Stream) {
        let next = self.next_seq;
        let track = self.track(index, stream);
        if track.pinned.is_none() && track.unfinished() {
            track.pinned = Some(next);
            self.next_seq += 1;
        }
    }

    /// The bytes from the block's last line to `end` are so many lines.
    fn add(&mut self, index: usize, stream: Stream, end: usize, lines: u64) {
        let mut left = lines;
        if let Some(seq) = self.track(index, stream).pinned.take() {
            let line_end = if left == 1 {
                end
            } else {
                self.track(index, stream).first_line_end()
            };
            self.track(index, stream).push(seq, line_end, 1);
            self.mark.pinned = Some((seq, line_end.saturating_sub(self.mark.from)));
            if seq > self.published {
                self.published = seq;
            } else {
                self.remember_late(index, seq);
            }
            left -= 1;
            let run = &mut self.runs[index];
            if seq > run.gone.through {
                run.kept += 1;
            } else {
                // What came after it is gone already, and nothing that is left has holes.
                run.gone.lines += 1;
                self.dropped += 1;
            }
        }
        self.runs[index].kept += left;
        if left > 0 {
            let first = self.next_seq;
            self.mark.add(first, left);
            self.next_seq += left;
            self.published = self.next_seq - 1;
            self.track(index, stream).push(first, end, left);
        }
    }

    fn remember_late(&mut self, index: usize, seq: u64) {
        if self.late.len() == MOST_LATE {
            self.late.pop_front();
        }
        self.late.push_back(Late {
            place: self.next_seq,
            seq,
            run: self.runs[index].number,
        });
        self.published = self.next_seq;
        self.mark.place = Some(self.next_seq);
        self.next_seq += 1;
        self.mark.first = self.next_seq;
    }

    /// Ends the unfinished line of a stream. True: there was one.
    fn finish(&mut self, index: usize, stream: Stream) -> bool {
        let track = self.track(index, stream);
        if !track.unfinished() {
            return false;
        }
        let open = track.open.as_ref();
        let (start, end) = open.map_or((0, 0), |open| (open.block.end(), open.used));
        self.mark = Mark::new(end, end - start, self.next_seq);
        self.add(index, stream, end, 1);
        true
    }

    /// A new block for a stream, which begins with the unfinished line of the one before.
    fn roll(&mut self, index: usize, stream: Stream) {
        let unfinished = match &self.track(index, stream).open {
            Some(open) => open.block.buffer()[open.block.end()..open.used].to_vec(),
            None => Vec::new(),
        };
        let at = self.track(index, stream).open.as_ref().map(|open| open.at);
        self.seal(index, stream, false);
        // A long line doubles its block until it fits, up to twice the longest.
        let size = self
            .limits
            .block()
            .max((2 * unfinished.len()).next_power_of_two());
        self.make_room(size);
        let mut bytes = std::mem::take(&mut self.spare);
        if bytes.len() != size || bytes.capacity() != size {
            // Zeroed by the system where it is fresh: pages that are never written cost nothing.
            bytes = vec![0; size];
        }
        bytes[..unfinished.len()].copy_from_slice(&unfinished);
        self.held += size;
        self.track(index, stream).open = Some(Open {
            block: Block::new(bytes, Vec::new()),
            used: unfinished.len(),
            at: at.unwrap_or_default(),
        });
    }

    /// The block that was written is full; at the end of a run it gives back what it did not need.
    fn seal(&mut self, index: usize, stream: Stream, last: bool) {
        let Some(mut open) = self.track(index, stream).open.take() else {
            return;
        };
        self.held -= open.block.size();
        if open.block.lines() > 0 {
            open.block.close(last);
            self.held += open.block.held();
            self.track(index, stream)
                .full
                .push_back(Arc::new(open.block));
            self.drop_lines(index);
        } else {
            self.spare = open.block.into_bytes();
        }
    }

    /// Lets the oldest blocks go until there is place for so many bytes more, or none is left.
    fn make_room(&mut self, size: usize) {
        let bytes = usize::try_from(self.limits.bytes).unwrap_or(usize::MAX);
        while self.held + size > bytes {
            let oldest = |(index, run): (usize, &Run)| run.oldest().map(|(seq, s)| (seq, index, s));
            let fronts = self.runs.iter().enumerate().filter_map(oldest);
            let Some((_, index, stream)) = fronts.min_by_key(|(seq, ..)| *seq) else {
                return;
            };
            self.drop_block(index, stream);
        }
    }

    /// Lets blocks of a run go whose lines are all beyond its limit.
    fn drop_lines(&mut self, index: usize) {
        loop {
            let run = &self.runs[index];
            let surplus = run.kept.saturating_sub(self.limits.lines);
            let Some((through, stream)) = run.oldest().filter(|_| surplus > 0) else {
                return;
            };
            if run.lines_within(through) > surplus {
                return;
            }
            self.drop_block(index, stream);
        }
    }

    /// Lets the oldest block of a stream go, and hides what is older in the other stream: what is left
    /// of a run has no holes.
    fn drop_block(&mut self, index: usize, stream: Stream) {
        let run = &mut self.runs[index];
        let Some(through) = run.tracks[stream as usize].full.front().map(|b| b.last()) else {
            return;
        };
        let lost = run.lines_within(through);
        run.gone.add(through, lost);
        run.kept -= lost;
        self.dropped += lost;
        for stream in Stream::ALL {
            while let Some(block) = self.runs[index].take_hidden(stream) {
                self.held -= block.held();
                // A reader may have it still.
                if let Ok(block) = Arc::try_unwrap(block) {
                    self.spare = block.into_bytes();
                }
            }
        }
    }

    /// Lets the oldest runs beyond the limit go, the newest and those that are open excepted.
    fn drop_runs(&mut self) {
        while self.runs.len() > self.limits.runs.max(1) {
            let older = self.runs.len() - 1;
            let ended = self.runs.range(..older).position(|r| r.ended.is_some());
            let surplus = (self.runs.len() > MOST_RUNS).then_some(0);
            let Some(run) = ended.or(surplus).and_then(|at| self.runs.remove(at)) else {
                return;
            };
            self.gone.add(run.gone.through, run.gone.lines);
            self.gone.add(run.last(), run.kept);
            self.dropped += run.kept;
            self.held -= run.tracks.iter().map(Track::held).sum::<usize>();
        }
    }

    /// The number up to which the lines of a run are gone, or hidden since there are too many.
    fn floor(&self, index: usize) -> u64 {
        let run = &self.runs[index];
        let mut surplus = run.kept.saturating_sub(self.limits.lines);
        let mut floor = run.gone.through;
        let mut rest = Stream::ALL.map(|s| run.tracks[s as usize].chunks(floor).peekable());
        while surplus > 0 {
            let [out, err] = &mut rest;
            let first = match (out.peek(), err.peek()) {
                (Some(a), Some(b)) if b.first < a.first => err.next(),
                (Some(_), _) => out.next(),
                (None, _) => err.next(),
            };
            let Some(chunk) = first else { break };
            let from = chunk.first.max(floor + 1);
            let lines = (chunk.last() + 1 - from).min(surplus);
            floor = from + lines - 1;
            surplus -= lines;
        }
        floor
    }
}

impl Run {
    /// Its lines up to this number that are not gone.
    fn lines_within(&self, through: u64) -> u64 {
        let of_track = |t: &Track| t.lines_up_to(through) - t.lines_up_to(self.gone.through);
        self.tracks.iter().map(of_track).sum()
    }

    fn last(&self) -> u64 {
        let lasts = self.tracks.iter().map(Track::last);
        lasts.max().unwrap_or(0)
    }

    /// Of its full blocks the one that ended first: its last number, and its stream.
    fn oldest(&self) -> Option<(u64, Stream)> {
        Stream::ALL
            .into_iter()
            .filter_map(|s| Some((self.tracks[s as usize].full.front()?.last(), s)))
            .min_by_key(|(last, _)| *last)
    }

    /// Takes the oldest block of a stream if all its lines are gone.
    fn take_hidden(&mut self, stream: Stream) -> Option<Arc<Block>> {
        let full = &mut self.tracks[stream as usize].full;
        full.front().filter(|b| b.last() <= self.gone.through)?;
        full.pop_front()
    }
}

impl Track {
    fn held(&self) -> usize {
        let full = self.full.iter().map(|b| b.held()).sum::<usize>();
        full + self.open.as_ref().map_or(0, |open| open.block.size())
    }

    fn unfinished(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.used > open.block.end())
    }

    /// Enough for a read of a decent size, and for its place in the index.
    fn has_room(&self, enough: usize) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let size = open.block.size();
            size - open.used >= enough && open.block.chunks().len() < size / BYTES_PER_CHUNK
        })
    }

    fn all(&self) -> impl Iterator<Item = &Block> {
        let full = self.full.iter().map(|b| &**b);
        full.chain(self.open.iter().map(|open| &open.block))
    }

    fn lines_up_to(&self, through: u64) -> u64 {
        let blocks = self.all().take_while(|b| b.first() <= through);
        blocks.map(|b| b.lines_up_to(through)).sum()
    }

    fn last(&self) -> u64 {
        self.all().last().map_or(0, Block::last)
    }

    fn chunks(&self, above: u64) -> impl Iterator<Item = &Chunk> {
        let chunks = self.all().flat_map(Block::chunks);
        chunks.filter(move |c| c.last() > above)
    }

    /// Where the first line after the block's last one ends.
    fn first_line_end(&self) -> usize {
        self.open.as_ref().map_or(0, |open| {
            let start = open.block.end();
            let text = &open.block.buffer()[start..open.used];
            memchr(b'\n', text).map_or(open.used, |newline| start + newline + 1)
        })
    }

    fn push(&mut self, first: u64, end: usize, lines: u64) {
        if let Some(open) = &mut self.open {
            open.block.push(Chunk {
                first,
                at: open.at,
                end: end as u32,
                lines: lines as u32,
            });
        }
    }

    /// Its blocks with numbers above `floor`; of the one that is being written a copy.
    fn blocks(&self, floor: u64, unfinished: bool) -> Vec<Arc<Block>> {
        let below = self.full.partition_point(|b| b.last() <= floor);
        let mut blocks: Vec<_> = self.full.range(below..).cloned().collect();
        if let Some(open) = &self.open {
            let tail = self.pinned.filter(|_| unfinished).map(|seq| Chunk {
                first: seq,
                at: open.at,
                end: open.used as u32,
                lines: 1,
            });
            blocks.push(Arc::new(open.block.copy_above(floor, tail)));
        }
        blocks
    }
}

#[cfg(test)]
mod tests;
