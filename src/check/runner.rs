//! Readiness and health checks. [`Schedule`] decides what is due; [`Prober`] knocks at sockets,
//! looks for lines and reads what commands print, in one thread that is there only while something
//! is asked. The supervisor stands between them, and executes commands:
//!
//! ```text
//! Schedule -> Errand::Knock, Follow -> Prober -> its answer, a command -> Schedule::answer
//!          -> Errand::Run -> spawn, Prober::watch; reaped, Prober::ended -> its answer -> the same
//!          -> Errand::Tell -> the machine
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::log::store::Log;
use crate::os::poll::{Mailbox, Until, Waker, wait};
use crate::os::proc;

use super::schedule::{CheckKey, Connect};
use super::work::{Command, Job, Knocking, LogProbe, Work};

/// The log of a run, from its first line.
#[derive(Debug, Clone)]
pub struct Following {
    /// The log.
    pub log: Arc<Log>,
    /// The run in it.
    pub run: u64,
    /// The last line before the run.
    pub after: u64,
}

/// Takes what came of a question: the check, the attempt, what was seen (good or bad). Called on the
/// prober's thread, or on that of who asks where there can be none; must not wait.
pub type Tell = Box<dyn Fn(CheckKey, u64, Result<String, String>) + Send + Sync>;

/// Asks what is to be asked. Every question is answered once, unless it is forgotten.
pub struct Prober {
    shared: Arc<Shared>,
}

/// What the thread and the supervisor share.
struct Shared {
    tell: Tell,
    mailbox: Arc<Mailbox>,
    waker: Arc<Waker>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    orders: Vec<Order>,
    /// A thread is there to take them.
    served: bool,
}

#[derive(Debug)]
enum Order {
    Request(Asked, Question),
    Ended(Asked, Result<(), String>),
    Forget(CheckKey),
}

/// Names a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    key: CheckKey,
    attempt: u64,
}

#[derive(Debug)]
enum Question {
    Connect { connect: Connect, within: Duration },
    Follow { log: Following, pattern: String },
    Watch { pipes: [OwnedFd; 2] },
}

