//! A few threads for what takes a while: none while there is nothing to do, bounded when there is much.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::os::memory;
use crate::os::threads;

/// A worker's task; it must not panic.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The most threads.
const WORKERS: usize = 3;
/// The most jobs that may wait.
const MAX_QUEUE: usize = 1024;
/// How long a worker waits for the next job before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// Owns the workers; dropped, it lets them finish what they do and take nothing new.
#[derive(Default)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.closed {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (back, waited) = self
                .changed
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        memory::trim();
    }
}

impl Pool {
    /// Gives a job to the workers.
    ///
    /// # Errors
    /// Too many jobs wait already, or there is no thread at all.
    pub(super) fn submit(&self, job: Job) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.jobs.len() >= MAX_QUEUE {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        state.jobs.push_back(job);
        if state.jobs.len() > state.idle && state.threads < WORKERS {
            let shared = Arc::clone(&self.shared);
            match threads::start("worker", Box::new(move || shared.work())) {
                Ok(_) => state.threads += 1,
                Err(e) if state.threads == 0 => {
                    state.jobs.pop_back();
                    return Err(e);
                }
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_are_done_by_few_threads_and_a_full_queue_refuses() {
        let pool = Pool::default();
        let (gate, opened) = channel::<()>();
        let opened = Arc::new(Mutex::new(opened));
        let (done, results) = channel();
        let mut taken = 0;
        loop {
            let (opened, done) = (Arc::clone(&opened), done.clone());
            let job = Box::new(move || {
                let _ = opened.lock().unwrap().recv();
                done.send(std::thread::current().id()).unwrap();
            });
            if pool.submit(job).is_err() {
                break;
            }
            taken += 1;
        }
        assert!(
            (MAX_QUEUE..=MAX_QUEUE + WORKERS).contains(&taken),
            "{taken}"
        );
        drop(gate);
        let threads: std::collections::HashSet<_> = results.iter().take(taken).collect();
        assert!(threads.len() <= WORKERS);
    }
}
