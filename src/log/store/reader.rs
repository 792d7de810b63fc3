//! Reads the files of a run: page by page from either end, never more than one page at a time, and only the
//! pages that are asked for.

use std::ops::Range;
use std::sync::Arc;

use super::index::Entry;
use super::layout::{Folder, Meta, Segment, lines_of};
use super::segment::{BACK, Opened, meta};
use crate::base::clock::Wall;
use crate::log::block::{Block, Chunk, MAX_LINE, StreamSlice, cut};
use crate::log::ring::Gone;
use crate::log::stream::Stream;

/// A place between two records of a run: the index of the segment, and of the record behind the place.
type Place = (usize, usize);

/// The part of one run that is read from disk: the lines behind a cursor that memory lacks.
#[derive(Debug)]
pub(super) struct Reader {
    folder: Folder,
    /// Its segments, oldest first; of each the contents are known.
    segments: Vec<Arc<Segment>>,
    pub run: u64,
    stream: Option<Stream>,
    /// The lines that memory lacks; None: memory has nothing of the run.
    gone: Option<Gone>,
    /// The numbers of the lines that are read: behind the first, up to the second.
    after: u64,
    through: u64,
    /// The places that are not read yet: from the first to the second.
    from: Place,
    to: Place,
    /// No line that is not read yet has a lower, or a higher number.
    low: u64,
    high: u64,
    opened: Option<(usize, Opened)>,
}

/// The lines that are read of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub run: u64,
    /// The lines that memory lacks; None: memory has nothing of the run.
    pub gone: Option<Gone>,
    pub after: u64,
    pub since: Option<Wall>,
    pub stream: Option<Stream>,
}

impl Reader {
    /// `all`: the segments of the log, oldest first. Leaves no file open.
    pub(super) fn new(folder: &Folder, all: &[Arc<Segment>], part: Part) -> Self {
        let is_there = |s: &Arc<Segment>| folder.file(s.run, s.number, "log").exists();
        let of_run = (0..all.len()).filter(|at| all[*at].run == part.run && is_there(&all[*at]));
        let known = of_run.filter(|at| meta(folder, all, *at).is_some());
        let mut reader = Self {
            segments: known.map(|at| Arc::clone(&all[at])).collect(),
            folder: folder.clone(),
            run: part.run,
            stream: part.stream,
            gone: part.gone,
            after: part.after,
            through: 0,
            from: (0, 0),
            to: (0, 0),
            low: 0,
            high: 0,
            opened: None,
        };
        reader.find_end();
        reader.find_start(part.since);
        reader.low = reader.after.saturating_add(1);
        reader.high = reader.through;
        reader.close();
        reader
    }

    /// The place behind the last line that memory lacks. The record that has it may have more lines, which
    /// are read too.
    fn find_end(&mut self) {
        let ceiling = self.gone.map_or(u64::MAX, |gone| gone.through);
        let below = self
            .metas()
            .take_while(|m| m.header.first <= ceiling)
            .count();
        let Some(last) = below.checked_sub(1) else {
            return;
        };
        self.to = (last, usize::MAX);
        self.through = self.segments[last].meta.get().map_or(0, |m| m.last);
        if self.through > ceiling
            && let Some(opened) = self.open(last)
        {
            let record = opened.first_where(0..opened.len(), &|e| e.record.first > ceiling);
            let before = opened.entries(record.saturating_sub(1)..record);
            self.through = before.last().map_or(ceiling, Entry::last);
            self.to = (last, record);
        }
    }

    /// The place before the first line behind the cursor and from this time on, which becomes a cursor too.
    fn find_start(&mut self, since: Option<Wall>) {
        let (after, since_at) = (self.after, since.unwrap_or(Wall(i64::MIN)));
        let old = |m: &&Meta| m.last <= after || m.last_at < since_at;
        let segment = self.metas().take_while(old).count();
        self.from = (segment, 0);
        if let Some(opened) = self.open(segment) {
            let wanted = |e: &Entry| e.last() > after && e.record.at >= since_at;
            let record = opened.first_where(0..opened.len(), &wanted);
            let first = opened.entries(record..record + 1);
            if let (Some(entry), Some(_)) = (first.first(), since) {
                self.after = after.max(entry.record.first.saturating_sub(1));
            }
            self.from = (segment, record);
        }
    }

    fn metas(&self) -> impl Iterator<Item = &Meta> {
        self.segments.iter().filter_map(|s| s.meta.get())
    }

    /// The number up to which lines are read from disk, whether memory has some of them or not.
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// The lowest, or the highest number that a line may have that is not read yet. None: all is read.
    pub(super) fn nearest(&self, forward: bool) -> Option<u64> {
        let is_left = self.from < self.to;
        is_left.then_some(if forward { self.low } else { self.high })
    }

