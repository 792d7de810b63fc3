//! Pure: no system call, no thread, no clock.
//!
//! The lines of one log that are held, which of them are seen, and which match a search.

use std::collections::VecDeque;

use regex_lite::{Regex, RegexBuilder};

use super::text;
use crate::base::json::thousands;
use crate::log::search::{Matcher, QueryError};

/// The most lines that are held.
pub const MOST_LINES: usize = 10_000;
/// The most bytes that these lines have.
pub const MOST_BYTES: usize = 4 << 20;

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in the log; 0: the server has none.
    pub seq: u64,
    /// The run that printed it; 0: not known.
    pub run: u64,
    /// When, in milliseconds since 1970; 0: not known.
    pub at: i64,
    /// Printed on standard error.
    pub stderr: bool,
    /// As it was printed.
    pub text: Box<str>,
}

/// One entry of what is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A line.
    Line(Line),
    /// Another run begins here.
    Run {
        /// Its number.
        run: u64,
        /// Its process, once that is known.
        pid: Option<i64>,
        /// When its first line came.
        at: i64,
    },
    /// So many lines were lost or skipped here.
    Gap(u64),
}

/// The first row that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Anchor {
    id: u64,
    row: usize,
}

/// Where lines are shown: columns for their text, and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// A search in what is held.
#[derive(Debug)]
pub struct Search {
    /// As it was typed.
    pub source: String,
    matcher: Matcher,
    regex: Option<Regex>,
    hits: VecDeque<u64>,
    at: Option<u64>,
}

impl Search {
    /// Compiles a pattern; a capital letter makes case count.
    ///
    /// # Errors
    /// It is no regex.
    pub fn new(source: &str) -> Result<Self, String> {
        let any_case = ignores_case(source);
        let matcher = Matcher::new(source, false, any_case).map_err(|e| match e {
            QueryError::Pattern(why) => format!("cannot use this pattern: {why}"),
            QueryError::NoRun { .. } => "it has no run".into(),
        })?;
        let regex = RegexBuilder::new(source).case_insensitive(any_case).build();
        Ok(Self {
            source: source.into(),
            matcher,
            regex: regex.ok(),
            hits: VecDeque::new(),
            at: None,
        })
    }

    fn fits(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Line(line) if line.text.bytes().all(|b| b >= b' ') => {
                self.matcher.is_match(&line.text)
            }
            Entry::Line(line) => self.matcher.is_match(&text::plain(&line.text)),
            Entry::Run { .. } | Entry::Gap(_) => false,
        }
    }

    /// Where it matches in a line as it is shown, in bytes.
    pub fn places(&self, plain: &str) -> Vec<(usize, usize)> {
        let Some(regex) = &self.regex else {
            return Vec::new();
        };
        let found = regex.find_iter(plain).take(100);
        found.map(|m| (m.start(), m.end())).collect()
    }

    /// The hit that is looked at, from 1, and how many there are.
    pub fn position(&self) -> (usize, usize) {
        let before = |at: u64| self.hits.partition_point(|id| *id < at);
        let at = self.at.filter(|at| self.hits.binary_search(at).is_ok());
        (at.map_or(0, |at| before(at) + 1), self.hits.len())
    }

    /// The line of the hit that is looked at.
    pub fn at(&self) -> Option<u64> {
        self.at
    }
}

/// Without a capital letter, case does not count.
pub fn ignores_case(pattern: &str) -> bool {
    let mut escaped = false;
    // The letter of a class such as \S is none that somebody looks for.
    !pattern.chars().any(|c| {
        let literal = !escaped;
        escaped = literal && c == '\\';
        literal && c.is_uppercase()
    })
}

