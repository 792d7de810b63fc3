//! Shared by the tests of a log on disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::log::block::testing::Random;
pub(super) use crate::os::testing::Folder as Scratch;

pub(super) fn limits(bytes: u64, lines: u64, disk: u64) -> Limits {
    Limits {
        lines,
        bytes,
        runs: 100,
        disk,
    }
}

/// A log that keeps little in memory, and that much on disk.
pub(super) fn open(folder: &Path, disk: u64) -> Arc<Log> {
    let limits = limits(64 << 10, 100, disk);
    Log::open(folder.into(), Kind::Runs, limits, 1, 1)
}

/// The files of an earlier daemon.
pub(super) fn stored(folder: &Path) -> Arc<Log> {
    Log::stored(folder.into(), Kind::Runs, limits(1 << 20, 100, 0))
}

/// The same, with a line for each number in its first run.
pub(super) fn written(folder: &Path, disk: u64, lines: std::ops::Range<u64>) -> Arc<Log> {
    let log = open(folder, disk);
    let run = log.begin(Wall(1));
    for number in lines {
        log.append(run, Stream::Stdout, format!("{number}\n").as_bytes());
    }
    log
}

/// The numbers that its lines have as texts.
pub(super) fn numbered(log: &Log) -> Vec<u64> {
    let found = log
        .find(&Query {
            after: Some(0),
            ..Query::unhurried()
        })
        .unwrap();
    found
        .lines
        .iter()
        .map(|l| l.text.parse().unwrap())
        .collect()
}

pub(super) fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|l| l.text.as_str()).collect()
}

/// Some bytes that a process may write at once.
pub(super) fn text(random: &mut Random, number: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match random.below(30) {
        // Larger than a piece of a read, and than a read.
        0 if number % 3 == 0 => {
            let most = random.below(300_000);
            while bytes.len() < most {
                let line = format!("{number} error {} ", random.below(50));
                bytes.extend(line.bytes().cycle().take(random.below(400)));
                bytes.push(b'\n');
            }
            bytes.truncate(most);
        }
        0 => bytes.resize(random.below(200_000), b'L'),
        1 => bytes.resize((64 << 10) - 1 + random.below(3), b'M'),
        2 => bytes.resize(1 + random.below(300), b'\n'),
        _ => {
            for _ in 0..random.below(8) {
                let word = ["error", "timeout", "fine", "\x1b[31mred\x1b[0m"][random.below(4)];
                bytes.extend(format!("{number} {word} {}", random.below(50)).bytes());
                if random.below(4) > 0 {
                    bytes.push(b'\n');
                }
            }
        }
    }
    bytes
}

/// The bytes that the files cost.
pub(super) fn used(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap();
    let sizes = files.map(|f| f.unwrap().metadata().unwrap().len());
    sizes.map(|size| size.next_multiple_of(4096)).sum()
}

/// As if the last check of the files, and their trouble, were long ago.
pub(super) fn forget_times(log: &Log) {
    lock(&log.disk).as_mut().unwrap().forget_times();
}

/// Asks all there is to ask, so that a log that nobody wrote meets all code that reads; each answer comes to
/// an end.
pub(super) fn ask_everything(log: &Log) {
    for index in [-1, 0, 1, -2] {
        for (pattern, head, since) in [
            (None, None, None),
            (None, Some(3), Some(Wall(5))),
            (Some("error"), None, None),
            (Some("."), Some(3), None),
        ] {
            for after in [None, Some(0), Some(7), Some(u64::MAX)] {
                let query = Query {
                    pattern: pattern.map(str::to_owned),
                    context: usize::from(head.is_some()) * usize::MAX,
                    index,
                    head,
                    after,
                    since,
                    ..Query::unhurried()
                };
                drop(log.find(&query));
                drop(log.find_errors(&query, 5));
            }
        }
    }
    let mut after = 0;
    for _ in 0..100_000 {
        let pull = log.pull(after, 1 << 20);
        if pull.next == after {
            return;
        }
        assert!(pull.next > after);
        after = pull.next;
    }
    panic!("a follower without an end");
}
