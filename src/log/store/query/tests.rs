use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use super::super::testing::{Scratch, limits, open, stored, text, written};
use super::super::{Log, lock};
use super::*;
use crate::log::block::testing::Random;
use crate::log::search::{Found, Line, Query};
use crate::log::stream::Stream;

/// The same history on two logs: one keeps all in memory, one as little as it can.
struct Twins {
    folder: Scratch,
    memory: Arc<Log>,
    disk: Arc<Log>,
    /// Runs that are open.
    open: Vec<u64>,
    at: i64,
}

impl Twins {
    fn new(disk: u64) -> Self {
        let folder = Scratch::new("log-1");
        Self {
            memory: Log::new(limits(1 << 30, u64::MAX, 0), 1, 1),
            disk: open(folder.path(), disk),
            folder,
            open: Vec::new(),
            at: 1_000,
        }
    }

    fn both<T: PartialEq + std::fmt::Debug>(&self, each: impl Fn(&Log) -> T) -> T {
        let (one, other) = (each(&self.memory), each(&self.disk));
        assert_eq!(one, other);
        one
    }

    /// Ends the lines that are unfinished: a pattern is matched with them once they stand still.
    fn end_lines(&self) {
        for run in &self.open {
            for stream in Stream::ALL {
                self.both(|log| log.append(*run, stream, b" end\n"));
            }
        }
    }

    fn step(&mut self, random: &mut Random) {
        if self.open.is_empty() || (self.open.len() == 1 && random.below(50) == 0) {
            let run = self.both(|log| log.begin(Wall(self.at)));
            self.open.push(run);
        }
        let run = self.open[random.below(self.open.len())];
        match random.below(60) {
            0 => {
                self.both(|log| log.end(run, Wall(self.at), "exit code 3"));
                self.open.retain(|open| *open != run);
            }
            _ => {
                let stream = Stream::ALL[usize::from(random.below(3) == 0)];
                let text = text(random, self.at);
                self.both(|log| log.append(run, stream, &text));
                self.at += 1;
            }
        }
    }
}

fn query(random: &mut Random, last: u64, runs: usize) -> Query {
    let some = |random: &mut Random, most| (random.below(2) == 0).then(|| random.below(most));
    let mut query = Query {
        pattern: [None, Some("error"), Some("timeout 4"), Some("^1.*red")][random.below(4)]
            .map(str::to_owned),
        ignore_case: random.below(2) == 0,
        context: [0, 0, 1, 5][random.below(4)],
        head: some(random, 60),
        tail: some(random, 60),
        index: match random.below(3) {
            0 => -1,
            _ => random.below(runs) as i64,
        },
        after: some(random, last as usize + 2).map(|n| n as u64),
        stream: [None, None, Some(Stream::Stdout), Some(Stream::Stderr)][random.below(4)],
        ..Query::unhurried()
    };
    if query.after.is_some() {
        // Of runs that overlap, context is that of their page on disk.
        query.context = 0;
    }
    query
}

/// The answer without times, which are those of two clocks.
fn timeless(mut found: Found) -> Found {
    for line in &mut found.lines {
        line.at = Wall(0);
    }
    found
}

fn difference(one: &Found, other: &Found) -> String {
    let lines = one.lines.iter().zip(&other.lines);
    let first = lines.clone().position(|(a, b)| a != b);
    let show = |l: Option<&Line>| {
        let start = |l: &Line| l.text.chars().take(60).collect::<String>();
        l.map(|l| format!("{:?} {:?} {} {:?}", l.seq, l.stream, l.matched, start(l)))
    };
    let at = first.unwrap_or(one.lines.len().min(other.lines.len()));
    format!(
        "searched {} {}; {} and {} lines, {} and {} matches, {} and {} dropped, next {} {}, first difference at {at}: {:?} {:?}",
        one.searched,
        other.searched,
        one.lines.len(),
        other.lines.len(),
        one.matches,
        other.matches,
        one.dropped,
        other.dropped,
        one.next,
        other.next,
        show(one.lines.get(at)),
        show(other.lines.get(at)),
    )
}

