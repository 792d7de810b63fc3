//! The proxy's standard input and output.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::CHUNK;
use crate::os::poll::{self, Until};

/// Nothing more is read from one end while so much waits for the other.
const HIGH_WATER: usize = 1 << 20;
/// A pipe or socket that is ready for writing takes so much without blocking (PIPE_BUF, pipe(7)).
const AT_ONCE: usize = 4096;

/// Cuts input into lines.
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Bytes in which there is no newline.
    seen: usize,
    longest: usize,
    /// The rest of a line that is too long is dropped.
    skips: bool,
}

/// A line that [`Lines`] has found.
pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
}

impl Lines {
    pub(super) fn new(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            seen: 0,
            longest,
            skips: false,
        }
    }

    /// Reads once, by way of `scratch`. False: there is nothing more to come.
    pub(super) fn read(&mut self, mut from: impl Read, scratch: &mut [u8]) -> bool {
        match from.read(scratch) {
            Ok(n) => {
                self.bytes.extend_from_slice(&scratch[..n]);
                n > 0
            }
            Err(e) => matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock),
        }
    }

    /// The next line with its newline.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.bytes[self.seen..]) else {
                self.seen = self.bytes.len();
                if self.seen > self.longest {
                    self.bytes.clear();
                    self.seen = 0;
                    return (!std::mem::replace(&mut self.skips, true)).then_some(Line::TooLong);
                }
                if self.bytes.is_empty() {
                    self.bytes.shrink_to(CHUNK);
                }
                return None;
            };
            let rest = self.bytes.split_off(self.seen + end + 1);
            let line = std::mem::replace(&mut self.bytes, rest);
            self.seen = 0;
            if !std::mem::take(&mut self.skips) && !line.trim_ascii().is_empty() {
                return Some(match line.len() > self.longest {
                    true => Line::TooLong,
                    false => Line::Whole(line),
                });
            }
        }
    }
}

/// Standard output, whose descriptor may be blocking or not.
pub(super) struct Output {
    pub(super) file: File,
    pub(super) unsent: Vec<u8>,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsent.len() > HIGH_WATER
    }

    /// Writes what is taken without blocking. To be called when the descriptor is ready.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        loop {
            let end = self.unsent.len().min(sent + AT_ONCE);
            match self.file.write(&self.unsent[sent..end]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
            let fd = [(self.file.as_fd(), Until::Writable)];
            if sent == self.unsent.len() || !poll::wait(&fd, Some(Duration::ZERO))?[0] {
                break;
            }
        }
        self.unsent.drain(..sent);
        self.unsent.shrink_to(CHUNK);
        Ok(())
    }
}
