//! Reads the files of a run: page by page from either end, never more than one page at a time, and
//! only the pages that are asked for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::index::Record;
use super::segment::{BACK, Opened, RECORDS};
use super::writer::{Folder, SegmentId};
use crate::base::clock::Wall;
use crate::log::block::{Block, Chunk, MAX_LINE, StreamSlice, cut, nth_line};
use crate::log::stream::Stream;

/// Bytes of a page: a few reads of full size.
const PAGE: u32 = 256 << 10;

/// A place between two records of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    part: usize,
    record: usize,
}

/// What is asked of one run.
#[derive(Debug)]
pub(super) struct Reader {
    folder: Folder,
    /// Its parts, oldest first.
    parts: Vec<Arc<SegmentId>>,
    /// What is above is in memory.
    ceiling: u64,
    stream: Option<Stream>,
    /// Lines of each stream before its end that are above the ceiling.
    above: [u64; 2],
    /// Late lines with numbers up to here come at their place.
    late_below: u64,
    /// Those that did: place, and their own number.
    pub late: Vec<(u64, u64)>,
    opened: Option<(usize, Opened)>,
    /// A page's memory, for the next one.
    spare: Vec<u8>,
}

impl Reader {
    /// The parts of a run, oldest first; `ceiling`: the number up to which it is not in memory (None:
    /// it is on disk only).
    pub(super) fn new(
        folder: Folder,
        parts: Vec<Arc<SegmentId>>,
        ceiling: Option<u64>,
        stream: Option<Stream>,
        late_below: u64,
    ) -> Self {
        Self {
            late_below,
            late: Vec::new(),
            above: [0; 2],
            folder,
            parts,
            ceiling: ceiling.unwrap_or(u64::MAX),
            stream,
            opened: None,
            spare: Vec::new(),
        }
    }

    pub(super) fn parts(&self) -> &[Arc<SegmentId>] {
        &self.parts
    }

    /// The number up to which it is not in memory; None: it is on disk only.
    pub(super) fn ceiling(&self) -> Option<u64> {
        Some(self.ceiling).filter(|ceiling| *ceiling != u64::MAX)
    }

