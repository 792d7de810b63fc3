//! The other end of the daemon's socket: one JSON message a line.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::{Error, Failure, reason};
use crate::base::json::{items, object};
use crate::os::net::dial;
use crate::os::peer;
use crate::server::rpc::UPGRADING;

pub use crate::server::service::{MIN_CLIENT_VERSION, PROTOCOL_VERSION};

/// This bpm.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A daemon that does not answer within this is unhealthy.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The longest message that is taken from a daemon: far above any answer it gives.
const LONGEST: usize = 64 << 20;

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The connection is gone: why.
    Lost(String),
    /// This process may not ask, or has nothing left to ask with: why. It says nothing about the daemon.
    Unable(String),
    /// Not within the time given.
    TimedOut,
    /// The daemon's own word (a JSON-RPC error).
    Refused {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
    },
}

impl CallError {
    /// As an error of doing `what`.
    pub fn while_doing(self, what: &str) -> Error {
        match self {
            Self::Lost(why) => Error::cannot(what, format!("the daemon is gone ({why})"))
                .with_hint("see \"bpm daemon logs\""),
            Self::Unable(why) => Failure::CannotAsk { why }.into(),
            Self::TimedOut => Error::cannot(what, "the daemon does not answer")
                .with_hint("\"bpm stop --force\" ends it"),
            Self::Refused { message, .. } => Error::cannot(what, message),
        }
    }
}

/// The answer of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// For who reads texts.
    pub text: String,
    /// `structuredContent`, or null.
    pub data: Value,
    /// The tool failed: the text says why.
    pub failed: bool,
}

/// A connection to the daemon: one JSON message a line, one caller.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    /// Bytes of `inbox` in which there is no newline: each byte is looked at once.
    seen: usize,
    last_id: u64,
    /// The daemon's answer to hello.
    greeting: Value,
    /// Requests without an answer, as they were sent.
    open: Vec<(u64, String)>,
}

impl Client {
    /// Connects, says who we are, and has the answer.
    ///
    /// # Errors
    /// Nobody listens, or nobody answers within `patience`.
    pub fn connect(
        path: &Path,
        kind: &str,
        patience: Duration,
    ) -> std::result::Result<Self, CallError> {
        let until = Mono::now().after(patience);
        let stream = dial(path, patience).map_err(lost)?;
        Self::greet(stream, kind, until)
    }

    /// The same over a stream that is connected already.
    ///
    /// # Errors
    /// Nobody answers until then.
    pub fn greet(
        stream: UnixStream,
        kind: &str,
        until: Mono,
    ) -> std::result::Result<Self, CallError> {
        let mut client = Self {
            stream,
            inbox: Vec::new(),
            seen: 0,
            last_id: 0,
            greeting: Value::Null,
            open: Vec::new(),
        };
        client.greeting = client.call("bpm/hello", hello(kind), Some(until))?;
        Ok(client)
    }

    /// The daemon's answer to hello.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// The daemon's pid.
    pub fn owner(&self) -> Option<i32> {
        let (pid, _) = peer::unix_owner(&self.stream).ok()?;
        Some(pid)
    }

    /// The daemon was stopping already when we came: it answers, and will be gone.
    pub fn is_stopping(&self) -> bool {
        self.greeting["stopping"] == true
    }

    /// The bare connection, for who forwards messages as they are. To be called between calls.
    pub fn into_stream(self) -> UnixStream {
        // This client's own timeouts are not meant for the next user.
        let _ = self.stream.set_read_timeout(None);
        let _ = self.stream.set_write_timeout(None);
        self.stream
    }

