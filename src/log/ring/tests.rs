use std::collections::HashMap;

use super::*;
use crate::log::block::MergeIter;
use crate::log::block::testing::Random;

/// The rules of lines and numbers, a byte at a time.
#[derive(Default)]
struct Model {
    next: u64,
    /// The unfinished line of each stream of a run.
    parts: HashMap<(u64, bool), Vec<u8>>,
    lines: Vec<(u64, u64, bool, Vec<u8>)>,
}

impl Model {
    fn feed(&mut self, run: u64, err: bool, bytes: &[u8]) {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let mut part = self.parts.remove(&(run, err)).unwrap_or_default();
            for byte in text {
                if part.len() == MAX_LINE {
                    self.add(run, err, std::mem::take(&mut part));
                }
                part.push(*byte);
            }
            if line.len() > text.len() {
                part.push(b'\n');
                self.add(run, err, std::mem::take(&mut part));
            }
            self.parts.insert((run, err), part);
        }
    }

    fn finish(&mut self, run: u64, err: bool) {
        let part = self.parts.remove(&(run, err)).unwrap_or_default();
        if !part.is_empty() {
            self.add(run, err, part);
        }
    }

    fn add(&mut self, run: u64, err: bool, bytes: Vec<u8>) {
        self.lines.push((self.next, run, err, bytes));
        self.next += 1;
    }

    /// The lines of a run; the unfinished ones come last, with the numbers that they would get.
    fn of_run(&self, run: u64) -> Vec<(u64, bool, &[u8])> {
        let done = self.lines.iter().filter(|l| l.1 == run);
        let mut all: Vec<_> = done.map(|l| (l.0, l.2, &l.3[..])).collect();
        for err in [false, true] {
            let part = self.parts.get(&(run, err)).filter(|part| !part.is_empty());
            let next = all
                .last()
                .map_or(self.next, |last| (last.0 + 1).max(self.next));
            all.extend(part.map(|bytes| (next, err, &bytes[..])));
        }
        all
    }
}

fn write(ring: &mut Ring, run: u64, err: bool, bytes: &[u8], at: Wall) {
    let stream = Stream::ALL[usize::from(err)];
    for piece in bytes.chunks(MAX_LINE) {
        let before = ring.next_seq();
        let ended = ring.append(run, stream, piece, at, Mono::default());
        if let Some(ended) = ended {
            assert_eq!(
                (ended.first, ended.lines),
                (before, ring.next_seq() - before)
            );
        }
    }
}

fn all(ring: &Ring, run: u64) -> Vec<StreamSlice> {
    ring.slices(&Scope {
        run: Some(run),
        unfinished: Some(Mono::default()),
        ..Scope::default()
    })
}

fn text(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    match random.below(40) {
        0 => bytes.resize(random.below(150_000), b'L'),
        1 => bytes.resize(MAX_LINE - 1 + random.below(3), b'M'),
        2 => bytes.resize(1 + random.below(300), b'\n'),
        _ => {
            for _ in 0..random.below(6) {
                let length = random.below(90);
                let byte = b'a' + random.below(26) as u8;
                bytes.resize(bytes.len() + length, byte);
                if random.below(4) > 0 {
                    bytes.push(b'\n');
                }
            }
        }
    }
    bytes
}

fn held(ring: &Ring) -> usize {
    let tracks = ring.runs.iter().flat_map(|r| &r.tracks);
    tracks.map(Track::held).sum()
}

#[test]
fn ring_agrees_with_a_model_that_goes_byte_by_byte() {
    for seed in 1..=120u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let limits = Limits {
            lines: [100, 1_000, 10_000_000][random.below(3)],
            bytes: [64 << 10, 300 << 10, 64 << 20][random.below(3)],
            runs: 1 + random.below(5),
            disk: 0,
        };
        let mut ring = Ring::new(limits, 7, 3);
        let mut model = Model {
            next: 7,
            ..Model::default()
        };
        let mut open = Vec::new();
        for step in 0..300i64 {
            let at = Wall(1_000 + step / 3);
            if open.is_empty() || (open.len() == 1 && random.below(40) == 0) {
                open.push(ring.begin(at));
            }
            let run = open[random.below(open.len())];
            match random.below(30) {
                0 => {
                    for stream in Stream::ALL {
                        model.finish(run, stream == Stream::Stderr);
                        ring.end_line(run, stream);
                    }
                    ring.end(run, at, "exit code 0");
                    open.retain(|r| *r != run);
                }
                1..=4 => compare(&ring, &model, &limits, run),
                _ => {
                    let (bytes, err) = (text(&mut random), random.below(3) == 0);
                    model.feed(run, err, &bytes);
                    write(&mut ring, run, err, &bytes, at);
                }
            }
            assert_eq!(ring.next_seq, model.next, "seed {seed} step {step}");
            assert_eq!(ring.held, held(&ring));
            let slack = 4 * 2 * MAX_LINE;
            assert!(ring.held <= limits.bytes as usize + slack, "{}", ring.held);
            let (kept, dropped) = ring.counts();
            assert_eq!(kept + dropped, model.lines.len() as u64);
            assert!(ring.runs().len() <= limits.runs + open.len());
        }
    }
}