    /// The beginning of the run, and the time and manner of its end, as the files tell.
    pub(super) fn life(&self) -> (Option<Wall>, Option<(Wall, String)>) {
        let started = self.metas().next().map(|m| m.header.started);
        let noted = |m: &Meta| m.header.ended.clone().filter(|(_, how)| !how.is_empty());
        let last = || Some(self.metas().last()?.last_at);
        let killed = || Some((last()?, "unknown: bpm was killed".to_owned()));
        (started, self.metas().find_map(noted).or_else(killed))
    }

    /// The number of lines with higher numbers than `after` that memory lacks, and the files too.
    pub(super) fn gone_after(&self, after: u64) -> u64 {
        let (mut lost, mut known) = (0, 0);
        for meta in self.metas() {
            let mut hole = meta.header.before.saturating_sub(known);
            let mut through = meta.header.first - 1;
            // A small budget keeps fewer lines in files than there are in memory.
            if let Some(gone) = self.gone.filter(|gone| gone.through < through) {
                hole = hole.min(gone.lines.saturating_sub(known));
                through = gone.through;
            }
            lost += hole.min(through.saturating_sub(after));
            known = meta.header.before + lines_of(meta.lines, None);
        }
        let gone = self.gone.unwrap_or_default();
        let hole = gone.lines.saturating_sub(known);
        lost + hole.min(gone.through.saturating_sub(after))
    }

    /// The number of the lines that are read, of its stream or of both.
    pub(super) fn count(&mut self) -> u64 {
        let (after, through, stream) = (self.after, self.through, self.stream);
        let mut sum: u64 = 0;
        for at in 0..self.segments.len() {
            let Some(meta) = self.segments[at].meta.get() else {
                continue;
            };
            let (all, first, last) = (lines_of(meta.lines, stream), meta.header.first, meta.last);
            let mut up_to = |number: u64| match number {
                number if number >= last => all,
                number if number < first => 0,
                number => self.open(at).map_or(0, |o| o.lines_up_to(number, stream)),
            };
            sum += up_to(through).saturating_sub(up_to(after));
        }
        self.close();
        sum
    }

    /// Opens a segment. None: it was removed.
    fn open(&mut self, at: usize) -> Option<&Opened> {
        if self.opened.as_ref().is_none_or(|(open, _)| *open != at) {
            self.opened = None;
            let segment = self.segments.get(at)?;
            let first = || segment.meta.get().map_or(1, |m| m.header.first);
            // Nobody writes it any more: its unfinished lines are lines.
            let over = self.gone.is_none() && at + 1 == self.segments.len();
            let opened = Opened::read(&self.folder, segment, &first, over).ok()?;
            self.opened = Some((at, opened));
        }
        self.opened.as_ref().map(|(_, opened)| opened)
    }

