//! Pure: no system call, no thread, no clock.
//!
//! Whole lines of one output of one run, with their numbers and times: what memory and disk both
//! hand to a search, and the walk over them.

use std::sync::{Arc, OnceLock};

use memchr::{memchr, memchr_iter, memrchr};

use crate::base::clock::Wall;
use crate::log::stream::Stream;

/// A line ends here at the latest (spec: supervision, Logs).
pub const MAX_LINE: usize = 64 << 10;

/// These bytes of a line are a piece of a longer one, which goes on in the next.
pub fn is_piece(line: &[u8]) -> bool {
    line.len() >= MAX_LINE && !line.ends_with(b"\n")
}

/// Where lines end in bytes that were just added to an unfinished one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Pieces of [`MAX_LINE`] bytes, from where the unfinished line begins.
    pub pieces: usize,
    /// Newlines, which end the lines behind them.
    pub newlines: u64,
    /// Where the last newline ends in the new bytes; zero: there is none.
    pub end: usize,
}

impl Cut {
    /// Lines that end.
    pub(crate) fn lines(&self) -> u64 {
        self.pieces as u64 + self.newlines
    }
}

/// Cuts `new`, at most 64 KiB, behind so many bytes of an unfinished line.
pub(crate) fn cut(unfinished: usize, new: &[u8]) -> Cut {
    let (first, last) = (memchr(b'\n', new), memrchr(b'\n', new));
    // Only the line that was begun earlier can be too long.
    let text = unfinished + first.unwrap_or(new.len());
    let (newlines, end) = match (first, last) {
        (Some(first), Some(last)) => (memchr_iter(b'\n', &new[first..=last]).count(), last + 1),
        (_, _) => (0, 0),
    };
    Cut {
        pieces: text.saturating_sub(1) / MAX_LINE,
        newlines: newlines as u64,
        end,
    }
}

/// Where the `nth` line (from 0) begins.
pub(crate) fn nth_line(bytes: &[u8], nth: u64) -> usize {
    match nth {
        0 => 0,
        n => memchr_iter(b'\n', bytes)
            .nth(n as usize - 1)
            .map_or(bytes.len(), |newline| newline + 1),
    }
}

/// Lines that came one after another from one stream, at one time, with numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The number of its first line.
    pub first: u64,
    /// When its last byte came.
    pub at: Wall,
    /// Where it ends in its block; it begins where the one before it ends.
    pub end: u32,
    /// How many lines; never zero.
    pub lines: u32,
}

impl Chunk {
    /// The number of its last line.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.lines) - 1
    }
}

/// Bytes of whole lines, cut into chunks. Every line ends with a newline, but for the last one of a
/// chunk: that may be a piece of [`MAX_LINE`] bytes, or what a run left unfinished.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    lines: u64,
    plain: OnceLock<bool>,
}

