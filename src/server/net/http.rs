//! HTTP requests: access, what of it is MCP, and the answers.

use serde_json::{Map, Value};

use crate::base::clock::{Mono, Wall};
use crate::server::http1::{self, Field, Head, Progress, Reply};
use crate::server::mcp::{Headers, MODERN};
use crate::server::render::{self, Paint};
use crate::server::rpc::{self, INTERNAL_ERROR, INVALID_REQUEST, Message, Refusal, STOPPING};
use crate::server::service::{Answer, ClientKind, Page};
use crate::server::{metrics, page};

use super::calls::ReplyTo;
use super::conn::{BULK, Conn, End, Phase, Proto};
use super::context::Context;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const NO_STORE: &[(&str, &str)] = &[("Cache-Control", "no-store")];
const BEARER: &[(&str, &str)] = &[("WWW-Authenticate", "Bearer")];
const READ: &[(&str, &str)] = &[("Allow", "GET, HEAD")];

/// A page that is made from an answer of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The document at `/`.
    Page,
    /// Its part that changes, for its script.
    Part,
    /// The same as a table, for curl.
    Table,
    Metrics,
}

/// The target of a request.
enum Route {
    Mcp,
    View(View),
    /// Answered at once; true: everybody may see it.
    Page(Early, bool),
}

/// An answer that needs no body of the request.
struct Early {
    reply: Reply<'static>,
    body: Vec<u8>,
}

fn refused(status: u16, code: i64, why: &str) -> Early {
    let mut body = Vec::new();
    rpc::put_error(&mut body, &Value::Null, code, why, None);
    let mut reply = Reply::new(status);
    reply.content_type = Some(JSON);
    Early { reply, body }
}

fn only(allow: &'static [(&'static str, &'static str)]) -> Early {
    let methods = allow.first().map_or("", |(_, methods)| methods);
    let why = format!("Method not allowed: {methods} only");
    let mut early = refused(405, INVALID_REQUEST, &why);
    early.reply.fields = allow;
    early
}

