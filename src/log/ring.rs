//! Pure: no system call, no thread, no clock.
//!
//! The part of a log that is in memory: runs of two interleaved streams, cut into lines. A line gets its
//! number when it ends, so numbers rise in the order in which lines end, over all runs. Each stream of a run
//! fills blocks of its own; full ones are shared with readers, so a search copies nothing but the block that
//! is being written.
//!
//! Bounded by bytes (all runs together, the index of the lines included), by lines of a run and by
//! runs. The oldest go first.

mod saved;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::clock::{Mono, Wall};
use crate::base::saved::saved;
use crate::log::block::{Block, Chunk, MAX_LINE, StreamSlice, cut};
use crate::log::stream::Stream;

const LARGEST_BLOCK: usize = 2 * MAX_LINE;
const SMALLEST_BLOCK: usize = 4 << 10;
/// Blocks of a log of the configured size: what is lost at once is one of them.
const BLOCKS: usize = 8;
/// A block with no more bytes to a chunk than that, on average, is full: lines that come one by one pay for
/// their place in the index.
const BYTES_PER_CHUNK: usize = 64;
/// Runs that were never ended are kept beyond the limit, up to this many.
const MOST_RUNS: usize = 108;

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
    /// Bytes in blocks.
    held: usize,
    /// The buffer of the block that was evicted last.
    spare: Vec<u8>,
    /// The lines of runs that are not in `runs` any more.
    gone: Gone,
}

/// The lines that new bytes of a stream ended, for the index on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Bytes of the unfinished line before the new ones.
    pub carry: usize,
    /// The number of the first line; if there is none, that of the next one at least.
    pub first: u64,
    /// The number of lines.
    pub lines: u64,
    /// A line is left unfinished.
    pub unfinished: bool,
}

/// Lines that are no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gone {
    /// The highest number among them.
    pub through: u64,
    /// The number of them.
    pub lines: u64,
}

saved! { Gone { through, lines } }

impl Gone {
    fn add(&mut self, through: u64, lines: u64) {
        self.through = self.through.max(through);
        self.lines += lines;
    }

    /// The number of those with a higher number than `after`.
    pub fn after(self, after: u64) -> u64 {
        self.lines.min(self.through.saturating_sub(after))
    }
}

/// The lines that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scope {
    /// Of this run; None: of all.
    pub run: Option<u64>,
    /// Of this stream; None: of both.
    pub stream: Option<Stream>,
    /// With higher numbers.
    pub after: u64,
    /// Also unfinished ones to which nothing was added since then. In a slice they have the numbers that
    /// they would get if they ended now: [`Ring::next_seq`] and higher ones.
    pub unfinished: Option<Mono>,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    pub number: u64,
    pub started: Wall,
    /// The time and the manner of its end, the latter in words.
    pub ended: Option<(Wall, String)>,
    tracks: [Track; 2],
    /// Its lines that are not gone.
    kept: u64,
    gone: Gone,
}

/// One stream of a run.
#[derive(Debug, Default)]
struct Track {
    full: VecDeque<Arc<Block>>,
    open: Option<Open>,
}

