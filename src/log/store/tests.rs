use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::log::block::testing::Random;
use crate::os::poll::{Mailbox, readable};

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
fn a_cursor_crosses_runs_and_an_index_names_one() {
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
fn no_run_is_no_error() {
    let log = Log::new(LIMITS, 9, 4);
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!((found.run, found.next, found.lines.len()), (None, 8, 0));
    assert_eq!(log.next_seq(), 9);
    assert!(log.tail(4, 20).is_empty());
}

#[test]
fn an_unfinished_line_keeps_the_number_it_was_shown_with() {
    let (log, run) = log();
    log.append(run, Stream::Stdout, b"a\nprompt> ");
    let shown = log.find(&Query::unhurried()).unwrap();
    assert_eq!(texts(&shown.lines), ["a", "prompt> "]);
    assert_eq!((shown.lines[1].seq, shown.next), (2, 1));
    log.append(run, Stream::Stderr, b"overtakes\n");
    let cursor = log.pull(0, 1 << 20).next;
    assert_eq!(cursor, 3);
    log.append(run, Stream::Stdout, b"yes\nnext\n");
    let whole = log.find(&Query::unhurried()).unwrap();
    assert_eq!(
        texts(&whole.lines),
        ["a", "prompt> yes", "overtakes", "next"]
    );
    assert_eq!(whole.lines[1].seq, 2);
    // A follower that had read past it gets it all the same.
    let pulled = log.pull(cursor, 1 << 20);
    assert_eq!(texts(&pulled.lines), ["prompt> yes", "next"]);
    assert_eq!(
        (pulled.lines[0].seq, pulled.next, pulled.dropped),
        (2, 5, 0)
    );
    let found = log
        .find(&Query {
            after: Some(cursor),
            ..Query::unhurried()
        })
        .unwrap();
    assert_eq!(texts(&found.lines), ["prompt> yes", "next"]);
    assert_eq!(found.next, 5);
}

#[test]
fn followers_get_each_line_once_whoever_looks_meanwhile() {
    for seed in 1..=40u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (log, run) = log();
        let other = log.begin(Wall(1));
        let (mut written, mut cursor, mut got) = (0, 0, Vec::new());
        for _ in 0..500 {
            let stream = [Stream::Stdout, Stream::Stderr][random.below(2)];
            let run = [run, other][random.below(2)];
            match random.below(6) {
                0 => drop(log.find(&Query {
                    after: Some(0),
                    ..Query::unhurried()
                })),
                1 => {
                    let pulled = log.pull(cursor, random.below(200));
                    assert_eq!(pulled.dropped, 0);
                    cursor = pulled.next;
                    got.extend(pulled.lines);
                }
                2 => log.append(run, stream, b"part "),
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
        let mut numbers: Vec<u32> = got.iter().map(number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..written), "seed {seed}");
        let mut seqs: Vec<u64> = got.iter().map(|l| l.seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        assert_eq!(seqs.len(), got.len());
    }
}

#[test]
fn a_gap_is_told() {
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
    assert_eq!(pulled.lines[0].seq, stats.dropped + 1);
    assert_eq!(log.pull(stats.dropped - 10, 1).dropped, 10);
    let found = log
        .find(&Query {
            tail: Some(1),
            ..Query::unhurried()
        })
        .unwrap();
    assert_eq!((found.dropped, found.matches), (stats.dropped, stats.lines));
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
fn one_read_is_one_wake() {
    let (log, run) = log();
    let mailbox = Mailbox::new().unwrap();
    let waker = mailbox.waker(7);
    log.follow(&waker);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&b"line\n".repeat(500)).unwrap();
    assert_eq!(
        log.read_from(run, Stream::Stdout, reader.as_fd()).unwrap(),
        2_500
    );
    let mut tokens = Vec::new();
    mailbox.take(&mut tokens);
    assert_eq!(tokens, [7]);
    waker.seen();
    writer.write_all(b"not a line yet").unwrap();
    log.read_from(run, Stream::Stdout, reader.as_fd()).unwrap();
    assert_eq!(
        readable([Some(mailbox.as_fd())], Some(Duration::ZERO)).unwrap(),
        [false]
    );
    log.end(run, Wall(1), "exit code 0");
    mailbox.take(&mut tokens);
    assert_eq!(tokens, [7, 7]);
    log.unfollow(&waker);
    waker.seen();
    log.append(run, Stream::Stdout, b"more\n");
    assert_eq!(
        readable([Some(mailbox.as_fd())], Some(Duration::ZERO)).unwrap(),
        [false]
    );
}

#[test]
fn what_a_gone_run_still_writes_is_read_and_forgotten() {
    let log = Log::new(Limits { runs: 1, ..LIMITS }, 1, 1);
    let old = log.begin(Wall(1));
    log.end(old, Wall(1), "exit code 0");
    log.begin(Wall(1));
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"late\n").unwrap();
    assert_eq!(
        log.read_from(old, Stream::Stdout, reader.as_fd()).unwrap(),
        5
    );
    assert_eq!(log.next_seq(), 1);
}
