//! Finding what belongs to a process, and signalling it and nobody else.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;

use super::poll::readable;
use super::proc::{self, Stat};
use crate::base::clock::Mono;
use crate::base::table::Set;

pub use super::proc::start_time as identity;

/// The variable by which a process is known as ours, set at its start and inherited by its own.
pub const MARKER: &str = "BPM_ID";

/// One process, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proc {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// Its group's.
    pub pgid: i32,
    /// Its session's.
    pub sid: i32,
    /// When it began, in clock ticks since the boot: with the number, an identity.
    pub start: u64,
    /// `R`, `S`, `D`, `T`, `Z` (ended and not reaped), ... (proc_pid_stat(5)).
    pub state: char,
}

/// Sends a signal to all of a group. False: there is nobody in it. The caller knows that the number
/// is still the group's, because its leader is not reaped or was seen in it.
pub fn signal_group(pgid: i32, signal: i32) -> bool {
    // Zero would be our own group, -1 everybody.
    pgid > 1 && sent(unsafe_kill(-pgid, signal))
}

/// Sends a signal to a child of ours that is not reaped. False: there is no such process.
pub fn signal(pid: i32, signal: i32) -> bool {
    pid > 1 && sent(unsafe_kill(pid, signal))
}

/// Tells a child of ours that is not reaped to end. CONT follows, since one that is stopped could not.
pub fn tell(pid: i32, signal: i32) {
    for signal in [signal, libc::SIGCONT] {
        self::signal(pid, signal);
    }
}

/// The same to all of a group, as [`signal_group`].
pub fn tell_group(pgid: i32, signal: i32) {
    for signal in [signal, libc::SIGCONT] {
        signal_group(pgid, signal);
    }
}

/// The same to the process that began then, as [`signal_if`].
pub fn tell_if(pid: i32, start: u64, signal: i32) {
    for signal in [signal, libc::SIGCONT] {
        signal_if(pid, start, signal);
    }
}

fn unsafe_kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// EPERM: it is there, though not for us (a program that changed its user).
fn sent(result: Result<(), Errno>) -> bool {
    !matches!(result, Err(Errno::ESRCH | Errno::EINVAL))
}

/// A descriptor that becomes readable when that very process ends; None if it has, or if the number
/// is another's by now. Works for processes that are not our children.
pub fn watch(pid: i32, start: u64) -> io::Result<Option<OwnedFd>> {
    if pid <= 0 {
        return Ok(None);
    }
    // SAFETY: touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0_u32) });
    let fd = match fd {
        // SAFETY: just opened (CLOEXEC by itself), and nobody else's.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd as i32) },
        Err(Errno::ESRCH) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // Asked after the descriptor is open: whatever it refers to had the number then, and a number is
    // not given away while what had it is alive or unreaped.
    Ok((identity(pid) == Some(start)).then_some(fd))
}

/// Signals the process only if it is the one that began then. False: it was not, or it has ended and
/// been reaped, or we may not.
pub fn signal_if(pid: i32, start: u64, signal: i32) -> bool {
    let Ok(Some(fd)) = watch(pid, start) else {
        return false;
    };
    // SAFETY: a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    result == 0
}

/// Waits until that process has ended. False: it lives after `timeout`.
pub fn wait_gone(pid: i32, start: u64, timeout: Duration) -> io::Result<bool> {
    let Some(fd) = watch(pid, start)? else {
        return Ok(true);
    };
    let deadline = Mono::now().after(timeout);
    loop {
        let left = deadline.since(Mono::now());
        let [ended] = readable([Some(fd.as_fd())], Some(left))?;
        if ended || left.is_zero() {
            return Ok(ended);
        }
    }
}

/// That process as it is now.
pub fn look(pid: i32) -> Option<Proc> {
    proc::stat(pid).map(|s| s.proc)
}

/// Everything below that process, which is not in the list itself.
pub fn below(pid: i32) -> Vec<Proc> {
    match children(pid) {
        Some(first) => procs(walk(first)),
        None => procs(sieve(
            pid,
            proc::all_pids().filter_map(proc::stat).collect(),
        )),
    }
}

/// Our children that are not among `known`, and everything below them: what came to us when its
/// parent ended. One read where there is no such process, however many children are known.
pub fn orphans(known: impl Fn(i32) -> bool) -> Vec<Proc> {
    let us = std::process::id() as i32;
    // Only the main thread makes processes, and the kernel gives orphans to it (find_alive_thread).
    match children_of_thread(us, us) {
        Some(all) => procs(walk(all.into_iter().filter(|pid| !known(*pid)).collect())),
        None => {
            let everybody: Vec<Stat> = proc::all_pids().filter_map(proc::stat).collect();
            let strangers = everybody
                .iter()
                .filter(|s| s.proc.ppid == us && !known(s.proc.pid));
            let mut found: Vec<Proc> = strangers.map(|s| s.proc).collect();
            for at in 0..found.len() {
                found.extend(procs(sieve(found[at].pid, everybody.clone())));
            }
            found
        }
    }
}

fn procs(stats: Vec<Stat>) -> Vec<Proc> {
    stats.into_iter().map(|s| s.proc).collect()
}

fn children_of_thread(pid: i32, thread: i32) -> Option<Vec<i32>> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok()?;
    Some(
        list.split_ascii_whitespace()
            .filter_map(|p| p.parse().ok())
            .collect(),
    )
}

/// All our descendants, parents before their children, those that have ended and are not reaped
/// included. A picture of moving things.
pub(super) fn census() -> Vec<Stat> {
    let us = std::process::id() as i32;
    match children(us) {
        Some(first) => walk(first),
        None => sieve(us, proc::all_pids().filter_map(proc::stat).collect()),
    }
}

