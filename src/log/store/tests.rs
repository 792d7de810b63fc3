use super::testing::{Scratch, open, stored, text};
use super::*;
use crate::log::block::testing::Random;
use crate::os::inbox::Mailbox;

const LIMITS: Limits = Limits {
    lines: 100_000,
    bytes: 1 << 20,
    runs: 10,
    disk: 0,
};

fn log() -> (Arc<Log>, u64) {
    let log = Log::new(LIMITS, 1, 1);
    let run = log.begin(Wall(1));
    (log, run)
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|l| l.text.as_str()).collect()
}

#[test]
fn cursor_crosses_runs_and_index_names_one() {
    let (log, first) = log();
    log.append(first, Stream::Stdout, b"one\ntwo\nunfinished");
    log.end(first, Wall(5), "exit code 3");
    let second = log.begin(Wall(6));
    log.append(second, Stream::Stderr, b"three\n");
    let find = |query: Query| log.find(&query).unwrap();
    let newest = find(Query::unhurried());
    assert_eq!((newest.run, newest.index, newest.next), (Some(2), -1, 4));
    assert_eq!(texts(&newest.lines), ["three"]);
    let before = find(Query {
        index: 0,
        ..Query::unhurried()
    });
    assert_eq!((before.run, before.index), (Some(1), -2));
    assert_eq!(before.exit.as_deref(), Some("exit code 3"));
    assert_eq!(texts(&before.lines), ["one", "two", "unfinished"]);
    let after = find(Query {
        after: Some(2),
        ..Query::unhurried()
    });
    assert_eq!(texts(&after.lines), ["unfinished", "three"]);
    assert_eq!(after.run, Some(2));
    for index in [2, -3, i64::MIN, i64::MAX] {
        let refused = log.find(&Query {
            index,
            ..Query::unhurried()
        });
        assert_eq!(refused, Err(QueryError::NoRun { index, known: 2 }));
    }
    let only = find(Query {
        after: Some(0),
        stream: Some(Stream::Stderr),
        ..Query::unhurried()
    });
    assert_eq!(texts(&only.lines), ["three"]);
    assert!(
        find(Query {
            since: Some(Wall(i64::MAX)),
            ..Query::unhurried()
        })
        .lines
        .is_empty()
    );
    assert_eq!(
        find(Query {
            since: Some(Wall(2)),
            ..Query::unhurried()
        })
        .lines
        .len(),
        1
    );
}

#[test]
fn log_without_runs_is_no_error() {
    let log = Log::new(LIMITS, 9, 4);
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!((found.run, found.next, found.lines.len()), (None, 8, 0));
    assert_eq!(log.next_seq(), 9);
    assert!(log.tail(4, 20).is_empty());
}

#[test]
fn unfinished_line_is_shown_last_and_has_no_number() {
    let (log, run) = log();
    log.append(run, Stream::Stdout, b"a\nprompt> ");
    let shown = log.find(&Query::unhurried()).unwrap();
    assert_eq!(texts(&shown.lines), ["a", "prompt> "]);
    assert_eq!((shown.lines[0].seq, shown.lines[1].seq), (Some(1), None));
    assert_eq!((shown.matches, shown.searched, shown.next), (1, 1, 1));
    log.append(run, Stream::Stderr, b"comes first\n");
    let shown = log.find(&Query::unhurried()).unwrap();
    assert_eq!(texts(&shown.lines), ["a", "comes first", "prompt> "]);
    let pulled = log.pull(0, 1 << 20);
    assert_eq!((texts(&pulled.lines).len(), pulled.next), (2, 2));
    // A later read with the cursor has it, longer or whole.
    let after = Query {
        after: Some(shown.next),
        ..Query::unhurried()
    };
    assert_eq!(texts(&log.find(&after).unwrap().lines), ["prompt> "]);
    assert!(!log.append(run, Stream::Stdout, b"yes\n"));
    let whole = log.find(&after).unwrap();
    assert_eq!(texts(&whole.lines), ["prompt> yes"]);
    assert_eq!((whole.lines[0].seq, whole.next), (Some(3), 3));
    let pulled = log.pull(2, 1 << 20);
    assert_eq!(texts(&pulled.lines), ["prompt> yes"]);
}

