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

/// Which of the two we are after [`detach`].
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
            let why = format!("no process for the daemon: {}", reason(&e.into()));
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

/// What we create is for nobody else; returns the mask from before, which our children get.
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

    /// Who waits may be gone: then nobody wants to know. Where we do not go on, the pipe stays open until
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
mod tests {
    use super::super::group;
    use super::super::testing::{Folder, alone, eventually, shell};
    use super::*;
    use std::io::PipeWriter;
    use std::time::Duration;

    /// What is written by a copy of this process that has one thread, by its daemon, and by the caller.
    fn forked(body: impl FnOnce(PipeWriter)) -> String {
        let (mut read, write) = io::pipe().unwrap();
        // SAFETY: the copy uses nothing that another thread may have locked, but for the allocator, which
        // the libc keeps usable.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                body(write);
                leave()
            }
            ForkResult::Parent { child } => {
                drop(write);
                let mut text = String::new();
                read.read_to_string(&mut text).unwrap();
                waitpid(child, None).unwrap();
                text
            }
        }
    }

    /// What the caller is told when the daemon does that.
    fn told(daemon: impl FnOnce(Ready)) -> String {
        forked(|mut out| match detach() {
            Ok(Side::Daemon(ready)) => daemon(ready),
            Ok(Side::Parent(waiting)) => write!(out, "{:?}", waiting.verdict()).unwrap(),
            Err(e) => write!(out, "{e}").unwrap(),
        })
    }

    #[test]
    fn the_caller_is_told_how_it_went() {
        alone("os::detach::tests::the_caller_is_told_how_it_went", || {
            assert_eq!(told(|r| r.ready("http://x y")), "Ready(\"http://x y\")");
            assert_eq!(told(|r| r.already(77)), "Already(77)");
            assert_eq!(
                told(|r| r.failed("port\nin use")),
                "Failed(\"port\\nin use\")"
            );
            assert_eq!(told(drop), "Died");
            assert_eq!(told(|_ready| unsafe { libc::abort() }), "Died");
        });
    }

    #[test]
    fn what_could_not_serve_is_gone_when_the_caller_is_told() {
        alone(
            "os::detach::tests::what_could_not_serve_is_gone_when_the_caller_is_told",
            || {
                for how in [|r: Ready| r.failed("no"), |r: Ready| r.already(7)] {
                    let folder = Folder::new("detach");
                    let over = folder.path().join("over");
                    let text = forked(|mut out| match detach().unwrap() {
                        Side::Daemon(ready) => {
                            how(ready);
                            std::thread::park_timeout(Duration::from_millis(200));
                            std::fs::write(&over, "").unwrap();
                        }
                        Side::Parent(waiting) => {
                            waiting.verdict();
                            write!(out, "{}", over.exists()).unwrap();
                        }
                    });
                    assert_eq!(text, "true");
                }
            },
        );
    }

    #[test]
    fn a_daemon_is_in_nobodys_session_and_leads_none() {
        alone(
            "os::detach::tests::a_daemon_is_in_nobodys_session_and_leads_none",
            || {
                umask(Mode::from_bits_truncate(0o23));
                let ours = nix::unistd::getsid(None).unwrap();
                let text = told(|ready| {
                    let (pid, sid) = (nix::unistd::getpid(), nix::unistd::getsid(None).unwrap());
                    let facts = (pid != sid, sid != ours, ready.umask, private_umask());
                    let cwd = std::env::current_dir().unwrap();
                    ready.ready(&format!("{facts:?} {}", cwd.display()));
                });
                let facts = (true, true, 0o23, 0o77);
                assert_eq!(text, format!("Ready(\"{facts:?} /\")"));
            },
        );
    }

    #[test]
    fn a_child_of_the_daemon_does_not_hold_up_the_caller() {
        alone(
            "os::detach::tests::a_child_of_the_daemon_does_not_hold_up_the_caller",
            || {
                let text = told(|ready| ready.ready(&shell("exec sleep 60", &[]).pid.to_string()));
                let pid: i32 = text
                    .trim_matches(|c: char| !c.is_ascii_digit())
                    .parse()
                    .unwrap();
                let start = group::identity(pid).unwrap();
                assert!(group::signal_if(pid, start, libc::SIGKILL));
                assert!(group::wait_gone(pid, start, Duration::from_secs(10)).unwrap());
            },
        );
    }

    #[test]
    fn the_hangup_of_the_terminal_does_not_reach_it() {
        alone(
            "os::detach::tests::the_hangup_of_the_terminal_does_not_reach_it",
            || {
                let text = forked(|mut out| {
                    setsid().unwrap();
                    let terminal = Terminal::open();
                    let login = std::process::id() as i32;
                    match detach() {
                        Ok(Side::Daemon(ready)) => {
                            drop(terminal);
                            ready.ready("");
                            eventually("the login shell has left", || {
                                // A zombie until the test waits for it, which is after our end.
                                let state = super::super::proc::stat(login).map(|s| s.proc.state);
                                state.is_none_or(|s| s == 'Z').then_some(())
                            });
                            write!(out, "alive").unwrap();
                        }
                        Ok(Side::Parent(waiting)) => {
                            assert_eq!(waiting.verdict(), Verdict::Ready(String::new()))
                        }
                        Err(e) => write!(out, "{e}").unwrap(),
                    }
                });
                assert_eq!(text, "alive");
            },
        );
    }

    /// A terminal whose session is ours.
    struct Terminal {
        _master: File,
        _slave: File,
    }

    impl Terminal {
        fn open() -> Self {
            use std::os::fd::AsRawFd;
            let both = || File::options().read(true).write(true).clone();
            let master = both().open("/dev/ptmx").unwrap();
            let mut name = [0_u8; 64];
            // SAFETY: `name` is as long as is said.
            unsafe {
                assert_eq!(libc::unlockpt(master.as_raw_fd()), 0);
                assert_eq!(
                    libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()),
                    0
                );
            }
            let name = std::ffi::CStr::from_bytes_until_nul(&name).unwrap();
            // A session's leader without a terminal gets the first one it opens.
            let slave = both().open(name.to_str().unwrap()).unwrap();
            assert!(File::open("/dev/tty").is_ok());
            Self {
                _master: master,
                _slave: slave,
            }
        }
    }

    #[test]
    fn with_threads_it_refuses() {
        // libtest has a thread for each test.
        let e = detach().unwrap_err().to_string();
        assert!(e.ends_with(" threads run already"), "{e}");
    }

    #[test]
    fn what_is_no_verdict_is_a_death() {
        for text in [
            "",
            "ready",
            "already x",
            "alreadyish 1",
            "nonsense of a sort",
        ] {
            assert_eq!(parse(text), Verdict::Died, "{text}");
        }
    }
}
