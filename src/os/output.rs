//! The output of a child: the read ends of its two pipes.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fds::set_nonblocking;

/// Bytes taken of each pipe after the child's end, at most: more can't have been in it at that moment
/// (`/proc/sys/fs/pipe-max-size`); the rest is of a process that the child left running.
const DRAIN: usize = 1 << 20;

/// Standard output and standard error of a child. Reading never blocks; `sink` takes the bytes and the
/// number of their pipe: 0 for standard output, 1 for standard error.
#[derive(Debug)]
pub struct ChildOutput {
    pipes: [Option<File>; 2],
}

impl ChildOutput {
    pub fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        Self {
            pipes: [stdout, stderr].map(|fd| {
                // Fails only for a descriptor that is none.
                let _ = set_nonblocking(&fd, true);
                Some(fd.into())
            }),
        }
    }

    /// The pipes that are not at their end, each at its number.
    pub fn fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        self.pipes.each_ref().map(|p| p.as_ref().map(AsFd::as_fd))
    }

    /// One read of a pipe. Returns the number of bytes; 0: nothing for now, or no more.
    pub fn read(&mut self, pipe: usize, sink: &mut dyn FnMut(usize, &[u8])) -> usize {
        let mut buffer = [0; 64 << 10];
        let Some(file) = &mut self.pipes[pipe] else {
            return 0;
        };
        match file.read(&mut buffer) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            // An error will not pass: it is an end.
            Ok(0) | Err(_) => {
                self.pipes[pipe] = None;
                0
            }
            Ok(n) => {
                sink(pipe, &buffer[..n]);
                n
            }
        }
    }

    /// Reads what is in the pipes when the child has ended, first all of standard output.
    pub fn drain(&mut self, sink: &mut dyn FnMut(usize, &[u8])) {
        for pipe in [0, 1] {
            let mut left = DRAIN;
            while left > 0 {
                match self.read(pipe, sink) {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};

    use super::*;

    #[test]
    fn drain_takes_what_is_there_and_waits_for_no_writer() {
        let (stdout, mut out) = pipe().unwrap();
        let (stderr, err) = pipe().unwrap();
        let mut output = ChildOutput::new(stdout.into(), stderr.into());
        let mut seen = Vec::new();
        out.write_all(b"one").unwrap();
        drop(err);
        let mut sink = |pipe, bytes: &[u8]| seen.push((pipe, bytes.to_vec()));
        output.drain(&mut sink);
        out.write_all(b"two").unwrap();
        output.drain(&mut sink);
        assert_eq!(seen, [(0, b"one".to_vec()), (0, b"two".to_vec())]);
        assert!(output.fds()[0].is_some() && output.fds()[1].is_none());
    }

    #[test]
    fn drain_ends_though_a_writer_goes_on() {
        let (stdout, mut out) = pipe().unwrap();
        let (stderr, _err) = pipe().unwrap();
        let mut output = ChildOutput::new(stdout.into(), stderr.into());
        let writer = std::thread::spawn(move || {
            let chunk = [b'y'; 4096];
            while out.write_all(&chunk).is_ok() {}
        });
        let mut taken = 0;
        output.drain(&mut |_, bytes| taken += bytes.len());
        assert!(taken < DRAIN + (64 << 10), "{taken}");
        drop(output);
        writer.join().unwrap();
    }
}
