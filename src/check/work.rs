//! The looks themselves: each goes one step further whenever its descriptor, its log or its time
//! says so, and never waits.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};

use super::http;
use super::runner::{Asked, Following};
use super::schedule::Connect;
use crate::base::clock::{Mono, human};
use crate::base::error::reason;
use crate::build::text::plain;
use crate::os::net;
use crate::os::poll::{Until, Waker, readable};

/// Bytes of a compiled pattern: what a line may cost is bounded by it.
const LARGEST_REGEX: usize = 64 << 10;
/// Of a line so much is matched.
const LONGEST_LINE: usize = 16 << 10;
/// Read from the log at once.
const PULL: usize = 256 << 10;
/// Of what a command prints so much is kept, for its last line.
const KEPT: usize = 1 << 10;
/// Read of each pipe after a command's end, at most: more can't have been in it then.
const DRAIN: usize = 1 << 20;

/// A question under way.
pub(super) struct Job {
    pub(super) asked: Asked,
    pub(super) work: Work,
}

impl Job {
    /// A command has ended: the last line that it printed.
    pub(super) fn last_words(self) -> Option<String> {
        match self.work {
            Work::Command(command) => command.last_words(),
            Work::Knocking(_) | Work::LogProbe(_) => None,
        }
    }
}

pub(super) enum Work {
    Knocking(Knocking),
    LogProbe(LogProbe),
    Command(Command),
}

impl Work {
    pub(super) fn deadline(&self) -> Option<Mono> {
        match self {
            Self::Knocking(knocking) => Some(knocking.began.after(knocking.within)),
            Self::LogProbe(_) | Self::Command(_) => None,
        }
    }

    /// What it waits for, besides its time and its waker.
    pub(super) fn fds<'a>(&'a self, into: &mut Vec<(BorrowedFd<'a>, Until)>) {
        match self {
            Self::Knocking(knocking) => into.push((knocking.stream.as_fd(), knocking.until())),
            Self::LogProbe(_) => {}
            Self::Command(command) => {
                let open = command.pipes.iter().flatten();
                into.extend(open.map(|p| (p.as_fd(), Until::Readable)));
            }
        }
    }

    /// Goes on; `ready` is of [`Work::fds`]. Some: it is over, and this was seen.
    pub(super) fn advance(&mut self, ready: &[bool], now: Mono) -> Option<Result<String, String>> {
        match self {
            Self::Knocking(knocking) => knocking.advance(ready == [true], now),
            Self::LogProbe(log) => log.advance(),
            Self::Command(command) => {
                command.advance(ready);
                None
            }
        }
    }
}

/// A connection, and perhaps a GET over it.
pub(super) struct Knocking {
    stream: TcpStream,
    address: SocketAddr,
    /// Where to try next if nobody is there: a server on `localhost` may have either address.
    other: Option<SocketAddr>,
    began: Mono,
    within: Duration,
    step: Step,
    /// What is to be sent; empty: a connection is all.
    request: Vec<u8>,
}

enum Step {
    Connecting,
    /// So much of the request is sent.
    Sending(usize),
    /// So much of the answer is there.
    Receiving(Vec<u8>),
}

impl Knocking {
    pub(super) fn begin(connect: Connect, within: Duration, began: Mono) -> Result<Self, String> {
        let (mut address, request) = match &connect {
            Connect::Tcp(address) => (*address, Vec::new()),
            Connect::Port(port) => ((Ipv4Addr::LOCALHOST, *port).into(), Vec::new()),
            Connect::Http(target) => (target.address, http::request(target)),
        };
        let both = match &connect {
            Connect::Tcp(_) => false,
            Connect::Port(_) => true,
            Connect::Http(target) => target.host.starts_with("localhost"),
        };
        let mut other = both.then(|| (Ipv6Addr::LOCALHOST, address.port()).into());
        let stream = net::connect(address).or_else(|e| {
            let why = refused(address, &e);
            address = other.take().ok_or_else(|| why.clone())?;
            net::connect(address).map_err(|_| why)
        })?;
        Ok(Self {
            stream,
            address,
            other,
            began,
            within,
            step: Step::Connecting,
            request,
        })
    }

    /// A connection that is there already.
    #[cfg(test)]
    pub(super) fn over(stream: TcpStream, address: SocketAddr) -> Self {
        Self {
            stream,
            address,
            other: None,
            began: Mono::now(),
            within: Duration::ZERO,
            step: Step::Connecting,
            request: Vec::new(),
        }
    }

    fn until(&self) -> Until {
        match self.step {
            Step::Connecting | Step::Sending(_) => Until::Writable,
            Step::Receiving(_) => Until::Readable,
        }
    }

