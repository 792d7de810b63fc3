//! One connection: its socket, its buffers, how far it is, and until when it may stay so.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;

use crate::base::clock::Mono;
use crate::server::http1::Reader;
use crate::server::service::{Caller, ClientKind};

/// From the first byte of a request to its last; absolute, so that a trickle ends too.
const READ_TIME: Duration = Duration::from_secs(10);
/// For a connection that has not asked for anything yet.
const SILENT_TIME: Duration = Duration::from_secs(60);
/// For a kept-alive connection between two requests. Agents think for minutes.
const IDLE_TIME: Duration = Duration::from_secs(900);
/// For an answer that the client does not take.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// The same while bpm ends: a terminal that does not read delays nobody.
const LAST_TIME: Duration = Duration::from_millis(500);
/// After a refusal what still comes is thrown away for this time, so that the client can read the answer
/// before a reset.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// With more than this to be written, nothing more is read or produced for the connection.
pub(super) const HIGH_WATER: usize = 64 << 10;
/// A message of more bytes than this needs a place among the few that may be large at a time.
const LARGE: usize = 32 << 10;
/// A connection with more than this to be written is closed.
const MAX_PENDING: usize = 16 << 20;
/// After a buffer of more bytes free memory is returned to the system.
pub(super) const BULK: usize = 256 << 10;

pub(super) enum Sock {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Sock {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(into),
            Self::Unix(s) => s.read(into),
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(from),
            Self::Unix(s) => s.write(from),
        }
    }

    fn shutdown_write(&self) {
        // Fails when the other end is gone, which is what the next read will say.
        let _ = match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
            Self::Unix(s) => s.shutdown(Shutdown::Write),
        };
    }
}

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

/// The two ends of a TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
}

/// The protocol of a connection.
pub(super) enum Proto {
    /// Nothing was said yet (Unix socket).
    Unknown,
    /// One request at a time.
    Http(Http),
    /// One JSON message a line, any number at a time.
    Lines {
        /// The first byte of the input that was not searched for a line's end yet.
        at: usize,
        /// The revision agreed on in `initialize` has batches, or none was agreed on.
        batches: bool,
    },
}

#[derive(Default)]
pub(super) struct Http {
    pub(super) reader: Reader,
    pub(super) phase: Phase,
    /// The answer went out before the body came.
    pub(super) answered: bool,
    /// The request is HEAD: its answer has no body.
    pub(super) is_head: bool,
    /// The client takes a stream of events as an answer.
    pub(super) takes_events: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Waits for a request, or is in one.
    #[default]
    Reading,
    /// A call is under way; nothing is read meanwhile.
    Busy,
    /// The same, and its answer has begun as a stream of events.
    Stream,
}

/// Whether a message that is large may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// There is none.
    NoNeed,
    /// All places are taken: nothing more of it is read until one is free.
    Awaited,
    Taken,
}

/// How a connection comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// Closes when all is written.
    Flushed {
        /// And what the client is still sending was thrown away.
        linger: bool,
    },
    /// All is written; closes then at the latest.
    Lingering(Mono),
    /// Closes now.
    Dead,
}

/// Bytes that came and are not served yet.
#[derive(Default)]
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    /// Serving stopped before the end of `bytes`, for an answer that has to be made or written first.
    pub(super) stalled: bool,
    /// The other end sends no more, as epoll said: there may be bytes to read before that.
    pub(super) half_closed: bool,
    /// And all of it was read.
    pub(super) eof: bool,
    /// When the first byte of the request under way came.
    began: Option<Mono>,
}

/// Bytes that are still to be written.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    written: usize,
    /// Since when the other end has taken nothing of it.
    stuck: Option<Mono>,
}

/// The events that the loop watches a connection for.
pub(super) struct Watch {
    pub(super) interest: EpollFlags,
    /// Until when the connection may stay as it is.
    pub(super) deadline: Option<Mono>,
    /// When the timer fires for it: not after `deadline`.
    pub(super) timer: Option<Mono>,
}

