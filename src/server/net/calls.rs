//! Calls: from a request to its answer, at once, by a worker, or as a ticket that waits.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::clock::Mono;
use crate::base::error::reason;
use crate::os::poll::Waker;
use crate::server::ask::{self, Next};
use crate::server::mcp::{self, Envelope, Era, Headers, Verb};
use crate::server::rpc::{
    self, BUSY, INTERNAL_ERROR, INVALID_REQUEST, Message, Refusal, Request, STOPPING,
};
use crate::server::service::{Answer, ClientKind, Level, Step, Task};

use super::conn::{Conn, Proto};
use super::context::{Context, Due, broken};
use super::http::View;
use super::subscription::Subscription;

/// The most calls under way on one connection of the Unix socket.
const MAX_CALLS: usize = 2_000;
/// The most calls under way in all.
const MAX_ALL_CALLS: usize = 16_384;
/// The most bytes that the answers of one batch have together.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// How many bytes of notifications a task may make at a time.
const ROOM: usize = 64 << 10;
/// How often a waiting call says what it is doing.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often a stream of events shows that it is alive.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A task whose deadline is past, and that does not end when it is polled, is polled again after this.
const PATIENCE: Duration = Duration::from_millis(10);

/// Where an answer goes.
pub(super) struct ReplyTo {
    pub(super) envelope: Envelope,
    /// The batch that it is a part of.
    pub(super) batch: Option<u64>,
    /// The tool that was called.
    pub(super) tool: Option<String>,
    /// It is rendered as a page.
    pub(super) view: Option<View>,
    /// As it came, where it may be asked once more.
    pub(super) asked: Option<Box<Request>>,
}

impl ReplyTo {
    /// A request of which nothing but the id is known.
    pub(super) fn id(id: Value, batch: Option<u64>) -> Self {
        let envelope = Envelope {
            id,
            era: Era::Legacy,
            cache: None,
            ignored: Vec::new(),
        };
        Self {
            envelope,
            batch,
            tool: None,
            view: None,
            asked: None,
        }
    }

    /// A message that has no id.
    pub(super) fn nobody() -> Self {
        Self::id(Value::Null, None)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something that is to happen.
    Wait,
    /// A worker answers it at once.
    Search,
    Subscription,
}

/// A call under way.
pub(super) struct Call {
    conn: u64,
    pub(super) to: ReplyTo,
    pub(super) kind: Kind,
    /// None while a worker polls it.
    task: Option<Box<dyn Task>>,
    waker: Arc<Waker>,
    /// It was woken while a worker polled it.
    woken: bool,
    /// The progress token, where the client sent one and can be told.
    token: Option<Value>,
    began: Mono,
    next_progress: Option<Mono>,
    next_keepalive: Option<Mono>,
    timer: Option<Mono>,
}

impl Call {
    /// A worker has it.
    pub(super) fn is_away(&self) -> bool {
        self.kind == Kind::Search || self.task.is_none()
    }

    /// The request with which the next program goes on with it.
    pub(super) fn again(&self, now: Mono) -> Option<Request> {
        let asked = self.to.asked.as_deref()?;
        let params = match self.kind {
            Kind::Subscription => asked.params.clone(),
            Kind::Wait | Kind::Search => self.task.as_ref()?.again(&asked.params, now)?,
        };
        Some(Request {
            params,
            ..asked.clone()
        })
    }
}

/// Answers that go out together.
pub(super) struct Batch {
    parts: Vec<u8>,
    open: usize,
}

/// A task that a worker has polled.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) ticket: u64,
    /// None: it panicked.
    polled: Option<Polled>,
}

struct Polled {
    task: Box<dyn Task>,
    out: Vec<Value>,
    answer: Option<Answer>,
}

impl std::fmt::Debug for Polled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Polled").finish_non_exhaustive()
    }
}

/// A step that a worker does, as a task that is polled once.
struct Search(Option<Box<dyn FnOnce() -> Answer + Send>>);

impl Task for Search {
    fn start(&mut self, _: &Arc<Waker>) {}

    fn poll(&mut self, _: Mono, _: usize, _: &mut Vec<Value>) -> Option<Answer> {
        self.0.take().map(|work| work())
    }

    fn deadline(&self) -> Option<Mono> {
        None
    }

    fn heavy(&self) -> bool {
        true
    }
}