#[test]
fn unfinished_line_is_matched_once_it_stands_still() {
    let (log, run) = log();
    assert!(log.append(run, Stream::Stdout, b"a\nprompt> "));
    let pattern = Query {
        pattern: Some("prompt".into()),
        ..Query::unhurried()
    };
    // It may stand still by now, on a slow machine.
    let begun = Mono::now();
    let found = log.find(&pattern).unwrap();
    let slow = Mono::now().since(begun) >= STILL;
    assert!(slow || found.lines.is_empty());
    assert!(slow || log.still(None).is_empty());
    let deadline = Mono::now().after(Duration::from_secs(60));
    while log.still(Some(run)).is_empty() {
        assert!(Mono::now() < deadline);
        std::thread::yield_now();
    }
    let still = log.still(None);
    assert_eq!((texts(&still), still[0].seq), (vec!["prompt> "], None));
    assert!(log.still(Some(run + 1)).is_empty());
    let found = log.find(&pattern).unwrap();
    assert_eq!((texts(&found.lines), found.matches), (vec!["prompt> "], 0));
    assert!(found.lines[0].matched);
}

#[test]
fn disk_that_hangs_holds_up_no_start_and_no_end() {
    let folder = Scratch::new("log-17");
    let log = testing::open(folder.path(), 64 << 20);
    let run = log.begin(Wall(1));
    log.append(run, Stream::Stdout, b"one\ntwo");
    let disk = lock(&log.disk);
    log.end(run, Wall(2), "exit code 3");
    let other = log.begin(Wall(3));
    log.set_limits(LIMITS);
    assert_eq!(texts(&log.tail(run, 5)), ["one", "two"]);
    assert_eq!(texts(&log.head(run, 1).unwrap()), ["one"]);
    assert_eq!((log.stats().lines, log.next_seq()), (2, 3));
    assert_eq!(log.pull(0, 1 << 20).lines.len(), 2);
    drop(disk);
    log.set_limits(Limits {
        disk: 64 << 20,
        ..LIMITS
    });
    log.append(other, Stream::Stdout, b"three\n");
    drop(log);
    let stored = testing::stored(folder.path());
    let found = stored.find(&Query {
        index: -2,
        ..Query::unhurried()
    });
    let found = found.unwrap();
    assert_eq!(texts(&found.lines), ["one", "two"]);
    assert_eq!(found.exit.as_deref(), Some("exit code 3"));
    assert_eq!(stored.next_seq(), 4);
}

#[test]
fn followers_get_each_line_once() {
    for seed in 1..=40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (log, run) = log();
        let other = log.begin(Wall(1));
        let (mut written, mut cursor, mut got) = (0, 0, Vec::new());
        for _ in 0..500 {
            let stream = [Stream::Stdout, Stream::Stderr][random.below(2)];
            let run = [run, other][random.below(2)];
            match random.below(5) {
                0 => {
                    let pulled = log.pull(cursor, random.below(200));
                    assert_eq!(pulled.dropped, 0);
                    cursor = pulled.next;
                    got.extend(pulled.lines);
                }
                1 => drop(log.append(run, stream, b"part ")),
                _ => {
                    log.append(run, stream, format!("line {written}\n").as_bytes());
                    written += 1;
                }
            }
        }
        loop {
            let pulled = log.pull(cursor, 100);
            if pulled.lines.is_empty() {
                break;
            }
            cursor = pulled.next;
            got.extend(pulled.lines);
        }
        assert_eq!(cursor + 1, log.next_seq());
        let number = |l: &Line| l.text.rsplit(' ').next().unwrap().parse::<u32>().unwrap();
        assert!(got.iter().map(number).eq(0..written), "seed {seed}");
        let seqs = got.iter().filter_map(|l| l.seq);
        assert!(seqs.eq(1..=u64::from(written)));
    }
}

