//! Mutations of a corpus: a second of them in every `cargo test`, BPM_FUZZ_SECONDS of them in `just fuzz`.
//! Half of the time the seed is always the same, the other half it is the clock's.
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// xorshift64*
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides.max(1)
    }
}

/// The files of a folder under tests/corpus.
pub fn corpus(folder: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// So many of each half at least.
const FEWEST: u64 = 1_000;

/// Says which seed it was when a test fails.
struct Seed(u64, u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {:#x}, round {}", self.0, self.1);
        }
    }
}

/// What `run` gives, and the time that this thread worked for it: what else the machine does is not counted.
pub fn cpu_time<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let spent = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = spent();
    let result = run();
    (result, spent() - before)
}

/// Feeds `check` with mutations of `corpus`, in which `pieces` turn up.
pub fn mutations(corpus: &[Vec<u8>], pieces: &[&[u8]], mut check: impl FnMut(&[u8], &mut Dice)) {
    let seconds = std::env::var("BPM_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(1.0)) / 2;
    let clock = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_nanos() as u64;
    let mut rounds = 0;
    for seed in [0x5EED_0F00_D5EE_D001, clock] {
        let (mut dice, mut seed, began) = (Dice::new(seed), Seed(seed, 0), Instant::now());
        // However slow the machine is, some are tried.
        while began.elapsed() < time || seed.1 < FEWEST {
            seed.1 += 1;
            let text = mutate(corpus, pieces, &mut dice);
            check(&text, &mut dice);
        }
        rounds += seed.1;
    }
    println!("{rounds} mutations");
}

fn mutate(corpus: &[Vec<u8>], pieces: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut text = corpus[dice.roll(corpus.len())].clone();
    for _ in 0..dice.roll(5) {
        let at = dice.roll(text.len() + 1);
        let end = (at + dice.roll(16)).min(text.len());
        match dice.roll(6) {
            0 => drop(text.drain(at..end)),
            1 | 2 => drop(text.splice(at..at, pieces[dice.roll(pieces.len())].iter().copied())),
            3 if at < text.len() => text[at] = dice.roll(256) as u8,
            4 => {
                let other = &corpus[dice.roll(corpus.len())];
                let from = dice.roll(other.len() + 1);
                text.splice(at..end, other[from..].iter().copied());
            }
            _ => {
                let copy = text[at..end].to_vec();
                let to = dice.roll(text.len() + 1);
                text.splice(to..to, copy);
            }
        }
    }
    text
}
