//! The size of a terminal, and the signals of a program that fills it.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use signal_hook::low_level;

/// Columns and rows; (0, 0) where they are not known.
pub fn size(terminal: BorrowedFd<'_>) -> (u16, u16) {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize, and `size` is one.
    let got = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    match got {
        0 => (size.ws_col, size.ws_row),
        _ => (0, 0),
    }
}

/// Signals that have come since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caught {
    /// INT, TERM, HUP or QUIT: the number of the one that ends us.
    pub end: Option<i32>,
    /// The terminal has another size.
    pub resized: bool,
    /// TSTP: we should stop for a while.
    pub suspend: bool,
    /// CONT: we were stopped.
    pub continued: bool,
}

const ENDS: [i32; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
const OTHERS: [i32; 3] = [libc::SIGWINCH, libc::SIGTSTP, libc::SIGCONT];

/// Those signals as a descriptor to wait on.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    ends: [Arc<AtomicBool>; 4],
    others: [Arc<AtomicBool>; 3],
}

impl Signals {
    /// Installs the handlers.
    pub fn new() -> io::Result<Self> {
        let (pipe, waker) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let all = Self {
            pipe,
            ends: Default::default(),
            others: Default::default(),
        };
        let numbers = ENDS.into_iter().chain(OTHERS);
        for (number, flag) in numbers.zip(all.ends.iter().chain(&all.others)) {
            // The flag first: actions run in this order, and the pipe must not ring before it is set.
            signal_hook::flag::register(number, Arc::clone(flag))?;
            low_level::pipe::register(number, waker.try_clone()?)?;
        }
        // A caller may have left some of them blocked.
        SigSet::empty().thread_set_mask()?;
        Ok(all)
    }

    /// Takes the signals since the last call. Never blocks.
    pub fn take(&self) -> Caught {
        let mut rings = [0; 64];
        while (&self.pipe)
            .read(&mut rings)
            .is_ok_and(|n| n == rings.len())
        {}
        let came = |flag: &Arc<AtomicBool>| flag.swap(false, Ordering::SeqCst);
        // All are taken, the first that came in this order counts.
        let ended: Vec<i32> = ENDS
            .into_iter()
            .zip(&self.ends)
            .filter_map(|(number, flag)| came(flag).then_some(number))
            .collect();
        let [resized, suspend, continued] = self.others.each_ref().map(came);
        Caught {
            end: ended.first().copied(),
            resized,
            suspend,
            continued,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Stops this process as Ctrl-Z does, and returns once it goes on. A process that no shell could continue
/// is not stopped (signal(7): orphaned groups).
pub fn suspend_ourselves() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action replaces a handler of signal-hook, which is put back below; no code of
    // ours runs in between.
    if let Ok(handler) = unsafe { sigaction(Signal::SIGTSTP, &default) } {
        let _ = raise(Signal::SIGTSTP);
        // SAFETY: the handler was installed by signal-hook, and is valid for the life of the process.
        let _ = unsafe { sigaction(Signal::SIGTSTP, &handler) };
    }
}

/// Ends this process by that signal, as if it had not been caught: who waits for us is told the truth.
pub fn die_by(number: i32) {
    let _ = low_level::emulate_default_handler(number);
}
