//! Reads the output of all runs into their logs: one thread, which parses nothing, waits in epoll(7) for all
//! pipes and reads from those that have something, in turn.
//!
//! Not a thread for each: its stack and the memory that the allocator keeps for it are two thirds of the memory
//! of an idle process then, and twenty that print a line each millisecond cost four times the CPU.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::read;

use crate::base::clock::Mono;
use crate::base::table::Table;
use crate::log::block::MAX_LINE;
use crate::log::pipes::{Pipe, Pipes};
use crate::log::store::{Log, STILL};
use crate::log::stream::Stream;
use crate::os::fds::set_nonblocking;
use crate::os::inbox::Inbox;
use crate::os::threads;

/// Enough for this thread and the hooks that it calls; pages that are never touched cost nothing.
const STACK: usize = 256 << 10;
/// Bytes that are read at once, and so at most what the death of the daemon can lose of what nobody was shown.
const MOST_READ: usize = MAX_LINE;
/// The interval in which lines that come one by one are read: a thousand a second from each of 20 processes
/// cost a hundredth of a core then, and a follower sees them within 10 ms.
const PAUSE: Duration = Duration::from_millis(6);
/// Reads that follow each other within this time are lines one by one ...
const CLOSE: Duration = Duration::from_millis(3);
/// ... once there were that many in a row: a line after silence is never held back.
const MANY: u8 = 8;
/// Reads in a row from a process that prints without end while no other prints.
const ALONE: usize = 4;
/// A read of that many bytes is no line by itself: its writer may be waiting for room.
const MUCH: usize = 16 << 10;

/// The inbox's token; those of pipes are twice their output's number, and one more for standard error.
const INBOX: u64 = 0;

/// Called after each [`Capture::drain`]; true: both pipes are at their end, so nothing more can come.
pub type OnDrained = Box<dyn Fn(bool) + Send>;

/// The thread that reads the output of all runs.
pub struct Captures {
    epoll: Arc<Epoll>,
    inbox: Arc<Inbox<(u64, Order)>>,
    /// The number of the last output.
    last: AtomicU64,
    pipes: Arc<Pipes>,
}

/// The reading of one run's output. Dropped, it goes on until both pipes are at their end, and calls nobody.
pub struct Capture {
    inbox: Arc<Inbox<(u64, Order)>>,
    number: u64,
    at_end: Arc<AtomicBool>,
}

/// An order to the thread about one output.
enum Order {
    Read(Box<Output>),
    Drain,
    Detach,
    /// Say what is read, then read nothing until somebody says so.
    Freeze(Arc<Inbox<Vec<Frozen>>>, Arc<Inbox<()>>),
}

/// One run's output while nothing is read.
pub struct Frozen {
    /// That of its [`Capture`].
    pub number: u64,
    pub log: Arc<Log>,
    pub run: u64,
    /// None: at its end.
    pub pipes: [Option<RawFd>; 2],
    /// Its [`Capture`] is gone.
    pub detached: bool,
}

/// Nothing is read while this is there.
pub struct Freeze {
    pub outputs: Vec<Frozen>,
    thaw: Arc<Inbox<()>>,
}

impl Drop for Freeze {
    fn drop(&mut self) {
        let _ = self.thaw.send(());
    }
}