/// The ring shows the end of what the model knows of a run, without a hole.
fn compare(ring: &Ring, model: &Model, limits: &Limits, run: u64) {
    let slices = all(ring, run);
    let known = model.of_run(run);
    let walk = MergeIter::up(&slices, 0).map(|(slice, at)| {
        let slice = &slices[slice];
        (at.seq, slice.stream == Stream::Stderr, slice.bytes(&at).0)
    });
    let shown: Vec<_> = walk.collect();
    let (hidden, expected) = known.split_at(known.len() - shown.len());
    assert!(shown == expected, "run {run}");
    let back = MergeIter::down(&slices, u64::MAX).map(|(_, at)| at.seq);
    assert!(back.eq(shown.iter().rev().map(|l| l.0)));
    assert_eq!(ring.gone_of(run).unwrap().lines as usize, hidden.len());
    let complete = shown.iter().filter(|l| l.0 < ring.next_seq()).count() as u64;
    let counted = slices.iter().map(|s| s.lines_up_to(ring.next_seq() - 1));
    assert_eq!(complete, counted.sum::<u64>());
    assert!(complete <= limits.lines);
    if limits.bytes == 64 << 20 {
        let most = known.iter().filter(|l| l.0 < ring.next_seq()).count() as u64;
        assert_eq!(complete, most.min(limits.lines));
    }
    // From the middle on, whatever it is.
    let after = shown.get(shown.len() / 2).map_or(0, |line| line.0);
    let scope = Scope {
        run: Some(run),
        after,
        ..Scope::default()
    };
    let later = ring.slices(&scope);
    let later = MergeIter::up(&later, 0).map(|(_, at)| at.seq);
    let rest = shown.iter().map(|l| l.0);
    assert!(later.eq(rest.filter(|seq| *seq > after && *seq < ring.next_seq())));
}

fn limits(bytes: u64) -> Limits {
    Limits {
        lines: 1_000_000,
        bytes,
        runs: 10,
        disk: 0,
    }
}

#[test]
fn idle_ring_holds_nothing() {
    let mut ring = Ring::new(limits(1 << 20), 1, 1);
    let run = ring.begin(Wall(1));
    ring.end(run, Wall(2), "exit code 0");
    assert_eq!(ring.held, 0);
}

#[test]
fn ring_stays_within_its_bytes() {
    let limit = 1 << 20;
    let mut ring = Ring::new(limits(limit as u64), 1, 1);
    let run = ring.begin(Wall(1));
    write(&mut ring, run, false, &vec![b'\n'; 3 << 20], Wall(1));
    assert!(ring.held <= limit && ring.held > limit / 2);
    // Each line in a read of its own, at a time of its own, the streams taking turns.
    for step in 0..100_000i64 {
        write(&mut ring, run, step % 2 == 0, b"\n", Wall(step));
    }
    assert!(ring.held <= limit && ring.held > limit / 2);
    write(&mut ring, run, true, &vec![b'x'; 5 << 20], Wall(9));
    assert!(ring.held <= limit && ring.held > limit / 2);
}

#[test]
fn rare_lines_of_one_stream_evict_few_of_the_other() {
    let mut ring = Ring::new(limits(256 << 10), 1, 1);
    let run = ring.begin(Wall(1));
    let line = [&[b'o'; 99][..], b"\n"].concat();
    for _ in 0..3_000 {
        write(&mut ring, run, true, b"e\n", Wall(1));
        for _ in 0..10 {
            write(&mut ring, run, false, &line, Wall(1));
        }
    }
    let slices = all(&ring, run);
    let shown: u64 = slices.iter().map(|s| s.lines_up_to(u64::MAX)).sum();
    assert!(shown > 1_800, "{shown}");
}

#[test]
fn unfinished_line_is_seen_once_it_stands_still() {
    let mut ring = Ring::new(limits(1 << 20), 1, 1);
    let run = ring.begin(Wall(1));
    let second = |n| Mono::default().after(std::time::Duration::from_secs(n));
    ring.append(run, Stream::Stdout, b"a\nlogin: ", Wall(1), second(5));
    let texts = |ring: &Ring, unfinished| -> Vec<(u64, Vec<u8>)> {
        let slices = ring.slices(&Scope {
            unfinished,
            ..Scope::default()
        });
        let lines = MergeIter::up(&slices, 0).map(|(s, at)| (at.seq, slices[s].bytes(&at).0));
        lines.map(|(seq, bytes)| (seq, bytes.to_vec())).collect()
    };
    let line = |seq, text: &str| (seq, text.as_bytes().to_vec());
    assert_eq!(texts(&ring, None), [line(1, "a\n")]);
    assert_eq!(texts(&ring, Some(second(4))), [line(1, "a\n")]);
    let both = [line(1, "a\n"), line(2, "login: ")];
    assert_eq!(texts(&ring, Some(second(5))), both);
    // It has no number yet: another line gets it.
    ring.append(run, Stream::Stderr, b"b\n", Wall(1), second(6));
    let all = [line(1, "a\n"), line(2, "b\n"), line(3, "login: ")];
    assert_eq!(texts(&ring, Some(second(6))), all);
    assert_eq!(ring.next_seq(), 3);
}
