//! One part of a run on disk, opened: its records, and what it holds as a whole. An index that is lost
//! or torn is made anew from its file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::index::{HEADER, Header, RECORD, Record};
use super::writer::{Folder, LARGEST, SegmentId};
use crate::base::clock::Wall;
use crate::log::block::{MAX_LINE, cut};
use crate::log::stream::Stream;
use crate::os::files::open_plain;

/// Records that are read at once.
pub(super) const RECORDS: usize = 4 << 10;
/// How far back the start of a line is looked for, records.
pub(super) const BACK: usize = 2 << 10;

/// What is in one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub header: Header,
    /// Complete lines of each stream.
    pub lines: [u32; 2],
    /// The highest number.
    pub last: u64,
    /// When the last byte came.
    pub last_at: Wall,
    /// Records of its index that are in order.
    pub sound: usize,
}

impl Meta {
    pub(super) fn total(&self) -> u64 {
        self.lines.into_iter().map(u64::from).sum()
    }
}

/// Reads what is in these parts, oldest first, those of a run to its last one; the highest number.
pub(super) fn survey(folder: &Folder, parts: &[Arc<SegmentId>]) -> u64 {
    let mut last = 0;
    for (at, part) in parts.iter().enumerate() {
        let over = parts.get(at + 1).is_none_or(|next| next.run != part.run);
        // What can't be opened now (too many descriptors) may be another time.
        if part.meta.get().is_none()
            && let Ok(opened) = Opened::read(folder, part, last + 1, over)
        {
            let _ = part.meta.set(opened.meta());
        }
        last = last.max(part.meta.get().map_or(0, |meta| meta.last));
    }
    last
}

/// The highest number in these parts, which are all of a log. Reads no more of them than it must: the
/// newest two are all that a crash can have left open.
pub(super) fn last_number(folder: &Folder, parts: &[Arc<SegmentId>]) -> u64 {
    let newest = &parts[parts.len().saturating_sub(2)..];
    let last = newest.iter().map(|part| {
        let opened = Opened::read(folder, part, 1, true).ok()?;
        opened.index.is_some().then(|| opened.meta().last)
    });
    let last: Option<Vec<u64>> = last.collect();
    match last {
        Some(last) => last.into_iter().max().unwrap_or(0),
        None => survey(folder, parts),
    }
}

/// A part whose files are open.
#[derive(Debug)]
pub(super) struct Opened {
    pub log: File,
    /// None: lost.
    index: Option<File>,
    /// Records in it.
    count: usize,
    /// What it does not say, made from the log.
    made: Vec<Record>,
    header: Header,
}

