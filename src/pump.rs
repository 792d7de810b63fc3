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
            // A small ring takes less at a time than has come in a pause.
            while self.pace.is_dense()
                && count < MUCH
                && let Some(more @ 1..) = self.read(stream)
            {
                count += more;
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

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::clock::Wall;
    use crate::os::poll::Mailbox;
    use crate::search::{Found, Query};
    use crate::tape::Limits;

    const LIMITS: Limits = Limits {
        lines: 1_000_000,
        bytes: 16 << 20,
        runs: 3,
        disk: 0,
    };

    struct Run {
        tape: Arc<Tape>,
        number: u64,
        pump: Pump,
        drained: Receiver<()>,
    }

    impl Run {
        fn new(stdout: impl Into<OwnedFd>, stderr: impl Into<OwnedFd>) -> Self {
            let tape = Tape::new(LIMITS, 1, 1);
            let number = tape.begin(Wall::now());
            let (tell, drained) = channel();
            let told = Box::new(move || tell.send(()).unwrap());
            let pump = Pump::start(
                Arc::clone(&tape),
                number,
                stdout.into(),
                stderr.into(),
                told,
            )
            .unwrap();
            Self {
                tape,
                number,
                pump,
                drained,
            }
        }

        fn of(child: &mut Child) -> Self {
            Self::new(child.stdout.take().unwrap(), child.stderr.take().unwrap())
        }

        /// What is in the log once the child has ended and its output is drained.
        fn finish(self, child: &mut Child) -> Found {
            child.wait().unwrap();
            self.pump.leader_exited();
            self.drained.recv_timeout(Duration::from_secs(10)).unwrap();
            self.tape.end(self.number, Wall::now(), "exit code 0");
            self.tape.find(&Query::default()).unwrap()
        }

        /// Waits until the log has so many lines.
        fn lines(&self, count: u64) {
            let mailbox = Mailbox::new().unwrap();
            let waker = mailbox.waker(0);
            self.tape.follow(&waker);
            while self.tape.next_seq() <= count {
                waker.seen();
                let ready = readable([Some(mailbox.as_fd())], Some(Duration::from_secs(10)));
                assert!(ready.unwrap()[0], "only {} lines", self.tape.next_seq() - 1);
                mailbox.take(&mut Vec::new());
            }
        }
    }

    fn shell(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn nothing_is_lost_of_a_process_that_ends_at_once() {
        let mut child = shell("seq 1 2000; echo bad >&2; printf end");
        let found = Run::of(&mut child).finish(&mut child);
        assert_eq!(found.matches, 2_002);
        let out = found.lines.iter().filter(|l| l.stream == Stream::Stdout);
        let texts: Vec<&str> = out.map(|l| l.text.as_str()).collect();
        assert_eq!(texts.len(), 2_001);
        let expected = (1..=2_000).map(|n| n.to_string()).chain(["end".into()]);
        assert!(texts.iter().copied().eq(expected));
    }

    #[test]
    fn what_no_terminal_would_like_is_kept() {
        let mut child = shell(
            "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf 'nul\\0bad\\377\\n\\033[31mred\\033[0m\\n\\033[3\\ncut \\033]0;t'",
        );
        let found = Run::of(&mut child).finish(&mut child);
        let pieces: Vec<_> = found
            .lines
            .iter()
            .filter(|l| l.text.starts_with('x'))
            .collect();
        assert_eq!(
            pieces.iter().map(|l| l.text.len()).sum::<usize>(),
            3_000_000
        );
        assert_eq!(pieces.len(), 3_000_000 / (64 << 10) + 1);
        let (last, full) = pieces.split_last().unwrap();
        assert!(!last.truncated && full.iter().all(|l| l.truncated && l.text.len() == 64 << 10));
        let rest = found.lines.iter().skip(pieces.len());
        let rest: Vec<&str> = rest.map(|l| l.text.as_str()).collect();
        assert_eq!(rest, ["nul\0bad\u{fffd}", "red", "", "cut "]);
    }

    #[test]
    fn a_grandchild_that_holds_the_pipe_delays_nothing_and_is_read_on() {
        let (out, mut hold) = std::io::pipe().unwrap();
        let (err, _hold_err) = std::io::pipe().unwrap();
        hold.write_all(b"leader\n").unwrap();
        let run = Run::new(out, err);
        run.pump.leader_exited();
        run.drained.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(run.tape.next_seq(), 2);
        run.tape.end(run.number, Wall::now(), "exit code 0");
        hold.write_all(b"late\n").unwrap();
        run.lines(2);
        assert_eq!(run.tape.tail(run.number, 1)[0].text, "late");
        assert!(run.drained.try_recv().is_err());
    }

    #[test]
    fn the_end_of_both_pipes_is_not_the_end_of_the_leader() {
        let (out, end) = std::io::pipe().unwrap();
        let run = Run::new(out, std::io::pipe().unwrap().0);
        drop(end);
        // Both pipes are at their end; only the word of the leader's end counts.
        run.pump.leader_exited();
        run.drained.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_parked_pump_gives_its_pipes_back() {
        let (out, mut writer) = std::io::pipe().unwrap();
        let run = Run::new(out, std::io::pipe().unwrap().0);
        writer.write_all(b"before\nunfin").unwrap();
        run.lines(1);
        let Run {
            tape,
            number,
            pump,
            drained,
        } = run;
        let parked = pump.park();
        assert!(!parked.drained && drained.try_recv().is_err());
        assert!(
            parked.stderr.is_none(),
            "its writer was gone from the first"
        );
        writer.write_all(b"ished\n").unwrap();
        let (tell, drained) = channel();
        let told = Box::new(move || tell.send(()).unwrap());
        let null = std::fs::File::open("/dev/null").unwrap().into();
        let pump = Pump::start(
            Arc::clone(&tape),
            number,
            parked.stdout.unwrap(),
            null,
            told,
        )
        .unwrap();
        pump.leader_exited();
        drained.recv_timeout(Duration::from_secs(10)).unwrap();
        let texts: Vec<String> = tape.tail(number, 9).into_iter().map(|l| l.text).collect();
        assert_eq!(texts, ["before", "unfinished"]);
    }

    #[test]
    fn lines_one_by_one_are_read_together_and_all_there() {
        let (out, mut writer) = std::io::pipe().unwrap();
        let (err, mut errors) = std::io::pipe().unwrap();
        let run = Run::new(out, err);
        // The reader is waited for each time until it has seen that they come one by one.
        for n in 1..=u64::from(MANY) + 4 {
            writer.write_all(b"line\n").unwrap();
            run.lines(n);
        }
        for _ in 0..1_000 {
            writer.write_all(b"line\n").unwrap();
            errors.write_all(b"error\n").unwrap();
        }
        run.lines(2_000 + u64::from(MANY) + 4);
        // An order ends the pause at once.
        writer.write_all(b"last").unwrap();
        run.pump.leader_exited();
        run.drained.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(run.tape.tail(run.number, 1)[0].text, "last");
    }
}
