//! The lines of a query, in memory and on disk, as one log: pages from either end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::layout::{Folder, Segment};
use super::reader::{Part, Reader};
use crate::base::clock::Wall;
use crate::base::table::Set;
use crate::log::block::StreamSlice;
use crate::log::ring::{Gone, Ring, Scope};

/// Pages that are held before and behind the one that is searched.
const MOST_BESIDE: usize = 16;

/// The segments on disk, oldest first, and where they are.
pub(super) type Stored = (Folder, Vec<Arc<Segment>>);

/// The numbers of the runs that can be searched, oldest first.
pub(super) fn runs(ring: &Ring, stored: Option<&Stored>) -> Vec<u64> {
    let on_disk = stored.iter().flat_map(|(_, segments)| segments);
    let in_memory = ring.runs().iter().map(|run| run.number);
    let runs: Set<u64> = on_disk.map(|s| s.run).chain(in_memory).collect();
    let most = ring.limits().runs.max(ring.runs().len());
    let mut surplus = runs.len().saturating_sub(most);
    // A run that is open stays, however many others have come and gone meanwhile.
    let is_known = |number: &u64| ring.runs().iter().any(|run| run.number == *number);
    let mut goes = |number: &u64| {
        let goes = surplus > 0 && !is_known(number);
        surplus -= usize::from(goes);
        goes
    };
    let mut runs = runs.into_keys();
    runs.retain(|number| !goes(number));
    runs
}

/// The lines that are asked for, chosen while the log is locked.
pub(super) struct Selection {
    memory: Vec<StreamSlice>,
    next: u64,
    lost: Vec<Gone>,
    stored: Option<Stored>,
    parts: Vec<Part>,
}

impl Selection {
    /// The lines of `scope`, from `since` on.
    pub(super) fn new(
        ring: &Ring,
        stored: Option<Stored>,
        scope: &Scope,
        since: Option<Wall>,
    ) -> Self {
        let mut lost = Vec::new();
        let mut parts = Vec::new();
        let wanted = |run: &u64| scope.run.is_none_or(|one| one == *run);
        for run in runs(ring, stored.as_ref()).into_iter().filter(wanted) {
            let gone = ring.gone_of(run);
            let mut segments = stored.iter().flat_map(|(_, segments)| segments);
            if segments.any(|s| s.run == run) {
                parts.push(Part {
                    run,
                    gone,
                    after: scope.after,
                    since,
                    stream: scope.stream,
                });
            } else {
                lost.extend(gone);
            }
        }
        if scope.run.is_none() {
            lost.push(ring.gone());
        }
        // The others have nothing behind the cursor that memory lacks.
        parts.retain(|part| part.gone.is_none_or(|gone| gone.through > scope.after));
        let mut memory = ring.slices(scope);
        if let Some(since) = since {
            memory.iter_mut().for_each(|slice| slice.since(since));
        }
        Self {
            memory,
            next: ring.next_seq() - 1,
            lost,
            stored,
            parts,
        }
    }

    /// Opens the files. Not to be called under a lock.
    pub(super) fn open(self) -> Pages {
        let mut pages = Pages {
            memory: self.memory,
            next: self.next,
            lost: self.lost,
            readers: Vec::new(),
        };
        for part in self.parts {
            let Some((folder, segments)) = &self.stored else {
                break;
            };
            let reader = Reader::new(folder, segments, part);
            for slice in pages.memory.iter_mut().filter(|s| s.run == part.run) {
                slice.raise(reader.through());
            }
            // Without a daemon the number of the last line may not be known before.
            pages.next = pages.next.max(reader.through());
            pages.readers.push(reader);
        }
        pages
    }
}

/// The lines of a query, page by page.
pub(super) struct Pages {
    /// The newest page; empty once it was read.
    memory: Vec<StreamSlice>,
    /// The cursor behind the last line in memory.
    pub next: u64,
    /// Lines that are neither in memory nor on disk.
    lost: Vec<Gone>,
    pub readers: Vec<Reader>,
}

