//! Pure: no system call, no thread, no clock.
//!
//! The search itself: over the bytes of each block as a whole, never line by line where that can be avoided;
//! a text is made only of the lines that are answered.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::{memchr, memchr_iter, memrchr};

use super::matcher::{Matcher, Needle};
use super::{Found, Line, Query};
use crate::base::table::sort;
use crate::log::block::{At, Block, Chunk, MergeIter, StreamSlice, is_piece};
use crate::log::line::{beyond_text, shown_part, strip_into, text_of};

/// An answer holds at most this much text, bytes.
const MOST_TEXT: usize = 32 << 20;
/// Matches that are remembered at most, whatever was asked for.
const MOST_HITS: usize = 200_000;
/// Lines of context of a page that are shown even if the budget is over.
const BESIDE: usize = 20_000;
/// The budget is checked each time a regex has read that many bytes (one costs up to 7 microseconds).
const BITE: usize = 4 << 10;

/// Answers `query` (its pattern is `matcher`) from all lines of these slices; run, `after`, `since` and
/// `stream` are the caller's to choose by. `found` says what is known before, above all
/// [`next`](Found::next): lines behind it are unfinished. `expired` tells that the budget is over.
pub fn search(
    slices: &[StreamSlice],
    query: &Query,
    matcher: Option<&Matcher>,
    found: Found,
    expired: &mut dyn FnMut() -> bool,
) -> Found {
    let mut search = Search::new(query, matcher, found);
    search.page(slices, &(0..slices.len()), expired);
    let mut found = search.finish();
    if matcher.is_none() {
        found.matches = slices.iter().map(|s| s.lines_up_to(found.next)).sum();
        found.searched = found.matches;
    }
    found
}

/// A search that reads page by page, from the end that is wanted.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    matcher: Option<&'a Matcher>,
    context: usize,
    want: Want,
    room: Room,
    found: Found,
}

impl<'a> Search<'a> {
    pub(crate) fn new(query: &Query, matcher: Option<&'a Matcher>, found: Found) -> Self {
        Self {
            matcher,
            context: query.context,
            want: Want::of(query),
            room: Room(MOST_TEXT),
            found,
        }
    }

    /// The oldest page comes first.
    pub(crate) fn is_forward(&self) -> bool {
        matches!(self.want, Want::First(_))
    }

    /// The number of lines before and behind a page that may be shown with its matches.
    pub(crate) fn beside(&self) -> u64 {
        self.matcher.map_or(0, |_| self.context as u64)
    }

    /// Whether it reads on where the nearest line that was not read has this number.
    pub(crate) fn wants(&self, nearest: Option<u64>) -> bool {
        let fits = |edge: u64| match self.want {
            Want::First(_) => nearest.is_some_and(|seq| seq < edge),
            Want::Last(_) => nearest.is_some_and(|seq| seq > edge),
        };
        // With a pattern, all matches are counted.
        let wanted = self.matcher.is_some() || self.edge().is_none_or(fits);
        wanted && !self.found.stopped_early
    }

    /// Once there are enough lines: the number of the one that would go first for another.
    fn edge(&self) -> Option<u64> {
        let lines = &self.found.lines;
        let enough = self.room.0 == 0 || lines.len() >= self.want.limit();
        let edge = match self.want {
            Want::First(_) => lines.last().and_then(|l| l.seq).unwrap_or(0),
            Want::Last(_) => lines.first().and_then(|l| l.seq).unwrap_or(u64::MAX),
        };
        enough.then_some(edge)
    }

    /// None of the lines in these slices would be shown: there are enough at the wanted end.
    fn is_behind(&self, slices: &[StreamSlice]) -> bool {
        let mut blocks = slices.iter().flat_map(StreamSlice::blocks);
        self.edge().is_some_and(|edge| match self.want {
            Want::First(_) => blocks.all(|b| b.first() > edge),
            Want::Last(_) => blocks.all(|b| b.last() < edge),
        })
    }

