//! The files of one log: their names, their sizes, and what is known of each.
//!
//! `RRRRRR-SS.log` (run, segment; builds `bRRRRRR-SS.log`) holds exactly the bytes that the process wrote, in
//! the order in which they were read, and `.idx` beside it is its index.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::index::{Header, MOST};
use crate::base::clock::Wall;
use crate::base::table::sort;
use crate::log::stream::Stream;
use crate::os::files;

/// A file costs its size in such blocks (the common block size of file systems).
pub(super) const BLOCK: u64 = 4096;
/// Bytes of one file at most: offsets fit an index.
pub(super) const LARGEST: u64 = 1 << 30;

/// The runs that a log is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs of the process.
    Runs,
    /// Its builds.
    Builds,
}

impl Kind {
    /// Its share of a process's budget: builds come and go, and print less. The folder is a block as well.
    pub(super) fn share(self, budget: u64) -> u64 {
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

    /// `b000012-00.log` -> 12, 0. No other name stands for the same: each file is one segment.
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
pub(super) struct Segment {
    pub run: u64,
    pub number: u32,
    /// The bytes that it costs.
    pub cost: u64,
    /// When it was written last, if nobody writes it any more.
    pub written: Option<SystemTime>,
    /// Read when it is asked for.
    pub meta: OnceLock<Meta>,
}

/// The contents of one segment, as far as they are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub header: Header,
    /// Complete lines of each stream.
    pub lines: [u32; 2],
    /// The highest number.
    pub last: u64,
    /// The time of the last byte.
    pub last_at: Wall,
    /// Records of its index that are in order.
    pub sound: usize,
}

/// Of the lines of each stream those of one, or all.
pub(super) fn lines_of(lines: [u32; 2], stream: Option<Stream>) -> u64 {
    match stream {
        Some(stream) => u64::from(lines[stream as usize]),
        None => lines.into_iter().map(u64::from).sum(),
    }
}

/// The folder that a log's files are in.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub path: Arc<Path>,
    pub kind: Kind,
}

impl Folder {
    /// The file of a segment: `log`, or `idx`.
    pub(super) fn file(&self, run: u64, segment: u32, extension: &str) -> PathBuf {
        let stem = self.kind.stem(run, segment);
        self.path.join(format!("{stem}.{extension}"))
    }

    pub(super) fn remove(&self, run: u64, segment: u32) {
        for extension in ["log", "idx"] {
            let _ = fs::remove_file(self.file(run, segment, extension));
        }
    }

    /// The segments that are there, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        let mut found = Vec::new();
        for entry in files::entries(&self.path) {
            let name = entry.file_name();
            let Some((run, number)) = name.to_str().and_then(|n| self.kind.parse(n)) else {
                continue;
            };
            let about = |extension| fs::symlink_metadata(self.file(run, number, extension)).ok();
            let (log, index) = (about("log"), about("idx"));
            let size = |file: &Option<Metadata>| file.as_ref().map_or(0, Metadata::len);
            found.push(Arc::new(Segment {
                run,
                number,
                cost: cost(size(&log)) + cost(size(&index)),
                written: log.and_then(|log| log.modified().ok()),
                meta: OnceLock::new(),
            }));
        }
        in_order(&mut found);
        found
    }
}

/// Sorts segments, oldest first.
pub(super) fn in_order(segments: &mut [Arc<Segment>]) {
    sort(segments, |a, b| (a.run, a.number).cmp(&(b.run, b.number)));
}

/// The bytes that a file of this size costs.
pub(super) fn cost(size: u64) -> u64 {
    size.next_multiple_of(BLOCK)
}