    /// Releases its descriptors until it is read again.
    pub(super) fn close(&mut self) {
        self.opened = None;
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// The next page, from the start on or back from the end: a slice for each stream. None: all is read.
    pub(super) fn page(&mut self, forward: bool) -> Option<Vec<StreamSlice>> {
        while self.from < self.to {
            let at = match self.to {
                _ if forward => self.from.0,
                (segment, 0) => segment - 1,
                (segment, _) => segment,
            };
            let records = self.next_records(at, forward);
            let first = records.start;
            let entries = self.open(at).map(|opened| opened.entries(records));
            let entries = entries.unwrap_or_default();
            if let (Some(oldest), Some(newest)) = (entries.first(), entries.last()) {
                self.low = self.low.max(newest.last() + 1);
                self.high = self.high.min(oldest.record.first.saturating_sub(1));
                return Some(self.slices((at, first), &entries));
            }
        }
        None
    }

    /// The records of a page, which count as read; none: the segment has no more.
    fn next_records(&mut self, at: usize, forward: bool) -> Range<usize> {
        let (from, to) = (self.from, self.to);
        let records = self.open(at).map_or(0..0, |opened| {
            let low = if at == from.0 { from.1 } else { 0 };
            let len = opened.len();
            let high = if at == to.0 { to.1.min(len) } else { len };
            match low < high {
                true => opened.page(low..high, forward),
                false => 0..0,
            }
        });
        match (forward, records.is_empty()) {
            (true, false) => self.from = (at, records.end),
            (true, true) => self.from = (at + 1, 0),
            (false, false) => self.to = (at, records.start),
            (false, true) => self.to = (at, 0),
        }
        records
    }

    /// The lines of these records, the first of which is behind `place`.
    fn slices(&mut self, place: Place, entries: &[Entry]) -> Vec<StreamSlice> {
        let (run, after) = (self.run, self.after);
        let begin = entries.first().map_or(0, |e| e.begin);
        let end = entries.last().map_or(0, |e| e.record.end);
        let mixed = entries
            .windows(2)
            .any(|two| two[0].record.stream != two[1].record.stream);
        let mut page = Text::default();
        let mut slices = Vec::new();
        for stream in Stream::ALL {
            let mut own = entries
                .iter()
                .filter(|e| e.record.stream == stream)
                .peekable();
            let wanted = self.stream.is_none_or(|wanted| wanted == stream);
            let (true, Some(first)) = (wanted, own.peek()) else {
                continue;
            };
            let carry = self.carried(place, stream, first.record.carry as usize);
            let mut text = Text::new(carry);
            let Some(opened) = self.open(place.0) else {
                continue;
            };
            // One read, whether its bytes are all of one stream or not.
            let target = if mixed { &mut page } else { &mut text };
            if target.bytes.len() <= target.known && !target.read(opened, begin..end) {
                continue;
            }
            for entry in own {
                if mixed {
                    let part = (entry.begin - begin) as usize..(entry.record.end - begin) as usize;
                    text.bytes.extend_from_slice(&page.bytes[part]);
                }
                text.add(entry);
            }
            let block = Block::new(text.bytes, text.chunks);
            let mut slice = StreamSlice::new(run, stream, vec![Arc::new(block)]);
            slice.raise(after);
            slices.push(slice);
        }
        slices
    }

    /// The lines that the run has left unfinished, of each stream.
    pub(super) fn unfinished(&mut self) -> [Vec<u8>; 2] {
        let Some(at) = self.segments.len().checked_sub(1) else {
            return Default::default();
        };
        let end = self.open(at).map(|opened| (opened.len(), opened.rests()));
        let (record, rests) = end.unwrap_or_default();
        let place = (at, record);
        Stream::ALL.map(|stream| self.carried(place, stream, rests[stream as usize] as usize))
    }

    /// The last `count` bytes of a stream before a place: the start of its unfinished line.
    fn carried(&mut self, place: Place, stream: Stream, count: usize) -> Vec<u8> {
        const STEP: usize = 64;
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let ((mut at, mut record), mut left, mut searched) = (place, count, 0);
        while left > 0 && searched < BACK {
            if record == 0 {
                let Some(before) = at.checked_sub(1) else {
                    break;
                };
                at = before;
                record = self.open(at).map_or(0, Opened::len);
                searched += 1;
                continue;
            }
            let low = record.saturating_sub(STEP);
            let Some(opened) = self.open(at) else { break };
            let entries = opened.entries(low..record);
            searched += STEP;
            for entry in entries.iter().rev().filter(|e| e.record.stream == stream) {
                if left == 0 {
                    break;
                }
                let take = ((entry.record.end - entry.begin) as usize).min(left);
                let mut piece = vec![0; take];
                if opened
                    .read_at(&mut piece, entry.record.end - take as u32)
                    .is_err()
                {
                    piece.fill(b'?');
                }
                pieces.push(piece);
                left -= take;
            }
            record = low;
        }
        pieces.reverse();
        pieces.concat()
    }
}

/// The lines of one stream, as they are put together.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    /// The start of the unfinished line.
    start: usize,
    /// The end of the bytes whose lines are known.
    known: usize,
    /// The highest number so far.
    last: u64,
}

impl Text {
    fn new(carry: Vec<u8>) -> Self {
        Self {
            known: carry.len(),
            bytes: carry,
            ..Self::default()
        }
    }

    /// Appends a range of the file. False: somebody has cut it.
    fn read(&mut self, opened: &Opened, range: Range<u32>) -> bool {
        let end = self.bytes.len();
        // `Vec::resize` stores one byte after the other in code that is made small: that took half of a search on disk.
        let zeros = [0; 4096];
        let mut missing = range.len();
        self.bytes.reserve(missing);
        while missing > 0 {
            let some = missing.min(zeros.len());
            self.bytes.extend_from_slice(&zeros[..some]);
            missing -= some;
        }
        opened.read_at(&mut self.bytes[end..], range.start).is_ok()
    }

    /// The next bytes are those of this record.
    fn add(&mut self, entry: &Entry) {
        let from = self.known;
        self.known += (entry.record.end - entry.begin) as usize;
        let cut = cut(from - self.start, &self.bytes[from..self.known]);
        // Numbers only rise within a stream, whatever a damaged index says.
        self.last = self.last.max(entry.record.first.saturating_sub(1));
        for _ in 0..cut.pieces {
            self.push(entry, 1, self.start + MAX_LINE);
        }
        if cut.newlines > 0 {
            self.push(entry, cut.newlines, from + cut.end);
        }
        // The end of a run.
        if u64::from(entry.count) > cut.lines() && self.known > self.start {
            self.push(entry, 1, self.known);
        }
    }

    fn push(&mut self, entry: &Entry, lines: u64, end: usize) {
        self.start = end;
        self.chunks.push(Chunk {
            first: self.last + 1,
            at: entry.record.at,
            end: end as u32,
            lines: lines as u32,
        });
        self.last += lines;
    }
}
