//! Pure: no system call, no thread, no clock.
//!
//! The index beside a file of a log: the end, stream and time of each append, and the numbers of its lines. A
//! header, then records of one size; all numbers little-endian. It can be made again from the file, but for
//! times and streams.

use crate::base::clock::Wall;
use crate::base::paths::fnv1a_64;
use crate::base::saved::saved;
use crate::log::block::{MAX_LINE, cut};
use crate::log::stream::Stream;

/// Bytes of a header.
pub(super) const HEADER: usize = 128;
/// Bytes of a record.
pub(super) const RECORD: usize = 32;

const MAGIC: &[u8; 8] = b"bpmidx1\n";
/// The place of the run's end in the header, and the longest text about it.
const ENDED: usize = 32;
const WORDS: usize = SUM - ENDED - 9;
/// The place of the checksum.
const SUM: usize = HEADER - 8;

/// No number is higher, of a line or of a run: an index that says so is not bpm's (and JSON has no whole
/// numbers beyond).
pub(super) const MOST: u64 = 1 << 53;

/// The file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// The time at which its run began.
    pub started: Wall,
    /// Complete lines of the run before this file.
    pub before: u64,
    /// No line in it has a lower number.
    pub first: u64,
    /// The time and the manner of the run's end.
    pub ended: Option<(Wall, String)>,
}

saved! {
    Header { started, before, first, ended }
    Record { end, stream, carry, at, first, lines }
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.started.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.before.to_le_bytes());
        out[24..32].copy_from_slice(&self.first.to_le_bytes());
        if let Some((at, words)) = &self.ended {
            let words = &words.as_bytes()[..words.floor_char_boundary(WORDS)];
            out[ENDED..ENDED + 8].copy_from_slice(&at.0.to_le_bytes());
            out[ENDED + 8] = words.len() as u8;
            out[ENDED + 9..ENDED + 9 + words.len()].copy_from_slice(words);
        }
        let sum = fnv1a_64(&out[..SUM]);
        out[SUM..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// None: this is no index.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        if &bytes[..8] != MAGIC || number(&bytes[SUM..]) != fnv1a_64(&bytes[..SUM]) {
            return None;
        }
        let length = usize::from(bytes[ENDED + 8]).min(WORDS);
        let words = &bytes[ENDED + 9..ENDED + 9 + length];
        let ended = Wall(number(&bytes[ENDED..]) as i64);
        let (before, first) = (number(&bytes[16..]), number(&bytes[24..]));
        if before > MOST || !(1..=MOST).contains(&first) {
            return None;
        }
        Some(Self {
            started: Wall(number(&bytes[8..]) as i64),
            before,
            first,
            ended: (length > 0).then(|| (ended, String::from_utf8_lossy(words).into_owned())),
        })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// Bytes that came together from one stream, and the lines that they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// Their end in the file; they begin at the end of those of the record before.
    pub end: u32,
    pub stream: Stream,
    /// Bytes of the stream's unfinished line before them.
    pub carry: u32,
    pub at: Wall,
    /// The number of the first line that they end; if there is none, of the next one at least.
    pub first: u64,
    /// Lines of each stream in this file up to their end.
    pub lines: [u32; 2],
}

const CARRY: u32 = (MAX_LINE as u32).next_power_of_two() * 2 - 1;
const STREAM: u32 = CARRY + 1;
/// Set by 0.1.0 for a line that had been shown unfinished, which has a lower number than those before it.
const PINNED: u32 = STREAM << 1;
const CHECK: u32 = !(CARRY | STREAM | PINNED);

impl Record {
    /// The record before the first one of a file.
    pub(super) const START: Self = Self {
        end: 0,
        stream: Stream::Stdout,
        carry: 0,
        at: Wall(0),
        first: 0,
        lines: [0; 2],
    };

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut word = self.carry.min(MAX_LINE as u32);
        if self.stream == Stream::Stderr {
            word |= STREAM;
        }
        let [out, err] = self.lines.map(u64::from);
        let mut words = [
            u64::from(word) << 32 | u64::from(self.end),
            self.at.0 as u64,
            self.first,
            err << 32 | out,
        ];
        words[0] |= u64::from(check(words)) << 32;
        let mut bytes = [0; RECORD];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// None: these bytes are no record.
    pub(super) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let words = words(bytes);
        let word = (words[0] >> 32) as u32;
        if word & CHECK != check(words) || words[2] > MOST {
            return None;
        }
        Some(Self {
            end: words[0] as u32,
            stream: Stream::ALL[usize::from(word & STREAM != 0)],
            carry: word & CARRY,
            at: Wall(words[1] as i64),
            first: words[2],
            lines: [words[3] as u32, (words[3] >> 32) as u32],
        })
    }
}

