//! Processes that are not our children, by descriptor (pidfd_open(2), pidfd_getfd(2), ioctl_pidfd(2)).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::poll::readable;
use super::proc::{self, Proc, start_time};
use super::reap::End;
use crate::base::clock::Mono;

/// A process that cannot be mistaken for another one, alive or ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// `struct pidfd_info` of Linux 6.15, in its first size; a newer kernel fills in what fits.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    thread_group: u32,
    parent: u32,
    /// Real, effective, saved and file system's user and group, in pairs.
    ids: [u32; 8],
    exit_code: i32,
}

/// `PIDFD_SIGNAL_PROCESS_GROUP`.
const SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
/// `PIDFD_INFO_EXIT`.
const EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: u64 = 0xC000_FF0B | (size_of::<Info>() as u64) << 16;

impl PidFd {
    /// Opens the process of that number if it began then (clock ticks since the boot). None: it has ended and was
    /// reaped, or the number is another's.
    ///
    /// # Errors
    /// ENOSYS before Linux 5.3; EMFILE.
    pub fn open(pid: i32, start: u64) -> io::Result<Option<Self>> {
        // Asked after the descriptor is open: it refers to what had the number then, and a number is not given
        // away while its process lives or is not reaped.
        Ok(Self::of_number(pid)?.filter(|_| start_time(pid) == Some(start)))
    }

    /// Opens the process that has that number now, for who knows it by other means. None: there is none.
    ///
    /// # Errors
    /// ENOSYS before Linux 5.3; EMFILE.
    pub fn of_number(pid: i32) -> io::Result<Option<Self>> {
        if pid <= 0 {
            return Ok(None);
        }
        // SAFETY: touches no memory.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0_u32) });
        match fd {
            // SAFETY: just opened (CLOEXEC by itself), and nobody else's.
            Ok(fd) => Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))),
            Err(Errno::ESRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Readable once the process has ended, and hung up (POLLHUP) once it has been reaped.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits until it has ended. False: it lives after `timeout`.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Mono::now().after(timeout);
        loop {
            let left = deadline.since(Mono::now());
            let [ended] = readable([Some(self.fd())], Some(left))?;
            if ended || left.is_zero() {
                return Ok(ended);
            }
        }
    }

    /// Sends a signal. False: it has ended, or we may not.
    pub fn signal(&self, signal: i32) -> bool {
        self.send(signal, 0).is_ok()
    }

    /// Sends a signal to all of the group that the process leads, or led: while the descriptor is open the number of
    /// the group means no other one here.
    pub fn signal_group(&self, leader: &Proc, signal: i32) {
        let result = self.send(signal, SIGNAL_PROCESS_GROUP);
        let refused = result.is_err_and(|e| e != Errno::ESRCH);
        // Linux before 6.9: one by one, as long as the number is the leader's for sure.
        if refused && start_time(leader.pid) == Some(leader.start) {
            let all = proc::all_pids().filter_map(proc::process);
            for member in all.filter(|p| p.pgid == leader.pid) {
                member.signal(signal);
            }
        }
    }

    /// pidfd_send_signal(2).
    fn send(&self, signal: i32, flags: u32) -> nix::Result<()> {
        // SAFETY: a null siginfo is allowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                flags,
            )
        };
        Errno::result(result).map(drop)
    }

    /// How it ended. None: it has not been reaped yet.
    ///
    /// # Errors
    /// The kernel does not tell (before 6.15), or a filter refuses the call.
    pub fn end(&self) -> io::Result<Option<End>> {
        let mut info = Info {
            mask: EXIT,
            ..Info::default()
        };
        // SAFETY: writes at most the size that the request's number names into `info`.
        Errno::result(unsafe {
            libc::ioctl(self.0.as_raw_fd(), GET_INFO as libc::Ioctl, &mut info)
        })?;
        // The bit is missing from the answer until the parent has reaped it.
        Ok((info.mask & EXIT != 0).then(|| End::of_status(info.exit_code)))
    }

    /// A copy of its descriptor `number`.
    ///
    /// # Errors
    /// EPERM where ptrace(2) would be refused: Yama's `ptrace_scope` 1 refuses all but root and ancestors; ENOSYS
    /// before Linux 5.6; EBADF.
    pub fn copy_fd(&self, number: i32) -> io::Result<OwnedFd> {
        // SAFETY: touches no memory.
        let fd = Errno::result(unsafe {
            libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0_u32)
        })?;
        // SAFETY: just made (CLOEXEC by itself), and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::process::Command;

    /// A grandchild of ours whose parent is a shell that waits for it and then reads: (shell, pid of the grandchild).
    #[allow(clippy::disallowed_methods)] // the parent of the process must not be us
    pub(crate) fn grandchild(script: &str) -> (std::process::Child, i32) {
        use std::io::{BufRead, BufReader};
        let mut shell = Command::new("sh")
            .args(["-c", &format!("({script}) & echo $!; wait $!; read x")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = shell.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        (shell, line.trim().parse().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::poll::readable;
    use super::super::testing::{Folder, eventually};
    use super::testing::grandchild;
    use super::*;

    #[test]
    fn end_of_a_process_that_is_no_child_is_known() {
        for (script, end) in [
            ("read x </dev/null; sleep 0.2; exit 7", End::Code(7)),
            (
                "sleep 0.2; kill -9 $(sh -c 'echo $PPID')",
                End::Signal {
                    number: libc::SIGKILL,
                    core: false,
                },
            ),
        ] {
            let (mut shell, pid) = grandchild(script);
            let fd = PidFd::open(pid, start_time(pid).unwrap()).unwrap().unwrap();
            assert!(!matches!(fd.end(), Ok(Some(_))));
            assert!(readable([Some(fd.fd())], None).unwrap()[0]);
            // Reaped by its parent a moment after.
            let told = eventually("the parent has reaped it", || {
                (start_time(pid).is_none()).then(|| fd.end().ok().flatten())
            });
            // A kernel before 6.15 tells nothing.
            assert!(told.is_none_or(|told| told == end), "{told:?}");
            assert!(!fd.signal(0));
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    }

    #[test]
    fn another_start_time_is_another_process() {
        let us = std::process::id() as i32;
        let start = start_time(us).unwrap();
        assert!(PidFd::open(us, start + 1).unwrap().is_none());
        assert!(PidFd::open(us, start).unwrap().unwrap().signal(0));
        assert!(PidFd::open(0, 0).unwrap().is_none());
    }

    #[test]
    fn a_listener_is_copied_out_of_a_process() {
        let folder = Folder::new("pidfd");
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let us = std::process::id() as i32;
        let fd = PidFd::open(us, start_time(us).unwrap()).unwrap().unwrap();
        match fd.copy_fd(listener.as_raw_fd()) {
            Ok(copy) => {
                drop(listener);
                let copy = UnixListener::from(copy);
                let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
                copy.accept().unwrap();
            }
            Err(e) => assert!(
                matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)),
                "{e}"
            ),
        }
    }
}
