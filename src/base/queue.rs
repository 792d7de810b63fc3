//! A queue between threads. std's channels are three kinds in one, with 15 kB of code for ways to wait that
//! nobody here waits in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What came first goes first.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one in.
    pub fn push(&self, one: T) {
        self.state().waiting.push_back(one);
        self.changed.notify_one();
    }

    /// Puts one in unless `most` wait already.
    pub fn push_within(&self, most: usize, one: T) {
        let mut state = self.state();
        if state.waiting.len() < most {
            state.waiting.push_back(one);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Takes one out, if there is one.
    pub fn pop(&self) -> Option<T> {
        self.state().waiting.pop_front()
    }

    /// Takes one out, as soon as there is one. None: none came within the time, or it is closed and empty.
    pub fn wait(&self, longest: Duration) -> Option<T> {
        let idle = |state: &mut State<T>| state.waiting.is_empty() && !state.closed;
        let woken = self.changed.wait_timeout_while(self.state(), longest, idle);
        let (mut state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        state.waiting.pop_front()
    }

    /// Nothing more comes: who waits is let go.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_that_is_put_in_comes_out_in_order() {
        let queue = Arc::new(Queue::default());
        let inlet = Arc::clone(&queue);
        let source = std::thread::spawn(move || {
            for n in 0..10_000 {
                inlet.push(n);
            }
            inlet.close();
        });
        let mut seen = 0;
        while let Some(n) = queue.wait(LONG) {
            assert_eq!(n, seen);
            seen += 1;
        }
        assert_eq!(seen, 10_000);
        source.join().unwrap();
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_full_one_takes_nothing() {
        let queue = Queue::default();
        for n in 0..5 {
            queue.push_within(3, n);
        }
        assert_eq!(
            [queue.pop(), queue.pop(), queue.pop(), queue.pop()],
            [Some(0), Some(1), Some(2), None]
        );
        assert_eq!(queue.wait(Duration::ZERO), None);
    }
}