impl Context {
    /// Serves one request.
    pub(super) fn request(
        &mut self,
        c: &mut Conn,
        request: Request,
        headers: Option<&Headers<'_>>,
        batch: Option<u64>,
        now: Mono,
    ) {
        let id = request.id.clone();
        let call = match mcp::read(&request, headers) {
            Ok(call) => call,
            Err(refusal) => return self.refuse(c, &ReplyTo::id(id, batch), &refusal),
        };
        let own = matches!(call.verb, Verb::Own { .. });
        if self.refusing && !own {
            return self.refuse(c, &ReplyTo::id(id, batch), &stopping());
        }
        c.caller.modern = call.era == Era::Modern;
        let envelope = Envelope {
            id,
            era: call.era,
            cache: call.verb.cache(),
            ignored: match &call.verb {
                Verb::CallTool { name, args } => self.service.ignored(name, args),
                _ => Vec::new(),
            },
        };
        let tool = match &call.verb {
            Verb::CallTool { name, .. } => Some((*name).to_owned()),
            _ => None,
        };
        let mut to = ReplyTo {
            envelope,
            batch,
            tool,
            view: None,
            asked: None,
        };
        let token = call.token.filter(|_| batch.is_none() && takes_events(c));
        let mut out = std::mem::take(&mut self.message);
        out.clear();
        let asked = || self.ask(c, &to.envelope, call.verb, token, &mut out);
        let next = self.guarded(asked).and_then(|next| next);
        self.message = out;
        let token = token.cloned();
        let is_line = matches!(c.proto, Proto::Lines { .. }) && batch.is_none();
        to.asked = is_line.then(|| Box::new(request));
        match next {
            Ok(Next::Written) => self.deliver(c, batch, 200),
            Ok(Next::Step(step)) => self.step(c, to, token, step, now),
            Ok(Next::Subscribe(uris)) => self.subscribe(c, to, uris, now),
            Err(refusal) => self.refuse(c, &to, &refusal),
        }
    }

    /// Asks the service.
    fn ask(
        &self,
        c: &mut Conn,
        to: &Envelope,
        verb: Verb<'_>,
        token: Option<&Value>,
        out: &mut Vec<u8>,
    ) -> Result<Next, Refusal> {
        match (&verb, &mut c.proto) {
            (Verb::Initialize { version }, Proto::Lines { batches, .. }) => {
                *batches = *version == mcp::BATCHES;
            }
            (Verb::Own { method, params }, _) if *method == "bpm/hello" => {
                c.caller.kind = client_kind(params);
            }
            _ => {}
        }
        if let (Some(order), Verb::CallTool { name, args }) = (self.order, &verb)
            && let Some(step) = self.service.resume(&c.caller, name, args, order)
        {
            return Ok(Next::Step(step));
        }
        ask::ask(&*self.service, &self.mcp, &c.caller, to, verb, token, out)
    }

    /// Answers, or begins a call.
    pub(super) fn step(
        &mut self,
        c: &mut Conn,
        to: ReplyTo,
        token: Option<Value>,
        step: Step,
        now: Mono,
    ) {
        match step {
            Step::Done(answer) => self.answer(c, &to, answer),
            Step::Work(work) => {
                let search = Box::new(Search(Some(work)));
                self.begin(c, to, Kind::Search, search, None, now);
            }
            Step::Wait(task) => self.begin(c, to, Kind::Wait, task, token, now),
        }
    }

    /// Begins a call that is not answered at once.
    pub(super) fn begin(
        &mut self,
        c: &mut Conn,
        to: ReplyTo,
        kind: Kind,
        mut task: Box<dyn Task>,
        token: Option<Value>,
        now: Mono,
    ) {
        if c.calls.len() >= MAX_CALLS || self.calls.len() >= MAX_ALL_CALLS {
            let text = format!("too many calls under way ({})", c.calls.len());
            return self.refuse(c, &to, &Refusal::new(BUSY, text).status(503));
        }
        let ticket = self.token();
        let inbox = Arc::clone(&self.inbox);
        let waker = Waker::new(move || drop(inbox.send(super::Message::Wake(ticket))));
        if let Err(refusal) = self.guarded(|| task.start(&waker)) {
            return self.refuse(c, &to, &refusal);
        }
        if let Some(batch) = to.batch.and_then(|b| self.batches.get_mut(&b)) {
            batch.open += 1;
        }
        let call = Call {
            conn: c.token,
            to,
            kind,
            task: Some(task),
            waker,
            woken: false,
            next_progress: token.as_ref().map(|_| now.after(PROGRESS_EVERY)),
            token,
            began: now,
            next_keepalive: None,
            timer: None,
        };
        self.calls.insert(ticket, call);
        c.calls.push(ticket);
        self.poll(c, ticket, now);
    }

    /// The connection of a call; None: the call has ended.
    pub(super) fn conn_of(&self, ticket: u64) -> Option<u64> {
        self.calls.get(&ticket).map(|call| call.conn)
    }

