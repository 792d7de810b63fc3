//! The files of one log: which there are, and the writing of them. Each run has files of its own, in
//! segments, so that a process that never restarts stays within the budget too.
//!
//! `RRRRRR-SS.log` (run, segment; builds `bRRRRRR-SS.log`) holds exactly what the process wrote, in the
//! order in which it was read, and `.idx` beside it says what is where. The bytes are written before
//! anybody is shown them, then the index; what a crash leaves between the two is found by its length.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::stat::fstat;
use nix::sys::statvfs::statvfs;

use super::index::{HEADER, Header, MOST, RECORD, Record};
use super::segment::{Meta, last_number};
use crate::base::clock::{Mono, Wall};
use crate::base::error::reason;
use crate::base::table::in_order;
use crate::log::block::MAX_LINE;
use crate::log::ring::{MOST_READ, Mark};
use crate::log::stream::Stream;
use crate::os::files::private_dir;

/// A file costs its size in such blocks (the common block size of file systems).
const BLOCK: u64 = 4096;
/// The budget of one kind is spread over so many segments: what goes at once is one of them.
const SEGMENTS: u64 = 8;
/// A segment takes a read that is one of many at least, and its offsets fit its index. Not more: of a small
/// budget the newest lines must stay when the oldest segment goes.
const SMALLEST: u64 = MUCH as u64 + BLOCK;
/// A segment that is larger than it must be holds up whoever waits for the log while it is removed: a
/// gigabyte takes a tenth of a second.
const QUICK: u64 = 64 << 20;
pub(super) const LARGEST: u64 = 1 << 30;
/// Records of one read: three at most for each of its halves.
const MOST_RECORDS: usize = 3 * MOST_READ / MAX_LINE;
/// A read of so much is one of many: its record may wait for the next. A crash meanwhile costs the
/// times of a few reads.
const MUCH: usize = 16 << 10;
/// Records that wait.
const MOST_WAITING: usize = 16 * RECORD;
/// Files of one log, whatever they cost: a folder stays quick to list.
const MOST_PARTS: usize = 1_000;
/// After a failure nothing is tried for so long.
const RETRY: Duration = Duration::from_secs(1);
/// A full disk is written to again once so much of it is free, or a quarter of a small one: what little
/// a failed write gave back would be full at once, and trouble be told each second.
const ENOUGH: u64 = 1 << 20;

/// What a log is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs of the process.
    Runs,
    /// Its builds.
    Builds,
}

impl Kind {
    /// Its share of a process's budget: builds come and go, and say less. The folder is a block as well.
    fn share(self, budget: u64) -> u64 {
        match self {
            Self::Runs => (budget / 8 * 7).saturating_sub(BLOCK),
            Self::Builds => budget / 8,
        }
    }

    fn stem(self, run: u64, segment: u32) -> String {
        let kind = match self {
            Self::Runs => "",
            Self::Builds => "b",
        };
        format!("{kind}{run:06}-{segment:02}")
    }

    /// `b000012-00.log` -> 12, 0. Nothing else is called so: each file is one part.
    fn parse(self, name: &str) -> Option<(u64, u32)> {
        let stem = name.strip_suffix(".log")?;
        let (run, segment) = stem.trim_start_matches('b').split_once('-')?;
        let (run, segment) = (run.parse().ok()?, segment.parse().ok()?);
        let ours = run <= MOST && segment < u32::MAX / 2 && self.stem(run, segment) == stem;
        ours.then_some((run, segment))
    }
}

/// One segment of one run on disk.
#[derive(Debug)]
pub(super) struct SegmentId {
    pub run: u64,
    pub segment: u32,
    /// What it costs, bytes.
    pub cost: u64,
    /// What is in it; read when it is asked for.
    pub meta: OnceLock<Meta>,
}

/// The folder that a log's files are in.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub path: Arc<Path>,
    pub kind: Kind,
}

impl Folder {
    /// The file of a part: `log`, or `idx`.
    pub(super) fn file(&self, run: u64, segment: u32, extension: &str) -> PathBuf {
        let stem = self.kind.stem(run, segment);
        self.path.join(format!("{stem}.{extension}"))
    }

    fn remove(&self, run: u64, segment: u32) {
        for extension in ["log", "idx"] {
            let _ = fs::remove_file(self.file(run, segment, extension));
        }
    }

    /// What is there, oldest first.
    fn parts(&self) -> Vec<Arc<SegmentId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((run, segment)) = name.to_str().and_then(|n| self.kind.parse(n)) else {
                continue;
            };
            let size = |extension| {
                let path = self.file(run, segment, extension);
                fs::symlink_metadata(path).map_or(0, |m| m.len())
            };
            found.push(Arc::new(SegmentId {
                run,
                segment,
                cost: cost(size("log")) + cost(size("idx")),
                meta: OnceLock::new(),
            }));
        }
        let found = in_order(found, |part| u64::from(part.segment));
        in_order(found, |part| part.run)
    }
}