impl Captures {
    /// The thread, with nothing to read yet. It lives as long as bpm.
    ///
    /// # Errors
    /// No descriptor or no thread is to be had.
    pub fn new() -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let inbox = Inbox::new()?;
        epoll.add(&*inbox, EpollEvent::new(EpollFlags::EPOLLIN, INBOX))?;
        let thread = CaptureLoop {
            epoll: Arc::clone(&epoll),
            inbox: Arc::clone(&inbox),
            outputs: Table::default(),
            buffer: vec![0; MOST_READ],
            dense: Vec::new(),
            tick: Mono::default(),
            unfinished: VecDeque::new(),
        };
        threads::start_small("capture", STACK, Box::new(move || thread.run()))?;
        Ok(Self {
            epoll,
            inbox,
            last: AtomicU64::new(0),
            pipes: Arc::default(),
        })
    }

    /// The pipes that are read.
    pub fn pipes(&self) -> &Pipes {
        &self.pipes
    }

    /// Starts reading. The descriptors become non-blocking. A terminal has no `stderr`.
    ///
    /// # Errors
    /// A descriptor can't be waited on, or there is no memory to do so.
    pub fn read(
        &self,
        log: Arc<Log>,
        run: u64,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        on_drained: OnDrained,
    ) -> io::Result<Capture> {
        self.begin(log, run, [Some(stdout), stderr], None, on_drained)
    }

    /// The same for a run that another bpm has read from. No pipe: it is at its end. [`Captures::wake`] follows.
    ///
    /// # Errors
    /// As [`Captures::read`].
    pub fn go_on(
        &self,
        log: Arc<Log>,
        run: u64,
        pipes: [Option<OwnedFd>; 2],
        on_drained: OnDrained,
    ) -> io::Result<Capture> {
        // Waiters for an unfinished line are woken in any case.
        self.begin(log, run, pipes, Some(Mono::now()), on_drained)
    }

    /// Has the thread know all that it goes on with.
    pub fn wake(&self) {
        self.inbox.wake();
    }

    fn begin(
        &self,
        log: Arc<Log>,
        run: u64,
        pipes: [Option<OwnedFd>; 2],
        unfinished: Option<Mono>,
        on_drained: OnDrained,
    ) -> io::Result<Capture> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        for fd in pipes.iter().flatten() {
            set_nonblocking(fd, true)?;
        }
        let lanes = pipes.map(|fd| {
            Some(Lane {
                pipe: self.pipes.add(fd?),
                pace: Pace::default(),
                unfinished,
                queued: false,
            })
        });
        for (lane, stream) in lanes.iter().zip(Stream::ALL) {
            let Some(Lane { pipe, .. }) = lane else {
                continue;
            };
            if let Err(e) = self.epoll.add(pipe, event(number, stream, true)) {
                for Lane { pipe, .. } in lanes.iter().flatten() {
                    let _ = self.epoll.delete(pipe);
                }
                return Err(e.into());
            }
        }
        let at_end = Arc::new(AtomicBool::new(lanes.iter().all(Option::is_none)));
        let output = Output {
            number,
            log,
            run,
            lanes,
            at_end: Arc::clone(&at_end),
            on_drained,
            detached: false,
        };
        // The thread sees it with the first bytes, at once: to be woken by each of hundreds costs it more than to read.
        // The inbox is never full: a run sends four orders at most.
        let _ = self.inbox.put((number, Order::Read(Box::new(output))));
        Ok(Capture {
            inbox: Arc::clone(&self.inbox),
            number,
            at_end,
        })
    }

    /// Carries out what was ordered, then reads nothing while the result is there. None: the thread does not come to
    /// that within `patience`, since a disk hangs.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn freeze(&self, patience: Duration) -> io::Result<Option<Freeze>> {
        let (frozen, thaw) = (Inbox::new()?, Inbox::new()?);
        let order = Order::Freeze(Arc::clone(&frozen), Arc::clone(&thaw));
        let _ = self.inbox.send((0, order));
        let mut freeze = Freeze {
            outputs: Vec::new(),
            thaw,
        };
        Ok(frozen.wait(patience).map(|outputs| {
            freeze.outputs = outputs;
            freeze
        }))
    }
}

impl Capture {
    /// Names it among those that are frozen.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Reads what the pipes hold, then calls `on_drained`: whoever wrote it has ended. A grandchild that holds a
    /// pipe delays nothing, and its lines are still read. True: all is in the log already, since nobody has the pipes
    /// any more, and nobody is called.
    pub fn drain(&self) -> bool {
        let at_end = self.at_end.load(Ordering::Acquire);
        if !at_end {
            let _ = self.inbox.send((self.number, Order::Drain));
        }
        at_end
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.inbox.send((self.number, Order::Detach));
    }
}

impl fmt::Debug for Captures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captures").finish_non_exhaustive()
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Capture").field(&self.number).finish()
    }
}

fn token_of(number: u64, stream: Stream) -> u64 {
    2 * number + stream as u64
}

/// The number of the output, and the stream.
fn named_by(token: u64) -> (u64, Stream) {
    (token / 2, Stream::ALL[(token % 2) as usize])
}

/// `armed`: bytes are reported; if not, the end alone.
fn event(number: u64, stream: Stream, armed: bool) -> EpollEvent {
    let flags = match armed {
        true => EpollFlags::EPOLLIN,
        false => EpollFlags::empty(),
    };
    EpollEvent::new(flags, token_of(number, stream))
}

/// The thread's side.
struct CaptureLoop {
    epoll: Arc<Epoll>,
    inbox: Arc<Inbox<(u64, Order)>>,
    outputs: Table<u64, Box<Output>>,
    buffer: Vec<u8>,
    /// Tokens of pipes that are read at the next tick, and not when something comes.
    dense: Vec<u64>,
    tick: Mono,
    /// Tokens of pipes that left a line unfinished, and when to check whether it stands still, in this order.
    unfinished: VecDeque<(Mono, u64)>,
}

