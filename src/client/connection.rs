//! The other end of the socket: finds the daemon of a project, judges it, talks to it.
//!
//! Everything that looks at a daemon judges it here (spec: daemon, "Verdicts").

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::{Error, Result, reason};
use crate::base::json::{items, object};
use crate::base::paths::ProjectDir;
use crate::os::inotify::PathWatch;
use crate::os::lock::{self, Lock};
use crate::os::net::dial;
use crate::os::{files, peer, proc};

/// What both ends of the socket must agree on.
pub const PROTOCOL_VERSION: u64 = 1;
/// The oldest bpm whose commands this daemon understands.
pub const MIN_CLIENT_VERSION: &str = "0.1.0";
/// This bpm.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A daemon that does not answer within this is unhealthy (spec: daemon, "Verdicts").
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The longest message that is taken from a daemon: far above any answer it gives.
const LONGEST: usize = 64 << 20;

/// `daemon.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The daemon's.
    pub pid: i32,
    /// Its kernel start time, so that a recycled pid is told apart.
    pub process_start: u64,
    /// Of the daemon's life.
    pub instance_id: String,
    /// The project's root.
    pub project: String,
    /// The daemon's version.
    pub version: String,
    /// [`PROTOCOL_VERSION`] of the daemon.
    pub protocol_version: u64,
    /// [`MIN_CLIENT_VERSION`] of the daemon.
    pub min_client_version: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// `/mcp` over TCP, if there is TCP.
    pub url: Option<String>,
    /// RFC 3339.
    pub started_at: String,
    /// The binary that it runs.
    pub exe: String,
}

impl Descriptor {
    /// Reads `daemon.json`; None: there is none that makes sense.
    pub fn read(path: &Path) -> Option<Self> {
        let value: Value = serde_json::from_slice(&files::read_named(path).ok()?.0).ok()?;
        let text = |key: &str| value[key].as_str().map(String::from);
        Some(Self {
            pid: i32::try_from(value["pid"].as_i64()?).ok()?,
            process_start: value["process_start"].as_u64()?,
            instance_id: text("instance_id")?,
            project: text("project")?,
            version: text("version")?,
            protocol_version: value["protocol_version"].as_u64()?,
            min_client_version: text("min_client_version")?,
            socket: text("socket")?.into(),
            url: text("url"),
            started_at: text("started_at")?,
            exe: text("exe").unwrap_or_default(),
        })
    }

    /// As it stands in the file.
    pub fn to_json(&self) -> Value {
        object([
            ("pid", self.pid.into()),
            ("process_start", self.process_start.into()),
            ("instance_id", self.instance_id.as_str().into()),
            ("project", self.project.as_str().into()),
            ("version", self.version.as_str().into()),
            ("protocol_version", self.protocol_version.into()),
            (
                "min_client_version",
                self.min_client_version.as_str().into(),
            ),
            ("socket", self.socket.to_string_lossy().into()),
            ("url", self.url.as_deref().into()),
            ("started_at", self.started_at.as_str().into()),
            ("exe", self.exe.as_str().into()),
        ])
    }

    /// This bpm can talk to that daemon.
    ///
    /// # Errors
    /// It is too old for it, or the other way round.
    pub fn speaks(&self) -> Result<()> {
        let (ours, theirs) = (VERSION, &self.version);
        if numbers(ours) < numbers(&self.min_client_version) {
            return Err(Error::cannot(
                "talk to the daemon",
                format!("bpm {ours} is too old for this daemon ({theirs}): run \"bpm upgrade\""),
            ));
        }
        if self.protocol_version != PROTOCOL_VERSION {
            return Err(Error::cannot(
                "talk to the daemon",
                format!(
                    "it is bpm {theirs}, this is bpm {ours}, and they do not understand each other"
                ),
            )
            .with_hint("\"bpm daemon restart\" starts this version"));
        }
        Ok(())
    }
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split(['.', '-', '+'])
        .map_while(|part| part.parse().ok())
        .collect()
}

