//! MCP over HTTP: a POST for each request, on connections that are kept. What takes long has one of its own,
//! and so has the stream of a subscription.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;

use serde_json::Value;

use super::{CHUNK, Interest, LONGEST, Lost, parse};
use crate::client::connection::VERSION;
use crate::os::net;
use crate::os::poll::Until;
use crate::tui::target::Url;

/// Idle connections that are kept.
const KEPT: usize = 2;
/// A head is shorter.
const LONGEST_HEAD: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(in crate::tui) struct Http {
    url: Url,
    token: Option<String>,
    addresses: Vec<SocketAddr>,
    conns: Vec<Conn>,
    /// No address could even be tried.
    nowhere: bool,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// The head has not been read.
    Unknown,
    /// So many bytes of it are missing.
    Bytes(usize),
    /// In chunks.
    Chunks,
    /// Until the connection ends.
    ToEnd,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    /// The addresses that are left, should this one not answer.
    rest: Vec<SocketAddr>,
    connected: bool,
    /// It has served a request before: the server may have closed it.
    used: bool,
    /// The request under way.
    id: Option<u64>,
    request: Vec<u8>,
    sent: usize,
    inbox: Vec<u8>,
    /// The status of the answer; 0: not read yet.
    status: u16,
    length: Body,
    events: bool,
    body: Vec<u8>,
    closes: bool,
}

impl Http {
    /// Looks up the host. Nothing is connected yet.
    ///
    /// # Errors
    /// It has no address.
    pub(in crate::tui) fn new(url: &Url, token: Option<&str>) -> std::io::Result<Self> {
        let addresses = (url.host.as_str(), url.port).to_socket_addrs()?;
        Ok(Self {
            url: url.clone(),
            token: token.map(str::to_owned),
            addresses: addresses.collect(),
            conns: Vec::new(),
            nowhere: false,
        })
    }

    pub(super) fn send(&mut self, id: u64, method: &str, message: &Value, alone: bool) {
        let body = message.to_string();
        let Url { path, .. } = &self.url;
        let host = self.url.authority();
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bpm-tui/{VERSION}\r\n\
             Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             Content-Length: {}\r\n",
            body.len()
        );
        if let Some(token) = &self.token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if let Some(version) = message["params"]["_meta"][PROTOCOL].as_str() {
            head.push_str(&format!(
                "MCP-Protocol-Version: {version}\r\nMcp-Method: {method}\r\n"
            ));
        }
        head.push_str("\r\n");
        head.push_str(&body);
        let request = head.into_bytes();
        let idle = |conn: &&mut Conn| conn.id.is_none() && conn.connected && !conn.closes;
        match self.conns.iter_mut().find(idle).filter(|_| !alone) {
            Some(conn) => conn.begin(id, request),
            None => self.connect(id, request),
        }
    }

    fn connect(&mut self, id: u64, request: Vec<u8>) {
        let mut rest = self.addresses.clone();
        rest.reverse();
        match Conn::next(&mut rest) {
            Some(mut conn) => {
                conn.rest = rest;
                conn.begin(id, request);
                self.conns.push(conn);
            }
            None => self.nowhere = true,
        }
    }

    pub(super) fn cancel(&mut self, id: u64) {
        self.conns.retain(|conn| conn.id != Some(id));
    }

    pub(super) fn turn(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        let mut again = Vec::new();
        let mut at = 0;
        while let Some(conn) = self.conns.get_mut(at) {
            let before = into.len();
            match conn.turn(into) {
                Ok(()) => at += 1,
                Err(lost) => {
                    let conn = self.conns.swap_remove(at);
                    match conn.id {
                        // Kept too long: the server closed it, and has not seen the request.
                        Some(id) if conn.used && conn.untouched() && into.len() == before => {
                            again.push((id, conn.request));
                        }
                        Some(_) => return Err(lost),
                        None => {}
                    }
                }
            }
        }
        for (id, request) in again {
            self.connect(id, request);
        }
        let mut idle = 0;
        self.conns.retain(|conn| {
            idle += usize::from(conn.id.is_none());
            conn.id.is_some() || idle <= KEPT && !conn.closes
        });
        match self.nowhere {
            true => Err(Lost::Why("connection refused".into())),
            false => Ok(()),
        }
    }

    pub(super) fn interests<'a>(&'a self, into: &mut Vec<Interest<'a>>) {
        for conn in &self.conns {
            if conn.connected {
                into.push((conn.stream.as_fd(), Until::Readable));
            }
            if !conn.connected || conn.sent < conn.request.len() {
                into.push((conn.stream.as_fd(), Until::Writable));
            }
        }
    }
}