/// A row of the screen.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Number of the entry, which stays the same while it is held.
    pub id: u64,
    pub entry: &'a Entry,
    /// The row among those that a wrapped line takes.
    pub row: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Output {
    entries: VecDeque<Entry>,
    first: u64,
    bytes: usize,
    lines: usize,
    /// The last line's number and run.
    last: (u64, u64),
    top: Option<Anchor>,
    /// Lines that came while the view stood still.
    news: u64,
    /// There was no room for them without moving what is read.
    stalled: bool,
    /// Long lines go on in the next row rather than beyond the edge.
    pub wrap: bool,
    /// Columns that are beyond the left edge.
    pub shift: usize,
    search: Option<Search>,
}

impl Output {
    /// Forgets all lines; how they are shown stays.
    pub fn reset(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        (self.bytes, self.lines, self.last) = (0, 0, (0, 0));
        self.follow();
        self.shift = 0;
        if let Some(search) = &mut self.search {
            search.hits.clear();
            search.at = None;
        }
    }

    /// Forgets what is shown; what comes is still what follows it.
    pub fn clear(&mut self) {
        let last = self.last;
        self.reset();
        self.last = last;
    }

    /// The number of the last line.
    pub fn last_seq(&self) -> u64 {
        self.last.0
    }

    /// Lines that are held.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// The run of the last line; 0: not known.
    pub fn run(&self) -> u64 {
        self.last.1
    }

    /// Nothing is shown.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lines that came while the view stood still; None: it follows.
    pub fn paused(&self) -> Option<u64> {
        self.top.map(|_| self.news)
    }

    /// A line that follows the last one; one that is known already is left out.
    pub fn push(&mut self, line: Line) {
        if line.seq != 0 && line.seq <= self.last.0 {
            return;
        }
        let (before, run) = (self.last.1, line.run);
        if before != 0 && run != 0 && run != before {
            let (pid, at) = (None, line.at);
            self.add(Entry::Run { run, pid, at });
        }
        self.last = (
            line.seq.max(self.last.0),
            if run == 0 { before } else { run },
        );
        self.add(Entry::Line(line));
    }

    /// Lines that can't be shown.
    pub fn gap(&mut self, lost: u64) {
        if self.top.is_some() {
            self.news += lost;
        }
        match self.entries.back_mut() {
            _ if lost == 0 => {}
            Some(Entry::Gap(n)) => *n += lost,
            Some(Entry::Line(_) | Entry::Run { .. }) | None => self.add(Entry::Gap(lost)),
        }
    }

    /// The process of the newest run.
    pub fn name_run(&mut self, now: Option<i64>) {
        let runs = self.entries.iter_mut().rev().take(200);
        let newest = runs.into_iter().find_map(|entry| match entry {
            Entry::Run { pid, .. } => Some(pid),
            Entry::Line(_) | Entry::Gap(_) => None,
        });
        if let Some(pid) = newest.filter(|pid| pid.is_none()) {
            *pid = now;
        }
    }

    fn add(&mut self, entry: Entry) {
        let size = cost(&entry);
        while self.entries.len() >= MOST_LINES || self.bytes + size > MOST_BYTES {
            // The lines that a person reads must neither go nor move.
            if self.top.is_some_and(|top| top.id <= self.first) {
                self.stalled = true;
                self.news += u64::from(matches!(entry, Entry::Line(_)));
                return;
            }
            self.evict();
        }
        if let Some(search) = &mut self.search
            && search.fits(&entry)
        {
            search
                .hits
                .push_back(self.first + self.entries.len() as u64);
        }
        if matches!(entry, Entry::Line(_)) {
            self.lines += 1;
            self.news += u64::from(self.top.is_some());
        }
        self.bytes += size;
        self.entries.push_back(entry);
    }

    fn evict(&mut self) {
        let Some(old) = self.entries.pop_front() else {
            return;
        };
        self.bytes -= cost(&old);
        self.lines -= usize::from(matches!(old, Entry::Line(_)));
        self.first += 1;
        if let Some(search) = &mut self.search {
            while search.hits.front().is_some_and(|id| *id < self.first) {
                search.hits.pop_front();
            }
        }
    }

