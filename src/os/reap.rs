//! How processes end, and the signals that reach us.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use signal_hook::SigId;
use signal_hook::low_level;

use super::group;
use super::pidfd::PidFd;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// By itself, with this exit code.
    Code(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// A core was dumped.
        core: bool,
    },
    /// It was not our child, and nobody told.
    #[default]
    Unknown,
}

impl End {
    /// Of a status in the form of wait(2).
    pub fn of_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal {
                number: libc::WTERMSIG(status),
                core: libc::WCOREDUMP(status),
            }
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// By itself, with exit code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// Err: not with exit code 0, but in words (`exit code 3`, `signal KILL`).
    pub fn into_result(self) -> Result<(), String> {
        match self {
            Self::Code(0) => Ok(()),
            Self::Code(code) => Err(format!("exit code {code}")),
            Self::Signal { number, .. } => Err(format!("signal {}", signal_name(number))),
            Self::Unknown => Err("status unknown".into()),
        }
    }
}

/// A process that has been reaped: its number may be given to another one from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Death {
    /// It was this one.
    pub pid: i32,
    /// How it ended.
    pub end: End,
    /// User and system time of it and of the children that it waited for.
    pub cpu: Duration,
    /// Peak resident memory in bytes, of it or of the largest child that it waited for. The kernel
    /// counts from before the execve, when the process shared our memory: never less than our own peak
    /// was at its start.
    pub peak_rss: u64,
}

impl Death {
    /// Of a process of which no more is known.
    pub(super) fn of(pid: i32, end: End) -> Self {
        Self {
            pid,
            end,
            cpu: Duration::ZERO,
            peak_rss: 0,
        }
    }
}

/// A child that has ended and is not reaped. It comes again until it is reaped; its number, and
/// that of its group, is nobody else's until then, so that what is left of the group can be killed.
pub fn next_dead() -> Option<i32> {
    dead_among(libc::P_ALL, 0)
}

/// The same among the children that are meant.
fn dead_among(kind: libc::idtype_t, id: libc::id_t) -> Option<i32> {
    wait_among(kind, id).filter(|pid| *pid != 0)
}

/// The same; 0: all of them live. None: there are none.
fn wait_among(kind: libc::idtype_t, id: libc::id_t) -> Option<i32> {
    // Not nix's waitid: it fails on a child that was killed by a real-time signal, for ever.
    // SAFETY: a siginfo_t of zeros is valid, and is filled in by the call.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: writes `info`. With WNOHANG there is no EINTR.
    let found = unsafe { libc::waitid(kind, id, &mut info, flags) } == 0;
    // SAFETY: for WEXITED the pid is set; it stays zero where no child is dead.
    let pid = unsafe { info.si_pid() };
    found.then_some(pid)
}

/// A child of ours that is not reaped: while this value is there, its number, and that of the group that it leads,
/// is nobody else's. Reaping consumes it, so a signal after the reap does not compile:
///
/// ```compile_fail,E0382
/// fn f(child: bpm::os::reap::Child) {
///     let _ = child.reap();
///     child.signal_group(9);
/// }
/// ```
///
/// Before it, it does:
///
/// ```
/// fn f(child: bpm::os::reap::Child) {
///     child.signal_group(9);
///     let _ = child.reap();
/// }
/// ```
#[derive(Debug)]
pub struct Child {
    pid: i32,
}

impl Child {
    /// The process that was just made.
    pub(super) fn new(pid: i32) -> Self {
        Self { pid }
    }

    /// One that this process made before an execve and has not reaped: a child of ours has its number until then.
    /// None: it is no child of ours.
    pub fn inherited(pid: i32) -> Option<Self> {
        let known = wait_among(libc::P_PID, pid.cast_unsigned());
        known.map(|_| Self { pid })
    }