/// Down the kernel's lists of children: as many reads as there are descendants.
fn walk(mut pids: Vec<i32>) -> Vec<Stat> {
    let mut seen: Set<i32> = pids.iter().copied().collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        found.extend(proc::stat(pid));
        // A number may be given anew while we walk; seen once is enough, and the walk ends.
        pids.extend(
            children(pid)
                .unwrap_or_default()
                .into_iter()
                .filter(|p| seen.add(*p)),
        );
    }
    found
}

/// From everybody, the descendants of one: for kernels without lists of children
/// (CONFIG_PROC_CHILDREN).
fn sieve(root: i32, mut everybody: Vec<Stat>) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = Set::from_iter([root]);
    loop {
        let (of, others): (Vec<Stat>, Vec<Stat>) = everybody
            .into_iter()
            .partition(|s| parents.has(&s.proc.ppid));
        if of.is_empty() {
            return found;
        }
        parents = of.iter().map(|s| s.proc.pid).collect();
        found.extend(of);
        everybody = others;
    }
}

/// The children of all threads of a process; None where the kernel keeps no such list.
fn children(pid: i32) -> Option<Vec<i32>> {
    let mut all = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Some(all);
    };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => all.extend(
                list.split_ascii_whitespace()
                    .filter_map(|p| p.parse::<i32>().ok()),
            ),
            // The thread ended meanwhile, unless its folder is still there.
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(all)
}

/// The value of [`MARKER`] in the environment that the process was given at its start. None: it has
/// none, has ended, wrote over it, or is not ours to read.
pub fn marker(pid: i32) -> Option<String> {
    let value = variable(pid, MARKER)?;
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// The value of any variable, likewise.
pub fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    // Larger environments can't be: an execve takes 6 MiB at most.
    const MOST: u64 = 6 << 20;
    let mut environ = Vec::new();
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(MOST).read_to_end(&mut environ).ok()?;
    environ.split(|b| *b == 0).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.to_vec())
    })
}

/// The processes of our user, whoever's children they are, whose marker begins so: what a daemon
/// that is dead has left. We are not among them.
pub fn find_marked(prefix: &str) -> Vec<Proc> {
    let us = std::process::id() as i32;
    let user = super::peer::our_uid();
    proc::all_pids()
        .filter(|pid| *pid != us)
        .filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == user))
        .filter_map(|pid| {
            // The identity before the marker and again after: both are then the same process's.
            let before = proc::stat(pid)?.proc;
            let ours = marker(pid)?.starts_with(prefix);
            (ours && identity(pid) == Some(before.start)).then_some(before)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::reap::{self, End, become_subreaper, reap};
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
                let pid = child.pid;
                line(&child.stdout);
                let group = || descendants().into_iter().filter(|p| p.pgid == pid).count();
                // The sleep inherited the deaf notify socket.
                assert_eq!(group(), 2);
                assert!(signal_group(pid, libc::SIGTERM));
                assert!(
                    !wait_gone(pid, identity(pid).unwrap(), Duration::from_millis(30)).unwrap()
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
                assert_eq!(ended(child.pid).end, End::Code(0));
                let found = eventually("the sleep has begun", || {
                    let all = descendants();
                    (all.len() == 2 && all.iter().all(|p| marker(p.pid).is_some())).then_some(all)
                });
                assert_eq!((found[0].pid, found[1].ppid), (far, far), "parents first");
                for proc in &found {
                    assert_eq!((proc.pgid, proc.sid), (far, far));
                    assert_eq!(marker(proc.pid).as_deref(), Some("tree-7/web/1"));
                    assert_eq!(identity(proc.pid), Some(proc.start));
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
                    while let Some(pid) = reap::next_dead() {
                        assert_eq!(reap(pid).unwrap().end, KILLED);
                    }
                    descendants().is_empty().then_some(())
                });
            },
        );
    }

    #[test]
    fn another_one_with_the_same_number_is_not_signalled() {
        let child = shell("exec sleep 60", &[]);
        let start = identity(child.pid).unwrap();
        let before_it = start - 1;
        assert!(!signal_if(child.pid, before_it, libc::SIGKILL));
        assert!(watch(child.pid, before_it).unwrap().is_none());
        assert!(wait_gone(child.pid, before_it, Duration::ZERO).unwrap());
        assert!(!wait_gone(child.pid, start, Duration::ZERO).unwrap());
        assert!(signal_if(child.pid, start, libc::SIGKILL));
        // Seen through a descriptor, an unreaped one has ended.
        assert!(wait_gone(child.pid, start, Duration::from_secs(10)).unwrap());
        assert_eq!(ended(child.pid).end, KILLED);
        assert!(!signal_if(child.pid, start, libc::SIGKILL));
        assert_eq!((identity(child.pid), marker(child.pid)), (None, None));
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

    #[test]
    fn both_ways_to_look_see_the_same() {
        alone("os::group::tests::both_ways_to_look_see_the_same", || {
            let child = shell("(sleep 60 & sleep 60 & echo ready; wait) & wait", &[]);
            line(&child.stdout);
            let us = std::process::id() as i32;
            eventually("all is there", || (descendants().len() == 4).then_some(()));
            let pids = |all: Vec<Stat>| {
                let mut pids: Vec<i32> = all.iter().map(|s| s.proc.pid).collect();
                pids.sort();
                pids
            };
            let scanned = sieve(us, proc::all_pids().filter_map(proc::stat).collect());
            assert_eq!(pids(scanned), pids(walk(children(us).unwrap())));
            signal_group(child.pid, libc::SIGKILL);
            ended(child.pid);
        });
    }
}
