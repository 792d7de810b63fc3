//! Reads the two outputs of one run into its log: one thread, which parses nothing, waits in poll(2)
//! and lives as long as somebody may still write.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::clock::Mono;
use crate::os::poll::readable;
use crate::search::Stream;
use crate::tape::Tape;

/// Enough for what this thread does, and less to touch with 500 of them (measured: 64 KiB costs the
/// least memory).
const STACK: usize = 64 << 10;
/// Lines that come one by one are read so often at most: a thousand a second from each of 20
/// processes cost a twentieth of a core then, and a follower sees them within 10 ms.
const PAUSE: Duration = Duration::from_millis(6);
/// Reads that follow each other within this time are lines one by one ...
const CLOSE: Duration = Duration::from_millis(3);
/// ... once there were so many in a row: a line after silence is never held back.
const MANY: u8 = 8;
/// A read of so much is no line by itself: its writer may be waiting for room.
const MUCH: usize = 16 << 10;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// Called once when what the leader had written at its end is in the log.
pub type OnDrained = Box<dyn FnOnce() + Send>;

/// The thread that reads one run's output. Dropped, it reads on until both pipes are at their end,
/// and tells nobody.
#[derive(Debug)]
pub struct Pump {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<Parked>>,
}

/// What a parked pump gives back.
#[derive(Debug)]
pub struct Parked {
    /// Standard output; None: it is at its end.
    pub stdout: Option<OwnedFd>,
    /// Standard error; None: it is at its end.
    pub stderr: Option<OwnedFd>,
    /// What was to be called is not called any more.
    pub drained: bool,
}

impl Pump {
    /// Starts reading. Both descriptors become non-blocking.
    ///
    /// # Errors
    /// No descriptor or no thread is to be had.
    pub fn start(
        tape: Arc<Tape>,
        run: u64,
        stdout: OwnedFd,
        stderr: OwnedFd,
        on_drained: OnDrained,
    ) -> io::Result<Self> {
        for fd in [&stdout, &stderr] {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let orders = Arc::new(Orders {
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            given: AtomicU8::new(0),
        });
        let reader = Reader {
            tape,
            run,
            pipes: [Some(stdout), Some(stderr)],
            orders: Arc::clone(&orders),
            on_drained: Some(on_drained),
            pace: Pace::default(),
        };
        let thread = Builder::new()
            .name("pump".into())
            .stack_size(STACK)
            .spawn(move || reader.run())?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// The leader has ended: what is in the pipes by now is read, then `on_drained` called. A
    /// grandchild that holds a pipe delays nothing, and its lines are read on.
    pub fn leader_exited(&self) {
        self.orders.give(EXITED);
    }

    /// Ends the thread and gives back the pipes, for whoever reads on. What was read is in the log.
    pub fn park(mut self) -> Parked {
        self.orders.give(PARK);
        let parked = self.thread.take().map(JoinHandle::join);
        parked.and_then(Result::ok).unwrap_or(Parked {
            stdout: None,
            stderr: None,
            drained: true,
        })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.orders.give(ALONE);
    }
}

const EXITED: u8 = 1;
const PARK: u8 = 2;
const ALONE: u8 = 4;

/// What the thread is told, and the bell that wakes it.
#[derive(Debug)]
struct Orders {
    bell: EventFd,
    given: AtomicU8,
}

impl Orders {
    fn give(&self, order: u8) {
        self.given.fetch_or(order, Ordering::AcqRel);
        // Fails only when the bell rings already.
        let _ = self.bell.write(1);
    }

    /// All orders up to now. The bell first: one that comes in between rings it again.
    fn look(&self) -> u8 {
        let _ = self.bell.read();
        self.given.load(Ordering::Acquire)
    }
}

struct Reader {
    tape: Arc<Tape>,
    run: u64,
    pipes: [Option<OwnedFd>; 2],
    orders: Arc<Orders>,
    on_drained: Option<OnDrained>,
    pace: Pace,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("run", &self.run).finish()
    }
}

impl Reader {
    fn run(mut self) -> Parked {
        loop {
            let orders = self.orders.look();
            if orders & PARK != 0 {
                break;
            }
            if orders & EXITED != 0
                && let Some(drained) = self.on_drained.take()
            {
                self.drain();
                drained();
            }
            let awaited = self.on_drained.is_some() && orders & ALONE == 0;
            if self.pipes.iter().all(Option::is_none) && !awaited {
                break;
            }
            self.round();
        }
        let [stdout, stderr] = self.pipes;
        Parked {
            stdout,
            stderr,
            drained: self.on_drained.is_none(),
        }
    }

    /// Waits and reads, once from each pipe at most.
    fn round(&mut self) {
        let bell = Some(self.orders.bell.as_fd());
        let ready = if self.pace.is_dense() {
            // Only an order ends this early; then both are read without being asked for.
            let _ = readable([bell], Some(PAUSE));
            [true, true]
        } else {
            let [out, err] = &self.pipes;
            let asked = [out, err].map(|fd| fd.as_ref().map(AsFd::as_fd));
            // Out of memory in the kernel: a read tells as well.
            readable([asked[0], asked[1], bell], None).map_or([true, true], |r| [r[0], r[1]])
        };
        let mut count = 0;
        for stream in STREAMS {
            if ready[stream as usize] {
                count += self.read(stream).unwrap_or(0);
            }
        }
        self.pace.note(count);
    }

    /// Reads once. None: there is nothing now, or never again.
    fn read(&mut self, stream: Stream) -> Option<usize> {
        let pipe = &mut self.pipes[stream as usize];
        let fd = pipe.as_ref()?;
        match self.tape.read_from(self.run, stream, fd.as_fd()) {
            Ok(count) if count > 0 => Some(count),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock) => None,
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted) => Some(0),
            // The end; a pipe has no other errors.
            Ok(_) | Err(_) => {
                *pipe = None;
                None
            }
        }
    }

    /// Reads what is in the pipes now: at most what they can hold, since somebody else may be
    /// writing on without end.
    fn drain(&mut self) {
        for stream in STREAMS {
            let held = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_GETPIPE_SZ).ok();
            let mut left = self.pipes[stream as usize]
                .as_ref()
                .and_then(held)
                .map_or(STACK, |size| size as usize);
            while left > 0
                && let Some(count) = self.read(stream)
            {
                left = left.saturating_sub(count.max(1));
            }
        }
    }
}

/// How the bytes come.
#[derive(Debug, Default)]
struct Pace {
    last: Mono,
    in_a_row: u8,
}

impl Pace {
    fn note(&mut self, count: usize) {
        if count == 0 || count >= MUCH {
            self.in_a_row = 0;
            return;
        }
        if self.is_dense() {
            return;
        }
        let now = Mono::now();
        let close = now.since(self.last) < CLOSE;
        self.last = now;
        self.in_a_row = if close { self.in_a_row + 1 } else { 0 };
    }

    fn is_dense(&self) -> bool {
        self.in_a_row >= MANY
    }
}
