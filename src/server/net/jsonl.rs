//! The Unix socket: one JSON message a line, the requests of one connection side by side.

use serde_json::Value;

use crate::base::clock::Mono;
use crate::server::http1::MAX_BODY;
use crate::server::rpc::{self, INVALID_REQUEST, Message, Refusal};

use super::calls::ReplyTo;
use super::conn::{BULK, Conn, End, HIGH_WATER, Proto};
use super::context::Context;

impl Context {
    /// Serves the whole lines that were read, while the client takes the answers.
    pub(super) fn read_lines(&mut self, c: &mut Conn, now: Mono) {
        let Proto::Lines { at, .. } = c.proto else {
            return;
        };
        let mut buf = std::mem::take(&mut c.input.bytes);
        let (mut from, mut at) = (0, at);
        while c.end == End::Open {
            if c.pending() > HIGH_WATER {
                c.flush(now);
                if c.pending() > HIGH_WATER {
                    c.input.stalled = true;
                    break;
                }
            }
            let found = match memchr::memchr(b'\n', &buf[at..]) {
                Some(found) => found,
                // The last line may lack its end.
                None if c.input.eof && from < buf.len() => {
                    buf.push(b'\n');
                    continue;
                }
                None => {
                    at = buf.len();
                    break;
                }
            };
            let line = buf[from..at + found].trim_ascii();
            if !line.is_empty() {
                self.on_line(c, line, now);
            }
            at += found + 1;
            from = at;
        }
        if at - from > MAX_BODY && c.end == End::Open {
            let refusal = Refusal::new(INVALID_REQUEST, "a message is larger than 4 MiB");
            self.refuse(c, &ReplyTo::nobody(), &refusal);
            c.end = End::Flushed { linger: true };
        }
        buf.drain(..from);
        if let Proto::Lines { at: searched, .. } = &mut c.proto {
            *searched = at - from;
        }
        if buf.is_empty() {
            self.bulk |= buf.capacity() > BULK;
        } else {
            c.input.bytes = buf;
        }
    }

    fn on_line(&mut self, c: &mut Conn, line: &[u8], now: Mono) {
        let value = match rpc::parse(line) {
            Ok(value) => value,
            Err(refusal) => return self.refuse(c, &ReplyTo::nobody(), &refusal),
        };
        if let Value::Array(items) = value {
            let allowed = matches!(c.proto, Proto::Lines { batches: true, .. });
            if items.is_empty() || items.len() > rpc::MAX_BATCH || !allowed {
                return self.refuse(c, &ReplyTo::nobody(), &rpc::no_batch());
            }
            return self.batch(c, items, None, now);
        }
        match rpc::message(value) {
            Ok(Message::Request(request)) => {
                self.request(c, request, None, None, now);
                // After it: `bpm/hello` says which kind of client this is.
                self.count(c);
            }
            Ok(Message::Notification { method, params }) => self.notified(c, &method, &params),
            Ok(Message::Response) => {}
            Err((id, refusal)) => self.refuse(c, &ReplyTo::id(id, None), &refusal),
        }
    }

    /// Takes a notification of a client.
    pub(super) fn notified(
        &mut self,
        c: &mut Conn,
        method: &str,
        params: &serde_json::Map<String, Value>,
    ) {
        if method == "notifications/cancelled"
            && let Some(id) = params.get("requestId")
        {
            self.cancel(c, id);
        }
    }

    /// Appends `self.message` as a line.
    pub(super) fn put_line(&mut self, c: &mut Conn) {
        self.message.push(b'\n');
        c.out().extend_from_slice(&self.message);
    }
}
