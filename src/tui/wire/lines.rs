//! JSON lines over a Unix socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{CHUNK, Interest, LONGEST, Lost, parse};
use crate::os::net;
use crate::os::poll::Until;

/// See the module.
#[derive(Debug)]
pub(in crate::tui) struct Lines {
    stream: UnixStream,
    out: Vec<u8>,
    inbox: Vec<u8>,
    /// Bytes of `inbox` without a newline.
    seen: usize,
}

impl Lines {
    /// Connects, or fails, at once.
    pub(in crate::tui) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: net::dial_at_once(path)?,
            out: Vec::new(),
            inbox: Vec::new(),
            seen: 0,
        })
    }

    pub(super) fn send(&mut self, message: &Value) {
        self.out.extend_from_slice(message.to_string().as_bytes());
        self.out.push(b'\n');
    }

    pub(super) fn turn(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        self.flush()?;
        let mut chunk = [0; 16 << 10];
        let mut read = 0;
        while read < CHUNK {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.messages(into)?;
                    return Err(Lost::Why("it closed the connection".into()));
                }
                Ok(n) => {
                    read += n;
                    self.inbox.extend_from_slice(&chunk[..n]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Lost::io(&e)),
            }
        }
        self.messages(into)
    }

    fn flush(&mut self) -> Result<(), Lost> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Lost::io(&e)),
            }
        }
        Ok(())
    }

    fn messages(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        let mut from = 0;
        while let Some(at) = memchr::memchr(b'\n', &self.inbox[self.seen..]) {
            let end = self.seen + at;
            into.push(parse(&self.inbox[from..end])?);
            from = end + 1;
            self.seen = from;
        }
        self.inbox.drain(..from);
        self.seen = self.inbox.len();
        // A large message was read: its memory is not kept for small ones.
        if self.inbox.is_empty() && self.inbox.capacity() > CHUNK {
            self.inbox = Vec::new();
        }
        match self.inbox.len() > LONGEST {
            true => Err(Lost::Why("it sent a message without an end".into())),
            false => Ok(()),
        }
    }

    pub(super) fn interests<'a>(&'a self, into: &mut Vec<Interest<'a>>) {
        into.push((self.stream.as_fd(), Until::Readable));
        if !self.out.is_empty() {
            into.push((self.stream.as_fd(), Until::Writable));
        }
    }
}
