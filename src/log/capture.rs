//! Reads what all runs print into their logs: one thread, which parses nothing, waits in epoll(7) for
//! all pipes and reads from those that have something, one read each in turn.
//!
//! Not a thread for each: its stack and what the allocator keeps for it are two thirds of the memory of
//! an idle process then, and twenty that print a line each millisecond cost four times the CPU.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::clock::Mono;
use crate::base::table::Table;
use crate::log::store::Log;
use crate::log::stream::Stream;
use crate::os::fds::set_nonblocking;

/// Enough for what this thread does, and for who is told of something by it; what is never touched
/// costs nothing.
const STACK: usize = 256 << 10;
/// What a pipe holds where nobody has changed it (pipe(7)).
const PIPE: usize = 64 << 10;
/// Lines that come one by one are read so often at most: a thousand a second from each of 20
/// processes cost a hundredth of a core then, and a follower sees them within 10 ms.
const PAUSE: Duration = Duration::from_millis(6);
/// Reads that follow each other within this time are lines one by one ...
const CLOSE: Duration = Duration::from_millis(3);
/// ... once there were so many in a row: a line after silence is never held back.
const MANY: u8 = 8;
/// Who prints without end while nobody else does is read so often before others are looked for.
const ALONE: usize = 4;
/// Full reads in a row after which a pipe is made wider, once; and the bytes that it holds then.
const FLOOD: u8 = 16;
const WIDE: i32 = 256 << 10;
/// A read of so much is no line by itself: its writer may be waiting for room.
const MUCH: usize = 16 << 10;

/// The waker's token; those of pipes are twice their reader's number, and one more for standard error.
const BELL: u64 = 0;

/// Called once when what the leader had written at its end is in the log.
pub type OnDrained = Box<dyn FnOnce() + Send>;

/// The thread that reads the output of all runs.
#[derive(Debug)]
pub struct Captures {
    shared: Arc<Shared>,
}

/// The reading of one run's output. Dropped, it goes on until both pipes are at their end, and tells
/// nobody.
#[derive(Debug)]
pub struct CaptureLoop {
    shared: Arc<Shared>,
    number: u64,
}

impl Captures {
    /// The thread, with nothing to read yet. It lives as long as bpm.
    ///
    /// # Errors
    /// No descriptor or no thread is to be had.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            waker: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            inbox: Mutex::default(),
        });
        shared
            .epoll
            .add(&shared.waker, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let hands = Hands {
            shared: Arc::clone(&shared),
            readers: Table::default(),
            dense: Vec::new(),
            tick: Mono::default(),
        };
        Builder::new()
            .name("pump".into())
            .stack_size(STACK)
            .spawn(move || hands.run())?;
        Ok(Self { shared })
    }

    /// Starts reading. Both descriptors become non-blocking.
    ///
    /// # Errors
    /// A descriptor can't be waited on, or there is no memory to do so.
    pub fn read(
        &self,
        log: Arc<Log>,
        run: u64,
        stdout: OwnedFd,
        stderr: OwnedFd,
        on_drained: OnDrained,
    ) -> io::Result<CaptureLoop> {
        for fd in [&stdout, &stderr] {
            set_nonblocking(fd, true)?;
        }
        let epoll = &self.shared.epoll;
        // Who is woken by a pipe that it does not know yet waits for this lock.
        let mut inbox = self.shared.inbox();
        inbox.last += 1;
        let number = inbox.last;
        epoll.add(&stdout, event(number, Stream::Stdout, true))?;
        if let Err(e) = epoll.add(&stderr, event(number, Stream::Stderr, true)) {
            let _ = epoll.delete(&stdout);
            return Err(e.into());
        }
        let reader = Reader {
            number,
            log,
            run,
            lanes: [stdout, stderr].map(|fd| {
                Some(Lane {
                    fd,
                    pace: Pace::default(),
                })
            }),
            on_drained: Some(on_drained),
            alone: false,
        };
        inbox.orders.push((number, Order::Read(Box::new(reader))));
        drop(inbox);
        self.shared.ring();
        Ok(CaptureLoop {
            shared: Arc::clone(&self.shared),
            number,
        })
    }
}

impl CaptureLoop {
    /// The leader has ended: what is in the pipes by now is read, then `on_drained` called. A
    /// grandchild that holds a pipe delays nothing, and its lines are read on.
    pub fn leader_exited(&self) {
        self.shared.give(self.number, Order::Exited);
    }
}

impl Drop for CaptureLoop {
    fn drop(&mut self) {
        self.shared.give(self.number, Order::Alone);
    }
}