    pub(super) fn advance(&mut self, ready: bool, now: Mono) -> Option<Result<String, String>> {
        if !ready {
            let late = now.since(self.began) >= self.within;
            return late.then(|| Err(self.late()));
        }
        match &mut self.step {
            Step::Connecting => {
                let error = self.stream.take_error().and_then(|e| e.map_or(Ok(()), Err));
                let closed = match error {
                    Err(e) => Some(refused(self.address, &e)),
                    // Where nobody listens on a port that the kernel may give out, a connection can
                    // meet itself (simultaneous open, RFC 9293 3.5).
                    Ok(()) if self.stream.local_addr().ok() == Some(self.address) => {
                        Some(format!("nobody listens on {}", self.address))
                    }
                    Ok(()) => None,
                };
                if let Some(why) = closed {
                    let other = self.other.take();
                    let Some((next, Ok(stream))) = other.map(|at| (at, net::connect(at))) else {
                        return Some(Err(why));
                    };
                    (self.address, self.stream) = (next, stream);
                    return None;
                }
                if self.request.is_empty() {
                    return Some(Ok(format!("connected to {}", self.address)));
                }
                self.step = Step::Sending(0);
                None
            }
            Step::Sending(sent) => {
                match self.stream.write(&self.request[*sent..]) {
                    Ok(n) => *sent += n,
                    Err(e) if not_now(&e) => {}
                    Err(e) => return Some(Err(lost(self.address, &e))),
                }
                if *sent == self.request.len() {
                    self.step = Step::Receiving(Vec::new());
                }
                None
            }
            Step::Receiving(answer) => {
                let mut buffer = [0; http::LONGEST];
                let n = match self.stream.read(&mut buffer) {
                    Ok(n) => n,
                    Err(e) if not_now(&e) => return None,
                    Err(e) => return Some(Err(lost(self.address, &e))),
                };
                answer.extend_from_slice(&buffer[..n]);
                let seen = match http::status(answer) {
                    http::Head::Good(words) => Ok(words),
                    http::Head::Bad(words) => Err(words),
                    http::Head::More if n == 0 => Err(match answer.is_empty() {
                        true => "the connection was closed without an answer".into(),
                        false => "the connection was closed within the answer's head".into(),
                    }),
                    http::Head::More if answer.len() > http::LONGEST => {
                        Err("an answer whose head does not end".into())
                    }
                    http::Head::More => return None,
                };
                Some(seen)
            }
        }
    }

    fn late(&self) -> String {
        let what = match &self.step {
            Step::Connecting => format!("no connection to {}", self.address),
            Step::Sending(_) => format!("{} takes no request", self.address),
            Step::Receiving(_) => format!("connected to {}, no answer", self.address),
        };
        format!("{what} within {}", human(self.within))
    }
}

fn refused(address: SocketAddr, e: &std::io::Error) -> String {
    format!("cannot connect to {address}: {}", reason(e))
}

fn lost(address: SocketAddr, e: &std::io::Error) -> String {
    format!("connected to {address}, then: {}", reason(e))
}

fn not_now(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waiting for a line.
pub(super) struct LogProbe {
    log: Following,
    regex: Regex,
    waker: Arc<Waker>,
}

impl LogProbe {
    pub(super) fn begin(log: Following, pattern: &str, waker: Arc<Waker>) -> Result<Self, String> {
        let regex = RegexBuilder::new(pattern)
            .size_limit(LARGEST_REGEX)
            .build()
            .map_err(|e| format!("the pattern {pattern:?}: {e}"))?;
        log.log.follow(&waker);
        // What is there already is looked at as well.
        waker.wake();
        Ok(Self { log, regex, waker })
    }

    fn advance(&mut self) -> Option<Result<String, String>> {
        self.waker.seen();
        let pulled = self.log.log.pull(self.log.after, PULL);
        if pulled.next > self.log.after {
            self.log.after = pulled.next;
            // There may be more; the others have their turn before.
            self.waker.wake();
        }
        let still = self.log.log.still(Some(self.log.run));
        let mut lines = pulled.lines.into_iter().chain(still);
        let line = lines
            .find(|l| l.run == self.log.run && self.regex.is_match(head(&l.text, LONGEST_LINE)))?;
        Some(Ok(format!("the line {:?}", head(&line.text, 200))))
    }
}

impl Drop for LogProbe {
    fn drop(&mut self) {
        self.log.log.unfollow(&self.waker);
    }
}

/// At most so many bytes of it, whole characters.
fn head(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// A command that the supervisor started.
pub(super) struct Command {
    pipes: [Option<File>; 2],
    /// The last bytes of each.
    kept: [Vec<u8>; 2],
}

impl Command {
    pub(super) fn begin(pipes: [OwnedFd; 2]) -> Self {
        Self {
            pipes: pipes.map(|fd| Some(File::from(fd))),
            kept: Default::default(),
        }
    }

    fn advance(&mut self, ready: &[bool]) {
        let open: Vec<usize> = (0..2).filter(|i| self.pipes[*i].is_some()).collect();
        for (pipe, ready) in open.into_iter().zip(ready) {
            if *ready {
                self.read(pipe);
            }
        }
    }

    /// One read; None where there is nothing more for now.
    fn read(&mut self, pipe: usize) -> Option<usize> {
        let mut buffer = [0; 64 << 10];
        match self.pipes[pipe].as_mut()?.read(&mut buffer) {
            Err(e) if not_now(&e) => None,
            Ok(0) | Err(_) => {
                self.pipes[pipe] = None;
                None
            }
            Ok(n) => {
                let kept = &mut self.kept[pipe];
                kept.extend_from_slice(&buffer[n.saturating_sub(KEPT)..n]);
                kept.drain(..kept.len().saturating_sub(KEPT));
                Some(n)
            }
        }
    }

    fn last_words(mut self) -> Option<String> {
        for pipe in [0, 1] {
            let mut left = DRAIN;
            let more = |c: &Self| {
                let fd = c.pipes[pipe].as_ref().map(File::as_fd);
                readable([fd], Some(Duration::ZERO)).is_ok_and(|[ready]| ready)
            };
            while left > 0 && more(&self) {
                match self.read(pipe) {
                    Some(n) => left = left.saturating_sub(n),
                    None => break,
                }
            }
        }
        // What it complains of says more than what it prints.
        self.kept.iter().rev().find_map(|kept| {
            let lines = kept.split(|b| *b == b'\n').rev().map(plain);
            let mut said = lines.map(|l| head(l.trim(), 200).to_string());
            said.find(|l| !l.is_empty())
        })
    }
}