impl Opened {
    /// `first`: the number of its first line, if its index does not tell; `over`: it is the last of a
    /// run that nobody writes any more.
    pub(super) fn read(
        folder: &Folder,
        part: &SegmentId,
        first: u64,
        over: bool,
    ) -> io::Result<Self> {
        let log = open_plain(&folder.file(part.run, part.segment, "log"))?;
        let about = log.metadata()?;
        let size = about.len().min(LARGEST) as u32;
        let index = match open_plain(&folder.file(part.run, part.segment, "idx")) {
            Ok(index) => Some(index),
            // It is there.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return Err(e);
            }
            Err(_) => None,
        };
        let written = Wall(about.mtime() * 1000 + about.mtime_nsec() / 1_000_000);
        let mut opened = Self {
            log,
            index: None,
            count: 0,
            made: Vec::new(),
            header: Header {
                started: written,
                before: 0,
                first,
                ended: None,
            },
        };
        if let Some((header, index)) = index.and_then(|index| Some((header_of(&index)?, index))) {
            let length = index.metadata()?.len().min(LARGEST);
            let length = length.saturating_sub(HEADER as u64);
            opened.header = header;
            opened.index = Some(index);
            opened.count = (length / RECORD as u64) as usize;
            opened.trust(size, part.meta.get().map(|meta| meta.sound));
        }
        if opened.before(opened.len()).end < size {
            opened.make(size, written);
        }
        if over {
            opened.finish();
        }
        Ok(opened)
    }

    /// Keeps the records up to the first one that can't be. `sound`: how many of them were looked at
    /// before; then the last one tells of a file that was cut since.
    fn trust(&mut self, size: u32, sound: Option<usize>) {
        let mut at = 0;
        if let Some(sound) = sound {
            self.count = self.count.min(sound);
            at = self.count.saturating_sub(1);
        }
        let mut records = Vec::new();
        while at < self.count {
            let to = (at + RECORDS).min(self.count);
            let whole = self.records(at, to, &mut records);
            let mut before = self.before(at);
            for record in &records {
                if !record.follows(&before) || record.end > size {
                    self.count = at;
                    return;
                }
                before = *record;
                at += 1;
            }
            if !whole {
                self.count = at;
                return;
            }
        }
    }

    /// Records of what the index says nothing about: its lines go on with the numbers, in the stream
    /// that wrote last.
    fn make(&mut self, size: u32, written: Wall) {
        let last = self.before(self.len());
        let mut record = Record {
            at: written,
            pinned: false,
            first: self.next_number(),
            ..last
        };
        record.carry = self.rests()[last.stream as usize];
        let mut bytes = vec![0; MAX_LINE];
        while record.end < size {
            let length = (size - record.end).min(MAX_LINE as u32) as usize;
            let Ok(length) = self
                .log
                .read_at(&mut bytes[..length], u64::from(record.end))
            else {
                return;
            };
            if length == 0 {
                return;
            }
            let before = record;
            let lines = cut(record.carry as usize, &bytes[..length]).lines() as u32;
            record.end += length as u32;
            record.lines[record.stream as usize] += lines;
            self.made.push(record);
            record.carry = record.rest(&before, &bytes[..length]);
            record.first += u64::from(lines);
        }
    }

    /// The number that a line behind its last one has at least.
    fn next_number(&self) -> u64 {
        let mut records = Vec::new();
        let from = self.len().saturating_sub(4);
        self.records(from, self.len(), &mut records);
        let mut before = self.before(from);
        let mut next = self.header.first;
        for record in records {
            next = next.max(record.next(&before));
            before = record;
        }
        next
    }

    /// Bytes of each stream's unfinished line at its end.
    fn rests(&self) -> [u32; 2] {
        Stream::ALL.map(|stream| {
            let Some((before, record)) = self.last_of(stream) else {
                return 0;
            };
            let mut bytes = vec![0; (record.end - before.end) as usize];
            match self.log.read_exact_at(&mut bytes, u64::from(before.end)) {
                Ok(()) => record.rest(&before, &bytes),
                Err(_) => 0,
            }
        })
    }

    /// The last record of a stream, and the one before it.
    fn last_of(&self, stream: Stream) -> Option<(Record, Record)> {
        let (mut records, to) = (Vec::new(), self.len());
        let from = to.saturating_sub(BACK);
        self.records(from, to, &mut records);
        let at = records.iter().rposition(|r| r.stream == stream)?;
        let before = match at {
            0 => self.before(from),
            n => records[n - 1],
        };
        Some((before, records[at]))
    }

    pub(super) fn len(&self) -> usize {
        self.count + self.made.len()
    }

    /// Puts records `from..to` into `into`; false: one of them is none, or can't come after the other.
    pub(super) fn records(&self, from: usize, to: usize, into: &mut Vec<Record>) -> bool {
        into.clear();
        let stored = from..to.min(self.count);
        if let Some(index) = self.index.as_ref().filter(|_| !stored.is_empty()) {
            let mut bytes = vec![0; stored.len() * RECORD];
            let place = (HEADER + stored.start * RECORD) as u64;
            if index.read_exact_at(&mut bytes, place).is_err() {
                return false;
            }
            for bytes in bytes.as_chunks::<RECORD>().0 {
                let before = into.last().unwrap_or(&Record::START);
                match Record::decode(bytes) {
                    Some(record) if into.is_empty() || record.follows(before) => into.push(record),
                    Some(_) | None => return false,
                }
            }
        }
        let made = from.max(self.count) - self.count..to.max(self.count) - self.count;
        // A place in a file that was cut since may be behind its end.
        let made = self.made.get(made);
        into.extend_from_slice(made.unwrap_or_default());
        made.is_some()
    }

    /// Some records, at least one, and the one before them. None: they were damaged since.
    pub(super) fn stretch(&self, from: usize, to: usize) -> Option<(Record, Vec<Record>)> {
        let (mut records, before) = (Vec::new(), self.before(from));
        let whole = self.records(from, to, &mut records);
        let follows = records.first().is_some_and(|r| r.follows(&before));
        (whole && follows).then_some((before, records))
    }

    /// The record before that one.
    pub(super) fn before(&self, at: usize) -> Record {
        let mut one = Vec::new();
        if at > 0 {
            self.records(at - 1, at, &mut one);
        }
        one.first().copied().unwrap_or(Record::START)
    }

    /// The first record that `beyond` holds for: it holds for all after it as well, but for those of
    /// lines that were shown unfinished.
    pub(super) fn search(&self, beyond: &dyn Fn(&Record, &Record) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        let mut two = Vec::new();
        while low < high {
            let middle = low.midpoint(high);
            let mut at = middle;
            loop {
                let before = at.saturating_sub(1);
                if !self.records(before, at + 1, &mut two) {
                    return low;
                }
                // An index that lies may have any number of these in a row.
                if at == low || middle - at > BACK || two.last().is_none_or(|r| !r.pinned) {
                    break;
                }
                at -= 1;
            }
            let before = if two.len() == 2 {
                two[0]
            } else {
                Record::START
            };
            if two.last().is_none_or(|r| beyond(r, &before)) {
                high = at;
            } else {
                low = middle + 1;
            }
        }
        // One that was shown unfinished may be the first that was meant.
        let least = low.saturating_sub(BACK);
        while low > least && self.before(low).pinned {
            low -= 1;
        }
        low
    }

    /// Lines with numbers up to `after` from a record on that [`Opened::search`] found for it: some of the
    /// first record's, but for those that had been shown unfinished.
    pub(super) fn up_to(&self, after: u64, from: usize, to: usize, stream: Option<Stream>) -> u64 {
        let (mut records, mut before, mut sum) = (Vec::new(), self.before(from), 0);
        self.records(from, to.min(from + RECORDS), &mut records);
        for (at, record) in records.iter().enumerate() {
            let lines = u64::from(record.finished(&before));
            let late = records.get(at + 1).filter(|next| next.is_place(record));
            let first = late.map_or(record.first, |place| place.first);
            if stream.is_none_or(|s| s == record.stream) {
                sum += (after.saturating_add(1)).saturating_sub(first).min(lines);
            }
            before = *record;
            if !record.pinned {
                break;
            }
        }
        sum
    }

    /// The run is over: what it left unfinished are lines.
    fn finish(&mut self) {
        let rests = self.rests();
        for stream in Stream::ALL {
            if rests[stream as usize] > 0 {
                let last = self.before(self.len());
                let mut record = Record {
                    stream,
                    carry: rests[stream as usize],
                    pinned: false,
                    first: self.next_number(),
                    ..last
                };
                record.lines[stream as usize] += 1;
                self.made.push(record);
            }
        }
    }

    fn meta(&self) -> Meta {
        let last = self.before(self.len());
        Meta {
            header: self.header.clone(),
            lines: last.lines,
            last: self.next_number() - 1,
            last_at: last.at,
            sound: self.count,
        }
    }
}

fn header_of(index: &File) -> Option<Header> {
    let mut bytes = [0; HEADER];
    index.read_exact_at(&mut bytes, 0).ok()?;
    Header::decode(&bytes)
}
