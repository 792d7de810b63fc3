//! Pure: no system call, no thread, no clock.
//!
//! The search itself: each block's bytes as a whole, never line by line where that can be avoided; a
//! text is made only of what is answered.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::{memchr, memchr_iter, memrchr};

use super::matcher::{Matcher, Needle};
use super::{Line, Query, text_of};
use crate::base::table::in_order;
use crate::log::block::{At, Block, Chunk, MergeIter, StreamSlice, is_piece};
use crate::log::line::{shown_part, strip_into};

/// An answer holds at most this much text, bytes.
const MOST_TEXT: usize = 32 << 20;
/// Matches that are remembered at most, whatever was asked for.
const MOST_HITS: usize = 200_000;
/// So many lines beside the matches of a page are shown even if the budget is over.
const BESIDE: usize = 20_000;
/// The budget is looked at once in so many bytes that a regex read (one costs up to 7 microseconds).
const BITE: usize = 4 << 10;

/// What a search gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In order of their numbers.
    pub lines: Vec<Line>,
    /// Lines that match; all, where there is no pattern.
    pub matches: u64,
    /// Lines looked at.
    pub searched: u64,
    /// The budget was over before the end.
    pub stopped_early: bool,
}

/// Answers what `query` asks for (its pattern is `matcher`) of all lines in these lanes; run, `after`,
/// `since` and `stream` have been seen to by whoever chose them. `expired` tells that the budget is over.
pub fn search(
    lanes: &[StreamSlice],
    query: &Query,
    matcher: Option<&Matcher>,
    expired: &mut dyn FnMut() -> bool,
) -> Outcome {
    let mut search = Search::new(query, matcher);
    search.page(lanes, &whole(lanes), expired);
    let mut outcome = search.finish();
    if matcher.is_none() {
        outcome.matches = lanes.iter().map(StreamSlice::lines).sum();
        outcome.searched = outcome.matches;
    }
    outcome
}

/// All blocks of each lane.
pub(crate) fn whole(lanes: &[StreamSlice]) -> Vec<Range<usize>> {
    lanes.iter().map(|l| 0..l.blocks().len()).collect()
}

/// What a search needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    /// The next page.
    On,
    /// Lines beyond this number, newer or older as pages come; if there are any.
    Beyond(u64),
    /// Nothing.
    Stop,
}

/// A search that reads page by page, from the end that is wanted.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    matcher: Option<&'a Matcher>,
    context: usize,
    want: Want,
    room: Room,
    outcome: Outcome,
}

impl<'a> Search<'a> {
    pub(crate) fn new(query: &Query, matcher: Option<&'a Matcher>) -> Self {
        Self {
            matcher,
            context: query.context,
            want: Want::of(query),
            room: Room(MOST_TEXT),
            outcome: Outcome::default(),
        }
    }

    /// The oldest page comes first.
    pub(crate) fn is_forward(&self) -> bool {
        matches!(self.want, Want::First(_))
    }

    /// So many lines beside a page's own are looked at.
    pub(crate) fn beside(&self) -> u64 {
        self.matcher.map_or(0, |_| self.context as u64)
    }

    /// Whether there is anything left to look for.
    pub(crate) fn go(&self) -> Go {
        if self.outcome.stopped_early {
            return Go::Stop;
        }
        match self.edge() {
            Some(edge) if self.matcher.is_none() => Go::Beyond(edge),
            Some(_) | None => Go::On,
        }
    }

    /// Once there are enough lines: the number of the one that would go first for another.
    fn edge(&self) -> Option<u64> {
        let lines = &self.outcome.lines;
        let enough = self.room.0 == 0 || lines.len() >= self.want.limit();
        let edge = match self.want {
            Want::First(_) => lines.last().map_or(0, |l| l.seq),
            Want::Last(_) => lines.first().map_or(u64::MAX, |l| l.seq),
        };
        enough.then_some(edge)
    }

    /// None of the lines in these lanes would be shown: there are enough at the wanted end.
    fn is_behind(&self, lanes: &[StreamSlice], own: &[Range<usize>]) -> bool {
        let blocks = || {
            lanes
                .iter()
                .zip(own)
                .flat_map(|(l, own)| &l.blocks()[own.clone()])
        };
        self.edge().is_some_and(|edge| match self.want {
            Want::First(_) => blocks().all(|b| b.first() > edge),
            Want::Last(_) => blocks().all(|b| b.last() < edge),
        })
    }

