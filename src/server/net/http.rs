//! HTTP requests: who may come in, what of it is MCP, and the answers.

use crate::base::clock::Mono;
use crate::os::peer::{self, Diag};
use crate::server::http1::{self, Field, Progress, Reply};
use crate::server::mcp::{Headers, MODERN};
use crate::server::rpc::{self, INVALID_REQUEST, Message, Refusal, STOPPING};
use crate::server::service::{ClientKind, Level, Page};

use super::access::bears;
use super::conn::{Conn, End, Ends, Phase, Proto};
use super::{Asked, BULK, Net};

const JSON: &str = "application/json";

/// An answer that needs no body of the request.
struct Early {
    reply: Reply<'static>,
    body: Vec<u8>,
}

fn refused(status: u16, code: i64, why: &str) -> Early {
    let mut body = Vec::new();
    rpc::put_error(&mut body, &serde_json::Value::Null, code, why, None);
    Early {
        reply: Reply {
            status,
            content_type: Some(JSON),
            ..Reply::default()
        },
        body,
    }
}

fn only(allow: &'static str) -> Early {
    let mut early = refused(
        405,
        INVALID_REQUEST,
        &format!("Method not allowed: {allow} only"),
    );
    early.reply.extra = Some(("Allow", allow));
    early
}

impl Net {
    /// Serves the requests that are in the buffer, one after the other: the next when the answer is written.
    pub(super) fn read_http(&mut self, c: &mut Conn, now: Mono) {
        c.flush(now);
        while c.end == End::Open && c.phase() == Phase::Reading && c.pending() == 0 {
            let Proto::Http(http) = &mut c.proto else {
                return;
            };
            match http.reader.advance(&mut c.rbuf) {
                Ok(Progress::More) => return,
                Ok(Progress::Head) => self.on_head(c),
                Ok(Progress::Done) => self.on_request(c, now),
                Err(reject) => {
                    let early = refused(reject.status, INVALID_REQUEST, reject.why);
                    self.finish_early(c, early, true);
                }
            }
            c.flush(now);
        }
        c.stalled = c.pending() > 0;
    }

    /// The head is there: most refusals need no more, and are said before a body is read.
    fn on_head(&mut self, c: &mut Conn) {
        let Proto::Http(http) = &c.proto else {
            return;
        };
        let head = http.reader.head();
        let (has_body, waits) = (head.has_body, head.has_body && head.expects);
        let is_head = head.method(&c.rbuf) == b"HEAD";
        if let Some(mut early) = self.early(c) {
            early.reply.no_body = is_head;
            self.finish_early(c, early, has_body);
        } else if waits {
            c.wbuf.extend_from_slice(http1::CONTINUE);
        }
    }

    /// Answers from the head. With a body on its way the connection can't be used again.
    fn finish_early(&mut self, c: &mut Conn, mut early: Early, has_body: bool) {
        if let Proto::Http(http) = &mut c.proto {
            http.answered = true;
            early.reply.close = has_body || http.reader.head().close || self.refusing;
        }
        http1::write(&mut c.wbuf, early.reply, &early.body);
        if early.reply.close {
            c.end = End::Flushed { linger: has_body };
        }
    }

    /// The checks that need the head only; the first failure wins. None: it is MCP, and its body is wanted.
    fn early(&mut self, c: &mut Conn) -> Option<Early> {
        let Proto::Http(http) = &c.proto else {
            return None;
        };
        let head = http.reader.head();
        let (method, path) = (head.method(&c.rbuf), head.path(&c.rbuf));
        if c.ends.is_some()
            && let Err(why) = self.policy.knows(head, &c.rbuf)
        {
            return Some(refused(403, INVALID_REQUEST, why));
        }
        if path != b"/mcp" {
            return Some(self.page(c));
        }
        let (post, json) = (
            method == b"POST",
            is_json(head.value(&c.rbuf, Field::ContentType)),
        );
        let accepts = head.takes_json_and_events();
        if let Some(refusal) = self.stranger(c) {
            return Some(refusal);
        }
        if !post {
            return Some(only("POST"));
        }
        if !json {
            return Some(refused(
                415,
                INVALID_REQUEST,
                "Content-Type must be application/json",
            ));
        }
        if !accepts {
            let why = "Accept must list application/json and text/event-stream";
            return Some(refused(406, INVALID_REQUEST, why));
        }
        self.refusing
            .then(|| refused(503, STOPPING, "bpm is stopping"))
    }