    fn entry(&self, id: u64) -> Option<&Entry> {
        self.entries
            .get(usize::try_from(id.checked_sub(self.first)?).ok()?)
    }

    fn rows(&self, id: u64, size: Size) -> usize {
        match self.entry(id) {
            Some(Entry::Line(line)) if self.wrap => text::rows(&line.text, size.columns),
            Some(_) | None => 1,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The first row while the newest line is seen.
    fn bottom(&self, size: Size) -> Anchor {
        let mut id = self.end();
        let mut room = size.rows;
        while id > self.first {
            let rows = self.rows(id - 1, size);
            if rows >= room {
                return Anchor {
                    id: id - 1,
                    row: rows - room,
                };
            }
            room -= rows;
            id -= 1;
        }
        Anchor {
            id: self.first,
            row: 0,
        }
    }

    fn top(&self, size: Size) -> Anchor {
        let bottom = self.bottom(size);
        let Some(top) = self.top else { return bottom };
        let first = Anchor {
            id: self.first,
            row: 0,
        };
        top.max(first).min(bottom)
    }

    /// Scrolls by a number of rows, up where it is negative. At the end it follows again.
    pub fn scroll(&mut self, by: i64, size: Size) {
        let mut at = self.top(size);
        for _ in 0..by.unsigned_abs() {
            if by > 0 {
                at.row += 1;
                if at.row >= self.rows(at.id, size) {
                    at = Anchor {
                        id: at.id + 1,
                        row: 0,
                    };
                }
                if at.id >= self.end() {
                    break;
                }
            } else if at.row > 0 {
                at.row -= 1;
            } else if at.id > self.first {
                let id = at.id - 1;
                at = Anchor {
                    id,
                    row: self.rows(id, size) - 1,
                };
            } else {
                break;
            }
        }
        self.stand(at, size);
    }

    /// The view stands at that row, unless the newest line is seen from there.
    fn stand(&mut self, at: Anchor, size: Size) {
        if at >= self.bottom(size) {
            self.follow();
        } else if self.top.replace(at).is_none() {
            self.news = 0;
        }
    }

    /// Stands at the oldest line.
    pub fn to_oldest(&mut self, size: Size) {
        self.stand(
            Anchor {
                id: self.first,
                row: 0,
            },
            size,
        );
    }

    /// The number of the first line that is seen, where the view stands still.
    pub fn standing_at(&self, size: Size) -> Option<u64> {
        self.top?;
        let seen = self.seen(size);
        seen.iter().find_map(|row| match row.entry {
            Entry::Line(line) => Some(line.seq).filter(|seq| *seq > 0),
            Entry::Run { .. } | Entry::Gap(_) => None,
        })
    }

    /// Stands at the line of that number, or the next one.
    pub fn stand_at(&mut self, seq: u64, size: Size) {
        let behind = |entry: &Entry| matches!(entry, Entry::Line(line) if line.seq >= seq);
        if let Some(at) = self.entries.iter().position(behind) {
            let id = self.first + at as u64;
            self.stand(Anchor { id, row: 0 }, size);
        }
    }

    /// The oldest line is seen.
    pub fn at_oldest(&self, size: Size) -> bool {
        self.top(size).id <= self.first
    }

    /// Follows the newest line.
    pub fn follow(&mut self) {
        self.top = None;
        self.news = 0;
    }

    /// Lines that came were not kept, since the view stood still: they have to be read again. Said once.
    pub fn take_stalled(&mut self) -> bool {
        self.top.is_none() && std::mem::take(&mut self.stalled)
    }

    /// The rows that are seen, from the top.
    pub fn seen(&self, size: Size) -> Vec<Row<'_>> {
        let mut seen = Vec::with_capacity(size.rows);
        let mut at = self.top(size);
        while seen.len() < size.rows
            && let Some(entry) = self.entry(at.id)
        {
            let (id, row) = (at.id, at.row);
            seen.push(Row { id, entry, row });
            at.row += 1;
            if at.row >= self.rows(at.id, size) {
                at = Anchor {
                    id: at.id + 1,
                    row: 0,
                };
            }
        }
        seen
    }

    /// The lines of these entries as they are shown, each with a newline.
    pub fn copied(&self, ids: impl Iterator<Item = u64>) -> String {
        let mut all = String::new();
        for id in ids {
            if let Some(Entry::Line(line)) = self.entry(id) {
                all.push_str(&text::plain(&line.text));
                all.push('\n');
            }
        }
        all
    }

    /// All that is held, for a pager.
    pub fn whole(&self) -> String {
        let rows = self.entries.iter().map(|entry| match entry {
            Entry::Line(line) => text::plain(&line.text) + "\n",
            Entry::Run { run, .. } => format!("── run {run} ──\n"),
            Entry::Gap(lost) => skipped(*lost) + "\n",
        });
        rows.collect()
    }

    /// The search that is on.
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// Searches for something else, or for nothing; the newest hit is looked at.
    pub fn set_search(&mut self, search: Option<Search>, size: Size) {
        self.search = search;
        let Some(search) = &mut self.search else {
            return;
        };
        let numbered = (self.first..).zip(&self.entries);
        let hits = numbered.filter(|(_, entry)| search.fits(entry));
        search.hits = hits.map(|(id, _)| id).collect();
        if !self.next_hit(true, size) {
            self.next_hit(false, size);
        }
    }

    /// Looks at the next hit; false: there is none in that direction.
    pub fn next_hit(&mut self, older: bool, size: Size) -> bool {
        let from = self.seen(size).last().map_or(self.first, |row| row.id);
        let Some(search) = &mut self.search else {
            return false;
        };
        let hits = &search.hits;
        let next = match (search.at, older) {
            (Some(at), true) => hits.partition_point(|id| *id < at).checked_sub(1),
            (None, true) => hits.partition_point(|id| *id <= from).checked_sub(1),
            (Some(at), false) => Some(hits.partition_point(|id| *id <= at)),
            (None, false) => Some(hits.partition_point(|id| *id < from)),
        };
        let Some(id) = next.and_then(|i| hits.get(i)).copied() else {
            return false;
        };
        search.at = Some(id);
        if !self.seen(size).iter().any(|row| row.id == id) {
            let back = (size.rows / 2) as u64;
            let id = id.saturating_sub(back).max(self.first);
            self.stand(Anchor { id, row: 0 }, size);
        }
        true
    }
}

/// The bytes that an entry counts for.
fn cost(entry: &Entry) -> usize {
    match entry {
        Entry::Line(line) => line.text.len() + size_of::<Entry>(),
        Entry::Run { .. } | Entry::Gap(_) => size_of::<Entry>(),
    }
}

/// `1 line`, `2,000 lines`.
pub fn counted(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(n))
}