    /// Looks at a page: of each lane these blocks; what else there is may be shown beside a match.
    pub(crate) fn page(
        &mut self,
        lanes: &[StreamSlice],
        own: &[Range<usize>],
        expired: &mut dyn FnMut() -> bool,
    ) {
        let full = self.is_behind(lanes, own);
        let Some(matcher) = self.matcher else {
            if !full {
                let lines = self.want.collect(lanes, &mut self.room);
                self.add(lines);
            }
            return;
        };
        let mut hits = Hits {
            kept: Vec::new(),
            count: 0,
            // Once there are enough, the others are counted.
            want: if full { self.want.none() } else { self.want },
        };
        let mut scratch = Scratch::default();
        for (lane, block) in self.want.order(lanes, own) {
            let Some(mut scan) = Scan::new(lanes, lane, block) else {
                continue;
            };
            let stopped = expired() || scan.run(matcher, &mut scratch, &mut hits, expired);
            self.outcome.searched += scan.searched;
            if stopped {
                self.outcome.stopped_early = true;
                break;
            }
        }
        self.outcome.matches += hits.count;
        if !full {
            let (mut beside, mut stopped) = (0, self.outcome.stopped_early);
            let mut within = || {
                beside += 2 * self.context.min(BESIDE);
                stopped |= beside > BESIDE && !stopped && expired();
                beside <= BESIDE || !stopped
            };
            let mut lines = hits.lines(lanes, own, self.context, &mut self.room, &mut within);
            self.outcome.stopped_early = stopped;
            for (line, _) in lines.iter_mut().filter(|(_, own)| !own) {
                // Another page's line, which that page may not be asked for any more.
                line.matched = matcher.is_match(&line.text);
            }
            self.add(lines.into_iter().map(|(line, _)| line).collect());
        }
    }

    fn add(&mut self, mut lines: Vec<Line>) {
        self.outcome.lines.append(&mut lines);
        if self.outcome.lines.len() >= self.want.limit() {
            self.settle();
        }
    }

    /// What was found, in order and each line once: beside a match of one page may be one of the next.
    fn settle(&mut self) {
        let mut lines = in_order(std::mem::take(&mut self.outcome.lines), |line| line.seq);
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
        self.outcome.lines = lines;
    }

    pub(crate) fn finish(mut self) -> Outcome {
        self.settle();
        self.outcome
    }
}

