//! Requests of the client, and the daemon that each of them needs.

use serde_json::Value;

use super::OWN_ID;
use crate::base::clock::Mono;
use crate::base::json::object;
use crate::server::rpc::{self, Message, Request};
use crate::tools;

/// A message from the client that wants an answer: a request, or a batch.
pub(super) struct Asked {
    pub(super) line: Vec<u8>,
    pub(super) requests: Vec<Request>,
    pub(super) is_batch: bool,
    pub(super) since: Mono,
    /// A daemon had it, and ended.
    pub(super) again: bool,
}

impl Asked {
    /// The processes to start so that a daemon can answer that. Reading starts nothing, and after a stop on purpose only an
    /// order to start does, and no more than it names.
    pub(super) fn needs(&self, stopped: bool) -> Option<Start> {
        let needs = self.requests.iter().filter_map(|request| {
            if request.method != "tools/call" {
                return None;
            }
            let params = &request.params;
            let process = params.get("arguments").and_then(|a| a["process"].as_str());
            match (params.get("name")?.as_str()?, process) {
                ("stop" | "reload", _) => None,
                // Faults of the name are reported without a daemon.
                ("start" | "restart", None | Some("")) => None,
                // It was given before the stop, which is the later word.
                _ if stopped && self.again => None,
                ("start" | "restart", Some(name)) if stopped && name != "*" => {
                    Some(Start::Only(vec![name.into()]))
                }
                ("start" | "restart", Some(_)) => Some(Start::All),
                (name, _) => (!stopped && tools::is_tool(name)).then_some(Start::All),
            }
        });
        needs.reduce(Start::and)
    }

    /// It is answered by a stream that goes on.
    pub(super) fn is_subscription(&self) -> bool {
        let mut methods = self.requests.iter().map(|r| r.method.as_str());
        methods.any(|method| method == "subscriptions/listen")
    }
}

/// The processes that a new daemon starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    All,
    /// These, and what they depend on.
    Only(Vec<String>),
}

impl Start {
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(some), Self::Only(more)) => Self::Only([some, more].concat()),
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

/// A request that was kept as a line.
pub(super) fn asked_again(line: &[u8]) -> Option<Asked> {
    match rpc::message(rpc::parse(line.trim_ascii()).ok()?) {
        Ok(Message::Request(request)) => Some(Asked {
            line: line.to_vec(),
            requests: vec![request],
            is_batch: false,
            since: Mono::now(),
            again: true,
        }),
        Ok(Message::Notification { .. } | Message::Response) | Err(_) => None,
    }
}

/// A request of our own, as a line.
pub(super) fn own(method: &str, params: Value) -> Vec<u8> {
    let request = object([
        ("jsonrpc", "2.0".into()),
        ("id", OWN_ID.into()),
        ("method", method.into()),
        ("params", params),
    ]);
    format!("{request}\n").into_bytes()
}

/// The id of a result, as a daemon writes it. Nothing behind it is read: results can be long, and matter to the client
/// alone.
pub(super) fn id_of_result(line: &[u8]) -> Option<Value> {
    let rest = line.strip_prefix(b"{\"jsonrpc\":\"2.0\",\"id\":")?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter();
    let id = values.next()?.ok()?;
    let is_result = rest[values.byte_offset()..].starts_with(b",\"result\":");
    is_result.then_some(id)
}

/// It changes nothing, whether it was executed or not.
pub(super) fn reads(request: &Request) -> bool {
    match request.method.as_str() {
        "tools/call" => {
            let name = request.params.get("name").and_then(Value::as_str);
            name.is_some_and(tools::only_reads)
        }
        method => !method.starts_with("bpm/"),
    }
}

/// Sending it again does no harm.
pub(super) fn repeatable(request: &Request) -> bool {
    let argument = |key: &str| request.params.get(key).unwrap_or(&Value::Null);
    match request.method.as_str() {
        "tools/call" => {
            let name = argument("name").as_str().unwrap_or_default();
            tools::repeatable(name, argument("arguments"))
        }
        // It has begun to answer.
        "subscriptions/listen" => false,
        method => !method.starts_with("bpm/"),
    }
}