    /// A plain page.
    fn page(&mut self, c: &mut Conn) -> Early {
        let nothing = || refused(404, INVALID_REQUEST, "not found");
        let Proto::Http(http) = &c.proto else {
            return nothing();
        };
        let head = http.reader.head();
        let reads = matches!(head.method(&c.rbuf), b"GET" | b"HEAD");
        let Ok(path) = str::from_utf8(head.path(&c.rbuf)) else {
            return nothing();
        };
        let public = path == "/healthz";
        let page = match self.guarded(|net| net.service.page(path)) {
            Ok(page) => page,
            Err(refusal) => return refused(500, refusal.code, &refusal.message),
        };
        let Some(Page {
            status,
            content_type,
            body,
        }) = page
        else {
            return nothing();
        };
        if !public && let Some(refusal) = self.stranger(c) {
            return refusal;
        }
        if !reads {
            return only("GET, HEAD");
        }
        let reply = Reply {
            status,
            content_type: Some(content_type),
            ..Reply::default()
        };
        Early { reply, body }
    }

    /// Whoever may not. A token is shown with each request; the kernel is asked once for a connection.
    fn stranger(&mut self, c: &mut Conn) -> Option<Early> {
        let ends = c.ends?;
        if let Some(token) = &self.policy.token {
            let Proto::Http(http) = &c.proto else {
                return None;
            };
            let head = http.reader.head();
            let shown = head.value(&c.rbuf, Field::Authorization);
            // Of two, whoever routes the request may have looked at the other one.
            if bears(shown, token) && !head.doubled(Field::Authorization) {
                return None;
            }
            let mut early = refused(
                401,
                INVALID_REQUEST,
                "a bearer token is needed (token_file)",
            );
            early.reply.extra = Some(("WWW-Authenticate", "Bearer"));
            return Some(early);
        }
        if !self.policy.check_uid {
            return None;
        }
        let ours = match c.ours {
            Some(ours) => ours,
            None => self.is_ours(ends),
        };
        c.ours = Some(ours);
        (!ours).then(|| {
            let why = match self.diag {
                Asked::Missing => "this kernel does not tell who connected: set token_file",
                Asked::NotYet | Asked::Open(_) => "only the user who runs bpm, and root, may",
            };
            refused(403, INVALID_REQUEST, why)
        })
    }

    fn is_ours(&mut self, ends: Ends) -> bool {
        if !ends.remote.ip().to_canonical().is_loopback() {
            return false;
        }
        if let Asked::NotYet = self.diag {
            self.diag = match self.open_diag() {
                Ok(diag) => Asked::Open(diag),
                Err(e) => {
                    let why = crate::base::error::reason(&e);
                    let text = format!(
                        "cannot ask the kernel who connects over TCP: {why}; nobody is let in without token_file"
                    );
                    self.service.log(Level::Warn, &text);
                    Asked::Missing
                }
            };
        }
        let Asked::Open(diag) = &mut self.diag else {
            return false;
        };
        match diag.uid(ends.remote, ends.local) {
            Ok(uid) => uid.is_some_and(peer::is_us),
            Err(e) => {
                let text = format!(
                    "cannot ask who connected: {}",
                    crate::base::error::reason(&e)
                );
                self.service.log(Level::Warn, &text);
                // A late answer to this question must not be taken for one to the next.
                self.diag = Asked::NotYet;
                false
            }
        }
    }

    fn open_diag(&self) -> std::io::Result<Diag> {
        let mut last = std::io::ErrorKind::Unsupported.into();
        for listener in &self.listeners {
            if let super::Listener::Tcp(tcp) = listener {
                match tcp.local_addr().and_then(Diag::open) {
                    Ok(diag) => return Ok(diag),
                    Err(e) => last = e,
                }
            }
        }
        Err(last)
    }

    /// A whole request.
    fn on_request(&mut self, c: &mut Conn, now: Mono) {
        let mut buf = std::mem::take(&mut c.rbuf);
        let Proto::Http(http) = &mut c.proto else {
            return;
        };
        let reader = std::mem::take(&mut http.reader);
        let answered = std::mem::take(&mut http.answered);
        if !answered {
            http.phase = Phase::Busy;
            c.spoke = true;
            if reader.head().close || self.refusing {
                c.end = End::Flushed { linger: false };
            }
            let head = reader.head();
            let agent = head.value(&buf, Field::UserAgent).unwrap_or_default();
            c.caller.kind = match agent {
                a if a.starts_with(b"bpm-cli/") => ClientKind::Cli,
                a if a.starts_with(b"bpm-tui/") => ClientKind::Tui,
                _ => ClientKind::Agent,
            };
            self.count_agent(c);
            let headers = Headers {
                version: head.value(&buf, Field::Version),
                method: head.value(&buf, Field::Method),
                name: head.value(&buf, Field::Name),
                doubled: [Field::Version, Field::Method, Field::Name]
                    .into_iter()
                    .any(|field| head.doubled(field)),
            };
            self.on_post(c, reader.body(&buf), &headers, now);
        }
        c.rest(now);
        self.bulk |= reader.consumed() > BULK;
        if reader.consumed() == buf.len() {
            return;
        }
        buf.drain(..reader.consumed());
        c.rbuf = buf;
    }

