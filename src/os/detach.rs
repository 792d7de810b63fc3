//! Leaving the terminal: fork, setsid, fork, and a pipe that tells who waits how it went.
//!
//! Not daemon(3), whose parent leaves before anything can have failed.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chdir, fork, pipe2, setsid};

use crate::base::error::reason;

/// The two processes that return from [`detach`].
#[derive(Debug)]
pub enum Side {
    /// The one that was called, in its terminal.
    Parent(Waiting),
    /// The daemon to be: in `/`, in no terminal's session and leader of none, with a umask of 077. Its
    /// streams are still the caller's, see [`super::fds::redirect_streams`].
    Daemon(Ready),
}

/// The daemon's end of the pipe. Dropped without a word, it says that the daemon died.
#[derive(Debug)]
pub struct Ready {
    pipe: File,
    /// The umask of whoever started us, for the processes that we start.
    pub umask: u32,
}

/// The caller's end.
#[derive(Debug)]
pub struct Waiting {
    pipe: File,
    middle: Pid,
}

/// How the daemon's start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It serves; with what it had to say.
    Ready(String),
    /// Another one runs, with this pid.
    Already(i32),
    /// It could not, and this is why.
    Failed(String),
    /// It ended without a word.
    Died,
}

/// Splits into who waits and who serves. To be called before there is any second thread: a fork
/// copies the calling one alone, and whatever lock another held stays locked for ever.
///
/// # Errors
/// More than one thread; no pipe; no process.
pub fn detach() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(io::Error::other(format!("{threads} threads run already")));
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: one thread, as was just seen.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(Waiting {
            pipe: read.into(),
            middle: child,
        })),
        ForkResult::Child => {
            drop(read);
            Ok(Side::Daemon(second_half(write)))
        }
    }
}

/// In the child of the first fork. The session makes it free of the terminal and its hangup; the
/// second fork makes sure that it can't get one again by opening it.
fn second_half(pipe: OwnedFd) -> Ready {
    // SAFETY: still one thread.
    match setsid().and_then(|_| unsafe { fork() }) {
        Ok(ForkResult::Child) => {}
        Ok(ForkResult::Parent { .. }) => leave(),
        Err(e) => {
            let why = format!(
                "cannot make a process for the daemon: {}",
                reason(&e.into())
            );
            Ready::new(pipe).failed(&why);
            leave()
        }
    }
    // No file system is kept busy by our working folder. It can't fail; if it does, no harm.
    let _ = chdir("/");
    Ready::new(pipe)
}

/// Without running what was registered or buffered for the process that we are a copy of.
fn leave() -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(0) }
}

/// Makes new files private to this user; returns the mask from before, which our children get.
pub fn private_umask() -> u32 {
    umask(Mode::S_IRWXG | Mode::S_IRWXO).bits()
}

impl Ready {
    fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe: pipe.into(),
            umask: private_umask(),
        }
    }

    /// It serves. To be called after the streams were redirected, or who waits for their end waits on.
    pub fn ready(self, text: &str) {
        drop(self.say(&format!("ready {text}")));
    }

    /// Another one runs.
    pub fn already(self, pid: i32) {
        std::mem::forget(self.say(&format!("already {pid}")));
    }

    /// It could not.
    pub fn failed(self, text: &str) {
        std::mem::forget(self.say(&format!("failed {text}")));
    }

    /// The waiting parent may be gone: then nobody wants to know. Where we do not go on, the pipe stays open until
    /// our end, so that nothing of us is left once who waits is answered.
    fn say(mut self, verdict: &str) -> File {
        let _ = self.pipe.write_all(verdict.as_bytes());
        self.pipe
    }
}

impl Waiting {
    /// Waits until the daemon serves, could not, or has died.
    pub fn verdict(self) -> Verdict {
        // The middle one is over at once; ECHILD where whoever started us ignores SIGCHLD.
        let _ = waitpid(self.middle, None);
        let mut text = Vec::new();
        // An error leaves what came so far, which is judged like a death.
        let _ = self.pipe.take(64 << 10).read_to_end(&mut text);
        parse(&String::from_utf8_lossy(&text))
    }
}

fn parse(text: &str) -> Verdict {
    match text.split_once(' ') {
        Some(("ready", text)) => Verdict::Ready(text.into()),
        Some(("already", pid)) => pid.parse().map_or(Verdict::Died, Verdict::Already),
        Some(("failed", text)) => Verdict::Failed(text.into()),
        _ => Verdict::Died,
    }
}

#[cfg(test)]
mod tests;