/// What the thread is told.
enum Order {
    Read(Box<Reader>),
    Exited,
    Alone,
}

/// Where the thread is given orders.
struct Shared {
    epoll: Epoll,
    waker: EventFd,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// The last reader's number.
    last: u64,
    orders: Vec<(u64, Order)>,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, number: u64, order: Order) {
        self.inbox().orders.push((number, order));
        self.ring();
    }

    fn ring(&self) {
        // Fails only when the waker rings already.
        let _ = self.waker.write(1);
    }

    /// All orders up to now. The waker first: one that comes in between rings it again.
    fn orders(&self) -> Vec<(u64, Order)> {
        let _ = self.waker.read();
        std::mem::take(&mut self.inbox().orders)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What epoll calls a pipe.
fn token_of(number: u64, stream: Stream) -> u64 {
    2 * number + stream as u64
}

/// The number of the reader, and which of its pipes.
fn named_by(token: u64) -> (u64, Stream) {
    (token / 2, Stream::ALL[(token % 2) as usize])
}

/// `armed`: tells of bytes; if not, of the end alone.
fn event(number: u64, stream: Stream, armed: bool) -> EpollEvent {
    let flags = match armed {
        true => EpollFlags::EPOLLIN,
        false => EpollFlags::empty(),
    };
    EpollEvent::new(flags, token_of(number, stream))
}

/// What the thread has in hand.
struct Hands {
    shared: Arc<Shared>,
    readers: Table<u64, Box<Reader>>,
    /// Tokens of pipes that are read when the pause is over, and not when something comes.
    dense: Vec<u64>,
    /// When that is.
    tick: Mono,
}

impl Hands {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            // Interrupted; it has no other errors.
            let count = self.shared.epoll.wait(&mut events, self.patience());
            for event in &events[..count.unwrap_or(0)] {
                match event.data() {
                    BELL => self.obey(),
                    // Who prints without end while nobody else does needs not be asked for each time.
                    token => self.attend(token, if count == Ok(1) { ALONE } else { 1 }),
                }
            }
            if !self.dense.is_empty() && Mono::now() >= self.tick {
                self.collect();
            }
        }
    }

    fn patience(&self) -> EpollTimeout {
        if self.dense.is_empty() {
            return EpollTimeout::NONE;
        }
        // Rounded up: a wait that ends before its time would only be repeated.
        let left = self.tick.since(Mono::now()) + Duration::from_micros(999);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
    }

    fn obey(&mut self) {
        for (number, order) in self.shared.orders() {
            match (order, self.readers.get_mut(&number)) {
                (Order::Read(reader), _) => drop(self.readers.insert(number, reader)),
                (Order::Exited, Some(reader)) => reader.drain(&self.shared.epoll),
                (Order::Alone, Some(reader)) => reader.alone = true,
                (Order::Exited | Order::Alone, None) => {}
            }
            self.let_go(number);
        }
    }

    /// Something came, or nothing comes any more.
    fn attend(&mut self, token: u64, most: usize) {
        let (number, stream) = named_by(token);
        if !self.readers.has(&number) {
            // The order to read it is on its way.
            self.obey();
        }
        let Some(reader) = self.readers.get_mut(&number) else {
            return;
        };
        for one in Stream::ALL {
            let before = reader.is_dense(one);
            // What the other one holds back is older than what came now.
            if one == stream || before {
                reader.take_in(one, &self.shared.epoll, most);
            }
            let token = token_of(number, one);
            if !before && reader.is_dense(one) && !self.dense.contains(&token) {
                if self.dense.is_empty() {
                    self.tick = Mono::now().after(PAUSE);
                }
                self.dense.push(token);
            }
        }
        self.let_go(number);
    }

    /// The pause is over.
    fn collect(&mut self) {
        let mut tokens = std::mem::take(&mut self.dense);
        tokens.retain(|token| {
            let (number, stream) = named_by(*token);
            let reader = self.readers.get_mut(&number);
            let Some(reader) = reader.filter(|r| r.is_dense(stream)) else {
                return false;
            };
            reader.take_in(stream, &self.shared.epoll, 1);
            let dense = reader.is_dense(stream);
            self.let_go(number);
            dense
        });
        self.dense = tokens;
        self.tick = Mono::now().after(PAUSE);
    }

    /// Forgets a reader that has nothing left to do.
    fn let_go(&mut self, number: u64) {
        if self.readers.get(&number).is_some_and(|r| r.is_done()) {
            self.readers.remove(&number);
        }
    }
}

