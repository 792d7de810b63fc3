//! Waiting for descriptors in poll(2).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::base::clock::wait_millis;

pub use super::inbox::{Mailbox, Waker};

/// The event that a descriptor is polled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It can be read, or is at its end.
    Readable,
    /// It can be written, or is connected, or neither ever will.
    Writable,
    /// Its other end is gone; of a pidfd, its process is reaped.
    HungUp,
}

/// Waits until something happens to one of these, or until the time is over (None: for ever); tells
/// to which, in their order. A signal ends the wait early, with none.
pub fn wait(fds: &[(BorrowedFd<'_>, Until)], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut asked: Vec<PollFd<'_>> = fds
        .iter()
        .map(|(fd, until)| match until {
            Until::Readable => PollFd::new(*fd, PollFlags::POLLIN),
            Until::Writable => PollFd::new(*fd, PollFlags::POLLOUT),
            Until::HungUp => PollFd::new(*fd, PollFlags::empty()),
        })
        .collect();
    let timeout = timeout.map_or(PollTimeout::NONE, |t| {
        PollTimeout::try_from(wait_millis(t)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut asked, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    // An unknown bit (None) is an event as well: the read will tell.
    let events = asked.iter();
    Ok(events
        .map(|fd| fd.revents().is_none_or(|e| !e.is_empty()))
        .collect())
}

/// The same for a few that may be gone, for reading.
pub fn readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let there: Vec<_> = fds
        .iter()
        .flatten()
        .map(|fd| (*fd, Until::Readable))
        .collect();
    let mut events = wait(&there, timeout)?.into_iter();
    Ok(fds.map(|fd| fd.is_some() && events.next().unwrap_or(false)))
}

/// Waits until `input` can be read or is at its end: true. False: who reads what we write to `output`
/// has gone first (a pipe without a reader; terminals and files never have).
pub fn readable_unless_gone(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        // No event asked for: a terminal, which is one file for both directions, would tell of keys.
        let mut fds = [
            PollFd::new(input, PollFlags::POLLIN),
            PollFd::new(output, PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [input, output] = fds.map(|fd| fd.revents().is_none_or(|e| !e.is_empty()));
        if input || output {
            return Ok(input);
        }
    }
}

/// Whether who reads `output` goes away within that time.
pub fn reader_gone(output: BorrowedFd<'_>, within: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(output, PollFlags::empty())];
    match poll(&mut fds, timeout) {
        Ok(n) => Ok(n > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Writes all of it, however long it takes. A descriptor that somebody else made non-blocking (it is a flag of
/// the pipe or terminal, which they share with us) is waited for.
///
/// # Errors
/// The first one besides EINTR and EAGAIN.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => drop(wait(&[(fd, Until::Writable)], None)?),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
