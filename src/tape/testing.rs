//! Logs on disk against logs in memory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::block::testing::Random;
use crate::os::testing::Folder;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

fn limits(bytes: u64, lines: u64, disk: u64) -> Limits {
    Limits {
        lines,
        bytes,
        runs: 100,
        disk,
    }
}

/// The same history on two logs: one keeps all in memory, one as little as it can.
struct Twins {
    folder: Folder,
    memory: Arc<Tape>,
    disk: Arc<Tape>,
    /// Runs that are open.
    open: Vec<u64>,
    at: i64,
}

impl Twins {
    fn new(disk: u64) -> Self {
        let folder = Folder::new("tape-1");
        let small = limits(64 << 10, 100, disk);
        Self {
            memory: Tape::new(limits(1 << 30, u64::MAX, 0), 1, 1),
            disk: Tape::open(folder.path().into(), Kind::Runs, small, 1, 1),
            folder,
            open: Vec::new(),
            at: 1_000,
        }
    }

    fn both<T: PartialEq + std::fmt::Debug>(&self, each: impl Fn(&Tape) -> T) -> T {
        let (one, other) = (each(&self.memory), each(&self.disk));
        assert_eq!(one, other);
        one
    }

    fn step(&mut self, random: &mut Random) {
        if self.open.is_empty() || (self.open.len() == 1 && random.below(50) == 0) {
            let run = self.both(|tape| tape.begin(Wall(self.at)));
            self.open.push(run);
        }
        let run = self.open[random.below(self.open.len())];
        match random.below(60) {
            0 => {
                self.both(|tape| tape.end(run, Wall(self.at), "exit code 3"));
                self.open.retain(|open| *open != run);
            }
            1 => drop(self.both(|tape| tape.find(&Query::default()).unwrap().next)),
            _ => {
                let stream = STREAMS[usize::from(random.below(3) == 0)];
                let text = text(random, self.at);
                self.both(|tape| tape.append(run, stream, &text));
                self.at += 1;
            }
        }
    }
}

fn text(random: &mut Random, number: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match random.below(30) {
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
        budget: std::time::Duration::from_secs(60),
        ..Query::default()
    };
    if query.after.is_some() {
        // Beside late lines, and of runs that overlap, context is that of their page on disk.
        query.context = 0;
    }
    query
}

/// What does not depend on the clock, nor on how lines lie in blocks.
fn essence(mut found: Found) -> Found {
    found.searched = 0;
    for line in &mut found.lines {
        line.at = Wall(0);
    }
    found
}

#[test]
fn memory_and_disk_are_one_log() {
    for seed in 1..=40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut twins = Twins::new(1 << 30);
        for _ in 0..160 {
            twins.step(&mut random);
            if random.below(20) == 0 {
                let runs = twins.memory.lock().ring.runs().len();
                let query = query(&mut random, twins.memory.next_seq(), runs);
                let [one, other] =
                    [&twins.memory, &twins.disk].map(|t| essence(t.find(&query).unwrap()));
                assert!(
                    one == other,
                    "seed {seed}: {query:?}\n{}",
                    difference(&one, &other)
                );
            }
        }
        let mut pulled = [&twins.memory, &twins.disk].map(|tape| {
            let (mut all, mut after) = (Vec::new(), 0);
            loop {
                let pulled = tape.pull(after, 100_000);
                assert_eq!(pulled.dropped, 0, "seed {seed}");
                if pulled.lines.is_empty() && pulled.next == after {
                    break all;
                }
                after = pulled.next;
                all.extend(pulled.lines);
            }
        });
        for lines in &mut pulled {
            lines.iter_mut().for_each(|l| l.at = Wall(0));
            // A late line comes at its place from memory, at its number from disk.
            lines.sort_by_key(|l| l.seq);
        }
        // A late line that left memory before a follower came to its place is not looked for on disk.
        let late = twins.memory.lock().ring.late_numbers();
        for lines in &mut pulled {
            lines.retain(|line| !late.contains(&line.seq));
        }
        let [one, other] = pulled;
        assert!(
            one == other,
            "seed {seed}: {} and {} lines",
            one.len(),
            other.len()
        );
        // Another daemon, after an orderly end.
        for run in std::mem::take(&mut twins.open) {
            twins.both(|tape| tape.end(run, Wall(9_000), "exit code 0"));
        }
        let stored = Tape::stored(
            twins.folder.path().into(),
            Kind::Runs,
            limits(1 << 20, 100, 0),
        );
        let runs: Vec<u64> = twins
            .disk
            .lock()
            .disk
            .as_mut()
            .unwrap()
            .now()
            .iter()
            .map(|p| p.run)
            .collect();
        let runs = runs.iter().collect::<std::collections::BTreeSet<_>>().len();
        for index in 0..runs as i64 {
            let query = Query {
                index: index - runs as i64,
                ..Query::default()
            };
            let then = essence(stored.find(&query).unwrap());
            let run = then.run.unwrap();
            let position = twins
                .memory
                .lock()
                .ring
                .runs()
                .iter()
                .position(|r| r.number == run);
            let query = Query {
                index: position.unwrap() as i64,
                ..Query::default()
            };
            let now = essence(twins.memory.find(&query).unwrap());
            assert_eq!((then.matches, &then.exit), (now.matches, &now.exit));
            assert!(
                then.lines == now.lines,
                "seed {seed} run {run}\n{}",
                difference(&now, &then)
            );
        }
        assert!(
            stored.next_seq()
                >= twins
                    .memory
                    .lock()
                    .ring
                    .next_number()
                    .min(stored.next_seq())
        );
    }
}