fn cost(size: u64) -> u64 {
    size.next_multiple_of(BLOCK)
}

/// The files of one log.
#[derive(Debug)]
pub(super) struct Disk {
    pub folder: Folder,
    budget: u64,
    /// Those that nobody writes any more, oldest first.
    parts: Vec<Arc<SegmentId>>,
    writers: Vec<Writer>,
    trouble: Option<Box<Trouble>>,
    /// Since it was last asked for.
    changed: bool,
}

/// What could not be written.
#[derive(Debug)]
struct Trouble {
    why: String,
    since: Mono,
    is_full: bool,
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
    segment: u32,
    log: File,
    index: File,
    header: Header,
    records: u64,
    /// The newest of them, which are not in the file yet.
    waiting: Vec<u8>,
    /// When it was last looked at from outside.
    looked: Wall,
    last: Record,
    /// The highest number in it.
    highest: u64,
}

impl Disk {
    /// Those in the folder, and what is to come.
    pub(super) fn new(folder: Folder, budget: u64) -> Self {
        Self {
            budget: folder.kind.share(budget),
            parts: folder.parts(),
            folder,
            writers: Vec::new(),
            trouble: None,
            changed: false,
        }
    }

    /// The highest number in it, and the last run.
    pub(super) fn last(&self) -> (u64, u64) {
        let run = self.parts.last().map_or(0, |part| part.run);
        (last_number(&self.folder, &self.parts), run)
    }

    /// Another budget: what is beyond it goes now, since a process that says nothing more would keep it
    /// for ever. Of none, nothing is written, and what there is stays to be read.
    pub(super) fn set_budget(&mut self, budget: u64) {
        self.budget = self.folder.kind.share(budget);
        let limit = self.limit();
        let large = |w: &&mut Writer| w.part().is_some_and(|part| part.cost > limit);
        let closed = self.writers.iter_mut().filter(large).map(Writer::close);
        let closed = closed.collect();
        self.keep(closed);
        if limit > 0 {
            self.make_room(0);
        } else {
            self.changed |= self.trouble.take().is_some();
        }
    }

