//! Logs on disk against logs in memory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::log::block::testing::Random;
use crate::os::testing::Folder;

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
    memory: Arc<Log>,
    disk: Arc<Log>,
    /// Runs that are open.
    open: Vec<u64>,
    at: i64,
}

impl Twins {
    fn new(disk: u64) -> Self {
        let folder = Folder::new("tape-1");
        let small = limits(64 << 10, 100, disk);
        Self {
            memory: Log::new(limits(1 << 30, u64::MAX, 0), 1, 1),
            disk: Log::open(folder.path().into(), Kind::Runs, small, 1, 1),
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
            1 => drop(self.both(|log| log.find(&Query::unhurried()).unwrap().next)),
            _ => {
                let stream = Stream::ALL[usize::from(random.below(3) == 0)];
                let text = text(random, self.at);
                self.both(|log| log.append(run, stream, &text));
                self.at += 1;
            }
        }
    }
}

fn text(random: &mut Random, number: i64) -> Vec<u8> {
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
        let mut pulled = [&twins.memory, &twins.disk].map(|log| {
            let (mut all, mut after) = (Vec::new(), 0);
            loop {
                let pulled = log.pull(after, 100_000);
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
            twins.both(|log| log.end(run, Wall(9_000), "exit code 0"));
        }
        let stored = Log::stored(
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
                ..Query::unhurried()
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
                ..Query::unhurried()
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
fn numbered(log: &Log) -> Vec<u64> {
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

fn written(folder: &Path, disk: u64, lines: std::ops::Range<u64>) -> Arc<Log> {
    let log = Log::open(folder.into(), Kind::Runs, limits(64 << 10, 100, disk), 1, 1);
    let run = log.begin(Wall(1));
    for number in lines {
        log.append(run, Stream::Stdout, format!("{number}\n").as_bytes());
    }
    log
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
        let log = Log::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
        assert!(
            numbered(&log).into_iter().eq(0..3_000),
            "attempt {attempt} {:?}",
            numbered(&log).len()
        );
        assert!(log.next_seq() > 3_000);
    }
    fs::remove_file(&index).unwrap();
    let log = Log::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
    assert!(numbered(&log).into_iter().eq(0..3_000));
}

#[test]
fn what_a_crash_cut_off_between_log_and_index_is_found() {
    for cut in [1, 2, 31, 32, 33, 100, 5_000] {
        let folder = Folder::new("tape-3");
        drop(written(folder.path(), 64 << 20, 0..3_000));
        let index = folder.path().join("000001-00.idx");
        let bytes = fs::read(&index).unwrap();
        fs::write(&index, &bytes[..bytes.len() - cut]).unwrap();
        let log = Log::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
        let found = log.find(&Query::unhurried()).unwrap();
        let seqs: Vec<u64> = found.lines.iter().map(|l| l.seq).collect();
        assert!(seqs.into_iter().eq(1..=3_000), "{cut}");
        assert_eq!(log.next_seq(), 3_001);
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
    let log = Log::open(
        folder.path().into(),
        Kind::Runs,
        limits(64 << 10, 100, budget),
        1,
        1,
    );
    let mut random = Random(5);
    for _ in 0..40 {
        let run = log.begin(Wall(1));
        for _ in 0..50 {
            let text = text(&mut random, 1);
            log.append(run, Stream::Stdout, &text);
            assert!(used() <= budget);
        }
        log.end(run, Wall(2), "exit code 0");
    }
    assert!(used() > budget / 2, "{}", used());
    // Lines one by one pay for their place in the index.
    let run = log.begin(Wall(1));
    for _ in 0..100_000 {
        log.append(run, Stream::Stdout, b"\n");
    }
    assert!(used() <= budget && used() > budget / 2, "{}", used());
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!(found.matches + found.dropped, 100_000);
    assert!(found.dropped > 0 && found.matches > 10_000);
}

#[test]
fn a_file_that_is_cut_or_taken_away_is_followed_by_a_new_one() {
    let folder = Folder::new("tape-5");
    let log = written(folder.path(), 64 << 20, 0..100);
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
        log.lock().disk.as_mut().unwrap().forget_when();
        log.append(1, Stream::Stdout, line);
    };
    let file = |segment: u32| folder.path().join(format!("000001-{segment:02}.log"));
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(file(0))
        .unwrap();
    append(b"100\n");
    assert_eq!(fs::read(file(1)).unwrap(), b"100\n");
    fs::remove_file(file(1)).unwrap();
    append(b"101\n");
    assert_eq!(fs::read(file(2)).unwrap(), b"101\n");
    fs::remove_dir_all(folder.path()).unwrap();
    append(b"102\n");
    assert_eq!(fs::read(file(3)).unwrap(), b"102\n");
    assert_eq!(names(), ["000001-03.log"]);
    assert_eq!(log.trouble(), None);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file(3)), mode(folder.path())), (0o600, 0o700));
    // A hundred of them are in memory still.
    assert!(numbered(&log).into_iter().eq(3..103));
}

#[test]
fn trouble_is_told_and_passes() {
    let folder = Folder::new("tape-6");
    let inside = folder.path().join("web");
    fs::write(&inside, b"in the way").unwrap();
    let log = written(&inside, 64 << 20, 0..10);
    let trouble = log.trouble().unwrap();
    assert!(trouble.starts_with("cannot write "), "{trouble}");
    fs::remove_file(&inside).unwrap();
    log.append(1, Stream::Stdout, b"10\n");
    assert!(log.trouble().is_some(), "not at each line");
    log.lock().disk.as_mut().unwrap().forget_when();
    log.append(1, Stream::Stdout, b"11\n");
    assert_eq!(log.trouble(), None);
    assert!(numbered(&log).into_iter().eq(0..12));
    drop(log);
    let log = Log::stored(inside.as_path().into(), Kind::Runs, limits(1 << 20, 100, 0));
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!((found.lines[0].text.as_str(), found.dropped), ("11", 11));
}

/// Everything there is to ask, so that a log that nobody wrote meets all code that reads; each answer
/// comes to an end.
fn ask_everything(log: &Log) {
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

#[test]
fn what_is_no_file_holds_up_nobody() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("tape-7");
    let path = |name: &str| folder.path().join(name);
    drop(written(folder.path(), 64 << 20, 0..10));
    let fifo = |name: &str| nix::unistd::mkfifo(&path(name), nix::sys::stat::Mode::S_IRWXU);
    fifo("000002-00.log").unwrap();
    symlink("/dev/zero", path("000003-00.log")).unwrap();
    fs::create_dir(path("000004-00.log")).unwrap();
    fs::write(path("000005-00.log"), "five\n").unwrap();
    fifo("000005-00.idx").unwrap();
    symlink("nowhere", path("000006-00.log")).unwrap();
    // Names that no file of ours has.
    for name in [
        "1-0.log",
        "0000001-00.log",
        "000001-000.log",
        "18446744073709551615-00.log",
        "000007-4294967295.log",
        "-.log",
    ] {
        fs::write(path(name), "other\n").unwrap();
    }
    // Where our next index will be.
    let theirs = path("theirs");
    fs::write(&theirs, "theirs").unwrap();
    symlink(&theirs, path("000007-00.idx")).unwrap();
    fifo("000007-01.idx").unwrap();
    let log = Log::open(
        folder.path().into(),
        Kind::Runs,
        limits(64 << 10, 100, 64 << 20),
        1,
        1,
    );
    assert_eq!(log.begin(Wall(1)), 7);
    log.append(7, Stream::Stdout, b"seven\n");
    fs::remove_file(path("000007-00.log")).unwrap();
    log.lock().disk.as_mut().unwrap().forget_when();
    log.append(7, Stream::Stdout, b"eight\n");
    assert_eq!(log.trouble(), None);
    assert_eq!(fs::read(path("000007-01.log")).unwrap(), b"eight\n");
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    let found = |index| {
        let query = Query {
            index,
            ..Query::unhurried()
        };
        log.find(&query).unwrap().lines
    };
    assert_eq!(texts(&found(-1)), ["seven", "eight"]);
    assert_eq!(texts(&found(4)), ["five"]);
    assert_eq!(found(0).len(), 10);
    ask_everything(&log);
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|l| l.text.as_str()).collect()
}