/// The block that is being written.
#[derive(Debug)]
struct Open {
    block: Block,
    /// When the last bytes came.
    at: Wall,
    still_since: Mono,
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
            held: 0,
            spare: Vec::new(),
            gone: Gone::default(),
        }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the bounds; what is beyond them is evicted.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.spare = Vec::new();
        self.drop_runs();
        self.make_room(0);
        for index in 0..self.runs.len() {
            self.drop_lines(index);
        }
    }

    /// Begins a run and returns its number.
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

    /// Goes on with a run of an earlier daemon, whose lines so far are none of this ring: it had that many. This one
    /// has none yet, and its first one gets that number.
    pub fn resume(&mut self, number: u64, started: Wall, first_seq: u64, lines: u64) {
        (self.origin, self.next_seq) = (first_seq, first_seq);
        let at = self.runs.partition_point(|run| run.number < number);
        let run = Run {
            number,
            started,
            ended: None,
            tracks: [Track::default(), Track::default()],
            kept: 0,
            gone: Gone {
                through: if lines > 0 { self.next_seq - 1 } else { 0 },
                lines,
            },
        };
        self.runs.insert(at, run);
        self.next_run = self.next_run.max(number + 1);
    }

    /// The number of its first line ever.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u64 {
        self.next_run
    }

    /// The number that the next line gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Ends a run whose unfinished lines were [ended](Self::end_line).
    pub fn end(&mut self, run: u64, at: Wall, exit: &str) {
        let Some(index) = self.index_of(run) else {
            return;
        };
        for stream in Stream::ALL {
            self.seal(index, stream, true);
        }
        self.runs[index].ended = Some((at, exit.to_owned()));
        self.drop_runs();
    }

    /// Appends at most [`MAX_LINE`] bytes. None: the run is gone.
    pub fn append(
        &mut self,
        run: u64,
        stream: Stream,
        mut bytes: &[u8],
        at: Wall,
        now: Mono,
    ) -> Option<Ended> {
        let index = self.index_of(run)?;
        let (carry, first) = (self.unfinished(index, stream), self.next_seq);
        while !bytes.is_empty() {
            let open = self.open(index, stream, at);
            (open.at, open.still_since) = (at, now);
            let (part, rest) = bytes.split_at(bytes.len().min(open.block.room()));
            let before = open.block.unfinished().len();
            open.block.extend(part);
            let cut = cut(before, part);
            for _ in 0..cut.pieces {
                self.number(index, stream, MAX_LINE, 1);
            }
            if cut.newlines > 0 {
                let passed = cut.pieces * MAX_LINE;
                self.number(index, stream, before + cut.end - passed, cut.newlines);
            }
            bytes = rest;
        }
        Some(Ended {
            carry,
            first,
            lines: self.next_seq - first,
            unfinished: self.unfinished(index, stream) > 0,
        })
    }

    /// Ends the unfinished line of a stream, as it stands; None where there is none.
    pub fn end_line(&mut self, run: u64, stream: Stream) -> Option<Ended> {
        let index = self.index_of(run)?;
        let (carry, first) = (self.unfinished(index, stream), self.next_seq);
        if carry == 0 {
            return None;
        }
        self.number(index, stream, carry, 1);
        Some(Ended {
            carry,
            first,
            lines: 1,
            unfinished: false,
        })
    }

    /// Lines that can be read, and lines that no longer can.
    pub fn counts(&self) -> (u64, u64) {
        let hidden: u64 = self.runs.iter().map(|run| self.hidden(run)).sum();
        let kept: u64 = self.runs.iter().map(|run| run.kept).sum();
        let gone: u64 = self.runs.iter().map(|run| run.gone.lines).sum();
        (kept - hidden, self.gone.lines + gone + hidden)
    }

    /// The runs that are known, oldest first.
    pub fn runs(&self) -> &VecDeque<Run> {
        &self.runs
    }

    /// The lines of runs that are not known any more.
    pub fn gone(&self) -> Gone {
        self.gone
    }

    /// The lines of a run that are gone, or hidden since there are too many; None: the run is not known.
    pub fn gone_of(&self, run: u64) -> Option<Gone> {
        let run = &self.runs[self.index_of(run)?];
        Some(Gone {
            through: self.floor(run),
            lines: run.gone.lines + self.hidden(run),
        })
    }

    /// All lines after `after` are here.
    pub fn has_all_after(&self, after: u64) -> bool {
        let of_runs = self.runs.iter().all(|run| self.floor(run) <= after);
        of_runs && self.gone.through <= after && after + 1 >= self.origin
    }

    /// The lines that are asked for: a slice for each stream of each run.
    pub fn slices(&self, scope: &Scope) -> Vec<StreamSlice> {
        let mut slices = Vec::new();
        let mut next = self.next_seq;
        for run in &self.runs {
            if scope.run.is_some_and(|number| number != run.number) {
                continue;
            }
            let floor = self.floor(run).max(scope.after);
            for stream in Stream::ALL {
                if scope.stream.is_some_and(|wanted| wanted != stream) {
                    continue;
                }
                let track = &run.tracks[stream as usize];
                let tail = scope.unfinished.and_then(|then| track.tail(then, next));
                next += u64::from(tail.is_some());
                let blocks = track.blocks_above(floor, tail);
                let mut slice = StreamSlice::new(run.number, stream, blocks);
                slice.raise(floor);
                slices.push(slice);
            }
        }
        slices
    }

    fn index_of(&self, run: u64) -> Option<usize> {
        self.runs.binary_search_by_key(&run, |r| r.number).ok()
    }

    /// Bytes of the unfinished line of a stream.
    fn unfinished(&self, index: usize, stream: Stream) -> usize {
        let open = &self.runs[index].tracks[stream as usize].open;
        open.as_ref()
            .map_or(0, |open| open.block.unfinished().len())
    }

    /// The next `count` bytes of a stream's block are lines: they get their numbers.
    fn number(&mut self, index: usize, stream: Stream, count: usize, lines: u64) {
        let run = &mut self.runs[index];
        if let Some(open) = &mut run.tracks[stream as usize].open {
            open.block.push(Chunk {
                first: self.next_seq,
                at: open.at,
                end: (open.block.end() + count) as u32,
                lines: lines as u32,
            });
            run.kept += lines;
            self.next_seq += lines;
        }
    }

    /// The block of a stream that is being written, which has room: for an append of a decent size, and
    /// for its place in the index.
    fn open(&mut self, index: usize, stream: Stream, at: Wall) -> &mut Open {
        let size = self.limits.block();
        let open = self.runs[index].tracks[stream as usize].open.take();
        let open = match open {
            Some(open)
                if open.block.room() >= size / 32
                    && open.block.chunks().len() * BYTES_PER_CHUNK < size =>
            {
                open
            }
            full => self.roll(index, stream, full, at),
        };
        self.runs[index].tracks[stream as usize].open.insert(open)
    }

    /// A new block for a stream, which begins with the unfinished line of the one before.
    fn roll(&mut self, index: usize, stream: Stream, full: Option<Open>, at: Wall) -> Open {
        let unfinished = full
            .as_ref()
            .map_or(Vec::new(), |open| open.block.unfinished().to_vec());
        self.runs[index].tracks[stream as usize].open = full;
        self.seal(index, stream, false);
        // A long line doubles its block until it fits, up to twice the longest.
        let needed = (2 * unfinished.len()).next_power_of_two();
        let size = self.limits.block().max(needed);
        self.make_room(size);
        let mut bytes = std::mem::take(&mut self.spare);
        if bytes.capacity() != size {
            bytes = Vec::with_capacity(size);
        }
        bytes.clear();
        bytes.extend_from_slice(&unfinished);
        self.held += bytes.capacity();
        Open {
            block: Block::new(bytes, Vec::new()),
            at,
            still_since: Mono::default(),
        }
    }

    /// The block that was written is full; at the end of a run it releases what it did not need.
    fn seal(&mut self, index: usize, stream: Stream, last: bool) {
        let track = &mut self.runs[index].tracks[stream as usize];
        let Some(Open { mut block, .. }) = track.open.take() else {
            return;
        };
        self.held -= block.capacity();
        if block.lines() > 0 {
            block.close(last);
            self.held += block.held();
            track.full.push_back(Arc::new(block));
            self.drop_lines(index);
        } else {
            self.spare = block.into_buffer();
        }
    }

    /// Evicts the oldest blocks until there is room for that many bytes more, or none is left.
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

    /// Evicts the blocks of a run whose lines are all beyond its limit.
    fn drop_lines(&mut self, index: usize) {
        loop {
            let run = &self.runs[index];
            let hidden = self.hidden(run);
            match run.oldest() {
                Some((through, stream)) if run.lines_up_to(through) <= hidden => {
                    self.drop_block(index, stream);
                }
                Some(_) | None => return,
            }
        }
    }

    /// Evicts the oldest block of a stream, and hides what is older in the other stream: what is left of a
    /// run has no holes.
    fn drop_block(&mut self, index: usize, stream: Stream) {
        let run = &mut self.runs[index];
        let Some(through) = run.tracks[stream as usize].full.front().map(|b| b.last()) else {
            return;
        };
        let lost = run.lines_up_to(through);
        run.gone.add(through, lost);
        run.kept -= lost;
        for track in &mut run.tracks {
            while track.full.front().is_some_and(|b| b.last() <= through)
                && let Some(block) = track.full.pop_front()
            {
                self.held -= block.held();
                // A reader may have it still.
                if let Ok(block) = Arc::try_unwrap(block) {
                    self.spare = block.into_buffer();
                }
            }
        }
    }

    /// Evicts the oldest runs beyond the limit, the newest and those that are open excepted.
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
            self.held -= run.tracks.iter().map(Track::held).sum::<usize>();
        }
    }

    /// The number of lines of a run beyond the limit that lie in blocks with others.
    fn hidden(&self, run: &Run) -> u64 {
        run.kept.saturating_sub(self.limits.lines)
    }

    /// The number up to which the lines of a run are gone or hidden.
    fn floor(&self, run: &Run) -> u64 {
        let (mut floor, mut hidden) = (run.gone.through, self.hidden(run));
        let mut rest = Stream::ALL.map(|s| run.tracks[s as usize].chunks(floor).peekable());
        while hidden > 0 {
            let first = rest
                .iter_mut()
                .filter_map(|chunks| Some((chunks.peek()?.first, chunks)));
            let oldest = first.min_by_key(|(first, _)| *first);
            let Some(chunk) = oldest.and_then(|(_, chunks)| chunks.next()) else {
                break;
            };
            let from = chunk.first.max(floor + 1);
            let lines = (chunk.last() + 1 - from).min(hidden);
            floor = from + lines - 1;
            hidden -= lines;
        }
        floor
    }
}