pub(super) struct Conn {
    pub(super) token: u64,
    pub(super) sock: Sock,
    /// None: the Unix socket.
    pub(super) ends: Option<Ends>,
    /// Whether the kernel names our user as the peer; None: not asked yet.
    pub(super) ours: Option<bool>,
    pub(super) proto: Proto,
    pub(super) caller: Caller,
    /// It has asked for something that not everybody may.
    pub(super) spoke: bool,
    /// It is counted as an agent's.
    pub(super) counted: bool,
    /// Tickets of its calls under way.
    pub(super) calls: Vec<u64>,
    /// Those of them to be polled once everything is written.
    pub(super) parked: Vec<u64>,
    pub(super) input: Input,
    output: Output,
    pub(super) end: End,
    pub(super) place: Place,
    /// When it last had nothing to do.
    since: Mono,
    pub(super) watch: Watch,
}

impl Conn {
    pub(super) fn new(token: u64, sock: Sock, ends: Option<Ends>, now: Mono) -> Self {
        let proto = match sock {
            Sock::Tcp(_) => Proto::Http(Http::default()),
            Sock::Unix(_) => Proto::Unknown,
        };
        let mut new = Self {
            token,
            sock,
            ends,
            ours: None,
            proto,
            caller: Caller {
                kind: ClientKind::Agent,
                modern: false,
            },
            spoke: false,
            counted: false,
            calls: Vec::new(),
            parked: Vec::new(),
            input: Input::default(),
            output: Output::default(),
            end: End::Open,
            place: Place::NoNeed,
            since: now,
            watch: Watch {
                interest: EpollFlags::empty(),
                deadline: None,
                timer: None,
            },
        };
        new.watch.interest = new.wanted();
        new
    }

