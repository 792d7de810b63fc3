use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::testing::{
    Scratch, forget_times, limits, numbered, open, stored, text, used, written,
};
use crate::base::clock::Wall;
use crate::log::block::testing::Random;
use crate::log::search::Query;
use crate::log::store::{Kind, Log};
use crate::log::stream::Stream;

#[test]
fn budget_holds_whatever_is_written() {
    let folder = Scratch::new("log-4");
    let budget = 2 << 20;
    let log = open(folder.path(), budget);
    let mut random = Random(5);
    for _ in 0..40 {
        let run = log.begin(Wall(1));
        for _ in 0..50 {
            let text = text(&mut random, 1);
            log.append(run, Stream::Stdout, &text);
            assert!(used(folder.path()) <= budget);
        }
        log.end(run, Wall(2), "exit code 0");
    }
    assert!(used(folder.path()) > budget / 2, "{}", used(folder.path()));
    // Lines one by one pay for their place in the index.
    let run = log.begin(Wall(1));
    for _ in 0..100_000 {
        log.append(run, Stream::Stdout, b"\n");
    }
    assert!(
        used(folder.path()) <= budget && used(folder.path()) > budget / 2,
        "{}",
        used(folder.path())
    );
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!(found.matches + found.dropped, 100_000);
    assert!(found.dropped > 0 && found.matches > 10_000);
}

#[test]
fn cut_or_removed_file_is_followed_by_a_new_one() {
    let folder = Scratch::new("log-5");
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
        forget_times(&log);
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
fn trouble_is_reported_and_passes() {
    let folder = Scratch::new("log-6");
    let inside = folder.path().join("web");
    fs::write(&inside, b"in the way").unwrap();
    let log = written(&inside, 64 << 20, 0..10);
    let trouble = log.trouble().unwrap();
    assert!(trouble.starts_with("cannot write "), "{trouble}");
    fs::remove_file(&inside).unwrap();
    log.append(1, Stream::Stdout, b"10\n");
    assert!(log.trouble().is_some(), "not at each line");
    forget_times(&log);
    log.append(1, Stream::Stdout, b"11\n");
    assert_eq!(log.trouble(), None);
    assert!(numbered(&log).into_iter().eq(0..12));
    drop(log);
    let log = stored(&inside);
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!((found.lines[0].text.as_str(), found.dropped), ("11", 11));
}

#[test]
fn budget_holds_for_runs_that_overlap() {
    for budget in [100 << 10, 1 << 20] {
        let folder = Scratch::new("log-11");
        let log = open(folder.path(), budget);
        for _ in 0..3 {
            let runs: Vec<u64> = (0..3).map(|_| log.begin(Wall(1))).collect();
            for turn in 0..200 {
                log.append(runs[turn % 3], Stream::Stdout, &[b'\n'; 5_000]);
                let used = used(folder.path());
                assert!(used <= budget, "{used} of {budget}");
            }
            runs.iter()
                .for_each(|run| log.end(*run, Wall(2), "exit code 0"));
        }
        assert_eq!(log.trouble(), None);
    }
}

#[test]
fn smaller_budget_counts_at_once_and_for_the_next_daemon() {
    let folder = Scratch::new("log-14");
    let log = open(folder.path(), 32 << 20);
    let (old, new) = (log.begin(Wall(1)), log.begin(Wall(1)));
    for run in [old, new] {
        log.append(run, Stream::Stdout, &b"line of a run\n".repeat(400_000));
    }
    let next = log.next_seq();
    // Nobody writes anything any more.
    for budget in [8 << 20, 1 << 20, 100 << 10] {
        log.set_limits(limits(64 << 10, 100, budget));
        assert!(
            used(folder.path()) <= budget,
            "{} of {budget}",
            used(folder.path())
        );
    }
    log.set_limits(limits(64 << 10, 100, 0));
    let kept = used(folder.path());
    log.append(new, Stream::Stdout, b"in memory only\n");
    assert_eq!(used(folder.path()), kept);
    log.set_limits(limits(64 << 10, 100, 32 << 20));
    log.append(new, Stream::Stdout, &b"line of a run\n".repeat(400_000));
    assert!(used(folder.path()) > 5 << 20 && log.next_seq() == next + 400_001);
    drop(log);
    // Reading alone takes nothing away.
    let before = used(folder.path());
    let stored = stored(folder.path());
    assert_eq!(
        (used(folder.path()), stored.next_seq()),
        (before, next + 400_001)
    );
    let log = open(folder.path(), 1 << 20);
    assert!(used(folder.path()) <= 1 << 20, "{}", used(folder.path()));
    assert_eq!(log.next_seq(), next + 400_001);
}

#[test]
fn small_budget_keeps_the_newest_lines() {
    for budget in [64 << 10, 100 << 10, 256 << 10] {
        let folder = Scratch::new("log-15");
        let log = open(folder.path(), budget);
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

/// Memory may keep more lines than a small budget does on disk: those are not lost.
#[test]
fn lines_in_memory_alone_are_not_counted_as_lost() {
    let folder = Scratch::new("log-memory");
    let limits = limits(1 << 20, 5_000, 64 << 10);
    let log = Log::open(folder.path().into(), Kind::Runs, limits, 1, 1);
    let run = log.begin(Wall(1));
    for number in 1..=20_000 {
        let line = format!("{number} is the number of this line, which is one of many\n");
        log.append(run, Stream::Stdout, line.as_bytes());
    }
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!((found.matches, found.dropped), (5_000, 15_000));
    for after in [5, 15_000, 17_000] {
        let query = Query {
            after: Some(after),
            ..Query::unhurried()
        };
        let found = log.find(&query).unwrap();
        assert_eq!(found.matches + found.dropped, 20_000 - after);
        let pulled = log.pull(after, 1_000_000);
        assert_eq!(pulled.lines.len() as u64 + pulled.dropped, 20_000 - after);
    }
}

#[test]
fn trouble_ends_with_the_budget() {
    let folder = Scratch::new("log-12");
    let inside = folder.path().join("web");
    fs::write(&inside, b"in the way").unwrap();
    let log = written(&inside, 64 << 20, 0..10);
    assert!(log.trouble().is_some());
    log.set_limits(limits(64 << 10, 100, 0));
    assert_eq!(log.trouble(), None);
}