/// Where a line is in a [`StreamSlice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its number.
    pub seq: u64,
    pub(crate) block: usize,
    pub(crate) chunk: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Block {
    /// A block of these bytes (what lies behind the last chunk is no part of it) in these chunks, which
    /// are in order.
    pub fn new(bytes: Vec<u8>, chunks: Vec<Chunk>) -> Self {
        let lines = chunks.iter().map(|c| u64::from(c.lines)).sum();
        Self {
            bytes,
            chunks,
            lines,
            plain: OnceLock::new(),
        }
    }

    /// Its lines' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end()]
    }

    /// Its chunks.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// How many lines.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The number of its first line; zero if it has none.
    pub fn first(&self) -> u64 {
        self.chunks.first().map_or(0, |c| c.first)
    }

    /// The number of its last line; zero if it has none.
    pub fn last(&self) -> u64 {
        self.chunks.last().map_or(0, Chunk::last)
    }

    /// No escape sequence in it. Looked for once.
    pub fn is_plain(&self) -> bool {
        *self
            .plain
            .get_or_init(|| memchr(0x1b, self.bytes()).is_none())
    }

    /// Memory that it holds, bytes.
    pub fn held(&self) -> usize {
        self.bytes.capacity() + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// Its buffer, to be used again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where its lines end in its buffer.
    pub fn end(&self) -> usize {
        self.chunks.last().map_or(0, |c| c.end as usize)
    }

    /// The size of its buffer.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Its buffer: its lines, and what lies behind them.
    pub(crate) fn buffer(&self) -> &[u8] {
        &self.bytes
    }

    /// Its buffer from there on, for writing; never before [`Block::end`].
    pub(crate) fn buffer_from(&mut self, from: usize) -> &mut [u8] {
        debug_assert!(from >= self.end());
        &mut self.bytes[from..]
    }

    /// What lies between its end and the chunk's end is lines as well: of the last chunk, where
    /// nothing tells them apart.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.lines += u64::from(chunk.lines);
        let terminated = self
            .end()
            .checked_sub(1)
            .is_none_or(|at| self.bytes[at] == b'\n');
        match self.chunks.last_mut() {
            Some(last) if last.last() + 1 == chunk.first && last.at == chunk.at && terminated => {
                last.end = chunk.end;
                last.lines += chunk.lines;
            }
            Some(_) | None => self.chunks.push(chunk),
        }
    }

    /// No more will be written; `tight`: the rest of the buffer is given back, if that is worth a copy.
    pub(crate) fn close(&mut self, tight: bool) {
        self.chunks.shrink_to_fit();
        if tight && self.end() < self.bytes.len() / 2 {
            self.bytes.truncate(self.end());
            self.bytes.shrink_to_fit();
        }
    }

    /// A copy of the chunks with numbers above `floor`, and of what lies behind them as `tail`.
    pub(crate) fn copy_above(&self, floor: u64, tail: Option<Chunk>) -> Self {
        let below = self.chunks.partition_point(|c| c.last() <= floor);
        let start = self.start_of(below);
        let chunks = self.chunks[below..].iter().chain(&tail);
        let chunks: Vec<Chunk> = chunks
            .map(|c| Chunk {
                end: c.end - start as u32,
                ..*c
            })
            .collect();
        let end = start + chunks.last().map_or(0, |c| c.end as usize);
        Self::new(self.bytes[start..end].to_vec(), chunks)
    }

    /// A copy of its lines with numbers above `floor`.
    fn copy_from(&self, floor: u64) -> Self {
        let mut copy = self.copy_above(floor, None);
        if let Some(chunk) = copy.chunks.first_mut().filter(|c| c.first <= floor) {
            let hidden = floor + 1 - chunk.first;
            let start = nth_line(&copy.bytes[..chunk.end as usize], hidden);
            copy.bytes.drain(..start);
            chunk.first += hidden;
            chunk.lines -= hidden as u32;
            copy.lines -= hidden;
            copy.chunks.iter_mut().for_each(|c| c.end -= start as u32);
        }
        copy
    }

    /// Where a chunk begins.
    pub(crate) fn start_of(&self, chunk: usize) -> usize {
        match chunk {
            0 => 0,
            n => self.chunks[n - 1].end as usize,
        }
    }

    /// Lines from this number on.
    pub(crate) fn lines_from(&self, seq: u64) -> u64 {
        self.lines - self.lines_up_to(seq - 1)
    }

    /// Lines with a number of at most `floor`.
    pub(crate) fn lines_up_to(&self, floor: u64) -> u64 {
        if self.last() <= floor {
            return self.lines;
        }
        self.chunks
            .iter()
            .take_while(|c| c.first <= floor)
            .map(|c| (floor - c.first + 1).min(u64::from(c.lines)))
            .sum()
    }

    /// The `nth` line of a chunk (from 0).
    fn line(&self, block: usize, chunk: usize, nth: u64) -> At {
        let (from, to) = (self.start_of(chunk), self.chunks[chunk].end as usize);
        let start = from + nth_line(&self.bytes[from..to], nth);
        At {
            seq: self.chunks[chunk].first + nth,
            block,
            chunk,
            start,
            end: self.line_end(start, to),
        }
    }

    fn last_line(&self, block: usize, chunk: usize) -> At {
        let (from, end) = (self.start_of(chunk), self.chunks[chunk].end as usize);
        At {
            seq: self.chunks[chunk].last(),
            block,
            chunk,
            start: self.line_start(from, end),
            end,
        }
    }

    fn line_end(&self, start: usize, limit: usize) -> usize {
        memchr(b'\n', &self.bytes[start..limit]).map_or(limit, |newline| start + newline + 1)
    }

    /// The start of the line that ends before `end`, not before `from`.
    fn line_start(&self, from: usize, end: usize) -> usize {
        memrchr(b'\n', &self.bytes[from..end - 1]).map_or(from, |newline| from + newline + 1)
    }
}

