//! Writes the files of one log, within its budget. Each run has files of its own, in segments, so that a
//! process that never restarts stays within the budget too.
//!
//! The bytes are written before anybody is shown them, then the index; bytes that a crash leaves without an
//! index are found by the file's length.

mod saved;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::stat::fstat;
use nix::sys::statvfs::statvfs;

use super::index::{HEADER, Header, RECORD, Record};
use super::layout::{BLOCK, Folder, LARGEST, Meta, Segment, cost, in_order, lines_of};
use super::reader::{Part, Reader};
use super::segment::{Opened, last_number, meta};
use crate::base::clock::{Mono, Wall};
use crate::base::error::reason;
use crate::log::block::MAX_LINE;
use crate::log::ring::{Ended, Gone};
use crate::log::stream::Stream;
use crate::os::files::private_dir;

/// Bytes that are written at once.
const MOST_WRITTEN: usize = 2 * MAX_LINE;
/// Records of one write: one for each line's length of it, and one for a line that a run left unfinished.
const MOST_RECORDS: usize = MOST_WRITTEN / MAX_LINE + 1;
/// The budget of one kind is spread over that many segments: one of them is evicted at a time.
const SEGMENTS: u64 = 8;
/// A segment takes an append that is one of many at least. Not more: of a small budget the newest lines must
/// stay when the oldest segment is evicted.
const SMALLEST: u64 = MUCH as u64 + BLOCK;
/// The removal of a larger segment holds up all who use the log: a gigabyte takes a tenth of a second.
const QUICK: u64 = 64 << 20;
/// An append of that many bytes is one of many: its record may wait for the next. A crash meanwhile costs
/// the times of a few appends.
const MUCH: usize = 16 << 10;
/// Bytes of records that wait.
const MOST_WAITING: usize = 16 * RECORD;
/// Files of one log, whatever they cost: a folder stays quick to list.
const MOST_SEGMENTS: usize = 1_000;
/// The time after a failure in which nothing is written.
const RETRY: Duration = Duration::from_secs(1);
/// A full disk is written to again once that many bytes of it are free, or a quarter of a small one: the few
/// that a failed write released would be full at once, and the trouble reported each second.
const ENOUGH: u64 = 1 << 20;

/// The files of one log.
#[derive(Debug)]
pub(super) struct Disk {
    folder: Folder,
    budget: u64,
    /// Segments that nobody writes any more, oldest first.
    segments: Vec<Arc<Segment>>,
    /// They are not known yet: the folder is read when somebody needs them.
    unlisted: bool,
    writers: Vec<Writer>,
    trouble: Option<Trouble>,
    /// The trouble has changed since it was asked for.
    changed: bool,
    /// Lines were left out since they could not be written, or were not to be.
    has_gaps: bool,
}

/// The failure that keeps lines from being written.
#[derive(Debug)]
struct Trouble {
    why: String,
    since: Mono,
    is_full: bool,
}

/// The end of a run of an earlier daemon, from which this one goes on.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Its complete lines.
    pub lines: u64,
    /// The highest number in the files.
    pub last: u64,
    /// The lines that it left unfinished, of each stream.
    pub unfinished: [Vec<u8>; 2],
}

/// One run that is being written.
#[derive(Debug)]
struct Writer {
    run: u64,
    started: Wall,
    /// The next segment's number.
    next: u32,
    /// Complete lines so far, also those that could not be written.
    lines: u64,
    ended: Option<(Wall, String)>,
    open: Option<Box<Open>>,
}

/// The segment that is being written.
#[derive(Debug)]
struct Open {
    number: u32,
    log: File,
    index: File,
    header: Header,
    records: u64,
    /// The newest of them, which are not in the file yet.
    waiting: Vec<u8>,
    /// The time of the last check whether somebody cut or removed the file.
    checked: Wall,
    last: Record,
    /// The highest number in it.
    highest: u64,
}

impl Disk {
    /// The segments that are in the folder, and those to come.
    pub(super) fn new(folder: Folder, budget: u64) -> Self {
        Self {
            budget: folder.kind.share(budget),
            segments: folder.segments(),
            unlisted: false,
            folder,
            writers: Vec::new(),
            trouble: None,
            changed: false,
            has_gaps: false,
        }
    }