    /// Calls a method and waits for its result; notifications that come before it are dropped.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(
        &mut self,
        method: &str,
        params: Value,
        until: Option<Mono>,
    ) -> std::result::Result<Value, CallError> {
        let id = self.send(method, params)?;
        loop {
            let message = self.receive(until)?.ok_or(CallError::TimedOut)?;
            if let Some(result) = result_of(&message, id) {
                return result;
            }
        }
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// See [`CallError`]; a tool that fails is no fault.
    pub fn tool(
        &mut self,
        name: &str,
        arguments: Value,
        until: Option<Mono>,
    ) -> std::result::Result<ToolResult, CallError> {
        let params = object([("name", name.into()), ("arguments", arguments)]);
        Ok(told(&self.call("tools/call", params, until)?))
    }

    /// Sends a request and gives its id.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn send(&mut self, method: &str, params: Value) -> std::result::Result<u64, CallError> {
        self.last_id += 1;
        let id = self.last_id;
        let mut line = object([
            ("jsonrpc", "2.0".into()),
            ("id", id.into()),
            ("method", method.into()),
            ("params", params),
        ])
        .to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).map_err(lost)?;
        self.open.push((id, line));
        Ok(id)
    }

    /// The next message; None: the time is over first.
    ///
    /// # Errors
    /// The daemon is gone, or sends what is no message.
    pub fn receive(
        &mut self,
        until: Option<Mono>,
    ) -> std::result::Result<Option<Value>, CallError> {
        loop {
            if let Some(message) = self.buffered()? {
                if !self.asked_again(&message)? {
                    return Ok(Some(message));
                }
                continue;
            }
            let left = match until.map(|t| t.since(Mono::now())) {
                Some(Duration::ZERO) => return Ok(None),
                left => left,
            };
            self.stream.set_read_timeout(left).map_err(lost)?;
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// An upgraded daemon could not take a call over: it is sent once more, unless it goes on from where it is.
    fn asked_again(&mut self, message: &Value) -> std::result::Result<bool, CallError> {
        let Some(id) = message["id"].as_u64() else {
            return Ok(false);
        };
        let at = self.open.iter().position(|(open, _)| *open == id);
        let Some((_, line)) = at.map(|at| self.open.swap_remove(at)) else {
            return Ok(false);
        };
        if !is_retried(&message["error"]) {
            return Ok(false);
        }
        if line.contains("\"bpm/follow\"") {
            return Err(CallError::Lost("the daemon was upgraded".into()));
        }
        self.stream.write_all(line.as_bytes()).map_err(lost)?;
        self.open.push((id, line));
        Ok(true)
    }

    /// A message that is here already.
    ///
    /// # Errors
    /// It is none.
    pub fn buffered(&mut self) -> std::result::Result<Option<Value>, CallError> {
        let Some(end) = memchr::memchr(b'\n', &self.inbox[self.seen..]) else {
            self.seen = self.inbox.len();
            return Ok(None);
        };
        let end = self.seen + end;
        let message = serde_json::from_slice(&self.inbox[..end])
            .map_err(|e| CallError::Lost(format!("it sent something that is no message: {e}")))?;
        self.inbox.drain(..=end);
        self.seen = 0;
        Ok(Some(message))
    }

    /// Reads once; false: nothing came in the time that the socket is set to.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn fill(&mut self) -> std::result::Result<bool, CallError> {
        if self.inbox.len() > LONGEST {
            return Err(CallError::Lost("it sent a message without an end".into()));
        }
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(CallError::Lost("it closed the connection".into())),
            Ok(n) => {
                self.inbox.extend_from_slice(&chunk[..n]);
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(lost(e)),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The error of a call that is to be sent once more, since the daemon was upgraded.
pub fn is_retried(error: &Value) -> bool {
    error["code"] == UPGRADING && error["data"]["retry"] == true
}

/// The result that a message is for the request `id`; None: it is for another, or a notification.
pub fn result_of(message: &Value, id: u64) -> Option<std::result::Result<Value, CallError>> {
    if message["id"].as_u64() != Some(id) {
        return None;
    }
    let error = &message["error"];
    Some(if error.is_object() {
        Err(CallError::Refused {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"]
                .as_str()
                .unwrap_or("no reason given")
                .into(),
        })
    } else {
        Ok(message["result"].clone())
    })
}

/// A tool's result, taken apart.
pub fn told(result: &Value) -> ToolResult {
    let texts = items(&result["content"]);
    ToolResult {
        text: texts
            .filter_map(|c| c["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        data: result["structuredContent"].clone(),
        failed: result["isError"] == true,
    }
}

/// The parameters of the first message on the socket.
pub fn hello(kind: &str) -> Value {
    object([
        ("client", kind.into()),
        ("version", VERSION.into()),
        ("protocol_version", PROTOCOL_VERSION.into()),
    ])
}

fn lost(e: io::Error) -> CallError {
    match is_own_fault(&e) {
        true => CallError::Unable(own_fault(&e)),
        false => CallError::Lost(reason(&e)),
    }
}

/// An error of our own side: we may not do that, or have no descriptors or memory left. It says nothing about whom
/// we ask.
pub fn is_own_fault(e: &io::Error) -> bool {
    const OURS: [i32; 5] = [
        libc::EPERM,
        libc::EACCES,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
    ];
    e.raw_os_error().is_some_and(|code| OURS.contains(&code))
}

/// Such an error in words. Agents run commands where connecting is refused.
pub fn own_fault(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::PermissionDenied => format!("{} (a sandbox?)", reason(e)),
        _ => reason(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, listen};
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_told_from_what_else_comes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client {
            stream: ours,
            inbox: Vec::new(),
            seen: 0,
            last_id: 0,
            greeting: Value::Null,
            open: Vec::new(),
        };
        theirs
            .write_all(
                b"{\"method\":\"notifications/progress\"}\n{\"id\":7,\"result\":1}\n{\"id\":1,\"result\":{\"content\":\
                  [{\"type\":\"text\",\"text\":\"no\"}],\"isError\":true}}\n{\"id\":2,\"error\":{\"code\":-5,\"message\":\"x\"}}\n",
            )
            .unwrap();
        let told = client.tool("restart", json!({}), None).unwrap();
        assert_eq!((told.text.as_str(), told.failed), ("no", true));
        assert_eq!(
            client.call("bpm/x", json!({}), None),
            Err(CallError::Refused {
                code: -5,
                message: "x".into()
            })
        );
        let soon = Mono::now().after(Duration::from_millis(5));
        assert_eq!(client.receive(Some(soon)), Ok(None));
        drop(theirs);
        assert!(matches!(client.receive(None), Err(CallError::Lost(_))));
    }

    #[test]
    fn a_backlog_that_is_full_is_waited_for_no_longer_than_asked() {
        let path = std::env::temp_dir().join(format!("bpm-backlog-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        // The backlog of 0 holds one connection; nobody accepts it, and nobody answers hello.
        let first = dial(&path, PATIENCE).unwrap();
        let short = || {
            let before = Mono::now();
            let none = Client::connect(&path, "cli", Duration::from_millis(50));
            assert!(matches!(none, Err(CallError::Lost(_))));
            Mono::now().since(before) < Duration::from_secs(1)
        };
        // Nor does a busy machine hold it up each time.
        assert!((0..10).any(|_| short()));
        drop(first);
        std::fs::remove_file(&path).unwrap();
    }
}