/// The blocks of one stream of one run, in order; of them only what is above a number.
#[derive(Debug, Clone)]
pub struct StreamSlice {
    /// The run.
    pub run: u64,
    /// The stream.
    pub stream: Stream,
    blocks: Vec<Arc<Block>>,
    floor: u64,
}

impl StreamSlice {
    /// All lines of these blocks; empty ones don't count.
    pub fn new(run: u64, stream: Stream, mut blocks: Vec<Arc<Block>>) -> Self {
        blocks.retain(|b| b.lines() > 0);
        Self {
            run,
            stream,
            blocks,
            floor: 0,
        }
    }

    /// Its blocks, taken.
    pub(crate) fn into_blocks(self) -> Vec<Arc<Block>> {
        self.blocks
    }

    /// Its blocks, without what is hidden.
    pub(crate) fn visible(&self) -> Vec<Arc<Block>> {
        let mut blocks = self.blocks.clone();
        if let Some(first) = blocks.first_mut().filter(|b| b.first() <= self.floor) {
            *first = Arc::new(first.copy_from(self.floor));
        }
        blocks
    }

    /// Hides the lines up to this number.
    pub fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        let below = self.blocks.partition_point(|b| b.last() <= self.floor);
        self.blocks.drain(..below);
    }

    /// Hides the lines from before this time.
    pub fn since(&mut self, at: Wall) {
        let older = |b: &Arc<Block>| b.chunks().last().is_none_or(|c| c.at < at);
        let below = self.blocks.partition_point(older);
        self.blocks.drain(..below);
        // The clock may have been set back in between: the first that is not older counts.
        let first = self.blocks.first().into_iter().flat_map(|b| b.chunks());
        if let Some(chunk) = first.into_iter().find(|c| c.at >= at) {
            self.raise(chunk.first - 1);
        }
    }

    /// Lines that are not hidden.
    pub fn lines(&self) -> u64 {
        let all: u64 = self.blocks.iter().map(|b| b.lines()).sum();
        let hidden = self.blocks.first().map_or(0, |b| b.lines_up_to(self.floor));
        all - hidden
    }

    /// Its first number that is not hidden; one before it may have been left out.
    pub(crate) fn first(&self) -> Option<u64> {
        self.blocks.first().map(|b| b.first().max(self.floor + 1))
    }

    /// Its last number.
    pub(crate) fn last(&self) -> Option<u64> {
        self.blocks.last().map(|b| b.last())
    }

    /// Its blocks.
    pub fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// The first line with a number above `seq`.
    pub fn first_after(&self, seq: u64) -> Option<At> {
        let seq = seq.max(self.floor);
        let index = self.blocks.partition_point(|b| b.last() <= seq);
        let block = self.blocks.get(index)?;
        let chunk = block.chunks().partition_point(|c| c.last() <= seq);
        let first = block.chunks()[chunk].first;
        Some(block.line(index, chunk, (seq + 1).saturating_sub(first)))
    }

    /// The first line of a block that is not the first.
    pub(crate) fn first_of(&self, block: usize) -> Option<At> {
        let found = self.blocks.get(block)?;
        Some(found.line(block, 0, 0))
    }

    /// The last line with a number below `seq`.
    pub fn last_before(&self, seq: u64) -> Option<At> {
        let index = self
            .blocks
            .partition_point(|b| b.first() < seq)
            .checked_sub(1)?;
        let block = &self.blocks[index];
        let chunk = block.chunks().partition_point(|c| c.first < seq) - 1;
        let found = &block.chunks()[chunk];
        let at = if found.last() < seq {
            block.last_line(index, chunk)
        } else {
            block.line(index, chunk, seq - 1 - found.first)
        };
        (at.seq > self.floor).then_some(at)
    }

    /// The line after this one.
    pub fn next(&self, at: &At) -> Option<At> {
        let block = &self.blocks[at.block];
        let limit = block.chunks()[at.chunk].end as usize;
        if at.end < limit {
            return Some(At {
                seq: at.seq + 1,
                start: at.end,
                end: block.line_end(at.end, limit),
                ..*at
            });
        }
        if at.chunk + 1 < block.chunks().len() {
            return Some(block.line(at.block, at.chunk + 1, 0));
        }
        let next = self.blocks.get(at.block + 1)?;
        Some(next.line(at.block + 1, 0, 0))
    }

    /// The line before this one.
    pub fn prev(&self, at: &At) -> Option<At> {
        let block = &self.blocks[at.block];
        let from = block.start_of(at.chunk);
        let found = if at.start > from {
            At {
                seq: at.seq - 1,
                start: block.line_start(from, at.start),
                end: at.start,
                ..*at
            }
        } else if at.chunk > 0 {
            block.last_line(at.block, at.chunk - 1)
        } else {
            let index = at.block.checked_sub(1)?;
            let block = &self.blocks[index];
            block.last_line(index, block.chunks().len() - 1)
        };
        (found.seq > self.floor).then_some(found)
    }

    /// The line's bytes with its newline, and when it came.
    pub fn bytes(&self, at: &At) -> (&[u8], Wall) {
        let block = &self.blocks[at.block];
        (&block.bytes[at.start..at.end], block.chunks()[at.chunk].at)
    }
}

