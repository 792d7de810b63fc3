use super::super::group;
use super::super::testing::{Folder, alone, eventually, shell};
use super::*;
use std::io::PipeWriter;
use std::time::Duration;

/// The text that is written by a copy of this process that has one thread, by its daemon, and by the caller.
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

/// The caller's answer when the daemon does that.
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
            let text =
                told(|ready| ready.ready(&shell("exec sleep 60", &[]).child.pid().to_string()));
            let pid: i32 = text
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse()
                .unwrap();
            let start = super::super::proc::start_time(pid).unwrap();
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
