//! Pure: no system call, no thread, no clock.
//!
//! Lines of one output of one run, with their numbers and times, as memory and disk both give them to a
//! search; and the iteration over them.

use std::sync::{Arc, OnceLock};

use memchr::{memchr, memchr_iter, memrchr};

use crate::base::clock::Wall;
use crate::base::saved::saved;
use crate::log::stream::Stream;

/// A line ends here at the latest (spec: supervision, Logs).
pub const MAX_LINE: usize = 64 << 10;

/// These bytes are a piece of a longer line, which goes on in the next.
pub fn is_piece(line: &[u8]) -> bool {
    line.len() >= MAX_LINE && !line.ends_with(b"\n")
}

/// The ends of lines in bytes that were added to an unfinished one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Pieces of [`MAX_LINE`] bytes, from the start of the unfinished line on.
    pub pieces: usize,
    /// Newlines, which end the lines behind the pieces.
    pub newlines: u64,
    /// The place behind the last newline in the new bytes; zero: there is none.
    pub end: usize,
}

impl Cut {
    /// The number of lines that end.
    pub(crate) fn lines(&self) -> u64 {
        self.pieces as u64 + self.newlines
    }
}

/// Cuts `new`, at most 64 KiB, behind an unfinished line of that many bytes.
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

/// The start of the `nth` line (from 0).
pub(crate) fn nth_line(bytes: &[u8], nth: u64) -> usize {
    match nth {
        0 => 0,
        n => memchr_iter(b'\n', bytes)
            .nth(n as usize - 1)
            .map_or(bytes.len(), |newline| newline + 1),
    }
}

/// Lines that came one after another from one stream, at one time, with consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunk {
    /// The number of its first line.
    pub first: u64,
    /// When its last byte came.
    pub at: Wall,
    /// Its end in its block; it begins at the end of the one before it.
    pub end: u32,
    /// The number of its lines; never zero.
    pub lines: u32,
}

saved! { Chunk { first, at, end, lines } }

impl Chunk {
    /// The number of its last line.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.lines) - 1
    }
}

/// Bytes of lines, cut into chunks. Every line ends with a newline, but for the last one of a chunk: that
/// may be a piece of [`MAX_LINE`] bytes, or what a run left unfinished. Behind the last chunk lies the line
/// that is not finished yet.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    lines: u64,
    plain: OnceLock<bool>,
}

/// The place of a line in a [`StreamSlice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The line's number.
    pub seq: u64,
    pub(crate) block: usize,
    pub(crate) chunk: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Block {
    /// A block of these bytes in these chunks, which are in order.
    pub fn new(bytes: Vec<u8>, chunks: Vec<Chunk>) -> Self {
        let lines = chunks.iter().map(|c| u64::from(c.lines)).sum();
        Self {
            bytes,
            chunks,
            lines,
            plain: OnceLock::new(),
        }
    }

    /// The bytes of its lines.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end()]
    }

    /// The unfinished line behind them.
    pub(crate) fn unfinished(&self) -> &[u8] {
        &self.bytes[self.end()..]
    }

    /// Its chunks.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The number of its lines.
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

    /// It has no escape sequence. Searched for once.
    pub fn is_plain(&self) -> bool {
        *self
            .plain
            .get_or_init(|| memchr(0x1b, self.bytes()).is_none())
    }

    /// The memory that it holds, bytes.
    pub fn held(&self) -> usize {
        self.bytes.capacity() + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// The size of its buffer.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Its buffer, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes that fit into its buffer still.
    pub(crate) fn room(&self) -> usize {
        self.capacity() - self.bytes.len()
    }

    /// The end of its lines in its buffer.
    pub(crate) fn end(&self) -> usize {
        self.chunks.last().map_or(0, |c| c.end as usize)
    }

    /// Appends bytes to the unfinished line, within [`Block::room`].
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes up to the end of this chunk are lines now.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.lines += u64::from(chunk.lines);
        let terminated = self.bytes().last().is_none_or(|byte| *byte == b'\n');
        match self.chunks.last_mut() {
            Some(last) if last.last() + 1 == chunk.first && last.at == chunk.at && terminated => {
                last.end = chunk.end;
                last.lines += chunk.lines;
            }
            Some(_) | None => self.chunks.push(chunk),
        }
    }

    /// Nothing more is written to it; `tight`: the rest of the buffer is released, if that is worth a copy.
    pub(crate) fn close(&mut self, tight: bool) {
        self.bytes.truncate(self.end());
        self.chunks.shrink_to_fit();
        if tight && self.bytes.len() < self.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }

    /// A copy of the chunks with numbers above `floor`, and of the unfinished line as `tail`.
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

    /// The start of a chunk.
    fn start_of(&self, chunk: usize) -> usize {
        match chunk {
            0 => 0,
            n => self.chunks[n - 1].end as usize,
        }
    }

    /// The number of its lines with numbers in this range.
    pub(crate) fn lines_within(&self, after: u64, through: u64) -> u64 {
        self.lines_up_to(through)
            .saturating_sub(self.lines_up_to(after))
    }

    /// The number of its lines with numbers of at most `floor`.
    pub(crate) fn lines_up_to(&self, floor: u64) -> u64 {
        if self.last() <= floor {
            return self.lines;
        }
        let below = self.chunks.iter().take_while(|c| c.first <= floor);
        below
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

/// The blocks of one stream of one run, in order; of them only the lines above a number.
#[derive(Debug, Clone)]
pub struct StreamSlice {
    pub run: u64,
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

    /// The number of its lines up to this one, without those that are hidden.
    pub fn lines_up_to(&self, through: u64) -> u64 {
        let within = |block: &Arc<Block>| block.lines_within(self.floor, through);
        self.blocks.iter().map(within).sum()
    }

    /// The lowest number that is not hidden; the first line's may be higher.
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

/// The lines of several slices in the order of their numbers.
#[derive(Debug)]
pub struct MergeIter<'a> {
    slices: &'a [StreamSlice],
    heads: Vec<Option<At>>,
    forward: bool,
}

impl<'a> MergeIter<'a> {
    /// Up from the first line above `seq`.
    pub fn up(slices: &'a [StreamSlice], seq: u64) -> Self {
        Self {
            slices,
            heads: slices.iter().map(|l| l.first_after(seq)).collect(),
            forward: true,
        }
    }

    /// Down from the last line below `seq`.
    pub fn down(slices: &'a [StreamSlice], seq: u64) -> Self {
        Self {
            slices,
            heads: slices.iter().map(|l| l.last_before(seq)).collect(),
            forward: false,
        }
    }
}

impl Iterator for MergeIter<'_> {
    /// The slice's index, and the line.
    type Item = (usize, At);

    fn next(&mut self) -> Option<Self::Item> {
        let heads = self.heads.iter().enumerate();
        let known = heads.filter_map(|(slice, head)| head.map(|at| (slice, at)));
        let (slice, at) = if self.forward {
            known.min_by_key(|(_, at)| at.seq)
        } else {
            known.max_by_key(|(_, at)| at.seq)
        }?;
        self.heads[slice] = if self.forward {
            self.slices[slice].next(&at)
        } else {
            self.slices[slice].prev(&at)
        };
        Some((slice, at))
    }
}

/// Shared by tests.
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
