use std::fs;
use std::os::unix::fs::symlink;

use super::super::index::{HEADER, Header, RECORD, Record};
use super::super::testing::{
    Scratch, ask_everything, forget_times, numbered, open, stored, texts, written,
};
use crate::base::clock::Wall;
use crate::log::block::testing::Random;
use crate::log::search::Query;
use crate::log::stream::Stream;

#[test]
fn lost_or_damaged_index_loses_no_line() {
    let folder = Scratch::new("log-2");
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
        let log = stored(folder.path());
        assert!(
            numbered(&log).into_iter().eq(0..3_000),
            "attempt {attempt} {:?}",
            numbered(&log).len()
        );
        assert!(log.next_seq() > 3_000);
    }
    fs::remove_file(&index).unwrap();
    let log = stored(folder.path());
    assert!(numbered(&log).into_iter().eq(0..3_000));
}

#[test]
fn bytes_without_an_index_are_found_after_a_crash() {
    for cut in [1, 2, 31, 32, 33, 100, 5_000] {
        let folder = Scratch::new("log-3");
        drop(written(folder.path(), 64 << 20, 0..3_000));
        let index = folder.path().join("000001-00.idx");
        let bytes = fs::read(&index).unwrap();
        fs::write(&index, &bytes[..bytes.len() - cut]).unwrap();
        let log = stored(folder.path());
        let found = log.find(&Query::unhurried()).unwrap();
        let seqs: Vec<u64> = found.lines.iter().filter_map(|l| l.seq).collect();
        assert!(seqs.into_iter().eq(1..=3_000), "{cut}");
        assert_eq!(log.next_seq(), 3_001);
    }
}

#[test]
fn fifos_and_links_hold_up_nobody() {
    let folder = Scratch::new("log-7");
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
    let log = open(folder.path(), 64 << 20);
    assert_eq!(log.begin(Wall(1)), 7);
    log.append(7, Stream::Stdout, b"seven\n");
    fs::remove_file(path("000007-00.log")).unwrap();
    forget_times(&log);
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

#[test]
fn index_that_lies_is_answered_too() {
    let folder = Scratch::new("log-8");
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
    for _ in 0..20 {
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
            match random.below(6) {
                0 => record.end = wild(&mut random) as u32,
                1 => record.carry = wild(&mut random) as u32,
                2 => record.at = Wall(wild(&mut random) as i64),
                3 => record.first = wild(&mut random),
                4 => record.lines[random.below(2)] = wild(&mut random) as u32,
                _ => record.stream = Stream::ALL[random.below(2)],
            }
            bytes[place..place + RECORD].copy_from_slice(&record.encode());
        }
        fs::write(&index, &bytes).unwrap();
        let log = open(folder.path(), 64 << 20);
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
fn file_of_0_1_0_with_a_line_that_was_shown_unfinished_is_read() {
    let folder = Scratch::new("log-16");
    fs::write(
        folder.path().join("000001-00.log"),
        "one\nprompt> err\nyes\ntwo\n",
    )
    .unwrap();
    let header = Header {
        started: Wall(1),
        before: 0,
        first: 1,
        ended: None,
    };
    let record = |end, stream, first, lines| Record {
        end,
        stream,
        carry: if end == 20 { 8 } else { 0 },
        at: Wall(7),
        first,
        lines,
    };
    let pinned = |record: Record| {
        // The mark and the sum that 0.1.0 wrote.
        let mut bytes = record.encode();
        let (low, high) = (u32::from_le_bytes(bytes[4..8].try_into().unwrap()), 1 << 19);
        for check in 0..1 << 12 {
            bytes[4..8].copy_from_slice(&(low & 0xfffff | high | check << 20).to_le_bytes());
            if Record::decode(&bytes).is_some() {
                return bytes;
            }
        }
        panic!("no such record");
    };
    let (out, err) = (Stream::Stdout, Stream::Stderr);
    let index = [
        record(12, out, 2, [1, 0]).encode(),
        // `prompt> ` had got the number 2, and 3 came before it was whole; followers got it as 4.
        record(16, err, 3, [1, 1]).encode(),
        pinned(record(20, out, 2, [2, 1])),
        pinned(record(20, out, 4, [2, 1])),
        record(24, out, 5, [3, 1]).encode(),
    ];
    let mut first = index;
    first[0] = record(12, out, 1, [1, 0]).encode();
    let bytes = [&header.encode()[..], first.as_flattened()].concat();
    fs::write(folder.path().join("000001-00.idx"), bytes).unwrap();
    let log = stored(folder.path());
    let found = log.find(&Query::unhurried()).unwrap();
    assert_eq!(texts(&found.lines), ["one", "err", "prompt> yes", "two"]);
    let seqs: Vec<_> = found.lines.iter().filter_map(|l| l.seq).collect();
    assert!(seqs.is_sorted() && seqs[0] == 1, "{seqs:?}");
    assert!(found.lines.iter().all(|l| l.at == Wall(7)));
    let pulled = log.pull(0, 1 << 20);
    assert_eq!(texts(&pulled.lines), texts(&found.lines));
}