fn difference(one: &Found, other: &Found) -> String {
    let lines = one.lines.iter().zip(&other.lines);
    let first = lines.clone().position(|(a, b)| a != b);
    let show = |l: Option<&Line>| {
        l.map(|l| format!("{} {:?} {} {:.60?}", l.seq, l.stream, l.matched, l.text))
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

/// Numbers of lines 1, 2, ... as texts.
fn numbered(tape: &Tape) -> Vec<u64> {
    let found = tape
        .find(&Query {
            after: Some(0),
            ..Query::default()
        })
        .unwrap();
    found
        .lines
        .iter()
        .map(|l| l.text.parse().unwrap())
        .collect()
}

fn written(folder: &Path, disk: u64, lines: std::ops::Range<u64>) -> Arc<Tape> {
    let tape = Tape::open(folder.into(), Kind::Runs, limits(64 << 10, 100, disk), 1, 1);
    let run = tape.begin(Wall(1));
    for number in lines {
        tape.append(run, Stream::Stdout, format!("{number}\n").as_bytes());
    }
    tape
}

#[test]
fn an_index_that_is_lost_or_torn_or_garbage_loses_no_line() {
    let folder = Folder::new("tape-2");
    drop(written(folder.path(), 64 << 20, 0..3_000));
    let index = folder.path().join("000001-00.idx");
    let whole = fs::read(&index).unwrap();
    let mut random = Random(99);
    for attempt in 0..200 {
        let mut bytes = whole.clone();
        match attempt % 4 {
            0 => bytes.truncate(random.below(whole.len())),
            1 => {
                let at = random.below(whole.len() - 40);
                let noise: Vec<u8> = (0..40).map(|_| random.below(256) as u8).collect();
                bytes[at..at + 40].copy_from_slice(&noise);
            }
            2 => bytes.extend((0..random.below(100)).map(|_| random.below(256) as u8)),
            _ => {
                bytes = (0..random.below(whole.len()))
                    .map(|_| random.below(256) as u8)
                    .collect()
            }
        }
        fs::write(&index, &bytes).unwrap();
        let tape = Tape::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
        assert!(
            numbered(&tape).into_iter().eq(0..3_000),
            "attempt {attempt} {:?}",
            numbered(&tape).len()
        );
        assert!(tape.next_seq() > 3_000);
    }
    fs::remove_file(&index).unwrap();
    let tape = Tape::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
    assert!(numbered(&tape).into_iter().eq(0..3_000));
}

#[test]
fn what_a_crash_cut_off_between_log_and_index_is_found() {
    for cut in [1, 2, 31, 32, 33, 100, 5_000] {
        let folder = Folder::new("tape-3");
        drop(written(folder.path(), 64 << 20, 0..3_000));
        let index = folder.path().join("000001-00.idx");
        let bytes = fs::read(&index).unwrap();
        fs::write(&index, &bytes[..bytes.len() - cut]).unwrap();
        let tape = Tape::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
        let found = tape.find(&Query::default()).unwrap();
        let seqs: Vec<u64> = found.lines.iter().map(|l| l.seq).collect();
        assert!(seqs.into_iter().eq(1..=3_000), "{cut}");
        assert_eq!(tape.next_seq(), 3_001);
    }
}

#[test]
fn the_budget_holds_whatever_is_written() {
    let folder = Folder::new("tape-4");
    let budget = 2 << 20;
    let used = || -> u64 {
        let files = fs::read_dir(folder.path()).unwrap();
        let blocks = files.map(|f| f.unwrap().metadata().unwrap().len().next_multiple_of(4096));
        blocks.sum()
    };
    let tape = Tape::open(
        folder.path().into(),
        Kind::Runs,
        limits(64 << 10, 100, budget),
        1,
        1,
    );
    let mut random = Random(5);
    for _ in 0..40 {
        let run = tape.begin(Wall(1));
        for _ in 0..50 {
            let text = text(&mut random, 1);
            tape.append(run, Stream::Stdout, &text);
            assert!(used() <= budget);
        }
        tape.end(run, Wall(2), "exit code 0");
    }
    assert!(used() > budget / 2, "{}", used());
    // Lines one by one pay for their place in the index.
    let run = tape.begin(Wall(1));
    for _ in 0..100_000 {
        tape.append(run, Stream::Stdout, b"\n");
    }
    assert!(used() <= budget && used() > budget / 2, "{}", used());
    let found = tape.find(&Query::default()).unwrap();
    assert_eq!(found.matches + found.dropped, 100_000);
    assert!(found.dropped > 0 && found.matches > 10_000);
}

#[test]
fn a_file_that_is_cut_or_taken_away_is_followed_by_a_new_one() {
    let folder = Folder::new("tape-5");
    let tape = written(folder.path(), 64 << 20, 0..100);
    let names = || {
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with(".log"))
            .collect();
        names.sort();
        names
    };
    let append = |line: &[u8]| {
        tape.lock().disk.as_mut().unwrap().forget_when();
        tape.append(1, Stream::Stdout, line);
    };
    let log = |segment: u32| folder.path().join(format!("000001-{segment:02}.log"));
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(log(0))
        .unwrap();
    append(b"100\n");
    assert_eq!(fs::read(log(1)).unwrap(), b"100\n");
    fs::remove_file(log(1)).unwrap();
    append(b"101\n");
    assert_eq!(fs::read(log(2)).unwrap(), b"101\n");
    fs::remove_dir_all(folder.path()).unwrap();
    append(b"102\n");
    assert_eq!(fs::read(log(3)).unwrap(), b"102\n");
    assert_eq!(names(), ["000001-03.log"]);
    assert_eq!(tape.trouble(), None);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&log(3)), mode(folder.path())), (0o600, 0o700));
    // A hundred of them are in memory still.
    assert!(numbered(&tape).into_iter().eq(3..103));
}

#[test]
fn trouble_is_told_and_passes() {
    let folder = Folder::new("tape-6");
    let inside = folder.path().join("web");
    fs::write(&inside, b"in the way").unwrap();
    let tape = written(&inside, 64 << 20, 0..10);
    let trouble = tape.trouble().unwrap();
    assert!(trouble.starts_with("cannot write "), "{trouble}");
    fs::remove_file(&inside).unwrap();
    tape.append(1, Stream::Stdout, b"10\n");
    assert!(tape.trouble().is_some(), "not at each line");
    tape.lock().disk.as_mut().unwrap().forget_when();
    tape.append(1, Stream::Stdout, b"11\n");
    assert_eq!(tape.trouble(), None);
    assert!(numbered(&tape).into_iter().eq(0..12));
    drop(tape);
    let tape = Tape::stored(inside.as_path().into(), Kind::Runs, limits(1 << 20, 100, 0));
    let found = tape.find(&Query::default()).unwrap();
    assert_eq!((found.lines[0].text.as_str(), found.dropped), ("11", 11));
}