/// Which end of what was found is wanted.
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

    /// The same end, but nothing of it.
    fn none(self) -> Self {
        match self {
            Self::First(_) => Self::First(0),
            Self::Last(_) => Self::Last(0),
        }
    }

    /// A page's blocks, in the order in which a search that is cut short has found the most useful.
    fn order(self, lanes: &[StreamSlice], own: &[Range<usize>]) -> Vec<(usize, usize)> {
        let mut all: Vec<(usize, usize)> = Vec::new();
        for (index, blocks) in own.iter().enumerate() {
            all.extend(blocks.clone().map(|block| (index, block)));
        }
        all = in_order(all, |(lane, block)| lanes[*lane].blocks()[*block].first());
        if let Self::Last(_) = self {
            all.reverse();
        }
        all
    }

    /// Every line at the wanted end.
    fn collect(self, lanes: &[StreamSlice], room: &mut Room) -> Vec<Line> {
        let mut lines = Vec::new();
        let walk = match self {
            Self::First(_) => MergeIter::up(lanes, 0),
            Self::Last(_) => MergeIter::down(lanes, u64::MAX),
        };
        for (lane, at) in walk.take(self.limit()) {
            if !room.take(at.end - at.start) {
                break;
            }
            lines.push(line(&lanes[lane], &at, false));
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

/// A line of a lane as it is answered.
pub(crate) fn line(lane: &StreamSlice, at: &At, matched: bool) -> Line {
    let (bytes, when) = lane.bytes(at);
    Line {
        seq: at.seq,
        run: lane.run,
        at: when,
        stream: lane.stream,
        text: text_of(bytes),
        matched,
        truncated: is_piece(bytes),
    }
}

#[derive(Debug, Clone, Copy)]
struct Hit {
    seq: u64,
    lane: usize,
    /// None: its place is not known (its block had escapes).
    at: Option<At>,
}

/// The matches at the wanted end, and how many there are in all.
#[derive(Debug)]
struct Hits {
    kept: Vec<Hit>,
    count: u64,
    want: Want,
}

impl Hits {
    fn push(&mut self, hit: Hit) {
        self.count += 1;
        self.kept.push(hit);
        // Lanes are searched one after another, so the wanted ones are known only at the end.
        if self.kept.len() >= 2 * self.want.limit() + 256 {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let limit = self.want.limit();
        self.kept = in_order(std::mem::take(&mut self.kept), |hit| hit.seq);
        match self.want {
            Want::First(_) => self.kept.truncate(limit),
            Want::Last(_) => {
                let surplus = self.kept.len().saturating_sub(limit);
                self.kept.drain(..surplus);
            }
        }
    }

    /// The lines to be shown, and whether they are the page's own. What is beside a match is looked for
    /// `within` a budget: a thousand lines beside each of a hundred thousand matches take minutes.
    fn lines(
        mut self,
        lanes: &[StreamSlice],
        own: &[Range<usize>],
        context: usize,
        room: &mut Room,
        within: &mut dyn FnMut() -> bool,
    ) -> Vec<(Line, bool)> {
        self.trim();
        let limit = self.want.limit();
        let mut chosen: BTreeMap<u64, (usize, At)> = BTreeMap::new();
        let mut take = |lane: usize, at: At| {
            let new = !chosen.contains_key(&at.seq);
            let fits = !new || room.take(at.end - at.start);
            if fits {
                chosen.insert(at.seq, (lane, at));
            }
            (fits, chosen.len())
        };
        // What an earlier match adds comes before all that is chosen, so at the limit it is enough.
        let mut one = |hit: &Hit| {
            let at = hit.at.or_else(|| lanes[hit.lane].first_after(hit.seq - 1));
            let Some(at) = at else { return true };
            let mut fits = take(hit.lane, at);
            if context > 0 && within() {
                let before = MergeIter::down(lanes, hit.seq).take(context);
                let after = MergeIter::up(lanes, hit.seq).take(context);
                for (lane, at) in before.chain(after) {
                    fits = take(lane, at);
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
            .map(|(seq, (lane, at))| {
                let shown = line(&lanes[*lane], at, is_match(seq));
                (shown, own[*lane].contains(&at.block))
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
    lane: usize,
    searched: u64,
}

impl<'a> Scan<'a> {
    fn new(lanes: &'a [StreamSlice], lane: usize, block: usize) -> Option<Self> {
        let blocks = lanes[lane].blocks();
        Some(Self {
            block: &blocks[block],
            from: lanes[lane].first_after(blocks[block].first() - 1)?,
            lane,
            searched: 0,
        })
    }

    /// Looks at all its lines; true: the budget was over before.
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
                lane: self.lane,
                at: self.block.is_plain().then_some(At {
                    seq: place.seq,
                    chunk: place.chunk,
                    start,
                    end,
                    ..self.from
                }),
            });
        }
        self.searched = self.block.lines_from(self.from.seq);
        false
    }

    /// The lines without escapes, and where the first one begins; fills in where the chunks end.
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

/// Where the next line may be that is a match: a place in it.
fn next_candidate(needle: Option<&Needle>, hay: &[u8], pos: usize) -> Option<usize> {
    match needle {
        Some(needle) => needle.find(&hay[pos..]).map(|found| pos + found),
        None => Some(pos),
    }
}

/// Follows places in a text upwards and knows their lines' numbers.
struct Place<'a> {
    chunks: &'a [Chunk],
    text: &'a [u8],
    ends: &'a [usize],
    chunk: usize,
    /// The start of line `seq`.
    start: usize,
    seq: u64,
    /// Lines of earlier chunks, and the number of the first line looked at in this one.
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

    /// The line that `place`, which never goes back, is in: from where to where, with its newline.
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