impl Context {
    /// Serves the requests that were read, one after the other: the next when the answer is written.
    pub(super) fn read_http(&mut self, c: &mut Conn, now: Mono) {
        c.flush(now);
        while c.end == End::Open && c.is_free() {
            let Proto::Http(http) = &mut c.proto else {
                return;
            };
            match http.reader.advance(&mut c.input.bytes) {
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
        c.input.stalled = true;
    }

    /// The head is there: most refusals need no more, and are answered before a body is read.
    fn on_head(&mut self, c: &mut Conn) {
        let Proto::Http(http) = &mut c.proto else {
            return;
        };
        let head = http.reader.head();
        let (has_body, waits) = (head.has_body, head.has_body && head.expects);
        http.is_head = head.method(&c.input.bytes) == b"HEAD";
        http.takes_events = head.accepts.events;
        if let Some(early) = self.early(c) {
            self.finish_early(c, early, has_body);
        } else if waits {
            c.out().extend_from_slice(http1::CONTINUE);
        }
    }

    /// Answers from the head. With a body on its way the connection can't be used again.
    fn finish_early(&mut self, c: &mut Conn, mut early: Early, has_body: bool) {
        if let Some(http) = c.http() {
            http.answered = true;
            early.reply.no_body = http.is_head;
            early.reply.close |= has_body || http.reader.head().close;
        }
        early.reply.close |= self.refusing;
        http1::write(c.out(), &early.reply, Wall::now(), &early.body);
        if early.reply.close {
            c.end = End::Flushed { linger: has_body };
        }
    }

    /// The checks that need the head only; the first failure wins. None: it is MCP, and its body is wanted.
    fn early(&mut self, c: &mut Conn) -> Option<Early> {
        let Proto::Http(http) = &c.proto else {
            return None;
        };
        let (head, buf) = (http.reader.head(), &c.input.bytes);
        let checked = match c.ends {
            Some(_) => self.access.policy.check(head, buf),
            None => Ok(()),
        };
        if let Err(reject) = checked {
            return Some(refused(reject.status, INVALID_REQUEST, reject.why));
        }
        let (route, reads) = (self.route(head, buf), reads(head, buf));
        let unfit = unfit(head, buf);
        let public = matches!(route, Route::Page(_, true));
        if !public && let Err(reject) = self.access.check_user(c, &*self.service) {
            let mut early = refused(reject.status, INVALID_REQUEST, reject.why);
            if reject.status == 401 {
                early.reply.fields = BEARER;
                if let Route::View(View::Page) = route {
                    early = html(401, page::locked().into_bytes());
                    early.reply.fields = page::LOCKED_HEADERS;
                    early.reply.close = true;
                }
            }
            return Some(early);
        }
        match route {
            Route::Page(early, _) => Some(early),
            Route::View(_) if !reads => Some(only(READ)),
            Route::View(_) => None,
            Route::Mcp if self.refusing && unfit.is_none() => {
                Some(refused(503, STOPPING, "bpm is stopping"))
            }
            Route::Mcp => unfit,
        }
    }

    fn route(&self, head: &Head, buf: &[u8]) -> Route {
        match head.path(buf) {
            b"/mcp" | b"/mcp/" => Route::Mcp,
            b"/metrics" => Route::View(View::Metrics),
            b"/" if self.access.policy.dashboard => {
                let script = head.value(buf, Field::Client) == Some(page::CLIENT);
                Route::View(match (script, head.accepts.html) {
                    (true, _) => View::Part,
                    (false, true) => View::Page,
                    (false, false) => View::Table,
                })
            }
            path => self.page(head.method(buf), path),
        }
    }

    fn page(&self, method: &[u8], path: &[u8]) -> Route {
        let path = str::from_utf8(path).unwrap_or_default();
        let page = match self.guarded(|| self.service.page(path)) {
            Ok(page) => page,
            Err(refusal) => {
                return Route::Page(refused(500, refusal.code, &refusal.message), false);
            }
        };
        let early = match (page, method) {
            (Some(page), b"GET" | b"HEAD") => {
                let Page {
                    status,
                    content_type,
                    body,
                } = page;
                let mut reply = Reply::new(status);
                reply.content_type = Some(content_type);
                Early { reply, body }
            }
            (Some(_), _) | (None, b"OPTIONS") => only(READ),
            (None, _) => {
                let early = refused(404, INVALID_REQUEST, "not found; MCP is at /mcp");
                return Route::Page(early, true);
            }
        };
        Route::Page(early, path == "/healthz")
    }

    /// A whole request.
    fn on_request(&mut self, c: &mut Conn, now: Mono) {
        let mut buf = std::mem::take(&mut c.input.bytes);
        let Proto::Http(http) = &mut c.proto else {
            return;
        };
        let reader = std::mem::take(&mut http.reader);
        if !std::mem::take(&mut http.answered) {
            http.phase = Phase::Busy;
            c.spoke = true;
            let head = reader.head();
            c.caller.kind = client_kind(head, &buf);
            let route = self.route(head, &buf);
            // A browser keeps idle connections, of a hidden tab too, and it has six for a host.
            let of_page =
                c.caller.kind == ClientKind::Page || matches!(route, Route::View(View::Page));
            if head.close || self.refusing || of_page {
                c.end = End::Flushed { linger: false };
            }
            if let Route::View(_) = route {
                c.caller.kind = ClientKind::Page;
            }
            self.count(c);
            if let Route::View(view) = route {
                self.view(c, view, now);
            } else {
                let fields = [Field::Version, Field::Method, Field::Name];
                let [version, method, name] = fields.map(|field| head.value(&buf, field));
                let headers = Headers {
                    version,
                    method,
                    name,
                    doubled: fields.into_iter().any(|field| head.doubled(field)),
                };
                self.on_post(c, reader.body(&buf), &headers, now);
            }
        }
        c.rest(now);
        self.bulk |= reader.consumed() > BULK;
        if reader.consumed() < buf.len() {
            buf.drain(..reader.consumed());
            c.input.bytes = buf;
        }
    }

    /// Asks the service for what a page shows.
    fn view(&mut self, c: &mut Conn, view: View, now: Mono) {
        let method = match view {
            View::Page | View::Part | View::Table => "bpm/page",
            View::Metrics => "bpm/metrics",
        };
        let ask = || {
            self.service
                .own(&c.caller, method, &Value::Object(Map::new()))
        };
        let mut to = ReplyTo::nobody();
        match self.guarded(ask) {
            Ok(Some(step)) => {
                to.view = Some(view);
                self.step(c, to, None, step, now);
            }
            Ok(None) => {
                let refusal = Refusal::new(INVALID_REQUEST, "not found; MCP is at /mcp");
                self.refuse(c, &to, &refusal.status(404));
            }
            Err(refusal) => self.refuse(c, &to, &refusal),
        }
    }

    /// Answers the request under way with a page.
    pub(super) fn put_view(&mut self, c: &mut Conn, view: View, answer: &Answer) {
        let Answer::Result(data) = answer else {
            let refusal = Refusal::new(INTERNAL_ERROR, "there is nothing to show").status(500);
            return self.refuse(c, &ReplyTo::nobody(), &refusal);
        };
        let mut reply = Reply::new(200);
        let (kind, fields, body) = match view {
            View::Page => (page::HTML, page::HEADERS, page::document(data)),
            View::Part => (page::HTML, page::HEADERS, page::part(data)),
            View::Table => (TEXT, NO_STORE, render::status(data, Paint::new(false))),
            View::Metrics => {
                let text = data["text"].as_str().unwrap_or_default();
                (metrics::CONTENT_TYPE, NO_STORE, text.to_owned())
            }
        };
        (reply.content_type, reply.fields) = (Some(kind), fields);
        self.reply(c, reply, body.as_bytes());
    }

    fn on_post(&mut self, c: &mut Conn, body: &[u8], headers: &Headers<'_>, now: Mono) {
        let value = match rpc::parse(body) {
            Ok(value) => value,
            Err(refusal) => return self.refuse(c, &ReplyTo::nobody(), &refusal),
        };
        if let Value::Array(items) = value {
            if items.is_empty() || items.len() > rpc::MAX_BATCH || !headers.may_batch() {
                return self.refuse(c, &ReplyTo::nobody(), &rpc::no_batch());
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
                    self.refuse(c, &ReplyTo::nobody(), &refusal);
                } else {
                    self.accepted(c);
                }
            }
            Err((id, refusal)) => self.refuse(c, &ReplyTo::id(id, None), &refusal),
        }
    }

    /// 202: it was taken, and there is nothing to say.
    pub(super) fn accepted(&mut self, c: &mut Conn) {
        self.reply(c, Reply::new(202), &[]);
    }

    /// Answers the request under way.
    fn reply(&mut self, c: &mut Conn, mut reply: Reply<'_>, body: &[u8]) {
        if self.refusing && c.end == End::Open {
            c.end = End::Flushed { linger: false };
        }
        reply.close = c.end != End::Open;
        reply.no_body = c.http().is_some_and(|http| http.is_head);
        http1::write(c.out(), &reply, Wall::now(), body);
        c.set_phase(Phase::Reading);
    }

    /// Sends `self.message` as an event, and begins the stream of events if this is the first.
    pub(super) fn http_event(&mut self, c: &mut Conn) {
        if c.phase() != Phase::Stream {
            http1::write_stream_head(c.out());
            c.set_phase(Phase::Stream);
        }
        let out = c.out();
        out.extend_from_slice(b"event: message\ndata: ");
        out.extend_from_slice(&self.message);
        out.extend_from_slice(b"\n\n");
    }

    /// Sends `self.message` as the answer to a call, in the shape that was begun.
    pub(super) fn http_deliver(&mut self, c: &mut Conn, status: u16) {
        match c.phase() {
            Phase::Stream => {
                self.http_event(c);
                c.set_phase(Phase::Reading);
                c.end = End::Flushed { linger: false };
            }
            Phase::Reading | Phase::Busy => {
                let mut reply = Reply::new(status);
                reply.content_type = Some(JSON);
                let message = std::mem::take(&mut self.message);
                self.reply(c, reply, &message);
                self.message = message;
            }
        }
    }

    /// The time of a connection is over.
    pub(super) fn overdue(&mut self, c: &mut Conn) {
        let half = !c.input.bytes.is_empty() && c.pending() == 0 && c.end == End::Open;
        if half && matches!(c.proto, Proto::Http(_)) {
            let early = refused(408, INVALID_REQUEST, "the request did not come within 10 s");
            self.finish_early(c, early, true);
        } else {
            c.end = End::Dead;
        }
    }

    /// Refuses a connection for which there is no room.
    pub(super) fn turn_away(&mut self, c: &mut Conn, now: Mono) {
        const WHY: &str = "too many connections";
        if c.ends.is_some() {
            let mut early = refused(503, rpc::BUSY, WHY);
            early.reply.close = true;
            http1::write(c.out(), &early.reply, Wall::now(), &early.body);
        } else {
            rpc::put_error(c.out(), &Value::Null, rpc::BUSY, WHY, None);
            c.out().push(b'\n');
        }
        // An empty socket buffer takes this at once, and there will be no second try.
        c.flush(now);
    }
}

fn html(status: u16, body: Vec<u8>) -> Early {
    let mut reply = Reply::new(status);
    reply.content_type = Some(page::HTML);
    Early { reply, body }
}

fn reads(head: &Head, buf: &[u8]) -> bool {
    matches!(head.method(buf), b"GET" | b"HEAD")
}

/// Why a request to `/mcp` is refused by its head.
fn unfit(head: &Head, buf: &[u8]) -> Option<Early> {
    if head.method(buf) != b"POST" {
        return Some(only(&[("Allow", "POST")]));
    }
    if !is_json(head.value(buf, Field::ContentType)) {
        let why = "Content-Type must be application/json";
        return Some(refused(415, INVALID_REQUEST, why));
    }
    if !head.accepts.json {
        let why = "Accept must list application/json";
        return Some(refused(406, INVALID_REQUEST, why));
    }
    None
}

fn client_kind(head: &Head, buf: &[u8]) -> ClientKind {
    let agent = head.value(buf, Field::UserAgent).unwrap_or_default();
    match agent {
        a if a.starts_with(b"bpm-cli/") => ClientKind::Cli,
        a if a.starts_with(b"bpm-tui/") => ClientKind::Tui,
        _ if head.value(buf, Field::Client) == Some(page::CLIENT) => ClientKind::Page,
        _ => ClientKind::Agent,
    }
}

fn is_json(content_type: Option<&[u8]>) -> bool {
    let kind = content_type.unwrap_or_default();
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
}