    /// What keeps lines from being written now, if that has changed.
    pub(super) fn news(&mut self) -> Option<Option<String>> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| self.trouble.as_ref().map(|t| t.why.clone()))
    }

    /// All there is now, oldest first, to be read.
    pub(super) fn now(&mut self) -> Vec<Arc<SegmentId>> {
        for index in 0..self.writers.len() {
            let open = &mut self.writers[index].open;
            if let Some(Err(e)) = open.as_mut().map(|open| open.flush()) {
                self.failed(index, &e);
            }
        }
        let open = self.writers.iter().filter_map(Writer::part);
        let all: Vec<_> = self.parts.iter().cloned().chain(open).collect();
        in_order(all, |part| part.run)
    }

    /// A run begins: one that ended before says no more, or not much.
    pub(super) fn begin(&mut self, run: u64, at: Wall) {
        let ended = self.writers.iter_mut().filter(|w| w.ended.is_some());
        let closed = ended.map(Writer::close).collect();
        self.keep(closed);
        self.writers.retain(|w| w.ended.is_none());
        self.writers.reserve_exact(1);
        self.writers.push(Writer::new(run, at));
    }

    /// The run has ended; what a grandchild of it says still comes in.
    pub(super) fn end(&mut self, run: u64, at: Wall, how: &str) {
        if let Some(writer) = self.writers.iter_mut().find(|w| w.run == run) {
            writer.end(at, how);
        }
    }

    /// What a segment may cost; zero: nothing is written, since nothing fits.
    fn limit(&self) -> u64 {
        let share = (self.budget / SEGMENTS).min(QUICK);
        let many = self.budget / (MOST_PARTS as u64 - SEGMENTS);
        match share.max(many).clamp(SMALLEST, LARGEST).min(self.budget) / BLOCK {
            0 | 1 => 0,
            blocks => blocks * BLOCK,
        }
    }

    /// How many bytes can be taken at once: a budget may be smaller than a read.
    pub(super) fn most(&self) -> usize {
        match self.limit() {
            // Half a read: who only keeps what comes is quicker when the writer goes on sooner.
            0 => MAX_LINE,
            limit => (limit - BLOCK) as usize,
        }
    }

    /// New bytes, before they are shown to anybody; at most [`Disk::most`].
    pub(super) fn write(&mut self, run: u64, bytes: &[u8], at: Wall, next_seq: u64) {
        let limit = self.limit();
        if limit == 0 {
            return;
        }
        let index = self.writer(run, at);
        let writer = &mut self.writers[index];
        if !writer.takes(bytes.len() as u64, limit, at) {
            let closed = writer.close();
            self.keep(vec![closed]);
        }
        let done = if self.writers[index].open.is_some() {
            Ok(())
        } else if self.waits() {
            return;
        } else {
            self.make_room(limit);
            self.writers[index].start(&self.folder, next_seq)
        };
        if let Err(e) = done.and_then(|()| self.writers[index].write(bytes)) {
            self.failed(index, &e);
        }
    }

    /// What those bytes came to, or what came without any.
    pub(super) fn note(&mut self, run: u64, stream: Stream, bytes: usize, mark: &Mark, at: Wall) {
        let Some(index) = self.writers.iter().position(|w| w.run == run) else {
            return;
        };
        match self.writers[index].note(stream, bytes, mark, at) {
            Err(e) => self.failed(index, &e),
            // Bytes and index: only then the trouble is over.
            Ok(()) if self.writers[index].open.is_some() => {
                self.changed |= self.trouble.take().is_some();
            }
            Ok(()) => {}
        }
    }

    /// The disk is left alone for a while. A new segment follows then, so that what is in a file has no
    /// gap.
    fn failed(&mut self, index: usize, e: &io::Error) {
        let writer = &mut self.writers[index];
        let (run, segment) = (writer.run, writer.next.saturating_sub(1));
        let is_empty = writer.open.as_ref().is_some_and(|open| open.size() == 0);
        match writer.close() {
            // Or a full disk would get two files more each second.
            Some(_) if is_empty => self.folder.remove(run, segment),
            part => self.keep(vec![part]),
        }
        let path = self.folder.file(run, segment, "log");
        self.changed = true;
        self.trouble = Some(Box::new(Trouble {
            why: format!("cannot write {}: {}", path.display(), reason(e)),
            since: Mono::now(),
            is_full: e.kind() == io::ErrorKind::StorageFull,
        }));
    }

    /// As if it had last been looked at, and in trouble, long ago.
    #[cfg(test)]
    pub(super) fn forget_when(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.since = Mono::default();
        }
        let open = self.writers.iter_mut().filter_map(|w| w.open.as_mut());
        open.for_each(|open| open.looked = Wall(0));
    }

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
        // A grandchild of an earlier run, after the next one began.
        let mut writer = Writer::new(run, at);
        let of_run = self.parts.iter().filter(|p| p.run == run);
        writer.next = of_run.map(|p| p.segment + 1).max().unwrap_or(0);
        writer.ended = Some((at, String::new()));
        self.writers.push(writer);
        self.writers.len() - 1
    }

    /// Segments that are written no more, as far as they are any, among the others.
    fn keep(&mut self, closed: Vec<Option<Arc<SegmentId>>>) {
        self.parts.extend(closed.into_iter().flatten());
        let parts = in_order(std::mem::take(&mut self.parts), |p| u64::from(p.segment));
        self.parts = in_order(parts, |p| p.run);
    }

    /// Lets the oldest go until so much more is within the budget.
    fn make_room(&mut self, more: u64) {
        let limit = self.limit();
        let open = self.writers.iter().filter(|w| w.open.is_some()).count();
        if limit * open as u64 + more > self.budget {
            let closed = self.writers.iter_mut().map(Writer::close).collect();
            self.keep(closed);
        }
        // Each becomes as large as it may.
        let open = self.writers.iter().filter_map(|w| w.open.as_deref());
        let grown = |o: &Open| (cost(o.size()) + cost(o.index_size())).max(limit);
        let mut used: u64 = open.map(grown).sum();
        // Somebody else's files may say they are of any size.
        let parts = self.parts.iter().map(|p| p.cost);
        used = parts.fold(used, u64::saturating_add);
        let mut gone = 0;
        while let Some(part) = self.parts.get(gone)
            && (used.saturating_add(more) > self.budget || self.parts.len() - gone >= MOST_PARTS)
        {
            self.folder.remove(part.run, part.segment);
            used = used.saturating_sub(part.cost);
            gone += 1;
        }
        self.parts.drain(..gone);
    }
}