    /// Searches a page, which consists of its `own` slices; the lines of the others may be shown with a
    /// match.
    pub(crate) fn page(
        &mut self,
        slices: &[StreamSlice],
        own: &Range<usize>,
        expired: &mut dyn FnMut() -> bool,
    ) {
        let Some(matcher) = self.matcher else {
            let lines = self.want.collect(&slices[own.clone()], &mut self.room);
            self.add(lines);
            return;
        };
        let full = self.is_behind(&slices[own.clone()]);
        let mut hits = Hits {
            kept: Vec::new(),
            count: 0,
            // Once there are enough, the others are counted.
            want: if full { self.want.none() } else { self.want },
            complete: self.found.next,
        };
        let mut scratch = Scratch::default();
        for (slice, block) in self.want.order(slices, own) {
            let Some(mut scan) = Scan::new(slices, slice, block) else {
                continue;
            };
            let stopped = expired() || scan.run(matcher, &mut scratch, &mut hits, expired);
            self.found.searched += scan.searched;
            if stopped {
                self.found.stopped_early = true;
                break;
            }
        }
        self.found.matches += hits.count;
        if !full {
            let (mut beside, mut stopped) = (0, self.found.stopped_early);
            let mut within = || {
                beside += 2 * self.context.min(BESIDE);
                stopped |= beside > BESIDE && !stopped && expired();
                beside <= BESIDE || !stopped
            };
            let mut lines = hits.lines(slices, own, self.context, &mut self.room, &mut within);
            self.found.stopped_early = stopped;
            for (line, _) in lines.iter_mut().filter(|(_, own)| !own) {
                // A line of another page, which may not be read any more.
                line.matched = matcher.is_match(&line.text);
            }
            self.add(lines.into_iter().map(|(line, _)| line).collect());
        }
    }

    fn add(&mut self, mut lines: Vec<Line>) {
        self.found.lines.append(&mut lines);
        if self.found.lines.len() >= self.want.limit() {
            self.settle();
        }
    }

    /// Puts the lines in order, each once: beside a match of one page may be one of the next.
    fn settle(&mut self) {
        let lines = &mut self.found.lines;
        sort(lines, |a, b| a.seq.cmp(&b.seq));
        lines.dedup_by(|later, kept| {
            let same = later.seq == kept.seq;
            kept.matched |= same && later.matched;
            same
        });
        let surplus = lines.len().saturating_sub(self.want.limit());
        match self.want {
            Want::First(_) => lines.truncate(lines.len() - surplus),
            Want::Last(_) => drop(lines.drain(..surplus)),
        }
    }

    pub(crate) fn finish(mut self) -> Found {
        self.settle();
        let complete = self.found.next;
        for line in &mut self.found.lines {
            line.seq = line.seq.filter(|seq| *seq <= complete);
        }
        self.found
    }
}

/// The end of the lines found that is wanted.
#[derive(Debug, Clone, Copy)]
enum Want {
    First(usize),
    Last(usize),
}

impl Want {
    fn of(query: &Query) -> Self {
        match (query.tail, query.head) {
            (Some(n), _) => Self::Last(n),
            (None, Some(n)) => Self::First(n),
            (None, None) => Self::Last(usize::MAX),
        }
    }

    fn limit(self) -> usize {
        let (Self::First(n) | Self::Last(n)) = self;
        n.min(MOST_HITS)
    }

    /// The same end, but no lines of it.
    fn none(self) -> Self {
        match self {
            Self::First(_) => Self::First(0),
            Self::Last(_) => Self::Last(0),
        }
    }

    /// A page's blocks, in the order in which a search that is cut short has found the most useful.
    fn order(self, slices: &[StreamSlice], own: &Range<usize>) -> Vec<(usize, usize)> {
        let mut all: Vec<(usize, usize)> = Vec::new();
        for slice in own.clone() {
            all.extend((0..slices[slice].blocks().len()).map(|block| (slice, block)));
        }
        let first = |(slice, block): &(usize, usize)| slices[*slice].blocks()[*block].first();
        sort(&mut all, |a, b| first(a).cmp(&first(b)));
        if let Self::Last(_) = self {
            all.reverse();
        }
        all
    }

    /// Every line at the wanted end.
    fn collect(self, slices: &[StreamSlice], room: &mut Room) -> Vec<Line> {
        let mut lines = Vec::new();
        let walk = match self {
            Self::First(_) => MergeIter::up(slices, 0),
            Self::Last(_) => MergeIter::down(slices, u64::MAX),
        };
        for (slice, at) in walk.take(self.limit()) {
            if !room.take(at.end - at.start) {
                break;
            }
            lines.push(line(&slices[slice], &at, false));
        }
        if let Self::Last(_) = self {
            lines.reverse();
        }
        lines
    }
}

#[derive(Debug)]
struct Room(usize);

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        // A line costs more than its text.
        let left = self.0.checked_sub(bytes + size_of::<Line>());
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// A line of a slice as it is answered.
pub(crate) fn line(slice: &StreamSlice, at: &At, matched: bool) -> Line {
    let (bytes, when) = slice.bytes(at);
    let text = text_of(bytes);
    Line {
        seq: Some(at.seq),
        run: slice.run,
        at: when,
        stream: slice.stream,
        raw: beyond_text(bytes, &text),
        text,
        matched,
        truncated: is_piece(bytes),
    }
}