/// Walks over the lines of all lanes in the order of their numbers.
#[derive(Debug)]
pub struct MergeIter<'a> {
    lanes: &'a [StreamSlice],
    heads: Vec<Option<At>>,
    forward: bool,
}

impl<'a> MergeIter<'a> {
    /// Up from the first line above `seq`.
    pub fn up(lanes: &'a [StreamSlice], seq: u64) -> Self {
        Self {
            lanes,
            heads: lanes.iter().map(|l| l.first_after(seq)).collect(),
            forward: true,
        }
    }

    /// Down from the last line below `seq`.
    pub fn down(lanes: &'a [StreamSlice], seq: u64) -> Self {
        Self {
            lanes,
            heads: lanes.iter().map(|l| l.last_before(seq)).collect(),
            forward: false,
        }
    }
}

impl Iterator for MergeIter<'_> {
    /// The lane's index, and the line.
    type Item = (usize, At);

    fn next(&mut self) -> Option<Self::Item> {
        let heads = self.heads.iter().enumerate();
        let known = heads.filter_map(|(lane, head)| head.map(|at| (lane, at)));
        let (lane, at) = if self.forward {
            known.min_by_key(|(_, at)| at.seq)
        } else {
            known.max_by_key(|(_, at)| at.seq)
        }?;
        self.heads[lane] = if self.forward {
            self.lanes[lane].next(&at)
        } else {
            self.lanes[lane].prev(&at)
        };
        Some((lane, at))
    }
}

/// What tests of logs share.
#[cfg(test)]
pub(crate) mod testing {
    /// A small generator (xorshift64).
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// Less than `limit`.
        pub(crate) fn below(&mut self, limit: usize) -> usize {
            (self.next() % limit as u64) as usize
        }
    }
}