#[test]
fn gap_is_reported() {
    let (log, run) = log();
    for n in 0..40_000 {
        log.append(
            run,
            Stream::Stdout,
            format!("a line of some length {n:06}\n").as_bytes(),
        );
    }
    let stats = log.stats();
    assert_eq!(stats.lines + stats.dropped, 40_000);
    let pulled = log.pull(0, 100);
    assert_eq!(pulled.dropped, stats.dropped);
    assert_eq!(pulled.lines[0].seq, Some(stats.dropped + 1));
    assert_eq!(log.pull(stats.dropped - 10, 1).dropped, 10);
    let found = log
        .find(&Query {
            tail: Some(1),
            ..Query::unhurried()
        })
        .unwrap();
    assert_eq!((found.dropped, found.matches), (stats.dropped, stats.lines));
    assert!(log.head(run, 1).is_none());
    // The run goes with all its lines.
    for _ in 0..10 {
        log.end(run, Wall(2), "exit code 0");
        let next = log.begin(Wall(3));
        log.end(next, Wall(4), "exit code 0");
    }
    assert_eq!(log.stats().dropped, 40_000);
    assert_eq!(log.pull(39_990, 1).dropped, 10);
}

#[test]
fn one_append_is_one_wake() {
    let (log, run) = log();
    let mailbox = Mailbox::new().unwrap();
    let waker = mailbox.waker(7);
    let woken = || {
        let mut tokens = Vec::new();
        mailbox.take(&mut tokens);
        waker.seen();
        tokens.len()
    };
    log.follow(&waker);
    log.append(run, Stream::Stdout, &b"line\n".repeat(50_000));
    assert_eq!(woken(), 1);
    log.append(run, Stream::Stdout, b"not a line yet");
    assert_eq!(woken(), 0);
    log.end(run, Wall(1), "exit code 0");
    assert_eq!(woken(), 1);
    log.unfollow(&waker);
    log.append(run, Stream::Stdout, b"more\n");
    assert_eq!(woken(), 0);
}

#[test]
fn output_of_a_gone_run_is_forgotten() {
    let log = Log::new(Limits { runs: 1, ..LIMITS }, 1, 1);
    let old = log.begin(Wall(1));
    log.end(old, Wall(1), "exit code 0");
    log.begin(Wall(1));
    assert!(!log.append(old, Stream::Stdout, b"late\n"));
    assert_eq!(log.next_seq(), 1);
}

#[test]
fn resumed_run_goes_on_as_if_nothing_had_happened() {
    for seed in 0..4 {
        let mut random = Random(seed);
        let (one, other) = (Scratch::new("whole"), Scratch::new("resumed"));
        let whole = open(one.path(), 8 << 20);
        let mut resumed = open(other.path(), 8 << 20);
        let run = whole.begin(Wall(1));
        assert_eq!(resumed.begin(Wall(1)), run);
        for number in 0..40 {
            let stream = Stream::ALL[random.below(2)];
            let bytes = text(&mut random, number);
            whole.append(run, stream, &bytes);
            resumed.append(run, stream, &bytes);
            if random.below(4) == 0 {
                // Killed: nobody ends the run, and records that wait are lost.
                resumed = open(other.path(), 8 << 20);
                resumed.resume(run, Wall(1), 1);
                assert_eq!(resumed.next_seq(), whole.next_seq(), "seed {seed}");
            }
        }
        let lines = |log: &Log| {
            let query = Query {
                after: Some(0),
                ..Query::unhurried()
            };
            let found = log.find(&query).unwrap();
            assert_eq!(found.dropped, 0);
            let lines = found.lines.into_iter();
            let lines = lines.map(|l| (l.seq, l.run, l.stream, l.text));
            (found.matches, lines.collect::<Vec<_>>())
        };
        assert_eq!(lines(&whole), lines(&resumed), "seed {seed}");
        for log in [&whole, &resumed] {
            log.end(run, Wall(9), "exit code 0");
        }
        assert_eq!(lines(&whole), lines(&resumed), "seed {seed}");
        let files = |folder: &Scratch| {
            let names = std::fs::read_dir(folder.path()).unwrap().flatten();
            let mut names: Vec<_> = names.map(|f| f.path()).collect();
            names.retain(|f| f.extension().is_some_and(|e| e == "log"));
            names.sort();
            names
                .iter()
                .flat_map(|f| std::fs::read(f).unwrap())
                .collect::<Vec<u8>>()
        };
        assert!(files(&one) == files(&other), "seed {seed}");
        assert_eq!(lines(&whole), lines(&stored(other.path())), "seed {seed}");
    }
}