    /// Its number, and that of its group and session.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: i32) {
        group::signal(self.pid, signal);
    }

    /// Sends a signal to all of its group.
    pub fn signal_group(&self, signal: i32) {
        group::signal_group(self.pid, signal);
    }

    /// Sends it alone the stop signal, and CONT.
    pub fn stop(&self, signal: i32) {
        for signal in [signal, libc::SIGCONT] {
            self.signal(signal);
        }
    }

    /// Sends all of its group the stop signal, and CONT: what is stopped by a signal could not end.
    pub fn stop_group(&self, signal: i32) {
        for signal in [signal, libc::SIGCONT] {
            self.signal_group(signal);
        }
    }

    /// It has ended, whether or not the signal of that was taken.
    pub fn has_ended(&self) -> bool {
        dead_among(libc::P_PID, self.pid as libc::id_t).is_some()
    }

    /// Waits until it has ended, and does not reap it. False: it lives after `timeout`.
    ///
    /// # Errors
    /// Those of poll(2); EMFILE.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        // The number of a child that is not reaped is its own, also where no /proc tells its start time.
        match PidFd::of_number(self.pid) {
            Ok(process) => process.map_or(Ok(true), |process| process.wait(timeout)),
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => Err(e),
            // A filter refuses pidfd_open(2).
            Err(_) => group::look_again(timeout, || self.has_ended()),
        }
    }

    /// Reaps it.
    ///
    /// # Errors
    /// It has not ended.
    pub fn reap(self) -> Result<Death, Self> {
        reap_orphan(self.pid).ok_or(self)
    }
}

/// Reaps the child in a slot if it has ended; the slot is empty then.
pub fn reap_from(slot: &mut Option<Child>) -> Option<Death> {
    match slot.take()?.reap() {
        Ok(death) => Some(death),
        Err(child) => {
            *slot = Some(child);
            None
        }
    }
}

/// Reaps a child that nobody holds as [`Child`], if it has ended: one that came to us when its parent ended. None: it
/// lives, or it isn't ours.
pub fn reap_orphan(pid: i32) -> Option<Death> {
    if pid <= 0 {
        return None;
    }
    let mut status = 0;
    // SAFETY: a rusage of zeros is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes `status` and `usage`.
    let got = unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage) };
    if got != pid {
        return None;
    }
    let span = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    Some(Death {
        pid,
        end: End::of_status(status),
        cpu: span(usage.ru_utime) + span(usage.ru_stime),
        peak_rss: usage.ru_maxrss as u64 * 1024,
    })
}

/// A signal's name without SIG: `KILL`, `RTMIN+3`.
pub fn signal_name(number: i32) -> Cow<'static, str> {
    if let Ok(signal) = Signal::try_from(number) {
        return signal.as_str().trim_start_matches("SIG").into();
    }
    match number - libc::SIGRTMIN() {
        0 => "RTMIN".into(),
        n if n > 0 && number <= libc::SIGRTMAX() => format!("RTMIN+{n}").into(),
        _ => number.to_string().into(),
    }
}

/// From now on, descendants whose parent ends become our children, and are reaped by us. Holds over
/// an execve.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// While it lives, this thread gets no signals; what comes, waits. To be held over an execve as
/// well: the mask survives it, and [`Signals::new`] lifts it once there are handlers.
#[derive(Debug)]
pub struct Masked {
    before: SigSet,
}

impl Masked {
    /// All signals but those of faults of our own.
    pub fn all() -> Self {
        let mut all = SigSet::all();
        all.remove(Signal::SIGSEGV);
        all.remove(Signal::SIGBUS);
        // Fails only for an unknown `how`.
        let before = all
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .unwrap_or_else(|_| SigSet::empty());
        Self { before }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// Signals since the last call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caught {
    /// SIGTERM.
    pub term: bool,
    /// SIGINT.
    pub int: bool,
    /// SIGHUP.
    pub hup: bool,
    /// SIGCHLD: any number of children ended, see [`next_dead`].
    pub child: bool,
    /// SIGUSR2.
    pub usr2: bool,
    /// SIGQUIT.
    pub quit: bool,
    /// Those that would end bpm if nobody took them, each once.
    pub others: Vec<i32>,
}

const SIGNALS: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGCHLD,
    libc::SIGUSR2,
    libc::SIGQUIT,
];

/// Signals that end a process by default, mean nothing to bpm, and are no faults of its own (SEGV and the like keep
/// their default). Real-time signals belong to them too.
const OTHERS: [Signal; 10] = [
    Signal::SIGUSR1,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGTRAP,
    Signal::SIGSYS,
];

fn others() -> SigSet {
    let mut set = *OTHERS.into_iter().collect::<SigSet>().as_ref();
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: writes the set, which was initialized.
        unsafe { libc::sigaddset(&mut set, number) };
    }
    // SAFETY: it was initialized, and has valid signals only.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// TERM, as when a person sends it: it comes by [`Signals`].
