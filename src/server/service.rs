//! The trait between the wire and the verbs: a [`Service`] is served by `net` over HTTP and over the
//! Unix socket. bpm's own is in `tools`; the conformance test brings another.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::clock::Mono;
pub use crate::base::logger::Level;
use crate::os::poll::Waker;

/// Both ends of the socket must agree on it.
pub const PROTOCOL_VERSION: u64 = 1;
/// The oldest bpm whose commands this daemon understands.
pub const MIN_CLIENT_VERSION: &str = "0.1.0";

/// A parameter that only [`Task::again`] gives: the number of the order that a call waits for.
pub const ORDER: &str = "bpm/order";

/// The caller, as far as the wire tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// As the client named itself: reading by the CLI and the TUI is no activity.
    pub kind: ClientKind,
    /// 2026-07-28 (stateless) rather than a handshake revision: a service must not send it log
    /// messages that it did not ask for. (bpm's own sends none; the conformance test's does.)
    pub modern: bool,
}

/// How many connections are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// All of them.
    pub connections: usize,
    /// Those of agents and proxies that have asked for something.
    pub agents: usize,
}

/// The kind of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientKind {
    /// An agent, or curl.
    #[default]
    Agent,
    /// `bpm proxy`: an agent behind it.
    Proxy,
    /// `bpm status` and the like (first message on the socket, or User-Agent `bpm-cli/...`).
    Cli,
    /// `bpm-tui`.
    Tui,
    /// The page at `/`, by its header.
    Page,
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A tool's text.
    Text(String),
    /// A tool's data, and a text that is complete in itself.
    Data {
        /// An object, as text.
        json: Vec<u8>,
        /// The same for who reads texts.
        text: String,
    },
    /// A tool's error: the text says what to do.
    Fail(String),
    /// A JSON-RPC result as it is (resources, prompts, `bpm/...` methods).
    Result(Value),
    /// A JSON-RPC error.
    Error {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
        /// More.
        data: Option<Value>,
    },
}

impl Answer {
    /// A tool's data.
    pub fn data(value: &Value, text: impl Into<String>) -> Self {
        Self::Data {
            // Writing into a `Vec` can't fail.
            json: serde_json::to_vec(value).unwrap_or_default(),
            text: text.into(),
        }
    }
}

/// The progress of a call towards its answer.
pub enum Step {
    /// Nothing more.
    Done(Answer),
    /// A thread for a while (a search): done on a worker, never on the net thread.
    Work(Box<dyn FnOnce() -> Answer + Send>),
    /// Something to happen, or time: polled whenever its waker rings or its deadline is due.
    Wait(Box<dyn Task>),
}

/// A call that waits, or a stream of notifications that ends with an answer. A ticket, not a thread.
/// Dropped when its client goes away or cancels.
pub trait Task: Send {
    /// Called once; whatever changes should wake `waker` from now on. `poll` follows at once.
    fn start(&mut self, waker: &Arc<Waker>);
    /// Looks: `Some` ends the call. Notifications (whole JSON-RPC objects: `notifications/progress`,
    /// `bpm/lines`) go into `out`, while `room` (bytes, about) lasts; not called
    /// again before they are written.
    fn poll(&mut self, now: Mono, room: usize, out: &mut Vec<Value>) -> Option<Answer>;
    /// When to poll even if nobody wakes it.
    fn deadline(&self) -> Option<Mono>;
    /// Polling takes long (a regex over lines): done on a worker, at once where that is new after a poll.
    fn heavy(&self) -> bool {
        false
    }
    /// The parameters with which the next program goes on with it after an upgrade in place, `params` being those that
    /// came. None: its caller is told to ask again.
    fn again(&self, params: &Map<String, Value>, now: Mono) -> Option<Map<String, Value>> {
        let _ = (params, now);
        None
    }
    /// A word on what is going on, asked for every 5 s where the client sent a progress token.
    fn progress(&mut self, now: Mono) -> Option<String> {
        let _ = now;
        None
    }
}

/// Tells that a resource changed.
pub trait Watch: Send {
    /// It has, since the last call.
    fn changed(&mut self) -> bool;
}

/// An answer to a plain GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// `application/json`, ...
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// A server asks it for all answers. Its methods run on the net thread, so they never block.
pub trait Service: Send + Sync {
    /// `{name, title, version}`.
    fn info(&self) -> Value;
    /// At most 1,200 characters.
    fn instructions(&self) -> &str;
    /// The array of tools as `tools/list` gives it; asked for once.
    fn tools(&self) -> Value;
    /// A tool call; None: unknown tool. `token`: the progress token, where one was sent (a task that
    /// reports progress by itself needs it).
    fn call(
        &self,
        caller: &Caller,
        name: &str,
        args: &Value,
        token: Option<&Value>,
    ) -> Option<Step>;
    /// The same for a call that the program before has begun ([`Task::again`] gave `order`). None: it is called again.
    fn resume(&self, caller: &Caller, name: &str, args: &Value, order: u64) -> Option<Step> {
        let _ = (caller, name, args, order);
        None
    }
    /// Arguments of a call that the tool does not know and does without.
    fn ignored(&self, name: &str, args: &Value) -> Vec<String> {
        let _ = (name, args);
        Vec::new()
    }
    /// `resources/list` entries.
    fn resources(&self) -> Vec<Value>;
    /// `resources/templates/list` entries.
    fn templates(&self) -> Vec<Value>;
    /// `resources/read`: the answer is `Result({"contents": [...]})`; None: no such resource.
    fn read(&self, caller: &Caller, uri: &str) -> Option<Step>;
    /// Watches a resource for `subscriptions/listen`; None: no such resource.
    fn watch(&self, uri: &str, waker: &Arc<Waker>) -> Option<Box<dyn Watch>>;
    /// `prompts/list` entries.
    fn prompts(&self) -> Vec<Value>;
    /// `prompts/get`; None: no such prompt.
    fn prompt(&self, caller: &Caller, name: &str, args: &Value) -> Option<Step>;
    /// `completion/complete`: values for an argument of a prompt or a template; None: no such reference.
    fn complete(&self, reference: &Value, argument: &str, value: &str) -> Option<Vec<String>>;
    /// Methods of bpm's own (`bpm/...`), on the Unix socket only; None: unknown method.
    fn own(&self, caller: &Caller, method: &str, params: &Value) -> Option<Step>;
    /// GET of a path that is not `/mcp` (`/healthz`, `/readyz`); None: 404.
    fn page(&self, path: &str) -> Option<Page>;
    /// The number of open connections has changed.
    fn open(&self, now: Open) {
        let _ = now;
    }
    /// A tool call was answered; not well: with an error.
    fn answered(&self, tool: &str, well: bool) {
        let _ = (tool, well);
    }
    /// A line for the daemon's log.
    fn log(&self, level: Level, text: &str);
}