#[derive(Debug, Clone, Copy)]
struct Hit {
    seq: u64,
    slice: usize,
    /// Its place; None: unknown, since its block has escapes.
    at: Option<At>,
}

/// The matches at the wanted end, and the number of all.
#[derive(Debug)]
struct Hits {
    kept: Vec<Hit>,
    /// Lines that have a number: up to `complete`.
    count: u64,
    want: Want,
    complete: u64,
}

impl Hits {
    fn push(&mut self, hit: Hit) {
        self.count += u64::from(hit.seq <= self.complete);
        self.kept.push(hit);
        // Slices are searched one after another, so the wanted ones are known only at the end.
        if self.kept.len() >= 2 * self.want.limit() + 256 {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let limit = self.want.limit();
        sort(&mut self.kept, |a, b| a.seq.cmp(&b.seq));
        match self.want {
            Want::First(_) => self.kept.truncate(limit),
            Want::Last(_) => {
                let surplus = self.kept.len().saturating_sub(limit);
                self.kept.drain(..surplus);
            }
        }
    }

    /// The lines to be shown, and whether they are the page's own. Context is collected `within` a budget: a
    /// thousand lines beside each of a hundred thousand matches take minutes.
    fn lines(
        mut self,
        slices: &[StreamSlice],
        own: &Range<usize>,
        context: usize,
        room: &mut Room,
        within: &mut dyn FnMut() -> bool,
    ) -> Vec<(Line, bool)> {
        self.trim();
        let limit = self.want.limit();
        let mut chosen: BTreeMap<u64, (usize, At)> = BTreeMap::new();
        let mut take = |slice: usize, at: At| {
            let new = !chosen.contains_key(&at.seq);
            let fits = !new || room.take(at.end - at.start);
            if fits {
                chosen.insert(at.seq, (slice, at));
            }
            (fits, chosen.len())
        };
        // An earlier match adds lines before all that is chosen, so at the limit it is enough.
        let mut one = |hit: &Hit| {
            let at = hit
                .at
                .or_else(|| slices[hit.slice].first_after(hit.seq - 1));
            let Some(at) = at else { return true };
            let mut fits = take(hit.slice, at);
            if context > 0 && within() {
                let before = MergeIter::down(slices, hit.seq).take(context);
                let after = MergeIter::up(slices, hit.seq).take(context);
                for (slice, at) in before.chain(after) {
                    fits = take(slice, at);
                    if !fits.0 {
                        break;
                    }
                }
            }
            fits.0 && fits.1 < limit
        };
        match self.want {
            Want::First(_) => self.kept.iter().all(&mut one),
            Want::Last(_) => self.kept.iter().rev().all(&mut one),
        };
        let surplus = chosen.len().saturating_sub(limit);
        let skip = match self.want {
            Want::First(_) => 0,
            Want::Last(_) => surplus,
        };
        let is_match = |seq: &u64| self.kept.binary_search_by_key(seq, |hit| hit.seq).is_ok();
        chosen
            .iter()
            .skip(skip)
            .take(limit)
            .map(|(seq, (slice, at))| {
                let shown = line(&slices[*slice], at, is_match(seq));
                (shown, own.contains(slice))
            })
            .collect()
    }
}

/// Buffers for the texts of one block after the other.
#[derive(Debug, Default)]
struct Scratch {
    plain: Vec<u8>,
    folded: Vec<u8>,
    ends: Vec<usize>,
}

/// One block under search.
struct Scan<'a> {
    block: &'a Block,
    /// Its first line that is not hidden.
    from: At,
    slice: usize,
    searched: u64,
}

impl<'a> Scan<'a> {
    fn new(slices: &'a [StreamSlice], slice: usize, block: usize) -> Option<Self> {
        let blocks = slices[slice].blocks();
        Some(Self {
            block: &blocks[block],
            from: slices[slice].first_after(blocks[block].first() - 1)?,
            slice,
            searched: 0,
        })
    }