    fn on_post(&mut self, c: &mut Conn, body: &[u8], headers: &Headers<'_>, now: Mono) {
        let value = match rpc::parse(body) {
            Ok(value) => value,
            Err(refusal) => {
                return self.answer_refusal(c, None, &serde_json::Value::Null, &refusal);
            }
        };
        if let serde_json::Value::Array(items) = value {
            if items.is_empty() || items.len() > rpc::MAX_BATCH || !headers.may_batch() {
                return self.answer_refusal(c, None, &serde_json::Value::Null, &rpc::no_batch());
            }
            return self.batch(c, items, Some(headers), now);
        }
        match rpc::message(value) {
            Ok(Message::Request(request)) => self.request(c, request, Some(headers), None, now),
            Ok(Message::Notification { .. }) => self.accepted(c),
            Ok(Message::Response) => {
                let modern = |v: &[u8]| MODERN.iter().any(|m| m.as_bytes() == v);
                if headers.version.is_some_and(modern) {
                    let refusal = Refusal::new(INVALID_REQUEST, "nothing was asked").status(400);
                    self.answer_refusal(c, None, &serde_json::Value::Null, &refusal);
                } else {
                    self.accepted(c);
                }
            }
            Err((id, refusal)) => self.answer_refusal(c, None, &id, &refusal),
        }
    }

    /// 202: it was taken, and there is nothing to say.
    pub(super) fn accepted(&mut self, c: &mut Conn) {
        self.http_answer(c, 202, None);
    }

    /// Sends `self.message`, or nothing, as the answer to the request of a connection.
    pub(super) fn http_answer(&mut self, c: &mut Conn, status: u16, content_type: Option<&str>) {
        let body: &[u8] = match content_type {
            Some(_) => &self.message,
            None => &[],
        };
        if self.refusing && c.end == End::Open {
            c.end = End::Flushed { linger: false };
        }
        let reply = Reply {
            status,
            content_type,
            extra: None,
            close: c.end != End::Open,
            no_body: false,
        };
        http1::write(&mut c.wbuf, reply, body);
        c.set_phase(Phase::Reading);
    }

    /// Sends `self.message` as an event, and begins the stream of events if this is the first.
    pub(super) fn http_event(&mut self, c: &mut Conn) {
        if c.phase() != Phase::Stream {
            http1::write_stream_head(&mut c.wbuf);
            c.set_phase(Phase::Stream);
        }
        c.wbuf.extend_from_slice(b"event: message\ndata: ");
        c.wbuf.extend_from_slice(&self.message);
        c.wbuf.extend_from_slice(b"\n\n");
    }

    /// Sends `self.message` as the answer to a call, in the shape that was begun.
    pub(super) fn http_deliver(&mut self, c: &mut Conn, status: u16) {
        match c.phase() {
            Phase::Stream => {
                self.http_event(c);
                c.set_phase(Phase::Reading);
                c.end = End::Flushed { linger: false };
            }
            Phase::Reading | Phase::Busy => self.http_answer(c, status, Some(JSON)),
        }
    }

    /// Its time is over.
    pub(super) fn overdue(&mut self, c: &mut Conn) {
        let half = !c.rbuf.is_empty() && c.pending() == 0 && c.end == End::Open;
        if half && matches!(c.proto, Proto::Http(_)) {
            let early = refused(408, INVALID_REQUEST, "the request did not come within 10 s");
            self.finish_early(c, early, true);
        } else {
            c.end = End::Dead;
        }
    }

    /// No room for one more connection.
    pub(super) fn turn_away(&mut self, c: &mut Conn, now: Mono) {
        const WHY: &str = "too many connections";
        if c.ends.is_some() {
            let mut early = refused(503, rpc::BUSY, WHY);
            early.reply.close = true;
            http1::write(&mut c.wbuf, early.reply, &early.body);
        } else {
            rpc::put_error(&mut c.wbuf, &serde_json::Value::Null, rpc::BUSY, WHY, None);
            c.wbuf.push(b'\n');
        }
        // An empty socket buffer takes this at once, and there will be no second try.
        c.flush(now);
    }
}

fn is_json(content_type: Option<&[u8]>) -> bool {
    let kind = content_type.unwrap_or_default();
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
}
