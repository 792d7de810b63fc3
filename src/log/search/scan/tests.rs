use super::*;
use crate::base::clock::Wall;
use crate::log::block::testing::Random;
use crate::log::ring::{Limits, Ring};
use crate::log::search::Stream;

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

/// A log of two streams, with escapes in places, and all its lines.
fn log(random: &mut Random) -> (Vec<StreamSlice>, Vec<Line>) {
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
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let room = ring.room(run, stream).unwrap();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            ring.commit(run, stream, count, Wall(step / 4));
            bytes = &bytes[count..];
        }
    }
    let lanes = ring.of_run(run, None).lanes;
    let all = search(&lanes, &Query::default(), None, &mut || false).lines;
    (lanes, all)
}

/// What the answer should be, line by line.
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
    (lines, hits.iter().filter(|hit| **hit).count() as u64)
}

#[test]
fn the_fast_way_finds_what_the_slow_way_finds() {
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
        let (lanes, all) = log(&mut random);
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
            let fast = search(&lanes, &query, Some(&matcher), &mut || false);
            let (lines, matches) = slow(&all, &query, &matcher);
            assert_eq!(fast.lines, lines, "seed {seed}: {pattern:?} {query:?}");
            assert_eq!(fast.matches, matches, "seed {seed}: {pattern:?} {query:?}");
            assert_eq!(fast.searched as usize, all.len());
            found += lines.len();
        }
    }
    assert!(found > 20_000, "{found}");
}

#[test]
fn what_is_beside_many_matches_is_looked_for_within_the_budget() {
    let (lanes, all) = log(&mut Random(11));
    let matcher = Matcher::new(".", false, false).unwrap();
    let query = Query {
        context: 4_000,
        ..Query::default()
    };
    let mut asked = 0;
    let outcome = search(&lanes, &query, Some(&matcher), &mut || {
        asked += 1;
        asked > 60
    });
    assert!(all.len() > 100 && asked <= 61, "{} {asked}", all.len());
    assert!(outcome.stopped_early && outcome.matches > 100);
    assert!(!outcome.lines.is_empty());
}

#[test]
fn a_search_that_is_cut_short_has_the_newest_and_says_so() {
    let block = |first: u64| {
        let bytes: Vec<u8> = b"aaaa match\n".repeat(1_000);
        let chunk = Chunk {
            first,
            at: Wall(0),
            end: bytes.len() as u32,
            lines: 1_000,
        };
        std::sync::Arc::new(Block::new(bytes, vec![chunk]))
    };
    let lane = StreamSlice::new(
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
    let found = search(&[lane], &query, Some(&matcher), &mut || {
        asked += 1;
        asked > 60
    });
    assert!(found.stopped_early);
    assert!(
        found.searched > 1_000 && found.searched < 9_000,
        "{}",
        found.searched
    );
    assert_eq!(found.lines.last().unwrap().seq, 10_000);
    assert_eq!(found.lines.len(), 5);
}