/// What a daemon is (spec: daemon, "Verdicts").
#[derive(Debug)]
pub enum Verdict {
    /// Lock held, hello answered.
    Running(Descriptor, Client),
    /// Lock held, no answer within [`PATIENCE`].
    Unhealthy(Option<Descriptor>),
    /// Lock free, but a descriptor is left.
    Stale(Descriptor),
    /// Nothing.
    Stopped,
}

impl Verdict {
    /// As in answers.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running(..) => "running",
            Self::Unhealthy(_) => "unhealthy",
            Self::Stale(_) => "stale",
            Self::Stopped => "stopped",
        }
    }

    /// Of which daemon.
    pub fn descriptor(self) -> Option<Descriptor> {
        match self {
            Self::Running(descriptor, _) | Self::Stale(descriptor) => Some(descriptor),
            Self::Unhealthy(descriptor) => descriptor,
            Self::Stopped => None,
        }
    }
}

/// Judges the daemon of a project, and is connected to it where it runs.
///
/// # Errors
/// The daemon runs, but this bpm can't talk to it; or the lock can't be looked at.
pub fn judge(dir: &ProjectDir, kind: &str) -> Result<Verdict> {
    let cannot = |e: std::io::Error| {
        Error::file("look at", &dir.lock(), e)
            .with_hint("set BPM_HOME to a folder that you may write")
    };
    let until = Mono::now().after(PATIENCE);
    let mut watch: Option<PathWatch> = None;
    loop {
        let descriptor = Descriptor::read(&dir.descriptor());
        let left = until.since(Mono::now());
        // A daemon that answers holds the lock: nobody else could have its socket. So the lock is only
        // looked at when there is no answer, and a healthy daemon costs one round trip.
        if let Some(descriptor) = &descriptor
            && let Ok(client) = Client::connect(&descriptor.socket, kind, left)
        {
            descriptor.speaks()?;
            return Ok(Verdict::Running(descriptor.clone(), client));
        }
        if !Lock::probe(&dir.lock()).map_err(cannot)? {
            return Ok(match descriptor {
                Some(descriptor) => Verdict::Stale(descriptor),
                None => Verdict::Stopped,
            });
        }
        if descriptor.is_none()
            && let Some(verdict) = undescribed(dir, kind, until)
        {
            if let Verdict::Running(descriptor, _) = &verdict {
                descriptor.speaks()?;
            }
            return Ok(verdict);
        }
        let left = until.since(Mono::now());
        if left.is_zero() {
            let held_by = || {
                let pid = lock::holder(&dir.lock())?;
                sketch(dir, pid, socket_of(dir, pid), &Value::Null)
            };
            return Ok(Verdict::Unhealthy(descriptor.or_else(held_by)));
        }
        // Somebody starts or stops at this moment; either ends with a change in the folder. Watched
        // first, then looked at once more, so that a change in between is not missed.
        match &watch {
            None => watch = Some(PathWatch::of(dir.path()).map_err(cannot)?),
            Some(watch) => {
                watch.wait(left).map_err(cannot)?;
            }
        }
    }
}

/// A daemon whose `daemon.json` was lost, found by its lock or its socket: described by itself, or where
/// it does not answer, by what the kernel knows. None: nobody listens there.
fn undescribed(dir: &ProjectDir, kind: &str, until: Mono) -> Option<Verdict> {
    let socket = match lock::holder(&dir.lock()) {
        Some(pid) => socket_of(dir, pid),
        None => dir.socket(None, peer::our_uid()),
    };
    let stream = dial(&socket, until.since(Mono::now())).ok()?;
    let (pid, uid) = peer::unix_owner(&stream).ok()?;
    if !peer::is_us(uid) {
        return None;
    }
    match Client::greet(stream, kind, until) {
        Ok(client) => sketch(dir, pid, socket, &client.greeting)
            .map(|descriptor| Verdict::Running(descriptor, client)),
        Err(CallError::TimedOut) => {
            Some(Verdict::Unhealthy(sketch(dir, pid, socket, &Value::Null)))
        }
        // It leaves at this moment.
        Err(CallError::Lost(_) | CallError::Refused { .. }) => None,
    }
}

/// Where the daemon with that pid listens, by the environment that it was started in.
fn socket_of(dir: &ProjectDir, pid: i32) -> PathBuf {
    let runtime = proc::variable(pid, "XDG_RUNTIME_DIR").map(OsString::from_vec);
    dir.socket(runtime.as_deref(), peer::our_uid())
}