impl Run {
    /// The number of its lines up to this one that are not gone.
    fn lines_up_to(&self, through: u64) -> u64 {
        let blocks = self.tracks.iter().flat_map(Track::blocks);
        blocks
            .map(|b| b.lines_within(self.gone.through, through))
            .sum()
    }

    fn last(&self) -> u64 {
        let blocks = self.tracks.iter().flat_map(Track::blocks);
        blocks.map(Block::last).max().unwrap_or(0)
    }

    /// Of its full blocks the one that ended first: its last number, and its stream.
    fn oldest(&self) -> Option<(u64, Stream)> {
        Stream::ALL
            .into_iter()
            .filter_map(|s| Some((self.tracks[s as usize].full.front()?.last(), s)))
            .min_by_key(|(last, _)| *last)
    }
}

impl Track {
    fn held(&self) -> usize {
        let full = self.full.iter().map(|b| b.held()).sum::<usize>();
        full + self.open.as_ref().map_or(0, |open| open.block.capacity())
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        let full = self.full.iter().map(|b| &**b);
        full.chain(self.open.iter().map(|open| &open.block))
    }

    fn chunks(&self, above: u64) -> impl Iterator<Item = &Chunk> {
        let chunks = self.blocks().flat_map(Block::chunks);
        chunks.filter(move |c| c.last() > above)
    }

    /// The unfinished line as a chunk, if nothing was added to it since `then`.
    fn tail(&self, then: Mono, seq: u64) -> Option<Chunk> {
        let open = self.open.as_ref()?;
        let unfinished = open.block.unfinished().len();
        let is_there = unfinished > 0 && open.still_since <= then;
        is_there.then(|| Chunk {
            first: seq,
            at: open.at,
            end: (open.block.end() + unfinished) as u32,
            lines: 1,
        })
    }

    /// Its blocks with numbers above `floor`; of the one that is being written a copy.
    fn blocks_above(&self, floor: u64, tail: Option<Chunk>) -> Vec<Arc<Block>> {
        let below = self.full.partition_point(|b| b.last() <= floor);
        let mut blocks: Vec<_> = self.full.range(below..).cloned().collect();
        if let Some(open) = &self.open {
            blocks.push(Arc::new(open.block.copy_above(floor, tail)));
        }
        blocks
    }
}

#[cfg(test)]
mod tests;