    /// Reads the folder, if that was put off.
    fn list(&mut self) {
        if std::mem::take(&mut self.unlisted) {
            let open = |s: &Arc<Segment>| {
                let number = |w: &Writer| w.open.as_ref().map(|open| open.number);
                let mut writers = self.writers.iter();
                writers.any(|w| w.run == s.run && number(w) == Some(s.number))
            };
            self.segments = self.folder.segments();
            self.segments.retain(|s| !open(s));
        }
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The highest number of a line, and of a run.
    pub(super) fn last(&mut self) -> (u64, u64) {
        self.list();
        let run = self.segments.last().map_or(0, |segment| segment.run);
        (last_number(&self.folder, &self.segments), run)
    }

    /// Sets the budget; files beyond it are removed now, since a process that prints nothing more would keep
    /// them for ever. With a budget of zero nothing is written, and the files stay to be read.
    pub(super) fn set_budget(&mut self, budget: u64) {
        self.budget = self.folder.kind.share(budget);
        let limit = self.limit();
        for index in 0..self.writers.len() {
            let open = self.writers[index].open.as_ref();
            if open.is_some_and(|open| open.cost() > limit) {
                self.close(index);
            }
        }
        if limit > 0 {
            self.make_room(0);
        } else {
            self.changed |= self.trouble.take().is_some();
        }
    }

    /// The failure that keeps lines from being written, if that has changed.
    pub(super) fn news(&mut self) -> Option<Option<String>> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| self.trouble.as_ref().map(|t| t.why.clone()))
    }

    /// All segments there are now, oldest first, to be read.
    pub(super) fn segments(&mut self) -> Vec<Arc<Segment>> {
        self.list();
        for index in 0..self.writers.len() {
            let open = &mut self.writers[index].open;
            if let Some(Err(e)) = open.as_mut().map(|open| open.flush()) {
                self.failed(index, &e);
            }
        }
        let open = self.writers.iter().filter_map(Writer::segment);
        let mut all: Vec<_> = self
            .segments
            .iter()
            .cloned()
            .chain(open.map(Arc::new))
            .collect();
        in_order(&mut all);
        all
    }

    /// Begins a run; one that ended before prints no more, or not much.
    pub(super) fn begin(&mut self, run: u64, at: Wall) {
        for index in 0..self.writers.len() {
            if self.writers[index].ended.is_some() {
                self.close(index);
            }
        }
        self.writers.retain(|w| w.ended.is_none());
        self.writers.reserve_exact(1);
        self.writers.push(Writer::new(run, at));
    }

    /// Goes on with a run of an earlier daemon, in its newest file.
    pub(super) fn resume(&mut self, run: u64, started: Wall) -> Resumed {
        self.list();
        let mut writer = Writer::new(run, started);
        let of_run = self.segments.iter().rposition(|s| s.run == run);
        let mut resumed = Resumed::default();
        if let Some(at) = of_run {
            let part = Part {
                run,
                gone: Some(Gone {
                    through: u64::MAX,
                    lines: 0,
                }),
                after: 0,
                since: None,
                stream: None,
            };
            resumed.unfinished = Reader::new(&self.folder, &self.segments, part).unfinished();
            writer.next = self.segments[at].number + 1;
            // If it can't be written, the next file of the run is.
            let open = match self.limit() {
                0 => Err(ErrorKind::Unsupported.into()),
                _ => Open::again(&self.folder, &self.segments, at),
            };
            if let Ok(open) = open {
                writer.started = open.header.started;
                writer.lines = open.header.before + lines_of(open.last.lines, None);
                resumed.last = open.highest;
                writer.open = Some(Box::new(open));
                self.segments.remove(at);
            } else if let Some(meta) = meta(&self.folder, &self.segments, at) {
                writer.started = meta.header.started;
                writer.lines = meta.header.before + lines_of(meta.lines, None);
            }
            resumed.lines = writer.lines;
        }
        resumed.last = resumed.last.max(last_number(&self.folder, &self.segments));
        self.writers.push(writer);
        resumed
    }

    /// Ends a run; lines of a grandchild of it are still written.
    pub(super) fn end(&mut self, run: u64, at: Wall, how: &str) {
        if let Some(writer) = self.writers.iter_mut().find(|w| w.run == run) {
            writer.end(at, how);
        }
    }

    /// The bytes that a segment may cost; zero: nothing is written, since nothing fits.
    fn limit(&self) -> u64 {
        let share = (self.budget / SEGMENTS).min(QUICK);
        let many = self.budget / (MOST_SEGMENTS as u64 - SEGMENTS);
        match share.max(many).clamp(SMALLEST, LARGEST).min(self.budget) / BLOCK {
            0 | 1 => 0,
            blocks => blocks * BLOCK,
        }
    }

    /// The bytes that can be written at once: a budget may be smaller than an append.
    pub(super) fn most(&self) -> usize {
        match self.limit() {
            0 => MOST_WRITTEN,
            limit => MOST_WRITTEN.min((limit - BLOCK) as usize),
        }
    }

    /// Writes bytes, before they are shown to anybody; at most [`Disk::most`]. `next` is the number that the
    /// next line gets.
    pub(super) fn write(&mut self, run: u64, bytes: &[u8], at: Wall, next: u64) {
        let limit = self.limit();
        if limit == 0 {
            self.has_gaps = true;
            return;
        }
        let index = self.writer(run, at);
        if !self.writers[index].takes(bytes.len() as u64, limit, at) {
            self.close(index);
        }
        let ready = if self.writers[index].open.is_some() {
            Ok(())
        } else if self.waits() {
            return;
        } else {
            self.make_room(limit);
            self.writers[index].start(&self.folder, next)
        };
        if let Err(e) = ready.and_then(|()| self.writers[index].write(bytes)) {
            self.failed(index, &e);
        }
    }

    /// Adds the lines that those bytes ended to the index; or a line that ended without any.
    pub(super) fn note(&mut self, run: u64, stream: Stream, bytes: usize, ended: &Ended, at: Wall) {
        let Some(index) = self.writers.iter().position(|w| w.run == run) else {
            return;
        };
        match self.writers[index].note(stream, bytes, ended, at) {
            Err(e) => self.failed(index, &e),
            // Bytes and index: only then the trouble is over.
            Ok(()) if self.writers[index].open.is_some() => {
                self.changed |= self.trouble.take().is_some();
            }
            Ok(()) => {}
        }
    }

    /// Nothing is written for a while. A new segment follows then, so that a file has no gap.
    fn failed(&mut self, index: usize, e: &io::Error) {
        let writer = &mut self.writers[index];
        let (run, number) = (writer.run, writer.next.saturating_sub(1));
        let is_empty = writer.open.as_ref().is_some_and(|open| open.size() == 0);
        if is_empty {
            // Or a full disk would get two files more each second.
            writer.open = None;
            self.folder.remove(run, number);
        } else {
            self.close(index);
        }
        let path = self.folder.file(run, number, "log");
        self.changed = true;
        self.has_gaps = true;
        self.trouble = Some(Trouble {
            why: format!("cannot write {}: {}", path.display(), reason(e)),
            since: Mono::now(),
            is_full: e.kind() == io::ErrorKind::StorageFull,
        });
    }

    /// As if the last check, and the trouble, were long ago.
    #[cfg(test)]
    pub(super) fn forget_times(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.since = Mono::default();
        }
        let open = self.writers.iter_mut().filter_map(|w| w.open.as_mut());
        open.for_each(|open| open.checked = Wall(0));
    }

    /// It is too early to write again after a failure.
    fn waits(&mut self) -> bool {
        let Some(trouble) = &mut self.trouble else {
            return false;
        };
        let now = Mono::now();
        if now.since(trouble.since) < RETRY {
            return true;
        }
        let waits = trouble.is_full && is_full(&self.folder.path);
        if waits {
            trouble.since = now;
        }
        waits
    }

    fn writer(&mut self, run: u64, at: Wall) -> usize {
        if let Some(index) = self.writers.iter().position(|w| w.run == run) {
            return index;
        }
        self.list();
        // A grandchild of an earlier run, after the next one began.
        let mut writer = Writer::new(run, at);
        let of_run = self.segments.iter().filter(|s| s.run == run);
        writer.next = of_run.map(|s| s.number + 1).max().unwrap_or(0);
        writer.ended = Some((at, String::new()));
        self.writers.push(writer);
        self.writers.len() - 1
    }

    /// The segment that a run is written to is written no more.
    fn close(&mut self, index: usize) {
        self.list();
        self.segments.extend(self.writers[index].close());
        in_order(&mut self.segments);
    }

    /// Evicts the oldest segments until that many bytes more are within the budget.
    fn make_room(&mut self, more: u64) {
        self.list();
        let limit = self.limit();
        let open = self.writers.iter().filter(|w| w.open.is_some()).count();
        if limit * open as u64 + more > self.budget {
            (0..self.writers.len()).for_each(|index| self.close(index));
        }
        // Each becomes as large as it may.
        let open = self.writers.iter().filter_map(|w| w.open.as_deref());
        let grown = |o: &Open| o.cost().max(limit);
        let mut used: u64 = open.map(grown).sum();
        // Somebody else's files may claim any size.
        let closed = self.segments.iter().map(|s| s.cost);
        used = closed.fold(used, u64::saturating_add);
        let mut gone = 0;
        while let Some(segment) = self.segments.get(gone)
            && (used.saturating_add(more) > self.budget
                || self.segments.len() - gone >= MOST_SEGMENTS)
        {
            self.folder.remove(segment.run, segment.number);
            used = used.saturating_sub(segment.cost);
            gone += 1;
        }
        self.segments.drain(..gone);
    }
}