    /// Polls a call, unless its connection has something to write first.
    pub(super) fn poll(&mut self, c: &mut Conn, ticket: u64, now: Mono) {
        c.flush(now);
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        if c.pending() > 0 && call.task.is_some() {
            if !c.parked.contains(&ticket) {
                c.parked.push(ticket);
            }
            return;
        }
        call.waker.seen();
        let Some(mut task) = call.task.take() else {
            call.woken = true;
            return;
        };
        if task.heavy() {
            return self.send_away(c, ticket, task, now);
        }
        let mut out = Vec::new();
        match self.guarded(|| task.poll(now, ROOM, &mut out)) {
            // The rest of it takes long.
            Ok(None) if out.is_empty() && task.heavy() => self.send_away(c, ticket, task, now),
            Ok(answer) => self.polled(c, ticket, Polled { task, out, answer }, now),
            Err(refusal) => self.finish(c, ticket, Err(refusal)),
        }
    }

    /// Lets a worker poll a task.
    fn send_away(&mut self, c: &mut Conn, ticket: u64, mut task: Box<dyn Task>, now: Mono) {
        let (inbox, service) = (Arc::clone(&self.inbox), Arc::clone(&self.service));
        let job = move || {
            let poll = AssertUnwindSafe(|| {
                let mut out = Vec::new();
                let answer = task.poll(now, ROOM, &mut out);
                Polled { task, out, answer }
            });
            let polled = catch_unwind(poll).ok();
            if polled.is_none() {
                service.log(Level::Error, "a request made a worker panic (a bug)");
            }
            let finished = Finished { ticket, polled };
            // The inbox is never full or closed.
            let _ = inbox.send(super::Message::Finished(finished));
        };
        if let Err(e) = self.pool.submit(Box::new(job)) {
            self.finish(
                c,
                ticket,
                Err(Refusal::new(BUSY, no_worker(&e)).status(503)),
            );
        }
    }

    /// A worker has polled a task.
    pub(super) fn came_back(&mut self, c: &mut Conn, finished: Finished, now: Mono) {
        let Finished { ticket, polled } = finished;
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        if std::mem::take(&mut call.woken) {
            self.again.push(ticket);
        }
        match polled {
            Some(polled) => self.polled(c, ticket, polled, now),
            None => self.finish(c, ticket, Err(broken())),
        }
    }

    fn polled(&mut self, c: &mut Conn, ticket: u64, polled: Polled, now: Mono) {
        let Polled { task, out, answer } = polled;
        if let Some(call) = self.calls.get_mut(&ticket) {
            call.task = Some(task);
        }
        for notification in &out {
            self.notify(c, ticket, notification, now);
        }
        if let Some(answer) = answer {
            return self.finish(c, ticket, Ok(answer));
        }
        if !out.is_empty() {
            // It may have stopped for want of room, and nobody would wake it for that.
            c.flush(now);
            match c.pending() {
                0 => self.again.push(ticket),
                _ => c.parked.push(ticket),
            }
        }
        self.arm_call(c, ticket, now);
    }

    /// Sends a notification that belongs to a call.
    fn notify(&mut self, c: &mut Conn, ticket: u64, notification: &Value, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        // A list of answers has no place for it, and some clients take no stream.
        if call.to.batch.is_some() || !takes_events(c) {
            return;
        }
        self.message.clear();
        rpc::put(&mut self.message, notification);
        match c.proto {
            Proto::Lines { .. } | Proto::Unknown => self.put_line(c),
            Proto::Http(_) => {
                call.next_keepalive = Some(now.after(KEEPALIVE));
                self.http_event(c);
            }
        }
    }

    /// Sets when a call is polled even if nobody wakes it.
    fn arm_call(&mut self, c: &Conn, ticket: u64, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        // A parked one goes on when what is to be written was.
        let task = call.task.as_ref().filter(|_| !c.parked.contains(&ticket));
        let own = task.and_then(|task| task.deadline());
        let own = own.map(|at| if at <= now { now.after(PATIENCE) } else { at });
        let due = [own, call.next_progress, call.next_keepalive];
        let due = due.into_iter().flatten().min();
        let timers = &mut self.timers;
        timers.arm(&mut call.timer, due, Due::Call(ticket));
    }

