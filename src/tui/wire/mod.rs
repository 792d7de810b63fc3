//! JSON-RPC messages to a server and from it, without waiting: over a Unix socket, a line each, or over HTTP.

mod http;
mod lines;

use std::os::fd::BorrowedFd;

use serde_json::Value;

use crate::base::json::object;
use crate::os::poll::Until;

pub(super) use http::{Http, PROTOCOL};
pub(super) use lines::Lines;

/// A descriptor to poll, and the events to poll it for.
pub(super) type Interest<'a> = (BorrowedFd<'a>, Until);

/// Bytes that are read in one go: keys have their turn in between.
const CHUNK: usize = 256 << 10;
/// A longer message is none that a server sends.
const LONGEST: usize = 64 << 20;

/// Why there is no connection any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// The words of the system or of the server.
    Why(String),
    /// 401.
    NeedsToken,
}

impl Lost {
    fn io(e: &std::io::Error) -> Self {
        Self::Why(crate::base::error::reason(e))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Wire {
    /// One JSON message a line.
    Lines(Lines),
    /// A POST for each request.
    Http(Http),
}

impl Wire {
    /// Sends a request as soon as that is possible. `alone`: its answer may take long, or never end.
    pub(super) fn send(&mut self, id: u64, method: &str, params: Value, alone: bool) {
        let message = object([
            ("jsonrpc", "2.0".into()),
            ("id", id.into()),
            ("method", method.into()),
            ("params", params),
        ]);
        match self {
            Self::Lines(lines) => lines.send(&message),
            Self::Http(http) => http.send(id, method, &message, alone),
        }
    }

    /// The answer is not wanted any more.
    pub(super) fn cancel(&mut self, id: u64) {
        match self {
            Self::Lines(lines) => lines.send(&object([
                ("jsonrpc", "2.0".into()),
                ("method", "notifications/cancelled".into()),
                ("params", object([("requestId", id.into())])),
            ])),
            Self::Http(http) => http.cancel(id),
        }
    }

    /// Writes and reads what is possible now.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn turn(&mut self, into: &mut Vec<Value>) -> Result<(), Lost> {
        match self {
            Self::Lines(lines) => lines.turn(into),
            Self::Http(http) => http.turn(into),
        }
    }

    /// Adds the descriptors to poll.
    pub(super) fn interests<'a>(&'a self, into: &mut Vec<Interest<'a>>) {
        match self {
            Self::Lines(lines) => lines.interests(into),
            Self::Http(http) => http.interests(into),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Value, Lost> {
    serde_json::from_slice(bytes)
        .map_err(|e| Lost::Why(format!("it sent something that is no message: {e}")))
}
