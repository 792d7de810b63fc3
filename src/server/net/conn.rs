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
/// A connection that has not asked for anything yet.
const SILENT_TIME: Duration = Duration::from_secs(60);
/// A kept-alive connection between two requests. Agents think for minutes.
const IDLE_TIME: Duration = Duration::from_secs(900);
/// An answer that the client does not take.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// The same while bpm ends: a terminal that does not read delays nobody.
const LAST_TIME: Duration = Duration::from_millis(500);
/// After a refusal: what is still coming is thrown away, so that the client can read
/// the answer before a reset.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// With more than this to be written, nothing more is read or produced for the connection.
pub(super) const HIGH_WATER: usize = 64 << 10;
/// A message of more bytes than this needs a place among the few that may be large at a time.
const LARGE: usize = 32 << 10;
/// With more than this, it is closed.
const MAX_PENDING: usize = 16 << 20;

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

/// What is spoken.
pub(super) enum Proto {
    /// Nothing was said yet (Unix socket).
    Unknown,
    /// One request at a time.
    Http(Http),
    /// One JSON message a line, any number at a time.
    Lines {
        /// The first byte of the read buffer that was not looked at yet.
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
    /// It is none.
    NoNeed,
    /// All places are taken: nothing more of it is read until one is free.
    Awaited,
    Taken,
}

/// How a connection comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// When all is written.
    Flushed {
        /// And what the client is still sending was thrown away.
        linger: bool,
    },
    /// All is written; until then at the latest.
    Lingering(Mono),
    /// Now.
    Dead,
}

pub(super) struct Conn {
    pub(super) token: u64,
    pub(super) sock: Sock,
    /// None: the Unix socket.
    pub(super) ends: Option<Ends>,
    pub(super) proto: Proto,
    pub(super) caller: Caller,
    /// What the kernel said of the user that connected; None: not asked yet.
    pub(super) ours: Option<bool>,
    /// It has asked for something that not everybody may.
    pub(super) spoke: bool,
    /// It is counted as an agent's.
    pub(super) counted: bool,
    /// Tickets of its calls under way.
    pub(super) calls: Vec<u64>,
    /// Those of them to be polled once everything is written.
    pub(super) parked: Vec<u64>,
    /// Reading stopped for what was to be written, before the end of what was read.
    pub(super) stalled: bool,
    /// The other end sends no more, as epoll said: there may be bytes to read before that.
    pub(super) half_closed: bool,
    /// And all of it was read.
    pub(super) eof: bool,
    pub(super) end: End,
    pub(super) rbuf: Vec<u8>,
    pub(super) wbuf: Vec<u8>,
    pub(super) place: Place,
    written: usize,
    /// When the first byte of the request under way came.
    began: Option<Mono>,
    /// When it last had nothing to do.
    since: Mono,
    /// Since when the other end has taken nothing of what is to be written.
    stuck: Option<Mono>,
    /// What epoll watches for.
    pub(super) interest: EpollFlags,
    /// Until when it may stay as it is.
    pub(super) deadline: Option<Mono>,
    /// When the timer rings for it: not after `deadline`.
    pub(super) timer: Option<Mono>,
}