impl CaptureLoop {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            // Interrupted; it has no other errors.
            let count = self.epoll.wait(&mut events, self.patience()).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    INBOX => self.obey(),
                    // The others are not asked for each time while none of them prints.
                    token => self.attend(token, if count == 1 { ALONE } else { 1 }),
                }
            }
            if !self.dense.is_empty() && Mono::now() >= self.tick {
                self.read_dense();
            }
            self.report_still();
        }
    }

    fn patience(&self) -> EpollTimeout {
        let tick = (!self.dense.is_empty()).then_some(self.tick);
        let still = self.unfinished.front().map(|(due, _)| *due);
        let Some(next) = tick.into_iter().chain(still).min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up: a wait that ends before its time would only be repeated.
        let left = next.since(Mono::now()) + Duration::from_micros(999);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
    }

    fn obey(&mut self) {
        let mut orders = Vec::new();
        self.inbox.take(&mut orders);
        for (number, order) in orders {
            match (order, self.outputs.get_mut(&number)) {
                (Order::Read(output), _) => {
                    self.outputs.insert(number, output);
                    for stream in Stream::ALL {
                        self.expect_still(number, stream);
                    }
                }
                (Order::Freeze(frozen, thaw), _) => {
                    let outputs = self.outputs.values().map(|o| o.frozen()).collect();
                    let _ = frozen.send(outputs);
                    let _ = thaw.wait(Duration::MAX);
                }
                (Order::Drain, Some(_)) => self.drain(number),
                (Order::Detach, Some(output)) => output.detached = true,
                (Order::Drain | Order::Detach, None) => {}
            }
            self.forget_if_done(number);
        }
    }

    /// Something came, or nothing comes any more.
    fn attend(&mut self, token: u64, most: usize) {
        let (number, stream) = named_by(token);
        if !self.outputs.has(&number) {
            self.obey();
        }
        for one in Stream::ALL {
            let Some(output) = self.outputs.get(&number) else {
                // The order to read it is about to come.
                return;
            };
            let was_dense = output.is_dense(one);
            // Lines that the other stream holds back are older than these.
            if one == stream || was_dense {
                self.read(number, one, most);
            }
        }
        self.forget_if_done(number);
    }

    /// Reads those that are held back.
    fn read_dense(&mut self) {
        self.tick = Mono::now().after(PAUSE);
        for token in std::mem::take(&mut self.dense) {
            let (number, stream) = named_by(token);
            if self
                .outputs
                .get(&number)
                .is_some_and(|o| o.is_dense(stream))
            {
                self.dense.push(token);
                self.read(number, stream, 1);
                self.forget_if_done(number);
            }
        }
    }

    /// Wakes the followers of logs whose unfinished lines stand still.
    fn report_still(&mut self) {
        while let Some((due, token)) = self.unfinished.front().copied()
            && due <= Mono::now()
        {
            self.unfinished.pop_front();
            let (number, stream) = named_by(token);
            let Some(output) = self.outputs.get_mut(&number) else {
                continue;
            };
            let Some(lane) = &mut output.lanes[stream as usize] else {
                continue;
            };
            lane.queued = false;
            match lane.unfinished.map(|since| since.after(STILL)) {
                Some(later) if later > due => {
                    lane.queued = true;
                    self.unfinished.push_back((later, token));
                }
                Some(_) => output.log.wake(),
                None => {}
            }
        }
    }

    /// Reads a stream once, or up to `most` times while there is much.
    fn read(&mut self, number: u64, stream: Stream, most: usize) {
        let Some(output) = self.outputs.get_mut(&number) else {
            return;
        };
        let was_dense = output.is_dense(stream);
        let mut last = 0;
        for _ in 0..most {
            last = output
                .read(stream, &mut self.buffer, &self.epoll)
                .unwrap_or(0);
            if last < MUCH {
                break;
            }
        }
        let Some(lane) = &mut output.lanes[stream as usize] else {
            return;
        };
        lane.pace.note(last);
        let token = token_of(number, stream);
        let is_dense = lane.pace.is_dense();
        if is_dense != was_dense {
            output.arm(stream, &self.epoll, !is_dense);
        }
        if is_dense && !self.dense.contains(&token) {
            if self.dense.is_empty() {
                self.tick = Mono::now().after(PAUSE);
            }
            self.dense.push(token);
        }
        self.expect_still(number, stream);
    }

    /// A line was left unfinished: whether it stands still is checked later.
    fn expect_still(&mut self, number: u64, stream: Stream) {
        let output = self.outputs.get_mut(&number);
        let lane = output.and_then(|o| o.lanes[stream as usize].as_mut());
        if let Some(lane) = lane
            && let Some(since) = lane.unfinished
            && !std::mem::replace(&mut lane.queued, true)
        {
            let token = token_of(number, stream);
            self.unfinished.push_back((since.after(STILL), token));
        }
    }

    /// Reads the contents of the pipes, at most what they can hold, since another process may be writing on
    /// without end; then reports that it did.
    fn drain(&mut self, number: u64) {
        let Some(output) = self.outputs.get_mut(&number) else {
            return;
        };
        for stream in Stream::ALL {
            let lane = output.lanes[stream as usize].as_ref();
            let mut left = lane.map_or(0, |lane| lane.pipe.size());
            while left > 0
                && let Some(count) = output.read(stream, &mut self.buffer, &self.epoll)
            {
                left = left.saturating_sub(count.max(1));
            }
        }
        (output.on_drained)(output.is_at_end());
    }

    /// Forgets an output that has nothing left to do.
    fn forget_if_done(&mut self, number: u64) {
        if self.outputs.get(&number).is_some_and(|o| o.is_done()) {
            self.outputs.remove(&number);
        }
    }
}