/// The words where lines are missing.
pub fn skipped(lost: u64) -> String {
    format!("… {} skipped", counted(lost, "line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        columns: 10,
        rows: 3,
    };

    fn line(seq: u64, text: &str) -> Line {
        Line {
            seq,
            run: 1,
            at: 0,
            stderr: false,
            text: text.into(),
        }
    }

    fn filled(n: u64) -> Output {
        let mut output = Output::default();
        (1..=n).for_each(|seq| output.push(line(seq, &format!("line {seq}"))));
        output
    }

    fn seen(output: &Output) -> Vec<String> {
        let text = |row: Row<'_>| match row.entry {
            Entry::Line(line) => line.text.to_string(),
            Entry::Run { run, .. } => format!("run {run}"),
            Entry::Gap(n) => format!("gap {n}"),
        };
        output.seen(SIZE).into_iter().map(text).collect()
    }

    #[test]
    fn the_newest_line_is_followed_until_one_scrolls() {
        let mut output = filled(10);
        assert_eq!(seen(&output), ["line 8", "line 9", "line 10"]);
        output.scroll(-2, SIZE);
        output.push(line(11, "line 11"));
        assert_eq!(seen(&output), ["line 6", "line 7", "line 8"]);
        assert_eq!(output.paused(), Some(1));
        output.scroll(2, SIZE);
        assert_eq!(output.paused(), Some(1), "one line is still below");
        output.scroll(1, SIZE);
        assert_eq!(output.paused(), None);
        assert_eq!(seen(&output), ["line 9", "line 10", "line 11"]);
        output.scroll(-100, SIZE);
        assert_eq!(seen(&output), ["line 1", "line 2", "line 3"]);
        assert!(output.at_oldest(SIZE));
    }

    #[test]
    fn a_line_comes_once_and_runs_are_parted() {
        let mut output = filled(2);
        output.push(line(2, "again"));
        output.gap(3);
        output.gap(4);
        output.push(Line {
            run: 2,
            ..line(10, "new")
        });
        assert_eq!(seen(&output), ["gap 7", "run 2", "new"]);
        output.name_run(Some(7));
        output.name_run(Some(8));
        let named = |e: &Entry| matches!(e, Entry::Run { pid: Some(7), .. });
        assert!(output.entries.iter().any(named));
        let whole = "line 1\nline 2\n… 7 lines skipped\n── run 2 ──\nnew\n";
        assert_eq!(output.whole(), whole);
    }

    #[test]
    fn what_is_read_stays_while_lines_are_evicted() {
        let mut output = filled(MOST_LINES as u64);
        output.scroll(-5, SIZE);
        let before = seen(&output);
        for seq in 0..100 {
            output.push(line(20_000 + seq, "more"));
        }
        assert_eq!(seen(&output), before);
        assert_eq!(output.lines(), MOST_LINES);
        output.to_oldest(SIZE);
        let before = seen(&output);
        output.push(line(30_000, "no room"));
        assert_eq!(seen(&output), before);
        assert_eq!(output.paused(), Some(101));
        output.gap(1_000);
        assert_eq!(output.paused(), Some(1_101), "these are new as well");
        assert_eq!(seen(&output), before);
        output.follow();
        assert!(output.take_stalled() && !output.take_stalled());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut output = Output::default();
        let long = "x".repeat(60_000);
        (1..200).for_each(|seq| output.push(line(seq, &long)));
        assert!(output.bytes <= MOST_BYTES && output.lines() > 60);
    }

    #[test]
    fn wrapped_lines_take_their_rows() {
        let mut output = filled(1);
        output.wrap = true;
        output.push(line(2, "0123456789abc"));
        output.push(line(3, "end"));
        let rows = |o: &Output| {
            o.seen(SIZE)
                .iter()
                .map(|r| (r.id, r.row))
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(&output), [(1, 0), (1, 1), (2, 0)]);
        output.scroll(-1, SIZE);
        assert_eq!(rows(&output), [(0, 0), (1, 0), (1, 1)]);
    }

    #[test]
    fn hits_are_counted_and_visited() {
        let mut output = filled(25);
        output.set_search(Some(Search::new("line .*5").unwrap()), SIZE);
        let search = output.search().unwrap();
        assert_eq!(search.position(), (3, 3));
        assert!(output.next_hit(true, SIZE));
        assert_eq!(output.search().unwrap().position(), (2, 3));
        assert!(seen(&output).contains(&"line 15".into()));
        assert!(output.next_hit(true, SIZE) && !output.next_hit(true, SIZE));
        output.push(line(35, "line 35"));
        assert_eq!(output.search().unwrap().position(), (1, 4));
        assert!(Search::new("(").is_err());
        assert!(ignores_case(r"\Serror") && !ignores_case("Error"));
    }
}