/// Says which revision a request is of; the headers repeat it.
pub(in crate::tui) const PROTOCOL: &str = "io.modelcontextprotocol/protocolVersion";

impl Conn {
    /// To the last of these addresses, or the one before it.
    fn next(rest: &mut Vec<SocketAddr>) -> Option<Self> {
        while let Some(address) = rest.pop() {
            // Refused at once is the same as refused later.
            if let Ok(stream) = net::connect(address) {
                let _ = stream.set_nodelay(true);
                return Some(Self {
                    stream,
                    rest: Vec::new(),
                    connected: false,
                    used: false,
                    id: None,
                    request: Vec::new(),
                    sent: 0,
                    inbox: Vec::new(),
                    status: 0,
                    length: Body::Unknown,
                    events: false,
                    body: Vec::new(),
                    closes: false,
                });
            }
        }
        None
    }

    fn begin(&mut self, id: u64, request: Vec<u8>) {
        self.id = Some(id);
        self.request = request;
        self.sent = 0;
        self.expect();
    }

    /// The next answer begins with a head.
    fn expect(&mut self) {
        self.status = 0;
        self.length = Body::Unknown;
        self.events = false;
        self.body.clear();
    }

    /// Nothing of an answer has come.
    fn untouched(&self) -> bool {
        self.inbox.is_empty() && self.status == 0
    }