impl Prober {
    /// One that answers so. No thread yet.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(tell: Tell) -> io::Result<Self> {
        let mailbox = Mailbox::new()?;
        let waker = mailbox.waker(0);
        Ok(Self {
            shared: Arc::new(Shared {
                tell,
                mailbox,
                waker,
                queue: Mutex::default(),
            }),
        })
    }

    /// Knocks at a socket, for so long at most.
    pub fn connect(&self, key: CheckKey, attempt: u64, connect: Connect, within: Duration) {
        self.ask(key, attempt, Question::Connect { connect, within });
    }

    /// Waits for a line of the run that matches.
    pub fn follow(&self, key: CheckKey, attempt: u64, log: Following, pattern: String) {
        self.ask(key, attempt, Question::Follow { log, pattern });
    }

    /// Reads what a command prints, so that it never waits for a reader, and keeps its last line.
    pub fn watch(&self, key: CheckKey, attempt: u64, stdout: OwnedFd, stderr: OwnedFd) {
        let pipes = [stdout, stderr];
        self.ask(key, attempt, Question::Watch { pipes });
    }

    /// The command has been reaped: it ended with 0, or how, in words.
    pub fn ended(&self, key: CheckKey, attempt: u64, end: Result<(), String>) {
        self.order(Order::Ended(Asked { key, attempt }, end));
    }

    /// Nobody waits for that answer any more.
    pub fn forget(&self, key: CheckKey) {
        self.order(Order::Forget(key));
    }

    fn ask(&self, key: CheckKey, attempt: u64, question: Question) {
        self.order(Order::Request(Asked { key, attempt }, question));
    }

    fn order(&self, order: Order) {
        let mut queue = self.shared.queue();
        queue.orders.push(order);
        if queue.served {
            self.shared.waker.wake();
            return;
        }
        queue.served = true;
        drop(queue);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("probe".into());
        if let Err(e) = thread.spawn(move || shared.serve()) {
            self.shared
                .refuse(&format!("no thread for probes: {}", reason(&e)));
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: until there is nothing to do.
    fn serve(&self) {
        let mut jobs: Vec<Job> = Vec::new();
        let mut token = 0;
        loop {
            self.waker.seen();
            let orders = {
                let mut queue = self.queue();
                if queue.orders.is_empty() && jobs.is_empty() {
                    // Under the lock: the next order finds either a thread that takes it, or none.
                    queue.served = false;
                    return;
                }
                std::mem::take(&mut queue.orders)
            };
            for order in orders {
                token += 1;
                self.take(order, token, &mut jobs);
            }
            if jobs.is_empty() {
                continue;
            }
            if let Err(e) = self.wait(&mut jobs) {
                for job in jobs.drain(..) {
                    let why = format!("cannot wait for it: {}", reason(&e));
                    self.answer(job.asked, Err(why));
                }
            }
        }
    }

    fn take(&self, order: Order, token: u64, jobs: &mut Vec<Job>) {
        match order {
            Order::Forget(key) => jobs.retain(|job| job.asked.key != key),
            Order::Ended(asked, end) => {
                let at = jobs.iter().position(|job| job.asked == asked);
                let said = at.and_then(|at| jobs.swap_remove(at).last_words());
                let result = match (end, said) {
                    (Ok(()), _) => Ok("exit code 0".into()),
                    (Err(end), Some(said)) => Err(format!("{end}: {said}")),
                    (Err(end), None) => Err(end),
                };
                self.answer(asked, result);
            }
            Order::Request(asked, question) => match seen(&question) {
                Some(result) => self.answer(asked, result),
                None => match self.begin(question, token) {
                    Ok(work) => jobs.push(Job { asked, work }),
                    Err(why) => self.answer(asked, Err(why)),
                },
            },
        }
    }

    fn begin(&self, question: Question, token: u64) -> Result<Work, String> {
        Ok(match question {
            Question::Connect { connect, within } => {
                Work::Knocking(Knocking::begin(connect, within, Mono::now())?)
            }
            Question::Follow { log, pattern } => {
                Work::LogProbe(LogProbe::begin(log, &pattern, self.mailbox.waker(token))?)
            }
            Question::Watch { pipes } => Work::Command(Command::begin(pipes)),
        })
    }

    /// One wait, and then what became possible.
    fn wait(&self, jobs: &mut Vec<Job>) -> io::Result<()> {
        let now = Mono::now();
        let next = jobs.iter().filter_map(|job| job.work.deadline()).min();
        let mut fds: Vec<(BorrowedFd<'_>, Until)> = vec![(self.mailbox.as_fd(), Until::Readable)];
        let mut counts = Vec::with_capacity(jobs.len());
        for job in jobs.iter() {
            let before = fds.len();
            job.work.fds(&mut fds);
            counts.push(fds.len() - before);
        }
        let ready = wait(&fds, next.map(|at| at.since(now)))?;
        if ready[0] {
            self.mailbox.take(&mut Vec::new());
        }
        let now = Mono::now();
        let mut ready = ready.into_iter().skip(1);
        let mut over = Vec::new();
        for (i, (job, count)) in jobs.iter_mut().zip(counts).enumerate() {
            let ready: Vec<bool> = ready.by_ref().take(count).collect();
            if let Some(result) = job.work.advance(&ready, now) {
                self.answer(job.asked, result);
                over.push(i);
            }
        }
        for i in over.into_iter().rev() {
            jobs.swap_remove(i);
        }
        Ok(())
    }

    fn answer(&self, asked: Asked, result: Result<String, String>) {
        (self.tell)(asked.key, asked.attempt, result);
    }

    /// There is no thread: whoever asked is told why.
    fn refuse(&self, why: &str) {
        let orders = {
            let mut queue = self.queue();
            queue.served = false;
            std::mem::take(&mut queue.orders)
        };
        for order in orders {
            match order {
                Order::Request(asked, _) => self.answer(asked, Err(why.into())),
                Order::Ended(asked, end) => {
                    self.answer(asked, end.map(|()| "exit code 0".into()));
                }
                Order::Forget(_) => {}
            }
        }
    }
}

/// What can be seen without asking the process: a connection that says nothing is an error to some servers. The
/// port was free before the start, so a listener on it came up after that.
fn seen(question: &Question) -> Option<Result<String, String>> {
    let Question::Connect {
        connect: Connect::Port(port),
        ..
    } = question
    else {
        return None;
    };
    Some(match proc::is_listened_on(*port)? {
        true => Ok(format!("port {port} is listened on")),
        false => Err(format!("nothing listens on port {port}")),
    })
}

#[cfg(test)]
mod tests;