/// There is not enough room on its file system. Where that can't be told, a write will tell.
fn is_full(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|disk| {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
        bytes(disk.blocks_available()) < ENOUGH.min(bytes(disk.blocks()) / 4)
    })
}

impl Writer {
    fn new(run: u64, started: Wall) -> Self {
        Self {
            run,
            started,
            next: 0,
            lines: 0,
            ended: None,
            open: None,
        }
    }

    /// The segment has room for that many bytes more, and was not cut or removed.
    fn takes(&mut self, bytes: u64, limit: u64, at: Wall) -> bool {
        self.open.as_mut().is_none_or(|open| {
            let records = (MOST_RECORDS * RECORD) as u64;
            let size = cost(open.size() + bytes) + cost(open.index_size() + records);
            // Once a millisecond is often enough for somebody who cuts files.
            let known = std::mem::replace(&mut open.checked, at) == at;
            size <= limit && (known || open.is_whole())
        })
    }

    /// Begins a segment.
    fn start(&mut self, folder: &Folder, first: u64) -> io::Result<()> {
        private_dir(&folder.path)?;
        let number = self.next;
        // Also if it fails: a name is used once.
        self.next += 1;
        let log = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.file(self.run, number, "log"))?;
        let header = Header {
            started: self.started,
            before: self.lines,
            first,
            ended: None,
        };
        let path = folder.file(self.run, number, "idx");
        // Somebody else's file of that name may be a FIFO, which opening it would wait for.
        let _ = fs::remove_file(&path);
        let index = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|index| {
                index.write_all_at(&header.encode(), 0)?;
                Ok(index)
            })
            .inspect_err(|_| folder.remove(self.run, number))?;
        self.open = Some(Box::new(Open {
            number,
            log,
            index,
            header,
            records: 0,
            waiting: Vec::new(),
            checked: self.started,
            last: Record::START,
            highest: first.saturating_sub(1),
        }));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        // Writing the rest tells why it stopped in the middle: the disk is full, or the file may not grow.
        open.log.write_all(bytes).inspect_err(|_| {
            // Without a part of it: the file holds what its index covers.
            let _ = open.log.set_len(open.size());
        })
    }

    fn note(&mut self, stream: Stream, bytes: usize, ended: &Ended, at: Wall) -> io::Result<()> {
        self.lines += ended.lines;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        // Of one stream: the records that would be made again in their place have the same lines.
        let may_wait = bytes >= MUCH && stream == open.last.stream;
        open.last.end += bytes as u32;
        open.last.stream = stream;
        open.last.carry = ended.carry as u32;
        open.last.at = at;
        open.last.first = ended.first;
        open.last.lines[stream as usize] += ended.lines as u32;
        open.highest = (ended.first + ended.lines).saturating_sub(1);
        open.records += 1;
        open.waiting.extend(open.last.encode());
        if may_wait && open.waiting.len() < MOST_WAITING {
            return Ok(());
        }
        open.flush()
    }

    fn end(&mut self, at: Wall, how: &str) {
        self.ended = Some((at, how.to_owned()));
        if let Some(open) = &mut self.open {
            open.header.ended = Some((at, how.to_owned()));
            let _ = open.flush();
            // Only later readers need it; the bytes are there.
            let _ = open.index.write_all_at(&open.header.encode(), 0);
        }
    }

    /// The segment that is being written, as it is now.
    fn segment(&self) -> Option<Segment> {
        let open = self.open.as_ref()?;
        let mut header = open.header.clone();
        header.ended.clone_from(&self.ended);
        Some(Segment {
            run: self.run,
            number: open.number,
            cost: open.cost(),
            written: None,
            meta: OnceLock::from(Meta {
                header,
                lines: open.last.lines,
                last: open.highest,
                last_at: open.last.at,
                sound: open.records as usize,
            }),
        })
    }

    /// The segment is written no more.
    fn close(&mut self) -> Option<Arc<Segment>> {
        if let Some(open) = &mut self.open {
            let _ = open.flush();
        }
        let mut segment = self.segment()?;
        if !self.open.take().is_some_and(|open| open.is_whole()) {
            // Somebody cut or removed the file: nothing is known of it.
            segment.meta = OnceLock::new();
        }
        Some(Arc::new(segment))
    }
}