#[test]
fn an_index_that_lies_is_answered_as_well() {
    use super::index::{HEADER, Header, RECORD, Record};
    let folder = Folder::new("tape-8");
    let twice = written(folder.path(), 64 << 20, 0..40);
    twice.append(1, Stream::Stderr, &[b'x'; 100_000]);
    twice.append(1, Stream::Stderr, b"error\nunfinished");
    drop(twice);
    let index = folder.path().join("000001-00.idx");
    let whole = fs::read(&index).unwrap();
    let mut random = Random(4242);
    let wild = |random: &mut Random| {
        let near = [0, 1, 1 << 16, 1 << 31, 1 << 32, 1 << 53, 1 << 63, u64::MAX];
        let near = near[random.below(near.len())];
        near.wrapping_add(random.below(5) as u64).wrapping_sub(2)
    };
    for _ in 0..40 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below((whole.len() - HEADER) / RECORD + 1);
            if at == 0 {
                let mut header = Header::decode(bytes[..HEADER].try_into().unwrap())
                    .unwrap_or_else(|| {
                        Header::decode(whole[..HEADER].try_into().unwrap()).unwrap()
                    });
                match random.below(3) {
                    0 => header.first = wild(&mut random),
                    1 => header.before = wild(&mut random),
                    _ => header.started = Wall(wild(&mut random) as i64),
                }
                bytes[..HEADER].copy_from_slice(&header.encode());
                continue;
            }
            let place = HEADER + (at - 1) * RECORD;
            let Some(mut record) = Record::decode(bytes[place..place + RECORD].try_into().unwrap())
            else {
                continue;
            };
            match random.below(7) {
                0 => record.end = wild(&mut random) as u32,
                1 => record.carry = wild(&mut random) as u32,
                2 => record.pinned = true,
                3 => record.at = Wall(wild(&mut random) as i64),
                4 => record.first = wild(&mut random),
                5 => record.lines[random.below(2)] = wild(&mut random) as u32,
                _ => record.stream = Stream::ALL[random.below(2)],
            }
            bytes[place..place + RECORD].copy_from_slice(&record.encode());
        }
        fs::write(&index, &bytes).unwrap();
        let log = Log::open(
            folder.path().into(),
            Kind::Runs,
            limits(64 << 10, 100, 64 << 20),
            1,
            1,
        );
        ask_everything(&log);
        let run = log.begin(Wall(1));
        log.append(run, Stream::Stdout, b"one\ntwo");
        log.end(run, Wall(2), "exit code 0");
        let found = log.find(&Query::unhurried()).unwrap();
        assert_eq!(texts(&found.lines), ["one", "two"]);
        ask_everything(&log);
        drop(log);
        for extension in ["log", "idx"] {
            fs::remove_file(folder.path().join(format!("{run:06}-00.{extension}"))).unwrap();
        }
    }
}