    /// The lowest and the highest number that it may hold.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let metas = || self.parts.iter().filter_map(|p| p.meta.get());
        let last = metas().map(|m| m.last).max().unwrap_or(0);
        let first = metas().next().map_or(0, |m| m.header.first);
        (first, last.min(self.ceiling))
    }

    /// Lines with higher numbers than `after` that should be here and are not.
    pub(super) fn missing(&self, after: u64) -> u64 {
        let (mut sum, mut known) = (0, 0);
        for meta in self.parts.iter().filter_map(|p| p.meta.get()) {
            let hole = meta.header.before.saturating_sub(known);
            sum += hole.min((meta.header.first - 1).saturating_sub(after));
            known = meta.header.before + meta.total();
        }
        sum
    }

    fn run(&self) -> u64 {
        self.parts.first().map_or(0, |p| p.run)
    }

    /// Opens a part; a part that went is an empty one.
    fn open(&mut self, part: usize) -> Option<&Opened> {
        if self.opened.as_ref().is_none_or(|(open, _)| *open != part) {
            self.opened = None;
            let of = self.parts.get(part)?;
            let known = of.meta.get();
            let first = known.map_or(1, |m| m.header.first);
            // Nobody writes it any more then: its unfinished lines are lines.
            let over = self.ceiling().is_none() && part + 1 == self.parts.len();
            let opened = Opened::read(&self.folder, of, first, over).ok()?;
            self.opened = Some((part, opened));
        }
        self.opened.as_ref().map(|(_, opened)| opened)
    }

    /// Lets go of its descriptors, until it is asked again.
    pub(super) fn close(&mut self) {
        self.opened = None;
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    fn len(&mut self, part: usize) -> usize {
        self.open(part).map_or(0, Opened::len)
    }

    /// The place before the first line with a higher number, from this time on.
    pub(super) fn start(&mut self, after: u64, since: Option<Wall>) -> Place {
        let since = since.unwrap_or(Wall(i64::MIN));
        let old = |part: &Arc<SegmentId>| {
            let meta = part.meta.get();
            meta.is_some_and(|m| m.last <= after || m.last_at < since)
        };
        let part = self.parts.iter().take_while(|p| old(p)).count();
        let record = self.open(part).map_or(0, |opened| {
            opened.search(&|record, before| record.last(before) > after && record.at >= since)
        });
        Place { part, record }
    }

    /// The place behind all there is; what is in memory as well is left out of pages.
    pub(super) fn rest(&self) -> Place {
        Place {
            part: self.parts.len().saturating_sub(1),
            record: usize::MAX,
        }
    }

    /// The place behind the last line that is not in memory.
    pub(super) fn end(&mut self) -> Place {
        let ceiling = self.ceiling;
        let below =
            |part: &Arc<SegmentId>| part.meta.get().is_none_or(|m| m.header.first <= ceiling);
        let parts = self.parts.iter().take_while(|p| below(p)).count();
        let Some(part) = parts.checked_sub(1) else {
            return Place { part: 0, record: 0 };
        };
        let inside = self.parts[part]
            .meta
            .get()
            .is_some_and(|m| m.last > ceiling);
        let record = if inside {
            self.end_within(part)
        } else {
            self.len(part)
        };
        Place { part, record }
    }

    /// The place in a part behind the last line that is not in memory. Behind it may be one that was
    /// shown unfinished and has a lower number: then it is behind that one, and what is above the
    /// ceiling in between is left out.
    fn end_within(&mut self, part: usize) -> usize {
        let ceiling = self.ceiling;
        let Some(opened) = self.open(part) else {
            return 0;
        };
        let first = opened.search(&|record, _| record.first > ceiling);
        let low = first.saturating_sub(1);
        let high = opened.len().min(first + BACK);
        let (mut records, mut before) = (Vec::new(), opened.before(low));
        opened.records(low, high, &mut records);
        let (mut end, mut above) = (first, [0; 2]);
        let (mut sum, mut seen) = ([0; 2], [false; 2]);
        for (at, record) in (low..).zip(&records) {
            let (which, lines) = (record.stream as usize, record.finished(&before));
            if at >= first && lines > 0 {
                if !seen[which] && record.pinned && record.first <= ceiling {
                    // With its place, if it has one.
                    let next = records.get(at - low + 1);
                    let place = next.is_some_and(|next| next.is_place(record));
                    (end, above) = (at + 1 + usize::from(place), sum);
                } else {
                    seen[which] = true;
                }
            }
            let last = record.last(&before);
            sum[which] += u64::from(lines).min(last.saturating_sub(ceiling));
            if at < first {
                above = sum;
            }
            before = *record;
        }
        self.above = above;
        end
    }

    /// Lines of a stream, or of both, between a place and the end, those up to `after` left out.
    pub(super) fn count(
        &mut self,
        (from, to): (Place, Place),
        after: u64,
        stream: Option<Stream>,
    ) -> u64 {
        let lines = |lines: [u32; 2]| match stream {
            Some(stream) => u64::from(lines[stream as usize]),
            None => lines.into_iter().map(u64::from).sum(),
        };
        let mut sum = 0;
        for part in from.part..=to.part {
            let inside = part > from.part && part < to.part;
            let known = self.parts.get(part).and_then(|p| p.meta.get());
            if let Some(meta) = known.filter(|_| inside) {
                sum += lines(meta.lines);
                continue;
            }
            let Some(opened) = self.open(part) else {
                continue;
            };
            let end = if part == to.part {
                to.record.min(opened.len())
            } else {
                opened.len()
            };
            let start = if part == from.part { from.record } else { 0 };
            if start >= end {
                continue;
            }
            sum +=
                lines(opened.before(end).lines).saturating_sub(lines(opened.before(start).lines));
            if part == from.part {
                let outside = opened.up_to(after, start, end, stream);
                sum = sum.saturating_sub(outside);
            }
        }
        let above: u64 = match stream {
            Some(stream) => self.above[stream as usize],
            None => self.above.iter().sum(),
        };
        sum.saturating_sub(above)
    }

    /// The last page before `to`, not before `from`; and where it begins.
    pub(super) fn back(&mut self, from: Place, to: Place) -> Option<(Vec<StreamSlice>, Place)> {
        let mut to = to;
        while to > from && to.record == 0 {
            to.part -= 1;
            to.record = self.len(to.part);
        }
        if to <= from {
            return None;
        }
        let least = if to.part == from.part { from.record } else { 0 };
        let opened = self.open(to.part)?;
        let low = page_before(opened, least, to.record);
        let Some((before_low, records)) = opened.stretch(low, to.record) else {
            return Some((Vec::new(), Place { record: low, ..to }));
        };
        let end = records.last().map_or(0, |r| r.end);
        let mut start = records.len() - 1;
        while start > 0 {
            let begin = if start == 1 {
                before_low.end
            } else {
                records[start - 2].end
            };
            if end - begin > PAGE {
                break;
            }
            start -= 1;
        }
        if records[start].is_place(if start == 0 {
            &before_low
        } else {
            &records[start - 1]
        }) {
            start = start.saturating_sub(1);
        }
        let before = if start == 0 {
            before_low
        } else {
            records[start - 1]
        };
        let place = Place {
            record: low + start,
            ..to
        };
        Some((self.lanes(place, before, &records[start..]), place))
    }

    /// The first page from `from` on, not beyond `to`; and where it ends.
    pub(super) fn forward(&mut self, from: Place, to: Place) -> Option<(Vec<StreamSlice>, Place)> {
        let mut from = from;
        while from.part < to.part && from.record >= self.len(from.part) {
            from.part += 1;
            from.record = 0;
        }
        let end = to.record.min(self.len(to.part));
        if from.part > to.part || (from.part == to.part && from.record >= end) {
            return None;
        }
        let ceiling = self.ceiling;
        let opened = self.open(from.part)?;
        let most = if from.part == to.part {
            end
        } else {
            opened.len()
        };
        let high = page_behind(opened, from.record, most);
        let Some((before, records)) = opened.stretch(from.record, high) else {
            let place = Place {
                record: high,
                ..from
            };
            return Some((Vec::new(), place));
        };
        // All that follows is in memory.
        if records[0].first > ceiling {
            return None;
        }
        let fit = records.iter().take_while(|r| r.end - before.end <= PAGE);
        let mut count = fit.count().max(1);
        // A late line and its place stay together.
        if count == records.len() && count > 1 && high < most && records[count - 1].pinned {
            count -= 1;
        }
        if records
            .get(count)
            .is_some_and(|r| r.is_place(&records[count - 1]))
        {
            count += 1;
        }
        let place = Place {
            record: from.record + count,
            ..from
        };
        Some((self.lanes(from, before, &records[..count]), place))
    }

    /// The lines of these records, the first of which is at `place`.
    fn lanes(&mut self, place: Place, before: Record, records: &[Record]) -> Vec<StreamSlice> {
        let mut lanes = Vec::new();
        let (run, late_below, ceiling) = (self.run(), self.late_below, self.ceiling);
        let mut late = Vec::new();
        let alone = records.iter().all(|r| r.stream == records[0].stream);
        for stream in Stream::ALL {
            let wanted = self.stream.is_none_or(|s| s == stream);
            let first = records.iter().position(|r| r.stream == stream);
            let (true, Some(first)) = (wanted, first) else {
                continue;
            };
            let carry = records[first].carry as usize;
            let prefix = match carry {
                0 => Vec::new(),
                n => self.carried(place, stream, n),
            };
            let mut track = Track::new(std::mem::take(&mut self.spare), &prefix, ceiling);
            let Some(opened) = self.open(place.part) else {
                continue;
            };
            if alone {
                track.append(&opened.log, before.end, records[records.len() - 1].end);
            }
            let mut previous = before;
            let mut used = prefix.len();
            for (at, record) in records.iter().enumerate() {
                if record.stream == stream {
                    if !alone {
                        track.append(&opened.log, previous.end, record.end);
                    }
                    let length = (record.end - previous.end) as usize;
                    let to = (used + length).min(track.used);
                    let mut record = *record;
                    let finished = record.finished(&previous);
                    let place = records.get(at + 1).filter(|next| next.is_place(&record));
                    if let Some(place) = place
                        && record.pinned
                        && record.first <= late_below
                    {
                        late.push((place.first, record.first));
                        // Its own number tells whether it is in memory.
                        track.ceiling = match record.first <= ceiling {
                            true => u64::MAX,
                            false => 0,
                        };
                        record.first = place.first;
                    }
                    track.add(&record, finished, used, to);
                    track.ceiling = ceiling;
                    used = to;
                }
                previous = *record;
            }
            let block = Block::new(track.bytes, track.chunks);
            lanes.push(StreamSlice::new(run, stream, vec![Arc::new(block)]));
        }
        self.late.append(&mut late);
        lanes
    }

    /// The last `carry` bytes of a stream before a place: the start of its unfinished line.
    fn carried(&mut self, place: Place, stream: Stream, carry: usize) -> Vec<u8> {
        const STEP: usize = 64;
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let (mut at, mut left, mut looked) = (place, carry, 0);
        let mut records = Vec::new();
        while left > 0 && looked < BACK {
            if at.record == 0 {
                if at.part == 0 {
                    break;
                }
                at.part -= 1;
                at.record = self.len(at.part);
                looked += 1;
                continue;
            }
            let low = at.record.saturating_sub(STEP);
            let Some(opened) = self.open(at.part) else {
                break;
            };
            if !opened.records(low, at.record, &mut records) {
                break;
            }
            looked += records.len();
            for (index, record) in records.iter().enumerate().rev() {
                let begin = match index {
                    0 => opened.before(low).end,
                    n => records[n - 1].end,
                };
                if record.stream != stream || left == 0 {
                    continue;
                }
                let take = ((record.end - begin) as usize).min(left);
                let mut piece = vec![0; take];
                if opened
                    .log
                    .read_exact_at(&mut piece, u64::from(record.end) - take as u64)
                    .is_err()
                {
                    piece.fill(b'?');
                }
                pieces.push(piece);
                left -= take;
            }
            at.record = low;
        }
        pieces.reverse();
        pieces.concat()
    }

    /// Takes back the memory of a page that was read.
    pub(super) fn reuse(&mut self, lanes: Vec<StreamSlice>) {
        for block in lanes.into_iter().flat_map(StreamSlice::into_blocks) {
            if let Ok(block) = Arc::try_unwrap(block) {
                self.spare = block.into_bytes();
            }
        }
    }
}

