use std::sync::Arc;

use super::*;
use crate::base::clock::{Mono, Wall};
use crate::log::block::testing::Random;
use crate::log::ring::{Limits, Ring, Scope};
use crate::log::stream::Stream;

const WORDS: &[&str] = &[
    "error",
    "Error",
    "ERROR",
    "timeout",
    "time",
    "out",
    "ok",
    "\x1b[31m",
    "\x1b[0m",
    "é",
    " ",
    " ",
    "\x1b]0;t\x07",
    "a.b",
    "axb",
    "\x1b[1",
];

/// A log of two streams, with escapes in places; all its lines; and the number of its last one.
fn log(random: &mut Random) -> (Vec<StreamSlice>, Vec<Line>, u64) {
    let limits = Limits {
        lines: 1 << 30,
        bytes: 64 << 10,
        runs: 3,
        disk: 0,
    };
    let mut ring = Ring::new(limits, 1, 1);
    let run = ring.begin(Wall(0));
    let colours = random.below(3) > 0;
    for step in 0..300 {
        let stream = [Stream::Stdout, Stream::Stderr][usize::from(random.below(3) == 0)];
        let mut text = String::new();
        for _ in 0..random.below(30) {
            let word = WORDS[random.below(WORDS.len())];
            if colours || !word.starts_with('\x1b') {
                text.push_str(word);
            }
            text.push_str(["", "", "", "\r", "\n", "\r\n"][random.below(6)]);
        }
        ring.append(
            run,
            stream,
            text.as_bytes(),
            Wall(step / 4),
            Mono::default(),
        );
    }
    let slices = ring.slices(&Scope {
        unfinished: Some(Mono::default()),
        ..Scope::default()
    });
    let complete = ring.next_seq() - 1;
    let mut all = find(&slices, &Query::default(), None, complete, &mut || false).lines;
    // Unfinished lines come last, that of standard output first.
    let count = all.len() as u64;
    let unfinished = all
        .iter_mut()
        .zip(1..)
        .filter(|(line, _)| line.seq.is_none());
    assert!(unfinished.map(|(_, place)| place).eq(complete + 1..=count));
    (slices, all, complete)
}

fn find(
    slices: &[StreamSlice],
    query: &Query,
    matcher: Option<&Matcher>,
    next: u64,
    expired: &mut dyn FnMut() -> bool,
) -> Found {
    let found = Found {
        next,
        ..Found::default()
    };
    search(slices, query, matcher, found, expired)
}

/// The right answer, found line by line.
fn slow(all: &[Line], query: &Query, matcher: &Matcher) -> (Vec<Line>, u64) {
    let hits: Vec<bool> = all.iter().map(|l| matcher.is_match(&l.text)).collect();
    let near = |at: usize| {
        let from = at.saturating_sub(query.context);
        let to = (at + query.context + 1).min(all.len());
        hits[from..to].contains(&true)
    };
    let mut lines: Vec<Line> = (0..all.len())
        .filter(|at| near(*at))
        .map(|at| Line {
            matched: hits[at],
            ..all[at].clone()
        })
        .collect();
    if let Some(tail) = query.tail {
        lines.drain(..lines.len().saturating_sub(tail));
    } else if let Some(head) = query.head {
        lines.truncate(head);
    }
    let counted = hits.iter().zip(all);
    let counted = counted.filter(|(hit, line)| **hit && line.seq.is_some());
    (lines, counted.count() as u64)
}

#[test]
fn fast_search_finds_what_a_slow_one_finds() {
    const PATTERNS: &[&str] = &[
        "error",
        "error.*timeout",
        "time out",
        "ok$",
        "^$",
        "a.b",
        "(time|out) ",
        "é",
        "\\w+ ok",
        "zzz",
        "",
        "errortimeout",
        "\r",
    ];
    let mut found = 0;
    for seed in 1..=60u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (slices, all, complete) = log(&mut random);
        for _ in 0..20 {
            let pattern = PATTERNS[random.below(PATTERNS.len())];
            let some = |random: &mut Random| (random.below(2) == 0).then(|| random.below(40));
            let query = Query {
                literal: random.below(2) == 0,
                ignore_case: random.below(2) == 0,
                context: [0, 0, 1, 3][random.below(4)],
                head: some(&mut random),
                tail: some(&mut random),
                ..Query::default()
            };
            let matcher = Matcher::new(pattern, query.literal, query.ignore_case).unwrap();
            let fast = find(&slices, &query, Some(&matcher), complete, &mut || false);
            let (lines, matches) = slow(&all, &query, &matcher);
            assert_eq!(fast.lines, lines, "seed {seed}: {pattern:?} {query:?}");
            assert_eq!(fast.matches, matches, "seed {seed}: {pattern:?} {query:?}");
            assert_eq!(fast.searched, complete);
            found += lines.len();
        }
    }
    assert!(found > 20_000, "{found}");
}

#[test]
fn context_of_many_matches_stays_within_the_budget() {
    let (slices, all, complete) = log(&mut Random(11));
    let matcher = Matcher::new(".", false, false).unwrap();
    let query = Query {
        context: 4_000,
        ..Query::default()
    };
    let mut asked = 0;
    let outcome = find(&slices, &query, Some(&matcher), complete, &mut || {
        asked += 1;
        asked > 60
    });
    assert!(all.len() > 100 && asked <= 61, "{} {asked}", all.len());
    assert!(outcome.stopped_early && outcome.matches > 100);
    assert!(!outcome.lines.is_empty());
}

#[test]
fn search_that_is_cut_short_has_the_newest_lines() {
    let block = |first: u64| {
        let bytes: Vec<u8> = b"aaaa match\n".repeat(1_000);
        let chunk = Chunk {
            first,
            at: Wall(0),
            end: bytes.len() as u32,
            lines: 1_000,
        };
        Arc::new(Block::new(bytes, vec![chunk]))
    };
    let slice = StreamSlice::new(
        1,
        Stream::Stdout,
        (0..10).map(|n| block(1 + n * 1_000)).collect(),
    );
    let query = Query {
        tail: Some(5),
        ..Query::default()
    };
    let matcher = Matcher::new("a+ ?m", false, false).unwrap();
    let mut asked = 0;
    let found = find(&[slice], &query, Some(&matcher), 10_000, &mut || {
        asked += 1;
        asked > 60
    });
    assert!(found.stopped_early);
    assert!(
        found.searched > 1_000 && found.searched < 9_000,
        "{}",
        found.searched
    );
    assert_eq!(found.lines.last().unwrap().seq, Some(10_000));
    assert_eq!(found.lines.len(), 5);
}