impl Pages {
    /// The number of lines, unfinished ones not counted.
    pub(super) fn lines(&mut self) -> u64 {
        let in_memory = self.memory.iter().map(|slice| slice.lines_up_to(self.next));
        let in_memory: u64 = in_memory.sum();
        in_memory + self.readers.iter_mut().map(Reader::count).sum::<u64>()
    }

    /// The number of lines after that one that are gone.
    pub(super) fn gone_after(&self, after: u64) -> u64 {
        let lost = self.lost.iter().map(|gone| gone.after(after));
        lost.sum::<u64>()
            + self
                .readers
                .iter()
                .map(|r| r.gone_after(after))
                .sum::<u64>()
    }

    /// The lowest number, or the highest, that a line may have that is not read yet. None: all is read.
    pub(super) fn nearest(&self, forward: bool) -> Option<u64> {
        let stored = self.readers.iter().filter_map(|r| r.nearest(forward));
        let all = stored.chain(self.nearest_in_memory(forward));
        if forward { all.min() } else { all.max() }
    }

    fn nearest_in_memory(&self, forward: bool) -> Option<u64> {
        match forward {
            true => self.memory.iter().filter_map(StreamSlice::first).min(),
            false => self.memory.iter().filter_map(StreamSlice::last).max(),
        }
    }

    /// The next page, from the start on or back from the end. Pages of runs that overlapped may do so too.
    pub(super) fn page(&mut self, forward: bool) -> Option<Vec<StreamSlice>> {
        while let Some(nearest) = self.nearest(forward) {
            if self.nearest_in_memory(forward) == Some(nearest) {
                return Some(std::mem::take(&mut self.memory));
            }
            let is_next = |reader: &Reader| reader.nearest(forward) == Some(nearest);
            let next = self.readers.iter().position(is_next);
            for (at, reader) in self.readers.iter_mut().enumerate() {
                if Some(at) != next {
                    // Files are open of one run at a time, however many runs there are.
                    reader.close();
                }
            }
            let page = next.and_then(|at| self.readers[at].page(forward));
            if page.is_some() {
                return page;
            }
        }
        None
    }
}

/// A page among the lines around it.
pub(super) struct Windows<'a> {
    pages: &'a mut Pages,
    forward: bool,
    /// The number of lines around a page.
    beside: u64,
    before: VecDeque<Vec<StreamSlice>>,
    coming: VecDeque<Vec<StreamSlice>>,
}

impl<'a> Windows<'a> {
    pub(super) fn new(pages: &'a mut Pages, forward: bool, beside: u64) -> Self {
        Self {
            pages,
            forward,
            beside,
            before: VecDeque::new(),
            coming: VecDeque::new(),
        }
    }

    /// As [`Pages::nearest`], where no pages are read ahead.
    pub(super) fn nearest(&self) -> Option<u64> {
        self.pages.nearest(self.forward)
    }

    /// The next page with those around it, and its own slices among them.
    pub(super) fn next(&mut self) -> Option<(Vec<StreamSlice>, Range<usize>)> {
        let beside = self.beside;
        while self.coming.is_empty()
            || self.coming.len() <= MOST_BESIDE && lines_behind_first(&self.coming) < beside
        {
            match self.pages.page(self.forward) {
                Some(page) => self.coming.push_back(page),
                None => break,
            }
        }
        let here = self.coming.pop_front()?;
        let mut slices: Vec<StreamSlice> = self.before.iter().flatten().cloned().collect();
        let own = slices.len()..slices.len() + here.len();
        slices.extend(here.iter().chain(self.coming.iter().flatten()).cloned());
        self.before.push_back(here);
        while self.before.len() > MOST_BESIDE || lines_behind_first(&self.before) >= beside {
            if self.before.pop_front().is_none() {
                break;
            }
        }
        Some((slices, own))
    }
}

fn lines_behind_first(pages: &VecDeque<Vec<StreamSlice>>) -> u64 {
    let slices = pages.iter().skip(1).flatten();
    slices.map(|slice| slice.lines_up_to(u64::MAX)).sum()
}

#[cfg(test)]
mod tests;