/// There is not enough room on its file system; where that can't be told, trying tells.
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

    /// The segment that is being written has room for that many bytes more, and is still what it was.
    fn takes(&mut self, bytes: u64, limit: u64, at: Wall) -> bool {
        self.open.as_mut().is_none_or(|open| {
            let size = cost(open.size() + bytes)
                + cost(open.index_size() + (MOST_RECORDS * RECORD) as u64);
            // Once a millisecond is often enough for somebody who cuts files.
            let known = std::mem::replace(&mut open.looked, at) == at;
            size <= limit && (known || open.is_whole())
        })
    }

    /// Begins a segment.
    fn start(&mut self, folder: &Folder, first: u64) -> io::Result<()> {
        private_dir(&folder.path)?;
        let segment = self.next;
        // Also if it fails: a name is used once.
        self.next += 1;
        let path = folder.file(self.run, segment, "log");
        let log = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let header = Header {
            started: self.started,
            before: self.lines,
            first,
            ended: None,
        };
        // Whatever has its name, a FIFO too, which who opens it would wait at.
        let path = folder.file(self.run, segment, "idx");
        let _ = fs::remove_file(&path);
        let index = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|index| {
                index.write_all_at(&header.encode(), 0)?;
                Ok(index)
            });
        let index = match index {
            Ok(index) => index,
            Err(e) => {
                folder.remove(self.run, segment);
                return Err(e);
            }
        };
        self.open = Some(Box::new(Open {
            segment,
            log,
            index,
            header,
            records: 0,
            waiting: Vec::new(),
            looked: self.started,
            last: Record::START,
            highest: first.saturating_sub(1),
        }));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match open.log.write(bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            half => {
                // Without a part of it: the file holds what its index says.
                let _ = open.log.set_len(open.size());
                let full = io::Error::from_raw_os_error(libc::ENOSPC);
                Err(half.err().unwrap_or(full))
            }
        }
    }

    fn note(&mut self, stream: Stream, bytes: usize, mark: &Mark, at: Wall) -> io::Result<()> {
        let early = mark.pinned.map_or(0, |_| 1);
        self.lines += mark.lines + early;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let mut left = bytes;
        let mut carry = mark.carry;
        // Of one stream: what would be made again in their place has the same lines.
        let waits = bytes >= MUCH && mark.pinned.is_none() && stream == open.last.stream;
        if let Some((seq, end)) = mark.pinned {
            left -= end.min(left);
            open.record(stream, bytes - left, carry, at, (seq, 1), true);
            carry = 0;
            if let Some(place) = mark.place {
                open.record(stream, 0, carry, at, (place, 0), true);
            }
        }
        if left > 0 || mark.lines > 0 {
            let lines = (mark.first, mark.lines as u32);
            open.record(stream, left, carry, at, lines, false);
        }
        if waits && open.waiting.len() < MOST_WAITING {
            return Ok(());
        }
        open.flush()
    }

    fn end(&mut self, at: Wall, how: &str) {
        self.ended = Some((at, how.to_owned()));
        if let Some(open) = &mut self.open {
            open.header.ended = Some((at, how.to_owned()));
            let _ = open.flush();
            // Only for whoever reads it later; the bytes are there.
            let _ = open.index.write_all_at(&open.header.encode(), 0);
        }
    }

    /// What is in the segment that is being written.
    fn part(&self) -> Option<Arc<SegmentId>> {
        let open = self.open.as_ref()?;
        let mut header = open.header.clone();
        header.ended.clone_from(&self.ended);
        Some(Arc::new(SegmentId {
            run: self.run,
            segment: open.segment,
            cost: cost(open.size()) + cost(open.index_size()),
            meta: OnceLock::from(Meta {
                header,
                lines: open.last.lines,
                last: open.highest,
                last_at: open.last.at,
                sound: open.records as usize,
            }),
        }))
    }

    /// The segment is written no more.
    fn close(&mut self) -> Option<Arc<SegmentId>> {
        if let Some(open) = &mut self.open {
            let _ = open.flush();
        }
        let part = self.part();
        let whole = self.open.take().is_some_and(|open| open.is_whole());
        // Somebody cut it short, or took it away: what it holds now is to be read anew.
        match part {
            Some(part) if !whole => Some(Arc::new(SegmentId {
                meta: OnceLock::new(),
                ..Arc::into_inner(part)?
            })),
            part => part,
        }
    }
}

impl Open {
    /// Bytes in the log.
    fn size(&self) -> u64 {
        u64::from(self.last.end)
    }

    /// Bytes in the index.
    fn index_size(&self) -> u64 {
        HEADER as u64 + self.records * RECORD as u64
    }

    /// It has a name, and is as long as we left it.
    fn is_whole(&self) -> bool {
        let size = self.size();
        fstat(self.log.as_fd()).is_ok_and(|s| s.st_nlink > 0 && s.st_size as u64 == size)
    }

    fn record(
        &mut self,
        stream: Stream,
        bytes: usize,
        carry: usize,
        at: Wall,
        (first, lines): (u64, u32),
        pinned: bool,
    ) {
        let mut record = Record {
            end: self.last.end + bytes as u32,
            stream,
            carry: carry as u32,
            pinned,
            at,
            first,
            lines: self.last.lines,
        };
        record.lines[stream as usize] += lines;
        self.highest = self
            .highest
            .max((first + u64::from(lines)).saturating_sub(1));
        self.last = record;
        self.records += 1;
        self.waiting.extend(record.encode());
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