type SeenLine = (Option<u64>, u64, Stream, String);

/// The lines of a log as a follower sees them, but for times.
fn seen(log: &Log) -> (Vec<SeenLine>, u64, u64) {
    let (mut lines, mut dropped, mut after) = (Vec::new(), 0, 0);
    while after + 1 < log.next_seq() {
        let pulled = log.pull(after, 1 << 20);
        dropped += pulled.dropped;
        after = pulled.next;
        lines.extend(pulled.lines);
    }
    let lines = lines.into_iter();
    let lines = lines.map(|line| (line.seq, line.run, line.stream, line.text));
    (lines.collect(), dropped, log.stats().printed)
}

fn assert_same(logs: &[Arc<Log>; 2], place: &str) {
    let [a, b] = logs.each_ref().map(|log| seen(log));
    assert_eq!((a.0.len(), a.1, a.2), (b.0.len(), b.1, b.2), "{place}");
    for (a, b) in a.0.iter().zip(&b.0) {
        assert_eq!((a.0, a.1, a.2), (b.0, b.1, b.2), "{place}");
        assert!(a.3 == b.3, "{place}: {:?} is another", a.0);
    }
}

#[test]
fn restored_log_goes_on_as_if_nothing_had_been() {
    for (seed, disk) in (0..12).zip([0, 64 << 10, 80 << 20].into_iter().cycle()) {
        let mut random = Random(seed + 1);
        let folders = ["a", "b"].map(|name| Scratch::new(&format!("restored-{name}-{seed}")));
        let limits = Limits {
            lines: 1_000_000,
            bytes: 16 << 20,
            runs: 4,
            disk,
        };
        let mut logs = folders
            .each_ref()
            .map(|folder| Log::open(folder.path().into(), Kind::Runs, limits, 1, 1));
        let mut runs = Vec::new();
        for step in 0..150_i64 {
            match random.below(40) {
                0 => runs.push(logs.each_ref().map(|log| log.begin(Wall(step)))[0]),
                1 if !runs.is_empty() => {
                    let run = runs.swap_remove(random.below(runs.len()));
                    logs.iter()
                        .for_each(|log| log.end(run, Wall(step), "exit code 0"));
                }
                2..6 => {
                    let mut bytes = Vec::new();
                    let saved = logs[1].save(&mut bytes).to_string();
                    let saved = serde_json::from_str(&saved).unwrap();
                    let folder = folders[1].path().into();
                    let log = Log::restore(Some(&folder), Kind::Runs, limits, &saved, &bytes);
                    logs[1] = log.unwrap();
                    assert_same(&logs, &format!("seed {seed}, step {step}"));
                }
                _ if !runs.is_empty() => {
                    let run = runs[random.below(runs.len())];
                    let stream = Stream::ALL[random.below(2)];
                    let text = super::testing::text(&mut random, step);
                    for log in &logs {
                        log.append(run, stream, &text);
                    }
                }
                _ => {}
            }
        }
        for (log, run) in logs
            .iter()
            .flat_map(|log| runs.iter().map(move |run| (log, *run)))
        {
            log.end(run, Wall(1_000), "exit code 0");
        }
        assert_same(&logs, &format!("seed {seed}"));
        assert_eq!(logs[1].next_run(), logs[0].next_run());
        let files = |log: &Log| log.with_disk(|disk| disk.as_mut().map(|d| d.segments().len()));
        assert_eq!(
            files(&logs[1]),
            files(&logs[0]),
            "seed {seed}: the same files"
        );
    }
}