impl Conn {
    pub(super) fn new(token: u64, sock: Sock, ends: Option<Ends>, now: Mono) -> Self {
        let proto = match sock {
            Sock::Tcp(_) => Proto::Http(Http::default()),
            Sock::Unix(_) => Proto::Unknown,
        };
        Self {
            token,
            sock,
            ends,
            proto,
            caller: Caller {
                kind: ClientKind::Agent,
                modern: false,
            },
            ours: None,
            spoke: false,
            counted: false,
            calls: Vec::new(),
            parked: Vec::new(),
            stalled: false,
            half_closed: false,
            eof: false,
            end: End::Open,
            rbuf: Vec::new(),
            wbuf: Vec::new(),
            place: Place::NoNeed,
            written: 0,
            began: None,
            since: now,
            stuck: None,
            interest: EpollFlags::EPOLLIN,
            deadline: None,
            timer: None,
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn pending(&self) -> usize {
        self.wbuf.len() - self.written
    }

    /// While bpm ends: until when it is waited for that the other end takes
    /// something. None: nothing is stuck.
    pub(super) fn patience(&self) -> Option<Mono> {
        self.stuck.map(|since| since.after(LAST_TIME))
    }

    pub(super) fn phase(&self) -> Phase {
        match &self.proto {
            Proto::Http(http) => http.phase,
            Proto::Unknown | Proto::Lines { .. } => Phase::Reading,
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Proto::Http(http) = &mut self.proto {
            http.phase = phase;
        }
    }

    /// Reads once. A connection that lingers reads to throw away.
    pub(super) fn fill(&mut self, scratch: &mut [u8]) {
        loop {
            match self.sock.read(scratch) {
                Ok(0) => self.eof = true,
                Ok(n) if self.end == End::Open => self.rbuf.extend_from_slice(&scratch[..n]),
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
        if self.end == End::Dead {
            return;
        }
        while self.written < self.wbuf.len() {
            match self.sock.write(&self.wbuf[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    self.stuck = None;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.end = End::Dead;
                    break;
                }
            }
        }
        self.stuck = match self.pending() {
            0 => None,
            _ => self.stuck.or(Some(now)),
        };
        if self.pending() == 0 {
            // Given back: an idle connection owns a descriptor and this struct.
            self.wbuf = Vec::new();
            self.written = 0;
        } else if self.pending() > MAX_PENDING {
            self.end = End::Dead;
        } else if self.written > MAX_PENDING {
            self.wbuf.drain(..self.written);
            self.written = 0;
        }
    }

    /// Puts back what is left of the read buffer.
    pub(super) fn keep(&mut self, rest: Vec<u8>) {
        self.rbuf = if rest.is_empty() { Vec::new() } else { rest };
    }

    /// After whatever happened: what to watch for and until when it may stay so.
    pub(super) fn settle(&mut self, now: Mono) {
        let idle = self.pending() == 0 && self.calls.is_empty();
        match self.end {
            // Its last answer is still to come.
            End::Flushed { .. } if self.pending() > 0 || self.phase() != Phase::Reading => {}
            End::Flushed { linger: true } if !self.eof => {
                self.sock.shutdown_write();
                self.end = End::Lingering(now.after(LINGER_TIME));
            }
            End::Flushed { .. } => self.end = End::Dead,
            // What is left in the buffer is no whole request, and the rest will not come.
            End::Open if self.eof && idle && self.phase() == Phase::Reading => self.end = End::Dead,
            End::Lingering(_) if self.eof => self.end = End::Dead,
            End::Open | End::Lingering(_) | End::Dead => {}
        }
        let reading = self.end == End::Open && self.phase() == Phase::Reading && self.takes_more();
        if self.rbuf.is_empty() {
            self.began = None;
        } else if reading && self.began.is_none() {
            self.began = Some(now);
        }
        self.deadline = self.next_deadline(reading);
    }

    /// It is worth reading on.
    pub(super) fn takes_more(&self) -> bool {
        match self.proto {
            Proto::Unknown | Proto::Lines { .. } => self.pending() <= HIGH_WATER,
            Proto::Http(_) => self.pending() == 0,
        }
    }

    fn next_deadline(&self, reading: bool) -> Option<Mono> {
        if let End::Lingering(until) = self.end {
            return Some(until);
        }
        let http = matches!(self.proto, Proto::Http(_));
        if let Some(stuck) = self.stuck {
            // A terminal that does not read (`bpm logs -f | less`) is no reason to cut the socket.
            // Unless somebody waits for its place.
            return (http || self.place == Place::Taken).then(|| stuck.after(WRITE_TIME));
        }
        match self.began {
            Some(began) if reading => Some(began.after(READ_TIME)),
            _ if reading && http => {
                let span = if self.spoke { IDLE_TIME } else { SILENT_TIME };
                Some(self.since.after(span))
            }
            _ => None,
        }
    }

    /// A request was answered: the idle time begins anew.
    pub(super) fn rest(&mut self, now: Mono) {
        self.since = now;
        self.began = None;
    }

    pub(super) fn wanted(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        if self.pending() > 0 {
            flags |= EpollFlags::EPOLLOUT;
        }
        if self.eof {
            return flags;
        }
        match self.end {
            End::Lingering(_) => flags |= EpollFlags::EPOLLIN,
            End::Open
                if self.phase() == Phase::Reading
                    && self.takes_more()
                    && self.place != Place::Awaited =>
            {
                flags |= EpollFlags::EPOLLIN;
            }
            End::Open | End::Flushed { .. } | End::Dead => {}
        }
        if matches!(self.proto, Proto::Http(_)) && !self.half_closed {
            flags |= EpollFlags::EPOLLRDHUP;
        }
        flags
    }

    /// A message is under way of which more has come than many connections may have at a time.
    pub(super) fn is_large(&self) -> bool {
        let under_way = self.end == End::Open && self.phase() == Phase::Reading && !self.stalled;
        under_way && self.rbuf.len() > LARGE
    }

    /// Nothing large is left to be written.
    pub(super) fn is_slim(&self) -> bool {
        self.pending() <= LARGE
    }

    /// How soon it may be closed to make room, the lesser the sooner: never one that is being answered,
    /// or that keeps a proxy's place on the socket.
    pub(super) fn dispensable(&self) -> Option<(u8, Mono)> {
        let lines = matches!(self.proto, Proto::Lines { .. });
        if lines || !self.calls.is_empty() || self.phase() != Phase::Reading {
            return None;
        }
        // Half a request counts as none: else those who send halves would drive out
        // those that have just come.
        let class = match (self.spoke, self.rbuf.is_empty()) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        Some((class, self.since))
    }
}