pub fn ask_ourselves_to_stop() {
    // We exist, and may.
    let _ = kill(Pid::this(), Signal::SIGTERM);
}

/// Our terminal would tell us by SIGHUP that it goes away: we have one, and who started us did not ignore
/// that signal (nohup(1)). To be asked before [`Signals::new`].
pub fn may_hang_up() -> bool {
    // SAFETY: all zeros are a valid sigaction; the call only writes it.
    let ignored = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut now) == 0
            && now.sa_sigaction == libc::SIG_IGN
    };
    !ignored && std::fs::File::open("/dev/tty").is_ok()
}

/// TERM, INT, HUP, CHLD, USR2 and QUIT as a descriptor to wait on. None of them is ignored or blocked after,
/// whatever whoever started us did: SIGCHLD ignored would lose exits. Those that would end us by their default
/// are blocked, and read from a descriptor of their own; threads begun later inherit that, children do not.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    came: [Arc<AtomicBool>; 6],
    ids: Vec<SigId>,
    others: SignalFd,
}

impl Signals {
    /// Installs the handlers, then lets all signals in but those that would end us.
    pub fn new() -> io::Result<Self> {
        let (pipe, waker) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let others = others();
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let mut all = Self {
            pipe,
            came: Default::default(),
            ids: Vec::new(),
            others: SignalFd::with_flags(&others, flags)?,
        };
        for (signal, flag) in SIGNALS.into_iter().zip(&all.came) {
            // The flag first: actions run in this order, and the waker must not ring before it is set.
            all.ids
                .push(signal_hook::flag::register(signal, Arc::clone(flag))?);
            all.ids
                .push(low_level::pipe::register(signal, waker.try_clone()?)?);
        }
        // A limit on the size of files is an error of write(2) then, as a full disk is.
        // SAFETY: no handler of ours is replaced; nothing runs at that signal any more.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        others.thread_set_mask()?;
        Ok(all)
    }