/// How many records are looked at first: a page of large reads has fewer, and more are asked for as they
/// are needed.
const FEW: usize = 64;

/// Where the records of a page that ends before `to` are found, not before `least`.
fn page_before(opened: &Opened, least: usize, to: usize) -> usize {
    let end = opened.before(to).end;
    let mut count = FEW;
    loop {
        let low = to.saturating_sub(count).max(least);
        let bytes = end.saturating_sub(opened.before(low).end);
        if low == least || count >= RECORDS || bytes > PAGE {
            return low;
        }
        count *= 4;
    }
}

/// Up to where the records of a page that begins at `from` are found, not behind `most`.
fn page_behind(opened: &Opened, from: usize, most: usize) -> usize {
    let begin = opened.before(from).end;
    let mut count = FEW;
    loop {
        let high = (from + count).min(most);
        let bytes = opened.before(high).end.saturating_sub(begin);
        if high == most || count >= RECORDS || bytes > PAGE {
            return high;
        }
        count *= 4;
    }
}

/// The lines of one stream, as they are put together.
struct Track {
    /// At least as many as are used: a page's memory is made once, and written over for the next.
    bytes: Vec<u8>,
    used: usize,
    chunks: Vec<Chunk>,
    /// Where the unfinished line begins.
    start: usize,
    ceiling: u64,
}