/// One run.
struct Reader {
    number: u64,
    log: Arc<Log>,
    run: u64,
    /// None: at its end.
    lanes: [Option<Lane>; 2],
    on_drained: Option<OnDrained>,
    /// Nobody waits for the end of its leader.
    alone: bool,
}

struct Lane {
    fd: OwnedFd,
    pace: Pace,
}

impl Reader {
    fn is_done(&self) -> bool {
        self.lanes.iter().all(Option::is_none) && (self.alone || self.on_drained.is_none())
    }

    fn is_dense(&self, stream: Stream) -> bool {
        let lane = self.lanes[stream as usize].as_ref();
        lane.is_some_and(|lane| lane.pace.is_dense())
    }

    /// Reads once, or up to `most` times while there is much; where lines come one by one, all that is
    /// there.
    fn take_in(&mut self, stream: Stream, epoll: &Epoll, most: usize) {
        let before = self.is_dense(stream);
        let mut count = self.read(stream, epoll).unwrap_or(0);
        // A small ring takes less at a time than has come in a pause.
        while before
            && (1..MUCH).contains(&count)
            && let Some(more @ 1..) = self.read(stream, epoll)
        {
            count += more;
        }
        for _ in 1..most {
            if count < MUCH {
                break;
            }
            let Some(more) = self.read(stream, epoll) else {
                break;
            };
            count = more;
        }
        if let Some(lane) = &mut self.lanes[stream as usize] {
            lane.pace.note(count);
            if lane.pace.becomes_flood() {
                // The writer goes on while we read. Not for all pipes: a user has 64 MiB of them
                // (pipe(7), pipe-user-pages-soft), and beyond that this fails.
                let _ = fcntl(&lane.fd, FcntlArg::F_SETPIPE_SZ(WIDE));
            }
            let dense = lane.pace.is_dense();
            if dense != before {
                // Fails only for a descriptor that is not watched.
                let _ = epoll.modify(&lane.fd, &mut event(self.number, stream, !dense));
            }
        }
    }

    /// Reads once. None: there is nothing now, or never again.
    fn read(&mut self, stream: Stream, epoll: &Epoll) -> Option<usize> {
        let lane = self.lanes[stream as usize].as_ref()?;
        // A mistake of ours in one log must not be the end of all.
        let read = AssertUnwindSafe(|| self.log.read_from(self.run, stream, lane.fd.as_fd()));
        match catch_unwind(read) {
            Ok(Ok(count @ 1..)) => Some(count),
            Ok(Err(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock) => None,
            Ok(Err(e)) if matches!(e.kind(), io::ErrorKind::Interrupted) => Some(0),
            // The end; a pipe has no other errors.
            Ok(Ok(_) | Err(_)) | Err(_) => {
                self.close(stream, epoll);
                None
            }
        }
    }

    /// Closes a pipe, out of epoll first: that would know it on while a child that is being made has a
    /// copy of it.
    fn close(&mut self, stream: Stream, epoll: &Epoll) {
        if let Some(lane) = self.lanes[stream as usize].take() {
            let _ = epoll.delete(&lane.fd);
        }
    }

    /// Reads what is in the pipes now, at most what they can hold, since somebody else may be
    /// writing on without end; then tells that it did.
    fn drain(&mut self, epoll: &Epoll) {
        let Some(drained) = self.on_drained.take() else {
            return;
        };
        for stream in Stream::ALL {
            let held = |lane: &Lane| fcntl(&lane.fd, FcntlArg::F_GETPIPE_SZ).ok();
            let mut left = self.lanes[stream as usize]
                .as_ref()
                .and_then(held)
                .map_or(PIPE, |size| size as usize);
            while left > 0
                && let Some(count) = self.read(stream, epoll)
            {
                left = left.saturating_sub(count.max(1));
            }
        }
        drained();
    }
}

/// How the bytes come.
#[derive(Debug, Default)]
struct Pace {
    last: Mono,
    in_a_row: u8,
    /// Reads of much in a row.
    much: u8,
    /// There were as many as make a flood.
    flooded: bool,
}

impl Pace {
    fn note(&mut self, count: usize) {
        if count == 0 || count >= MUCH {
            self.in_a_row = 0;
            self.much = self.much.saturating_add(u8::from(count > 0));
            return;
        }
        self.much = 0;
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

    /// It has just become one; that is so once.
    fn becomes_flood(&mut self) -> bool {
        self.much >= FLOOD && !std::mem::replace(&mut self.flooded, true)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
