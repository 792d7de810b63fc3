use std::collections::HashMap;

use super::*;
use crate::log::block::MergeIter;
use crate::log::block::testing::Random;

/// The rules of lines and numbers, a byte at a time.
#[derive(Default)]
struct Model {
    next: u64,
    /// Of each stream of a run: the unfinished line, and its number if it was seen.
    parts: HashMap<(u64, bool), (Vec<u8>, Option<u64>)>,
    lines: Vec<(u64, u64, bool, Vec<u8>)>,
    highest: u64,
}

impl Model {
    fn feed(&mut self, run: u64, err: bool, bytes: &[u8]) {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let mut part = self.parts.remove(&(run, err)).unwrap_or_default();
            for byte in text {
                if part.0.len() == MAX_LINE {
                    self.add(run, err, std::mem::take(&mut part));
                }
                part.0.push(*byte);
            }
            if line.len() > text.len() {
                part.0.push(b'\n');
                self.add(run, err, std::mem::take(&mut part));
            }
            self.parts.insert((run, err), part);
        }
    }

    fn finish(&mut self, run: u64, err: bool) {
        let part = self.parts.remove(&(run, err)).unwrap_or_default();
        if !part.0.is_empty() {
            self.add(run, err, part);
        }
    }

    fn add(&mut self, run: u64, err: bool, (bytes, seen): (Vec<u8>, Option<u64>)) {
        let seq = seen.unwrap_or(self.next);
        if seen.is_none() {
            self.next += 1;
        }
        if self.highest > seq {
            // Who comes late uses up a number of its own.
            self.highest = self.next;
            self.next += 1;
        }
        self.highest = self.highest.max(seq);
        self.lines.push((seq, run, err, bytes));
    }

    /// Somebody looks at a run.
    fn see(&mut self, run: u64) {
        for err in [false, true] {
            if let Some(part) = self.parts.get_mut(&(run, err))
                && part.1.is_none()
                && !part.0.is_empty()
            {
                part.1 = Some(self.next);
                self.next += 1;
            }
        }
    }

    /// What is known of a run, in the order of its numbers, and how much of it is finished.
    fn of_run(&self, run: u64) -> Vec<(u64, bool, &[u8], bool)> {
        let done = self.lines.iter().filter(|l| l.1 == run);
        let mut all: Vec<_> = done.map(|l| (l.0, l.2, &l.3[..], true)).collect();
        for err in [false, true] {
            if let Some((bytes, Some(seq))) = self.parts.get(&(run, err)) {
                all.push((*seq, err, bytes, false));
            }
        }
        all.sort_unstable();
        all
    }
}

fn write(ring: &mut Ring, run: u64, err: bool, mut bytes: &[u8], at: Wall) {
    let stream = Stream::ALL[usize::from(err)];
    while !bytes.is_empty() {
        let Some(room) = ring.room(run, stream) else {
            return;
        };
        assert!(!room.is_empty() && room.len() <= MOST_READ);
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        for piece in bytes[..count].chunks(MAX_LINE) {
            ring.commit(run, stream, piece.len(), at);
        }
        bytes = &bytes[count..];
    }
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
fn random_writers_against_the_rules_a_byte_at_a_time() {
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
                    for err in [false, true] {
                        model.finish(run, err);
                    }
                    ring.end(run, at, "exit code 0");
                    open.retain(|r| *r != run);
                }
                1..=4 => look(&mut ring, &mut model, &limits, run),
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

/// What the ring shows of a run is the end of what the model knows of it, without a hole.
fn look(ring: &mut Ring, model: &mut Model, limits: &Limits, run: u64) {
    model.see(run);
    let snapshot = ring.of_run(run, None);
    let all = model.of_run(run);
    let walk = MergeIter::up(&snapshot.lanes, 0).map(|(lane, at)| {
        let lane = &snapshot.lanes[lane];
        (at.seq, lane.stream == Stream::Stderr, lane.bytes(&at).0)
    });
    let shown: Vec<_> = walk.collect();
    let expected = &all[all.len() - shown.len()..];
    let expected: Vec<_> = expected.iter().map(|l| (l.0, l.1, l.2)).collect();
    assert!(shown == expected, "run {run}");
    let back = MergeIter::down(&snapshot.lanes, u64::MAX).map(|(_, at)| at.seq);
    assert!(back.eq(shown.iter().rev().map(|l| l.0)));
    let (hidden, shown) = all.split_at(all.len() - shown.len());
    let hidden = hidden.iter().filter(|l| l.3).count();
    assert_eq!(snapshot.dropped as usize, hidden);
    let complete = shown.iter().filter(|l| l.3).count();
    assert!(complete as u64 <= limits.lines);
    if limits.bytes == 64 << 20 {
        let most = all.iter().filter(|l| l.3).count() as u64;
        assert_eq!(complete as u64, most.min(limits.lines));
    }
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
fn an_idle_log_holds_nothing() {
    let mut ring = Ring::new(limits(1 << 20), 1, 1);
    let run = ring.begin(Wall(1));
    ring.end(run, Wall(2), "exit code 0");
    assert_eq!(ring.held, 0);
}

#[test]
fn hostile_writers_stay_within_the_bytes() {
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
fn a_rare_line_of_one_stream_does_not_cost_the_other() {
    let mut ring = Ring::new(limits(256 << 10), 1, 1);
    let run = ring.begin(Wall(1));
    let line = [&[b'o'; 99][..], b"\n"].concat();
    for _ in 0..3_000 {
        write(&mut ring, run, true, b"e\n", Wall(1));
        for _ in 0..10 {
            write(&mut ring, run, false, &line, Wall(1));
        }
    }
    let shown: u64 = ring
        .of_run(run, None)
        .lanes
        .iter()
        .map(StreamSlice::lines)
        .sum();
    assert!(shown > 1_800, "{shown}");
}
