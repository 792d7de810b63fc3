//! Waking a thread that waits in poll(2) or epoll(7), and the waiting itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What a descriptor is waited on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It can be read, or is at its end.
    Readable,
    /// It can be written, or is connected, or neither ever will.
    Writable,
}

/// Waits until something happens to one of these, or until the time is over (None: for ever); tells
/// to which, in their order. A signal ends the wait early, with none.
pub fn wait(fds: &[(BorrowedFd<'_>, Until)], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut asked: Vec<PollFd<'_>> = fds
        .iter()
        .map(|(fd, until)| match until {
            Until::Readable => PollFd::new(*fd, PollFlags::POLLIN),
            Until::Writable => PollFd::new(*fd, PollFlags::POLLOUT),
        })
        .collect();
    // Rounded up: a wait that ends before its time would only be repeated.
    let timeout = timeout.map_or(PollTimeout::NONE, |t| {
        let millis = t.as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
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

/// Where wake-ups for one thread arrive: a descriptor to wait on, and the tokens that asked.
#[derive(Debug)]
pub struct Mailbox {
    waker: EventFd,
    ready: Mutex<Vec<u64>>,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> io::Result<Arc<Self>> {
        let waker =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self {
            waker,
            ready: Mutex::new(Vec::new()),
        }))
    }

    /// A handle that wakes this thread in the name of `token`.
    pub fn waker(self: &Arc<Self>, token: u64) -> Arc<Waker> {
        Arc::new(Waker {
            mailbox: Arc::clone(self),
            token,
            queued: AtomicBool::new(false),
        })
    }

    /// Takes the tokens that were woken since the last call. A token may come again at once;
    /// call it only after the descriptor was readable, or to look.
    pub fn take(&self, into: &mut Vec<u64>) {
        // The waker is read before the list: a ring in between leaves the waker set, never a token unseen.
        let _ = self.waker.read();
        into.append(&mut self.ready.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn ring(&self, token: u64) {
        let first = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push(token);
            ready.len() == 1
        };
        if first {
            // Fails only when the counter is full, and then the waker rings already.
            let _ = self.waker.write(1);
        }
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

/// Wakes one thread in the name of one token; any number of times before it looks is one time.
#[derive(Debug)]
pub struct Waker {
    mailbox: Arc<Mailbox>,
    token: u64,
    queued: AtomicBool,
}

impl Waker {
    /// Wakes the thread. Never blocks.
    pub fn wake(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.mailbox.ring(self.token);
        }
    }

    /// To be called by the woken thread before it looks at what it was woken for: a change after
    /// this wakes it anew.
    pub fn seen(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wakes_are_one_until_seen() {
        let mailbox = Mailbox::new().unwrap();
        let waker = mailbox.waker(7);
        waker.wake();
        waker.wake();
        let mut tokens = Vec::new();
        mailbox.take(&mut tokens);
        assert_eq!(tokens, [7]);
        waker.seen();
        waker.wake();
        mailbox.take(&mut tokens);
        assert_eq!(tokens, [7, 7]);
    }
}
