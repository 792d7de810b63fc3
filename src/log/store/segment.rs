//! One segment of a run, opened: its index. An index that is lost or torn is made again from its file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::index::{Entry, HEADER, Header, RECORD, Record};
use super::layout::{Folder, LARGEST, Meta, Segment, lines_of};
use crate::base::clock::Wall;
use crate::base::table::sort;
use crate::log::block::{MAX_LINE, cut};
use crate::log::stream::Stream;
use crate::os::files::open_plain;

/// Records that are read at once.
const RECORDS: usize = 4 << 10;
/// Records among which the start of an unfinished line is searched, from the end.
pub(super) const BACK: usize = 2 << 10;
/// Bytes of a page: a few appends of full size.
const PAGE: u32 = 256 << 10;

/// The contents of a segment, one of all those of a log (oldest first); read where they are not known yet.
/// None: the file can't be opened now (too many descriptors, say).
pub(super) fn meta<'a>(folder: &Folder, all: &'a [Arc<Segment>], at: usize) -> Option<&'a Meta> {
    let segment = &all[at];
    if segment.meta.get().is_none() {
        // Of a file without an index, lines go on with the numbers of the file before.
        let before = || {
            at.checked_sub(1)
                .and_then(|before| meta(folder, all, before))
        };
        let first = || before().map_or(1, |meta| meta.last + 1);
        let last_of_run = all.get(at + 1).is_none_or(|next| next.run != segment.run);
        let opened = Opened::read(folder, segment, &first, last_of_run).ok()?;
        let _ = segment.meta.set(opened.meta());
    }
    segment.meta.get()
}

/// The highest number in these segments, which are all of a log that nobody writes. Runs may have overlapped:
/// it is in the last segment of the run that was written last.
pub(super) fn last_number(folder: &Folder, all: &[Arc<Segment>]) -> u64 {
    let is_last = |at: &usize| all.get(at + 1).is_none_or(|next| next.run != all[*at].run);
    let mut last: Vec<usize> = (0..all.len()).filter(is_last).collect();
    sort(&mut last, |a, b| all[*a].written.cmp(&all[*b].written));
    // Two may have been written at the same time.
    let numbers = last
        .iter()
        .rev()
        .filter_map(|at| Some(meta(folder, all, *at)?.last));
    numbers.take(2).max().unwrap_or(0)
}

/// A segment whose files are open.
#[derive(Debug)]
pub(super) struct Opened {
    log: File,
    /// None: lost.
    index: Option<File>,
    /// The number of sound records in it.
    stored: usize,
    /// The records that it lacks, made from the log.
    made: Vec<Record>,
    header: Header,
}