#[test]
fn memory_and_disk_are_one_log() {
    for seed in 1..=20u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut twins = Twins::new(1 << 30);
        for _ in 0..160 {
            twins.step(&mut random);
            if random.below(20) == 0 {
                let runs = twins.memory.memory().ring.runs().len();
                let query = query(&mut random, twins.memory.next_seq(), runs);
                if query.pattern.is_some() {
                    twins.end_lines();
                }
                let both = [&twins.memory, &twins.disk];
                let [one, other] = both.map(|log| timeless(log.find(&query).unwrap()));
                assert!(
                    one == other,
                    "seed {seed}: {query:?}\n{}",
                    difference(&one, &other)
                );
            }
        }
        let [one, other] = [&twins.memory, &twins.disk].map(|log| {
            let (mut all, mut after) = (Vec::new(), 0);
            loop {
                let pulled = log.pull(after, 100_000);
                assert_eq!(pulled.dropped, 0, "seed {seed}");
                if pulled.lines.is_empty() && pulled.next == after {
                    break all;
                }
                after = pulled.next;
                let timeless = |line| Line {
                    at: Wall(0),
                    ..line
                };
                all.extend(pulled.lines.into_iter().map(timeless));
            }
        });
        let numbers = one.iter().map(|line| line.seq.unwrap());
        assert!(numbers.eq(1..twins.memory.next_seq()), "seed {seed}");
        assert!(
            one == other,
            "seed {seed}: {} and {} lines",
            one.len(),
            other.len()
        );
        // Another daemon, after an orderly end.
        for run in std::mem::take(&mut twins.open) {
            twins.both(|log| log.end(run, Wall(9_000), "exit code 0"));
        }
        let stored = stored(twins.folder.path());
        let mut disk = lock(&twins.disk.disk);
        let segments = disk.as_mut().unwrap().segments();
        drop(disk);
        let on_disk: BTreeSet<u64> = segments.iter().map(|s| s.run).collect();
        let in_memory: Vec<u64> = {
            let memory = twins.memory.memory();
            memory.ring.runs().iter().map(|run| run.number).collect()
        };
        for (run, index) in on_disk.iter().rev().zip(1..) {
            let query = Query {
                index: -index,
                ..Query::unhurried()
            };
            let then = timeless(stored.find(&query).unwrap());
            assert_eq!(then.run, Some(*run));
            let position = in_memory.iter().position(|known| known == run);
            let query = Query {
                index: position.unwrap() as i64,
                ..Query::unhurried()
            };
            let now = timeless(twins.memory.find(&query).unwrap());
            assert_eq!((then.matches, &then.exit), (now.matches, &now.exit));
            assert!(
                then.lines == now.lines,
                "seed {seed} run {run}\n{}",
                difference(&now, &then)
            );
        }
        assert_eq!(stored.next_seq(), twins.memory.next_seq());
    }
}

#[test]
fn follower_goes_on_behind_removed_files() {
    let folder = Scratch::new("log-9");
    let log = written(folder.path(), 64 << 20, 0..5_000);
    let other = log.begin(Wall(2));
    log.append(other, Stream::Stdout, b"other\n");
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let last = log.next_seq() - 1;
    let (mut after, mut lines, mut dropped) = (0, 0, 0);
    while after < last {
        let pulled = log.pull(after, 1 << 20);
        assert!(pulled.next > after, "no way on from {after}");
        after = pulled.next;
        lines += pulled.lines.len() as u64;
        dropped += pulled.dropped;
    }
    assert_eq!(lines + dropped, 5_001);
}

#[test]
fn file_is_read_up_to_where_it_was_cut() {
    let folder = Scratch::new("log-10");
    // Two parts, of which a page of the second asks for the first.
    let log = written(folder.path(), 1 << 20, 0..60_000);
    drop(log);
    let stored = stored(folder.path());
    let (_, mut pages) = stored.choose(&Query::unhurried(), None).unwrap();
    assert!(pages.lines() > 15_000);
    let mut files = 0;
    for file in fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(200).unwrap();
        files += 1;
    }
    assert!(files > 4);
    let mut lines = 0;
    while let Some(page) = pages.page(false) {
        let counts = page.iter().map(|slice| slice.lines_up_to(u64::MAX));
        lines += counts.sum::<u64>();
    }
    assert!(lines < 15_000);
}

#[test]
fn query_over_many_runs_has_one_file_open() {
    let folder = Scratch::new("log-13");
    let log = written(folder.path(), 64 << 20, 0..10);
    for _ in 0..30 {
        let run = log.begin(Wall(1));
        log.append(run, Stream::Stdout, b"line\n");
        log.end(run, Wall(2), "exit code 0");
    }
    drop(log);
    let stored = stored(folder.path());
    let query = Query {
        after: Some(0),
        ..Query::unhurried()
    };
    for forward in [false, true] {
        let (_, mut pages) = stored.choose(&query, None).unwrap();
        let open = |pages: &Pages| pages.readers.iter().filter(|r| r.is_open()).count();
        assert_eq!((open(&pages), pages.gone_after(0)), (0, 0));
        assert_eq!((pages.lines(), open(&pages)), (40, 0));
        let mut lines = 0;
        while let Some(page) = pages.page(forward) {
            assert!(open(&pages) <= 1);
            lines += page.iter().map(|s| s.lines_up_to(u64::MAX)).sum::<u64>();
        }
        assert_eq!(lines, 40);
    }
}
