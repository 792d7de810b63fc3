//! Messages from any thread to one that waits in poll(2) or epoll(7): a queue, and a descriptor that can be
//! read while something is in it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::poll::readable;
use crate::base::clock::Mono;

/// A queue between threads, of which one receives. First in, first out.
#[derive(Debug)]
pub struct Inbox<T> {
    state: Mutex<State<T>>,
    /// Readable while the queue has messages that were sent: set by the sender of the first one, cleared under the
    /// lock by the receiver of the last one. A sender that is late leaves it set for nothing, never unset.
    ready: EventFd,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<T>,
    /// A sender has set the descriptor, or is about to.
    ready: bool,
    closed: bool,
}

impl<T> Inbox<T> {
    /// An inbox that is never full: for messages whose number the senders bound themselves, such as
    /// those of wakers, of each of which at most one is in it.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new() -> io::Result<Arc<Self>> {
        Self::bounded(usize::MAX)
    }

    /// An inbox that takes at most `limit` messages at a time.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn bounded(limit: usize) -> io::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                ready: false,
                closed: false,
            }),
            ready: EventFd::from_value_and_flags(0, flags)?,
            limit,
        }))
    }

    /// Puts a message in. Never blocks.
    ///
    /// # Errors
    /// The message comes back: the inbox is full, or closed.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.put(message)?;
        self.wake();
        Ok(())
    }

    /// Puts a message in and wakes nobody: it is received with the next one that is sent.
    ///
    /// # Errors
    /// Those of [`Inbox::send`].
    pub fn put(&self, message: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.messages.len() >= self.limit {
            return Err(message);
        }
        state.messages.push_back(message);
        Ok(())
    }

    /// Has all that was put in received.
    pub fn wake(&self) {
        let mut state = self.lock();
        let is_first = !state.messages.is_empty() && !std::mem::replace(&mut state.ready, true);
        drop(state);
        if is_first {
            self.set();
        }
    }

    /// Takes all messages.
    pub fn take(&self, into: &mut Vec<T>) {
        let mut state = self.lock();
        while let Some(message) = state.messages.pop_front() {
            into.push(message);
        }
        self.clear(&mut state);
    }

    /// Takes the first message, if there is one.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        let message = state.messages.pop_front();
        if state.messages.is_empty() && !state.closed {
            self.clear(&mut state);
        }
        message
    }

    /// Takes the first message as soon as there is one. None: none came within the time, or the inbox is
    /// closed and empty.
    pub fn wait(&self, longest: Duration) -> Option<T> {
        let begun = Mono::now();
        loop {
            let message = self.pop();
            let left = longest.saturating_sub(Mono::now().since(begun));
            if message.is_some() || left.is_zero() || self.lock().closed {
                // A message that came between the check and the closing counts.
                return message.or_else(|| self.pop());
            }
            readable([Some(self.as_fd())], Some(left)).ok()?;
        }
    }

    /// Takes no more messages; those that are in it can still be received.
    pub fn close(&self) {
        self.lock().closed = true;
        self.set();
    }

    fn set(&self) {
        // Fails only when the counter is full, and then it is set already.
        let _ = self.ready.write(1);
    }

    fn clear(&self, state: &mut State<T>) {
        state.ready = false;
        // Fails when it is not set.
        let _ = self.ready.read();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Send + Sync + 'static> Inbox<T> {
    /// A waker that sends this message.
    pub fn waker(self: &Arc<Self>, message: T) -> Arc<Waker> {
        let inbox = Arc::clone(self);
        Waker::new(move || drop(inbox.send(message.clone())))
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// An inbox of wakers' tokens alone.
pub type Mailbox = Inbox<u64>;

/// Wakes one thread for one reason; any number of times until the thread has [`seen`](Waker::seen) it is
/// one message.
pub struct Waker {
    send: Box<dyn Fn() + Send + Sync>,
    sent: AtomicBool,
}

impl Waker {
    /// A waker that sends its message in this way, which must not block.
    pub fn new(send: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            send: Box::new(send),
            sent: AtomicBool::new(false),
        })
    }

    /// Wakes the thread. Never blocks.
    pub fn wake(&self) {
        if !self.sent.swap(true, Ordering::AcqRel) {
            (self.send)();
        }
    }

    /// To be called by the woken thread before it reads what it was woken for: a change after this wakes
    /// it once more.
    pub fn seen(&self) {
        self.sent.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn is_ready<T>(inbox: &Inbox<T>) -> bool {
        readable([Some(inbox.as_fd())], Some(Duration::ZERO)).unwrap()[0]
    }

    #[test]
    fn messages_arrive_in_order_up_to_the_last() {
        let inbox = Inbox::new().unwrap();
        let sender = Arc::clone(&inbox);
        let source = std::thread::spawn(move || {
            for n in 0..10_000 {
                sender.send(n).unwrap();
            }
            sender.close();
            assert_eq!(sender.send(0), Err(0));
        });
        let mut expected = 0;
        while let Some(n) = inbox.wait(LONG) {
            assert_eq!(n, expected);
            expected += 1;
        }
        assert_eq!(expected, 10_000);
        source.join().unwrap();
        assert_eq!(inbox.pop(), None);
    }

    #[test]
    fn full_inbox_returns_the_message() {
        let inbox = Inbox::bounded(2).unwrap();
        assert_eq!([1, 2, 3].map(|n| inbox.send(n)), [Ok(()), Ok(()), Err(3)]);
        assert_eq!(
            [inbox.pop(), inbox.pop(), inbox.pop()],
            [Some(1), Some(2), None]
        );
        assert_eq!(inbox.wait(Duration::ZERO), None);
    }

    #[test]
    fn descriptor_is_readable_while_messages_wait() {
        let inbox = Inbox::new().unwrap();
        assert!(!is_ready(&inbox));
        inbox.send(1).unwrap();
        inbox.send(2).unwrap();
        assert!(is_ready(&inbox));
        assert_eq!(inbox.pop(), Some(1));
        assert!(is_ready(&inbox));
        assert_eq!(inbox.pop(), Some(2));
        assert!(!is_ready(&inbox));
        inbox.send(3).unwrap();
        let mut all = Vec::new();
        inbox.take(&mut all);
        assert_eq!(all, [3]);
        assert!(!is_ready(&inbox));
        inbox.close();
        assert!(is_ready(&inbox));
    }

    #[test]
    fn message_that_is_put_in_waits_for_one_that_is_sent() {
        let inbox = Inbox::new().unwrap();
        inbox.wake();
        assert!(!is_ready(&inbox));
        inbox.put(1).unwrap();
        assert!(!is_ready(&inbox));
        inbox.send(2).unwrap();
        assert!(is_ready(&inbox));
        let mut all = Vec::new();
        inbox.take(&mut all);
        assert_eq!(all, [1, 2]);
        inbox.put(3).unwrap();
        inbox.wake();
        assert!(is_ready(&inbox));
        assert_eq!(inbox.pop(), Some(3));
        assert!(!is_ready(&inbox));
    }

    #[test]
    fn waker_sends_one_message_until_it_is_seen() {
        let inbox = Inbox::new().unwrap();
        let waker = inbox.waker(7);
        waker.wake();
        waker.wake();
        let mut tokens = Vec::new();
        inbox.take(&mut tokens);
        assert_eq!(tokens, [7]);
        waker.seen();
        waker.wake();
        inbox.take(&mut tokens);
        assert_eq!(tokens, [7, 7]);
    }
}