    /// A call's timer has fired: it may have to say how far it is, or that it is alive, and is polled.
    pub(super) fn call_due(&mut self, c: &mut Conn, ticket: u64, now: Mono) {
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        call.timer = None;
        let mut progress = None;
        if call.next_progress.is_some_and(|at| at <= now) {
            call.next_progress = Some(now.after(PROGRESS_EVERY));
            let task = call.task.as_mut().filter(|_| c.pending() == 0);
            let said = task.and_then(|task| {
                catch_unwind(AssertUnwindSafe(|| task.progress(now))).unwrap_or_default()
            });
            if let (Some(text), Some(token)) = (said, &call.token) {
                let seconds = now.since(call.began).as_secs();
                progress = Some(mcp::progress(token, seconds, &text));
            }
        }
        if call.next_keepalive.is_some_and(|at| at <= now) {
            call.next_keepalive = Some(now.after(KEEPALIVE));
            if c.pending() == 0 {
                c.out().extend_from_slice(b": keepalive\n\n");
            }
        }
        if let Some(progress) = progress {
            self.notify(c, ticket, &progress, now);
        }
        self.poll(c, ticket, now);
        self.arm_call(c, ticket, now);
    }

    /// Ends a call with its answer.
    pub(super) fn finish(&mut self, c: &mut Conn, ticket: u64, answer: Result<Answer, Refusal>) {
        let Some(call) = self.take_call(ticket) else {
            return;
        };
        c.calls.retain(|t| *t != ticket);
        match answer {
            Ok(_) if call.kind == Kind::Subscription => {
                self.message.clear();
                self.mcp
                    .put_listened(&mut self.message, &call.to.envelope.id);
                self.deliver(c, None, 200);
            }
            Ok(answer) => self.answer(c, &call.to, answer),
            Err(refusal) => self.refuse(c, &call.to, &refusal),
        }
        if let Some(batch) = call.to.batch {
            self.leave_batch(c, batch);
        }
    }

    fn take_call(&mut self, ticket: u64) -> Option<Call> {
        let mut call = self.calls.remove(&ticket)?;
        self.timers.disarm(&mut call.timer, Due::Call(ticket));
        Some(call)
    }

    /// The client of a call is gone.
    pub(super) fn drop_call(&mut self, ticket: u64) {
        let call = self.take_call(ticket);
        if let Some(batch) = call.and_then(|call| call.to.batch) {
            self.batches.remove(&batch);
        }
    }

    /// The client of a call wants no answer any more.
    pub(super) fn cancel(&mut self, c: &mut Conn, id: &Value) {
        let mut calls = c.calls.iter().copied();
        let of = |t: &u64| {
            let call = self.calls.get(t);
            call.is_some_and(|call| call.to.envelope.id == *id)
        };
        let Some(ticket) = calls.find(of) else {
            return;
        };
        c.calls.retain(|t| *t != ticket);
        let call = self.take_call(ticket);
        if let Some(batch) = call.and_then(|call| call.to.batch) {
            self.leave_batch(c, batch);
        }
    }

    /// Nothing but searches is under way.
    pub(super) fn only_searches(&self, c: &Conn) -> bool {
        let mut calls = c.calls.iter().filter_map(|t| self.calls.get(t));
        calls.all(|call| call.kind == Kind::Search)
    }

    /// All subscriptions with their connections.
    pub(super) fn subscriptions(&self) -> Vec<(u64, u64)> {
        let calls = self.calls.iter();
        let subscriptions = calls.filter(|(_, call)| call.kind == Kind::Subscription);
        subscriptions.map(|(t, call)| (*t, call.conn)).collect()
    }

    /// Ends a subscription with its result.
    pub(super) fn end_subscription(&mut self, c: &mut Conn, ticket: u64) {
        self.finish(c, ticket, Ok(Answer::Text(String::new())));
    }

    /// Answers everything that is still under way that bpm stops.
    pub(super) fn abandon(&mut self, c: &mut Conn) {
        for ticket in c.calls.clone() {
            self.finish(c, ticket, Err(stopping()));
        }
    }

    fn subscribe(&mut self, c: &mut Conn, to: ReplyTo, uris: Vec<String>, now: Mono) {
        let most = (self.access.policy.max_connections / 4 * 3).max(1);
        if to.batch.is_some() || !takes_events(c) || self.subscriptions().len() >= most {
            let refusal = match takes_events(c) {
                true => Refusal::new(INTERNAL_ERROR, "too many subscriptions"),
                false => {
                    let why = "Accept must list text/event-stream: a subscription is a stream";
                    Refusal::new(INVALID_REQUEST, why).status(406)
                }
            };
            return self.refuse(c, &to, &refusal);
        }
        let service = Arc::clone(&self.service);
        let task = Box::new(Subscription::new(service, to.envelope.id.clone(), uris));
        self.begin(c, to, Kind::Subscription, task, None, now);
    }