/// A record together with what the ones before it tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub record: Record,
    /// The start of its bytes in the file.
    pub begin: u32,
    /// The number of lines that it ends.
    pub count: u32,
}

impl Entry {
    /// None: the record can't come after that one.
    pub(super) fn new(record: Record, before: &Record) -> Option<Self> {
        let (own, other) = (record.stream as usize, 1 - record.stream as usize);
        let bytes = record.end.checked_sub(before.end)?;
        let count = record.lines[own].checked_sub(before.lines[own])?;
        // An append, and at most a line for each byte and the end of one that was begun before.
        let follows = bytes <= MAX_LINE as u32
            && record.lines[other] == before.lines[other]
            && count <= bytes + 1;
        follows.then_some(Self {
            record,
            begin: before.end,
            count,
        })
    }

    /// The number of its last line; of none, the one before the next.
    pub(super) fn last(&self) -> u64 {
        (self.record.first + u64::from(self.count)).saturating_sub(1)
    }

    /// Bytes of its stream's unfinished line behind it; `bytes` are its own.
    pub(super) fn rest(&self, bytes: &[u8]) -> u32 {
        let carry = self.record.carry as usize;
        let cut = cut(carry, bytes);
        if u64::from(self.count) > cut.lines() {
            return 0;
        }
        let rest = match cut.newlines {
            0 => carry + bytes.len() - cut.pieces * MAX_LINE,
            _ => bytes.len() - cut.end,
        };
        rest as u32
    }
}

/// 2^64 over the golden ratio: each bit of a factor reaches the highest ones.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn words(bytes: &[u8; RECORD]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// A few bits that tell a record from other bytes that a crash or somebody else left in its place. Never
/// zero: a hole reads as zeros.
fn check(mut words: [u64; 4]) -> u32 {
    words[0] &= !(u64::from(CHECK) << 32);
    let mut hash = 0;
    for word in words {
        hash = (hash ^ word).wrapping_mul(SPREAD);
        hash ^= hash >> 29;
    }
    ((hash.wrapping_mul(SPREAD) >> 32) as u32 & CHECK) | PINNED << 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::block::testing::Random;

    fn record() -> Record {
        Record {
            end: 70_001,
            stream: Stream::Stderr,
            carry: MAX_LINE as u32,
            at: Wall(1_790_000_000_123),
            first: 12_345_678_901,
            lines: [17, 4_000_000_000],
        }
    }

    #[test]
    fn record_is_decoded_and_no_flipped_bit_passes() {
        for stream in Stream::ALL {
            let record = Record { stream, ..record() };
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        let bytes = record().encode();
        let flipped = (0..RECORD * 8).filter(|bit| {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            Record::decode(&bytes).is_some()
        });
        assert!(flipped.count() <= 1);
        assert_eq!(Record::decode(&[0; RECORD]), None);
        let mut random = Random(7);
        let noise = (0..10_000).filter(|_| {
            let bytes: Vec<u8> = (0..RECORD).map(|_| random.below(256) as u8).collect();
            Record::decode(&bytes.try_into().unwrap()).is_some()
        });
        assert!(noise.count() < 20);
    }

    #[test]
    fn header_is_decoded_with_as_much_text_as_fits() {
        let mut header = Header {
            started: Wall(5),
            before: 6,
            first: 7,
            ended: None,
        };
        assert_eq!(Header::decode(&header.encode()), Some(header.clone()));
        header.ended = Some((Wall(9), "exit code 3".into()));
        assert_eq!(Header::decode(&header.encode()), Some(header.clone()));
        header.ended = Some((Wall(9), "é".repeat(100)));
        let back = Header::decode(&header.encode()).unwrap();
        assert_eq!(back.ended.unwrap().1, "é".repeat(WORDS / 2));
        assert_eq!(Header::decode(&[0; HEADER]), None);
    }
}