    /// Readable when one of the signals came that would have ended us.
    pub fn others(&self) -> BorrowedFd<'_> {
        self.others.as_fd()
    }

    /// Takes the signals since the last call. Never blocks.
    pub fn take(&self) -> Caught {
        // Emptied before the flags are looked at: what comes in between rings again.
        let mut rings = [0; 64];
        while (&self.pipe)
            .read(&mut rings)
            .is_ok_and(|n| n == rings.len())
        {}
        let [term, int, hup, child, usr2, quit] = self
            .came
            .each_ref()
            .map(|f| f.swap(false, Ordering::SeqCst));
        let mut others = Vec::new();
        while let Ok(Some(came)) = self.others.read_signal() {
            let number = came.ssi_signo.cast_signed();
            if !others.contains(&number) {
                others.push(number);
            }
        }
        Caught {
            term,
            int,
            hup,
            child,
            usr2,
            quit,
            others,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{alone, descendants, ended, eventually, line, shell};
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn every_way_to_end_is_told() {
        alone("os::reap::tests::every_way_to_end_is_told", || {
            assert_eq!(next_dead(), None);
            let realtime = libc::SIGRTMIN() + 3;
            let cases = [
                ("exit 3".to_owned(), End::Code(3)),
                (
                    "kill -KILL $$".to_owned(),
                    End::Signal {
                        number: libc::SIGKILL,
                        core: false,
                    },
                ),
                (
                    format!("kill -{realtime} $$"),
                    End::Signal {
                        number: realtime,
                        core: false,
                    },
                ),
            ];
            for (script, end) in cases {
                let child = shell(&script, &[]).child;
                let pid = child.pid();
                let dead = eventually("somebody is dead", next_dead);
                assert_eq!(
                    (dead, next_dead()),
                    (pid, Some(pid)),
                    "it is told until it is reaped"
                );
                assert!(child.has_ended(), "this one is");
                assert!(group::signal_group(pid, 0), "its number is still taken");
                assert_eq!(reap_orphan(pid).unwrap().end, end);
                assert_eq!((next_dead(), reap_orphan(pid)), (None, None));
            }
        });
    }

    #[test]
    fn what_a_process_used_is_told_at_its_end() {
        let child = shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done", &[]);
        assert_eq!(reap_orphan(child.child.pid()), None, "it lives");
        assert!(!child.child.has_ended());
        let death = ended(child.child.pid());
        assert!(death.cpu > Duration::from_millis(10), "{death:?}");
        assert!(death.peak_rss > 100_000, "{death:?}");
    }

    #[test]
    fn nobody_elses_child_is_reaped() {
        for pid in [-1, 0, 1, std::process::id() as i32] {
            assert_eq!(reap_orphan(pid), None);
        }
    }

    #[test]
    fn an_orphan_comes_to_us() {
        alone("os::reap::tests::an_orphan_comes_to_us", || {
            become_subreaper().unwrap();
            let child = shell("sleep 60 >/dev/null 2>&1 & echo $!", &[]);
            let orphan: i32 = line(&child.stdout).parse().unwrap();
            ended(child.child.pid());
            let ours = std::process::id() as i32;
            eventually("it is ours", || {
                descendants()
                    .into_iter()
                    .find(|p| p.pid == orphan && p.ppid == ours)
            });
            assert!(group::signal(orphan, libc::SIGKILL));
            let dead = eventually("it is dead", next_dead);
            assert_eq!(dead, orphan);
            assert!(reap_orphan(orphan).is_some());
        });
    }

    #[test]
    fn signals_have_names() {
        let names = [
            (libc::SIGKILL, "KILL"),
            (libc::SIGSEGV, "SEGV"),
            (libc::SIGRTMIN(), "RTMIN"),
            (libc::SIGRTMIN() + 2, "RTMIN+2"),
            (99, "99"),
        ];
        for (number, name) in names {
            assert_eq!(signal_name(number), name);
        }
    }

    #[test]
    fn signals_are_told_by_name_and_once() {
        alone("os::reap::tests::signals_are_told_by_name_and_once", || {
            // As a careless parent might leave it.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            let masked = Masked::all();
            let signals = Signals::new().unwrap();
            let mask = SigSet::thread_get_mask().unwrap();
            assert!(mask.iter().all(|signal| OTHERS.contains(&signal)));
            assert_eq!(signals.take(), Caught::default());
            for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGUSR2] {
                nix::sys::signal::raise(signal).unwrap();
            }
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1));
            assert_eq!(
                signals.take(),
                Caught {
                    term: true,
                    usr2: true,
                    ..Caught::default()
                }
            );
            assert_eq!(signals.take(), Caught::default());
            assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
            let pid = shell("exit 4", &[]).child.pid();
            eventually("a child ended", || signals.take().child.then_some(()));
            assert_eq!(reap_orphan(pid).unwrap().end, End::Code(4));
            drop(masked);
        });
    }

    #[test]
    fn signals_that_would_end_us_are_read() {
        alone(
            "os::reap::tests::signals_that_would_end_us_are_read",
            || {
                let signals = Signals::new().unwrap();
                let mut numbers: Vec<i32> = OTHERS.iter().map(|signal| *signal as i32).collect();
                numbers.extend(libc::SIGRTMIN()..=libc::SIGRTMAX());
                for number in &numbers {
                    unsafe { libc::raise(*number) };
                    let mut fds = [PollFd::new(signals.others(), PollFlags::POLLIN)];
                    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1), "{number}");
                    assert_eq!(signals.take().others, [*number]);
                }
                for number in &numbers {
                    unsafe { libc::raise(*number) };
                }
                let mut others = signals.take().others;
                others.sort_unstable();
                numbers.sort_unstable();
                assert_eq!(others, numbers, "each is told");
                nix::sys::signal::raise(Signal::SIGQUIT).unwrap();
                let caught = signals.take();
                assert!(caught.quit && caught.others.is_empty(), "{caught:?}");
                let line = line(&shell("grep SigBlk /proc/self/status; exec sleep 60", &[]).stdout);
                assert!(line.ends_with("0000000000000000"), "{line}");
            },
        );
    }

    #[test]
    fn what_is_masked_waits() {
        alone("os::reap::tests::what_is_masked_waits", || {
            let signals = Signals::new().unwrap();
            let masked = Masked::all();
            nix::sys::signal::raise(Signal::SIGHUP).unwrap();
            assert_eq!(signals.take(), Caught::default());
            drop(masked);
            assert!(signals.take().hup);
        });
    }
}
