//! The attempts themselves: each goes one step further whenever its descriptor, its log or its time
//! allows, and never blocks.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};

use super::http;
use super::runner::Following;
use super::schedule::{Connect, Seen};
use crate::base::clock::{Mono, human};
use crate::base::error::reason;
use crate::base::table::Set;
use crate::log::line::text_of;
use crate::os::inbox::Waker;
use crate::os::net;
use crate::os::output::ChildOutput;
use crate::os::poll::Until;
use crate::os::proc;

/// Bytes of a compiled pattern: they bound the cost of a line.
const LARGEST_REGEX: usize = 64 << 10;
/// Bytes of a line that are matched.
const LONGEST_LINE: usize = 16 << 10;
/// Read from the log at once.
const PULL: usize = 256 << 10;
/// Bytes kept of a command's output, for its last line.
const KEPT: usize = 1 << 10;

/// The work for an attempt.
pub(super) enum Work {
    Connection(Connection),
    LineSearch(LineSearch),
    Command(CommandOutput),
}

impl Work {
    pub(super) fn deadline(&self) -> Option<Mono> {
        match self {
            Self::Connection(connection) => Some(connection.began.after(connection.within)),
            Self::LineSearch(_) | Self::Command(_) => None,
        }
    }

    /// The descriptors that it waits for, beside its time and its waker.
    pub(super) fn fds(&self) -> [Option<(BorrowedFd<'_>, Until)>; 2] {
        match self {
            Self::Connection(c) => [Some((c.stream.as_fd(), c.until())), None],
            Self::LineSearch(_) => [None; 2],
            Self::Command(c) => {
                let fds = c.output.fds();
                fds.map(|fd| fd.map(|fd| (fd, Until::Readable)))
            }
        }
    }

    /// Goes on; `ready` is of [`Work::fds`]. Some: it is over.
    pub(super) fn advance(&mut self, ready: [bool; 2], now: Mono) -> Option<Seen> {
        match self {
            Self::Connection(connection) => connection.advance(ready[0], now),
            Self::LineSearch(search) => search.advance(),
            Self::Command(command) => {
                command.advance(ready);
                None
            }
        }
    }

    /// A command has ended: the last line that it printed.
    pub(super) fn last_words(self) -> Option<String> {
        match self {
            Self::Command(command) => command.last_words(),
            Self::Connection(_) | Self::LineSearch(_) => None,
        }
    }
}

/// A connection, and perhaps a GET over it.
pub(super) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// To try next where nobody listens.
    others: std::vec::IntoIter<SocketAddr>,
    began: Mono,
    within: Duration,
    step: Step,
    /// Empty: a connection is all.
    request: Vec<u8>,
    /// Sockets that are not the run's.
    before: Option<Arc<Set<u64>>>,
}

enum Step {
    Connecting,
    /// This many bytes of the request are sent.
    Sending(usize),
    /// This much of the answer is there.
    Receiving(Vec<u8>),
}

impl Connection {
    pub(super) fn begin(connect: Connect, within: Duration, began: Mono) -> Result<Self, String> {
        let mut others = connect.addresses.into_iter();
        let (address, stream) = dial(&mut others, None)?;
        Ok(Self {
            stream,
            address,
            others,
            began,
            within,
            step: Step::Connecting,
            request: connect.get.as_ref().map_or(Vec::new(), http::request),
            before: connect.before,
        })
    }

    /// A connection that is there already.
    #[cfg(test)]
    pub(super) fn over(stream: TcpStream, address: SocketAddr) -> Self {
        Self {
            stream,
            address,
            others: Vec::new().into_iter(),
            began: Mono::now(),
            within: Duration::ZERO,
            step: Step::Connecting,
            request: Vec::new(),
            before: None,
        }
    }

    /// The words for a connection to a socket that was there before the run.
    fn foreign(&self) -> Option<String> {
        let at = self.address;
        let before = self.before.as_deref().filter(|_| at.ip().is_loopback())?;
        proc::is_served_by(at, before).then(|| match proc::port_holder(at.ip(), at.port()) {
            Some((pid, command)) => format!("{at} is served by pid {pid} ({command})"),
            None => format!("{at} is served by another process"),
        })
    }

    fn until(&self) -> Until {
        match self.step {
            Step::Connecting | Step::Sending(_) => Until::Writable,
            Step::Receiving(_) => Until::Readable,
        }
    }

    pub(super) fn advance(&mut self, ready: bool, now: Mono) -> Option<Seen> {
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
                    return match dial(&mut self.others, Some(why)) {
                        Ok(next) => {
                            (self.address, self.stream) = next;
                            None
                        }
                        Err(why) => Some(Err(why)),
                    };
                }
                if let Some(why) = self.foreign() {
                    return Some(Err(why));
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

/// Begins to connect to the first of the addresses that does not fail at once. The first failure counts.
fn dial(
    addresses: &mut std::vec::IntoIter<SocketAddr>,
    mut why: Option<String>,
) -> Result<(SocketAddr, TcpStream), String> {
    for address in addresses {
        match net::connect(address) {
            Ok(stream) => return Ok((address, stream)),
            Err(e) => why.get_or_insert_with(|| refused(address, &e)),
        };
    }
    Err(why.unwrap_or_default())
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

/// The search for a line.
pub(super) struct LineSearch {
    log: Following,
    regex: Regex,
    waker: Arc<Waker>,
}

impl LineSearch {
    pub(super) fn begin(log: Following, pattern: &str, waker: Arc<Waker>) -> Result<Self, String> {
        let regex = RegexBuilder::new(pattern)
            .size_limit(LARGEST_REGEX)
            .build()
            .map_err(|e| format!("the pattern {pattern:?}: {e}"))?;
        log.log.follow(&waker);
        // The lines that are there already are searched as well.
        waker.wake();
        Ok(Self { log, regex, waker })
    }

    fn advance(&mut self) -> Option<Seen> {
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

impl Drop for LineSearch {
    fn drop(&mut self) {
        self.log.log.unfollow(&self.waker);
    }
}

/// At most that many bytes of it, whole characters.
fn head(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// The output of a command that the supervisor started.
pub(super) struct CommandOutput {
    output: ChildOutput,
    /// The last bytes of each pipe.
    kept: [Vec<u8>; 2],
}

impl CommandOutput {
    pub(super) fn new(output: ChildOutput) -> Self {
        Self {
            output,
            kept: Default::default(),
        }
    }

    fn advance(&mut self, ready: [bool; 2]) {
        let Self { output, kept } = self;
        for pipe in [0, 1] {
            if ready[pipe] {
                output.read(pipe, &mut |pipe, bytes| keep(&mut kept[pipe], bytes));
            }
        }
    }

    fn last_words(mut self) -> Option<String> {
        let kept = &mut self.kept;
        self.output
            .drain(&mut |pipe, bytes| keep(&mut kept[pipe], bytes));
        // Its complaints say more than its results.
        self.kept.iter().rev().find_map(|kept| {
            let lines = kept.split(|b| *b == b'\n').rev().map(text_of);
            let mut said = lines.map(|l| head(l.trim(), 200).to_string());
            said.find(|l| !l.is_empty())
        })
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
    kept.drain(..kept.len().saturating_sub(KEPT));
}