    /// Where answers are appended.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.output.bytes
    }

    /// The bytes that wait to be written.
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.output.bytes[self.output.written..]
    }

    /// How many bytes wait to be written.
    pub(super) fn pending(&self) -> usize {
        self.output.bytes.len() - self.output.written
    }

    /// While bpm ends: until when it is waited for that the other end takes something. None: nothing is stuck.
    pub(super) fn gives_up_at(&self) -> Option<Mono> {
        self.output.stuck.map(|since| since.after(LAST_TIME))
    }

    pub(super) fn http(&mut self) -> Option<&mut Http> {
        match &mut self.proto {
            Proto::Http(http) => Some(http),
            Proto::Unknown | Proto::Lines { .. } => None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match &self.proto {
            Proto::Http(http) => http.phase,
            Proto::Unknown | Proto::Lines { .. } => Phase::Reading,
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(http) = self.http() {
            http.phase = phase;
        }
    }

    /// The next message can be served.
    pub(super) fn is_free(&self) -> bool {
        self.pending() == 0 && self.phase() == Phase::Reading
    }

    /// Reads once. A connection that lingers reads to throw away.
    pub(super) fn fill(&mut self, scratch: &mut [u8]) {
        loop {
            match self.sock.read(scratch) {
                Ok(0) => self.input.eof = true,
                Ok(n) if self.end == End::Open => self.input.bytes.extend_from_slice(&scratch[..n]),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.end = End::Dead,
            }
            return;
        }
    }

    /// Writes what can be written.
    pub(super) fn flush(&mut self, now: Mono) {
        let Output {
            bytes,
            written,
            stuck,
        } = &mut self.output;
        while self.end != End::Dead && *written < bytes.len() {
            match self.sock.write(&bytes[*written..]) {
                Ok(n) => {
                    *written += n;
                    *stuck = None;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.end = End::Dead,
            }
        }
        match bytes.len() - *written {
            // The buffer is freed: an idle connection owns a descriptor and this struct.
            0 => self.output = Output::default(),
            pending => {
                stuck.get_or_insert(now);
                if pending > MAX_PENDING {
                    self.end = End::Dead;
                } else if *written > MAX_PENDING {
                    bytes.drain(..*written);
                    *written = 0;
                }
            }
        }
    }

    /// After whatever happened: decides whether it ends, and until when it may stay as it is.
    pub(super) fn settle(&mut self, now: Mono) {
        let idle = self.pending() == 0 && self.calls.is_empty();
        let eof = self.input.eof;
        match self.end {
            // Its last answer is still to come.
            End::Flushed { .. } if self.pending() > 0 || self.phase() != Phase::Reading => {}
            End::Flushed { linger: true } if !eof => {
                self.sock.shutdown_write();
                self.end = End::Lingering(now.after(LINGER_TIME));
            }
            End::Flushed { .. } => self.end = End::Dead,
            // The buffer has no whole request, and the rest will not come.
            End::Open if eof && idle && self.phase() == Phase::Reading => self.end = End::Dead,
            End::Lingering(_) if eof => self.end = End::Dead,
            End::Open | End::Lingering(_) | End::Dead => {}
        }
        let reading = self.reads();
        if self.input.bytes.is_empty() {
            self.input.began = None;
        } else if reading && self.input.began.is_none() {
            self.input.began = Some(now);
        }
        self.watch.deadline = self.next_deadline(reading);
    }

    /// More of the client's requests is welcome.
    fn reads(&self) -> bool {
        let room = match self.proto {
            Proto::Unknown | Proto::Lines { .. } => self.pending() <= HIGH_WATER,
            Proto::Http(_) => self.pending() == 0,
        };
        room && self.end == End::Open && self.phase() == Phase::Reading
    }

    fn next_deadline(&self, reading: bool) -> Option<Mono> {
        if let End::Lingering(until) = self.end {
            return Some(until);
        }
        let http = matches!(self.proto, Proto::Http(_));
        if let Some(stuck) = self.output.stuck {
            // A terminal that does not read (`bpm logs -f | less`) is no reason to cut the socket, unless
            // others wait for its place.
            return (http || self.place == Place::Taken).then(|| stuck.after(WRITE_TIME));
        }
        match self.input.began {
            Some(began) if reading => Some(began.after(READ_TIME)),
            _ if reading && http => {
                let span = if self.spoke { IDLE_TIME } else { SILENT_TIME };
                Some(self.since.after(span))
            }
            _ => None,
        }
    }

    /// A request was answered: the idle time begins.
    pub(super) fn rest(&mut self, now: Mono) {
        self.since = now;
        self.input.began = None;
    }

    /// The events for epoll to report.
    pub(super) fn wanted(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLOUT, self.pending() > 0);
        if self.input.eof {
            return flags;
        }
        let reads = self.reads() && self.place != Place::Awaited;
        let lingers = matches!(self.end, End::Lingering(_));
        flags.set(EpollFlags::EPOLLIN, reads || lingers);
        let http = matches!(self.proto, Proto::Http(_));
        flags.set(EpollFlags::EPOLLRDHUP, http && !self.input.half_closed);
        flags
    }

    /// A message is under way of which more has come than many connections may have at a time.
    pub(super) fn is_large(&self) -> bool {
        let under_way = self.end == End::Open && self.phase() == Phase::Reading;
        under_way && !self.input.stalled && self.input.bytes.len() > LARGE
    }

    /// Nothing large is left to be written.
    pub(super) fn is_slim(&self) -> bool {
        self.pending() <= LARGE
    }

    /// It waits for a place no longer.
    pub(super) fn leave_queue(&mut self) {
        if self.place == Place::Awaited {
            self.place = Place::NoNeed;
        }
    }

    /// How soon it may be closed to make room, the lesser the sooner: never one that is being answered, or
    /// that keeps a proxy's place on the socket.
    pub(super) fn dispensable(&self) -> Option<(u8, Mono)> {
        let lines = matches!(self.proto, Proto::Lines { .. });
        if lines || !self.calls.is_empty() || self.phase() != Phase::Reading {
            return None;
        }
        // Half a request counts as none: else those who send halves would drive out those that have just come.
        let class = match (self.spoke, self.input.bytes.is_empty()) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        Some((class, self.since))
    }
}
