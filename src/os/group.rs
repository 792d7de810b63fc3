//! Signals to processes, each to the one that is meant and to nobody else.
//!
//! A number alone is not enough: it is given to another process once its own is reaped. So a signal goes to a
//! [`Child`](super::reap::Child), which is not reaped, or to a process that is known by its number and the time
//! of its beginning, through a descriptor.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use super::pidfd::PidFd;
use super::poll::wait;
use super::proc::{self, Proc};
use crate::base::clock::Mono;

impl Proc {
    /// Sends it a signal. False: it has ended and been reaped, or we may not.
    pub fn signal(&self, signal: i32) -> bool {
        signal_if(self.pid, self.start, signal)
    }

    /// Sends it its stop signal, as [`stop_if`].
    pub fn stop(&self, signal: i32) {
        stop_if(self.pid, self.start, signal);
    }

    /// Sends a signal to the group that it is in, if it is our child: until we reap it, which only the thread does
    /// that calls this, the number of its group is nobody else's. False: it is not ours, or there no more.
    pub fn signal_group_of_ours(&self, signal: i32) -> bool {
        let now = proc::process(self.pid).filter(|now| now.start == self.start);
        let us = std::process::id() as i32;
        now.is_some_and(|now| now.ppid == us && now.pgid == self.pgid)
            && signal_group(self.pgid, signal)
    }
}

/// Sends a signal to the process of that number that began then. False: it was another one, or it has ended and been
/// reaped, or we may not.
pub fn signal_if(pid: i32, start: u64, signal: i32) -> bool {
    match PidFd::open(pid, start) {
        Ok(Some(process)) if process.signal(signal) => true,
        Ok(None) => false,
        // A filter refuses the calls: by its number then, as long as that is its own.
        Ok(Some(_)) | Err(_) => {
            proc::start_time(pid) == Some(start) && pid > 1 && kill(pid, signal).is_ok()
        }
    }
}

/// Sends the stop signal to the process that began then, and CONT: one that is stopped by a signal could not end.
pub fn stop_if(pid: i32, start: u64, signal: i32) {
    for signal in [signal, libc::SIGCONT] {
        signal_if(pid, start, signal);
    }
}

/// Waits until that process has ended. False: it lives after `timeout`.
pub fn wait_gone(pid: i32, start: u64, timeout: Duration) -> io::Result<bool> {
    match PidFd::open(pid, start) {
        Ok(Some(process)) => process.wait(timeout),
        Ok(None) => Ok(true),
        Err(_) => watch_gone(pid, start, timeout),
    }
}

/// The same where a filter refuses pidfd_open(2): nothing tells.
fn watch_gone(pid: i32, start: u64, timeout: Duration) -> io::Result<bool> {
    look_again(timeout, || !proc::lives(pid, start))
}

/// Looks until it is so, where nothing tells. False: it is not after `timeout`.
pub(super) fn look_again(timeout: Duration, is_so: impl Fn() -> bool) -> io::Result<bool> {
    const AGAIN: Duration = Duration::from_millis(10);
    let deadline = Mono::now().after(timeout);
    loop {
        let (so, left) = (is_so(), deadline.since(Mono::now()));
        if so || left.is_zero() {
            return Ok(so);
        }
        wait(&[], Some(left.min(AGAIN)))?;
    }
}

/// Sends a signal to all of a group. False: there is nobody in it. The caller knows that the number is still the
/// group's, because its leader is not reaped or somebody in it is not.
pub(super) fn signal_group(pgid: i32, signal: i32) -> bool {
    // Zero would be our own group, -1 everybody.
    pgid > 1 && sent(kill(-pgid, signal))
}

/// Sends a signal to a child of ours that is not reaped. False: there is no such process.
pub(super) fn signal(pid: i32, signal: i32) -> bool {
    pid > 1 && sent(kill(pid, signal))
}

fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// EPERM: it is there, though not for us (a program that changed its user).
fn sent(result: Result<(), Errno>) -> bool {
    !matches!(result, Err(Errno::ESRCH | Errno::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::super::proc::{MARKER, find_marked, marker, start_time};
    use super::super::reap::{End, become_subreaper, next_dead, reap_orphan};
    use super::super::testing::{alone, descendants, ended, eventually, line, shell};
    use super::*;

    const KILLED: End = End::Signal {
        number: libc::SIGKILL,
        core: false,
    };

    #[test]
    fn a_leader_that_ignores_term_and_its_group_are_killed() {
        alone(
            "os::group::tests::a_leader_that_ignores_term_and_its_group_are_killed",
            || {
                let child = shell("trap '' TERM; sleep 60 & echo ready; wait; wait", &[]);
                let pid = child.child.pid();
                line(&child.stdout);
                let group = || descendants().into_iter().filter(|p| p.pgid == pid).count();
                // The sleep inherited the deaf notify socket.
                assert_eq!(group(), 2);
                assert!(signal_group(pid, libc::SIGTERM));
                assert!(
                    !wait_gone(pid, start_time(pid).unwrap(), Duration::from_millis(30)).unwrap()
                );
                assert_eq!(group(), 2);
                assert!(signal_group(pid, libc::SIGKILL));
                assert_eq!(ended(pid).end, KILLED);
                eventually("the group is empty", || {
                    (!signal_group(pid, 0)).then_some(())
                });
                assert!(!signal_group(pid, libc::SIGTERM));
            },
        );
    }

    #[test]
    fn who_made_a_session_of_its_own_is_found_and_killed() {
        alone(
            "os::group::tests::who_made_a_session_of_its_own_is_found_and_killed",
            || {
                become_subreaper().unwrap();
                // Two forks and a session away, as a daemon does it; then its parents leave.
                let child = shell(
                    "setsid -f sh -c 'echo $$; sleep 61; :'; exit 0",
                    &[(MARKER, "tree-7/web/1")],
                );
                let far: i32 = line(&child.stdout).parse().unwrap();
                assert_eq!(ended(child.child.pid()).end, End::Code(0));
                let found = eventually("the sleep has begun", || {
                    let all = descendants();
                    (all.len() == 2 && all.iter().all(|p| marker(p.pid).is_some())).then_some(all)
                });
                assert_eq!((found[0].pid, found[1].ppid), (far, far), "parents first");
                for proc in &found {
                    assert_eq!((proc.pgid, proc.sid), (far, far));
                    assert_eq!(marker(proc.pid).as_deref(), Some("tree-7/web/1"));
                    assert_eq!(start_time(proc.pid), Some(proc.start));
                }
                let mut marked = find_marked("tree-7/");
                marked.sort_by_key(|p| p.pid);
                assert_eq!(
                    marked.iter().map(|p| p.pid).collect::<Vec<_>>(),
                    [far, found[1].pid]
                );
                assert!(find_marked("tree-8/").is_empty());
                for proc in &found {
                    assert!(signal_if(proc.pid, proc.start, libc::SIGKILL));
                }
                eventually("nothing is left", || {
                    while let Some(pid) = next_dead() {
                        assert_eq!(reap_orphan(pid).unwrap().end, KILLED);
                    }
                    descendants().is_empty().then_some(())
                });
            },
        );
    }

    #[test]
    fn another_one_with_the_same_number_is_not_signalled() {
        let child = shell("exec sleep 60", &[]);
        let start = start_time(child.child.pid()).unwrap();
        let before_it = start - 1;
        assert!(!signal_if(child.child.pid(), before_it, libc::SIGKILL));
        assert!(wait_gone(child.child.pid(), before_it, Duration::ZERO).unwrap());
        assert!(!wait_gone(child.child.pid(), start, Duration::ZERO).unwrap());
        assert!(signal_if(child.child.pid(), start, libc::SIGKILL));
        // Seen through a descriptor, an unreaped one has ended.
        assert!(wait_gone(child.child.pid(), start, Duration::from_secs(10)).unwrap());
        assert_eq!(ended(child.child.pid()).end, KILLED);
        assert!(!signal_if(child.child.pid(), start, libc::SIGKILL));
        assert_eq!(
            (start_time(child.child.pid()), marker(child.child.pid())),
            (None, None)
        );
    }

    #[test]
    fn numbers_that_mean_many_are_refused() {
        // Were it sent, this process and more would end here.
        for pid in [-1, 0, 1, i32::MIN] {
            assert!(!signal_group(pid, libc::SIGKILL));
            assert!(!signal(pid, libc::SIGKILL));
            assert!(!signal_if(pid, 0, libc::SIGKILL));
        }
    }
}