    /// Searches all its lines; true: the budget was over before.
    fn run(
        &mut self,
        matcher: &Matcher,
        scratch: &mut Scratch,
        hits: &mut Hits,
        expired: &mut dyn FnMut() -> bool,
    ) -> bool {
        let Scratch {
            plain,
            folded,
            ends,
        } = scratch;
        let (text, mut pos) = self.text(plain, ends);
        let hay: &[u8] = match &matcher.needle {
            Some(needle) if needle.folded => {
                folded.clear();
                folded.extend_from_slice(text);
                folded.make_ascii_lowercase();
                folded
            }
            Some(_) | None => text,
        };
        let mut place = Place::new(self, text, ends, pos);
        let mut spent = 0;
        while pos < text.len()
            && let Some(found) = next_candidate(matcher.needle.as_ref(), hay, pos)
        {
            let (start, end) = place.line_around(found);
            let part = shown_part(&text[start..end]);
            let (from, to) = (start + part.start, start + part.end);
            if found < from {
                // A carriage return made the terminal write over it.
                pos = from;
                continue;
            }
            pos = end;
            let line = &text[from..to];
            // Not if it was found across the end of a piece, or in the line's own end.
            let needle = matcher.needle.as_ref().map_or(0, Needle::len);
            if found + needle > to {
                continue;
            }
            spent += matcher.cost(line);
            if spent >= BITE {
                spent = 0;
                if expired() {
                    self.searched = place.passed();
                    return true;
                }
            }
            if !matcher.confirms(line, &hay[from..to]) {
                continue;
            }
            hits.push(Hit {
                seq: place.seq,
                slice: self.slice,
                at: self.block.is_plain().then_some(At {
                    seq: place.seq,
                    chunk: place.chunk,
                    start,
                    end,
                    ..self.from
                }),
            });
        }
        self.searched = self.block.lines_within(self.from.seq - 1, hits.complete);
        false
    }

    /// The lines without escapes, and the start of the first one; fills in the ends of the chunks.
    fn text<'b>(&self, plain: &'b mut Vec<u8>, ends: &mut Vec<usize>) -> (&'b [u8], usize)
    where
        'a: 'b,
    {
        let chunks = self.block.chunks();
        ends.clear();
        if self.block.is_plain() {
            ends.extend(chunks.iter().map(|c| c.end as usize));
            return (self.block.bytes(), self.from.start);
        }
        plain.clear();
        ends.resize(self.from.chunk, 0);
        let mut start = self.from.start;
        for chunk in &chunks[self.from.chunk..] {
            let end = chunk.end as usize;
            strip_into(&self.block.bytes()[start..end], plain);
            // An unfinished line of nothing but escapes is a line.
            if self.block.bytes()[end - 1] != b'\n' {
                plain.push(b'\n');
            }
            ends.push(plain.len());
            start = end;
        }
        (plain, 0)
    }
}

/// A place in the next line that may be a match.
fn next_candidate(needle: Option<&Needle>, hay: &[u8], pos: usize) -> Option<usize> {
    match needle {
        Some(needle) => needle.find(&hay[pos..]).map(|found| pos + found),
        None => Some(pos),
    }
}

/// Follows places in a text upwards, and their lines' numbers.
struct Place<'a> {
    chunks: &'a [Chunk],
    text: &'a [u8],
    ends: &'a [usize],
    chunk: usize,
    /// The start of line `seq`.
    start: usize,
    seq: u64,
    /// Lines of earlier chunks, and the number of the first line that was read in this one.
    before: u64,
    first: u64,
}

impl<'a> Place<'a> {
    fn new(scan: &Scan<'a>, text: &'a [u8], ends: &'a [usize], start: usize) -> Self {
        Self {
            chunks: scan.block.chunks(),
            text,
            ends,
            chunk: scan.from.chunk,
            start,
            seq: scan.from.seq,
            before: 0,
            first: scan.from.seq,
        }
    }

    /// The start and the end, with its newline, of the line that `place` is in, which never goes back.
    fn line_around(&mut self, place: usize) -> (usize, usize) {
        while self.ends[self.chunk] <= place {
            self.before += self.chunks[self.chunk].last() + 1 - self.first;
            self.start = self.ends[self.chunk];
            self.chunk += 1;
            self.first = self.chunks[self.chunk].first;
            self.seq = self.first;
        }
        if let Some(newline) = memrchr(b'\n', &self.text[self.start..place]) {
            let start = self.start + newline + 1;
            let passed = memchr_iter(b'\n', &self.text[self.start..start]).count();
            self.seq += passed as u64;
            self.start = start;
        }
        let limit = self.ends[self.chunk];
        let end = memchr(b'\n', &self.text[place..limit]).map_or(limit, |n| place + n + 1);
        (self.start, end)
    }

    fn passed(&self) -> u64 {
        self.before + (self.seq - self.first)
    }
}

#[cfg(test)]
mod tests;