#[test]
fn a_follower_goes_on_behind_what_is_on_disk_no_more() {
    let folder = Folder::new("tape-9");
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
fn a_file_that_is_cut_while_it_is_read_is_read_to_there() {
    let folder = Folder::new("tape-10");
    // Two parts, of which a page of the second asks for the first.
    let log = written(folder.path(), 1 << 20, 0..60_000);
    drop(log);
    let stored = Log::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
    let mut view = stored.select(&Query::unhurried()).unwrap().open();
    assert!(view.lines() > 15_000);
    let mut files = 0;
    for file in fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(200).unwrap();
        files += 1;
    }
    assert!(files > 4);
    let mut lines = 0;
    view.each_page(false, 0, &mut |lanes, _| {
        lines += lanes.iter().map(StreamSlice::lines).sum::<u64>();
        crate::log::search::Go::On
    });
    assert!(lines < 15_000);
}

#[test]
fn the_budget_holds_for_runs_that_overlap() {
    for budget in [100 << 10, 1 << 20] {
        let folder = Folder::new("tape-11");
        let log = Log::open(
            folder.path().into(),
            Kind::Runs,
            limits(64 << 10, 100, budget),
            1,
            1,
        );
        for _ in 0..3 {
            let runs: Vec<u64> = (0..3).map(|_| log.begin(Wall(1))).collect();
            for turn in 0..200 {
                log.append(runs[turn % 3], Stream::Stdout, &[b'\n'; 5_000]);
                let files = fs::read_dir(folder.path()).unwrap();
                let sizes = files.map(|f| f.unwrap().metadata().unwrap().len());
                let used: u64 = sizes.map(|size| size.next_multiple_of(4096)).sum();
                assert!(used <= budget, "{used} of {budget}");
            }
            runs.iter()
                .for_each(|run| log.end(*run, Wall(2), "exit code 0"));
        }
        assert_eq!(log.trouble(), None);
    }
}

