//! Readiness and health checks. [`Schedule`](super::Schedule) decides what is due; [`Prober`] connects to
//! sockets, follows logs and reads the output of commands, all in one thread. The supervisor stands between
//! them, and executes commands:
//!
//! ```text
//! Schedule -> Action::Connect, Follow -> Prober -> its answer, a notice -> Schedule::answer
//!          -> Action::Run -> spawn, Prober::watch; reaped, Prober::ended -> its answer -> the same
//!          -> Action::Tell -> the lifecycle
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::base::table::Set;
use crate::log::store::Log;
use crate::os::inbox::{Inbox, Waker};
use crate::os::output::ChildOutput;
use crate::os::poll::{Until, wait};
use crate::os::proc;
use crate::os::threads;

use super::schedule::{Attempt, Connect, Seen};
use super::work::{CommandOutput, Connection, LineSearch, Work};

/// The log of a run, from its first line.
#[derive(Debug, Clone)]
pub struct Following {
    pub log: Arc<Log>,
    /// The run in it.
    pub run: u64,
    /// The last line before the run.
    pub after: u64,
}

/// Takes the answers. Called on the prober's thread, or on the caller's where there is none; must not block.
pub type Tell = Arc<dyn Fn(Attempt, Seen) + Send + Sync>;

/// Carries out attempts. Each is answered once, unless it is forgotten.
pub struct Prober {
    inbox: Arc<Inbox<Message>>,
    tell: Tell,
    /// The thread is there: from the first attempt on.
    serves: bool,
}

#[derive(Debug)]
enum Message {
    Connect(Attempt, Connect, Duration),
    Follow(Attempt, Following, String),
    Watch(Attempt, ChildOutput),
    Ended(Attempt, Result<(), String>),
    Forget(Attempt),
    /// A log that is followed has grown.
    Grown,
    Quit,
}

impl Prober {
    /// A prober without a thread yet.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(tell: Tell) -> io::Result<Self> {
        Ok(Self {
            inbox: Inbox::new()?,
            tell,
            serves: false,
        })
    }

    /// Connects, and asks where that is wanted, for that time at most.
    pub fn connect(&mut self, attempt: Attempt, connect: Connect, within: Duration) {
        self.ask(attempt, Message::Connect(attempt, connect, within));
    }

    /// Waits for a line of the run that matches.
    pub fn follow(&mut self, attempt: Attempt, log: Following, pattern: String) {
        self.ask(attempt, Message::Follow(attempt, log, pattern));
    }

    /// Reads the output of a command, so that it never waits for a reader, and keeps its last line.
    pub fn watch(&mut self, attempt: Attempt, stdout: OwnedFd, stderr: OwnedFd) {
        let output = ChildOutput::new(stdout, stderr);
        self.ask(attempt, Message::Watch(attempt, output));
    }

    /// The command has been reaped: it ended with 0, or how, in words.
    pub fn ended(&mut self, attempt: Attempt, end: Result<(), String>) {
        self.ask(attempt, Message::Ended(attempt, end));
    }

    /// The answer is no longer wanted, but may be on its way already.
    pub fn forget(&self, attempt: Attempt) {
        self.send(Message::Forget(attempt));
    }

    fn ask(&mut self, attempt: Attempt, message: Message) {
        if !self.serves {
            let (inbox, tell) = (Arc::clone(&self.inbox), Arc::clone(&self.tell));
            if let Err(e) = threads::start("probe", Box::new(move || serve(&inbox, &tell))) {
                let why = format!("no thread for probes: {}", reason(&e));
                return (self.tell)(attempt, Err(why));
            }
            self.serves = true;
        }
        self.send(message);
    }

    fn send(&self, message: Message) {
        // An open inbox without a limit takes everything.
        let _ = self.inbox.send(message);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.send(Message::Quit);
    }
}

/// An attempt under way.
struct Job {
    attempt: Attempt,
    work: Work,
    /// By the last wait: its descriptors that are ready.
    ready: [bool; 2],
}

/// The thread. A job's step comes after the messages were taken: a log that grows during the step then
/// leaves a message for the next wait.
fn serve(inbox: &Arc<Inbox<Message>>, tell: &Tell) {
    let mut jobs: Vec<Job> = Vec::new();
    let mut messages = Vec::new();
    loop {
        if let Err(e) = wait_for(inbox, &mut jobs) {
            let why = format!("cannot wait for it: {}", reason(&e));
            for job in jobs.drain(..) {
                tell(job.attempt, Err(why.clone()));
            }
        }
        inbox.take(&mut messages);
        for message in messages.drain(..) {
            let (attempt, work) = match message {
                Message::Connect(attempt, connect, within) => {
                    if let Some(seen) = own_port(&connect) {
                        tell(attempt, seen);
                        continue;
                    }
                    let begun = Connection::begin(connect, within, Mono::now());
                    (attempt, begun.map(Work::Connection))
                }
                Message::Follow(attempt, log, pattern) => {
                    let inbox = Arc::clone(inbox);
                    let waker = Waker::new(move || drop(inbox.send(Message::Grown)));
                    let begun = LineSearch::begin(log, &pattern, waker);
                    (attempt, begun.map(Work::LineSearch))
                }
                Message::Watch(attempt, output) => {
                    (attempt, Ok(Work::Command(CommandOutput::new(output))))
                }
                Message::Ended(attempt, end) => {
                    let at = jobs.iter().position(|job| job.attempt == attempt);
                    let said = at.and_then(|at| jobs.swap_remove(at).work.last_words());
                    tell(attempt, end_seen(end, said));
                    continue;
                }
                Message::Forget(attempt) => {
                    jobs.retain(|job| job.attempt != attempt);
                    continue;
                }
                Message::Grown => continue,
                Message::Quit => return,
            };
            match work {
                Ok(work) => jobs.push(Job {
                    attempt,
                    work,
                    ready: [false; 2],
                }),
                Err(why) => tell(attempt, Err(why)),
            }
        }
        let now = Mono::now();
        jobs.retain_mut(|job| match job.work.advance(job.ready, now) {
            Some(seen) => {
                tell(job.attempt, seen);
                false
            }
            None => true,
        });
    }
}

/// Whether the process's own port has a listener, where that is the question.
fn own_port(connect: &Connect) -> Option<Seen> {
    let port = connect.own?;
    let none = Set::default();
    let before = connect.before.as_deref().unwrap_or(&none);
    Some(match proc::is_listened_on(port, before)? {
        true => Ok(format!("port {port} is listened on")),
        false => Err(format!("nothing listens on port {port}")),
    })
}

fn end_seen(end: Result<(), String>, said: Option<String>) -> Seen {
    match (end, said) {
        (Ok(()), _) => Ok("exit code 0".into()),
        (Err(end), Some(said)) => Err(format!("{end}: {said}")),
        (Err(end), None) => Err(end),
    }
}

/// Waits for a message, for time to pass, or for the jobs' descriptors.
fn wait_for(inbox: &Inbox<Message>, jobs: &mut [Job]) -> io::Result<()> {
    let next = jobs.iter().filter_map(|job| job.work.deadline()).min();
    let mut open = vec![(inbox.as_fd(), Until::Readable)];
    let mut places = Vec::new();
    for (at, job) in jobs.iter().enumerate() {
        for (i, fd) in job.work.fds().into_iter().enumerate() {
            open.extend(fd);
            places.extend(fd.map(|_| (at, i)));
        }
    }
    let events = wait(&open, next.map(|at| at.since(Mono::now())))?;
    for ((at, i), event) in places.into_iter().zip(events.into_iter().skip(1)) {
        jobs[at].ready[i] = event;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