/// The output of one run.
struct Output {
    number: u64,
    log: Arc<Log>,
    run: u64,
    /// None: at its end.
    lanes: [Option<Lane>; 2],
    /// Set once both are, and all that they held is in the log.
    at_end: Arc<AtomicBool>,
    on_drained: OnDrained,
    /// Nobody asks for it any more.
    detached: bool,
}

struct Lane {
    pipe: Pipe,
    pace: Pace,
    /// The time of the last read, if it left a line unfinished.
    unfinished: Option<Mono>,
    /// It is among those that are checked for that.
    queued: bool,
}

impl Output {
    fn is_at_end(&self) -> bool {
        self.lanes.iter().all(Option::is_none)
    }

    fn frozen(&self) -> Frozen {
        let number = |lane: &Option<Lane>| Some(lane.as_ref()?.pipe.as_fd().as_raw_fd());
        Frozen {
            number: self.number,
            log: Arc::clone(&self.log),
            run: self.run,
            pipes: self.lanes.each_ref().map(number),
            detached: self.detached,
        }
    }

    fn is_done(&self) -> bool {
        self.is_at_end() && self.detached
    }

    fn is_dense(&self, stream: Stream) -> bool {
        let lane = self.lanes[stream as usize].as_ref();
        lane.is_some_and(|lane| lane.pace.is_dense())
    }

    /// Whether bytes of a stream are reported.
    fn arm(&self, stream: Stream, epoll: &Epoll, armed: bool) {
        if let Some(lane) = &self.lanes[stream as usize] {
            // Fails only for a descriptor that is not watched.
            let _ = epoll.modify(&lane.pipe, &mut event(self.number, stream, armed));
        }
    }

    /// Reads once. None: there is nothing now, or never again.
    fn read(&mut self, stream: Stream, buffer: &mut [u8], epoll: &Epoll) -> Option<usize> {
        let lane = self.lanes[stream as usize].as_mut()?;
        let mut count = match read(&lane.pipe, buffer) {
            Ok(count @ 1..) => count,
            Err(Errno::EAGAIN) => return None,
            Err(Errno::EINTR) => return Some(0),
            // The end; a pipe has no other errors, and a terminal's is its end.
            Ok(_) | Err(_) => {
                self.close(stream, epoll);
                return None;
            }
        };
        while lane.pipe.is_terminal()
            && let Ok(more @ 1..) = read(&lane.pipe, &mut buffer[count..])
        {
            count += more;
        }
        // A mistake of ours in one log must not be the end of all.
        let append = AssertUnwindSafe(|| self.log.append(self.run, stream, &buffer[..count]));
        match catch_unwind(append) {
            Ok(unfinished) => lane.unfinished = unfinished.then(Mono::now),
            Err(_) => self.close(stream, epoll),
        }
        Some(count)
    }

    /// Closes a pipe, out of epoll first: that would know it on while a child that is being made has a copy
    /// of it.
    fn close(&mut self, stream: Stream, epoll: &Epoll) {
        if let Some(lane) = self.lanes[stream as usize].take() {
            let _ = epoll.delete(&lane.pipe);
        }
        if self.is_at_end() {
            self.at_end.store(true, Ordering::Release);
        }
    }
}

/// The rhythm in which bytes come.
#[derive(Debug, Default)]
struct Pace {
    last: Mono,
    in_a_row: u8,
}

impl Pace {
    fn note(&mut self, count: usize) {
        if count == 0 || count >= MUCH {
            self.in_a_row = 0;
        } else if !self.is_dense() {
            let now = Mono::now();
            let close = now.since(self.last) < CLOSE;
            self.last = now;
            self.in_a_row = if close { self.in_a_row + 1 } else { 0 };
        }
    }

    fn is_dense(&self) -> bool {
        self.in_a_row >= MANY
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