/// A descriptor of what the daemon says of itself, if it does, and the kernel of it. None: it has ended.
fn sketch(dir: &ProjectDir, pid: i32, socket: PathBuf, said: &Value) -> Option<Descriptor> {
    let text = |key: &str| said[key].as_str().map(String::from);
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    Some(Descriptor {
        pid,
        process_start: proc::start_time(pid)?,
        instance_id: text("instance_id").unwrap_or_default(),
        project: text("project").unwrap_or_else(|| dir.path().display().to_string()),
        version: text("version").unwrap_or_default(),
        protocol_version: said["protocol_version"].as_u64().unwrap_or_default(),
        min_client_version: text("min_client_version").unwrap_or_default(),
        socket,
        url: text("url"),
        started_at: text("started_at").unwrap_or_default(),
        exe: exe.display().to_string(),
    })
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The connection is gone: why.
    Lost(String),
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
            Self::TimedOut => Error::cannot(what, "the daemon does not answer")
                .with_hint("\"bpm stop --force\" ends it"),
            Self::Refused { message, .. } => Error::cannot(what, message),
        }
    }
}

/// What a tool answered.
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
    /// What the daemon answered to hello.
    greeting: Value,
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

    fn greet(stream: UnixStream, kind: &str, until: Mono) -> std::result::Result<Self, CallError> {
        let mut client = Self {
            stream,
            inbox: Vec::new(),
            seen: 0,
            last_id: 0,
            greeting: Value::Null,
        };
        client.greeting = client.call("bpm/hello", hello(kind), Some(until))?;
        Ok(client)
    }

    /// The daemon was stopping already when we came: it answers, and will be gone.
    pub fn is_stopping(&self) -> bool {
        self.greeting["stopping"] == true
    }

    /// The bare connection, for who forwards messages as they are. To be called between calls.
    pub fn into_stream(self) -> UnixStream {
        // What was set for this client's own waiting is not meant for the next user.
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
                return Ok(Some(message));
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
            .map_err(|e| CallError::Lost(format!("it sent what is no message: {e}")))?;
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

/// What the first message on the socket says.
pub fn hello(kind: &str) -> Value {
    object([
        ("client", kind.into()),
        ("version", VERSION.into()),
        ("protocol_version", PROTOCOL_VERSION.into()),
    ])
}

fn lost(e: std::io::Error) -> CallError {
    CallError::Lost(reason(&e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, listen};
    use serde_json::json;

    use super::*;

    fn descriptor() -> Descriptor {
        Descriptor {
            pid: 12,
            process_start: 34,
            instance_id: "ab".into(),
            project: "/p".into(),
            version: "0.5.0".into(),
            protocol_version: PROTOCOL_VERSION,
            min_client_version: "0.1.0".into(),
            socket: "/s".into(),
            url: None,
            started_at: "2026-11-21T02:46:50.123Z".into(),
            exe: "/usr/bin/bpm".into(),
        }
    }

    #[test]
    fn a_descriptor_comes_back_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("bpm-descriptor-{}", std::process::id()));
        let written = descriptor();
        std::fs::write(&path, written.to_json().to_string()).unwrap();
        assert_eq!(Descriptor::read(&path), Some(written));
        std::fs::write(&path, "{\"pid\": 1}").unwrap();
        assert_eq!(Descriptor::read(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Descriptor::read(&path), None);
    }

    #[test]
    fn an_old_client_is_told_so() {
        let mut d = descriptor();
        assert_eq!(d.speaks(), Ok(()));
        d.min_client_version = "99.0".into();
        let said = d.speaks().unwrap_err().to_string();
        assert!(
            said.ends_with("is too old for this daemon (0.5.0): run \"bpm upgrade\""),
            "{said}"
        );
        d.min_client_version = "0.0.9".into();
        d.protocol_version += 1;
        assert!(d.speaks().is_err());
    }

    #[test]
    fn answers_are_told_from_what_else_comes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client {
            stream: ours,
            inbox: Vec::new(),
            seen: 0,
            last_id: 0,
            greeting: Value::Null,
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