#[test]
fn a_smaller_budget_counts_at_once_and_for_the_next_daemon() {
    let folder = Folder::new("tape-14");
    let used = || -> u64 {
        let files = fs::read_dir(folder.path()).unwrap();
        let blocks = files.map(|f| f.unwrap().metadata().unwrap().len().next_multiple_of(4096));
        blocks.sum()
    };
    let open = |disk| {
        let limits = limits(64 << 10, 100, disk);
        Log::open(folder.path().into(), Kind::Runs, limits, 1, 1)
    };
    let log = open(32 << 20);
    let (old, new) = (log.begin(Wall(1)), log.begin(Wall(1)));
    for run in [old, new] {
        log.append(run, Stream::Stdout, &b"line of a run\n".repeat(400_000));
    }
    let next = log.next_seq();
    // Nobody writes anything any more.
    for budget in [8 << 20, 1 << 20, 100 << 10] {
        log.set_limits(limits(64 << 10, 100, budget));
        assert!(used() <= budget, "{} of {budget}", used());
    }
    log.set_limits(limits(64 << 10, 100, 0));
    let kept = used();
    log.append(new, Stream::Stdout, b"in memory only\n");
    assert_eq!(used(), kept);
    log.set_limits(limits(64 << 10, 100, 32 << 20));
    log.append(new, Stream::Stdout, &b"line of a run\n".repeat(400_000));
    assert!(used() > 5 << 20 && log.next_seq() == next + 400_001);
    drop(log);
    // Reading alone takes nothing away.
    let before = used();
    let stored = limits(64 << 10, 100, 1 << 20);
    let stored = Log::stored(folder.path().into(), Kind::Runs, stored);
    assert_eq!((used(), stored.next_seq()), (before, next + 400_001));
    let log = open(1 << 20);
    assert!(used() <= 1 << 20, "{}", used());
    assert_eq!(log.next_seq(), next + 400_001);
}

#[test]
fn a_small_budget_keeps_the_newest_lines() {
    for budget in [64 << 10, 100 << 10, 256 << 10] {
        let folder = Folder::new("tape-15");
        let limits = limits(64 << 10, 100, budget);
        let log = Log::open(folder.path().into(), Kind::Runs, limits, 1, 1);
        let run = log.begin(Wall(1));
        let mut written = 0;
        while written < 8 * budget {
            log.append(run, Stream::Stdout, &b"0123456789012345678\n".repeat(100));
            written += 2_000;
            let files = fs::read_dir(folder.path()).unwrap();
            let sizes = files.map(|f| f.unwrap().metadata().unwrap().len());
            let kept: u64 = sizes.sum();
            assert!(kept >= written.min(budget / 5), "{kept} of {budget}");
        }
    }
}

#[test]
fn trouble_is_over_once_nothing_is_to_be_written() {
    let folder = Folder::new("tape-12");
    let inside = folder.path().join("web");
    fs::write(&inside, b"in the way").unwrap();
    let log = written(&inside, 64 << 20, 0..10);
    assert!(log.trouble().is_some());
    log.set_limits(limits(64 << 10, 100, 0));
    assert_eq!(log.trouble(), None);
}

#[test]
fn a_query_over_many_runs_has_one_file_open() {
    let folder = Folder::new("tape-13");
    let log = written(folder.path(), 64 << 20, 0..10);
    for _ in 0..30 {
        let run = log.begin(Wall(1));
        log.append(run, Stream::Stdout, b"line\n");
        log.end(run, Wall(2), "exit code 0");
    }
    drop(log);
    let stored = Log::stored(folder.path().into(), Kind::Runs, limits(1 << 20, 100, 0));
    let query = Query {
        after: Some(0),
        ..Query::unhurried()
    };
    for follows in [false, true] {
        let mut view = match follows {
            false => stored.select(&query).unwrap(),
            true => stored.select_since(0),
        }
        .open();
        assert_eq!(view.files(), 0);
        view.gone();
        assert_eq!(view.files(), 0);
        if follows {
            view.first_page();
            assert_eq!(view.files(), 0);
            continue;
        }
        assert_eq!(view.lines(), 40);
        assert_eq!(view.files(), 0);
        for forward in [false, true] {
            view.each_page(forward, 0, &mut |_, _| crate::log::search::Go::On);
            assert!(view.files() <= 1);
        }
    }
}