impl Track {
    fn new(bytes: Vec<u8>, prefix: &[u8], ceiling: u64) -> Self {
        let mut track = Self {
            bytes,
            used: 0,
            chunks: Vec::new(),
            start: 0,
            ceiling,
        };
        track.room(prefix.len()).copy_from_slice(prefix);
        track.used = prefix.len();
        track
    }

    fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.used + size;
        if self.bytes.len() < end {
            let mut larger = vec![0; end.next_power_of_two()];
            larger[..self.used].copy_from_slice(&self.bytes[..self.used]);
            self.bytes = larger;
        }
        &mut self.bytes[self.used..end]
    }

    /// Appends a range of a file.
    fn append(&mut self, file: &File, from: u32, to: u32) {
        let mut from = u64::from(from);
        while from < u64::from(to) {
            let room = self.room((u64::from(to) - from) as usize);
            match file.read_at(room, from) {
                // Cut short since.
                Ok(0) => break,
                Ok(count) => {
                    self.used += count;
                    from += count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    /// Bytes `from..to` are those of this record, which finishes so many lines.
    fn add(&mut self, record: &Record, lines: u32, from: usize, to: usize) {
        let cut = cut(from - self.start, &self.bytes[from..to]);
        let mut first = record.first;
        let mut left = u64::from(lines);
        for _ in 0..cut.pieces {
            self.push(record, first, 1, self.start + MAX_LINE);
            first += 1;
            left = left.saturating_sub(1);
        }
        if cut.newlines > 0 {
            self.push(record, first, cut.newlines, from + cut.end);
            first += cut.newlines;
            left = left.saturating_sub(cut.newlines);
        }
        // The end of a run, or of a piece that was shown before it was whole.
        if left > 0 && to > self.start {
            self.push(record, first, 1, to);
        }
    }

    fn push(&mut self, record: &Record, first: u64, lines: u64, end: usize) {
        let start = std::mem::replace(&mut self.start, end);
        // Numbers only rise within a stream, whatever a damaged index says; lines that were left out would
        // count as the next chunk's.
        let first = first.max(self.chunks.last().map_or(1, |c| c.last() + 1));
        let Some(meant) = (self.ceiling.saturating_add(1)).checked_sub(first) else {
            return;
        };
        let end = if meant < lines {
            start + nth_line(&self.bytes[start..end], meant)
        } else {
            end
        };
        let lines = lines.min(meant) as u32;
        if lines == 0 {
            return;
        }
        self.chunks.push(Chunk {
            first,
            at: record.at,
            end: end as u32,
            lines,
        });
    }
}