    fn turn(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        if !self.connected && !self.finish_connecting()? {
            return Ok(());
        }
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Lost::io(&e)),
            }
        }
        let mut chunk = [0; 16 << 10];
        let mut read = 0;
        while read < CHUNK {
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.at_end(into),
                Ok(n) => {
                    read += n;
                    self.inbox.extend_from_slice(&chunk[..n]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Lost::io(&e)),
            }
        }
        self.parse(into)
    }

    /// Whether the connection is made; where it is refused the next address is tried.
    fn finish_connecting(&mut self) -> Result<bool, Lost> {
        let failed = match self.stream.take_error() {
            Ok(None) => match self.stream.peer_addr() {
                Ok(_) => {
                    self.connected = true;
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(e) => e,
            },
            Ok(Some(e)) | Err(e) => e,
        };
        let mut rest = std::mem::take(&mut self.rest);
        let Some(other) = Self::next(&mut rest) else {
            return Err(Lost::io(&failed));
        };
        self.stream = other.stream;
        self.rest = rest;
        Ok(false)
    }

    fn at_end(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        self.parse(into)?;
        if self.length == Body::ToEnd && self.id.is_some() && !self.events {
            return self.whole(into);
        }
        Err(Lost::Why("it closed the connection".into()))
    }

    fn parse(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        loop {
            if self.length == Body::Unknown {
                if self.inbox.is_empty() || !self.head()? {
                    return Ok(());
                }
                continue;
            }
            let done = self.take_body()?;
            if self.body.len() > LONGEST {
                return Err(Lost::Why("it sent a message without an end".into()));
            }
            if self.events && self.status == 200 {
                self.take_events(into)?;
            }
            if !done {
                return Ok(());
            }
            if self.events && self.status == 200 {
                // The end of a stream is its end only: its answer was its last event.
                self.over();
            } else {
                self.whole(into)?;
            }
        }
    }

    /// The head; false: it is not whole yet.
    fn head(&mut self) -> Result<bool, Lost> {
        let Some(end) = memchr::memmem::find(&self.inbox, b"\r\n\r\n") else {
            return match self.inbox.len() > LONGEST_HEAD {
                true => Err(Lost::Why("it does not speak HTTP".into())),
                false => Ok(false),
            };
        };
        let head = String::from_utf8_lossy(&self.inbox[..end]).into_owned();
        self.inbox.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
        let Some(status) = status else {
            return Err(Lost::Why("it does not speak HTTP".into()));
        };
        if (100..200).contains(&status) {
            return Ok(true);
        }
        self.status = status;
        self.length = Body::ToEnd;
        self.closes = first.starts_with("HTTP/1.0");
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" if self.length != Body::Chunks => {
                    self.length = Body::Bytes(value.parse().unwrap_or(0));
                }
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => {
                    self.length = Body::Chunks;
                }
                "connection" if value.eq_ignore_ascii_case("close") => self.closes = true,
                "content-type" => self.events = value.starts_with("text/event-stream"),
                _ => {}
            }
        }
        if matches!(status, 202 | 204 | 304) {
            self.length = Body::Bytes(0);
        }
        Ok(true)
    }

    /// Moves what there is of the body out of the inbox; true: it is whole.
    fn take_body(&mut self) -> Result<bool, Lost> {
        match self.length {
            Body::Unknown => Ok(false),
            Body::ToEnd => {
                self.body.append(&mut self.inbox);
                Ok(false)
            }
            Body::Bytes(missing) => {
                let n = missing.min(self.inbox.len());
                self.body.extend(self.inbox.drain(..n));
                self.length = Body::Bytes(missing - n);
                Ok(missing == n)
            }
            Body::Chunks => self.take_chunks(),
        }
    }

    fn take_chunks(&mut self) -> Result<bool, Lost> {
        loop {
            let Some(end) = memchr::memmem::find(&self.inbox, b"\r\n") else {
                return Ok(false);
            };
            let size = String::from_utf8_lossy(&self.inbox[..end]).into_owned();
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16)
                .ok()
                .filter(|n| *n <= LONGEST);
            let Some(size) = size else {
                return Err(Lost::Why("it does not speak HTTP".into()));
            };
            let whole = end + 2 + size + 2;
            if self.inbox.len() < whole {
                return Ok(false);
            }
            self.body
                .extend_from_slice(&self.inbox[end + 2..end + 2 + size]);
            self.inbox.drain(..whole);
            if size == 0 {
                return Ok(true);
            }
        }
    }

    /// Messages of a stream, each behind `data:`.
    fn take_events(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        while let Some(end) = memchr::memmem::find(&self.body, b"\n\n") {
            let event: Vec<u8> = self.body.drain(..end + 2).collect();
            let mut data = Vec::new();
            for line in event.split(|b| *b == b'\n') {
                if let Some(rest) = line.strip_prefix(b"data:") {
                    data.extend_from_slice(rest);
                }
            }
            if !data.iter().all(u8::is_ascii_whitespace) {
                into.push(parse(&data)?);
            }
        }
        Ok(())
    }

    fn whole(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        let body = std::mem::take(&mut self.body);
        match self.status {
            200..=299 if body.is_empty() => {}
            200..=299 => into.push(parse(&body)?),
            401 => return Err(Lost::NeedsToken),
            404 => return Err(Lost::Why("there is no MCP at this address (404)".into())),
            // A refusal may be a message of JSON-RPC as well, with the reason.
            status => match serde_json::from_slice::<Value>(&body) {
                Ok(message) if message["error"].is_object() && !message["id"].is_null() => {
                    into.push(message)
                }
                _ => {
                    let text = String::from_utf8_lossy(&body);
                    let first = text.lines().next().unwrap_or_default().trim();
                    return Err(Lost::Why(
                        format!("HTTP {status} {first}").trim_end().into(),
                    ));
                }
            },
        }
        self.over();
        Ok(())
    }

    fn over(&mut self) {
        self.id = None;
        self.used = true;
        self.request.clear();
        self.sent = 0;
        self.expect();
    }
}