impl Open {
    /// Opens a segment that an earlier daemon wrote, and adds to its index what that lacks.
    fn again(folder: &Folder, all: &[Arc<Segment>], at: usize) -> io::Result<Self> {
        let (run, number) = (all[at].run, all[at].number);
        let read = Opened::read(folder, &all[at], &|| 1, false)?;
        let lost = || io::Error::other("its index is lost");
        let (mut header, last, records, made, highest) = read.into_written().ok_or_else(lost)?;
        header.ended = None;
        let open = |extension| {
            let plain = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
            File::options()
                .write(true)
                .append(extension == "log")
                .custom_flags(plain)
                .open(folder.file(run, number, extension))
        };
        let mut open = Self {
            number,
            log: open("log")?,
            index: open("idx")?,
            header,
            records: records as u64,
            waiting: made.iter().flat_map(Record::encode).collect(),
            checked: Wall(0),
            last,
            highest,
        };
        // A half record behind the last whole one would be taken for it.
        open.index.set_len(open.index_size())?;
        open.index.write_all_at(&open.header.encode(), 0)?;
        open.flush()?;
        match open.is_whole() {
            true => Ok(open),
            false => Err(io::Error::other("it is written meanwhile")),
        }
    }

    /// Bytes in the log.
    fn size(&self) -> u64 {
        u64::from(self.last.end)
    }

    /// Bytes in the index.
    fn index_size(&self) -> u64 {
        HEADER as u64 + self.records * RECORD as u64
    }

    fn cost(&self) -> u64 {
        cost(self.size()) + cost(self.index_size())
    }

    /// It has a name, and is as long as we left it.
    fn is_whole(&self) -> bool {
        let size = self.size();
        fstat(self.log.as_fd()).is_ok_and(|s| s.st_nlink > 0 && s.st_size as u64 == size)
    }

    /// Writes the records that wait.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let place = self.index_size() - self.waiting.len() as u64;
        let done = self.index.write_all_at(&self.waiting, place);
        self.waiting.clear();
        done
    }
}

#[cfg(test)]
mod tests;