    fn answer(&mut self, c: &mut Conn, to: &ReplyTo, answer: Answer) {
        if let Some(tool) = &to.tool {
            let well = !matches!(answer, Answer::Fail(_) | Answer::Error { .. });
            self.service.answered(tool, well);
        }
        if let Some(view) = to.view {
            return self.put_view(c, view, &answer);
        }
        self.message.clear();
        ask::put_answer(&self.mcp, &mut self.message, &to.envelope, answer);
        self.deliver(c, to.batch, 200);
    }

    pub(super) fn refuse(&mut self, c: &mut Conn, to: &ReplyTo, refusal: &Refusal) {
        if let Some(tool) = &to.tool {
            self.service.answered(tool, false);
        }
        self.message.clear();
        let Refusal {
            status,
            code,
            message,
            data,
        } = refusal;
        let out = &mut self.message;
        rpc::put_error(out, &to.envelope.id, *code, message, data.as_ref());
        self.deliver(c, to.batch, *status);
    }

    /// Sends `self.message` as an answer: to the batch it belongs to, as a line, or by HTTP.
    fn deliver(&mut self, c: &mut Conn, batch: Option<u64>, status: u16) {
        match (batch.and_then(|b| self.batches.get_mut(&b)), &c.proto) {
            (Some(batch), _) => {
                if batch.parts.len() > 1 {
                    batch.parts.push(b',');
                }
                batch.parts.extend_from_slice(&self.message);
            }
            (None, Proto::Http(_)) => self.http_deliver(c, status),
            (None, Proto::Lines { .. } | Proto::Unknown) => self.put_line(c),
        }
    }

    /// Serves the messages of a batch side by side; their answers go out together.
    pub(super) fn batch(
        &mut self,
        c: &mut Conn,
        items: Vec<Value>,
        headers: Option<&Headers<'_>>,
        now: Mono,
    ) {
        let key = self.token();
        let batch = Batch {
            parts: b"[".to_vec(),
            open: 1,
        };
        self.batches.insert(key, batch);
        for item in items {
            let parts = self.batches.get(&key).map_or(0, |b| b.parts.len());
            match rpc::message(item) {
                Ok(Message::Request(request)) if parts > MAX_BATCH_BYTES => {
                    let refusal = Refusal::new(BUSY, "the answers of this batch are too large");
                    self.refuse(c, &ReplyTo::id(request.id, Some(key)), &refusal);
                }
                Ok(Message::Request(request)) => {
                    self.request(c, request, headers, Some(key), now);
                }
                Ok(Message::Notification { method, params }) if headers.is_none() => {
                    self.notified(c, &method, &params);
                }
                Ok(Message::Notification { .. } | Message::Response) => {}
                Err((id, refusal)) => self.refuse(c, &ReplyTo::id(id, Some(key)), &refusal),
            }
        }
        self.leave_batch(c, key);
    }

    /// One less is open in a batch; after the last its answers go out.
    fn leave_batch(&mut self, c: &mut Conn, key: u64) {
        let Some(batch) = self.batches.get_mut(&key) else {
            return;
        };
        batch.open -= 1;
        if batch.open > 0 {
            return;
        }
        let parts = std::mem::take(&mut batch.parts);
        self.batches.remove(&key);
        if parts.len() > 1 {
            self.message = parts;
            self.message.push(b']');
            self.deliver(c, None, 200);
        } else if let Proto::Http(_) = c.proto {
            self.accepted(c);
        }
    }
}

/// The client can be told something before the answer.
fn takes_events(c: &Conn) -> bool {
    match &c.proto {
        Proto::Http(http) => http.takes_events,
        Proto::Lines { .. } | Proto::Unknown => true,
    }
}

/// Why no worker has taken a task.
fn no_worker(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::QuotaExceeded => "too many searches under way; try again".into(),
        _ => format!("no thread for it: {}; try again", reason(e)),
    }
}

fn stopping() -> Refusal {
    Refusal::new(STOPPING, "bpm is stopping").status(503)
}

/// The kind of client, as a client of bpm's own names itself.
fn client_kind(params: &Value) -> ClientKind {
    match params.get("client").and_then(Value::as_str) {
        Some("cli") => ClientKind::Cli,
        Some("tui") => ClientKind::Tui,
        Some("proxy") => ClientKind::Proxy,
        _ => ClientKind::Agent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_thread_is_not_taken_for_too_many_searches() {
        let said = |e: io::Error| no_worker(&e);
        let many = said(ErrorKind::QuotaExceeded.into());
        assert_eq!(many, "too many searches under way; try again");
        assert_eq!(
            said(io::Error::from_raw_os_error(libc::EAGAIN)),
            "no thread for it: resource temporarily unavailable; try again"
        );
    }
}