impl Opened {
    /// `first`: the number of its first line, if there is no index; `over`: it is the last of a run that
    /// nobody writes any more.
    pub(super) fn read(
        folder: &Folder,
        segment: &Segment,
        first: &dyn Fn() -> u64,
        over: bool,
    ) -> io::Result<Self> {
        let log = open_plain(&folder.file(segment.run, segment.number, "log"))?;
        let about = log.metadata()?;
        let size = about.len().min(LARGEST) as u32;
        let index = match open_plain(&folder.file(segment.run, segment.number, "idx")) {
            Ok(index) => header_of(&index).map(|header| (header, index)),
            // It is there.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return Err(e);
            }
            Err(_) => None,
        };
        let written = Wall(about.mtime() * 1000 + about.mtime_nsec() / 1_000_000);
        let (header, index) = match index {
            Some((header, index)) => (header, Some(index)),
            None => {
                let header = Header {
                    started: written,
                    before: 0,
                    first: first(),
                    ended: None,
                };
                (header, None)
            }
        };
        let mut opened = Self {
            log,
            index,
            stored: 0,
            made: Vec::new(),
            header,
        };
        if let Some(index) = &opened.index {
            let length = index.metadata()?.len().min(LARGEST);
            opened.stored = (length.saturating_sub(HEADER as u64) / RECORD as u64) as usize;
            opened.trust(size, segment.meta.get().map(|meta| meta.sound));
        }
        if opened.last_record().end < size {
            opened.make(size, written);
        }
        if over {
            opened.finish();
        }
        Ok(opened)
    }

    /// Keeps the records up to the first one that can't be. `sound`: the number of those that were checked
    /// before; then the last of them shows whether the file was cut since.
    fn trust(&mut self, size: u32, sound: Option<usize>) {
        let mut at = 0;
        if let Some(sound) = sound {
            self.stored = self.stored.min(sound);
            at = self.stored.saturating_sub(1);
        }
        while at < self.stored {
            let to = (at + RECORDS).min(self.stored);
            let entries = self.entries(at..to);
            at += entries.iter().take_while(|e| e.record.end <= size).count();
            if at < to {
                self.stored = at;
            }
        }
    }

    /// Makes records of the bytes that the index does not cover: their lines go on with the numbers, in the
    /// stream that wrote last.
    fn make(&mut self, size: u32, written: Wall) {
        let last = self.last_record();
        let mut record = Record {
            at: written,
            carry: self.rests()[last.stream as usize],
            first: self.next_number(),
            ..last
        };
        let mut bytes = vec![0; MAX_LINE];
        while record.end < size {
            let bytes = &mut bytes[..((size - record.end) as usize).min(MAX_LINE)];
            if self.read_at(bytes, record.end).is_err() {
                return;
            }
            let entry = Entry {
                begin: record.end,
                count: cut(record.carry as usize, bytes).lines() as u32,
                record,
            };
            record.end += bytes.len() as u32;
            record.lines[record.stream as usize] += entry.count;
            self.made.push(record);
            record.carry = entry.rest(bytes);
            record.first += u64::from(entry.count);
        }
    }

    /// The run is over: the lines that it left unfinished are lines.
    fn finish(&mut self) {
        let rests = self.rests();
        for stream in Stream::ALL {
            if rests[stream as usize] > 0 {
                let mut record = Record {
                    stream,
                    carry: rests[stream as usize],
                    first: self.next_number(),
                    ..self.last_record()
                };
                record.lines[stream as usize] += 1;
                self.made.push(record);
            }
        }
    }

    fn meta(&self) -> Meta {
        let last = self.last_record();
        Meta {
            header: self.header.clone(),
            lines: last.lines,
            last: self.next_number() - 1,
            last_at: last.at,
            sound: self.stored,
        }
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.stored + self.made.len()
    }

    /// These records, as far as they are in order.
    pub(super) fn entries(&self, range: Range<usize>) -> Vec<Entry> {
        let from = range.start.saturating_sub(1);
        let mut records = self.records(from..range.end).into_iter();
        let mut before = match range.start {
            0 => Record::START,
            _ => records.next().unwrap_or(Record::START),
        };
        let mut entries: Vec<Entry> = Vec::with_capacity(records.len());
        for mut record in records {
            // Numbers rise, but for a line of a file of 0.1.0 that had been shown unfinished.
            let least = entries.last().map_or(0, |e| e.last() + 1);
            record.first = record.first.max(least);
            let Some(entry) = Entry::new(record, &before) else {
                break;
            };
            entries.push(entry);
            before = record;
        }
        entries
    }

    /// These records up to the first that is damaged.
    fn records(&self, range: Range<usize>) -> Vec<Record> {
        let stored = range.start.min(self.stored)..range.end.min(self.stored);
        let mut records = Vec::with_capacity(range.len());
        if let Some(index) = self.index.as_ref().filter(|_| !stored.is_empty()) {
            let mut bytes = vec![0; stored.len() * RECORD];
            let place = (HEADER + stored.start * RECORD) as u64;
            if index.read_exact_at(&mut bytes, place).is_ok() {
                let decoded = bytes.as_chunks().0.iter().map_while(Record::decode);
                records.extend(decoded);
            }
        }
        if records.len() == stored.len() {
            let made = range.start.max(self.stored)..range.end.max(self.stored);
            let made = self
                .made
                .get(made.start - self.stored..made.end - self.stored);
            // A file that was cut since has fewer.
            records.extend_from_slice(made.unwrap_or_default());
        }
        records
    }

    fn last_record(&self) -> Record {
        let last = self.len().saturating_sub(1)..self.len();
        self.records(last).pop().unwrap_or(Record::START)
    }

    /// The first of these records that `beyond` holds for; it holds for all after that one.
    pub(super) fn first_where(
        &self,
        range: Range<usize>,
        beyond: &dyn Fn(&Entry) -> bool,
    ) -> usize {
        let Range { mut start, mut end } = range;
        while start < end {
            let middle = start.midpoint(end);
            match self.entries(middle..middle + 1).first() {
                Some(entry) if !beyond(entry) => start = middle + 1,
                // A damaged one ends the search where it can be seen.
                Some(_) | None => end = middle,
            }
        }
        start
    }

    /// Of these records a page: those at the start, or at the end, that have a page's bytes; at least one.
    pub(super) fn page(&self, range: Range<usize>, forward: bool) -> Range<usize> {
        if forward {
            let most = range.start..range.end.min(range.start + RECORDS);
            let begin = self
                .entries(range.start..range.start + 1)
                .first()
                .map_or(0, |e| e.begin);
            let end = self.first_where(most, &|e| e.record.end.saturating_sub(begin) > PAGE);
            range.start..end.max(range.start + 1)
        } else {
            let most = range.end.saturating_sub(RECORDS).max(range.start)..range.end;
            let end = self
                .entries(range.end - 1..range.end)
                .first()
                .map_or(0, |e| e.record.end);
            let start = self.first_where(most, &|e| end.saturating_sub(e.begin) <= PAGE);
            start.min(range.end - 1)..range.end
        }
    }

    /// The number of lines with numbers up to this one, of a stream or of both.
    pub(super) fn lines_up_to(&self, number: u64, stream: Option<Stream>) -> u64 {
        let at = self.first_where(0..self.len(), &|e| e.last() > number);
        let mut lines = self.last_record().lines;
        if let Some(entry) = self.entries(at..at + 1).first() {
            lines = entry.record.lines;
            // Of its own lines only some.
            let beyond = entry
                .last()
                .saturating_sub(number)
                .min(u64::from(entry.count));
            lines[entry.record.stream as usize] -= beyond as u32;
        }
        lines_of(lines, stream)
    }

    /// Fills `into` with the bytes of the log from there on.
    pub(super) fn read_at(&self, into: &mut [u8], from: u32) -> io::Result<()> {
        self.log.read_exact_at(into, u64::from(from))
    }

    /// The number that a line behind its last one has at least.
    fn next_number(&self) -> u64 {
        // A few, for files of 0.1.0.
        let last = self.entries(self.len().saturating_sub(4)..self.len());
        let next = last.last().map_or(0, |e| e.last() + 1);
        next.max(self.header.first)
    }

    /// Its index for one who goes on writing it, with records for all bytes of the log: the header, the last record,
    /// the number of records, those that are not in the file yet, and the highest number.
    pub(super) fn into_written(self) -> Option<(Header, Record, usize, Vec<Record>, u64)> {
        self.index.as_ref()?;
        let (last, count) = (self.last_record(), self.len());
        let highest = self.next_number() - 1;
        Some((self.header, last, count, self.made, highest))
    }

    /// Bytes of each stream's unfinished line at its end.
    pub(super) fn rests(&self) -> [u32; 2] {
        let entries = self.entries(self.len().saturating_sub(BACK)..self.len());
        Stream::ALL.map(|stream| {
            let last = entries.iter().rfind(|e| e.record.stream == stream);
            last.map_or(0, |entry| {
                let mut bytes = vec![0; (entry.record.end - entry.begin) as usize];
                match self.read_at(&mut bytes, entry.begin) {
                    Ok(()) => entry.rest(&bytes),
                    Err(_) => 0,
                }
            })
        })
    }
}

fn header_of(index: &File) -> Option<Header> {
    let mut bytes = [0; HEADER];
    index.read_exact_at(&mut bytes, 0).ok()?;
    Header::decode(&bytes)
}

#[cfg(test)]
mod tests;
